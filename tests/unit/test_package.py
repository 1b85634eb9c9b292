"""What the package itself shows, and that showing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fl_cluster

HEAVY = ("aiohttp", "asyncio", "flatbuffers", "numpy", "redis", "uvloop", "yaml")


def loaded_by(statement: str) -> list[str]:
    """Which of the heavy modules a fresh Python has after the statement; and its threads."""
    text = (
        f"import sys, threading; {statement}\n"
        "assert threading.active_count() == 1\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True
    )
    return result.stdout.split()


@pytest.mark.parametrize("name", [each for each in fl_cluster.__all__ if each != "__version__"])
def test_every_name_is_there(name: str) -> None:
    assert name in dir(fl_cluster)
    assert getattr(fl_cluster, name) is getattr(fl_cluster, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fl_cluster' has no attribute 'nothing'"):
        fl_cluster.nothing  # noqa: B018


def test_the_package_alone_loads_nothing() -> None:
    assert loaded_by("import fl_cluster") == []


def test_a_job_loads_no_server_before_it_runs() -> None:
    statement = "from fl_cluster import FLServerJob, FlSchedulerJob, FeatureMap, Callback, log"

    assert loaded_by(statement) == ["numpy"]


def test_a_worker_loads_no_server() -> None:
    text = "import sys, fl_cluster; fl_cluster.FederatedLearningManager\n"
    text += "print([name for name in ('fl_cluster.app.server', 'uvloop') if name in sys.modules])"

    result = subprocess.run([sys.executable, "-c", text], capture_output=True, check=True)

    assert result.stdout == b"[]\n"
