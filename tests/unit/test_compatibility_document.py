"""What docs/compatibility.md says is known by a test that exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fl_cluster
from fl_cluster.api import cipher_refusals, refusals
from fl_cluster.api.refusals import Refusal
from fl_cluster.config.keys import KEYS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))
}


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
