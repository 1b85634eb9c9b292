"""Devices' steps in a masked round, taken by members that may know less than the store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fl_cluster.errors import StoreCorrupt, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import Reason
from fl_cluster.rounds.plan import ExchangePlan
from fl_cluster.service.exchange import ExchangeDesk
from fl_cluster.service.told import ToldSteps, kept, messages_of
from fl_cluster.wire.messages import ClientShare, RequestExchangeKeys, RequestShareSecrets

EXCHANGE = ExchangePlan(keys=2, shares=2, signatures=0, reveals=2, window_ms=5_000)


def desk_of(member: Any, hold_ms: int = 1_000) -> ExchangeDesk:
    return ExchangeDesk(member.view, member.rounds, member.rounds, hold_ms=hold_ms)


def keys_of(device: str) -> bytes:
    return kept(RequestExchangeKeys(fl_id=device, s_pk=device.encode() * 16))


@pytest.fixture
async def masked(world):
    """A round of two devices that are in, and exchange keys and shares before they report."""
    await world.open(cohort_size=2, report_goal=2, exchange=EXCHANGE)
    member = await world.member()
    await world.admit("d1", "d2")
    await member.view.refresh()
    return member


async def test_a_step_is_taken_once(masked, world):
    desk, other = desk_of(masked), desk_of(await world.member("b"))

    first = await desk.tell(Step.KEYS, "d1", 1, keys_of("d1"))
    again = await other.tell(Step.KEYS, "d1", 1, keys_of("d1"))

    assert first.verdict is Verdict.ACCEPTED
    assert again.verdict is Verdict.DUPLICATE
    assert (await desk.tell(Step.KEYS, "zz", 1)).verdict is Verdict.UNPREPARED
    assert (await desk.tell(Step.KEYS_READ, "d1", 1)).verdict is Verdict.TOO_EARLY


@pytest.mark.parametrize("number", [0, 2, 9])
async def test_a_step_of_another_round_is_not_even_asked_for(masked, number):
    told = await desk_of(masked).tell(Step.KEYS, "d1", number)

    assert told.verdict is Verdict.STALE_ROUND
    assert masked.rounds.calls["tell"] == 0


async def test_a_member_that_missed_the_turn_of_the_round_finds_out(masked, world):
    desk, other = desk_of(masked), await world.member("b")
    await world.round_store.abort(masked.view.snapshot.ref, Reason.REPORT_WINDOW)
    assert await other.finish()
    await world.admit("d1")

    told = await desk.tell(Step.KEYS, "d1", 2, keys_of("d1"))

    assert (told.verdict, told.snapshot.ref.number) == (Verdict.ACCEPTED, 2)


async def test_a_step_that_comes_too_late_ends_the_round(masked, world):
    desk = desk_of(masked)
    await desk.tell(Step.KEYS, "d1", 1, keys_of("d1"))
    await asyncio.sleep(5.1)

    told = await desk.tell(Step.KEYS, "d2", 1, keys_of("d2"))

    assert told.verdict is Verdict.ENOUGH
    assert masked.view.snapshot.phase == "abandoning"
    assert masked.view.snapshot.reason == "exchange_window"


async def test_who_waits_is_told_when_the_step_is_complete(masked, world):
    desk = desk_of(masked, hold_ms=20_000)
    await desk.tell(Step.KEYS, "d1", 1, keys_of("d1"))
    waiting = asyncio.create_task(desk.wait(1, lambda seen: Step.KEYS in seen.complete))
    await asyncio.sleep(1)
    assert not waiting.done()

    await world.round_store.tell(masked.view.snapshot.ref, Step.KEYS, "d2", keys_of("d2"))
    await masked.view.refresh()

    assert Step.KEYS in (await waiting).complete


async def test_who_waits_is_not_kept_by_a_round_that_is_given_up(masked, world):
    desk = desk_of(masked, hold_ms=20_000)
    waiting = asyncio.create_task(desk.wait(1, lambda seen: Step.KEYS in seen.complete))
    await asyncio.sleep(1)

    await world.round_store.abort(masked.view.snapshot.ref, Reason.REPORT_WINDOW)
    await masked.view.refresh()

    assert (await waiting).phase == "abandoning"


async def test_nobody_is_kept_waiting_where_nobody_is_to_wait(masked):
    seen = await desk_of(masked, hold_ms=0).wait(1, lambda seen: Step.KEYS in seen.complete)

    assert Step.KEYS not in seen.complete


async def test_whether_a_device_is_in_is_told_without_any_effect(masked, world):
    desk, ref = desk_of(masked), masked.view.snapshot.ref
    before = await world.round_store.load()

    assert await desk.is_in_cohort(ref, "d1")
    assert not await desk.is_in_cohort(ref, "zz")

    assert await world.round_store.load() == before


# -- what was told -----------------------------------------------------------------------


async def tell_keys(masked: Any) -> ToldSteps:
    desk = desk_of(masked)
    for device in ("d2", "d1"):
        await desk.tell(Step.KEYS, device, 1, keys_of(device))
    return desk.told


async def test_a_complete_step_is_read_once_however_many_ask(masked):
    told, ref = await tell_keys(masked), masked.view.snapshot.ref

    answers = await asyncio.gather(*(told.keys(ref) for _ in range(50)))

    assert [list(each) for each in answers] == [["d1", "d2"]] * 50
    assert answers[0]["d2"].s_pk == b"d2" * 16
    assert masked.rounds.calls["told"] == 1


async def test_a_read_that_failed_is_tried_again(masked):
    told, ref = await tell_keys(masked), masked.view.snapshot.ref
    masked.rounds.fail_before("told")

    with pytest.raises(StoreUnavailable):
        await told.keys(ref)

    assert list(await told.keys(ref)) == ["d1", "d2"]


async def test_shares_are_sorted_by_whom_they_are_for(masked, world):
    desk, ref = desk_of(masked), masked.view.snapshot.ref
    await tell_keys(masked)
    await masked.view.refresh()
    for device, other in (("d1", "d2"), ("d2", "d1")):
        await desk.tell(Step.KEYS_READ, device, 1)
        shares = (ClientShare(other, device.encode()), ClientShare(other, b"a second one"))
        message = RequestShareSecrets(fl_id=device, encrypted_shares=shares)
        await desk.tell(Step.SHARES, device, 1, kept(message))

    assert await desk.told.shares_for(ref, "d1") == (ClientShare("d2", b"d2"),)
    assert await desk.told.shares_for(ref, "zz") == ()
    assert await desk.told.sharers(ref) == {"d1", "d2"}


def test_a_message_that_cannot_be_read_is_a_damaged_store() -> None:
    with pytest.raises(StoreCorrupt, match="a message of a masked round is damaged"):
        messages_of(RequestExchangeKeys, {"d1": b"\xff"})
