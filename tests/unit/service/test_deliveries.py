"""Who has been told that its update is counted: known here at once, elsewhere soon."""

from __future__ import annotations

import asyncio
import logging

import pytest

from fl_cluster.errors import StoreUnavailable
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service import deliveries as module
from fl_cluster.service.deliveries import Deliveries


@pytest.fixture
async def member(job):
    return await job.member()


@pytest.fixture
def deliveries(member):
    return Deliveries(member.rounds)


@pytest.fixture
def others(job, interposed):
    """The deliveries of another member, and its way to the store."""
    link = interposed(job.round_store)
    return Deliveries(link), link


async def deliver(deliveries, ref, device):
    deliveries.begin(ref, device)
    deliveries.end(ref, device, is_delivered=True)


async def test_what_this_member_has_told_it_knows_without_asking(job, member, deliveries):
    await deliver(deliveries, job.first, "d1")

    assert await deliveries.was_told(job.first, "d1")

    assert member.rounds.calls["was_answered"] == 0
    await deliveries.flush()


async def test_what_one_member_has_told_the_others_learn_from_the_store(job, deliveries, others):
    other, _ = others
    await deliver(deliveries, job.first, "d1")
    await deliveries.flush()

    assert await other.was_told(job.first, "d1")
    assert not await other.was_told(job.first, "d2")
    assert not await other.was_told(job.first.next(), "d1")


async def test_a_delivery_that_the_store_hears_of_a_little_later_is_waited_for(
    job, deliveries, others
):
    other, link = others
    first_look = link.hold_after("was_answered")
    looked = asyncio.create_task(other.was_told(job.first, "d1"))
    await first_look.reached.wait()
    first_look.go.set()

    await deliver(deliveries, job.first, "d1")

    assert await looked
    assert link.calls["was_answered"] == 2


async def test_an_answer_that_nobody_saw_leave_was_not_told(job, member, deliveries):
    deliveries.begin(job.first, "d1")
    deliveries.end(job.first, "d1", is_delivered=False)

    assert not await deliveries.was_told(job.first, "d1")

    assert member.rounds.calls["note_answered"] == 0
    assert member.rounds.calls["was_answered"] == 2


@pytest.mark.parametrize("is_delivered", [True, False])
async def test_a_repeat_waits_for_what_becomes_of_an_answer_on_its_way(
    job, deliveries, is_delivered
):
    deliveries.begin(job.first, "d1")
    asked = asyncio.create_task(deliveries.was_told(job.first, "d1"))
    await asyncio.sleep(0)
    assert not asked.done()
    began = asyncio.get_running_loop().time()

    deliveries.end(job.first, "d1", is_delivered=is_delivered)

    assert await asked is is_delivered
    took = asyncio.get_running_loop().time() - began
    assert took < module.OTHERS_S + module.GATHER_S
    await deliveries.flush()


async def test_an_answer_that_does_not_leave_is_not_waited_for_for_ever(
    job, deliveries, monkeypatch
):
    monkeypatch.setattr(module, "WRITING_S", 0.01)
    deliveries.begin(job.first, "d1")

    assert not await deliveries.was_told(job.first, "d1")


async def test_the_end_of_an_earlier_answer_is_not_taken_for_that_of_a_later_one(job, deliveries):
    for _ in range(2):
        deliveries.begin(job.first, "d1")
    deliveries.end(job.first, "d1", is_delivered=False)
    asked = asyncio.create_task(deliveries.was_told(job.first, "d1"))
    await asyncio.sleep(0)

    deliveries.end(job.first, "d1", is_delivered=True)

    assert await asked
    await deliveries.flush()


async def test_deliveries_that_come_together_are_one_call(job, member, deliveries):
    for n in range(50):
        await deliver(deliveries, job.first, f"d{n}")

    await deliveries.flush()

    assert member.rounds.calls["note_answered"] == 1
    assert await job.round_store.was_answered(job.first, "d49")


async def test_what_is_delivered_while_the_store_is_told_is_told_too(job, member, deliveries):
    held = member.rounds.hold_before("note_answered")
    await deliver(deliveries, job.first, "d1")
    await held.reached.wait()
    await deliver(deliveries, job.first, "d2")
    held.go.set()

    await deliveries.flush()

    assert await job.round_store.was_answered(job.first, "d1")
    assert await job.round_store.was_answered(job.first, "d2")


async def test_a_store_that_is_away_costs_the_others_their_knowledge_and_nothing_else(
    job, member, deliveries, caplog
):
    caplog.set_level(logging.INFO)
    member.rounds.fail_before("note_answered")
    for device in ("d1", "d2"):
        await deliver(deliveries, job.first, device)
    await deliveries.flush()

    assert await deliveries.was_told(job.first, "d1")
    assert not await job.round_store.was_answered(job.first, "d1")
    assert "the store was not told of 2 answers" in caplog.text

    await deliver(deliveries, job.first, "d3")
    await deliveries.flush()
    assert await job.round_store.was_answered(job.first, "d3")


async def test_what_is_delivered_while_telling_fails_is_told_afterwards(job, member, deliveries):
    held = member.rounds.hold_before("note_answered")
    await deliver(deliveries, job.first, "d1")
    await held.reached.wait()
    await deliver(deliveries, job.first, "d2")
    member.rounds.fail_after("note_answered")
    held.go.set()

    await deliveries.flush()

    assert await job.round_store.was_answered(job.first, "d2")


async def test_when_nobody_can_know_the_caller_hears_of_it(job, member, deliveries):
    member.rounds.is_away = True

    with pytest.raises(StoreUnavailable):
        await deliveries.was_told(job.first, "d1")


async def test_only_the_last_rounds_are_remembered_here_and_the_store_knows_the_rest(
    job, member, deliveries
):
    rounds = [RoundRef("run-1", number) for number in range(1, 6)]
    for ref in rounds:
        await deliver(deliveries, ref, "d1")
    await deliveries.flush()

    for ref in rounds:
        assert await deliveries.was_told(ref, "d1")

    assert len(deliveries._told) == module.KEPT_ROUNDS
    assert member.rounds.calls["was_answered"] == len(rounds) - module.KEPT_ROUNDS


async def test_nothing_to_tell_is_told_to_nobody(member, deliveries):
    await deliveries.flush()

    assert member.rounds.calls["note_answered"] == 0
