"""Lets the tests here import the harness, and knows the mark of what runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos: a whole cluster under faults, some seconds each")
