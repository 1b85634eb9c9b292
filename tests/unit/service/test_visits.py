"""Counting requests: added once to the round, kept while the store is away."""

from __future__ import annotations

import asyncio

import pytest

from fl_cluster.errors import StoreUnavailable
from fl_cluster.service.visits import Visit, Visits, accepted


@pytest.fixture
async def member(job):
    return await job.member()


async def test_counts_go_to_the_round_once(job, member):
    visits = Visits(member.rounds)
    visits.note(Visit.CHECK_IN, is_accepted=True)
    visits.note(Visit.CHECK_IN, is_accepted=False)
    visits.note(Visit.GET_MODEL, is_accepted=True)

    await visits.flush(job.first)
    await visits.flush(job.first)

    assert await job.round_store.visits(job.first) == {
        Visit.CHECK_IN: 2,
        accepted(Visit.CHECK_IN): 1,
        Visit.GET_MODEL: 1,
        accepted(Visit.GET_MODEL): 1,
    }
    assert member.rounds.calls["count_visits"] == 1


async def test_counts_are_kept_while_the_store_is_away(job, member):
    visits = Visits(member.rounds)
    visits.note(Visit.REPORT, is_accepted=True)
    member.rounds.fail_before("count_visits")

    with pytest.raises(StoreUnavailable):
        await visits.flush(job.first)
    visits.note(Visit.REPORT, is_accepted=False)
    await visits.flush(job.first)

    assert await job.round_store.visits(job.first) == {"report": 2, "report_accepted": 1}


async def test_nothing_counted_asks_nothing(job, member):
    await Visits(member.rounds).flush(job.first)

    assert member.rounds.calls["count_visits"] == 0


async def test_what_is_noted_while_the_store_is_told_goes_with_the_next_time(job, member):
    visits = Visits(member.rounds)
    visits.note(Visit.GET_MODEL, is_accepted=True)
    held = member.rounds.hold_before("count_visits")
    telling = asyncio.create_task(visits.flush(job.first))
    await held.reached.wait()
    visits.note(Visit.GET_MODEL, is_accepted=False)
    held.go.set()
    await telling

    assert await job.round_store.visits(job.first) == {"get_model": 1, "get_model_accepted": 1}
    await visits.flush(job.first)
    assert await job.round_store.visits(job.first) == {"get_model": 2, "get_model_accepted": 1}


async def test_what_could_not_be_told_of_one_round_counts_for_the_next(job, member):
    visits = Visits(member.rounds)
    visits.note(Visit.REPORT, is_accepted=True)
    member.rounds.fail_before("count_visits")
    with pytest.raises(StoreUnavailable):
        await visits.flush(job.first)

    await visits.flush(job.first.next())

    assert await job.round_store.visits(job.first) == {}
    assert await job.round_store.visits(job.first.next()) == {"report": 1, "report_accepted": 1}


async def test_the_totals_of_a_member_outlive_the_rounds(job, member):
    visits = Visits(member.rounds)
    for visit in Visit:
        visits.note(visit, is_accepted=True)
        visits.note(visit, is_accepted=False)
    await visits.flush(job.first)
    visits.note(Visit.REPORT, is_accepted=True)

    assert (visits.requests, visits.reports) == (7, 2)
