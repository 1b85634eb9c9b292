"""The short list of bad days, with fixed seeds: every invariant holds on each of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness.scenarios import SHORT_LIST

RUN = Path(__file__).parent / "run.py"
LONGEST_S = 240.0


@pytest.mark.chaos
@pytest.mark.cluster
@pytest.mark.redis
@pytest.mark.timeout(LONGEST_S + 30.0)
@pytest.mark.parametrize("scenario", [each.name for each in SHORT_LIST])
def test_every_invariant_holds(scenario: str, redis_program: str) -> None:
    run = subprocess.run(
        [sys.executable, str(RUN), "--scenario", scenario],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )

    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-5_000:]
    last = run.stdout.splitlines()[-1]
    assert "lost 0, counted twice 0, stuck 0" in last
