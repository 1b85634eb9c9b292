"""The exchange of a masked round, held against both stores alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import ExchangePlan, Millis
from fl_cluster.store.ports import (
    ClaimRequest,
    ModelRecord,
    Offer,
    Outcome,
    ReportBatch,
    RoundStore,
    Snapshot,
    UpdateRecord,
)

if TYPE_CHECKING:
    from conftest import Stores

REF = RoundRef("run-1", 1)
T0 = 1_700_000_000_000
PLAN = ExchangePlan(keys=3, shares=2, signatures=1, reveals=2, window_ms=60)
DEVICES = ("a", "b\udcff", "é")
MODEL = ModelRecord(1, "model-1", 16, "cd" * 32, (40, 41))


def at(offset: int) -> Millis:
    return Millis(T0 + offset)


@pytest.fixture
async def rounds(stores: Stores) -> RoundStore:
    """A masked round with a full cohort."""
    found = await stores.open(exchange=PLAN, cohort_size=3, round_window_ms=10_000)
    await found.check_in(REF, [Offer(device, 32, 8) for device in DEVICES], at(0))
    return found


async def seen(rounds: RoundStore) -> Snapshot:
    snapshot = await rounds.snapshot()
    assert snapshot is not None
    return snapshot


async def tell(rounds: RoundStore, step: Step, *devices: str, instant: int = 10) -> list[Verdict]:
    return [
        await rounds.tell(REF, step, device, f"{step} \x00 {number}".encode(), at(instant))
        for number, device in enumerate(devices)
    ]


async def report(rounds: RoundStore, *devices: str) -> Verdict:
    await rounds.claim(REF, "m1", [ClaimRequest(device, 1) for device in devices], at(20))
    updates = [UpdateRecord(device, "digest", 0.5, 0.25) for device in devices]
    return (await rounds.report(REF, "m1", ReportBatch(updates, "p1"), at(20))).verdict


async def unmasking(rounds: RoundStore) -> None:
    """All devices take all steps before the goal, and two report."""
    for step in (Step.KEYS, Step.KEYS_READ):
        assert await tell(rounds, step, *DEVICES) == [Verdict.ACCEPTED] * 3
    for step in (Step.SHARES, Step.SHARES_READ):
        assert await tell(rounds, step, *DEVICES[:2]) == [Verdict.ACCEPTED] * 2
    assert await report(rounds, *DEVICES[:2]) is Verdict.ACCEPTED
    assert (await seen(rounds)).is_unmasking


async def test_the_plan_of_a_masked_round_is_kept(rounds: RoundStore) -> None:
    assert (await seen(rounds)).plan.exchange == PLAN


async def test_messages_come_back_byte_for_byte_in_the_order_of_names(rounds: RoundStore) -> None:
    await tell(rounds, Step.KEYS, *reversed(DEVICES))

    told = await rounds.told(REF, Step.KEYS)

    assert list(told) == ["a", "b\udcff", "é"]
    assert told["a"] == b"keys \x00 2"


async def test_of_two_messages_the_first_stays(rounds: RoundStore) -> None:
    await rounds.tell(REF, Step.KEYS, "a", b"first", at(10))

    assert await rounds.tell(REF, Step.KEYS, "a", b"second", at(11)) is Verdict.DUPLICATE
    assert await rounds.told(REF, Step.KEYS) == {"a": b"first"}


async def test_keys_are_replaced_until_all_are_there_and_stay_then(rounds: RoundStore) -> None:
    await rounds.tell(REF, Step.KEYS, "a", b"first", at(10))
    await rounds.tell(REF, Step.KEYS, DEVICES[1], b"its own", at(11))

    replaced = await rounds.replace_keys(REF, "a", b"second", b"first", at(12))

    assert replaced is Verdict.ACCEPTED
    assert await rounds.told(REF, Step.KEYS) == {"a": b"second", DEVICES[1]: b"its own"}
    assert await rounds.takers(REF, Step.KEYS) == 2
    assert (await seen(rounds)).complete == frozenset()
    assert (await seen(rounds)).deadline == at(70)  # new keys give no more time
    await rounds.tell(REF, Step.KEYS, DEVICES[2], b"the last", at(13))
    for former in (b"second", b"first"):
        assert await rounds.replace_keys(REF, "a", b"third", former, at(14)) is Verdict.ENOUGH
    assert (await rounds.told(REF, Step.KEYS))["a"] == b"second"


async def test_keys_that_were_replaced_meanwhile_replace_none(rounds: RoundStore) -> None:
    """As those of a call that a server sends again when the device has come back with others."""
    await rounds.tell(REF, Step.KEYS, "a", b"first", at(10))
    assert await rounds.replace_keys(REF, "a", b"", b"first", at(11)) is Verdict.ACCEPTED

    assert await rounds.replace_keys(REF, "a", b"third", b"first", at(12)) is Verdict.DUPLICATE
    assert await rounds.told(REF, Step.KEYS) == {"a": b""}
    assert await rounds.replace_keys(REF, "a", b"third", b"", at(12)) is Verdict.ACCEPTED
    assert await rounds.told(REF, Step.KEYS) == {"a": b"third"}


async def test_replacing_keys_is_bound_by_all_that_offering_them_is(rounds: RoundStore) -> None:
    after = RoundRef("run-1", 2)

    stranger = await rounds.replace_keys(REF, "stranger", b"", b"", at(10))
    first = await rounds.replace_keys(REF, "a", b"first", b"none", at(10))
    elsewhere = await rounds.replace_keys(after, "a", b"second", b"first", at(11))
    late = await rounds.replace_keys(REF, "a", b"second", b"first", at(70))

    verdicts = [stranger, first, elsewhere, late]
    assert verdicts == [Verdict.UNPREPARED, Verdict.ACCEPTED, Verdict.MOVED_ON, Verdict.LATE]
    assert await rounds.told(REF, Step.KEYS) == {"a": b"first"}


async def test_one_message_and_how_many_there_are_can_be_asked_for(rounds: RoundStore) -> None:
    await tell(rounds, Step.KEYS, *DEVICES[:2])

    assert await rounds.message(REF, Step.KEYS, DEVICES[1]) == b"keys \x00 1"
    assert await rounds.message(REF, Step.KEYS, DEVICES[2]) is None
    assert await rounds.message(REF, Step.SHARES, DEVICES[1]) is None
    assert await rounds.takers(REF, Step.KEYS) == 2
    assert await rounds.takers(RoundRef("run-1", 2), Step.KEYS) == 0


async def test_a_step_is_complete_with_its_goal_and_then_closed(rounds: RoundStore) -> None:
    assert await tell(rounds, Step.KEYS, *DEVICES) == [Verdict.ACCEPTED] * 3
    assert (await seen(rounds)).complete == {Step.KEYS}
    await tell(rounds, Step.KEYS_READ, *DEVICES)

    verdicts = await tell(rounds, Step.SHARES, *DEVICES)

    assert verdicts == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.ENOUGH]
    assert (await seen(rounds)).complete == {Step.KEYS, Step.SHARES}
    assert len(await rounds.told(REF, Step.SHARES)) == 2


async def test_a_step_opens_when_the_one_before_is_complete(rounds: RoundStore) -> None:
    await tell(rounds, Step.KEYS, *DEVICES[:2])

    assert await tell(rounds, Step.KEYS_READ, "a") == [Verdict.TOO_EARLY]
    assert await tell(rounds, Step.SHARES, "a") == [Verdict.UNPREPARED]
    assert await tell(rounds, Step.REVEALS, "a") == [Verdict.TOO_EARLY]
    assert await tell(rounds, Step.KEYS, "stranger") == [Verdict.UNPREPARED]


async def test_an_update_is_taken_from_who_has_read_its_shares(rounds: RoundStore) -> None:
    await tell(rounds, Step.KEYS, *DEVICES)
    requests = [ClaimRequest(device, 1) for device in DEVICES]

    before = await rounds.claim(REF, "m1", requests, at(15))
    await tell(rounds, Step.KEYS_READ, *DEVICES)
    await tell(rounds, Step.SHARES, *DEVICES[:2])
    await tell(rounds, Step.SHARES_READ, DEVICES[1])
    after = await rounds.claim(REF, "m1", requests, at(16))

    assert [answer.verdict for answer in before] == [Verdict.UNPREPARED] * 3
    assert [answer.verdict for answer in after] == [
        Verdict.UNPREPARED,
        Verdict.ACCEPTED,
        Verdict.UNPREPARED,
    ]


async def test_reveals_end_the_waiting_and_keep_the_messages(rounds: RoundStore) -> None:
    await unmasking(rounds)
    assert await tell(rounds, Step.LIST_READ, *DEVICES) == [
        Verdict.ACCEPTED,
        Verdict.ACCEPTED,
        Verdict.UNPREPARED,
    ]

    verdicts = await tell(rounds, Step.REVEALS, *DEVICES[:2], instant=30)

    snapshot = await seen(rounds)
    assert verdicts == [Verdict.ACCEPTED] * 2
    assert (snapshot.phase, snapshot.ended_at) == ("aggregating", at(30))
    assert snapshot.needs_finishing
    assert len(await rounds.told(REF, Step.REVEALS)) == 2


async def test_a_member_may_find_that_enough_is_revealed(rounds: RoundStore) -> None:
    assert await rounds.proceed(REF, at(10)) is Verdict.TOO_EARLY
    await unmasking(rounds)

    assert await rounds.proceed(REF, at(31)) is Verdict.ACCEPTED

    assert (await seen(rounds)).phase == "aggregating"
    assert await rounds.proceed(REF, at(32)) is Verdict.ENOUGH
    assert await rounds.proceed(RoundRef("run-1", 2), at(32)) is Verdict.MOVED_ON


async def test_a_round_whose_list_nobody_reads_ends_in_the_time_of_a_step(
    rounds: RoundStore,
) -> None:
    await unmasking(rounds)
    assert (await seen(rounds)).deadline == at(80)

    await rounds.tick(REF, at(79))
    assert (await seen(rounds)).is_unmasking
    await rounds.tick(REF, at(80))

    assert (await seen(rounds)).reason is Reason.EXCHANGE_WINDOW


async def test_after_the_list_was_read_there_is_the_time_of_a_step_to_reveal(
    rounds: RoundStore,
) -> None:
    await unmasking(rounds)

    await tell(rounds, Step.LIST_READ, "a", instant=70)

    assert (await seen(rounds)).deadline == at(130)
    assert await tell(rounds, Step.REVEALS, "a", instant=130) == [Verdict.LATE]


@pytest.mark.parametrize("is_unmasking", [False, True])
async def test_a_step_that_waits_too_long_ends_the_round(
    rounds: RoundStore, is_unmasking: bool
) -> None:
    if is_unmasking:
        await unmasking(rounds)
        await tell(rounds, Step.LIST_READ, "a", instant=30)
        await tell(rounds, Step.REVEALS, "a", instant=30)
    else:
        await tell(rounds, Step.KEYS, "a", instant=30)
    assert (await seen(rounds)).deadline == at(90)

    await rounds.tick(REF, at(89))
    assert not (await seen(rounds)).needs_finishing
    assert (await tell(rounds, Step.LIST_READ, "b", instant=90))[0] is not Verdict.ACCEPTED
    await rounds.tick(REF, at(90))

    assert (await seen(rounds)).reason is Reason.EXCHANGE_WINDOW


async def test_the_next_round_begins_without_any_step(rounds: RoundStore) -> None:
    await unmasking(rounds)
    await rounds.proceed(REF, at(40))
    await rounds.take_lease(REF, "m1", 1_000, at(41))
    assert await rounds.publish(REF, "m1", Outcome(MODEL, False)) is Verdict.ACCEPTED

    after = RoundRef("run-1", 2)
    snapshot = await seen(rounds)
    assert (snapshot.phase, snapshot.complete) == ("waiting", frozenset())
    assert snapshot.plan.exchange == PLAN
    assert await rounds.told(after, Step.KEYS) == {}
    assert len(await rounds.told(REF, Step.KEYS)) == 3
    assert await rounds.tell(after, Step.KEYS, "a", b"", at(50)) is Verdict.UNPREPARED


async def test_a_round_that_is_not_masked_takes_no_step(stores: Stores) -> None:
    rounds = await stores.open()
    await rounds.check_in(REF, [Offer("a", 32, 8)], at(0))

    assert await rounds.tell(REF, Step.KEYS, "a", b"", at(1)) is Verdict.ENOUGH
