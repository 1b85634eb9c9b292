"""What goes wrong, and the plan of it: the same seed gives the same plan.

A fault takes hold of a server, of the scheduler, or of Redis, and lets go of it again.  At
least one server is always left alone, except when everything dies.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

from redis import exceptions

from fl_cluster.telemetry.points import OF_HYBRID_ROUNDS, Point
from harness.machine import until
from harness.processes import Process
from harness.world import DRAIN_S, World


class Kind(StrEnum):
    """One kind of fault to processes."""

    KILL_SERVER = "kill a server"
    RETIRE_SERVER = "SIGTERM a server"
    STOP_BRIEFLY = "stop a server briefly"
    STOP_BEYOND_LEASE = "stop a server beyond its lease"
    SPLIT_BRIEFLY = "split a server from Redis briefly"
    SPLIT_BEYOND_LEASE = "split a server from Redis beyond its lease"
    KILL_SCHEDULER = "kill the scheduler"
    PAUSE_REDIS = "CLIENT PAUSE"
    STOP_REDIS = "stop Redis"
    KILL_REDIS = "kill Redis"
    FLUSH_SCRIPTS = "SCRIPT FLUSH"
    REFUSE_WRITES = "Redis refuses writes"
    EVERYTHING_DIES = "everything dies"


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of a plan."""

    kind: Kind
    target: int
    """Which server, where that matters: an index among those that are well."""
    seconds: float
    """For how long."""
    point: str
    """Where the next life of a killed server is to end; empty: nowhere."""


SECONDS: Mapping[Kind, tuple[float, float]] = {
    Kind.KILL_SERVER: (0.1, 1.5),
    Kind.RETIRE_SERVER: (0.1, 1.0),
    Kind.STOP_BRIEFLY: (0.1, 1.2),
    Kind.STOP_BEYOND_LEASE: (2.5, 6.0),
    Kind.SPLIT_BRIEFLY: (0.1, 1.2),
    Kind.SPLIT_BEYOND_LEASE: (2.5, 5.0),
    Kind.KILL_SCHEDULER: (0.1, 1.0),
    Kind.PAUSE_REDIS: (0.2, 2.5),
    Kind.STOP_REDIS: (0.2, 3.5),
    Kind.KILL_REDIS: (0.0, 1.5),
    Kind.FLUSH_SCRIPTS: (0.0, 0.0),
    Kind.REFUSE_WRITES: (0.2, 2.5),
    Kind.EVERYTHING_DIES: (0.2, 1.0),
}

REFUSALS = (
    (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
    (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
)
"""How to make Redis refuse writes, and how to make it take them again."""

POINT_SHARE = 0.6
STOP_SHARE = 0.25
LATEST_FOLD = 40
LATEST_COMMIT = 15
LATEST_FINISH = 3
"""How many times a point may be passed before it strikes: within a few rounds."""


def point_to_end_at(source: random.Random) -> str:
    """A point, the visit at which it strikes, and how."""
    point = source.choice([each for each in Point if each not in OF_HYBRID_ROUNDS])
    latest = {
        Point.AFTER_CLAIM_BEFORE_FOLD: LATEST_FOLD,
        Point.AFTER_FOLD_BEFORE_COMMIT: LATEST_FOLD,
        Point.AFTER_BLOB_BEFORE_REPORT: LATEST_COMMIT,
        Point.AFTER_REPORT_BEFORE_ANSWER: LATEST_COMMIT,
    }.get(point, LATEST_FINISH)
    how = "stop" if source.random() < STOP_SHARE else "kill"
    return f"{point}:{source.randint(1, latest)}:{how}"


def plan(seed: int, mix: Mapping[Kind, float]) -> Iterator[Fault]:
    """Faults without end, as often as `mix` weighs their kinds."""
    source = random.Random(f"plan {seed}")
    kinds, weights = list(mix), list(mix.values())
    while True:
        [kind] = source.choices(kinds, weights)
        is_armed = source.random() < POINT_SHARE
        yield Fault(
            kind,
            source.randrange(1_000),
            source.uniform(*SECONDS[kind]),
            point_to_end_at(source) if is_armed else "",
        )


class Injector:
    """Does to a world what a plan says, several things at a time."""

    def __init__(self, world: World, *, spares_first: bool = False) -> None:
        """`spares_first`: the first server is stopped and split, and ends only with all others,
        so that there is a long life to judge memory by."""
        self._world = world
        self._spared = world.servers[0] if spares_first else None
        self._held: set[str] = set()
        self._methods: Mapping[Kind, Callable[[Fault], Awaitable[None]]] = {
            Kind.KILL_SERVER: self._kill_server,
            Kind.RETIRE_SERVER: self._retire_server,
            Kind.STOP_BRIEFLY: self._stop_server,
            Kind.STOP_BEYOND_LEASE: self._stop_server,
            Kind.SPLIT_BRIEFLY: self._split_server,
            Kind.SPLIT_BEYOND_LEASE: self._split_server,
            Kind.KILL_SCHEDULER: self._kill_scheduler,
            Kind.PAUSE_REDIS: self._pause_redis,
            Kind.STOP_REDIS: self._stop_redis,
            Kind.KILL_REDIS: self._kill_redis,
            Kind.FLUSH_SCRIPTS: self._flush_scripts,
            Kind.REFUSE_WRITES: self._refuse_writes,
            Kind.EVERYTHING_DIES: self._kill_everything,
        }

    async def run(self, faults: Iterator[Fault], seconds: float, spacing_s: float) -> None:
        """One fault after another for so long; they may overlap, and all are over at the end."""
        source = random.Random(self._world.seed)
        until_s = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < until_s:
                await asyncio.sleep(spacing_s * source.uniform(0.4, 1.6))
                group.create_task(self.inject(next(faults)))

    async def inject(self, fault: Fault) -> None:
        """Do one fault, and return when what it took hold of is well again."""
        await self._methods[fault.kind](fault)

    async def strike(self, point: Point, how: str) -> None:
        """Make a server end at this point, and return when it has."""
        name = f"{how} at {point}"
        before = self._world.faults[name]
        fault = Fault(Kind.KILL_SERVER, self._world.faults.total(), 0.0, f"{point}:1:{how}")
        await self._kill_server(fault)
        await until(lambda: self._world.faults[name] > before, f"{point} is reached", REACH_S)

    def _note(self, kind: Kind) -> None:
        self._world.faults[kind] += 1

    # -- servers -------------------------------------------------------------------------

    def well_servers(self) -> list[Process]:
        """Servers that nothing has hold of."""
        return [
            server
            for server in self._world.servers
            if server.name not in self._held
            and server.name not in self._world.expected_down
            and server.is_running()
            and not server.is_stopped
        ]

    @contextmanager
    def _some_server(self, fault: Fault, *, ends: bool) -> Iterator[Process | None]:
        """A server to have hold of; None when the last well one has to be left alone."""
        well = self.well_servers()
        choice = [server for server in well if not ends or server is not self._spared]
        if len(well) < 2 or not choice:
            yield None
            return
        server = choice[fault.target % len(choice)]
        self._held.add(server.name)
        try:
            yield server
        finally:
            self._held.discard(server.name)

    async def _kill_server(self, fault: Fault) -> None:
        with self._some_server(fault, ends=True) as server:
            if server is None:
                return
            self._note(fault.kind)
            self._take_down(server)
            server.kill()
            await asyncio.sleep(fault.seconds)
            await self._world.start_server(server, fault.point)

    async def _retire_server(self, fault: Fault) -> None:
        with self._some_server(fault, ends=True) as server:
            if server is None:
                return
            self._note(fault.kind)
            await self.retire(server)
            await asyncio.sleep(fault.seconds)
            await self._world.start_server(server, fault.point)

    async def retire(self, server: Process) -> None:
        """Let a process drain and end."""
        self._take_down(server)
        server.signal(signal.SIGTERM)
        await until(lambda: not server.is_running(), f"{server.name} drains", DRAIN_S)

    def _take_down(self, process: Process) -> None:
        self._world.expected_down.add(process.name)
        self._world.armed.pop(process.name, None)

    async def _stop_server(self, fault: Fault) -> None:
        with self._some_server(fault, ends=False) as server:
            if server is None:
                return
            self._note(fault.kind)
            server.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            server.signal(signal.SIGCONT)

    async def _split_server(self, fault: Fault) -> None:
        with self._some_server(fault, ends=False) as server:
            if server is None:
                return
            self._note(fault.kind)
            route = f"store{self._world.servers.index(server)}"
            with self._world.trouble_with_redis():
                await self._world.order([route], split=True)
                await asyncio.sleep(fault.seconds)
                await self._world.order([route], split=False)

    # -- the scheduler -------------------------------------------------------------------

    async def _kill_scheduler(self, fault: Fault) -> None:
        scheduler = self._world.scheduler
        if scheduler.name in self._world.expected_down:
            return
        self._note(fault.kind)
        self._take_down(scheduler)
        scheduler.kill()
        await asyncio.sleep(fault.seconds)
        scheduler.start()
        self._world.expected_down.discard(scheduler.name)

    # -- Redis ---------------------------------------------------------------------------

    @contextmanager
    def _redis(self) -> Iterator[bool]:
        """Whether nothing has hold of Redis yet; nobody but us has until the block ends."""
        if "redis" in self._held:
            yield False
            return
        self._held.add("redis")
        try:
            with self._world.trouble_with_redis():
                yield True
        finally:
            self._held.discard("redis")

    async def _pause_redis(self, fault: Fault) -> None:
        with self._redis() as is_free, suppress(exceptions.RedisError):
            if is_free:
                self._note(fault.kind)
                await self._world.admin.client_pause(int(fault.seconds * 1000))
                await asyncio.sleep(fault.seconds)

    async def _stop_redis(self, fault: Fault) -> None:
        with self._redis() as is_free:
            if is_free:
                self._note(fault.kind)
                self._world.redis.signal(signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
                self._world.redis.signal(signal.SIGCONT)

    async def _kill_redis(self, fault: Fault) -> None:
        with self._redis() as is_free:
            if is_free:
                self._note(fault.kind)
                self._take_down(self._world.redis)
                self._world.redis.kill()
                await asyncio.sleep(fault.seconds)
                await self._world.start_redis()
                self._world.expected_down.discard("redis")

    async def _flush_scripts(self, fault: Fault) -> None:
        with self._redis() as is_free, suppress(exceptions.RedisError):
            if is_free:
                self._note(fault.kind)
                await self._world.admin.script_flush()

    async def _refuse_writes(self, fault: Fault) -> None:
        """As when it is out of memory, lacks its replicas, or is a replica itself."""
        begin, end = REFUSALS[fault.target % len(REFUSALS)]
        with self._redis() as is_free, suppress(exceptions.RedisError):
            if is_free:
                self._note(fault.kind)
                await self._world.admin.execute_command(*begin)
                await asyncio.sleep(fault.seconds)
                await self._world.admin.execute_command(*end)

    # -- everything ----------------------------------------------------------------------

    async def _kill_everything(self, fault: Fault) -> None:
        """All servers, the scheduler, then Redis; Redis comes back first."""
        world = self._world
        with self._redis() as is_free:
            if not is_free or len(self.well_servers()) < len(world.servers):
                return
            self._note(fault.kind)
            victims = [*world.servers, world.scheduler, world.redis]
            for process in victims:
                self._take_down(process)
                process.kill()
            await asyncio.sleep(fault.seconds)
            await world.start_redis()
            for process in victims:
                if process is not world.redis:
                    process.start()
                world.expected_down.discard(process.name)
            for server in world.servers:
                await world.wait_until_serving(server)
            world.witness.excuse(START_EXCUSE_S)


REACH_S = 40.0
START_EXCUSE_S = 5.0
"""What a cluster may take to come back after everything died."""
