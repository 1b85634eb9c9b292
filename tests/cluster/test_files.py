"""The files of a job of two servers: metrics, scores, checkpoints, events and data rates."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_cluster.store.model_files import read_model, write_model
from fl_cluster.wire import flat, messages

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

NEWEST = [(3.0, 1.0), (4.0, 2.0), (1.0, 5.0), (2.0, 7.0)]
"""Four devices' data, two in each of two rounds; their score is known."""

ON = [
    "--set=unsupervised.eval_type=DAVIES_BOULDIN_SCORE",
    "--set=unsupervised.cluster_client_num=4",
    "--set=summary.data_rate_dir=rates",
]


class Device:
    """Asks one server as existing devices do."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def _post(self, name: str, message: Any, answer: type[Any]) -> Any:
        with urllib.request.urlopen(f"{self._url}/{name}", flat.encode(message)) as reply:
            return flat.decode(answer, reply.read())

    def check_in(self, device: str) -> Any:
        request = messages.RequestFLJob(
            fl_name="Files", fl_id=device, data_size=10, timestamp="1", eval_data_size=5
        )
        return self._post("startFLJob", request, messages.ResponseFLJob)

    def report(self, device: str, number: int, vector: tuple[float, ...]) -> Any:
        item = messages.UnsupervisedEvalItem("groups", np.array(vector, np.float32))
        request = messages.RequestUpdateModel(
            fl_name="Files",
            fl_id=device,
            iteration=number,
            feature_map=(messages.FeatureMap("w", np.full(2, 20, np.float32)),),
            timestamp="1",
            upload_loss=6.9,
            upload_accuracy=0.8,
            unsupervised_eval_items=messages.UnsupervisedEvalItems((item,)),
        )
        return self._post("updateModel", request, messages.ResponseUpdateModel)

    def model(self, number: int) -> Any:
        request = messages.RequestGetModel(fl_name="Files", iteration=number, timestamp="1")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            answer = self._post("getModel", request, messages.ResponseGetModel)
            if answer.retcode == 200:
                return answer
        raise AssertionError(answer)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_two_servers_account_for_their_job(make_job: Callable[..., Any], redis_server: Any) -> None:
    job = make_job(redis_server.address, "Files")
    write_model(job.folder / "initial.npz", {"w": np.zeros(2, np.float32)})
    first = job.run("run_server.py", "--local_server_num=1", "--model=initial.npz", *ON)
    assert first.returncode == 0, first.stderr
    # This one's file asks for no evaluation, but the job does.
    second = job.run(
        "run_server.py",
        "--local_server_num=1",
        "--model=initial.npz",
        "--set=summary.data_rate_dir=rates/",
        "--set=round.start_fl_job_threshold=7",
    )
    assert second.returncode == 0, second.stderr
    devices = [Device(job.http_port), Device(job.http_port + 1)]

    for number in (1, 2):
        for device in devices:
            admitted = device.check_in(f"d{devices.index(device)}")
            assert (admitted.retcode, admitted.unsupervised_eval_flg) == (200, 1)
        for place, device in enumerate(devices):
            vector = NEWEST[2 * (number - 1) + place]
            assert device.report(f"d{place}", number, vector).retcode == 200
        for device in devices:
            device.model(number)
        # Whoever has the model finds the line and the checkpoint.
        assert [line["currentIteration"] for line in lines(job.folder / "metrics.json")] == (
            list(range(1, number + 1))
        )
    assert job.finish().returncode == 0

    one, two = lines(job.folder / "metrics.json")
    assert (one["metricsLoss"], one["metricsAuc"]) == (6.9, 0.8)
    assert (one["unsupervisedEval"], two["unsupervisedEval"]) == (0.0, 0.37062994)
    assert one["iterationResult"] == "success"
    assert one["clientVisitedInfo"]["participationTimeLevel1"] == 2
    assert one["iterationExecutionTime"] >= 0
    assert (job.folder / "event.txt").read_text("utf-8") == ""
    check_checkpoints(job.folder / "fl_ckpt")
    check_data_rates(job.folder / "rates")


def wait_for_lines(path: Path, count: int) -> list[dict[str, Any]]:
    """The file's lines once there are so many."""
    deadline = time.monotonic() + 20
    while not path.exists() or len(lines(path)) < count:
        assert time.monotonic() < deadline, path
        time.sleep(0.02)
    return lines(path)


def test_failed_rounds_and_a_new_run_are_accounted_for(
    make_job: Callable[..., Any], redis_server: Any
) -> None:
    job = make_job(redis_server.address, "Files")
    assert job.run("run_sched.py").returncode == 0
    started = job.run(
        "run_server.py",
        "--local_server_num=1",
        "--set=round.start_fl_job_time_window=200",
        "--set=summary.continuous_failure_times=2",
    )
    assert started.returncode == 0, started.stderr
    device = Device(job.http_port)

    for number in (1, 2, 3):
        assert device.check_in("d").retcode == 200
        wait_for_lines(job.folder / "metrics.json", number)
    urllib.request.urlopen(f"http://{job.manage}/newInstance", b"{}").close()
    found = wait_for_lines(job.folder / "metrics.json", 4)
    assert job.finish().returncode == 0

    assert [line["currentIteration"] for line in found] == [1, 2, 3, 4]
    assert [line["iterationResult"] for line in found] == ["fail"] * 4
    assert [line["instanceStatus"] for line in found] == ["running"] * 3 + ["finish"]
    assert len({line["instanceName"] for line in found}) == 1
    assert found[3]["startTime"] == found[2]["startTime"]
    assert all(200 <= line["iterationExecutionTime"] < 20_000 for line in found)
    event = (
        r"nodeRole:SERVER,127\.0\.0\.1:\d+,currentTime:\d{4}-\d\d-\d\d "
        r"\d\d:\d\d:\d\d\.\d{3},event:Iteration failed 2 times continuously;\n"
    )
    assert re.fullmatch(event, (job.folder / "event.txt").read_text("utf-8"))


def check_checkpoints(folder: Path) -> None:
    found = sorted(folder.iterdir())
    pattern = r"Files_recovery_iteration_([12])_\d{8}_\d{6}\.ckpt"
    assert [re.fullmatch(pattern, path.name)[1] for path in found] == ["1", "2"]
    for path in found:
        assert path.stat().st_mode & 0o777 == 0o400
        np.testing.assert_array_equal(read_model(path)["w"], np.full(2, 2, np.float32))


def check_data_rates(folder: Path) -> None:
    """Each server's, written when it ended at the latest: all that went through it."""
    found = sorted(folder.iterdir())
    assert len(found) == 2
    for path in found:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d_flow_server127\.0\.0\.1:\d+\.json", path.name)
        rates = lines(path)
        assert all(list(rate) == ["receive", "send", "time"] for rate in rates)
        assert [rate["time"] for rate in rates] == sorted({rate["time"] for rate in rates})
        # Two check-ins, two updates, two models and more, of some 100 to 500 bytes each.
        assert sum(rate["receive"] for rate in rates) > 500
        assert sum(rate["send"] for rate in rates) > 1_000
