"""What a member knows of the job: told of changes, looking for itself, deciding nothing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from fl_cluster.aggregate.layout import Tensor
from fl_cluster.errors import JobLost, StoreCorrupt, StoreUnavailable
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.service.view import JobView
from fl_cluster.store.ports import Offer

PARAMETERS = json.dumps(
    {
        "fl_iteration_num": 5,
        "start_fl_job_threshold": 1,
        "update_model_ratio": 1.0,
        "start_fl_job_time_window": 1_000,
        "update_model_time_window": 1_000,
        "global_iteration_time_window": 1_000,
        "client_epoch_num": 1,
        "client_batch_size": 1,
        "client_learning_rate": 0.5,
        "upload_sparse_rate": 0.5,
    }
)


async def abandon(job, member) -> None:
    """End the current round and open the next one."""
    await job.round_store.abort((await job.snapshot()).ref, Reason.JOB_DISABLED)
    assert await member.finish()


async def train(job, member) -> None:
    """End the current round with a new model."""
    await job.admit("d1")
    await member.collector.collect(job.arrival("d1"))
    assert await member.finish()


async def test_a_first_look_shows_round_job_layout_and_model(job):
    member = await job.member()
    view = member.view

    assert view.snapshot == await job.snapshot()
    assert view.job == job.job_store.record
    assert view.layout == job.layout
    assert view.base.record == job.job_store.kept[0]
    assert view.base.model.values.tobytes() == job.model.values.tobytes()
    assert view.scaling.exponents == view.base.record.exponents


async def test_a_member_that_has_not_looked_knows_nothing(job):
    view = JobView((await job.member()).stores)

    for name in ("snapshot", "job", "layout", "base"):
        with pytest.raises(AssertionError, match="refresh first"):
            getattr(view, name)


class TestRefresh:
    async def test_those_who_come_together_share_one_look(self, job):
        member = await job.member()
        before = member.rounds.calls["snapshot"]

        await asyncio.gather(*(member.view.refresh() for _ in range(20)))

        assert member.rounds.calls["snapshot"] <= before + 2

    async def test_those_who_come_during_a_look_share_the_next_one(self, job):
        member = await job.member()
        held = member.rounds.hold_after("snapshot")
        first = asyncio.create_task(member.view.refresh())
        await held.reached.wait()
        before = member.rounds.calls["snapshot"]
        await job.round_store.check_in(job.first, [Offer("d1", 1, 1)])
        later = [asyncio.create_task(member.view.refresh()) for _ in range(20)]
        await asyncio.sleep(1)

        held.go.set()

        await asyncio.gather(first, *later)
        assert member.rounds.calls["snapshot"] == before + 1
        assert member.view.snapshot.phase == "selecting"

    async def test_a_look_that_fails_fails_for_all_who_share_it_and_no_other(self, job):
        member = await job.member()
        held = member.rounds.hold_before("snapshot")
        first = asyncio.create_task(member.view.refresh())
        await held.reached.wait()
        member.rounds.fail_before("snapshot")
        later = [asyncio.create_task(member.view.refresh()) for _ in range(3)]
        held.go.set()

        await first
        outcomes = await asyncio.gather(*later, return_exceptions=True)

        assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        await member.view.refresh()

    async def test_one_who_gives_up_does_not_stop_the_look_for_others(self, job):
        member = await job.member()
        held = member.rounds.hold_before("snapshot")
        first = asyncio.create_task(member.view.refresh())
        await held.reached.wait()
        first.cancel()
        second = asyncio.create_task(member.view.refresh())
        await asyncio.sleep(1)
        held.go.set()

        await second

        with pytest.raises(asyncio.CancelledError):
            await first

    async def test_a_look_that_fails_half_way_leaves_the_view_as_it_was(self, world):
        await world.open(report_goal=1)
        member, other = await world.member(), await world.member("b")
        await train(world, other)
        member.blobs.fail_before("get")
        seen = (member.view.snapshot, member.view.base)

        with pytest.raises(StoreUnavailable):
            await member.view.refresh()
        assert (member.view.snapshot, member.view.base) == seen

        await member.view.refresh()
        assert member.view.base.model.digest == other.view.base.model.digest

    @pytest.mark.parametrize("call", ["job", "models"])
    async def test_a_look_into_which_a_new_run_falls_sees_the_new_run(self, world, call):
        await world.open(report_goal=1)
        ahead = await world.member("b")
        await train(world, ahead)
        view = JobView((await world.member()).stores)
        held = world.members[-1].jobs.hold_before(call)
        look = asyncio.create_task(view.refresh())
        await held.reached.wait()

        run = replace(world.job_store.record, instance="run-2", hyper_parameters=PARAMETERS)
        await world.round_store.restart(run)
        assert await ahead.finish()
        held.go.set()
        await look

        assert view.snapshot.ref == RoundRef("run-2", 1)
        assert view.job == run
        assert view.base.record == world.job_store.kept[0]

    async def test_a_member_that_made_the_model_does_not_fetch_it(self, world):
        await world.open(report_goal=1)
        member, other = await world.member(), await world.member("b")
        fetched = member.blobs.calls["get"], other.blobs.calls["get"]

        await train(world, member)
        await other.view.refresh()

        assert member.blobs.calls["get"] == fetched[0]
        assert other.blobs.calls["get"] == fetched[1] + 1

    async def test_an_abandoned_round_fetches_nothing(self, job):
        member, other = await job.member(), await job.member("b")
        fetched = other.blobs.calls["get"]

        await abandon(job, member)
        await other.view.refresh()

        assert other.view.base.record.number == 1
        assert other.blobs.calls["get"] == fetched

    async def test_a_store_without_a_round_has_lost_the_job(self, job):
        member = await job.member()

        async def nothing():
            return None

        member.rounds.store = type("Empty", (), {"snapshot": staticmethod(nothing)})()

        with pytest.raises(JobLost):
            await member.view.refresh()

    async def test_a_store_with_a_round_and_no_job_has_lost_the_job(self, job):
        member = await job.member()
        job.job_store.record = None

        with pytest.raises(JobLost):
            await JobView(member.stores).refresh()

    async def test_a_missing_model_record_is_damage(self, job):
        member = await job.member()
        job.job_store.kept.clear()

        with pytest.raises(StoreCorrupt, match="model 0, which round 1 starts from, is missing"):
            await JobView(member.stores).refresh()

    async def test_a_model_with_other_bytes_than_its_record_says_is_damage(self, job):
        member = await job.member()
        job.blob_store.forget("model-0")
        await job.blob_store.put("model-0", bytes(job.model.values.nbytes), None)

        with pytest.raises(StoreCorrupt, match="its bytes have SHA-256"):
            await JobView(member.stores).refresh()


class TestModels:
    async def test_models_that_are_kept_can_be_had_by_number(self, world):
        await world.open(report_goal=1)
        member = await world.member()
        made = [world.model]
        for _ in range(4):
            await train(world, member)
            made.append(member.view.base.model)

        for number in (0, 1):
            assert member.view.record_of(number) is None
            assert await member.view.model(number) is None
        for number in (2, 3, 4):
            found = await member.view.model(number)
            assert found.record == member.view.record_of(number)
            assert found.model.digest == made[number].digest

    async def test_the_current_model_is_at_hand(self, job):
        member = await job.member()
        fetched = member.blobs.calls["get"]

        found = await member.view.model(0)

        assert found.model is member.view.base.model
        assert member.blobs.calls["get"] == fetched


class TestWaiting:
    async def test_what_is_so_already_is_not_waited_for(self, job):
        member = await job.member()

        assert await member.view.wait_for(lambda seen: seen.phase == "waiting", 0)

    async def test_a_change_ends_the_wait(self, job):
        member = await job.member()
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(
            member.view.wait_for(lambda seen: seen.phase == "selecting", 60_000)
        )
        await asyncio.sleep(5)
        started = loop.time()
        await job.admit("d1")

        assert await waiting
        assert loop.time() == started

    async def test_other_changes_do_not_end_it(self, job):
        member = await job.member()
        waiting = asyncio.create_task(
            member.view.wait_for(lambda seen: seen.ref.number == 2, 60_000)
        )
        await job.admit("d1")
        await job.admit("d2", "d3", "d4")
        await asyncio.sleep(1)
        assert not waiting.done()

        await abandon(job, member)

        assert await waiting

    async def test_a_wait_ends_when_its_time_is_up(self, job):
        member = await job.member()
        loop = asyncio.get_running_loop()
        started = loop.time()

        assert not await member.view.wait_for(lambda seen: False, 2_500)

        assert loop.time() - started == pytest.approx(2.5, abs=1e-6)

    async def test_many_may_wait_for_the_same(self, job):
        member = await job.member()
        waiting = [
            asyncio.create_task(member.view.wait_for(lambda seen: not seen.is_collecting, 60_000))
            for _ in range(50)
        ]
        await asyncio.sleep(1)
        await job.round_store.abort(job.first, Reason.JOB_DISABLED)
        await member.view.refresh()

        assert all(await asyncio.gather(*waiting))


async def test_a_large_model_is_hashed_without_holding_up_others(world):
    """A digest of many megabytes in the loop would stop every request meanwhile."""
    await world.open(tensors=(Tensor("large", (2_000_000,)),))
    threads = 0
    loop = asyncio.get_running_loop()
    run_in_executor = loop.run_in_executor

    def counted(*args):
        nonlocal threads
        threads += 1
        return run_in_executor(*args)

    loop.run_in_executor = counted
    await world.member()

    assert threads == 1
