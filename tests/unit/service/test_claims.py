"""Turns and claims of one member."""

from __future__ import annotations

import asyncio

import pytest

from fl_cluster.errors import StoreCorrupt, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.claims import Claims
from fl_cluster.store.ports import ClaimRequest


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
async def desk(job):
    """Claims of member `a`, its store, and the job."""
    member = await job.member()
    await job.admit("d1", "d2", "d3")
    return Claims(member.stores.rounds, lambda: "a"), member.rounds, job


async def test_a_devices_turns_come_one_after_the_other(desk):
    claims, _, _ = desk
    order = []

    async def take(name: str) -> None:
        async with claims.turn("d1", now() + 100):
            order.append(f"{name} begins")
            await asyncio.sleep(1)
            order.append(f"{name} ends")

    await asyncio.gather(*(take(name) for name in "xyz"))

    assert order == [f"{name} {word}" for name in "xyz" for word in ("begins", "ends")]


async def test_devices_do_not_wait_for_each_other(desk):
    claims, _, _ = desk

    async with claims.turn("d1", now() + 100), claims.turn("d2", now()):
        pass


async def test_a_turn_that_does_not_come_in_time_is_refused(desk):
    claims, _, _ = desk

    async with claims.turn("d1", now() + 100):
        with pytest.raises(StoreUnavailable, match="earlier update of this device"):
            async with claims.turn("d1", now() + 5):
                pass

    async with claims.turn("d1", now()):
        pass


async def test_one_call_asks_for_all_and_names_one_round(desk):
    claims, rounds, job = desk
    other = RoundRef("run-0", 9)

    answers = await asyncio.gather(
        claims.ask(job.first, ClaimRequest("d1", 1)),
        claims.ask(other, ClaimRequest("d2", 1)),
        claims.ask(job.first, ClaimRequest("d3", 1)),
    )

    assert [a.verdict for a in answers] == [Verdict.ACCEPTED, Verdict.MOVED_ON, Verdict.ACCEPTED]
    assert [a.data_size for a in answers] == [11, 0, 31]
    assert rounds.calls["claim"] == 1


@pytest.mark.parametrize("fault", [None, StoreCorrupt("a word that is no verdict")])
async def test_the_turn_lasts_until_a_claim_in_doubt_is_given_up(desk, fault):
    claims, rounds, job = desk
    rounds.fail_after("claim", fault=fault)
    rounds.fail_before("release", times=3)
    started = now()

    with pytest.raises((StoreUnavailable, StoreCorrupt)):
        async with claims.turn("d1", now()):
            await claims.ask(job.first, ClaimRequest("d1", 1))
    assert job.claims() == {"d1": "a"}
    async with claims.turn("d1", now() + 10):
        assert job.claims() == {}

    assert 0.3 < now() - started < 1


async def test_looking_for_stragglers_spares_a_device_whose_turn_it_is(desk):
    claims, _, job = desk
    claims.give_up_later(job.first, "a", ["d1", "d2"])
    await asyncio.sleep(0.1)
    for device in ("d1", "d2"):
        await job.round_store.claim(job.first, "a", [ClaimRequest(device, 1)])

    async with claims.turn("d1", now()):
        await asyncio.sleep(10)

        assert job.claims() == {"d1": "a"}


async def test_a_claim_that_cannot_be_given_up_does_not_hold_the_device_for_ever(desk):
    claims, rounds, job = desk
    rounds.fail_before("release", fault=StoreCorrupt("refused"))

    claims.give_up_later(job.first, "a", ["d1"])

    async with claims.turn("d1", now() + 1):
        pass


async def test_nothing_is_left_behind(desk):
    claims, _, job = desk
    claims.give_up_later(job.first, "a", ["d1", "d2"])
    async with claims.turn("d1", now() + 1):
        pass
    await asyncio.sleep(60)

    assert (claims._turns, claims._background) == ({}, set())
    assert len(asyncio.all_tasks()) == 1
