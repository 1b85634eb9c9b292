"""The published vectors and the captured messages, as the tests of privacy have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fl_cluster.wire import flat

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture(scope="session")
def basic() -> Any:
    return json.loads((DATA / "vectors" / "vectors_basic.json").read_text())


@pytest.fixture(scope="session")
def floats() -> Callable[[list[str]], npt.NDArray[np.float32]]:
    """Float32 values from their bits in hexadecimal."""
    return lambda bits: np.array([int(each, 16) for each in bits], np.uint32).view(np.float32)


@pytest.fixture(scope="session")
def captured() -> Callable[[str, Any], Any]:
    """A captured message, by the name of its file and its class."""
    return lambda name, cls: flat.decode(cls, (DATA / "golden" / f"{name}.bin").read_bytes())
