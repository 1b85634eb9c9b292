"""Central differential privacy with real servers: same bits after a death, an end in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis as redis_client

from fl_cluster.privacy.accountant import GaussianRelease, Ledger
from fl_cluster.sdk import FederatedDevice, JobResult, RoundPlan, TrainResult
from fl_cluster.store.model_files import write_model
from fl_cluster.telemetry.points import VARIABLE, Point

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

Wait = Callable[..., None]
MULTIPLIER, DELTA = 1.5, float(np.float32(1e-5))
INITIAL = {
    "w": np.linspace(-1, 1, 2_000, dtype=np.float32),
    "b": np.zeros(10, np.float32),
}


def epsilon(rounds: int) -> float:
    return Ledger().after(GaussianRelease(MULTIPLIER), rounds).epsilon(DELTA)


def train(weights: dict[str, Any], plan: RoundPlan) -> TrainResult:
    """Steps that are far longer than the clip norm."""
    rng = np.random.default_rng(plan.round_number)
    moved = {name: v + rng.normal(size=v.shape).astype(np.float32) for name, v in weights.items()}
    return TrainResult(moved, metrics={"loss": 0.5})


class Cluster:
    """A scheduler, servers that are started one by one, and two devices."""

    def __init__(self, job: Any, wait_until: Wait) -> None:
        self.job = job
        self.wait_until = wait_until
        self.results: list[JobResult] = []
        self._threads: list[threading.Thread] = []
        write_model(job.folder / "initial.npz", INITIAL)

    def configure(self, *, rounds: int, budget: float = 0.0) -> None:
        file = self.job.folder / "job.yaml"
        text = file.read_text().replace("fl_iteration_num: 3", f"fl_iteration_num: {rounds}")
        noise = {
            "noise": "central",
            "clip_norm": 0.5,
            "noise_multiplier": MULTIPLIER,
            "epsilon_budget": budget,
        }
        file.write_text(f"{text}privacy: {json.dumps(noise)}\n")

    def start_scheduler(self) -> None:
        assert self.job.run("run_sched.py").returncode == 0

    def start_server(self, number: int, point: str = "") -> subprocess.Popen[str]:
        """One server, which may end itself at a point."""
        log = (self.job.folder / f"server{number}.log").open("w")
        command = self.job.command(
            "run_server.py",
            "--foreground",
            "--local_server_num=1",
            "--model=initial.npz",
            f"--http_server_address={self.address(number)}",
        )
        process = subprocess.Popen(
            command,
            cwd=self.job.folder,
            env=os.environ | {VARIABLE: point},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log.close()
        self.job.foreground.append(process)
        self.wait_until(lambda: "serving devices" in self.log(number), "the server serves")
        return process

    def address(self, number: int) -> str:
        return f"127.0.0.1:{self.job.http_port + number}"

    def log(self, number: int) -> str:
        return (self.job.folder / f"server{number}.log").read_text()

    def start_devices(self) -> None:
        urls = [f"http://{self.address(number)}" for number in range(2)]
        for name, size in (("d1", 10), ("d2", 3_000)):
            device = FederatedDevice(
                urls, device_id=name, train=train, data_size=size, patience_s=40
            )
            thread = threading.Thread(
                target=lambda d=device: self.results.append(d.run_sync()), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def join_devices(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def ask(self, path: str, body: bytes | None = None) -> Any:
        """The scheduler's answer, a refusal too."""
        try:
            with urllib.request.urlopen(f"http://{self.job.manage}{path}", body, 15) as reply:
                text = reply.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                text = exc.read().decode()
        return text if path == "/metrics" else json.loads(text)

    def lines(self) -> list[dict[str, Any]]:
        text = (self.job.folder / "metrics.json").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def figure(self, name: str) -> float:
        [line] = [line for line in self.ask("/metrics").splitlines() if line.startswith(f"{name} ")]
        return float(line.split()[1])


@pytest.fixture
def cluster(job: Any, wait_until: Wait) -> Cluster:
    return Cluster(job, wait_until)


def test_whoever_takes_over_from_a_killed_finisher_publishes_the_same_bits(
    cluster: Cluster, redis_server: Any
) -> None:
    cluster.configure(rounds=3)
    cluster.start_scheduler()
    victim = cluster.start_server(0, f"{Point.AFTER_AGGREGATE_BEFORE_RECORD}:kill")
    cluster.start_devices()
    assert victim.wait(30) == -signal.SIGKILL
    client = redis_client.Redis(port=redis_server.port)
    [blob] = [key for key in client.keys("fl:blob:*") if b":model-1.1@" in key]
    [noise] = client.keys("*:noise")
    seed = client.get(noise)

    cluster.start_server(1)
    cluster.wait_until(
        lambda: cluster.ask("/state?detail=1")["detail"]["round"]["number"] > 1, "round 2"
    )

    assert client.exists(blob)
    record = json.loads(client.hget("fl:{Manual}:models", 1))
    assert f":{record['blob']}}}".encode() in blob
    cluster.join_devices()
    assert [result.final_round for result in cluster.results] == [3, 3]
    assert client.hgetall("fl:{Manual}:charges") == {b"central 1.5": b"3"}
    assert [line["privacyEpsilon"] for line in cluster.lines()] == [epsilon(n) for n in (1, 2, 3)]
    assert len(seed) == 32
    for log in (cluster.log(0), cluster.log(1)):
        assert seed.hex() not in log
        assert repr(seed)[2:-1] not in log


def test_the_job_ends_when_its_budget_is_spent_and_everybody_can_see_it(
    cluster: Cluster, redis_server: Any
) -> None:
    cluster.configure(rounds=50, budget=epsilon(2) + 0.01)
    cluster.start_scheduler()
    servers = [cluster.start_server(number) for number in range(2)]
    cluster.start_devices()
    cluster.join_devices()

    assert [result.final_round for result in cluster.results] == [2, 2]
    state = cluster.ask("/state")
    assert state["cluster_state"] == "CLUSTER_FINISH"
    assert state["privacy"] == {
        "clip_norm": 0.5,
        "delta": DELTA,
        "epsilon": epsilon(2),
        "epsilon_budget": float(np.float32(epsilon(2) + 0.01)),
        "is_over": True,
        "noise": "central",
        "noise_multiplier": MULTIPLIER,
        "rounds": 2,
    }
    assert cluster.ask("/queryInstance")["privacy"] == state["privacy"]
    explained = cluster.ask("/explain")
    assert explained["cause"] == "privacy_budget_spent"
    assert "The job ended after round 2 of 50" in explained["message"]
    assert cluster.figure("fl_cluster_privacy_epsilon") == epsilon(2)
    refused = cluster.ask("/newInstance", b"{}")
    assert "exceed the privacy budget of the job" in str(refused), refused
    logs = cluster.log(0) + cluster.log(1)
    assert "the job ends here: another round would exceed the privacy budget" in logs
    _, last = cluster.lines()
    assert (last["privacyRounds"], last["privacyEpsilon"]) == (2, epsilon(2))

    for server in servers:
        server.terminate()
        server.wait(20)
    redis_client.Redis(port=redis_server.port).flushall()
    cluster.start_server(0)

    cluster.wait_until(
        lambda: cluster.ask("/state").get("cluster_state") == "CLUSTER_FINISH", "the end"
    )
    assert cluster.ask("/state")["privacy"]["rounds"] == 2
    kept = Path(cluster.job.folder / "fl_ckpt" / "Manual_privacy.json").read_text()
    assert json.loads(kept) == {"central 1.5": 2}


def test_a_budget_that_allows_no_round_is_said_at_the_start(cluster: Cluster) -> None:
    cluster.configure(rounds=5, budget=0.5)

    done = cluster.job.run("run_server.py", "--local_server_num=1", "--model=initial.npz")

    assert done.returncode == 2
    assert "privacy.epsilon_budget is 0.5, and a single round costs" in done.stdout + done.stderr


def test_noise_that_devices_would_leave_out_is_said_at_the_start(cluster: Cluster) -> None:
    file = cluster.job.folder / "job.yaml"
    encrypt = {"encrypt_type": "DP_ENCRYPT", "dp_encrypt": {"dp_eps": 1e-40, "dp_delta": 0.01}}
    file.write_text(
        f"{file.read_text()}encrypt: {json.dumps(encrypt)}\n".replace("1e-40", "1.0e-40")
    )

    done = cluster.job.run("run_server.py", "--local_server_num=1", "--model=initial.npz")

    assert done.returncode == 2
    assert "what the noise of this job costs cannot be told: expected a noise" in (
        done.stdout + done.stderr
    )
