"""Whatever breaks: a device that was told 200 is in the model, and every update counts once.

Each run draws its own weather.  Calls to the store are slow, fail before or after they are
done, or fail and are done seconds later, as through a network that lost packets.  Members are
declared dead while they live, and go on under new names.  Devices try again elsewhere.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from fl_cluster.aggregate.partial import Update
from fl_cluster.errors import StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.service.clock import Clock
from fl_cluster.service.collect import Arrival
from fl_cluster.store.memory import MemoryEvents
from fl_cluster.store.ports import UpdateRecord

HOURS_MS = 10 * 3_600_000
DEVICES = 12


@dataclass
class Storm:
    """How often which fault comes, in one run."""

    rng: random.Random
    fails: float
    is_late: bool
    """Whether a call that failed may be done later."""
    is_over: bool = False
    stragglers: set[asyncio.Task[Any]] = field(default_factory=set)

    async def __call__(self, _: str, do: Any) -> Any:
        await asyncio.sleep(self.rng.expovariate(200))
        if self.is_over or self.rng.random() >= self.fails:
            return await do()
        kind = self.rng.choice(("before", "after", "late") if self.is_late else ("before", "after"))
        if kind == "after":
            await do()
        elif kind == "late":
            task = asyncio.create_task(self._straggle(do))
            self.stragglers.add(task)
        raise StoreUnavailable("any", f"lost: {kind}")

    async def _straggle(self, do: Any) -> None:
        await asyncio.sleep(self.rng.uniform(0.001, 3))
        await do()


class Fleet:
    """Devices that report until they know that they are counted, or that it is too late."""

    def __init__(self, world: Any, members: list[Any], rng: random.Random) -> None:
        self.world, self.members, self.rng = world, members, rng
        self.told: dict[str, int] = {}
        self.updates: dict[str, Update] = {}

    async def report(self, device: str) -> None:
        await asyncio.sleep(self.rng.uniform(0, 2))
        update = self.updates[device]
        while True:
            record = UpdateRecord(device, device, 0.5, 0.5)
            member = self.rng.choice(self.members)
            try:
                answer = await member.collector.collect(Arrival(record, 1, update))
            except StoreUnavailable:
                await asyncio.sleep(self.rng.uniform(0, 0.5))
                continue
            if answer.receipt is not None:
                self.told[device] = answer.receipt.position
            else:
                assert answer.verdict is Verdict.ENOUGH, answer
            return


async def trouble(world: Any, member: Any, rng: random.Random) -> None:
    """Declare the member dead now and then; a little later it hears of it."""
    for life in range(2, 5):
        await asyncio.sleep(rng.uniform(0.5, 6))
        await world.round_store.member_lost(member.collector.member)
        await asyncio.sleep(rng.uniform(0, 1))
        member.collector.become(f"{member.name}{life}")


@pytest.mark.parametrize("goal", [DEVICES, DEVICES - 4])
@pytest.mark.parametrize("seed", range(60))
async def test_what_was_acknowledged_is_in_the_model_and_counts_once(
    world: Any, seed: int, goal: int
) -> None:
    rng = random.Random(seed * 1000 + goal)
    await world.open(
        cohort_size=DEVICES,
        report_goal=goal,
        select_window_ms=HOURS_MS,
        report_window_ms=HOURS_MS,
        round_window_ms=HOURS_MS,
    )
    devices = [f"d{n:02}" for n in range(DEVICES)]
    await world.admit(*devices)
    members = [await world.member(name) for name in "abc"]
    storm = Storm(rng, rng.choice((0.02, 0.1, 0.3)), is_late=seed % 2 == 1)
    fleet = Fleet(world, members, rng)
    for device in devices:
        fleet.updates[device] = world.sent[device] = world.update(is_plain=rng.random() < 0.5)
    clocks = []
    for member in members:
        for store in (member.rounds, member.jobs, member.blobs):
            store.weather = storm
        clock = Clock(
            member.view, member.stores.rounds, MemoryEvents(), member.finisher, _never_lost
        )
        clocks.append(asyncio.create_task(clock.run()))
    troubles = [asyncio.create_task(trouble(world, member, rng)) for member in members[:2]]

    senders = devices + rng.sample(devices, 4)
    await asyncio.gather(*map(fleet.report, senders), *troubles)
    storm.is_over = True
    await asyncio.sleep(30)

    assert (await world.snapshot()).ref.number == 2
    assert (await world.snapshot()).last_outcome == "committed"
    counted = await world.round_store.reported(world.first)
    positions = {update.device: update.position for update in counted}
    assert sorted(positions.values()) == list(range(1, goal + 1))
    assert fleet.told.items() <= positions.items()
    model = members[0].view.base.model
    assert model.values.tobytes() == world.expected(*positions)
    for clock in clocks:
        clock.cancel()
    await asyncio.wait(clocks)
    await asyncio.sleep(60)
    assert len(asyncio.all_tasks()) == 1


async def _never_lost() -> None:
    pytest.fail("nobody loses this job")
