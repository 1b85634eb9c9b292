"""Every way Redis can misbehave, under one running cluster that survives all of them.

Each test brings a round to the point where one device's update is acknowledged and the
other's is not, lets Redis misbehave, watches what devices are told meanwhile, and lets it be
well again: the round then ends by itself with both updates in it, once each, under the number
it had, and the logs say in one sentence what it was.
docs/redis-faults.md has the same as a table.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import redis as redis_client

from fl_cluster.app import launch
from fl_cluster.app.demo import free_ports
from fl_cluster.app.launch import LaunchOptions, ServerLaunch, Started
from fl_cluster.store.model_files import write_model
from fl_cluster.wire import flat, messages, packed

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

CONFIG = """
fl_name: Faults
fl_iteration_num: 1000
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {{address: "{redis}"}}
round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 60000
  update_model_ratio: 1.0
  update_model_time_window: 60000
  global_iteration_time_window: 120000
summary: {{metrics_file: metrics.json, failure_event_file: event.txt}}
cluster: {{lease_ms: 10000, redis_timeout_ms: 2000}}
"""

SIZES = {"first": 3, "second": 1, "late": 1}
INITIAL = np.arange(8, dtype=np.float32)

NOTICED_S = 4.0
"""By then every server refuses; it is promised after three seconds on a machine that is idle."""

RESUMED_S = 4.0
"""By then the round has ended; it is promised within two seconds on a machine that is idle."""

SAFEMODE = b"The cluster is in safemode."
AGAIN = "Redis serves this process again"


WELL = (
    ("CONFIG", "SET", "requirepass", ""),
    ("CONFIG", "SET", "maxmemory", 0),
    ("CONFIG", "SET", "maxclients", 10_000),
    ("CONFIG", "SET", "save", ""),
    ("REPLICAOF", "NO", "ONE"),
)


@dataclass
class Cluster:
    """A scheduler and two servers on a Redis with an append-only file."""

    folder: Path
    redis: Any
    processes: list[Started]
    marks: dict[Path, int] = field(default_factory=dict)

    @property
    def urls(self) -> list[str]:
        return [f"http://{server.address}" for server in self.processes[1:]]

    @property
    def logs(self) -> list[Path]:
        return [process.log for process in self.processes if process.log is not None]

    def admin(self) -> redis_client.Redis:
        """A client of our own; the caller closes it."""
        return redis_client.Redis(port=self.redis.port, socket_timeout=5, protocol=2)

    def command(self, *words: str | int) -> Any:
        with self.admin() as admin:
            return admin.execute_command(*words)

    def heal(self) -> None:
        """Undo what a test that failed has left behind."""
        if not self.redis.is_running():
            self.redis.start()
        os.kill(self.redis.pid, signal.SIGCONT)
        self.redis.wait_until(self.redis.answers)
        for password in (None, "another"):
            admin = redis_client.Redis(port=self.redis.port, password=password)
            with admin, contextlib.suppress(redis_client.AuthenticationError):
                for words in WELL:
                    admin.execute_command(*words)

    def unfill(self) -> None:
        """Give Redis less to read again."""
        with redis_client.Redis(port=self.redis.port, db=9) as admin:
            admin.flushdb()
            admin.execute_command("BGREWRITEAOF")
            self.redis.wait_until(
                lambda: (
                    not admin.info("persistence")["aof_rewrite_in_progress"]
                    and not admin.info("persistence")["aof_rewrite_scheduled"]
                )
            )

    def fill(self, count: int) -> None:
        """Give Redis something to read when it starts."""
        with redis_client.Redis(port=self.redis.port, db=9) as admin:
            pipeline = admin.pipeline(transaction=False)
            for number in range(count):
                pipeline.set(f"key-{number}", number)
            pipeline.execute()

    def mark(self) -> None:
        """Look at what is logged from now on."""
        self.marks = {log: log.stat().st_size for log in self.logs}

    def logged(self, log: Path) -> str:
        return log.read_bytes()[self.marks[log] :].decode()

    def everything_logged(self) -> str:
        return "\n".join(self.logged(log) for log in self.logs)


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, run_redis: Callable[..., Any]
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("faults")
    write_model(folder / "initial.npz", {"w": INITIAL})
    redis = run_redis("--appendonly", "yes", "--lua-time-limit", "50", "--key-load-delay", "50")
    (folder / "job.yaml").write_text(CONFIG.format(redis=redis.address))
    manage, *ports = free_ports([0, 0, 0])
    overrides = {
        "summary.metrics_file": str(folder / "metrics.json"),
        "summary.failure_event_file": str(folder / "event.txt"),
    }
    options = LaunchOptions(str(folder / "job.yaml"), folder / "logs", overrides=overrides)
    commands = [launch.scheduler_command(options, f"127.0.0.1:{manage}")]
    for port in ports:
        servers = ServerLaunch(
            http_address=f"127.0.0.1:{port}",
            checkpoint_dir=str(folder / "checkpoints"),
            model=str(folder / "initial.npz"),
        )
        commands += launch.server_commands(options, servers, lambda _: None)
    started: list[Started] = []
    try:
        started = launch.start(commands, patience_s=30, tell=lambda _: None)
        yield Cluster(folder, redis, started)
    finally:
        launch.stop(started)
        redis.remove()


@dataclass(frozen=True)
class Said:
    """An answer to a device."""

    status: int
    message: Any


class Devices:
    """Two devices that take part, and one that comes too late, by plain HTTP."""

    def __init__(self, cluster: Cluster, session: aiohttp.ClientSession) -> None:
        self._cluster = cluster
        self._session = session
        self.number = 0
        self.base = INITIAL

    async def _post(self, server: int, path: str, request: Any, answer: type[Any]) -> Said:
        headers = {"Content-Type": "application/msgpack"}
        url = f"{self._cluster.urls[server]}/{path}"
        body = packed.encode(request)
        async with self._session.post(url, data=body, headers=headers) as reply:
            return Said(reply.status, packed.decode(answer, await reply.read()))

    async def check_in(self, name: str, server: int) -> Said:
        request = messages.RequestFLJob(
            fl_name="Faults", fl_id=name, data_size=SIZES[name], timestamp="1"
        )
        return await self._post(server, "startFLJob", request, messages.ResponseFLJob)

    async def check_in_as_of_old(self, name: str, server: int) -> bytes:
        request = messages.RequestFLJob(
            fl_name="Faults", fl_id=name, data_size=SIZES[name], timestamp="1"
        )
        url = f"{self._cluster.urls[server]}/startFLJob"
        async with self._session.post(url, data=flat.encode(request)) as reply:
            assert reply.status == 200
            return await reply.read()

    def trained(self, name: str) -> Any:
        """What the device has learnt in this round."""
        seed = self.number * 100 + SIZES[name]
        return self.base + np.random.default_rng(seed).normal(size=8).astype(np.float32)

    async def upload(self, name: str, server: int) -> Said:
        weights = messages.FeatureMap(weight_fullname="w", data=self.trained(name))
        request = messages.RequestUpdateModel(
            fl_name="Faults",
            fl_id=name,
            iteration=self.number,
            feature_map=(weights,),
            timestamp="1",
            plain_weights=True,
        )
        return await self._post(server, "updateModel", request, messages.ResponseUpdateModel)

    async def get_model(self, number: int, server: int, hold_ms: int = 0) -> Said:
        request = messages.RequestGetModel(
            fl_name="Faults", iteration=number, timestamp="1", hold_ms=hold_ms
        )
        return await self._post(server, "getModel", request, messages.ResponseGetModel)

    async def open_round(self) -> None:
        """Both are admitted, and the first one's update is acknowledged."""
        for server, name in enumerate(("first", "second")):
            said = await patiently(lambda s=server, n=name: self.check_in(n, s))
            self.number = said.message.iteration
            self.base = np.asarray(said.message.feature_map[0].data)
        said = await self.upload("first", 0)
        assert (said.status, said.message.receipt.position) == (200, 1)

    async def close_round(self) -> None:
        """The second one's update ends the round, with both in its model."""
        said = await patiently(lambda: self.upload("second", 1))
        assert said.message.receipt.round == self.number
        assert said.message.receipt.position == 2
        await self.see_model()

    async def see_model(self) -> None:
        """Every server hands out the model of exactly the two updates."""
        shares = [SIZES[name] * self.trained(name).astype(np.float64) for name in ROLES]
        mean = sum(shares) / sum(SIZES[name] for name in ROLES)
        for server in range(2):
            said = await patiently(lambda s=server: self.get_model(self.number, s, hold_ms=1_000))
            assert said.message.model_round == self.number
            assert said.message.iteration == self.number + 1
            found = np.asarray(said.message.feature_map[0].data)
            np.testing.assert_allclose(found, mean, rtol=1e-5)


ROLES = ("first", "second")


async def patiently(ask: Callable[[], Awaitable[Said]], timeout_s: float = 20.0) -> Said:
    """The answer of a device that comes again until it is served, as devices do."""
    deadline = time.monotonic() + timeout_s
    while (said := await ask()).status != 200:
        assert time.monotonic() < deadline, said
        assert said.status in (202, 429, 503), said
        await asyncio.sleep(0.05)
    return said


@pytest.fixture
async def devices(cluster: Cluster) -> AsyncIterator[Devices]:
    async with aiohttp.ClientSession() as session:
        devices = Devices(cluster, session)
        await devices.open_round()
        cluster.mark()
        yield devices
        await asyncio.to_thread(cluster.heal)


async def refused_everywhere(devices: Devices) -> None:
    """Nothing but reading is served, nothing is acknowledged, and devices are told to come back."""
    for server in range(2):
        for said in (
            await devices.check_in("late", server),
            await devices.upload("second", server),
        ):
            assert (said.status, said.message.verdict) == (503, "unavailable"), said
            assert said.message.retry_after_ms > 0
        assert await devices.check_in_as_of_old("late", server) == SAFEMODE
        read = await devices.get_model(devices.number - 1, server)
        assert (read.status, read.message.model_round) == (200, devices.number - 1)


async def until_refused(devices: Devices, cluster: Cluster) -> None:
    """Return when every server knows, and refuses devices at once."""
    deadline = time.monotonic() + NOTICED_S
    while not all(" ERROR " in cluster.logged(log) for log in cluster.logs[1:]):
        assert time.monotonic() < deadline, cluster.everything_logged()
        await asyncio.sleep(0.02)
    began = time.monotonic()
    await refused_everywhere(devices)
    assert time.monotonic() - began < 1.0


async def resumes(devices: Devices, cluster: Cluster) -> None:
    """The round ends soon, and all is as if nothing had been."""
    began = time.monotonic()
    await devices.close_round()
    assert time.monotonic() - began < RESUMED_S, cluster.everything_logged()
    assert all(process.is_running() for process in cluster.processes), cluster.everything_logged()


def sentences(cluster: Cluster, log: Path) -> list[str]:
    """What a process had to say to whoever runs it; no sentence twice, and no traceback."""
    text = cluster.logged(log)
    assert "Traceback" not in text, text
    lines = re.findall(r" (?:WARNING|ERROR|CRITICAL) fl_cluster\[\d+\] [\w.]+: (.*)", text)
    beginnings = [re.sub(r"\d+", "#", line.partition(" (")[0]) for line in lines]
    assert len(beginnings) == len(set(beginnings)), text
    return lines


async def told(cluster: Cluster, *beginnings: str) -> None:
    """Each server says once what the matter is, in this order, and that it is over.

    The scheduler, which asks less often, may not have noticed.
    """
    deadline = time.monotonic() + RESUMED_S
    scheduler, *servers = cluster.logs
    while not all(AGAIN in cluster.logged(log) for log in servers):
        assert time.monotonic() < deadline, cluster.everything_logged()
        await asyncio.sleep(0.02)
    for log in cluster.logs:
        lines = [line for line in sentences(cluster, log) if line.startswith(("Redis", "What"))]
        said = [line.partition(" (")[0].partition(",")[0] for line in lines]
        if log is scheduler:
            assert said == [words for words in (*beginnings, AGAIN) if words in said]
        else:
            assert said == [*beginnings, AGAIN], cluster.logged(log)


UNREACHABLE = "Redis does not answer"
LOADING = "Redis is starting and still reads its data"
FULL = "Redis has reached its maxmemory and takes no writes"
REPLICA = "Redis is a read-only replica: it answers and takes no writes"
DISK = "Redis cannot write to its disk and therefore takes no writes"
FORBIDDEN = "Redis does not accept this user or its password"
BUSY = "Redis is busy with a script that does not end"
LOST = "Redis has lost what it held of this job"


async def test_one_that_is_stopped_for_five_seconds(cluster: Cluster, devices: Devices) -> None:
    os.kill(cluster.redis.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        early = asyncio.create_task(devices.upload("second", 1))
        await until_refused(devices, cluster)
        await asyncio.sleep(5.0 - (time.monotonic() - began))
        await refused_everywhere(devices)
    finally:
        os.kill(cluster.redis.pid, signal.SIGCONT)

    await resumes(devices, cluster)
    assert (await early).status in (200, 503)
    await told(cluster, UNREACHABLE)


async def test_one_that_is_killed_and_comes_back_with_its_file(
    cluster: Cluster, devices: Devices
) -> None:
    cluster.redis.kill()
    await until_refused(devices, cluster)
    await asyncio.to_thread(cluster.redis.start)

    await resumes(devices, cluster)
    await told(cluster, UNREACHABLE)


async def test_one_that_reads_much_data_when_it_comes_back(
    cluster: Cluster, devices: Devices
) -> None:
    await asyncio.to_thread(cluster.fill, 24_000)
    cluster.redis.kill()
    await until_refused(devices, cluster)
    cluster.redis.start(answers=cluster.redis.is_listening)
    await refused_everywhere(devices)
    await asyncio.to_thread(cluster.redis.wait_until, cluster.redis.answers)

    await resumes(devices, cluster)
    await told(cluster, UNREACHABLE, LOADING)
    await asyncio.to_thread(cluster.unfill)


async def test_one_that_comes_back_empty(cluster: Cluster, devices: Devices) -> None:
    """The round is tried again, from the same model, and whoever was in it can be in it again."""
    number, base = devices.number, devices.base
    cluster.redis.kill()
    shutil.rmtree(cluster.redis.folder / "appendonlydir")
    await until_refused(devices, cluster)
    await asyncio.to_thread(cluster.redis.start)

    began = time.monotonic()
    await devices.open_round()
    assert time.monotonic() - began < 5.0
    assert devices.number == number
    np.testing.assert_array_equal(devices.base, base)
    ref = cluster.command("HGET", "fl:{Faults}:round", "ref").decode()
    assert ref.startswith(f"{number}.2@")
    await devices.close_round()
    await told(cluster, UNREACHABLE, LOST)
    assert (await devices.get_model(number - 1, 0)).message.model_round == number - 1


async def test_one_that_is_emptied_while_it_runs(cluster: Cluster, devices: Devices) -> None:
    number = devices.number
    cluster.command("FLUSHALL")

    await patiently(lambda: devices.get_model(number - 1, 0))
    await devices.open_round()
    assert devices.number == number
    await devices.close_round()
    await told(cluster, LOST)


async def test_one_that_has_no_memory_left(cluster: Cluster, devices: Devices) -> None:
    cluster.command("CONFIG", "SET", "maxmemory", 1)
    await until_refused(devices, cluster)
    cluster.command("CONFIG", "SET", "maxmemory", 0)

    await resumes(devices, cluster)
    await told(cluster, FULL)


async def test_one_that_was_made_a_replica(cluster: Cluster, devices: Devices) -> None:
    cluster.command("REPLICAOF", "127.0.0.1", 1)
    await until_refused(devices, cluster)
    cluster.command("REPLICAOF", "NO", "ONE")

    await resumes(devices, cluster)
    await told(cluster, REPLICA)


async def test_one_that_cannot_write_to_its_disk(cluster: Cluster, devices: Devices) -> None:
    # A folder by the name of the snapshot cannot be replaced by it, not even by root.
    obstacle = cluster.redis.folder / "dump.rdb"
    obstacle.mkdir()
    cluster.command("CONFIG", "SET", "save", "3600 1000000")
    cluster.command("BGSAVE")
    await until_refused(devices, cluster)
    obstacle.rmdir()
    cluster.command("BGSAVE")

    await resumes(devices, cluster)
    await told(cluster, DISK)
    cluster.command("CONFIG", "SET", "save", "")


async def test_one_whose_password_was_changed(cluster: Cluster, devices: Devices) -> None:
    with cluster.admin() as admin:
        admin.execute_command("CONFIG", "SET", "requirepass", "another")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until_refused(devices, cluster)
        admin.execute_command("CONFIG", "SET", "requirepass", "")

    await resumes(devices, cluster)
    await told(cluster, FORBIDDEN)


async def test_one_that_takes_no_more_connections(cluster: Cluster, devices: Devices) -> None:
    with cluster.admin() as admin:
        admin.execute_command("CONFIG", "SET", "maxclients", 1)
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until_refused(devices, cluster)
        admin.execute_command("CONFIG", "SET", "maxclients", 10_000)

    await resumes(devices, cluster)
    await told(cluster, UNREACHABLE)


async def test_one_that_is_busy_with_somebody_s_script(cluster: Cluster, devices: Devices) -> None:
    with cluster.admin() as other:
        endless = asyncio.create_task(
            asyncio.to_thread(_ends_badly, other, "EVAL", "while true do end", 0)
        )
        await until_refused(devices, cluster)
        cluster.command("SCRIPT", "KILL")
        await endless

    await resumes(devices, cluster)
    await told(cluster, BUSY)


def _ends_badly(client: redis_client.Redis, *words: str | int) -> None:
    with pytest.raises(redis_client.RedisError):
        client.execute_command(*words)


@pytest.mark.parametrize(
    "commands",
    [
        [("SCRIPT", "FLUSH")],
        [
            ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
            ("CLIENT", "KILL", "TYPE", "pubsub"),
        ],
        [("CLIENT", "PAUSE", 800)],
    ],
    ids=["scripts-flushed", "connections-killed", "paused-briefly"],
)
async def test_what_nobody_should_notice(
    cluster: Cluster, devices: Devices, commands: list[tuple[str | int, ...]]
) -> None:
    with cluster.admin() as admin:
        for command in commands:
            admin.execute_command(*command)

    said = await devices.upload("second", 1)

    assert (said.status, said.message.receipt.position) == (200, 2)
    await devices.see_model()
    for log in cluster.logs:
        assert sentences(cluster, log) == []
