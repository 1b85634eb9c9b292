"""Redis forgets: everything, its last writes, or whole rounds.

Such a fault takes away what the cluster was told is safe, so each has expectations of its own,
which the witness is told of beforehand.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.machine import until
from harness.witness import PREFIX
from harness.world import World

WAIT_S = 30.0
SETTLE_S = 0.1
"""What Redis needs at most to carry out what it has been sent."""


async def lose_everything(world: World) -> None:
    """Redis is killed and comes back without a memory."""
    assert not world.has_disk
    world.faults["Redis comes back empty"] += 1
    world.witness.loss_is_expected = True
    await _restart(world, lambda: None)


async def lose_updates(world: World, updates: int) -> None:
    """Redis loses its last writes, as in a failover: a copy is taken, so many updates more are
    counted, and Redis comes back with the copy; unless the round was over by then."""
    _save(world)
    ref, enough = world.witness.ref, world.witness.counts[1] + updates
    await until(
        lambda: world.witness.counts[1] >= enough or world.witness.ref != ref,
        f"{updates} more updates are counted",
        WAIT_S,
    )
    with _servers_stopped(world):
        await asyncio.sleep(SETTLE_S)
        now, phase = await world.admin.hmget(PREFIX + "round", "ref", "phase")
        if now == ref and phase in ("selecting", "reporting"):
            world.faults["Redis loses its last writes"] += 1
            world.witness.forgive(ref)
            await _restart(world, lambda: _restore(world))


async def lose_rounds(world: World, rounds: int) -> None:
    """Redis comes back as it was so many rounds ago."""
    _save(world)
    await world.rounds(rounds, 60.0)
    world.faults["Redis loses whole rounds"] += 1
    world.witness.loss_is_expected = True
    await _restart(world, lambda: _restore(world))


def _save(world: World) -> None:
    """Copy what Redis has on disk, between two writes."""
    shutil.rmtree(world.folder / "saved", ignore_errors=True)
    world.redis.signal(signal.SIGSTOP)
    shutil.copytree(world.folder / "appendonlydir", world.folder / "saved")
    world.redis.signal(signal.SIGCONT)


def _restore(world: World) -> None:
    shutil.rmtree(world.folder / "appendonlydir")
    (world.folder / "saved").rename(world.folder / "appendonlydir")


@contextmanager
def _servers_stopped(world: World) -> Iterator[None]:
    """Nobody writes to Redis, after what is on its way."""
    for server in world.servers:
        server.signal(signal.SIGSTOP)
    yield
    for server in world.servers:
        server.signal(signal.SIGCONT)


async def _restart(world: World, meanwhile: Callable[[], None]) -> None:
    world.expected_down.add(world.redis.name)
    with world.trouble_with_redis():
        world.redis.kill()
        meanwhile()
        await asyncio.sleep(world.source.uniform(0.0, 1.0))
        await world.start_redis()
        world.expected_down.discard(world.redis.name)
