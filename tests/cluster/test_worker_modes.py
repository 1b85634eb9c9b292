"""Workers against real clusters: cross-silo and hybrid, several servers, deaths included."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from fl_cluster import FederatedLearningManager, PushMetrics
from fl_cluster.app import demo_cluster, launch
from fl_cluster.app.demo_cluster import DemoCluster, RunningCluster
from fl_cluster.config.addresses import parse_address
from fl_cluster.config.overrides import variable_of
from fl_cluster.wire import flat
from fl_cluster.wire import messages as m
from fl_cluster.worker.answers import entries_of, weights_of
from fl_cluster.worker.link import HttpLink

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

CONFIG = """
fl_name: Workers
fl_iteration_num: {rounds}
server_mode: {mode}
enable_ssl: false
aggregation: {{aggregation_type: {method}, total_client_num: {total}, iid_rate: 0.5}}
distributed_cache: {{address: embedded}}
round:
  start_fl_job_threshold: {threshold}
  start_fl_job_time_window: {window}
  update_model_ratio: 1.0
  update_model_time_window: {window}
  global_iteration_time_window: 40000
summary: {{metrics_file: {folder}/metrics.json, failure_event_file: {folder}/event.txt}}
cluster: {{data_dir: {folder}/work, lease_ms: 2000}}
{extra}
"""


def float32(*values: float) -> Any:
    return np.array(values, np.float32)


@dataclass
class Job:
    """A running cluster, its file, and what tests ask of it."""

    yaml: str
    folder: Path
    running: RunningCluster
    workers: list[FederatedLearningManager] = field(default_factory=list)
    tls: ssl.SSLContext | None = None

    def manager(
        self, model: dict[str, Any], frequency: int, **arguments: Any
    ) -> FederatedLearningManager:
        made = FederatedLearningManager(self.yaml, model, frequency, **arguments)
        self.workers.append(made)
        return made

    def state(self) -> Any:
        with urllib.request.urlopen(f"http://{self.running.manage_address}/state") as answer:
            return json.load(answer)

    def roles(self) -> list[str]:
        return [node["role"] for node in self.state().get("nodes", [])]

    def metrics(self) -> list[Any]:
        lines = (self.folder / "metrics.json").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def model(self, number: int, server: int = 0) -> dict[str, Any]:
        """What getModel delivers for a round that is over."""
        asked = m.RequestGetModel(fl_name="Workers", iteration=number, timestamp="1")
        found = self.ask(server, "getModel", asked, m.ResponseGetModel)
        assert found.retcode == 200, found
        return dict(weights_of(found.feature_map))

    def ask(self, server: int, name: str, request: Any, kind: type[Any]) -> Any:
        context, address = self.tls, self.running.server_addresses[server]
        link = HttpLink(parse_address(address), tls=None if context is None else lambda: context)
        try:
            return flat.decode(kind, link.post(f"/{name}", flat.encode(request)).body)
        finally:
            link.close()

    def device_uploads(self, weights: Mapping[str, Any], size: int, server: int = 0) -> int:
        """One device takes part in the current round; which one that was."""
        offer = m.RequestFLJob(
            fl_name="Workers", fl_id="device", data_size=size, timestamp=str(time.time_ns())
        )
        until(lambda: self.ask(server, "startFLJob", offer, m.ResponseFLJob).retcode == 200)
        number = self.state_round(server)
        update = m.RequestUpdateModel(
            fl_name="Workers",
            fl_id="device",
            iteration=number,
            feature_map=entries_of(weights),
            timestamp="1",
        )
        assert self.ask(server, "updateModel", update, m.ResponseUpdateModel).retcode == 200
        return number

    def state_round(self, server: int) -> int:
        asked = m.RequestGetModel(fl_name="Workers", iteration=0, timestamp="1")
        return int(self.ask(server, "getModel", asked, m.ResponseGetModel).iteration)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def start_job(
    tmp_path: Path,
    aside: Callable[..., Future[Any]],  # before its threads are waited for, workers must end
) -> Iterator[Callable[..., Job]]:
    """Starts a cluster; its processes and workers are ended after the test."""
    jobs: list[Job] = []

    def start(mode: str, initial: Mapping[str, Any], *, servers: int = 2, **changes: Any) -> Job:
        work = tmp_path / "work"
        work.mkdir()
        path = tmp_path / "job.yaml"
        defaults = {"rounds": 3, "method": "FedAvg", "total": 1, "threshold": 1, "window": 20000}
        defaults["extra"] = ""
        path.write_text(CONFIG.format(**{**defaults, **changes}, mode=mode, folder=tmp_path))
        overrides = {"summary.metrics_file": str(tmp_path / "metrics.json")}
        cluster = DemoCluster(path, initial, servers, tmp_path, work, overrides)
        running = demo_cluster.start(cluster, lambda _: None)
        jobs.append(Job(str(path), tmp_path, running))
        return jobs[-1]

    yield start
    for job in jobs:
        for worker in job.workers:
            worker.close()
        launch.stop([job.running.scheduler, *job.running.servers])


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Runs something in a thread, as programs that train run by themselves."""
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit


MASKED = """
encrypt:
  encrypt_type: STABLE_PW_ENCRYPT
  pw_encrypt:
    share_secrets_ratio: 1.0
    cipher_time_window: 20000
    reconstruct_secrets_threshold: 1
"""


# -- cross-silo ------------------------------------------------------------------------------


def train(
    manager: FederatedLearningManager, model: dict[str, Any], steps: int, by: float
) -> dict[str, Any]:
    """Some steps of a training that moves every weight by as much."""
    for _ in range(steps):
        manager.on_train_step_begin()
        for values in model.values():
            np.add(values, np.float32(by), out=values)
        manager.on_train_step_end()
    return {name: values.copy() for name, values in model.items()}


@pytest.mark.parametrize("extra", ["", MASKED], ids=["plain", "masked"])
def test_two_workers_at_two_servers_train_one_model_for_three_rounds(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]], extra: str
) -> None:
    initial = {"w": float32(1, 2), "b": float32(0)}
    job = start_job("CLOUD_TRAINING", initial, threshold=2, extra=extra)
    sizes, moves, models = (10, 30), (1.0, 2.0), [dict[str, Any](), dict[str, Any]()]

    def work(index: int) -> list[dict[str, Any]]:
        model = models[index] = {name: values.copy() for name, values in initial.items()}
        address = job.running.server_addresses[index]
        manager = job.manager(model, 4, http_server_address=address, data_size=sizes[index])
        return [train(manager, model, 4, moves[index]) for _ in range(3)]

    found = [worker.result(60) for worker in [aside(work, index) for index in (0, 1)]]

    for number in (1, 2, 3):
        # 4 steps of 1 and of 2, by data size: (10 * 4 + 30 * 8) / 40 = 7 a round.
        expected = {name: values + 7 * number for name, values in initial.items()}
        for server in (0, 1):
            delivered = job.model(number, server)
            for name, values in expected.items():
                np.testing.assert_allclose(delivered[name], values, atol=1e-4)
                for models_of in found:
                    np.testing.assert_allclose(models_of[number - 1][name], values, atol=1e-4)
    state = job.state()
    assert state["cluster_state"] == "CLUSTER_FINISH"
    assert job.roles() == ["SERVER", "SERVER"]


def test_after_the_last_round_the_next_exchange_has_nothing_to_load(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    job = start_job("CLOUD_TRAINING", {"w": float32(1)}, servers=1, rounds=1)
    model = {"w": float32(1)}

    def work() -> None:
        address = job.running.server_addresses[0]
        manager = job.manager(model, 2, http_server_address=address)
        train(manager, model, 2, 1)
        manager.on_train_step_begin()
        manager.on_train_step_end()
        manager.on_train_step_begin()
        manager.on_train_step_end()

    with pytest.raises(ValueError, match=r"^Feature map from getting model is empty!$"):
        aside(work).result(30)
    assert model["w"].tolist() == [3]


def test_one_worker_too_many_is_told_so_and_ends(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    job = start_job("CLOUD_TRAINING", {"w": float32(1)}, servers=1)
    managers = [
        aside(
            job.manager, {"w": float32(1)}, 2, http_server_address=job.running.server_addresses[0]
        ).result(10)
        for _ in range(2)
    ]
    managers[0].on_train_step_begin()

    with pytest.raises(
        RuntimeError,
        match=r"^Launching start fl job for worker failed\. Reason: Current amount for startFLJob"
        r" has reached the threshold\. Please startFLJob later\.$",
    ):
        managers[1].on_train_step_begin()


def test_fednova_gives_one_worker_its_own_weights(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    job = start_job("CLOUD_TRAINING", {"w": float32(1, 2)}, servers=1, method="FedNova")
    model = {"w": float32(1, 2)}
    address = job.running.server_addresses[0]
    manager = aside(job.manager, model, 2, http_server_address=address).result(10)

    train(manager, model, 2, 3)

    assert job.model(1)["w"].tolist() == [7, 8]
    assert model["w"].tolist() == [7, 8]


def test_scaffold_hands_controls_from_round_to_round(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    initial = {"w": float32(0, 0), "control.w": float32(0, 0)}
    job = start_job("CLOUD_TRAINING", initial, servers=1, method="Scaffold", total=4)
    model = {"w": float32(0, 0)}
    address = job.running.server_addresses[0]
    manager = aside(job.manager, model, 2, http_server_address=address, learning_rate=0.5).result(
        10
    )

    train(manager, model, 2, 3)
    assert model["w"].tolist() == [6, 6]
    assert "control.w" not in job.model(1)

    # c_local = -6; the cluster's control is -6 / 4.
    train(manager, model, 1, 3)
    np.testing.assert_allclose(model["w"], [9 - 0.5 * 4.5] * 2, atol=1e-5)


def test_an_adaptive_worker_gets_back_how_far_its_weights_came(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    initial = {"w": float32(1, 2), "as_abs_grad.w": float32(0, 0)}
    job = start_job("CLOUD_TRAINING", initial, servers=1)
    model = {"w": float32(1, 2)}
    address = job.running.server_addresses[0]
    manager = aside(
        job.manager, model, 2, http_server_address=address, sync_type="adaptive"
    ).result(10)

    train(manager, model, 2, 3)

    delivered = job.model(1)
    assert delivered["w"].tolist() == [7, 8]
    assert delivered["as_abs_grad.w"].tolist() == [6, 6]


def test_a_cross_silo_worker_survives_the_death_of_its_server(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    job = start_job("CLOUD_TRAINING", {"w": float32(0)}, threshold=2)
    models = [{"w": float32(0)}, {"w": float32(0)}]
    managers = [
        aside(job.manager, model, 1, http_server_address=address).result(10)
        for model, address in zip(models, job.running.server_addresses, strict=True)
    ]
    managers[1].on_train_step_begin()
    waiting = aside(train, managers[0], models[0], 1, 2.0)
    until(lambda: "1 of 2 are counted" in _explanation(job))

    dead = job.running.servers[0]
    os.kill(dead.pid, signal.SIGKILL)
    until(lambda: not dead.is_running())
    restarted = _restart(job, dead)
    models[1]["w"] += 4
    aside(managers[1].on_train_step_end).result(40)

    assert waiting.result(40)["w"].tolist() == models[1]["w"].tolist() == [3]
    launch.stop([restarted])


def test_a_round_that_fails_leaves_the_model_of_the_round_before(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    job = start_job("CLOUD_TRAINING", {"w": float32(5)}, threshold=2, window=1000)
    models = [{"w": float32(1)}, {"w": float32(1)}]
    managers = [
        aside(job.manager, model, 1, http_server_address=address).result(10)
        for model, address in zip(models, job.running.server_addresses, strict=True)
    ]

    # The other one does not come in time.
    assert aside(train, managers[0], models[0], 1, 2.0).result(20)["w"].tolist() == [5]
    both = [
        aside(train, manager, model, 1, by)
        for manager, model, by in zip(managers, models, (2.0, 6.0), strict=True)
    ]

    # (5 + 2) and (1 + 6), averaged, in the second round.
    assert [each.result(20)["w"].tolist() for each in both] == [[7], [7]]
    assert job.model(2)["w"].tolist() == [7]


def _explanation(job: Job) -> str:
    with urllib.request.urlopen(f"http://{job.running.manage_address}/explain") as answer:
        return str(json.load(answer)["message"])


def _restart(job: Job, dead: launch.Started) -> launch.Started:
    options = launch.LaunchOptions(
        job.yaml, log_dir=job.folder / "again", overrides={"cluster.data_dir": f"{job.folder}/work"}
    )
    servers = launch.ServerLaunch(http_address=dead.address)
    [started] = launch.start(
        launch.server_commands(options, servers, lambda _: None),
        patience_s=30,
        tell=lambda _: None,
    )
    return started


# -- hybrid ----------------------------------------------------------------------------------


def hybrid_round(job: Job, manager: FederatedLearningManager, model: dict[str, Any]) -> None:
    """Two steps: what the first one trains is replaced by what the device uploaded."""
    train(manager, model, 2, 1)
    assert PushMetrics().construct(0.1, 0.2)


def test_a_hybrid_worker_retrains_what_a_device_uploads_for_five_rounds(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    job = start_job("HYBRID_TRAINING", {"w": float32(1, 2)}, rounds=5)
    model = {"w": float32(1, 2)}
    manager = aside(job.manager, model, 2).result(20)

    for number in range(1, 6):
        upload = {"w": float32(32 * number, 64 * number)}
        assert job.device_uploads(upload, 32, server=number % 2) == number
        aside(hybrid_round, job, manager, model).result(20)

        expected = [number + 1, 2 * number + 1]
        until(lambda n=number: job.state_round(0) > n and job.state_round(1) > n)
        assert model["w"].tolist() == expected
        for server in (0, 1):
            np.testing.assert_allclose(job.model(number, server)["w"], expected, atol=1e-4)

    lines = job.metrics()
    assert [line["metricsLoss"] for line in lines] == pytest.approx([0.1] * 5)
    assert [line["metricsAuc"] for line in lines] == pytest.approx([0.2] * 5)
    assert job.state()["cluster_state"] == "CLUSTER_FINISH"


def test_a_hybrid_worker_survives_the_death_of_the_server_it_talks_to(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    job = start_job("HYBRID_TRAINING", {"w": float32(1, 2)})
    model = {"w": float32(1, 2)}
    manager = aside(job.manager, model, 2).result(20)
    job.device_uploads({"w": float32(32, 64)}, 32)
    aside(hybrid_round, job, manager, model).result(20)
    until(lambda: job.state_round(1) == 2)

    # The first in the order of ids is the one that the worker talks to.
    first = min(job.running.servers, key=lambda server: str(server.facts["member"]))
    other = 1 - list(job.running.servers).index(first)
    os.kill(first.pid, signal.SIGKILL)
    assert job.device_uploads({"w": float32(320, 640)}, 32, server=other) == 2
    aside(hybrid_round, job, manager, model).result(40)

    until(lambda: job.state_round(other) == 3)
    np.testing.assert_allclose(job.model(2, other)["w"], [11, 21], atol=1e-4)


def redis_of(job: Job) -> psutil.Process:
    [found] = [
        process
        for process in psutil.process_iter(["name", "cmdline", "cwd"])
        if process.info["name"] == "redis-server"
        and str(job.folder)
        in " ".join([*(process.info["cmdline"] or ()), process.info["cwd"] or ""])
    ]
    return found


def test_a_hybrid_worker_survives_a_redis_that_stands_still(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    job = start_job("HYBRID_TRAINING", {"w": float32(1, 2)})
    model = {"w": float32(1, 2)}
    manager = aside(job.manager, model, 2).result(20)
    job.device_uploads({"w": float32(32, 64)}, 32)
    redis = redis_of(job)

    redis.suspend()
    working = aside(hybrid_round, job, manager, model)
    with pytest.raises(TimeoutError):
        working.result(4)  # longer than a lease
    redis.resume()

    working.result(30)
    until(lambda: job.state_round(0) == 2 and "WORKER" in job.roles())
    assert model["w"].tolist() == [2, 3]


PROGRAM = """
import sys, time
import numpy as np
from fl_cluster import FederatedLearningManager
manager = FederatedLearningManager(sys.argv[1], {"w": np.zeros(2, np.float32)}, 2)
print("joined", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_hybrid_worker_is_shown_while_its_process_lives(
    start_job: Callable[..., Job], end: signal.Signals
) -> None:
    job = start_job("HYBRID_TRAINING", {"w": float32(0, 0)}, servers=1)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, job.yaml],
        stdout=subprocess.PIPE,
        env=launch.child_environment(),
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"joined\n"
        worker = job.state()["nodes"][-1]
        assert (worker["role"], worker["tcp_address"]) == ("WORKER", "")
        assert worker["node_id"].startswith("worker_fl_")

        began = time.monotonic()
        program.send_signal(end)
        assert program.wait(10) == -end
        until(lambda: "WORKER" not in job.roles(), 10)
        if end is signal.SIGTERM:
            assert time.monotonic() - began < 2


def train_in_a_child(yaml: str, pipe: Connection) -> None:
    kept.append(FederatedLearningManager(yaml, {"w": float32(0, 0)}, 2))
    pipe.send("joined")
    pipe.recv()


kept: list[FederatedLearningManager] = []
"""What a program holds in its globals is never collected."""


def test_a_hybrid_worker_in_a_forked_child_leaves_when_the_child_ends(
    start_job: Callable[..., Job],
) -> None:
    job = start_job("HYBRID_TRAINING", {"w": float32(0, 0)}, servers=1)
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    child = fork.Process(target=train_in_a_child, args=(job.yaml, theirs))
    child.start()
    assert ours.poll(20)
    assert ours.recv() == "joined"
    assert "WORKER" in job.roles()

    ours.send("end")
    child.join(10)

    assert child.exitcode == 0
    assert "WORKER" not in job.roles()


def test_a_hybrid_worker_leaves_when_it_is_closed(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    job = start_job("HYBRID_TRAINING", {"w": float32(0, 0)}, servers=1)
    manager = aside(job.manager, {"w": float32(0, 0)}, 2).result(20)
    assert "WORKER" in job.roles()

    manager.close()

    assert "WORKER" not in job.roles()
    assert PushMetrics().construct(1.0, 2.0) is True


def test_without_a_job_there_is_nothing_a_hybrid_worker_could_join(
    start_job: Callable[..., Job], aside: Callable[..., Future[Any]], tmp_path: Path
) -> None:
    job = start_job("HYBRID_TRAINING", {"w": float32(0, 0)}, servers=1)
    other = tmp_path / "other.yaml"
    other.write_text(Path(job.yaml).read_text().replace("fl_name: Workers", "fl_name: Nobody"))

    with pytest.raises(RuntimeError, match=r"^Get instance name failed\."):
        aside(FederatedLearningManager, str(other), {"w": float32(0)}, 2).result(20)


# -- TLS -------------------------------------------------------------------------------------


@pytest.fixture
def with_tls(
    certificates: Any, monkeypatch: pytest.MonkeyPatch, start_job: Callable[..., Job]
) -> Callable[..., Job]:
    """Starts a cluster of which every connection has TLS."""

    def start(*arguments: Any, **changes: Any) -> Job:
        for key, value in certificates.settings().items():
            monkeypatch.setenv(variable_of(key), value)
        job = start_job(*arguments, **changes)
        job.tls = ssl.create_default_context(cafile=certificates.path("ca.crt"))
        return job

    return start


def test_a_cross_silo_worker_trains_over_tls(
    with_tls: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    job = with_tls("CLOUD_TRAINING", {"w": float32(1)}, servers=1)
    model = {"w": float32(1)}
    address = job.running.server_addresses[0]
    manager = aside(job.manager, model, 2, http_server_address=address).result(10)

    train(manager, model, 4, 3)

    assert job.model(2)["w"].tolist() == model["w"].tolist() == [13]


def test_a_hybrid_worker_trains_over_tls(
    with_tls: Callable[..., Job], aside: Callable[..., Future[Any]]
) -> None:
    job = with_tls("HYBRID_TRAINING", {"w": float32(1, 2)})
    model = {"w": float32(1, 2)}
    manager = aside(job.manager, model, 2).result(20)
    job.device_uploads({"w": float32(32, 64)}, 32)

    aside(hybrid_round, job, manager, model).result(20)

    until(lambda: job.state_round(0) == 2)
    assert job.model(1)["w"].tolist() == [2, 3]


def test_a_worker_without_its_certificate_is_told_before_it_asks_anybody(
    certificates: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for key, value in certificates.settings().items():
        monkeypatch.setenv(variable_of(key), value)
    (tmp_path / "certs" / "client.crt").unlink()
    path = tmp_path / "job.yaml"
    values = {"rounds": 1, "method": "FedAvg", "total": 1, "threshold": 1, "window": 1, "extra": ""}
    path.write_text(CONFIG.format(mode="CLOUD_TRAINING", folder=tmp_path, **values))

    with pytest.raises(RuntimeError, match=r"client\.crt"):
        FederatedLearningManager(str(path), {"w": float32(1)}, 2, "127.0.0.1:6666")


# -- MindSpore -------------------------------------------------------------------------------

MINDSPORE_PROGRAM = """
import sys
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from fl_cluster import FederatedLearningManager
from fl_cluster.program.hfl_model import HFLModel

mode, yaml, address = sys.argv[1:]
ms.set_context(mode=getattr(ms, mode))
rng = np.random.default_rng(0)
x = rng.normal(size=(16, 3)).astype(np.float32)
data = {"x": x, "y": x @ np.array([[1], [2], [3]], np.float32)}


def train(make_model, callbacks):
    net = nn.Dense(3, 1)
    for item in net.trainable_params():
        item.set_data(Tensor(np.zeros(item.shape, np.float32)))
    optimizer = nn.SGD(net.trainable_params(), learning_rate=0.1)
    callbacks = [make(net) for make in callbacks]
    model = make_model(net, nn.MSELoss(), optimizer)
    batches = ms.dataset.NumpySlicesDataset(data, shuffle=False).batch(4)
    model.train(3, batches, callbacks=callbacks, dataset_sink_mode=False)
    return net.weight.asnumpy().ravel()


alone = train(ms.Model, [])
worker = lambda net: FederatedLearningManager(yaml, net, 4, http_server_address=address)
print(abs(train(HFLModel, [worker]) - alone).max())
"""


@pytest.mark.skipif(find_spec("mindspore") is None, reason="MindSpore is not installed")
@pytest.mark.parametrize("mode", ["GRAPH_MODE", "PYNATIVE_MODE"])
@pytest.mark.parametrize("method", ["FedAvg", "FedProx", "Scaffold", "FedNova"])
def test_a_mindspore_program_trains_with_the_manager_as_its_callback(
    start_job: Callable[..., Job], method: str, mode: str
) -> None:
    initial = {"weight": np.zeros((1, 3), np.float32), "bias": float32(0)}
    job = start_job("CLOUD_TRAINING", initial, servers=1, method=method)
    command = [sys.executable, "-c", MINDSPORE_PROGRAM, mode, job.yaml]

    done = subprocess.run(
        [*command, job.running.server_addresses[0]],
        env=launch.child_environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.returncode == 0, done.stderr
    difference = float(done.stdout.splitlines()[-1])
    # A job of one worker is that worker's own training, but for FedProx's term.
    assert difference < 1e-5 if method != "FedProx" else 1e-4 < difference < 0.1
