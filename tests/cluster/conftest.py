"""Clusters of real processes: as users start them, and with devices that a test leads.

`job` is a folder with a job's configuration and the scripts that users start it with.
`start_cluster` starts a scheduler and two servers that live as long as the test's module, and
`run_digits` one that lives as long as a block, with an embedded Redis;
`devices` are two devices by plain HTTP, one of whose updates is acknowledged; a module that
uses them defines a fixture `cluster`.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest

from fl_cluster.app import launch
from fl_cluster.app.demo_cluster import free_ports
from fl_cluster.app.launch import LaunchOptions, ServerLaunch, Started
from fl_cluster.store.model_files import write_model
from fl_cluster.store.redis import embedded
from fl_cluster.wire import flat, messages, packed

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
DIGITS = SCRIPTS.parent / "yamls" / "digits.yaml"

CONFIG = """
fl_name: {job}
fl_iteration_num: 3
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {{type: redis, address: "{redis}"}}
round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 30000
  update_model_ratio: 1.0
  update_model_time_window: 30000
  global_iteration_time_window: 60000
summary: {{metrics_file: metrics.json, failure_event_file: event.txt}}
cluster: {{lease_ms: 1000}}
"""


@dataclass
class Job:
    """One job as its user sees it: a folder, a few commands, and their addresses."""

    folder: Path
    redis: str
    manage_port: int
    http_port: int
    name: str = "Manual"
    foreground: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "job.yaml").write_text(CONFIG.format(job=self.name, redis=self.redis))

    @property
    def manage(self) -> str:
        return f"127.0.0.1:{self.manage_port}"

    def command(self, script: str, *arguments: str) -> list[str]:
        shown = {
            "run_sched.py": [f"--scheduler_manage_address={self.manage}"],
            "run_server.py": [
                "--tcp_server_ip=127.0.0.1",
                "--checkpoint_dir=fl_ckpt",
                f"--http_server_address=127.0.0.1:{self.http_port}",
            ],
            "finish_cloud.py": [],
        }[script]
        config = [] if script == "finish_cloud.py" else ["--yaml_config=job.yaml"]
        return [sys.executable, str(SCRIPTS / script), *config, *shown, *arguments]

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script, *arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start_here(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a script with --foreground."""
        process = subprocess.Popen(
            self.command(script, "--foreground", *arguments),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.foreground.append(process)
        return process

    def finish(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("finish_cloud.py", "--yaml_config=job.yaml", *arguments)

    def state(self, query: str = "") -> dict[str, Any]:
        """The scheduler's answer, a refusal too."""
        try:
            with urllib.request.urlopen(f"http://{self.manage}/state{query}", timeout=10) as reply:
                body = reply.read()
        except urllib.error.HTTPError as exc:
            with exc:
                body = exc.read()
        decoded: dict[str, Any] = json.loads(body)
        return decoded

    def nodes(self) -> list[dict[str, str]]:
        nodes: list[dict[str, str]] = self.state().get("nodes", [])
        return nodes

    def answers(self) -> bool:
        try:
            self.state()
        except OSError:
            return False
        return True

    def log(self, name: str) -> str:
        return (self.folder / "logs" / name).read_text()

    def processes(self) -> list[psutil.Process]:
        """Every process that works in this job's folder."""
        found = []
        for process in psutil.process_iter(["cwd", "status"]):
            is_ours = process.info["cwd"] == str(self.folder)
            if is_ours and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found


@pytest.fixture
def make_job(tmp_path: Path, free_port: Callable[..., int]) -> Iterator[Callable[..., Job]]:
    """Makes jobs; whatever they left running is ended after the test."""
    made: list[Job] = []

    def make(redis: str, name: str = "Manual") -> Job:
        folder = (tmp_path / f"job{len(made)}").resolve()
        folder.mkdir()
        made.append(Job(folder, redis, free_port(), free_port(4), name))
        return made[-1]

    yield make
    for job in made:
        for process in job.processes():
            process.kill()
        embedded.stop(job.folder / "fl_data")
        for started in job.foreground:
            started.kill()
            started.communicate()


@pytest.fixture
def job(make_job: Callable[..., Job], redis_server: Any) -> Job:
    """A job on a Redis of its own."""
    return make_job(redis_server.address)


LED_CONFIG = """
fl_name: Led
fl_iteration_num: 1000
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {{address: "{address}"}}
round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 60000
  update_model_ratio: 1.0
  update_model_time_window: 60000
  global_iteration_time_window: 120000
summary: {{metrics_file: "{folder}/metrics.json", failure_event_file: "{folder}/event.txt"}}
cluster: {{lease_ms: 10000, redis_timeout_ms: 2000, data_dir: "{folder}/data"}}
"""

INITIAL = np.arange(8, dtype=np.float32)
SIZES = {"first": 3, "second": 1, "late": 1}
"""Who takes part, and on how many samples each trains; one comes too late."""

COUNTED = ("first", "second")

NOTICED_S = 4.0
"""By then every server refuses; it is promised after three seconds on a machine that is idle."""

RESUMED_S = 4.0
"""By then the round has ended; it is promised within two seconds on a machine that is idle."""

SAFEMODE = b"The cluster is in safemode."
AGAIN = "Redis serves this process again"


@dataclass
class LedCluster:
    """A scheduler and two servers."""

    folder: Path
    processes: list[Started]
    marks: dict[Path, int] = field(default_factory=dict)

    @property
    def urls(self) -> list[str]:
        return [f"http://{server.address}" for server in self.processes[1:]]

    @property
    def logs(self) -> list[Path]:
        """The scheduler's, then the servers'."""
        return [process.log for process in self.processes if process.log is not None]

    def mark(self) -> None:
        """Look at what is logged from now on."""
        self.marks = {log: log.stat().st_size for log in self.logs}

    def logged(self, log: Path) -> str:
        return log.read_bytes()[self.marks.get(log, 0) :].decode()

    def story(self) -> str:
        """Everything that was logged."""
        return "\n".join(self.logged(log) for log in self.logs)

    def sentences(self, log: Path) -> list[str]:
        """What a process had to say to whoever runs it; no sentence twice, and no traceback."""
        text = self.logged(log)
        assert "Traceback" not in text, text
        lines = re.findall(r" (?:WARNING|ERROR|CRITICAL) fl_cluster\[\d+\] [\w.]+: (.*)", text)
        beginnings = [re.sub(r"\d+", "#", line.partition(" (")[0]) for line in lines]
        assert len(beginnings) == len(set(beginnings)), text
        return list(lines)

    async def told(self, *beginnings: str | tuple[str, ...]) -> None:
        """Each server says once what the matter is, in this order, and that it is over.

        A tuple has what may be said instead of each other.  The scheduler, which asks less
        often, may not have noticed all of it.
        """
        expected = [each if isinstance(each, tuple) else (each,) for each in (*beginnings, AGAIN)]
        deadline = time.monotonic() + RESUMED_S
        scheduler, *servers = self.logs
        while not all(AGAIN in self.logged(log) for log in servers):
            assert time.monotonic() < deadline, self.story()
            await asyncio.sleep(0.02)
        for log in self.logs:
            lines = [line for line in self.sentences(log) if line.startswith(("Redis", "What"))]
            said = [line.partition(" (")[0].partition(",")[0] for line in lines]
            if log is scheduler:
                assert all(any(line in each for each in expected) for line in said), said
            else:
                assert len(said) == len(expected), self.logged(log)
                for line, each in zip(said, expected, strict=True):
                    assert line in each, self.logged(log)


def launch_three(options: LaunchOptions, folder: Path) -> list[Started]:
    """A scheduler and two servers with the model in this folder; the servers come last."""
    manage, *ports = free_ports([0, 0, 0])
    commands = [launch.scheduler_command(options, f"127.0.0.1:{manage}")]
    for port in ports:
        servers = ServerLaunch(
            http_address=f"127.0.0.1:{port}",
            checkpoint_dir=str(folder / "checkpoints"),
            model=str(folder / "initial.npz"),
        )
        commands += launch.server_commands(options, servers, lambda _: None)
    return launch.start(commands, patience_s=30.0, tell=lambda _: None)


@pytest.fixture
def start_three() -> Callable[[LaunchOptions, Path], list[Started]]:
    """Starts a scheduler and two servers, which come last."""
    return launch_three


@pytest.fixture
def run_digits(tmp_path: Path) -> Callable[..., AbstractContextManager[list[Started]]]:
    """Runs a scheduler and two servers with an embedded Redis and the settings of the digits, as
    long as the block lasts; the servers come last."""

    @contextmanager
    def run(initial: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[list[Started]]:
        write_model(tmp_path / "initial.npz", initial)
        options = LaunchOptions(
            str(DIGITS),
            log_dir=tmp_path / "logs",
            overrides={
                "cluster.data_dir": str(tmp_path),
                "summary.metrics_file": str(tmp_path / "metrics.json"),
                "summary.failure_event_file": str(tmp_path / "event.txt"),
                **settings,
            },
        )
        started = launch_three(options, tmp_path)
        try:
            yield started
        finally:
            launch.stop(started)
            embedded.stop_if_unused(tmp_path)

    return run


@pytest.fixture(scope="module")
def start_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LedCluster]]:
    """Starts a cluster on the Redis at an address; it is stopped after the module."""
    started: list[Started] = []

    def start(address: str) -> LedCluster:
        folder = tmp_path_factory.mktemp("cluster")
        write_model(folder / "initial.npz", {"w": INITIAL})
        path = folder / "job.yaml"
        path.write_text(LED_CONFIG.format(address=address, folder=folder))
        options = LaunchOptions(str(path), folder / "logs")
        cluster = LedCluster(folder, launch_three(options, folder))
        started.extend(cluster.processes)
        return cluster

    yield start
    launch.stop(started)


@dataclass(frozen=True)
class Said:
    """An answer to a device."""

    status: int
    message: Any


async def patiently(ask: Callable[[], Awaitable[Said]], timeout_s: float = 20.0) -> Said:
    """The answer of a device that comes again until it is served, as devices do."""
    deadline = time.monotonic() + timeout_s
    while (said := await ask()).status != 200:
        assert time.monotonic() < deadline, said
        assert said.status in (202, 429, 503), said
        await asyncio.sleep(0.05)
    return said


class LedDevices:
    """Two devices that take part, and one that comes too late, each at its own server."""

    def __init__(self, cluster: LedCluster, session: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self._session = session
        self.number = 0
        self.base = INITIAL

    async def _post(self, server: int, path: str, request: Any, answer: type[Any]) -> Said:
        headers = {"Content-Type": "application/msgpack"}
        url = f"{self.cluster.urls[server]}/{path}"
        body = packed.encode(request)
        async with self._session.post(url, data=body, headers=headers) as reply:
            return Said(reply.status, packed.decode(answer, await reply.read()))

    def _offer(self, name: str) -> messages.RequestFLJob:
        return messages.RequestFLJob(
            fl_name="Led", fl_id=name, data_size=SIZES[name], timestamp="1"
        )

    async def check_in(self, name: str, server: int) -> Said:
        return await self._post(server, "startFLJob", self._offer(name), messages.ResponseFLJob)

    async def check_in_as_of_old(self, name: str, server: int) -> bytes:
        url = f"{self.cluster.urls[server]}/startFLJob"
        async with self._session.post(url, data=flat.encode(self._offer(name))) as reply:
            assert reply.status == 200
            return await reply.read()

    def trained(self, name: str) -> Any:
        """What the device has learnt in this round."""
        seed = self.number * 100 + SIZES[name]
        return self.base + np.random.default_rng(seed).normal(size=8).astype(np.float32)

    async def upload(self, name: str, server: int) -> Said:
        weights = messages.FeatureMap(weight_fullname="w", data=self.trained(name))
        request = messages.RequestUpdateModel(
            fl_name="Led",
            fl_id=name,
            iteration=self.number,
            feature_map=(weights,),
            timestamp="1",
            plain_weights=True,
        )
        return await self._post(server, "updateModel", request, messages.ResponseUpdateModel)

    async def get_model(self, number: int, server: int, hold_ms: int = 0) -> Said:
        request = messages.RequestGetModel(
            fl_name="Led", iteration=number, timestamp="1", hold_ms=hold_ms
        )
        return await self._post(server, "getModel", request, messages.ResponseGetModel)

    async def be_admitted(self) -> None:
        """Both are admitted."""
        for server, name in enumerate(COUNTED):
            said = await patiently(lambda s=server, n=name: self.check_in(n, s))
            self.number = said.message.iteration
            self.base = np.asarray(said.message.feature_map[0].data)

    async def open_round(self) -> None:
        """Both are admitted, and the first one's update is acknowledged."""
        await self.be_admitted()
        said = await self.upload("first", 0)
        assert (said.status, said.message.receipt.position) == (200, 1)

    async def uploaded(
        self, name: str, server: int, *, position: int, timeout_s: float = 20.0
    ) -> None:
        """The device's update is counted in that place, sooner or later."""
        said = await patiently(lambda: self.upload(name, server), timeout_s)
        assert said.message.receipt.round == self.number
        assert said.message.receipt.position == position

    async def close_round(self) -> None:
        """The second one's update ends the round, with both in its model."""
        await self.uploaded("second", 1, position=2)
        await self.see_model()

    async def see_model(self) -> None:
        """Every server hands out the model of exactly the two updates."""
        shares = [SIZES[name] * self.trained(name).astype(np.float64) for name in COUNTED]
        mean = sum(shares) / sum(SIZES[name] for name in COUNTED)
        for server in range(2):
            said = await patiently(lambda s=server: self.get_model(self.number, s, hold_ms=1_000))
            assert said.message.model_round == self.number
            assert said.message.iteration == self.number + 1
            found = np.asarray(said.message.feature_map[0].data)
            np.testing.assert_allclose(found, mean, rtol=1e-5)

    async def refused_everywhere(self) -> None:
        """Nothing but reading is served, nothing is acknowledged; devices may come back."""
        for server in range(2):
            for said in (
                await self.check_in("late", server),
                await self.upload("second", server),
            ):
                assert (said.status, said.message.verdict) == (503, "unavailable"), said
                assert said.message.retry_after_ms > 0
            assert await self.check_in_as_of_old("late", server) == SAFEMODE
            read = await self.get_model(self.number - 1, server)
            assert (read.status, read.message.model_round) == (200, self.number - 1)

    async def until_refused(self, cause: str = "") -> None:
        """Return when every server knows, and refuses devices at once.

        The scheduler, asked why nothing moves, answers with this cause.
        """
        deadline = time.monotonic() + NOTICED_S
        while not all(" ERROR " in self.cluster.logged(log) for log in self.cluster.logs[1:]):
            assert time.monotonic() < deadline, self.cluster.story()
            await asyncio.sleep(0.02)
        began = time.monotonic()
        await self.refused_everywhere()
        assert time.monotonic() - began < 1.0
        if cause:
            async with self._session.get(
                f"http://{self.cluster.processes[0].address}/explain"
            ) as reply:
                found = await reply.json(content_type=None)
            assert found["cause"] == cause, found

    async def resume(self) -> None:
        """The round ends soon, and all is as if nothing had been."""
        began = time.monotonic()
        await self.close_round()
        assert time.monotonic() - began < RESUMED_S, self.cluster.story()
        assert all(each.is_running() for each in self.cluster.processes), self.cluster.story()


@pytest.fixture
async def devices(cluster: LedCluster) -> AsyncIterator[LedDevices]:
    """Both are in a round of their own, and the first one's update is acknowledged."""
    async with aiohttp.ClientSession() as session:
        led = LedDevices(cluster, session)
        await led.open_round()
        cluster.mark()
        yield led
