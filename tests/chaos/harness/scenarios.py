"""The short list: each scenario is one kind of bad day, with a seed of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from fl_cluster.telemetry.points import OF_HYBRID_ROUNDS, Point
from harness.checks import Violation, counted_set
from harness.diary import Word
from harness.faults import Fault, Injector, Kind, plan
from harness.job import Dimensions, is_raw
from harness.losses import lose_everything, lose_rounds, lose_updates
from harness.machine import until
from harness.proxy import Weather
from harness.world import World

DRIZZLE = Weather(
    lose_request=0.003,
    lose_answer=0.005,
    cut_request=0.003,
    cut_answer=0.003,
    delay=0.01,
    double=0.01,
)
STORM = Weather(
    lose_request=0.02,
    lose_answer=0.03,
    cut_request=0.02,
    cut_answer=0.02,
    delay=0.05,
    double=0.05,
    longest_delay_s=1.0,
)
STORE_DRIZZLE = Weather(
    lose_request=0.0003,
    lose_answer=0.0005,
    cut_request=0.0003,
    cut_answer=0.0003,
    delay=0.002,
    longest_delay_s=0.3,
)
STORE_STORM = Weather(
    lose_request=0.003,
    lose_answer=0.004,
    cut_request=0.003,
    cut_answer=0.003,
    delay=0.006,
    longest_delay_s=2.5,
)
"""Delays go beyond the time-out of commands: what was given up arrives all the same."""

FEW = 4
LONG_ENOUGH_S = 44.0
SHOWN_S = 1.5
"""Until the scheduler shows that a server has died or come: a second, and looking at it."""

Body = Callable[[World], Awaitable[None]]
LIMIT_S = 300.0
"""After which a scenario is given up: none of the short list takes a fifth of that."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One bad day."""

    name: str
    summary: str
    seed: int
    body: Body
    dimensions: Dimensions = field(default_factory=Dimensions)
    has_disk: bool = True
    limit_s: float = LIMIT_S


async def suffer(world: World, mix: Mapping[Kind, float], seconds: float, spacing_s: float) -> None:
    """Faults of these kinds for so long, then good weather and two more rounds."""
    injector = Injector(world, spares_first=mix is EVERYTHING)
    await injector.run(plan(world.seed, mix), seconds, spacing_s)
    await world.settle()
    await world.rounds(2, 60.0)


async def servers_killed(world: World) -> None:
    """At any instant, and again at named points."""
    await suffer(world, {Kind.KILL_SERVER: 1}, 16.0, 2.0)


async def servers_killed_at_points(world: World) -> None:
    """Each point once at least; whoever comes to it."""
    injector = Injector(world)
    for point in (each for each in Point if each not in OF_HYBRID_ROUNDS):
        await injector.strike(point, "kill")
    await world.settle()
    await world.rounds(2, 60.0)


async def servers_stopped(world: World) -> None:
    """SIGSTOP, also longer than the lease, also between two steps of a commit or a publish."""
    injector = Injector(world)
    for point in (Point.AFTER_BLOB_BEFORE_REPORT, Point.AFTER_RECORD_BEFORE_PUBLISH):
        await injector.strike(point, "stop")
    await suffer(world, {Kind.STOP_BRIEFLY: 1, Kind.STOP_BEYOND_LEASE: 2}, 12.0, 2.0)


async def redis_troubled(world: World) -> None:
    """Paused, stopped, killed and back from its file, scripts forgotten, writes refused."""
    kinds = (
        Kind.PAUSE_REDIS,
        Kind.STOP_REDIS,
        Kind.KILL_REDIS,
        Kind.FLUSH_SCRIPTS,
        Kind.REFUSE_WRITES,
    )
    await suffer(world, dict.fromkeys(kinds, 1.0), 18.0, 1.5)


async def lines_to_devices(world: World) -> None:
    """Requests and answers lost, cut, late and doubled, for long enough to see memory grow."""
    await world.set_weather(STORM, None)
    await asyncio.sleep(LONG_ENOUGH_S)
    await world.settle()
    await world.rounds(2, 60.0)


async def lines_to_redis(world: World) -> None:
    """Connections to Redis broken in the middle, commands that arrive after they were given up,
    and servers that cannot reach Redis while others can."""
    await world.set_weather(None, STORE_STORM)
    kinds = {Kind.SPLIT_BRIEFLY: 2.0, Kind.SPLIT_BEYOND_LEASE: 1.0}
    await suffer(world, kinds, 16.0, 3.0)


async def redis_empties(world: World) -> None:
    """What rounds have ended with survives; the round under way is given up."""
    for _ in range(3):
        await world.rounds(2, 60.0)
        await lose_everything(world)
        await until(lambda: not world.witness.loss_is_expected, "the job is rebuilt", 20.0)
    await world.rounds(2, 60.0)


async def redis_rolls_back(world: World) -> None:
    """The last writes are lost, as in a failover.  Who was told of them was told wrong; but
    what is counted and what is in the sum stay the same set, and finished rounds survive."""
    for done in (1, 2):
        while world.faults.total() < done:
            await world.rounds(1, 60.0)
            await until(lambda: world.witness.counts[1] >= FEW, "some reports", 30.0)
            await lose_updates(world, FEW)
    await world.rounds(1, 60.0)
    await lose_rounds(world, 2)
    await until(lambda: not world.witness.loss_is_expected, "the job is rebuilt", 20.0)
    await world.rounds(2, 60.0)


async def everything_dies(world: World) -> None:
    """The same round goes on with the updates that it had."""
    injector = Injector(world)
    for _ in range(2):
        await world.rounds(2, 60.0)
        await until(lambda: world.witness.fields.get("first_report_at"), "a report", 30.0)
        ref, before = world.witness.ref, counted_set(await world.reports(world.witness.ref))
        await injector.inject(Fault(Kind.EVERYTHING_DIES, 0, 0.5, ""))
        after = counted_set(await world.reports(ref))
        if any(after.get(device) != entry for device, entry in before.items()):
            raise Violation("lost", f"round {ref} had {len(before)} updates, now {after}")
    await world.rounds(2, 60.0)


async def rolling_restart(world: World) -> None:
    """Every process once, by SIGTERM, in a job of twenty rounds: all succeed, no request fails,
    and every device of the SDK goes home with the last model."""
    injector = Injector(world)
    world.expected_down.add(world.devices.name)
    for server in world.servers:
        await world.rounds(4, 60.0)
        await injector.retire(server)
        world.faults[Kind.RETIRE_SERVER] += 1
        await world.start_server(server)
    await injector.retire(world.scheduler)
    world.scheduler.start()
    world.expected_down.discard(world.scheduler.name)
    await until(lambda: world.witness.fields["phase"] == "closed", "the job is over", 120.0)
    await until(lambda: not world.devices.is_running(), "all devices go home", 30.0)
    await until(lambda: len(world.witness.homes) == len(world.dimensions.devices()), "all do", 5.0)
    homes = world.witness.homes
    if {homes[device] for device in homes if not is_raw(device)} != {world.witness.digest}:
        raise Violation("same bits", f"devices went home with {homes}")
    tally = world.witness.tally
    if tally.abandoned or tally.words[Word.STUMBLED] or tally.words[Word.REPEAT_REFUSED]:
        raise Violation("nobody notices", f"{tally.abandoned} abandoned, {dict(tally.words)}")


async def scheduler_killed(world: World) -> None:
    """Rounds go on, a new scheduler shows the truth at once, and a death within a second."""
    for _ in range(2):
        world.expected_down.add(world.scheduler.name)
        world.scheduler.kill()
        world.faults[Kind.KILL_SCHEDULER] += 1
        await world.rounds(2, 60.0)
        world.scheduler.start()
        await until(world.scheduler_answers, "the scheduler answers", 20.0)
        world.expected_down.discard(world.scheduler.name)
        if len(world.nodes()) != len(world.servers):
            raise Violation("the scheduler shows the truth", f"nodes: {world.nodes()}")
    victim = world.servers[0]
    world.expected_down.add(victim.name)
    victim.kill()
    world.faults[Kind.KILL_SERVER] += 1
    others = len(world.servers) - 1
    await until(lambda: len(world.nodes()) == others, "a death is shown", SHOWN_S)
    await world.start_server(victim)
    await until(lambda: len(world.nodes()) == others + 1, "a new server is shown", SHOWN_S)


async def disk_full(world: World) -> None:
    """Nothing can be written to the metrics file: each round says so in a log, and goes on."""
    await world.rounds(3, 60.0)
    logs = "".join(server.log.read_text() for server in world.servers)
    complaints = logs.count("is not accounted for")
    world.faults["no space for a metrics line"] += complaints
    if complaints < world.witness.tally.rounds:
        raise Violation("what fails is told", f"{complaints} complaints")


EVERYTHING: Mapping[Kind, float] = {
    Kind.KILL_SERVER: 6,
    Kind.RETIRE_SERVER: 1.5,
    Kind.STOP_BRIEFLY: 3,
    Kind.STOP_BEYOND_LEASE: 2,
    Kind.SPLIT_BRIEFLY: 2,
    Kind.SPLIT_BEYOND_LEASE: 1,
    Kind.KILL_SCHEDULER: 1,
    Kind.PAUSE_REDIS: 1,
    Kind.STOP_REDIS: 1,
    Kind.KILL_REDIS: 1,
    Kind.FLUSH_SCRIPTS: 1,
    Kind.REFUSE_WRITES: 1,
    Kind.EVERYTHING_DIES: 0.2,
}


async def everything_at_once(world: World, seconds: float = 32.0) -> None:
    """All kinds of faults, in drizzle."""
    await world.set_weather(DRIZZLE, STORE_DRIZZLE)
    await suffer(world, EVERYTHING, seconds, 2.0)


SHORT_LIST: tuple[Scenario, ...] = (
    Scenario("servers-killed", "kill -9 of servers at any instant", 101, servers_killed),
    Scenario("points", "kill -9 at every named point", 102, servers_killed_at_points),
    Scenario("servers-stopped", "SIGSTOP, also beyond the lease", 103, servers_stopped),
    Scenario("redis", "Redis paused, stopped, killed, scripts forgotten", 104, redis_troubled),
    Scenario("device-lines", "requests lost, cut, late, doubled", 105, lines_to_devices),
    Scenario("redis-lines", "connections to Redis broken and late", 106, lines_to_redis),
    Scenario("redis-empty", "Redis comes back empty", 107, redis_empties, has_disk=False),
    Scenario("redis-back", "Redis loses its last writes", 113, redis_rolls_back),
    Scenario("everything-dies", "all servers and Redis die", 108, everything_dies),
    Scenario(
        "rolling-restart",
        "every process restarted in a job of 20 rounds",
        109,
        rolling_restart,
        Dimensions(rounds_total=20),
    ),
    Scenario("scheduler", "the scheduler dies", 110, scheduler_killed),
    Scenario(
        "disk-full",
        "no space for the metrics file",
        111,
        disk_full,
        Dimensions(metrics_file="/dev/full"),
    ),
    Scenario("everything", "all kinds of faults at once", 112, everything_at_once),
)
