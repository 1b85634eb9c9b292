"""One update at one member: counted once, answered when stored, whatever the store does."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fl_cluster.aggregate.partial import Unfit, Update
from fl_cluster.errors import StoreCorrupt, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason
from fl_cluster.service.collect import Arrival
from fl_cluster.store.ports import ClaimRequest


async def test_an_update_is_counted_and_its_receipt_names_round_digest_and_position(job):
    member = await job.member()
    await job.admit("d1", "d2")

    answer = await member.collector.collect(job.arrival("d1"))

    assert answer.verdict is Verdict.ACCEPTED
    receipt = answer.receipt
    assert (receipt.round_number, receipt.digest, receipt.position) == (1, "d1-digest", 1)
    assert job.reports() == ["d1"]
    assert job.claims() == {}


async def test_a_round_of_updates_makes_the_model_that_fractions_make(job):
    member = await job.member()
    await job.admit("d1", "d2", "d3", "d4")

    await asyncio.gather(*(member.collector.collect(job.arrival(f"d{n}")) for n in range(1, 5)))
    assert await member.finish()

    values = member.view.base.model.values
    assert values.tobytes() == job.expected("d1", "d2", "d3", "d4")


async def test_plain_weights_are_multiplied_by_the_data_size_of_the_check_in(job):
    member = await job.member()
    await job.admit("d1", "d2", "d3", "d4")
    arrivals = [job.arrival(f"d{n}", job.update(is_plain=n % 2 == 0)) for n in range(1, 5)]

    await asyncio.gather(*map(member.collector.collect, arrivals))
    assert await member.finish()

    values = member.view.base.model.values
    assert values.tobytes() == job.expected("d1", "d2", "d3", "d4")


async def test_updates_that_come_together_share_one_claim_and_few_commits(world):
    await world.open(cohort_size=100, report_goal=100)
    devices = [f"d{n:03}" for n in range(100)]
    await world.admit(*devices)
    member = await world.member()

    answers = await asyncio.gather(
        *(member.collector.collect(world.arrival(device)) for device in devices)
    )

    assert sorted(answer.receipt.position for answer in answers) == list(range(1, 101))
    assert member.rounds.calls["claim"] <= 2
    assert member.rounds.calls["report"] <= 3


async def test_content_is_let_go_when_it_is_added_and_before_it_is_committed(job, start):
    member = await job.member()
    await job.admit("d1")
    report = member.rounds.hold_before("report")
    freed = asyncio.Event()
    planned = job.arrival("d1")
    arrival = Arrival(planned.record, planned.number, planned.content, freed.set)

    task = start(member, arrival)
    await report.reached.wait()

    assert freed.is_set()
    assert arrival.content is None
    report.go.set()
    assert (await task).verdict is Verdict.ACCEPTED


class TestRefusals:
    """What is not added holds no claim."""

    async def test_a_device_that_did_not_check_in(self, job):
        member = await job.member()
        await job.admit("d1")

        answer = await member.collector.collect(job.arrival("d2"))

        assert (answer.verdict, answer.receipt) == (Verdict.NOT_IN_COHORT, None)

    async def test_an_update_for_another_round(self, job):
        member = await job.member()
        await job.admit("d1")

        answer = await member.collector.collect(job.arrival("d1", number=7))

        assert answer.verdict is Verdict.STALE_ROUND

    @pytest.mark.parametrize("is_plain", [True, False])
    @pytest.mark.parametrize(("value", "is_out_of_range"), [(np.nan, False), (1e30, True)])
    async def test_an_unfit_update(self, job, is_plain, value, is_out_of_range):
        member = await job.member()
        await job.admit("d1")
        update = job.update(is_plain=is_plain)
        update.arrays[0][1][2] = value

        answer = await member.collector.collect(job.arrival("d1", update))

        assert answer.verdict is Verdict.ACCEPTED
        assert answer.receipt is None
        assert answer.unfit.is_out_of_range is is_out_of_range
        assert "'layer.bias', element 2" in answer.unfit.reason
        assert job.claims() == {}
        again = await member.collector.collect(job.arrival("d1"))
        assert again.receipt.position == 1

    async def test_an_update_that_the_caller_found_unfit(self, job):
        member = await job.member()
        await job.admit("d1")

        answer = await member.collector.collect(job.arrival("d1", Unfit("compressed")))

        assert (answer.verdict, answer.unfit) == (Verdict.ACCEPTED, Unfit("compressed"))
        assert job.claims() == {}

    async def test_an_unfit_update_of_a_device_that_did_not_check_in(self, job):
        member = await job.member()

        answer = await member.collector.collect(job.arrival("d1", Unfit("compressed")))

        assert (answer.verdict, answer.unfit) == (Verdict.NOT_IN_COHORT, Unfit("compressed"))

    async def test_a_plain_update_whose_product_is_out_of_range(self, job):
        """Fit as it is, and not with the data size that its device declared."""
        member = await job.member()
        await job.admit("d1", data_size=60_000)
        largest = member.view.scaling.bound / 2.0 ** member.view.scaling.exponents[0]
        update = job.update(is_plain=True)
        update.arrays[0][1][0] = largest / 30_000

        answer = await member.collector.collect(job.arrival("d1", update))

        assert answer.unfit.is_out_of_range
        assert job.claims() == {}

    async def test_an_update_after_the_goal(self, world):
        await world.open(report_goal=2)
        await world.admit("d1", "d2", "d3", "d4")
        member = await world.member()
        await member.collector.collect(world.arrival("d1"))
        await member.collector.collect(world.arrival("d2"))

        answer = await member.collector.collect(world.arrival("d3"))

        assert answer.verdict is Verdict.ENOUGH
        assert not answer.snapshot.is_collecting

    async def test_an_update_of_a_round_that_ran_out_of_time_ends_the_round(self, job, pass_time):
        member = await job.member()
        await job.admit("d1")
        await pass_time(101)

        answer = await member.collector.collect(job.arrival("d1"))

        assert answer.verdict is Verdict.ENOUGH
        assert (await job.snapshot()).reason is Reason.SELECT_WINDOW


class TestRepeats:
    """The same device again: counted once, whichever member it goes to."""

    async def test_a_repeat_gets_the_receipt_of_the_first(self, job):
        member = await job.member()
        other = await job.member("b")
        await job.admit("d1")
        first = await member.collector.collect(job.arrival("d1"))

        for again in (member, other):
            answer = await again.collector.collect(job.arrival("d1"))
            assert (answer.verdict, answer.receipt) == (Verdict.DUPLICATE, first.receipt)
        assert job.reports() == ["d1"]

    async def test_a_repeat_at_another_member_waits_for_the_outcome_of_the_first(self, job, start):
        member, other = await job.member(), await job.member("b")
        await job.admit("d1")
        report = member.rounds.hold_before("report")
        first = start(member, job.arrival("d1"))
        await report.reached.wait()

        repeat = start(other, job.arrival("d1"))
        await asyncio.sleep(1)
        assert not repeat.done()
        report.go.set()

        assert (await first).verdict is Verdict.ACCEPTED
        assert (await repeat).verdict is Verdict.DUPLICATE

    async def test_a_repeat_takes_the_place_of_a_first_that_could_not_be_committed(
        self, job, start
    ):
        member, other = await job.member(), await job.member("b")
        await job.admit("d1")
        report = member.rounds.hold_before("report")
        first = start(member, job.arrival("d1"))
        await report.reached.wait()
        repeat = start(other, job.arrival("d1"))
        await asyncio.sleep(1)

        await job.round_store.member_lost("a")

        assert (await repeat).verdict is Verdict.ACCEPTED
        report.go.set()
        with pytest.raises(StoreUnavailable):
            await first
        assert job.reports() == ["d1"]

    async def test_the_last_free_place_is_pending_until_it_is_counted_or_free_again(
        self, world, start
    ):
        await world.open(report_goal=1)
        await world.admit("d1", "d2", "d3", "d4")
        member = await world.member()
        report = member.rounds.hold_before("report")
        first = start(member, world.arrival("d1"))
        await report.reached.wait()
        second = start(member, world.arrival("d2"))
        await asyncio.sleep(1)
        assert not second.done()

        await world.round_store.release(world.first, "a", ["d1"])
        report.go.set()
        await asyncio.sleep(1)
        member.collector.become("b")

        # d1's claim is gone, and with it the commit that both were in.
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        again = await member.collector.collect(world.arrival("d2"))
        assert (again.verdict, world.reports()) == (Verdict.ACCEPTED, ["d2"])

    async def test_waiting_for_a_place_does_not_check_the_content_again(self, world, start):
        await world.open(report_goal=1)
        await world.admit("d1", "d2", "d3", "d4")
        member = await world.member()
        report = member.rounds.hold_before("report")
        first = start(member, world.arrival("d1"))
        await report.reached.wait()
        looks = 0

        class Counted(list):
            def __iter__(self):
                nonlocal looks
                looks += 1
                return super().__iter__()

        update = world.update()
        second = start(member, world.arrival("d2", Update(Counted(update.arrays), False)))
        await asyncio.sleep(5)
        seen = looks
        report.go.set()

        assert seen <= 2
        assert (await first).verdict is Verdict.ACCEPTED
        assert (await second).verdict is Verdict.ENOUGH


class TestUnknownOutcomes:
    """A call whose answer is lost was done, or not, or is still on its way."""

    @pytest.mark.parametrize("moment", ["fail_before", "fail_after"])
    async def test_a_claim_without_an_answer_is_refused_for_now_and_given_up(self, job, moment):
        member = await job.member()
        await job.admit("d1", "d2")
        getattr(member.rounds, moment)("claim")

        with pytest.raises(StoreUnavailable):
            await member.collector.collect(job.arrival("d1"))

        await asyncio.sleep(0.01)
        assert job.claims() == {}
        answer = await member.collector.collect(job.arrival("d1"))
        assert answer.receipt.position == 1

    async def test_giving_up_a_claim_is_tried_until_the_store_has_heard_of_it(self, job):
        member = await job.member()
        await job.admit("d1")
        member.rounds.fail_after("claim")
        member.rounds.fail_before("release", times=20)

        with pytest.raises(StoreUnavailable):
            await member.collector.collect(job.arrival("d1"))
        assert job.claims() == {"d1": "a"}
        await asyncio.sleep(20)

        assert job.claims() == {}

    async def test_a_claim_that_reaches_the_store_after_it_was_given_up_does_not_stay(self, job):
        member, other = await job.member(), await job.member("b")
        await job.admit("d1")
        member.rounds.fail_before("claim")
        with pytest.raises(StoreUnavailable):
            await member.collector.collect(job.arrival("d1"))
        await asyncio.sleep(0.5)
        await job.round_store.claim(job.first, "a", [ClaimRequest("d1", 1)])

        answer = await other.collector.collect(job.arrival("d1"))

        assert answer.verdict is Verdict.ACCEPTED

    async def test_a_repeat_after_a_lost_claim_is_not_added_beside_the_first(self, job, start):
        """The first is added and waits for a commit; the repeat's claim gets no answer, and
        giving that up must not make room for a third beside the first in the same commit."""
        member = await job.member()
        await job.admit("d1", "d2", "d3", "d4")
        report = member.rounds.hold_before("report")
        ahead = start(member, job.arrival("d2"))
        await report.reached.wait()
        first = start(member, job.arrival("d1"))
        await asyncio.sleep(0.1)
        member.rounds.fail_before("claim")
        repeats = [start(member, job.arrival("d1"))]
        await asyncio.sleep(0.1)
        repeats.append(start(member, job.arrival("d1")))
        await asyncio.sleep(0.1)
        report.go.set()

        await asyncio.gather(ahead, first, *repeats, return_exceptions=True)
        for device in ("d3", "d4"):
            await member.collector.collect(job.arrival(device))
        assert await member.finish()

        heavy = member.recorder.ended[0]
        assert [update.device for update in heavy.reported] == ["d1", "d2", "d3", "d4"]
        weights = job.data_sizes.values()
        pointers = await job.round_store.partials(job.first)
        assert f"[{sum(weights)}]" in pointers["a"]

    async def test_a_commit_without_an_answer_counts_once(self, job):
        member = await job.member()
        await job.admit("d1", "d2", "d3", "d4")
        member.rounds.fail_after("report", times=2)
        member.blobs.fail_after("put")

        for n in range(1, 5):
            answer = await member.collector.collect(job.arrival(f"d{n}"))
            assert answer.receipt.position == n
        assert await member.finish()

        values = member.view.base.model.values
        assert values.tobytes() == job.expected("d1", "d2", "d3", "d4")

    async def test_a_commit_whose_answer_is_lost_and_whose_round_is_over_meanwhile(self, job):
        member, other = await job.member(), await job.member("b")
        await job.admit("d1", "d2", "d3", "d4")
        for n in range(1, 4):
            await other.collector.collect(job.arrival(f"d{n}"))
        member.rounds.fail_after("report")
        last = asyncio.create_task(member.collector.collect(job.arrival("d4")))
        await asyncio.sleep(0.01)
        assert (await job.snapshot()).phase == "aggregating"

        assert await other.finish()

        answer = await last
        assert (answer.verdict, answer.receipt.position) == (Verdict.ACCEPTED, 4)

    async def test_a_counted_update_is_answered_although_the_next_look_fails(self, world):
        await world.open(report_goal=1)
        await world.admit("d1")
        member = await world.member()
        member.rounds.fail_before("snapshot")

        answer = await member.collector.collect(world.arrival("d1"))

        assert answer.verdict is Verdict.ACCEPTED

    async def test_a_caller_that_waited_too_long_is_told_and_the_work_goes_on(self, job):
        member = await job.member(patience_ms=1_000)
        await job.admit("d1")
        member.rounds.fail_before("report", times=10)

        with pytest.raises(StoreUnavailable, match="not confirmed within 1 s"):
            await member.collector.collect(job.arrival("d1"))
        await member.collector.drain()

        assert job.reports() == ["d1"]

    async def test_a_caller_that_is_gone_does_not_take_its_update_with_it(self, job, start):
        member = await job.member()
        await job.admit("d1")
        report = member.rounds.hold_before("report")
        task = start(member, job.arrival("d1"))
        await report.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        report.go.set()

        await member.collector.drain()

        assert job.reports() == ["d1"]

    async def test_a_claim_that_was_lost_costs_the_member_its_name_and_nobody_the_round(
        self, job, start
    ):
        member = await job.member()
        await job.admit("d1", "d2")
        report = member.rounds.hold_before("report")
        first = start(member, job.arrival("d1"))
        await report.reached.wait()
        second = start(member, job.arrival("d2"))
        await asyncio.sleep(0.1)
        await job.round_store.release(job.first, "a", ["d1"])
        report.go.set()
        await asyncio.sleep(1)
        member.collector.become("b")

        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        await asyncio.sleep(20)

        # What was added is gone with the refusal; the devices are asked to send again.
        assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        assert job.claims() == {}
        for n, device in enumerate(("d1", "d2"), start=1):
            answer = await member.collector.collect(job.arrival(device))
            assert answer.receipt.position == n

    async def test_a_fault_after_the_claim_gives_the_claim_up(self, job):
        member, other = await job.member(), await job.member("b")
        await job.admit("d1")
        member.rounds.fail_before("report", fault=StoreCorrupt("no word of ours"))

        with pytest.raises(StoreUnavailable, match="adds nothing more to round"):
            await member.collector.collect(job.arrival("d1"))
        with pytest.raises(StoreUnavailable, match="adds nothing more to round"):
            await member.collector.collect(job.arrival("d1"))
        await asyncio.sleep(1)

        assert job.claims() == {}
        answer = await other.collector.collect(job.arrival("d1"))
        assert answer.verdict is Verdict.ACCEPTED


class TestFromMemory:
    """Acknowledged when it is added; stored a little later."""

    async def test_an_update_is_acknowledged_before_it_is_stored(self, job):
        member = await job.member(is_durable=False)
        await job.admit("d1", "d2", "d3", "d4")
        report = member.rounds.hold_before("report")

        answers = [await member.collector.collect(job.arrival(f"d{n}")) for n in range(1, 5)]

        assert [answer.verdict for answer in answers] == [Verdict.ACCEPTED] * 4
        assert job.reports() == []
        report.go.set()
        await asyncio.sleep(1)
        assert member.rounds.calls["report"] == 1
        assert await member.finish()
        values = member.view.base.model.values
        assert values.tobytes() == job.expected("d1", "d2", "d3", "d4")

    async def test_drain_waits_until_everything_acknowledged_is_stored(self, job):
        member = await job.member(is_durable=False)
        await job.admit("d1")
        await member.collector.collect(job.arrival("d1"))

        await member.collector.drain()

        assert job.reports() == ["d1"]

    async def test_a_repeat_waits_until_the_first_is_stored_and_gets_its_receipt(self, job):
        member = await job.member(is_durable=False)
        await job.admit("d1")
        await member.collector.collect(job.arrival("d1"))
        asked = member.rounds.calls["claim"]

        answer = await member.collector.collect(job.arrival("d1"))

        assert (answer.verdict, answer.receipt.position) == (Verdict.DUPLICATE, 1)
        assert member.rounds.calls["claim"] == asked + 1

    async def test_a_repeat_whose_claim_is_lost_does_not_make_room_for_another(self, job):
        member = await job.member(is_durable=False)
        await job.admit("d1", "d2", "d3", "d4")
        update = job.update()
        await member.collector.collect(job.arrival("d1", update))
        member.rounds.fail_before("claim")
        repeats = [
            asyncio.create_task(member.collector.collect(job.arrival("d1", update)))
            for _ in range(3)
        ]

        await asyncio.gather(*repeats, return_exceptions=True)
        for n in range(2, 5):
            await member.collector.collect(job.arrival(f"d{n}"))
        await member.collector.drain()
        assert await member.finish()

        values = member.view.base.model.values
        assert values.tobytes() == job.expected("d1", "d2", "d3", "d4")

    async def test_one_that_is_not_counted_after_all_is_told_of_and_holds_no_claim(
        self, job, caplog
    ):
        member = await job.member(is_durable=False)
        await job.admit("d1", "d2")
        for device in ("d1", "d2"):
            await member.collector.collect(job.arrival(device))
        await job.round_store.release(job.first, "a", ["d1"])

        await member.collector.drain()
        await asyncio.sleep(0.1)

        assert caplog.text.count("an acknowledged update is not counted: fenced") == 2
        assert (job.claims(), job.reports()) == ({}, [])

    async def test_a_commit_that_breaks_off_frees_the_places_of_its_updates(self, job, caplog):
        member = await job.member(is_durable=False)
        await job.admit("d1")
        member.rounds.fail_before("report", fault=StoreCorrupt("no word of ours"))
        await member.collector.collect(job.arrival("d1"))

        await member.collector.drain()
        await asyncio.sleep(0.1)

        assert "an acknowledged update is not counted" in caplog.text
        assert job.claims() == {}


class TestRoundsThatEnd:
    """The round may end between any two steps."""

    async def test_an_update_claimed_in_time_and_committed_late_is_not_counted(self, job, start):
        member = await job.member(patience_ms=500_000)
        await job.admit("d1")
        report = member.rounds.hold_before("report")
        task = start(member, job.arrival("d1"))
        await report.reached.wait()
        await asyncio.sleep(150)
        report.go.set()

        assert (await task).verdict is Verdict.ENOUGH
        assert await member.finish()
        assert member.view.base.model.values.tobytes() == job.model.values.tobytes()

    async def test_a_round_abandoned_between_claim_and_adding(self, job, start):
        member, other = await job.member(), await job.member("b")
        await job.admit("d1")
        claim = member.rounds.hold_after("claim")
        task = start(member, job.arrival("d1"))
        await claim.reached.wait()
        await job.round_store.abort(job.first, Reason.JOB_DISABLED)
        assert await other.finish()
        claim.go.set()

        answer = await task

        assert answer.verdict is Verdict.ENOUGH
        assert answer.snapshot.ref.number == 2

    async def test_a_plain_update_is_checked_with_the_scale_of_the_round_that_claimed_it(
        self, job, start
    ):
        """The round ends between claim and check; the next one's scale must not judge it."""
        member, other = await job.member(), await job.member("b")
        await job.admit("d1")
        claim = member.rounds.hold_after("claim")
        update = job.update(is_plain=True)
        update.arrays[0][1][0] = 1e30
        task = start(member, job.arrival("d1", update))
        await claim.reached.wait()
        await job.round_store.abort(job.first, Reason.JOB_DISABLED)
        assert await other.finish()
        await member.view.refresh()
        claim.go.set()

        answer = await task

        assert (answer.verdict, answer.unfit) == (Verdict.ENOUGH, None)

    async def test_an_update_is_judged_by_the_next_round_once_its_model_was_handed_out(self, job):
        member = await job.member()
        await job.admit("d1")
        await job.round_store.abort(job.first, Reason.JOB_DISABLED)
        assert await member.finish()
        arrival = job.arrival("d1", number=1)
        assert (await member.collector.collect(arrival)).verdict is Verdict.ENOUGH

        await job.round_store.model_served((await job.snapshot()).ref)

        answer = await member.collector.collect(job.arrival("d1", number=1))
        assert answer.verdict is Verdict.NOT_IN_COHORT

    async def test_a_member_declared_dead_counts_again_under_its_new_name(self, job, start):
        member = await job.member()
        await job.admit("d1", "d2", "d3", "d4")
        await member.collector.collect(job.arrival("d1"))
        await job.round_store.member_lost("a")
        task = start(member, job.arrival("d2"))
        await asyncio.sleep(1)
        assert not task.done()

        member.collector.become("a2")

        assert (await task).receipt.position == 2
        for device in ("d3", "d4"):
            await member.collector.collect(job.arrival(device))
        assert sorted(await job.round_store.partials(job.first)) == ["a", "a2"]
        assert await member.finish()
        values = member.view.base.model.values
        assert values.tobytes() == job.expected("d1", "d2", "d3", "d4")

    async def test_drain_returns_when_everything_in_hand_is_answered(self, job, start):
        member = await job.member()
        await job.admit("d1", "d2")
        report = member.rounds.hold_before("report")
        tasks = [start(member, job.arrival("d1"))]
        await report.reached.wait()
        draining = asyncio.create_task(member.collector.drain())
        tasks.append(start(member, job.arrival("d2")))
        await asyncio.sleep(1)
        assert not draining.done()

        report.go.set()
        await draining

        assert job.reports() == ["d1", "d2"]
        assert all(task.done() for task in tasks)

    async def test_nothing_is_kept_of_devices_that_were_answered(self, job):
        member = await job.member()
        await job.admit("d1", "d2", "d3", "d4")
        for n in range(1, 5):
            await member.collector.collect(job.arrival(f"d{n}"))
        await asyncio.sleep(1)

        assert member.collector._claims._turns == {}
        assert member.collector._tasks == set()
        assert len(asyncio.all_tasks()) == 1
