"""One cluster under the harness: its processes, the weather between them, and its witness.

    device -> proxy -> server -> proxy -> Redis        (each server has a way to Redis of its own)

The witness goes to Redis directly.  Everything lives in one temporary folder, and nothing of
it is left when `opened` ends, however it ends.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import shutil
import signal
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import redis.asyncio as redis_asyncio
from redis import exceptions

from fl_cluster.telemetry.points import VARIABLE
from harness import job, memory
from harness.checks import Violation
from harness.devices import Orders
from harness.machine import Ports, find_redis, free_ports, listens, until
from harness.processes import Process, module
from harness.proxy import Weather
from harness.witness import PREFIX, Witness

LOOK_S = 0.06
SAMPLE_S = 1.0
START_S = 30.0
DRAIN_S = 20.0
MOST_FILES = 100
"""What a server has open when nobody asks it for anything: its pool of connections to Redis,
its links, its log."""
STORE_UNREACHABLE = 3
"""What a server ends with when Redis is away while it starts; whoever watches starts it again."""


@dataclass
class World:
    """The processes and what is known of them."""

    folder: Path
    dimensions: job.Dimensions
    seed: int
    has_disk: bool
    """Whether Redis writes an append-only file."""
    ports: Ports
    redis: Process = field(init=False)
    scheduler: Process = field(init=False)
    servers: list[Process] = field(init=False)
    devices: Process = field(init=False)
    proxy: Process = field(init=False)
    witness: Witness = field(init=False)
    faults: Counter[str] = field(default_factory=Counter)
    """What was done to processes."""
    troubles: Counter[str] = field(default_factory=Counter)
    """What was done to connections."""
    armed: dict[str, str] = field(default_factory=dict)
    """Server -> the point at which its current life is to end."""
    expected_down: set[str] = field(default_factory=set)
    redis_troubles: int = 0
    """How many faults have hold of Redis or of a way to it."""
    redis_troubled_s: float = -math.inf
    """When the last of them let go."""
    began_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.source = random.Random(self.seed)
        self._orders = asyncio.Lock()
        self._asking: set[asyncio.Task[None]] = set()
        self.admin = redis_asyncio.Redis(
            port=self.ports.redis, socket_timeout=2.0, decode_responses=True
        )
        self.witness = Witness(self.ports.redis, self.folder, self.dimensions, self.seed)
        self.redis = Process("redis", self._redis_command(), self.folder)
        self.proxy = Process("proxy", self._proxy_command(), self.folder, uses_pipes=True)
        self.scheduler = Process("scheduler", self._scheduler_command(), self.folder)
        self.servers = [
            Process(f"server{index}", self._server_command(index), self.folder)
            for index in range(self.dimensions.servers)
        ]
        self.devices = Process("devices", self._devices_command(), self.folder)

    @property
    def everyone(self) -> list[Process]:
        """All processes, in the order in which they are ended."""
        return [self.devices, *self.servers, self.scheduler, self.proxy, self.redis]

    # -- commands ------------------------------------------------------------------------

    def _redis_command(self) -> list[str]:
        kept = ["--appendonly", "yes", "--appendfsync", "always"] if self.has_disk else []
        return [
            *(find_redis(), "--port", str(self.ports.redis), "--bind", "127.0.0.1"),
            *("--save", "", "--dir", str(self.folder), *kept),
        ]

    def _proxy_command(self) -> list[str]:
        routes = [
            {"name": f"device{i}", "kind": "http", "listen": listen, "to": [to]}
            for i, (listen, to) in enumerate(
                zip(self.ports.devices, self.ports.servers, strict=True)
            )
        ] + [
            {"name": f"store{i}", "kind": "stream", "listen": listen, "to": [self.ports.redis]}
            for i, listen in enumerate(self.ports.stores)
        ]
        balancer = {"name": "balancer", "kind": "http", "listen": self.ports.balancer}
        routes.append({**balancer, "to": self.ports.servers})
        return module("harness.proxy", json.dumps({"seed": self.seed, "routes": routes}))

    def _scheduler_command(self) -> list[str]:
        return module(
            "fl_cluster.app.cli",
            *("sched", "--foreground", "--yaml_config=job.yaml"),
            f"--scheduler_manage_address=127.0.0.1:{self.ports.manage}",
            f"--set=distributed_cache.address=127.0.0.1:{self.ports.stores[-1]}",
        )

    def _server_command(self, index: int) -> list[str]:
        return module(
            "fl_cluster.app.cli",
            *("server", "--foreground", "--local_server_num=1", "--yaml_config=job.yaml"),
            *("--tcp_server_ip=127.0.0.1", "--checkpoint_dir=checkpoints", "--model=initial.npz"),
            f"--http_server_address=127.0.0.1:{self.ports.servers[index]}",
            f"--set=distributed_cache.address=127.0.0.1:{self.ports.stores[index]}",
        )

    def _devices_command(self) -> list[str]:
        orders = Orders(
            servers=[("127.0.0.1", port) for port in self.ports.devices],
            balancer=("127.0.0.1", self.ports.balancer),
            sdk_devices=self.dimensions.sdk_devices,
            raw_devices=self.dimensions.raw_devices,
            trust_s=self.dimensions.trust_s,
            diary="diary.jsonl",
            seed=self.seed,
        )
        return module("harness.devices", json.dumps(asdict(orders)))

    # -- starting ------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything, devices last."""
        weights = job.arrays(job.initial_weights(self.seed))
        np.savez(self.folder / "initial.npz", **weights)
        address = f"127.0.0.1:{self.ports.redis}"
        self.dimensions.write_configuration(self.folder / "job.yaml", address)
        await self.start_redis()
        self.proxy.start()
        assert self.proxy.child is not None
        assert self.proxy.child.stdout is not None
        await asyncio.to_thread(self.proxy.child.stdout.readline)
        self.scheduler.start()
        for server in self.servers:
            server.start()
        for server in self.servers:
            await self.wait_until_serving(server)
        await self.witness.look(time.monotonic())
        self.devices.start()

    async def start_redis(self) -> None:
        """Start Redis and return when it answers."""
        self.redis.start()
        deadline = time.monotonic() + START_S
        while True:
            with suppress(exceptions.RedisError, OSError):
                if await self.admin.ping():
                    return
            if time.monotonic() > deadline or not self.redis.is_running():
                raise Violation("in time", "Redis does not start")
            await asyncio.sleep(0.02)

    def port_of(self, server: Process) -> int:
        """Where a server listens."""
        return self.ports.servers[self.servers.index(server)]

    async def start_server(self, server: Process, point: str = "") -> None:
        """Start a server, to end at `point` if one is given, and return when it serves."""
        if point:
            self.armed[server.name] = point
        server.start({VARIABLE: point} if point else {})
        self.expected_down.discard(server.name)
        await self.wait_until_serving(server)

    async def wait_until_serving(self, server: Process) -> None:
        """Return when it accepts connections, or has ended at its point already."""
        await until(
            lambda: listens(self.port_of(server)) or not server.is_running(),
            f"{server.name} serves",
            START_S,
        )

    # -- the proxies ---------------------------------------------------------------------

    async def order(self, routes: Sequence[str], **order: object) -> None:
        """Tell the proxies what to do, and hear what they have done."""
        line = json.dumps({"routes": list(routes), **order}).encode() + b"\n"
        # A question whose asker is cancelled has to be answered before the next one.
        task = asyncio.create_task(self._ask_proxy(line))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        await asyncio.shield(task)

    async def _ask_proxy(self, line: bytes) -> None:
        async with self._orders:
            self.troubles = Counter(json.loads(await asyncio.to_thread(self._talk, line)))

    def _talk(self, line: bytes) -> bytes:
        child = self.proxy.child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(line)
        child.stdin.flush()
        return child.stdout.readline()

    async def set_weather(self, devices: Weather | None, stores: Weather | None) -> None:
        """The weather on all routes of each kind; None leaves it as it is."""
        if devices is not None:
            names = ["balancer", *(f"device{i}" for i in range(len(self.servers)))]
            await self.order(names, weather=asdict(devices))
        if stores is not None:
            names = [f"store{i}" for i in range(len(self.servers) + 1)]
            await self.order(names, weather=asdict(stores))

    # -- watching ------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look for ever; a Violation when something is wrong."""
        sampled_s = 0.0
        while True:
            now_s = time.monotonic()
            await self.witness.look(now_s)
            if now_s - sampled_s >= SAMPLE_S:
                sampled_s = now_s
                for process in self.everyone:
                    process.sample()
            await asyncio.sleep(LOOK_S)

    async def revive(self) -> None:
        """Bring back servers that ended at their point, for ever."""
        while True:
            for server in self.servers:
                if server.name in self.expected_down:
                    continue
                if not server.is_running():
                    await self._bring_back(server)
                elif server.name in self.armed and not server.is_stopped and server.seems_stopped():
                    self.faults[f"stop at {self.armed.pop(server.name).split(':')[0]}"] += 1
                    server.is_stopped = True
                    asyncio.get_running_loop().call_later(
                        self.source.uniform(0.5, 5.0), server.signal, signal.SIGCONT
                    )
            if self.scheduler.name not in self.expected_down and self._has_died(self.scheduler):
                await self._bring_back(self.scheduler)
            for process in (self.devices, self.proxy, self.redis):
                if self._has_died(process) and process.name not in self.expected_down:
                    raise Violation("nobody dies unasked", f"{process.name} ended")
            await asyncio.sleep(0.05)

    def _has_died(self, process: Process) -> bool:
        return process.child is not None and not process.is_running()

    async def _bring_back(self, process: Process) -> None:
        assert process.child is not None
        code = process.child.returncode
        point = self.armed.pop(process.name, "")
        if code == -signal.SIGKILL and point:
            self.faults[f"kill at {point.split(':')[0]}"] += 1
        elif code != STORE_UNREACHABLE or not self.may_miss_redis():
            raise Violation("nobody dies unasked", f"{process.name} ended with {code}")
        self.expected_down.add(process.name)
        await asyncio.sleep(self.source.uniform(0.1, 1.5))
        process.start()
        self.expected_down.discard(process.name)

    async def rounds(self, count: int, timeout_s: float) -> None:
        """Return when so many more rounds are over."""
        goal = self.witness.tally.rounds + count
        await until(
            lambda: self.witness.tally.rounds >= goal, f"{count} more rounds are over", timeout_s
        )

    def nodes(self) -> Sequence[Mapping[str, str]]:
        """The servers that the scheduler shows."""
        url = f"http://127.0.0.1:{self.ports.manage}/state"
        with urllib.request.urlopen(url, timeout=5) as reply:
            nodes: Sequence[Mapping[str, str]] = json.loads(reply.read()).get("nodes", [])
        return nodes

    def scheduler_answers(self) -> bool:
        """Whether it serves."""
        return listens(self.ports.manage)

    async def reports(self, ref: str) -> dict[str, str]:
        """The counted set of a round as Redis holds it."""
        found: dict[str, str] = await self.admin.hgetall(f"{PREFIX}round:{ref}:reports")
        return found

    @contextmanager
    def trouble_with_redis(self) -> Iterator[None]:
        """Processes that start meanwhile may find no Redis."""
        self.redis_troubles += 1
        try:
            yield
        finally:
            self.redis_troubles -= 1
            self.redis_troubled_s = time.monotonic()

    def may_miss_redis(self) -> bool:
        """Whether a process that starts now, or did so lately, may have found no Redis."""
        return self.redis_troubles > 0 or time.monotonic() - self.redis_troubled_s < START_S

    # -- ending --------------------------------------------------------------------------

    async def settle(self) -> None:
        """Good weather; everybody is up again."""
        await self.set_weather(Weather(), Weather())
        names = [f"store{i}" for i in range(len(self.servers) + 1)]
        await self.order(names, split=False)
        await until(
            lambda: all(
                server.is_running() and not server.is_stopped and listens(self.port_of(server))
                for server in self.servers
            ),
            "all servers are up again",
            START_S,
        )

    async def conclude(self, *, is_checked_for_memory: bool = True) -> None:
        """End the devices and check what only the end can show."""
        self.expected_down.add(self.devices.name)
        self.devices.signal(signal.SIGTERM)
        await until(lambda: not self.devices.is_running(), "devices end", START_S)
        await self.order(())
        while not await self.witness.look(time.monotonic()):
            await asyncio.sleep(LOOK_S)
        await self.witness.conclude()
        await self.witness.audit()
        for server in self.servers:
            if server.open_files() > MOST_FILES:
                raise Violation("nothing piles up", f"{server.name}: {server.open_files()} files")
        if is_checked_for_memory:
            for growth in memory.growths(self.watched_for_memory()):
                if not growth.is_flat:
                    raise Violation("memory is flat", str(growth))

    def watched_for_memory(self) -> list[Process]:
        """The cluster's own processes; Redis keeps what rounds leave for a quarter of an hour."""
        return [*self.servers, self.scheduler]

    async def close(self) -> None:
        """End every process."""
        for process in self.everyone:
            process.kill()
        await self.witness.close()
        await self.admin.aclose()


@asynccontextmanager
async def opened(
    dimensions: job.Dimensions, seed: int, *, has_disk: bool = True
) -> AsyncIterator[World]:
    """A world in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="fl-chaos-"))
    try:
        world = World(folder, dimensions, seed, has_disk, free_ports(dimensions.servers))
        try:
            yield world
        finally:
            await world.close()
    finally:
        shutil.rmtree(folder)
