"""What operators do to a running cluster: real processes, a real Redis, devices over HTTP."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from fl_cluster.store.model_files import write_model
from fl_cluster.wire import flat, messages
from fl_cluster.wire.messages import ResponseCode

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

Wait = Callable[..., None]
Weights = NDArray[np.float32]
Message = TypeVar("Message", bound=tuple[Any, ...])

INITIAL = np.array([1.0, 2.0, 3.0], np.float32)
DISABLED = b"The server's training job is disabled or finished."
SAFEMODE = b"The cluster is in safemode."
RESTART_S = 2.5
"""How long devices may be turned away after a new run was asked for."""


class Cluster:
    """A scheduler, two servers, and the devices d1 and d2 of 10 samples each."""

    def __init__(self, job: Any, wait_until: Wait) -> None:
        self.job = job
        self.wait_until = wait_until
        self.ports = [job.http_port, job.http_port + 1]
        write_model(job.folder / "initial.npz", {"w": INITIAL})

    def start(self, *, servers: int = 2) -> None:
        assert self.job.run("run_sched.py").returncode == 0
        self.start_servers(servers)

    def start_servers(self, count: int) -> None:
        number = f"--local_server_num={count}"
        assert self.job.run("run_server.py", number, "--model=initial.npz").returncode == 0

    # Operators

    def ask(self, path: str, body: object = None) -> dict[str, Any]:
        """A scheduler's answer, a refusal too."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"http://{self.job.manage}{path}", data, 15) as reply:
                text = reply.read()
        except urllib.error.HTTPError as exc:
            with exc:
                text = exc.read()
        decoded: dict[str, Any] = json.loads(text)
        return decoded

    def tell(self, path: str, body: object = None) -> None:
        answer = self.ask(path, body)
        assert answer["code"] == "0", answer

    def cause(self) -> str:
        cause: str = self.ask("/explain")["cause"]
        return cause

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`fl-cluster ...`, as people type it."""
        name, *rest = words
        return subprocess.run(
            [sys.executable, "-m", "fl_cluster", name, f"--manage={self.job.manage}", *rest],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            cwd=self.job.folder,
        )

    def round_number(self) -> int:
        number: int = self.ask("/state?detail=1")["detail"]["round"]["number"]
        return number

    def metrics(self) -> list[tuple[int, str, str, str]]:
        """Round, result, state and run of each line of the metrics file."""
        lines = (self.job.folder / "metrics.json").read_text().splitlines()
        names = ("currentIteration", "iterationResult", "instanceStatus", "instanceName")
        return [tuple(json.loads(line)[name] for name in names) for line in lines]

    # Devices

    def send(self, path: str, request: Any, port: int | None = None) -> bytes:
        url = f"http://127.0.0.1:{port or self.ports[0]}{path}"
        with urllib.request.urlopen(url, flat.encode(request), 30) as reply:
            answer: bytes = reply.read()
        return answer

    def raw_check_in(self, device: str, port: int | None = None) -> bytes:
        request = messages.RequestFLJob(
            fl_name=self.job.name, fl_id=device, data_size=10, timestamp=str(time.time_ns())
        )
        return self.send("/startFLJob", request, port)

    def check_in(self, device: str, port: int | None = None) -> messages.ResponseFLJob:
        answer = flat.decode(messages.ResponseFLJob, self.raw_check_in(device, port))
        assert answer.retcode == ResponseCode.SUCCEED, answer.reason
        return answer

    def wait_to_check_in(self, device: str) -> messages.ResponseFLJob:
        """Check in as soon as a new run lets devices in."""
        deadline = time.monotonic() + RESTART_S
        while True:
            raw = self.raw_check_in(device)
            if raw not in (DISABLED, SAFEMODE):
                answer = flat.decode(messages.ResponseFLJob, raw)
                if answer.retcode == ResponseCode.SUCCEED:
                    return answer
            assert time.monotonic() < deadline, raw
            time.sleep(0.02)

    def upload(
        self, device: str, number: int, weights: Weights, port: int | None = None
    ) -> messages.ResponseUpdateModel:
        request = messages.RequestUpdateModel(
            fl_name=self.job.name,
            fl_id=device,
            iteration=number,
            feature_map=(messages.FeatureMap(weight_fullname="w", data=10 * weights),),
            timestamp=str(time.time_ns()),
            upload_loss=0.5,
        )
        return flat.decode(messages.ResponseUpdateModel, self.send("/updateModel", request, port))

    def report(self, device: str, number: int, weights: Weights, port: int | None = None) -> None:
        answer = self.upload(device, number, weights, port)
        assert answer.retcode == ResponseCode.SUCCEED, answer.reason

    def model(self, number: int) -> Weights:
        """The model that round `number` ended with, once there is one."""
        request = messages.RequestGetModel(fl_name=self.job.name, iteration=number, timestamp="0")
        deadline = time.monotonic() + 15
        while True:
            answer = flat.decode(messages.ResponseGetModel, self.send("/getModel", request))
            if answer.retcode == ResponseCode.SUCCEED:
                return the_weights(answer)
            assert answer.retcode == ResponseCode.SucNotReady, answer.reason
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def train(self, number: int, *weights: Weights) -> Weights:
        """A whole round of as many devices as there are weights."""
        for index, _ in enumerate(weights, start=1):
            assert self.wait_to_check_in(f"d{index}").iteration == number
        for index, each in enumerate(weights, start=1):
            self.report(f"d{index}", number, each, self.ports[index % 2])
        return self.model(number)


def the_weights(answer: messages.ResponseGetModel | messages.ResponseFLJob) -> Weights:
    assert answer.feature_map is not None
    [entry] = answer.feature_map
    assert entry.data is not None
    return np.array(entry.data)


def plan_of(answer: messages.ResponseFLJob) -> messages.FLPlan:
    assert answer.fl_plan_config is not None
    return answer.fl_plan_config


@pytest.fixture
def cluster(job: Any, wait_until: Wait) -> Cluster:
    cluster = Cluster(job, wait_until)
    cluster.start()
    return cluster


def weights(*values: float) -> Weights:
    return np.array(values, np.float32)


ONE, TWO, MEAN = weights(4, 0, 0), weights(0, 4, 8), weights(2, 2, 4)


def test_disabling_ends_the_round_and_enabling_opens_the_next_from_the_old_weights(
    cluster: Cluster,
) -> None:
    assert the_weights(cluster.check_in("d1")).tolist() == INITIAL.tolist()

    cluster.tell("/disableFLS")
    assert cluster.ask("/state")["cluster_state"] == "CLUSTER_DISABLE"
    cluster.wait_until(
        lambda: [cluster.raw_check_in("d9", port) for port in cluster.ports] == [DISABLED] * 2,
        "both servers refuse devices",
    )
    asked = messages.RequestGetModel(fl_name="Manual", iteration=1, timestamp="0")
    assert cluster.send("/getModel", asked) == DISABLED
    cluster.wait_until(lambda: cluster.round_number() == 2, "round 1 is recorded")
    assert cluster.cause() == "job_disabled"

    cluster.tell("/enableFLS")
    assert cluster.ask("/state")["cluster_state"] == "CLUSTER_READY"
    again = cluster.wait_to_check_in("d1")
    assert again.iteration == 2
    assert the_weights(again).tolist() == INITIAL.tolist()
    cluster.check_in("d2")
    cluster.report("d1", 2, ONE)
    cluster.report("d2", 2, TWO, cluster.ports[1])
    assert cluster.model(2).tolist() == MEAN.tolist()
    results = [line[:3] for line in cluster.metrics()]
    assert results == [(1, "fail", "running"), (2, "success", "running")]


def test_a_new_run_with_another_threshold_aggregates(cluster: Cluster) -> None:
    """The sequence that tools rely on: 2 to 1 and back, weights going on all the time."""
    cluster.check_in("d1")

    cluster.tell("/newInstance", {"start_fl_job_threshold": 1})
    assert cluster.ask("/queryInstance")["result"]["start_fl_job_threshold"] == 1
    first = cluster.wait_to_check_in("d1")
    assert (first.iteration, the_weights(first).tolist()) == (1, INITIAL.tolist())
    cluster.report("d1", 1, ONE)
    assert cluster.model(1).tolist() == ONE.tolist()

    cluster.tell("/newInstance", {"start_fl_job_threshold": 2})
    second = cluster.wait_to_check_in("d1")
    assert (second.iteration, the_weights(second).tolist()) == (1, ONE.tolist())
    cluster.check_in("d2", cluster.ports[1])
    cluster.report("d1", 1, ONE)
    cluster.report("d2", 1, TWO, cluster.ports[1])
    assert cluster.model(1).tolist() == MEAN.tolist()

    cluster.tell("/newInstance", {"client_learning_rate": 0.03})
    third = cluster.wait_to_check_in("d1")
    assert plan_of(third).lr == pytest.approx(0.03)
    assert the_weights(third).tolist() == MEAN.tolist()
    assert cluster.ask("/queryInstance")["result"]["start_fl_job_threshold"] == 2
    runs = [line[3] for line in cluster.metrics()]
    assert [line[:3] for line in cluster.metrics()] == [
        (1, "success", "running"),
        (1, "success", "running"),
        (2, "success", "running"),
        (1, "success", "running"),
        (2, "success", "running"),
    ]
    assert runs[1] == runs[2]
    assert runs[3] == runs[4]
    assert len(set(runs)) == 3


def test_a_finished_job_begins_anew_and_its_weights_go_on(cluster: Cluster) -> None:
    cluster.tell("/newInstance", {"fl_iteration_num": 1, "start_fl_job_threshold": 1})
    assert cluster.train(1, ONE).tolist() == ONE.tolist()
    assert cluster.ask("/state")["cluster_state"] == "CLUSTER_FINISH"
    assert cluster.cause() == "job_finished"
    for path, word in (("/enableFLS", "enabled"), ("/disableFLS", "disabled")):
        sentence = f"The instance is completed and cannot be {word}."
        assert cluster.ask(path)["error_message"] == sentence
    cluster.wait_until(lambda: cluster.raw_check_in("d1") == DISABLED, "devices are sent home")

    cluster.tell("/newInstance", {})
    assert cluster.ask("/state")["cluster_state"] == "CLUSTER_READY"

    again = cluster.wait_to_check_in("d1")
    assert (again.iteration, plan_of(again).iterations) == (1, 1)
    assert the_weights(again).tolist() == ONE.tolist()
    cluster.report("d1", 1, TWO)
    assert cluster.model(1).tolist() == TWO.tolist()
    cluster.wait_until(
        lambda: cluster.ask("/state")["cluster_state"] == "CLUSTER_FINISH", "the run is over"
    )
    assert [line[:3] for line in cluster.metrics()] == [
        (1, "success", "running"),
        (1, "success", "running"),
        (2, "success", "finish"),
        (1, "success", "running"),
    ]


def test_of_two_calls_in_quick_succession_the_second_is_laid_over_the_first(
    cluster: Cluster,
) -> None:
    cluster.tell("/newInstance", {"start_fl_job_threshold": 1, "client_epoch_num": 7})
    cluster.tell("/newInstance", {"client_batch_size": 3})
    result = cluster.ask("/queryInstance")["result"]
    assert (result["start_fl_job_threshold"], result["client_epoch_num"]) == (1, 7)

    answer = cluster.wait_to_check_in("d1")

    plan = plan_of(answer)
    assert (answer.iteration, plan.epochs, plan.mini_batch) == (1, 7, 3)
    cluster.report("d1", 1, ONE)
    assert cluster.model(1).tolist() == ONE.tolist()


def test_a_new_run_that_was_asked_for_without_servers_begins_with_the_first_one(
    cluster: Cluster,
) -> None:
    assert cluster.train(1, ONE, TWO).tolist() == MEAN.tolist()
    for member in cluster.ask("/nodes")["nodes"]:
        if member["role"] == "server":
            psutil.Process(member["pid"]).kill()
    cluster.wait_until(lambda: "nodes" not in cluster.ask("/state"), "no server is listed")
    assert cluster.cause() in ("no_server", "leases_expired")

    cluster.tell("/newInstance", {"start_fl_job_threshold": 1})
    cluster.tell("/disableFLS")
    cluster.tell("/enableFLS")
    assert cluster.ask("/queryInstance")["result"]["start_fl_job_threshold"] == 1
    cluster.start_servers(1)

    answer = cluster.wait_to_check_in("d1")
    assert (answer.iteration, the_weights(answer).tolist()) == (1, MEAN.tolist())
    cluster.report("d1", 1, ONE)
    assert cluster.model(1).tolist() == ONE.tolist()


def test_a_round_that_is_aggregated_is_not_lost_to_a_new_run(cluster: Cluster) -> None:
    cluster.check_in("d1")
    cluster.check_in("d2")
    cluster.report("d1", 1, ONE)
    cluster.report("d2", 1, TWO)
    cluster.tell("/newInstance", {"start_fl_job_threshold": 1})

    answer = cluster.wait_to_check_in("d1")

    assert the_weights(answer).tolist() == MEAN.tolist()
    assert cluster.metrics()[0][:3] == (1, "success", "running")


def test_a_server_that_is_sent_away_in_mid_round_takes_nothing_with_it(cluster: Cluster) -> None:
    nodes = cluster.ask("/nodes")["nodes"]
    servers = {node["http_address"]: node for node in nodes if node["role"] == "server"}
    leaving = servers[f"127.0.0.1:{cluster.ports[1]}"]
    cluster.check_in("d1")
    cluster.check_in("d2")
    cluster.report("d1", 1, ONE, cluster.ports[1])
    refused = cluster.ask("/scalein", {"node_ids": [leaving["id"], "nobody"]})
    assert "Unknown node_ids: nobody" in refused["error_message"]

    cluster.wait_until(
        lambda: cluster.ask("/scalein", {"node_ids": [leaving["id"]]})["code"] == "0",
        "the server is told to drain",
    )

    cluster.wait_until(lambda: not psutil.pid_exists(leaving["pid"]), "the server has ended")
    assert [node["node_id"] for node in cluster.job.nodes()] == [
        node["id"] for node in servers.values() if node is not leaving
    ]
    cluster.report("d2", 1, TWO)
    assert cluster.model(1).tolist() == MEAN.tolist()


def test_the_command_that_scaling_out_shows_adds_a_server_in_mid_round(cluster: Cluster) -> None:
    cluster.check_in("d1")
    cluster.check_in("d2")
    shown = cluster.ask("/scaleout", {"server_num": 1})["commands"]
    [line] = [entry["command"] for entry in shown]
    program, *arguments = shlex.split(line)

    assert program == "fl-cluster"
    started = subprocess.run(
        [sys.executable, "-m", "fl_cluster", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=cluster.job.folder,
    )

    assert f"server 127.0.0.1:{cluster.ports[1] + 1}" in started.stdout
    assert len(cluster.job.nodes()) == 3
    cluster.report("d1", 1, ONE, cluster.ports[1] + 1)
    cluster.report("d2", 1, TWO)
    assert cluster.model(1).tolist() == MEAN.tolist()


def test_a_stall_is_explained_as_it_goes_on(cluster: Cluster) -> None:
    causes = [cluster.cause()]
    cluster.check_in("d1")
    causes.append(cluster.cause())
    cluster.check_in("d2")
    causes.append(cluster.cause())
    cluster.report("d1", 1, ONE)
    half = cluster.ask("/explain")
    cluster.report("d2", 1, TWO)
    cluster.wait_until(lambda: cluster.cause() == "waiting_for_first_device", "round 2 is open")
    after = cluster.ask("/explain")

    assert causes == ["waiting_for_first_device", "waiting_for_devices", "waiting_for_updates"]
    assert (half["cause"], half["have"], half["need"]) == ("waiting_for_updates", 1, 2)
    assert half["until"] == half["since"] + 30_000
    assert after["since"] is not None
    loads = [node["load"] for node in cluster.ask("/nodes")["nodes"] if node["role"] == "server"]
    assert all(load is None or load["resident_bytes"] > 0 for load in loads)
    with urllib.request.urlopen(f"http://{cluster.job.manage}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    assert "\nfl_cluster_round_number 2.0\n" in text
    assert '\nfl_cluster_members{role="server",state="serving"} 2.0\n' in text


def test_everything_can_be_typed(cluster: Cluster) -> None:
    refused = cluster.command("enable")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "The instance has already been enabled.\n"

    disabled = cluster.command("disable")
    assert (disabled.returncode, disabled.stdout) == (0, "start disabling FL-Server successful.\n")
    assert cluster.command("explain").stdout.startswith("job_disabled: The job was disabled; ")
    assert cluster.command("enable").returncode == 0
    changed = cluster.command("new-instance", "start_fl_job_threshold=1")
    assert (changed.returncode, changed.stdout) == (0, "Start new instance successful.\n")
    assert "start_fl_job_threshold           1\n" in cluster.command("query-instance").stdout
    wrong = cluster.command("new-instance", "update_model_ratio=2")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "should be in range of (0,1.0]" in wrong.stderr
    assert cluster.command("nodes").stdout.count("\nserver   127.0.0.1:") == 2
    assert "fl-cluster server --yaml_config=" in cluster.command("scaleout", "2").stdout
    unknown = cluster.command("scalein", "nobody")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    explained = json.loads(cluster.command("explain", "--format=json").stdout)
    assert explained["cause"] == "waiting_for_first_device"
    cluster.job.finish()
    away = cluster.command("explain")
    assert (away.returncode, away.stdout) == (3, "")
    assert away.stderr.startswith(f"no scheduler answers at {cluster.job.manage}: ")
