"""What the fuzzers have found, and the inputs that reach the most, hold their invariants still.

No fuzzer is needed for it: each tries its seeds and its folder of fuzz/corpus once.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[2] / "fuzz"
TARGETS = sorted(FUZZ.glob("*.py"))
MOST_BYTES = 1_000_000


@pytest.mark.parametrize("target", TARGETS, ids=lambda path: path.stem)
def test_every_known_input_keeps_the_invariant(target: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(target), "--replay"],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.returncode == 0, done.stderr
    assert "the invariant held" in done.stdout


@pytest.mark.parametrize("target", TARGETS, ids=lambda path: path.stem)
def test_the_invariant_of_a_fuzzer_is_its_first_line(target: Path) -> None:
    assert target.read_text().startswith('"""Invariant: ')


def test_the_corpora_stay_small() -> None:
    assert sum(path.stat().st_size for path in FUZZ.glob("corpus/*/*")) < MOST_BYTES
