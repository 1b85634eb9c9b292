"""What docs/compatibility.md says is known by a test that exists."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fl_cluster
from fl_cluster.api import cipher_refusals, refusals
from fl_cluster.api.refusals import Refusal
from fl_cluster.config.keys import KEYS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
FILES = {
    name: file
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))
}
TESTS = set(FILES)


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", DOCUMENT))

    assert len(named) > 50
    assert named - TESTS == set()


def test_the_tables_of_keys_and_names_are_up_to_date() -> None:
    tool = ROOT / "tools" / "document_compatibility.py"

    outcome = subprocess.run([sys.executable, str(tool), "--check"], check=False)

    assert outcome.returncode == 0, "run tools/document_compatibility.py"


def test_every_key_has_its_row() -> None:
    rows = set(re.findall(r"^\| `([\w.]+)` \|", DOCUMENT, re.MULTILINE))

    assert set(KEYS) <= rows


@pytest.mark.parametrize("path", sorted(KEYS))
def test_a_test_that_shows_a_key_stands_where_the_key_is_used(path: str) -> None:
    (row,) = re.findall(rf"^\| `{re.escape(path)}` \|.*$", DOCUMENT, re.MULTILINE)
    key = KEYS[path]

    files = {FILES[name] for name in re.findall(r"`(test_\w+)`", row)}

    assert any(
        re.search(rf"\b({key.name}|{key.attribute or key.name})\b", text)
        for file in files
        for text in (file.read_text("utf-8"), *_helpers(file))
    )


def _helpers(file: Path) -> Iterator[str]:
    near = file.parent / "conftest.py"
    if near.exists():
        yield near.read_text("utf-8")


def test_every_difference_has_its_test() -> None:
    section = DOCUMENT.partition("\n## What differs, and why\n")[2]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]

    assert len(rows) > 40
    for row in rows:
        what, there, here, why, test = row.removeprefix("| ").removesuffix(" |").split(" | ")
        assert all((what, there, here, why)), row
        assert re.search(r"`test_\w+`", test), row


@pytest.mark.parametrize("name", sorted(set(fl_cluster.__all__) - {"__version__"}))
def test_every_name_of_the_package_is_in_the_tables(name: str) -> None:
    section = DOCUMENT.partition("\n## Python\n")[2].partition("\n## ")[0]

    assert re.search(rf"`{name}\b", section)


def test_every_sentence_that_existing_devices_are_told_is_there() -> None:
    shown = re.sub(r"\{\w+\}", "{}", DOCUMENT)
    for refusal in (
        *(each for each in vars(refusals).values() if isinstance(each, Refusal)),
        *(each for each in vars(cipher_refusals).values() if isinstance(each, Refusal)),
        *refusals.CHECK_IN.values(),
        *refusals.REPORT.values(),
    ):
        sentence = re.sub(r"\{\w+\}", "{}", refusal.text.partition(" Maybe this")[0])
        assert sentence in shown or refusal is refusals.NOT_NOW


def test_the_record_is_as_long_as_is_said() -> None:
    record = ROOT / "tests" / "data" / "observed" / "device.jsonl"

    count = len(record.read_text("utf-8").splitlines())

    assert f"holds {count} answers" in DOCUMENT
