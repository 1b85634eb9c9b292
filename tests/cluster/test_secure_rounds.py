"""Rounds of secure aggregation in a cluster of real processes: devices vanish, servers die.

Whatever happens, the model of each round is, to the bit, the exact mean of the updates that
were counted, as NumPy and the definition have it, and as a plain round of just these devices
would come to.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest

from fl_cluster.app import launch
from fl_cluster.app.launch import LaunchOptions, ServerLaunch, Started
from fl_cluster.store.model_files import write_model
from fl_cluster.wire import messages

sys.path.insert(0, str(Path(__file__).parent))

from secure_device import STEPS, Line, SecureDevice

pytestmark = [pytest.mark.cluster, pytest.mark.redis, pytest.mark.timeout(240)]

ROUNDS = 20
COHORT, GOAL = 12, 9
JOB = "Secure"
SHAPES = {"conv.weight": (6, 1, 5, 5), "fc.bias": (10,), "fc.weight": (10, 64)}

CONFIG = """
fl_name: {job}
fl_iteration_num: 1000
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {{address: "{redis}"}}
round:
  start_fl_job_threshold: {cohort}
  start_fl_job_time_window: 60000
  update_model_ratio: {ratio}
  update_model_time_window: 60000
  global_iteration_time_window: 120000
encrypt:
  encrypt_type: SECURE_AGGREGATION
  secure_aggregation: {{step_window_ms: 60000}}
summary: {{metrics_file: "{folder}/metrics.json", failure_event_file: "{folder}/event.txt"}}
cluster: {{lease_ms: 1000, data_dir: "{folder}/data"}}
"""


def first_weights() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {name: rng.normal(scale=0.2, size=s).astype(np.float32) for name, s in SHAPES.items()}


def trained(name: str, number: int, base: Any) -> dict[str, Any]:
    """What a device makes of a round's model; anybody can compute it again."""
    rng = np.random.default_rng([number, *name.encode()])
    return {
        tensor: values + rng.normal(scale=0.1, size=values.size).astype(np.float32)
        for tensor, values in base.items()
    }


def plain_digest(base: Any, updates: list[tuple[int, Any]]) -> str:
    """SHA-256 of the exact mean of plain updates with their data sizes, by the definition."""
    bound = min(2**51, (2**63 - 1) // COHORT)
    weight = sum(size for size, _ in updates)
    digest = hashlib.sha256()
    for name in sorted(base):
        largest = max(float(np.abs(base[name]).max()), 2.0**-3)
        s = math.floor(math.log2(bound / (largest * 2.0**24)))
        terms = [np.rint(u[name].astype(np.float64) * float(n) * 2.0**s) for n, u in updates]
        sums = np.sum([term.astype(np.int64) for term in terms], axis=0, dtype=np.int64)
        digest.update((sums.astype(np.float64) / (float(weight) * 2.0**s)).astype(np.float32))
    return digest.hexdigest()


@dataclass
class Cluster:
    """Three servers; `start` brings one up again."""

    options: LaunchOptions
    folder: Path
    processes: list[Started] = field(default_factory=list)

    def command(self, port: int) -> list[Any]:
        servers = ServerLaunch(
            http_address=f"127.0.0.1:{port}",
            checkpoint_dir=str(self.folder / "checkpoints"),
            model=str(self.folder / "initial.npz"),
        )
        return launch.server_commands(self.options, servers, lambda _: None)

    def start(self, port: int) -> None:
        self.processes += launch.start(self.command(port), patience_s=30, tell=lambda _: None)

    def kill(self, url: str) -> None:
        """End it without warning."""
        (server,) = (p for p in self.processes if url.endswith(p.address) and p.is_running())
        psutil.Process(server.pid).kill()


@pytest.fixture
def cluster(tmp_path: Path, redis_server: Any, free_port: Any) -> Iterator[Cluster]:
    write_model(tmp_path / "initial.npz", first_weights())
    path, ratio = tmp_path / "job.yaml", GOAL / COHORT
    path.write_text(
        CONFIG.format(
            job=JOB, redis=redis_server.address, cohort=COHORT, ratio=ratio, folder=tmp_path
        )
    )
    cluster = Cluster(LaunchOptions(str(path), tmp_path / "logs"), tmp_path)
    first = free_port(3)
    for port in range(first, first + 3):
        cluster.start(port)
    yield cluster
    launch.stop([process for process in cluster.processes if process.is_running()])


EARLY = (STEPS[:1], STEPS[1:3], STEPS[3:5])
"""At each of these the round bears that one device in twelve is missing."""

LATE = STEPS[5:]
"""Of the nine that are counted, two may vanish before any of these."""


def departures(rng: random.Random, names: list[str]) -> dict[str, str]:
    """Who vanishes before which step: as many as the round can bear, at random places."""
    steps = [rng.choice(choice) for choice in EARLY if rng.random() < 0.7]
    steps += [rng.choice(LATE) for _ in range(rng.randrange(3))]
    return dict(zip(rng.sample(names, len(steps)), steps, strict=True))


@dataclass
class Killer:
    """Kills a server when the `n`th request of a step is about to be made to it."""

    cluster: Cluster
    url: str
    step: str
    n: int
    has_killed: bool = False

    def hear(self, path: str, url: str) -> None:
        if self.has_killed or path != self.step:
            return
        self.n -= url == self.url
        if self.n == 0:
            self.has_killed = True
            # The request is on its way, and may or may not be answered.
            asyncio.get_running_loop().call_later(0.002, self.cluster.kill, self.url)


async def model_of(line: Line, number: int) -> Any:
    asked = messages.RequestGetModel(iteration=number, hold_ms=2_000)
    _, answer = await line.ask("getModel", asked)
    return answer


async def play(devices: list[SecureDevice], gone: dict[str, str]) -> tuple[int, Any]:
    """A round of these devices; its number, and the model that it starts from."""
    await asyncio.gather(*(device.check_in() for device in devices))
    (number,) = {device.admitted.iteration for device in devices}

    async def take_part(device: SecureDevice) -> None:
        def train(base: Any) -> dict[str, Any]:
            return trained(device.name, number, base)

        await device.take_part(train, gone.get(device.name, ""))

    await asyncio.gather(*map(take_part, devices))
    return number, devices[0].base


async def test_each_of_twenty_rounds_is_the_plain_mean_of_the_devices_it_counts(
    cluster: Cluster,
) -> None:
    rng = random.Random(28)
    urls = [f"http://{process.address}" for process in cluster.processes]
    doomed = dict(zip(rng.sample(range(2, ROUNDS), 2), rng.sample(urls, 2), strict=True))
    halves = [STEPS[:5], STEPS[5:]]
    vanished_before: Counter[str] = Counter()
    async with aiohttp.ClientSession() as session:
        line = Line(session, list(urls), random.Random(1))
        devices = [SecureDevice(line, f"device-{n:02}", 1 + 7 * n, JOB) for n in range(COHORT)]
        for played in range(ROUNDS):
            killer = None
            if played in doomed:
                step = rng.choice(halves.pop())
                killer = Killer(cluster, doomed.pop(played), step, rng.randrange(1, 3))
                line.on_ask = killer.hear

            gone = departures(rng, [device.name for device in devices])
            number, base = await play(devices, gone)
            answer = await model_of(line, number)

            story = {device.name: device.stopped_at for device in devices}
            counted = [device for device in devices if device.reported]
            updates = [(d.data_size, trained(d.name, number, base)) for d in counted]
            assert (len(counted), answer.model_round) == (GOAL, number), story
            assert answer.model_digest == plain_digest(base, updates), story
            vanished_before.update(w.split()[0] for w in story.values() if w.endswith("vanished"))
            if killer is not None:
                assert killer.has_killed, killer
                line.urls.remove(killer.url)
                if not doomed:
                    cluster.start(int(killer.url.rpartition(":")[2]))
                    line.urls.append(killer.url)
    # Whoever is slow is left out before it can vanish, so not every place need be met.
    assert len(vanished_before) >= len(STEPS) - 2, vanished_before
