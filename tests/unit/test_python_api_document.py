"""What docs/python-api.md says is known by a test that exists, and it has every name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fl_cluster
from fl_cluster.compat.absent import VERTICAL_CLASSES, VERTICAL_MODULES

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "python-api.md").read_text("utf-8")
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))
}


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", DOCUMENT))

    assert len(named) > 30
    assert named - TESTS == set()


@pytest.mark.parametrize(
    "name",
    [
        *(each for each in fl_cluster.__all__ if each != "__version__"),
        *VERTICAL_CLASSES,
        *VERTICAL_MODULES,
    ],
)
def test_every_name_has_its_row(name: str) -> None:
    rows = [line for line in DOCUMENT.splitlines() if line.startswith("| ")]

    assert any(re.search(rf"`{name}\b", row) for row in rows)
