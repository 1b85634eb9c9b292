"""Streams whose bytes are known, the published vectors, and the captured messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fl_cluster.wire import flat

DATA = Path(__file__).resolve().parents[1] / "data"


class HashStream:
    """SHA-256 of a label and a counter, one after the other: the vectors' random stream."""

    def __init__(self, label: str) -> None:
        self._label = label.encode()
        self._counter = 0
        self._rest = b""

    def take(self, count: int) -> bytes:
        blocks = [self._rest]
        for _ in range(-(-(count - len(self._rest)) // 32)):
            blocks.append(hashlib.sha256(self._label + self._counter.to_bytes(8, "big")).digest())
            self._counter += 1
        ready = b"".join(blocks)
        self._rest = ready[count:]
        return ready[:count]


@pytest.fixture(scope="session")
def stream() -> Callable[[str], HashStream]:
    return HashStream


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], Any]:
    """One file of vectors, by the last word of its name."""
    return lambda name: json.loads((DATA / "vectors" / f"vectors_{name}.json").read_text())


@pytest.fixture(scope="session")
def floats() -> Callable[[list[str]], npt.NDArray[np.float32]]:
    """Float32 values from their bits in hexadecimal."""
    return lambda bits: np.array([int(each, 16) for each in bits], np.uint32).view(np.float32)


@pytest.fixture(scope="session")
def captured() -> Callable[[str, Any], Any]:
    """A captured message, by the name of its file and its class."""
    return lambda name, cls: flat.decode(cls, (DATA / "golden" / f"{name}.bin").read_bytes())
