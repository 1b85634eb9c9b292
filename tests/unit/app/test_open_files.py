"""The limit of open files, in processes of their own: lowering it cannot be taken back."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, logging
logging.basicConfig(level="WARNING", format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from fl_cluster.app.open_files import allow_connections
allow_connections({count})
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "count", "then", "said"),
    [
        (300, 2_000, 1_000, 1_256, ""),
        (1_500, 2_000, 1_000, 1_500, ""),
        (300, 700, 1_000, 700, "the system allows 700 open files"),
    ],
)
def test_as_many_files_are_allowed_as_connections_or_it_says_so(
    soft: int, hard: int, count: int, then: int, said: str
) -> None:
    program = PROGRAM.format(soft=soft, hard=hard, count=count)
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )

    assert int(ran.stdout) == then
    assert said in ran.stderr
    assert bool(said) == bool(ran.stderr)
