"""Hybrid and cloud rounds by plain HTTP, against real processes that are killed in between.

What programs of workers do is in test_worker_modes; here every step is a request of its own,
to a server that the test chooses.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis as redis_client

from fl_cluster.app import launch
from fl_cluster.app.demo_cluster import free_ports
from fl_cluster.app.launch import LaunchOptions, ServerLaunch, Started
from fl_cluster.store.model_files import write_model
from fl_cluster.telemetry.points import VARIABLE, Point
from fl_cluster.wire import flat, messages

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

CONFIG = """
fl_name: Modes
fl_iteration_num: 2
server_mode: {mode}
enable_ssl: false
aggregation: {{aggregation_type: {method}, total_client_num: 4}}
distributed_cache: {{address: "{redis}"}}
round:
  start_fl_job_threshold: {threshold}
  start_fl_job_time_window: 30000
  update_model_ratio: 1.0
  update_model_time_window: 30000
  global_iteration_time_window: 60000
summary: {{metrics_file: "{folder}/metrics.json", failure_event_file: "{folder}/event.txt"}}
cluster: {{lease_ms: 1000, data_dir: "{folder}/data"}}
"""

PATIENCE_S = 20.0
CLOSED = (
    b"The cluster is in safemode.",
    b"The server's training job is disabled or finished.",
)

Tensors = Mapping[str, Sequence[float]]


def entries(tensors: Tensors) -> tuple[messages.FeatureMap, ...]:
    return tuple(
        messages.FeatureMap(name, np.array(values, np.float32)) for name, values in tensors.items()
    )


def tensors_of(answer: Any) -> dict[str, list[float]]:
    return {each.weight_fullname: each.data.tolist() for each in answer.feature_map}


@dataclass
class Cluster:
    """Servers of one job, which a test may start, ask and kill."""

    folder: Path
    initial: Tensors
    redis: str
    servers: list[Started] = field(default_factory=list)

    def start(self, mode: str, method: str = "FedAvg", threshold: int = 1, point: str = "") -> None:
        """Start one more server with this configuration; with a `point` it dies there."""
        number = len(self.servers)
        path = self.folder / f"server{number}.yaml"
        path.write_text(
            CONFIG.format(
                mode=mode,
                method=method,
                threshold=threshold,
                redis=self.redis,
                folder=self.folder,
            )
        )
        model = self.folder / "initial.npz"
        write_model(model, {n: np.array(v, np.float32) for n, v in self.initial.items()})
        [port] = free_ports([0])
        servers = ServerLaunch(http_address=f"127.0.0.1:{port}", model=str(model))
        options = LaunchOptions(str(path), self.folder / f"logs{number}")
        commands = launch.server_commands(options, servers, lambda _: None)
        os.environ[VARIABLE] = point
        try:
            self.servers += launch.start(commands, patience_s=30, tell=lambda _: None)
        finally:
            del os.environ[VARIABLE]

    def post(self, server: int, name: str, request: Any) -> bytes | None:
        """The answer of one server; None when there is none, because it is dead."""
        host, _, port = self.servers[server].address.rpartition(":")
        link = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        try:
            link.request("POST", f"/{name}", flat.encode(request))
            return link.getresponse().read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            link.close()

    def ask(self, server: int, name: str, request: Any, kind: type[Any]) -> Any:
        """What that server answers, or any other when it is dead; asked until one serves."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            order = [server, *(each for each in range(len(self.servers)) if each != server)]
            for each in order:
                body = self.post(each, name, request)
                if body is not None and body not in CLOSED:
                    return flat.decode(kind, body)
            if not any(each.is_running() for each in self.servers):
                self.replace()
            time.sleep(0.02)
        pytest.fail(f"nobody answers {name}\n{self.story()}")

    def replace(self) -> None:
        """All are dead: start another one, with the configuration of the first."""
        text = (self.folder / "server0.yaml").read_text()
        mode = text.partition("server_mode: ")[2].partition("\n")[0]
        self.start(mode)

    def story(self) -> str:
        return "\n".join(each.log.read_text() for each in self.servers if each.log is not None)

    # What devices and workers say

    def check_in(self, server: int, device: str, data_size: int) -> messages.ResponseFLJob:
        request = messages.RequestFLJob(
            fl_name="Modes", fl_id=device, data_size=data_size, timestamp="1"
        )
        found = self.until(lambda: self.ask(server, "startFLJob", request, messages.ResponseFLJob))
        assert isinstance(found, messages.ResponseFLJob)
        return found

    def upload(self, server: int, device: str, number: int, tensors: Tensors) -> None:
        request = messages.RequestUpdateModel(
            fl_name="Modes",
            fl_id=device,
            iteration=number,
            feature_map=entries(tensors),
            timestamp="1",
        )
        found = self.ask(server, "updateModel", request, messages.ResponseUpdateModel)
        assert found.retcode == 200, found

    def get_model(self, server: int, number: int) -> messages.ResponseGetModel:
        request = messages.RequestGetModel(fl_name="Modes", iteration=number, timestamp="1")
        found = self.ask(server, "getModel", request, messages.ResponseGetModel)
        assert isinstance(found, messages.ResponseGetModel)
        return found

    def model(self, server: int, number: int) -> dict[str, list[float]]:
        return tensors_of(self.until(lambda: self.get_model(server, number)))

    def pull(self, server: int, number: int, *names: str) -> dict[str, list[float]]:
        request = messages.RequestPullWeight(number, names)
        kind = messages.ResponsePullWeight
        return tensors_of(self.until(lambda: self.ask(server, "pullWeight", request, kind)))

    def push(self, server: int, number: int, tensors: Tensors) -> str | None:
        request = messages.RequestPushWeight(number, entries(tensors))
        found = self.ask(server, "pushWeight", request, messages.ResponsePushWeight)
        assert found.retcode == 200, found
        assert isinstance(found.reason, str)
        return found.reason

    def push_metrics(self, server: int, loss: float, accuracy: float) -> int:
        request = messages.RequestPushMetrics(loss, accuracy)
        return int(self.ask(server, "pushMetrics", request, messages.ResponsePushMetrics).retcode)

    def until(self, ask: Callable[[], Any]) -> Any:
        """The first answer with code 200."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := ask()).retcode != 200:
            assert time.monotonic() < deadline, (found, self.story())
            time.sleep(0.02)
        return found

    def lines(self) -> list[Any]:
        text = (self.folder / "metrics.json").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def make_cluster(tmp_path: Path, redis_server: Any) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters without servers; whatever runs of them is ended after the test."""
    made: list[Cluster] = []

    def make(**initial: Sequence[float]) -> Cluster:
        folder = tmp_path / f"cluster{len(made)}"
        folder.mkdir()
        made.append(Cluster(folder, initial, redis_server.address))
        return made[-1]

    yield make
    for cluster in made:
        launch.stop([each for each in cluster.servers if each.is_running()])


# -- hybrid ----------------------------------------------------------------------------------


def hybrid_round(cluster: Cluster, number: int, first: int, second: int) -> None:
    """One round: the device and the push at one server, pull and metrics at another."""
    cluster.check_in(first, "device", 4)
    cluster.upload(first, "device", number, {"w": [4.0 * number, 8.0]})
    assert cluster.get_model(second, number).retcode == 201

    unsent = 0.5 if number == 1 else 0.25  # nobody uploads it: it is as the round before left it
    assert cluster.pull(second, number, "w", "b") == {"w": [number, 2.0], "b": [unsent]}
    pushed = {"w": [10.0 + number, 20.0], "b": [0.25]}
    assert cluster.push(first, number, pushed) == "PushWeight succeed."
    finished = f"Model of iteration of {number} has finished"
    assert cluster.push(second, number, {"w": [0.0, 0.0]}) == finished
    for server in (first, second):
        assert cluster.get_model(server, number).retcode == 201
    assert cluster.push_metrics(second, 6.9, 10.1) == 200

    for server in (first, second):
        assert cluster.model(server, number) == pushed
    line = cluster.lines()[-1]
    assert (line["metricsLoss"], line["metricsAuc"]) == (6.9, 10.1)
    assert (line["currentIteration"], line["iterationResult"]) == (number, "success")


@pytest.mark.parametrize("servers", [1, 2])
def test_a_hybrid_job_runs_its_rounds_at_any_server(
    make_cluster: Callable[..., Cluster], servers: int
) -> None:
    cluster = make_cluster(w=[1.0, 2.0], b=[0.5])
    for _ in range(servers):
        cluster.start("HYBRID_TRAINING")
    other = servers - 1

    hybrid_round(cluster, 1, 0, other)
    hybrid_round(cluster, 2, other, 0)

    assert cluster.post(0, "pushMetrics", messages.RequestPushMetrics(1.0, 1.0)) == CLOSED[1]
    assert len(cluster.lines()) == 2


@pytest.mark.parametrize(
    "point",
    [
        f"{Point.AFTER_REPORT_BEFORE_ANSWER}",
        f"{Point.AFTER_LEASE}",
        f"{Point.AFTER_AGGREGATE_BEFORE_HAND_OVER}",
        f"{Point.AFTER_BLOB_BEFORE_PUSH}",
        f"{Point.AFTER_PUSH_BEFORE_ANSWER}",
        f"{Point.AFTER_CONCLUDE_BEFORE_ANSWER}",
        f"{Point.AFTER_LEASE}:2",
        f"{Point.AFTER_AGGREGATE_BEFORE_RECORD}",
        f"{Point.AFTER_RECORD_BEFORE_PUBLISH}",
        f"{Point.AFTER_PUBLISH}",
    ],
)
def test_a_server_killed_at_any_step_costs_nothing(
    make_cluster: Callable[..., Cluster], point: str
) -> None:
    cluster = make_cluster(w=[1.0, 2.0])
    cluster.start("HYBRID_TRAINING", point=point)

    cluster.check_in(0, "device", 4)
    cluster.upload(0, "device", 1, {"w": [4.0, 8.0]})
    assert cluster.pull(0, 1, "w") == {"w": [1.0, 2.0]}
    cluster.push(0, 1, {"w": [10.0, 20.0]})
    assert cluster.push_metrics(0, 6.9, 10.1) == 200

    assert cluster.model(0, 1) == {"w": [10.0, 20.0]}
    assert not cluster.servers[0].is_running(), "it never came to the point"
    [line] = cluster.lines()
    assert (line["metricsLoss"], line["metricsAuc"]) == (6.9, 10.1)
    assert line["iterationResult"] == "success"


def test_a_server_killed_between_the_workers_steps_is_not_missed(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(w=[1.0, 2.0])
    for _ in range(3):
        cluster.start("HYBRID_TRAINING")

    def kill(server: int) -> None:
        os.kill(cluster.servers[server].pid, signal.SIGKILL)

    cluster.check_in(0, "device", 4)
    cluster.upload(0, "device", 1, {"w": [4.0, 8.0]})
    assert cluster.pull(0, 1, "w") == {"w": [1.0, 2.0]}
    kill(0)
    cluster.push(1, 1, {"w": [10.0, 20.0]})
    kill(1)
    assert cluster.push_metrics(2, 6.9, 10.1) == 200

    assert cluster.model(2, 1) == {"w": [10.0, 20.0]}
    assert len(cluster.lines()) == 1


def test_after_redis_was_emptied_the_next_hybrid_round_is_a_whole_one(
    make_cluster: Callable[..., Cluster], redis_server: Any
) -> None:
    cluster = make_cluster(w=[1.0, 2.0])
    for _ in range(2):
        cluster.start("HYBRID_TRAINING")
    cluster.check_in(0, "device", 4)
    cluster.upload(0, "device", 1, {"w": [4.0, 8.0]})
    cluster.pull(0, 1, "w")
    cluster.push(0, 1, {"w": [10.0, 20.0]})

    with redis_client.Redis.from_url(redis_server.url) as client:
        client.flushall()

    assert cluster.check_in(1, "device", 2).iteration == 2
    assert cluster.model(1, 1) == {"w": [1.0, 2.0]}
    cluster.upload(1, "device", 2, {"w": [6.0, 8.0]})
    assert cluster.pull(0, 2, "w") == {"w": [3.0, 4.0]}
    cluster.push(1, 2, {"w": [5.0, 6.0]})
    assert cluster.push_metrics(0, 1.0, 0.5) == 200
    for server in (0, 1):
        assert cluster.model(server, 2) == {"w": [5.0, 6.0]}
    assert [line["iterationResult"] for line in cluster.lines()] == ["fail", "success"]


# -- cloud -----------------------------------------------------------------------------------


def test_fednova_adds_the_steps_of_workers_at_two_servers(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(w=[1.0], v=[5.0])
    cluster.start("CLOUD_TRAINING", "FedNova", threshold=2)
    # The second one's own file says otherwise; the job goes on as it began.
    cluster.start("FEDERATED_LEARNING", "FedAvg", threshold=2)

    for server, steps in enumerate((10, 30)):
        admitted = cluster.check_in(server, f"worker-{server}", steps)
        assert admitted.feature_map == ()
        assert admitted.fl_plan_config is not None
        assert admitted.fl_plan_config.server_mode == "CLOUD_TRAINING"
    for server in (0, 1):
        cluster.upload(server, f"worker-{server}", 1, {"w": [0.1]})

    for server in (0, 1):
        assert cluster.model(server, 1) == {"w": [3.0]}  # v, which nobody sent, is left out
    assert "aggregation_type: this server's file says FedAvg" in cluster.story()


def test_scaffold_hands_controls_out_at_check_in_only(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(w=[0.0, 0.0])
    for _ in range(2):
        cluster.start("CLOUD_TRAINING", "Scaffold", threshold=2)

    for number, control in ((1, [0.0, 0.0]), (2, [2.0, 4.0])):
        for server in (0, 1):
            admitted = cluster.check_in(server, f"worker-{server}", 3)
            assert tensors_of(admitted) == {"control.w": control}
        for server in (0, 1):
            sent = {"w": [3.0 * number, 6.0], "control.w": [4.0, 8.0]}
            cluster.upload(server, f"worker-{server}", number, sent)
        for server in (0, 1):
            assert cluster.model(server, number) == {"w": [number, 2.0]}


def test_in_federated_learning_devices_get_the_weights_and_the_controls(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(w=[1.0])
    cluster.start("FEDERATED_LEARNING", "Scaffold")

    assert tensors_of(cluster.check_in(0, "device", 1)) == {"w": [1.0], "control.w": [0.0]}
    cluster.upload(0, "device", 1, {"w": [2.0]})

    assert cluster.model(0, 1) == {"w": [2.0]}
