"""`make run`: from nothing to a model, and nothing left behind, however it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fl_cluster.aggregate.model import Model
from fl_cluster.store.model_files import read_model

pytestmark = [pytest.mark.cluster, pytest.mark.redis]
pytest.importorskip("sklearn")

PROGRAM = Path(__file__).parents[2] / "examples" / "digits" / "run.py"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the program in a folder of its own; afterwards no process of it may run."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What the program says up to the first line with this word in it."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if word in line:
            return seen
    raise AssertionError(f"the program ended before it said {word!r}:\n{seen}")


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Scheduler, servers and Redis: every process that the program is responsible for."""
    return psutil.Process(process.pid).children(recursive=True)


def survivors(family: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in family if process.is_running()]


def test_twenty_devices_learn_to_read_digits(
    demo: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = demo()
    output = read_until(process, " 1/15")
    family = family_of(process)
    output += process.communicate(timeout=50)[0]

    assert process.returncode == 0, output
    rounds = re.findall(r"^ *(\d+)/15 +(\d+) +[\d.]+ +([\d.]+) +[\d.]+$", output, re.MULTILINE)
    assert [int(number) for number, _, _ in rounds] == list(range(1, 16))
    assert {int(devices) for _, devices, _ in rounds} == {20}
    accuracy = re.search(r"accuracy on held-out data: ([\d.]+)", output)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.95
    model = Model.from_arrays(read_model(tmp_path / "fl_data/demo/model.npz"))
    assert model.digest[:16] in output
    lines = (tmp_path / "fl_data/demo/metrics.json").read_text("utf-8").splitlines()
    assert [json.loads(line)["iterationResult"] for line in lines] == ["success"] * 15
    assert len(family) == 4
    assert survivors(family) == []


def test_it_can_be_run_again_in_the_same_folder(
    demo: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    outputs = []
    for _ in range(2):
        process = demo("--rounds=2", "--devices=3")
        outputs.append(process.communicate(timeout=50)[0])
        assert process.returncode == 0, outputs[-1]

    digests = [re.findall(r"SHA-256 (\w+)", output) for output in outputs]
    assert digests[0] == digests[1]
    assert len((tmp_path / "fl_data/demo/metrics.json").read_text("utf-8").splitlines()) == 2


def test_the_model_under_masks_has_the_bytes_of_the_plain_one(
    demo: Callable[..., subprocess.Popen[str]],
) -> None:
    digests = []
    for mode in ("plain", "secure"):
        process = demo("--rounds=2", "--devices=6", "--mode", mode)
        output, _ = process.communicate(timeout=50)
        assert process.returncode == 0, output
        digests.append(re.findall(r"SHA-256 (\w+)", output))

    assert digests[0] == digests[1]


def test_devices_with_a_token_each_come_to_the_same_model(
    demo: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    outputs = []
    for options in ([], ["--tokens"]):
        process = demo("--rounds=2", "--devices=3", *options)
        outputs.append(process.communicate(timeout=50)[0])
        assert process.returncode == 0, outputs[-1]

    assert "3 devices train for 2 rounds, each with a token of its own" in outputs[1]
    digests = [re.findall(r"SHA-256 (\w+)", output) for output in outputs]
    assert digests[0] == digests[1]
    logs = [path.read_text() for path in (tmp_path / "fl_data/demo/logs").rglob("*.log")]
    assert any("tokens in force: 3 of devices" in log for log in logs)
    assert not any("flt_" in log for log in logs)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("line", ["scheduler", "1/500", "3/500"])
def test_it_can_be_stopped_at_any_moment(
    line: str, sent: signal.Signals, demo: Callable[..., subprocess.Popen[str]]
) -> None:
    process = demo("--rounds=500")
    read_until(process, line)
    family = family_of(process)

    process.send_signal(sent)
    output, _ = process.communicate(timeout=40)

    assert process.returncode == 130
    assert output.splitlines()[-1] == "stopped; no process is left"
    assert "Traceback" not in output
    assert len(family) == 4
    assert survivors(family) == []


def test_it_says_in_one_sentence_what_is_wrong(
    demo: Callable[..., subprocess.Popen[str]],
) -> None:
    process = demo("--devices=1000")
    output, _ = process.communicate(timeout=40)

    assert process.returncode == 2
    assert output.splitlines()[-1].endswith(
        "--devices: 1000 devices need 10000 images, there are 1438"
    )


def test_it_is_ready_for_ctrl_c_before_it_has_started_anything(
    demo: Callable[..., subprocess.Popen[str]],
) -> None:
    process = demo()
    deadline = time.monotonic() + 10
    while not psutil.Process(process.pid).memory_maps(grouped=True) or not any(
        "umath" in region.path for region in psutil.Process(process.pid).memory_maps()
    ):
        assert time.monotonic() < deadline

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)

    assert process.returncode == 130
    assert output == "stopped\n"


@pytest.mark.parametrize(
    ("mode", "least", "options"),
    [
        ("plain", 0.95, ()),
        ("compressed", 0.95, ()),
        ("dp", 0.9, ()),
        ("signds", 0.93, ()),
        ("central_dp", 0.85, ()),
        ("secure", 0.95, ()),
        # Every pair of devices costs each of them some 15 ms a round.
        ("pw", 0.95, ("--devices=8",)),
    ],
)
def test_each_mode_reaches_its_stated_accuracy(
    demo: Callable[..., subprocess.Popen[str]], mode: str, least: float, options: tuple[str, ...]
) -> None:
    process = demo("--mode", mode, *options)
    output, _ = process.communicate(timeout=90)

    assert process.returncode == 0, output
    found = re.search(r"accuracy on held-out data: ([0-9.]+)", output)
    assert found is not None
    assert float(found[1]) >= least
