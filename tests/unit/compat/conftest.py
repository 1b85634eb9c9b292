"""The original's names in this process, for one test at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from fl_cluster.compat.finder import NAME, PATH_VARIABLE


def forget() -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == NAME]:
        del sys.modules[name]


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Nothing is installed, and whatever is installed is gone after the test."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(PATH_VARIABLE, os.environ.get(PATH_VARIABLE, ""))
    forget()
    yield monkeypatch
    forget()
