"""Many members at once: whatever the order, no place is given twice and no update is lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import (
    Abandoning,
    Aggregating,
    Ending,
    Reason,
    Reporting,
    RoundRef,
    Selecting,
)
from fl_cluster.store.ports import (
    ClaimRequest,
    ModelRecord,
    Offer,
    Outcome,
    ReportBatch,
    RoundStore,
    UpdateRecord,
)
from fl_cluster.store.redis.connection import Connection

if TYPE_CHECKING:
    from conftest import Stores

pytestmark = pytest.mark.redis

REF = RoundRef("run-1", 1)
MEMBERS = tuple(f"m{i}" for i in range(6))
DEVICES = tuple(f"device {i} {{x}}\n\udcff" for i in range(90))
COHORT, GOAL = 60, 45
LONG = {"select_window_ms": 60_000, "report_window_ms": 60_000, "round_window_ms": 60_000}

Crowd = dict[str, RoundStore]


def batch(partial: str, *devices: str) -> ReportBatch:
    return ReportBatch([UpdateRecord(device, "d", 0.0, 0.0) for device in devices], partial)


@pytest.fixture
async def crowd(
    redis_server: Any,
    connect: Callable[..., Connection],
    make_redis_stores: Callable[..., Stores],
) -> Crowd:
    """The round as six members have it, each over connections of its own."""
    stores = {name: make_redis_stores(connect(redis_server, pool_size=4)) for name in MEMBERS}
    rounds = await stores["m0"].open(cohort_size=COHORT, report_goal=GOAL, **LONG)
    return {"m0": rounds} | {name: stores[name]._rounds() for name in MEMBERS[1:]}


async def fill(crowd: Crowd) -> list[str]:
    """Fill the cohort; the devices that are in it."""
    await crowd["m0"].check_in(REF, [Offer(device, 1, 1) for device in DEVICES[:COHORT]])
    return list(DEVICES[:COHORT])


async def forget_scripts(connection: Connection, times: int) -> None:
    for _ in range(times):
        await connection.command("SCRIPT", "FLUSH")
        await asyncio.sleep(0)


async def test_a_crowd_never_overfills_the_cohort(crowd: Crowd) -> None:
    async def offer(member: str, device: str) -> Verdict:
        (verdict,) = await crowd[member].check_in(REF, [Offer(device, 1, 1)])
        return verdict

    verdicts = await asyncio.gather(
        *(offer(member, device) for device in DEVICES for member in MEMBERS[:3])
    )

    words = Counter(verdicts)
    assert words[Verdict.ACCEPTED] == COHORT
    assert set(words) <= {Verdict.ACCEPTED, Verdict.ALREADY_CHECKED_IN, Verdict.COHORT_FULL}
    phase = (await crowd["m0"].load()).phase
    assert isinstance(phase, Reporting)
    assert len(phase.cohort) == COHORT


async def test_each_update_is_counted_once_whoever_gets_it_first(
    crowd: Crowd, connection: Connection
) -> None:
    """Each device sends to three members at once, while Redis forgets its scripts."""
    cohort = await fill(crowd)
    receipts: dict[str, int] = {}

    async def send(member: str, device: str) -> Verdict:
        while True:
            (answer,) = await crowd[member].claim(REF, member, [ClaimRequest(device, 1)])
            if answer.verdict is not Verdict.PENDING:
                break
            await asyncio.sleep(0.001)
        if answer.verdict is Verdict.ACCEPTED:
            partial = f"{member} {DEVICES.index(device)}"
            outcome = await crowd[member].report(REF, member, batch(partial, device))
            assert outcome.verdict is Verdict.ACCEPTED
            assert device not in receipts
            (receipts[device],) = outcome.positions
        return answer.verdict

    sends = [send(member, device) for device in cohort for member in random.sample(MEMBERS, 3)]
    random.shuffle(sends)
    verdicts = Counter((await asyncio.gather(*sends, forget_scripts(connection, 50)))[:-1])

    assert verdicts[Verdict.ACCEPTED] == GOAL
    assert set(verdicts) <= {Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.ENOUGH}
    assert sorted(receipts.values()) == list(range(1, GOAL + 1))
    phase = (await crowd["m0"].load()).phase
    assert isinstance(phase, Aggregating)
    assert {device: one.position for device, one in phase.reports.items()} == receipts
    assert set(phase.partials) == {one.member for one in phase.reports.values()}


async def test_claims_of_a_crowd_never_exceed_the_goal(crowd: Crowd) -> None:
    cohort = await fill(crowd)

    async def claim(member: str, devices: list[str]) -> list[Verdict]:
        requests = [ClaimRequest(device, 1) for device in devices]
        return [answer.verdict for answer in await crowd[member].claim(REF, member, requests)]

    answers = await asyncio.gather(
        *(claim(member, random.sample(cohort, 20)) for member in MEMBERS for _ in range(5))
    )

    words = Counter(verdict for verdicts in answers for verdict in verdicts)
    phase = (await crowd["m0"].load()).phase
    assert isinstance(phase, Reporting)
    assert words[Verdict.ACCEPTED] == len(phase.claims) == GOAL
    assert set(words) == {Verdict.ACCEPTED, Verdict.PENDING}


async def test_members_that_die_at_any_moment_take_no_counted_update_with_them(
    crowd: Crowd,
) -> None:
    """Five of six members are declared dead while they work; the last one finishes the round."""
    cohort = await fill(crowd)
    confirmed: set[str] = set()

    async def work(member: str) -> None:
        for i, device in enumerate(random.sample(cohort, len(cohort))):
            (answer,) = await crowd[member].claim(REF, member, [ClaimRequest(device, 1)])
            if answer.verdict is not Verdict.ACCEPTED:
                continue
            outcome = await crowd[member].report(REF, member, batch(f"{member} {i}", device))
            if outcome.verdict is Verdict.ACCEPTED:
                confirmed.add(device)

    async def die(member: str) -> None:
        for _ in range(random.randrange(30)):
            await asyncio.sleep(0.0005)
        assert await crowd["m0"].member_lost(member) is Verdict.ACCEPTED

    await asyncio.gather(*map(work, MEMBERS[1:]), *map(die, MEMBERS[1:]))
    while isinstance((await crowd["m0"].load()).phase, Reporting):
        await work("m0")

    loaded = await crowd["m0"].load()
    assert isinstance(loaded.phase, Aggregating)
    assert len(loaded.phase.reports) == GOAL
    assert confirmed <= set(loaded.phase.reports)
    assert loaded.fenced == set(MEMBERS[1:])


async def test_one_of_many_gets_the_lease_and_one_publishes(crowd: Crowd) -> None:
    await crowd["m0"].abort(REF, Reason.JOB_DISABLED)
    model = ModelRecord(1, "model-1", 4, "00" * 32, (1,))

    async def finish(member: str) -> tuple[Verdict, Verdict]:
        taken = await crowd[member].take_lease(REF, member, 60_000)
        published = await crowd[member].publish(REF, member, Outcome(model, finishes_job=False))
        return taken, published

    pairs = await asyncio.gather(*map(finish, MEMBERS))

    assert [pair for pair in pairs if Verdict.ACCEPTED in pair] == [
        (Verdict.ACCEPTED, Verdict.ACCEPTED)
    ]
    snapshot = await crowd["m0"].snapshot()
    assert snapshot is not None
    assert snapshot.ref == REF.next()


async def test_whatever_a_crowd_does_a_round_is_read_whole(crowd: Crowd) -> None:
    """`load` never sees one hash from before a report and another from after it."""
    cohort = await fill(crowd)
    is_done = asyncio.Event()

    async def work(member: str, devices: list[str]) -> None:
        for device in devices:
            (answer,) = await crowd[member].claim(REF, member, [ClaimRequest(device, 1)])
            if answer.verdict is Verdict.ACCEPTED:
                await crowd[member].report(
                    REF, member, batch(f"{member} {DEVICES.index(device)}", device)
                )

    async def look() -> int:
        looks = 0
        while not is_done.is_set():
            phase = (await crowd["m5"].load()).phase
            assert isinstance(phase, Selecting | Reporting | Ending)
            assert {one.member for one in phase.reports.values()} == set(phase.partials)
            claims = set() if isinstance(phase, Ending) else set(phase.claims)
            assert not claims & set(phase.reports)
            assert (len(phase.reports) == GOAL) is isinstance(phase, Aggregating)
            looks += 1
        return looks

    looking = asyncio.create_task(look())
    await asyncio.gather(*(work(f"m{i}", cohort[i::5]) for i in range(5)))
    is_done.set()

    assert await looking > 5


async def test_a_deadline_has_one_winner(crowd: Crowd) -> None:
    await crowd["m0"].check_in(REF, [Offer("a", 1, 1)])
    snapshot = await crowd["m0"].snapshot()
    assert snapshot is not None
    assert snapshot.deadline is not None
    deadline = snapshot.deadline

    words = await asyncio.gather(*(one.tick(REF, deadline) for one in crowd.values()))

    assert set(words) == {Verdict.ACCEPTED}
    assert isinstance((await crowd["m0"].load()).phase, Abandoning)
