"""Checking devices in: the store decides; a round that turns over is waited for."""

from __future__ import annotations

import asyncio

import pytest

from fl_cluster.errors import StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason
from fl_cluster.store.ports import Offer


def offer(device: str, data_size: int = 10) -> Offer:
    return Offer(device, data_size, 2)


async def test_a_device_is_admitted_with_what_it_declared(job):
    member = await job.member()

    answer = await member.desk.check_in(offer("d1", 77))

    assert (answer.verdict, answer.snapshot.ref) == (Verdict.ACCEPTED, job.first)
    admission = job.round_store._round.phase.cohort["d1"]
    assert (admission.data_size, admission.eval_data_size) == (77, 2)


async def test_a_device_is_admitted_once(job):
    member = await job.member()
    await member.desk.check_in(offer("d1"))

    answer = await member.desk.check_in(offer("d1"))

    assert answer.verdict is Verdict.ALREADY_CHECKED_IN


async def test_devices_that_come_together_share_a_call_and_the_cohort_is_never_exceeded(world):
    await world.open(cohort_size=60)
    members = [await world.member(name) for name in "ab"]

    answers = await asyncio.gather(
        *(members[n % 2].desk.check_in(offer(f"d{n}")) for n in range(100))
    )

    verdicts = [answer.verdict for answer in answers]
    assert (verdicts.count(Verdict.ACCEPTED), verdicts.count(Verdict.COHORT_FULL)) == (60, 40)
    assert all(member.rounds.calls["check_in"] <= 2 for member in members)


async def test_a_device_that_comes_while_a_round_is_finished_joins_the_next_one(job):
    member, other = await job.member(), await job.member("b")
    await job.round_store.abort(job.first, Reason.JOB_DISABLED)
    await member.view.refresh()
    joining = asyncio.create_task(member.desk.check_in(offer("d1")))
    await asyncio.sleep(1)
    assert not joining.done()

    assert await other.finish()
    await member.view.refresh()

    answer = await joining
    assert (answer.verdict, answer.snapshot.ref.number) == (Verdict.ACCEPTED, 2)


async def test_a_round_that_takes_long_to_finish_takes_nobody(job):
    member = await job.member()
    await job.round_store.abort(job.first, Reason.JOB_DISABLED)
    await member.view.refresh()

    answer = await member.desk.check_in(offer("d1"))

    assert (answer.verdict, answer.snapshot.phase) == (Verdict.COHORT_FULL, "abandoning")


async def test_an_old_view_costs_a_second_look_and_not_a_refusal(job):
    member, other = await job.member(), await job.member("b")
    await job.round_store.abort(job.first, Reason.JOB_DISABLED)
    assert await other.finish()
    assert member.view.snapshot.ref.number == 1

    answer = await member.desk.check_in(offer("d1"))

    assert (answer.verdict, answer.snapshot.ref.number) == (Verdict.ACCEPTED, 2)


async def test_a_device_that_comes_when_time_is_up_ends_the_round(job):
    member, other = await job.member(), await job.member("b")
    await member.desk.check_in(offer("d1"))
    await asyncio.sleep(61)
    joining = asyncio.create_task(member.desk.check_in(offer("d2")))
    await asyncio.sleep(0.1)
    assert (await job.snapshot()).reason is Reason.SELECT_WINDOW

    assert await other.finish()
    await member.view.refresh()

    answer = await joining
    assert (answer.verdict, answer.snapshot.ref.number) == (Verdict.ACCEPTED, 2)


async def test_a_closed_job_takes_nobody(world):
    await world.open(rounds_total=1)
    member = await world.member()
    await world.round_store.abort(world.first, Reason.JOB_DISABLED)
    assert await member.finish()

    answer = await member.desk.check_in(offer("d1"))

    assert (answer.verdict, answer.snapshot.is_closed) == (Verdict.COHORT_FULL, True)


async def test_a_lost_answer_is_a_fault_and_asking_again_says_what_became_of_it(job):
    member = await job.member()
    member.rounds.fail_after("check_in")

    with pytest.raises(StoreUnavailable):
        await member.desk.check_in(offer("d1"))

    answer = await member.desk.check_in(offer("d1"))
    assert answer.verdict is Verdict.ALREADY_CHECKED_IN


class Overtaken:
    """Rounds that end as soon as they were looked at."""

    def __init__(self, job, other) -> None:
        self._job, self._other = job, other

    def __getattr__(self, method: str):
        return getattr(self._job.round_store, method)

    async def snapshot(self):
        found = await self._job.round_store.snapshot()
        await self._job.round_store.abort(found.ref, Reason.JOB_DISABLED)
        assert await self._other.finish()
        return found


async def test_one_that_never_finds_a_current_round_is_refused_in_the_end(job):
    """However fast rounds follow each other, an offer ends."""
    member, other = await job.member(), await job.member("b")
    await job.round_store.abort(job.first, Reason.JOB_DISABLED)
    assert await other.finish()
    member.rounds.store = Overtaken(job, other)

    answer = await member.desk.check_in(offer("d1"))

    assert answer.verdict is Verdict.COHORT_FULL
    assert member.rounds.calls["check_in"] == 8
