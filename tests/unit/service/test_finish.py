"""Finishing a round: any member may, the bits are the same, nothing is seen too early."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Pointer
from fl_cluster.aggregate.scale import exponents
from fl_cluster.errors import JobLost, StoreCorrupt, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.service.visits import Visit
from fl_cluster.store.ports import ModelRecord, Outcome

DEVICES = ("d1", "d2", "d3", "d4")
LEASE_S = 3.0

PARAMETERS = {
    "fl_iteration_num": 5,
    "start_fl_job_threshold": 4,
    "update_model_ratio": 1.0,
    "start_fl_job_time_window": 1_000,
    "update_model_time_window": 1_000,
    "global_iteration_time_window": 1_000,
    "client_epoch_num": 1,
    "client_batch_size": 1,
    "client_learning_rate": 0.5,
    "upload_sparse_rate": 0.5,
}


@pytest.fixture
async def met(job):
    """A job with two members whose round has met its goal, two updates at each member."""
    first, second = await job.member("a"), await job.member("b")
    await job.admit(*DEVICES)
    for n, device in enumerate(DEVICES):
        await (first, second)[n % 2].collector.collect(job.arrival(device))
    for member in (first, second):
        await member.view.refresh()
    return job


async def test_the_model_is_the_exact_mean_and_the_next_round_starts_from_it(met):
    member = met.members[0]

    assert await member.finisher.finish()

    snapshot = member.view.snapshot
    assert (snapshot.ref.number, snapshot.phase) == (2, "waiting")
    base = member.view.base
    assert base.record.number == 1
    assert base.model.values.tobytes() == met.expected(*DEVICES)
    assert base.record.digest == base.model.digest
    assert base.record.byte_count == base.model.values.nbytes


async def test_a_member_without_any_update_comes_to_the_same_bits(met):
    third = await met.member("c")

    assert await third.finish()

    assert third.view.base.model.values.tobytes() == met.expected(*DEVICES)


async def test_the_round_is_recorded_before_anybody_can_see_its_model(met):
    member = met.members[0]

    assert await member.finisher.finish()

    assert [ended.ref.number for ended in member.recorder.ended] == [1]
    assert [ref.number for ref in member.recorder.seen_in_store] == [1]
    ended = member.recorder.ended[0]
    assert ended.model.digest == member.view.base.model.digest
    assert [update.device for update in ended.reported] == list(DEVICES)
    assert (ended.reason, ended.failures_in_a_row, ended.is_event) == (None, 0, False)
    assert ended.opened_at is not None
    assert ended.ended_at >= ended.opened_at


async def test_a_round_whose_outcome_could_not_be_published_is_recorded_once(met):
    member = met.members[0]
    member.rounds.fail_before("publish")

    with pytest.raises(StoreUnavailable):
        await member.finisher.finish()
    assert await member.finisher.finish()

    assert [ended.ref.number for ended in member.recorder.ended] == [1]


async def test_a_round_that_comes_to_another_end_after_all_is_recorded_anew(met):
    member = met.members[0]
    member.rounds.fail_before("publish")

    with pytest.raises(StoreUnavailable):
        await member.finisher.finish()
    await met.round_store.abort(met.first, Reason.STORE_LOST)
    assert await member.finish()

    assert [ended.reason for ended in member.recorder.ended] == [None, Reason.STORE_LOST]


async def test_counts_of_requests_are_in_the_record(met):
    member = met.members[0]
    member.visits.note(Visit.REPORT, is_accepted=True)
    member.visits.note(Visit.REPORT, is_accepted=False)

    assert await member.finisher.finish()

    assert member.recorder.ended[0].visits == {"report": 2, "report_accepted": 1}


async def test_the_partials_of_the_round_and_models_no_longer_kept_are_dropped(world):
    await world.open(report_goal=1)
    member = await world.member()
    for number in range(1, 6):
        await world.admit("d1")
        await member.collector.collect(world.arrival("d1"))
        assert await member.finish()
        await asyncio.sleep(1)
        assert member.view.snapshot.ref.number == number + 1

    kept = {record.blob for record in world.job_store.kept.values()}
    assert world.blob_store.names() == kept
    assert sorted(world.job_store.kept) == [3, 4, 5]


async def test_a_model_that_the_store_has_forgotten_is_made_again_before_it_is_published(world):
    await world.open(report_goal=1)
    member = await world.member()
    await world.admit("d1")
    await member.collector.collect(world.arrival("d1"))
    before = world.blob_store.names()
    look = member.blobs.hold_before("has")

    finishing = asyncio.create_task(member.finish())
    await look.reached.wait()
    (new,) = (name for name in world.blob_store.names() - before if name.startswith("model"))
    world.blob_store.forget(new)
    look.go.set()
    with pytest.raises(StoreUnavailable, match="forgotten"):
        await finishing
    assert await member.finish()

    assert (await world.round_store.snapshot()).last_outcome == "committed"
    assert new in world.blob_store.names()


async def test_whoever_dies_after_publishing_leaves_no_model_behind_for_ever(world):
    """Blobs of partials expire; those of models do not."""
    await world.open(report_goal=1)
    for number in range(1, 6):
        member = await world.member(f"m{number}")
        await world.admit("d1")
        await member.collector.collect(world.arrival("d1"))
        held = member.rounds.hold_after("publish")
        dying = asyncio.create_task(member.finish())
        await held.reached.wait()
        dying.cancel()
        await asyncio.wait((dying,))

    kept = {record.blob for record in world.job_store.kept.values()}
    assert sorted(world.job_store.kept) == [3, 4, 5]
    assert {name for name in world.blob_store.names() if name.startswith("model")} == kept


async def test_the_last_round_closes_the_job(world):
    await world.open(report_goal=1, rounds_total=2)
    member = await world.member()
    for _ in range(2):
        await world.admit("d1")
        await member.collector.collect(world.arrival("d1"))
        assert await member.finish()

    assert member.view.snapshot.is_closed
    assert member.view.snapshot.job_state == "finished"


async def test_a_tensor_that_nobody_sent_keeps_its_values_and_is_named(world):
    await world.open(report_goal=2)
    await world.admit("d1", "d2")
    member = await world.member()
    for device in ("d1", "d2"):
        update = world.update(names=["layer.bias"])
        await member.collector.collect(world.arrival(device, update))

    assert await member.finish()

    base = member.view.base
    assert base.record.left_out == ("layer.weight",)
    assert base.model.values.tobytes() == world.expected("d1", "d2")
    kept = base.model.tensor("layer.weight")
    assert kept.tobytes() == world.model.tensor("layer.weight").tobytes()
    assert base.model.tensor("steps").tobytes() == world.model.tensor("steps").tobytes()


async def test_a_round_without_time_keeps_the_model_and_says_why(job):
    member = await job.member()
    await job.admit("d1", "d2")
    await member.collector.collect(job.arrival("d1"))
    await asyncio.sleep(101)
    await job.round_store.tick(job.first)

    assert await member.finish()

    assert member.view.base.record.number == 1
    assert member.view.base.model is not None
    assert member.view.base.model.values.tobytes() == job.model.values.tobytes()
    ended = member.recorder.ended[0]
    assert (ended.reason, ended.failures_in_a_row) == (Reason.SELECT_WINDOW, 1)
    assert [update.device for update in ended.reported] == ["d1"]
    await asyncio.sleep(1)
    assert job.blob_store.names() == {"model-0"}


async def test_failures_in_a_row_are_told_at_the_third_and_counted_anew(job):
    member = await job.member()

    for _ in range(4):
        await job.round_store.abort((await job.snapshot()).ref, Reason.JOB_DISABLED)
        assert await member.finish()

    told = [(ended.failures_in_a_row, ended.is_event) for ended in member.recorder.ended]
    assert told == [(1, False), (2, False), (3, True), (1, False)]


class TestSuccessor:
    """An operator asked for a new run."""

    def run(self, job, instance: str):
        text = json.dumps(PARAMETERS | {"start_fl_job_threshold": 2})
        return replace(job.job_store.record, instance=instance, hyper_parameters=text)

    async def test_the_new_run_starts_from_the_newest_weights(self, met):
        member = met.members[0]
        await met.round_store.restart(self.run(met, "run-2"))

        assert await member.finish()

        assert member.view.snapshot.ref == RoundRef("run-2", 1)
        base = member.view.base
        assert base.model.values.tobytes() == met.expected(*DEVICES)
        assert tuple(base.record.exponents) == exponents(base.model, 2)
        assert member.view.job.instance == "run-2"

    async def test_the_last_of_two_that_were_asked_for_begins_and_the_round_is_recorded_once(
        self, met
    ):
        member = met.members[0]
        await met.round_store.restart(self.run(met, "run-2"))
        held = member.jobs.hold_before("successor")
        work = asyncio.create_task(member.finish())
        await held.reached.wait()
        await met.round_store.restart(self.run(met, "run-3"))
        held.go.set()

        assert await work

        assert member.view.snapshot.ref == RoundRef("run-3", 1)
        assert member.view.base.model.values.tobytes() == met.expected(*DEVICES)
        assert len(member.recorder.ended) == 1

    @pytest.mark.parametrize("first", ["run-2", None], ids="after {}".format)
    async def test_a_run_that_is_asked_for_while_the_round_is_published_begins_instead(
        self, met, first
    ):
        """With the lease kept all the while: nobody else can record the round meanwhile."""
        member, other = met.members
        if first is not None:
            await met.round_store.restart(self.run(met, first))
        held = member.rounds.hold_before("publish")
        work = asyncio.create_task(member.finish())
        await held.reached.wait()
        await met.round_store.restart(self.run(met, "run-3"))
        again = member.rounds.hold_before("publish")
        held.go.set()
        await again.reached.wait()
        await asyncio.sleep(10 * LEASE_S)
        assert not await other.finish()
        again.go.set()

        assert await work

        assert member.view.snapshot.ref == RoundRef("run-3", 1)
        assert member.view.base.model.values.tobytes() == met.expected(*DEVICES)
        assert [len(each.recorder.ended) for each in met.members] == [1, 0]

    async def test_a_successor_that_a_lost_store_has_left_behind_keeps_no_round_from_ending(
        self, met
    ):
        member = met.members[0]
        met.job_store.next = self.run(met, "run-2")

        assert await member.finish()

        assert (member.view.snapshot.ref.instance, member.view.snapshot.ref.number) == (
            met.first.instance,
            2,
        )

    @pytest.mark.parametrize(
        ("ends", "is_success"), [((), True), (("abort",), False), (("commit",), True)]
    )
    async def test_a_round_that_is_cut_off_tells_how_the_last_one_ended(
        self, job, ends, is_success
    ):
        member = await job.member("a")
        for end in ends:
            await job.admit(*DEVICES)
            if end == "abort":
                await job.round_store.abort(member.view.snapshot.ref, Reason.REPORT_WINDOW)
            else:
                for device in DEVICES:
                    await member.collector.collect(job.arrival(device))
            assert await member.finish()
        await job.round_store.restart(self.run(job, "run-2"))

        assert await member.finish()

        ended = member.recorder.ended[-1]
        assert (ended.ref.number, ended.reason) == (len(ends) + 1, Reason.JOB_RESTARTED)
        assert (ended.is_success, ended.job_state) == (is_success, "running")
        assert not ended.is_event

    async def test_a_run_that_is_begun_after_the_last_round_tells_that_the_job_was_finished(
        self, job
    ):
        job.job_store.record = replace(job.job_store.record, rounds_total=1)
        member = await job.member("a")
        await job.admit(*DEVICES)
        for device in DEVICES:
            await member.collector.collect(job.arrival(device))
        assert await member.finish()
        assert member.view.snapshot.is_closed
        await job.round_store.restart(self.run(job, "run-2"))

        assert await member.finish()

        ended = member.recorder.ended[-1]
        assert (ended.ref.number, ended.job_state, ended.is_success) == (2, "finished", True)


class TestLease:
    """One member at a time, and another when it is gone."""

    async def test_only_one_of_two_finishes(self, met):
        outcomes = await asyncio.gather(*(member.finisher.finish() for member in met.members))

        assert sorted(outcomes) == [False, True]
        recorded = [len(member.recorder.ended) for member in met.members]
        assert sorted(recorded) == [0, 1]

    async def test_nothing_to_finish_is_left_alone(self, job):
        member = await job.member()

        assert not await member.finisher.finish()
        assert member.rounds.calls["take_lease"] == 0

    @pytest.mark.parametrize(
        "dies_at", ["partials", "reported", "visits", "publish"], ids="dies at {}".format
    )
    async def test_another_takes_over_from_one_that_died_and_comes_to_the_same_bits(
        self, met, dies_at
    ):
        dead, other = met.members
        held = dead.rounds.hold_before(dies_at)
        work = asyncio.create_task(dead.finisher.finish())
        await held.reached.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

        assert not await other.finisher.finish()
        await asyncio.sleep(LEASE_S)
        assert await other.finisher.finish()

        assert other.view.base.model.values.tobytes() == met.expected(*DEVICES)

    async def test_a_member_declared_dead_is_replaced_at_once(self, met):
        dead, other = met.members
        held = dead.rounds.hold_before("publish")
        work = asyncio.create_task(dead.finisher.finish())
        await held.reached.wait()
        await met.round_store.member_lost("a")

        assert await other.finisher.finish()

        held.go.set()
        assert not await work
        assert dead.view.base.model.digest == other.view.base.model.digest

    async def test_the_lease_is_renewed_while_the_work_lasts(self, met):
        slow, other = met.members
        held = slow.blobs.hold_before("get")
        work = asyncio.create_task(slow.finisher.finish())
        await held.reached.wait()
        await asyncio.sleep(10 * LEASE_S)

        assert not await other.finisher.finish()

        held.go.set()
        assert await work

    async def test_a_renewal_that_fails_is_tried_again(self, met):
        slow, other = met.members
        held = slow.blobs.hold_before("get")
        work = asyncio.create_task(slow.finisher.finish())
        await held.reached.wait()
        slow.rounds.fail_before("take_lease")
        await asyncio.sleep(10 * LEASE_S)

        assert not await other.finisher.finish()

        held.go.set()
        assert await work

    async def test_a_renewal_under_way_does_not_keep_the_round_from_ending(self, met):
        member, _ = met.members
        publish = member.rounds.hold_before("publish")
        work = asyncio.create_task(member.finisher.finish())
        await publish.reached.wait()
        renewal = member.rounds.hold_before("take_lease")
        await renewal.reached.wait()
        publish.go.set()
        await asyncio.sleep(1)
        renewal.go.set()

        assert await work
        await asyncio.sleep(100)
        assert len(asyncio.all_tasks()) == 1

    async def test_one_that_woke_up_too_late_writes_nothing_and_changes_nothing(self, met):
        """It was stopped for longer than its lease; the view has long gone on to round 2."""
        late, other = met.members
        held = late.rounds.hold_after("partials")
        work = asyncio.create_task(late.finisher.finish())
        await held.reached.wait()
        await met.round_store.member_lost("a")
        assert await other.finisher.finish()
        await late.view.refresh()
        assert late.view.snapshot.ref.number == 2
        held.go.set()

        assert not await work

        assert late.recorder.ended == []
        assert met.job_store.kept[1].digest == other.view.base.model.digest
        assert (await met.snapshot()).phase == "waiting"

    async def test_one_that_is_late_does_not_mix_rounds(self, met):
        """What it computes for round 1 is of round 1, whatever its view shows meanwhile."""
        late, other = met.members
        held = late.rounds.hold_after("partials")
        work = asyncio.create_task(late.finisher.finish())
        await held.reached.wait()
        await met.round_store.member_lost("a")
        other.blobs.fail_before("drop")
        with pytest.raises(StoreUnavailable):
            await other.finisher.finish()
        await late.view.refresh()
        assert late.view.snapshot.ref.number == 2
        held.go.set()

        assert not await work

        assert late.blobs.calls["put"] >= 1
        made = {name for name in met.blob_store.names() if name.startswith("model-1.1")}
        assert made == {met.job_store.kept[1].blob}

    async def test_settle_waits_for_the_work_and_lets_none_begin(self, met):
        member = met.members[0]
        held = member.rounds.hold_before("publish")
        work = asyncio.create_task(member.finisher.finish())
        await held.reached.wait()
        settled = asyncio.create_task(member.finisher.settle())
        await asyncio.sleep(1)
        assert not settled.done()

        held.go.set()

        await settled
        assert await work
        begun = asyncio.create_task(member.finisher.finish())
        await asyncio.sleep(100)
        assert not begun.done()


class TestDamage:
    """What cannot be aggregated is abandoned; a round is never stuck."""

    async def lose_partial(self, met):
        for text in (await met.round_store.partials(met.first)).values():
            met.blob_store.forget(Pointer.parse(text, 2).blob)

    async def test_a_missing_partial_abandons_the_round(self, met):
        third = await met.member("c")
        await self.lose_partial(met)

        assert await third.finish()

        assert third.view.snapshot.phase == "abandoning"
        assert third.recorder.ended == []
        assert await third.finish()
        assert third.recorder.ended[0].reason is Reason.AGGREGATE_FAILED
        assert third.view.base.model.values.tobytes() == met.model.values.tobytes()

    @pytest.mark.parametrize(
        "pointer", ["nonsense", '["blob"]', '["blob",[1,2,3]]', '["blob","weights"]', "[]"]
    )
    async def test_a_damaged_pointer_abandons_the_round(self, met, pointer):
        member = met.members[0]
        met.round_store._round.phase.partials["a"] = pointer

        assert await member.finish()
        assert member.view.snapshot.phase == "abandoning"
        assert await member.finish()

        assert member.recorder.ended[0].reason is Reason.AGGREGATE_FAILED
        assert member.view.snapshot.ref.number == 2

    async def test_damaged_records_of_updates_abandon_the_round(self, met):
        member = met.members[0]
        damage = StoreCorrupt("a counted update's record is damaged")
        member.rounds.fail_before("reported", times=2, fault=damage)

        assert await member.finish()
        assert await member.finish()

        assert member.view.snapshot.ref.number == 2
        assert member.recorder.ended[0].reported == ()

    async def test_records_that_are_gone_do_not_pass_for_a_round(self, met):
        """As after a store that came back empty: no update is no mean."""
        member = met.members[0]
        phase = met.round_store._round.phase
        phase.partials.clear()
        phase.reports.clear()

        assert await member.finish()
        assert await member.finish()

        assert [ended.reason for ended in member.recorder.ended] == [Reason.AGGREGATE_FAILED]

    async def test_a_job_that_is_gone_is_left_to_be_built_again(self, met):
        member = met.members[0]
        member.rounds.fail_before("partials", fault=JobLost("no round"))
        held = member.rounds.hold_after("take_lease")
        work = asyncio.create_task(member.finish())
        await held.reached.wait()
        await met.round_store.member_lost("a")
        held.go.set()

        assert not await work
        assert member.recorder.ended == []
        assert (await met.snapshot()).phase == "aggregating"

    async def test_one_that_cannot_do_it_lets_another_try(self, met):
        failing, other = met.members
        failing.recorder.faults = [RuntimeError("a bug")] * 10

        with pytest.raises(RuntimeError, match="a bug"):
            await failing.finisher.finish()
        for _ in range(5):
            await asyncio.sleep(1)
            assert not await failing.finisher.finish()

        assert await other.finisher.finish()
        assert other.view.base.model.values.tobytes() == met.expected(*DEVICES)

    async def test_one_that_failed_alone_tries_again_after_a_while(self, met):
        member = met.members[0]
        member.recorder.faults = [RuntimeError("a bug")]

        with pytest.raises(RuntimeError, match="a bug"):
            await member.finisher.finish()
        await asyncio.sleep(3 * LEASE_S)

        assert await member.finisher.finish()

    @pytest.mark.parametrize("call", ["partials", "reported", "visits", "publish"])
    @pytest.mark.parametrize("moment", ["fail_before", "fail_after"])
    async def test_a_store_that_is_away_for_a_moment_costs_a_repeat(self, met, call, moment):
        member = met.members[0]
        getattr(member.rounds, moment)(call)

        with pytest.raises(StoreUnavailable):
            await member.finish()
        await member.finish()

        assert member.view.snapshot.ref.number == 2
        assert member.view.base.model.values.tobytes() == met.expected(*DEVICES)

    @pytest.mark.parametrize("call", ["get", "put"])
    async def test_a_blob_store_that_is_away_for_a_moment_costs_a_repeat(self, met, call):
        member = met.members[0]
        member.blobs.fail_after(call)

        with pytest.raises(StoreUnavailable):
            await member.finish()
        assert await member.finish()

        assert member.view.base.model.values.tobytes() == met.expected(*DEVICES)

    async def test_a_mean_beyond_single_precision_is_no_model(self, world):
        """Only a huge cohort has sums so coarse that they round up past the largest float."""
        largest = float(np.finfo(np.float32).max)
        await world.open(cohort_size=10_000_000, report_goal=1, tensors=(Tensor("w", (2,)),))
        huge = Model(world.layout, np.full(2, largest, np.float32))
        world.model = huge
        member = await world.member()
        await self.start_from(world, member, huge)
        await world.admit("d1", data_size=1)
        update = world.update()
        update.arrays[0][1][:] = largest
        answer = await member.collector.collect(world.arrival("d1", update, number=2))
        assert answer.verdict is Verdict.ACCEPTED

        assert await member.finish()
        assert await member.finish()

        assert member.recorder.ended[-1].reason is Reason.AGGREGATE_FAILED
        assert member.view.base.model.digest == huge.digest

    async def start_from(self, world, member, model):
        """Let round 2 start from this model."""
        await world.blob_store.put("huge", model.values.data, None)
        scales = exponents(model, world.plan.cohort_size)
        record = ModelRecord(1, "huge", model.values.nbytes, model.digest, scales)
        await world.round_store.abort(world.first, Reason.JOB_DISABLED)
        await world.round_store.take_lease(world.first, "z", 1000)
        await world.round_store.publish(world.first, "z", Outcome(record, finishes_job=False))
        await member.view.refresh()


async def test_many_members_come_to_one_digest_whoever_finishes(world):
    await world.open(cohort_size=12, report_goal=12)
    devices = [f"d{n:02}" for n in range(12)]
    await world.admit(*devices)
    members = [await world.member(name) for name in "abcde"]
    for n, device in enumerate(devices):
        await members[n % 5].collector.collect(world.arrival(device))

    done = await asyncio.gather(*(member.finish() for member in members))

    assert sum(done) == 1
    for member in members:
        await member.view.refresh()
    assert {member.view.base.model.values.tobytes() for member in members} == {
        world.expected(*devices)
    }
    stored = {
        json.loads(text)[0] for text in (await world.round_store.partials(world.first)).values()
    }
    assert not stored & world.blob_store.names()
