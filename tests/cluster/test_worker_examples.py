"""The examples with workers: from nothing to a model, and nothing left behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fl_cluster.store.model_files import read_model

pytestmark = [pytest.mark.cluster, pytest.mark.redis]
pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parents[2] / "examples"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts an example in a folder of its own."""
    started: list[subprocess.Popen[str]] = []

    def run(name: str, *arguments: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, str(EXAMPLES / name / "run.py"), *arguments],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def finished(process: subprocess.Popen[str]) -> str:
    """What an example says that ends well."""
    said, _ = process.communicate(timeout=50)
    assert process.returncode == 0, said
    return said


def rounds_of(said: str) -> list[int]:
    return [int(number) for number in re.findall(r"^round +(\d+):", said, re.MULTILINE)]


@pytest.mark.parametrize("method", ["FedAvg", "FedProx", "Scaffold", "FedNova"])
def test_workers_of_two_silos_learn_digits_under_each_method(
    start: Start, tmp_path: Path, method: str
) -> None:
    said = finished(start("cross_silo", "--aggregation", method))

    assert rounds_of(said) == list(range(1, 11))
    found = re.search(r"accuracy on held-out data: ([\d.]+)", said)
    assert found is not None
    assert float(found[1]) >= 0.95
    model = read_model(tmp_path / "fl_data" / "cross_silo" / "model.npz")
    assert model["dense.weight"].shape == (512, 10)
    lines = (tmp_path / "fl_data" / "cross_silo" / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["currentIteration"] for line in lines] == list(range(1, 11))


def test_workers_that_choose_their_own_frequency_learn_digits(start: Start) -> None:
    said = finished(start("cross_silo", "--sync-type", "adaptive", "--workers", "3"))

    assert rounds_of(said) == list(range(1, 11))


def test_devices_with_poor_labels_and_a_worker_with_good_ones_learn_digits(start: Start) -> None:
    said = finished(start("hybrid"))

    assert rounds_of(said) == list(range(1, 13))


@pytest.mark.parametrize("name", ["cross_silo", "hybrid"])
def test_what_has_not_learnt_enough_ends_with_a_code_that_says_so(start: Start, name: str) -> None:
    process = start(name, "--rounds", "1")
    said, _ = process.communicate(timeout=50)

    assert process.returncode == 1, said
    assert "that is less than the 0.9" in said


@pytest.mark.parametrize("name", ["cross_silo", "hybrid"])
def test_an_interrupt_in_the_middle_leaves_no_process(start: Start, name: str) -> None:
    process = start(name, "--rounds", "2000")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round"):
            break
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 5

    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)

    assert process.returncode == 130, said
    assert "stopped; no process is left" in said
    assert [each for each in family if each.is_running()] == []


@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_dies_ends_the_example_with_its_name(start: Start, index: int) -> None:
    process = start("cross_silo", "--rounds", "2000")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round"):
            break
    family = psutil.Process(process.pid).children(recursive=True)
    [worker] = [each for each in family if f"--worker-index={index}" in each.cmdline()]

    worker.kill()
    said, _ = process.communicate(timeout=30)

    assert process.returncode == 1, said
    assert f"worker_{index} ended with exit code -9" in said
    assert [each for each in family if each.is_running()] == []
