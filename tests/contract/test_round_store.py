"""What every round store does, held against the memory store and the Redis store alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.machine import Round
from fl_cluster.rounds.phases import (
    Abandoning,
    Aggregating,
    Closed,
    Counted,
    Lease,
    Reason,
    Reporting,
    RoundRef,
    Selecting,
    Waiting,
)
from fl_cluster.rounds.plan import Millis, RoundPlan
from fl_cluster.store.ports import (
    ClaimAnswer,
    ClaimRequest,
    Counts,
    EvaluationData,
    JobRecord,
    ModelRecord,
    Offer,
    Outcome,
    Receipt,
    ReportBatch,
    ReportedUpdate,
    ReportOutcome,
    RoundStore,
    Snapshot,
    Successor,
    UpdateRecord,
)

if TYPE_CHECKING:
    from conftest import Stores

REF = RoundRef("run-1", 1)
T0 = 1_700_000_000_000

ODD_DEVICES = (
    "",
    " ",
    "a b",
    "{curly}",
    "}{",
    "new\nline",
    "tab\tand\r",
    "nul\0inside",
    "é",
    "\udce9",
    "\udcff\udcfe",
    "日本",
    '"quoted"',
    "1 2 3",
    "-1",
    "accepted",
    "x" * 10_000,
)


def at(offset: int) -> Millis:
    return Millis(T0 + offset)


def offer(device: str) -> Offer:
    return Offer(device, 32, 8)


def update(device: str) -> UpdateRecord:
    return UpdateRecord(device, f"digest of {device!r}", 0.5, 0.25)


def batch(*devices: str, partial: str = "p1") -> ReportBatch:
    return ReportBatch([update(device) for device in devices], partial)


def seen(plan: RoundPlan, phase: str, **known: object) -> Snapshot:
    """The snapshot of round 1 in `phase`; what is not `known` is not set."""
    fields = {
        "ref": REF,
        "opened_at": None,
        "deadline": None,
        "ended_at": None,
        "reason": None,
        "lease_member": None,
        "lease_until": None,
        "served": True,
        "failures_in_a_row": 0,
        "is_disabled": False,
        "successor": "",
        "first_report_at": None,
        "last_outcome": "",
        "last_reason": None,
        "last_ended_at": None,
    }
    return Snapshot(plan=plan, phase=phase, **(fields | known))  # type: ignore[arg-type]


async def join(rounds: RoundStore, *devices: str, offset: int = 0) -> Sequence[Verdict]:
    return await rounds.check_in(REF, [offer(device) for device in devices], at(offset))


async def claim(
    rounds: RoundStore, member: str, *devices: str, number: int = 1, offset: int = 1
) -> list[Verdict]:
    requests = [ClaimRequest(device, number) for device in devices]
    return [answer.verdict for answer in await rounds.claim(REF, member, requests, at(offset))]


async def count(
    rounds: RoundStore, member: str, *devices: str, partial: str = "p1", offset: int = 2
) -> ReportOutcome:
    await claim(rounds, member, *devices, offset=offset)
    return await rounds.report(REF, member, batch(*devices, partial=partial), at(offset))


def model(number: int) -> ModelRecord:
    return ModelRecord(number, f"model-{number}", 16, "cd" * 32, (40, 41), ("left",))


async def finish(rounds: RoundStore, number: int = 1, *, finishes_job: bool = False) -> Verdict:
    """Take the lease and publish round `number`, which is being finished."""
    ref = RoundRef("run-1", number)
    assert await rounds.take_lease(ref, "m1", 500, at(150)) is Verdict.ACCEPTED
    return await rounds.publish(ref, "m1", Outcome(model(number), finishes_job))


async def test_a_new_job_waits_for_its_first_device(stores: Stores) -> None:
    rounds = await stores.open()

    assert await rounds.load() == Round(Waiting(REF, stores.plan))
    assert await rounds.snapshot() == seen(stores.plan, "waiting")


async def test_the_first_check_in_opens_the_cohort(stores: Stores) -> None:
    rounds = await stores.open()

    assert await join(rounds, "a") == [Verdict.ACCEPTED]
    snapshot = await rounds.snapshot()

    assert snapshot == seen(stores.plan, "selecting", opened_at=at(0), deadline=at(100))
    assert snapshot.is_collecting
    assert not snapshot.needs_finishing
    assert not snapshot.is_closed


async def test_a_batch_of_check_ins_is_judged_one_by_one(stores: Stores) -> None:
    rounds = await stores.open()

    verdicts = await join(rounds, "a", "b", "a", "c", "d", "a")

    assert verdicts == [
        Verdict.ACCEPTED,
        Verdict.ACCEPTED,
        Verdict.ALREADY_CHECKED_IN,
        Verdict.ACCEPTED,
        Verdict.COHORT_FULL,
        Verdict.ALREADY_CHECKED_IN,
    ]
    assert isinstance((await rounds.load()).phase, Reporting)


async def test_nobody_checking_in_opens_nothing(stores: Stores) -> None:
    rounds = await stores.open()

    assert await join(rounds) == []

    assert await rounds.load() == Round(Waiting(REF, stores.plan))


async def test_a_check_in_exactly_at_the_deadline_is_late(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a")

    assert await join(rounds, "b", offset=99) == [Verdict.ACCEPTED]
    assert await join(rounds, "c", "a", offset=100) == [Verdict.LATE, Verdict.LATE]

    phase = (await rounds.load()).phase
    assert isinstance(phase, Selecting)
    assert set(phase.cohort) == {"a", "b"}


async def test_a_claim_tells_what_the_device_declared(stores: Stores) -> None:
    rounds = await stores.open()
    await rounds.check_in(REF, [Offer("a", 60_000, 5), Offer("b", 7, 0)], at(0))
    requests = [ClaimRequest("b", 1), ClaimRequest("x", 1), ClaimRequest("a", 1)]

    assert await rounds.claim(REF, "m1", requests, at(1)) == [
        ClaimAnswer(Verdict.ACCEPTED, 7),
        ClaimAnswer(Verdict.NOT_IN_COHORT),
        ClaimAnswer(Verdict.ACCEPTED, 60_000),
    ]


async def test_no_claims_get_no_answers(stores: Stores) -> None:
    rounds = await stores.open()

    assert await claim(rounds, "m1") == []


async def test_claims_and_counted_updates_share_the_goal(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b", "c")
    await count(rounds, "m1", "a")

    verdicts = await claim(rounds, "m2", "a", "b", "b", "c", "x")

    assert verdicts == [
        Verdict.DUPLICATE,
        Verdict.ACCEPTED,
        Verdict.PENDING,
        Verdict.PENDING,
        Verdict.NOT_IN_COHORT,
    ]


async def test_a_released_claim_is_free_for_another_member(stores: Stores) -> None:
    rounds = await stores.open(report_goal=1)
    await join(rounds, "a", "b")
    await claim(rounds, "m1", "a")

    assert await claim(rounds, "m2", "b") == [Verdict.PENDING]
    assert await rounds.release(REF, "m2", ["a"]) is Verdict.ACCEPTED
    assert await claim(rounds, "m2", "b") == [Verdict.PENDING]
    assert await rounds.release(REF, "m1", ["a", "never claimed"]) is Verdict.ACCEPTED
    assert await claim(rounds, "m2", "b") == [Verdict.ACCEPTED]


async def test_a_report_counts_in_the_order_of_the_batch(stores: Stores) -> None:
    rounds = await stores.open(cohort_size=4, report_goal=4)
    await join(rounds, "a", "b", "c", "d")

    assert await count(rounds, "m1", "c") == ReportOutcome(Verdict.ACCEPTED, (1,))
    assert await count(rounds, "m2", "d", "a", partial="p2") == ReportOutcome(
        Verdict.ACCEPTED, (2, 3)
    )

    phase = (await rounds.load()).phase
    assert isinstance(phase, Reporting)
    assert phase.reports == {
        "c": Counted("m1", 1, at(2)),
        "d": Counted("m2", 2, at(2)),
        "a": Counted("m2", 3, at(2)),
    }
    assert phase.claims == {}
    assert phase.first_report_at == at(2)
    assert await rounds.partials(REF) == {"m1": "p1", "m2": "p2"}


async def test_a_later_partial_replaces_the_earlier_one(stores: Stores) -> None:
    rounds = await stores.open(report_goal=3)
    await join(rounds, "a", "b", "c")

    await count(rounds, "m1", "a", partial="p1")
    await count(rounds, "m1", "b", partial="p2")

    assert await rounds.partials(REF) == {"m1": "p2"}


async def test_a_report_is_counted_whole_or_not_at_all(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await claim(rounds, "m1", "a")
    before = await rounds.load()

    outcome = await rounds.report(REF, "m1", batch("a", "b"), at(2))

    assert outcome == ReportOutcome(Verdict.UNCLAIMED, ())
    assert await rounds.load() == before


async def test_a_partial_that_goes_on_from_what_the_store_forgot_is_not_counted(
    stores: Stores,
) -> None:
    rounds = await stores.open(report_goal=3)
    await join(rounds, "a", "b", "c")
    await count(rounds, "m1", "a", partial="p1")
    await claim(rounds, "m1", "b")
    before = await rounds.load()

    outcome = await rounds.report(
        REF, "m1", replace(batch("b", partial="p9"), previous="p8"), at(2)
    )

    assert outcome == ReportOutcome(Verdict.UNCLAIMED, ())
    assert await rounds.load() == before


async def test_a_partial_that_goes_on_from_what_the_store_holds_is_counted(stores: Stores) -> None:
    rounds = await stores.open(report_goal=3)
    await join(rounds, "a", "b", "c")
    await claim(rounds, "m1", "a", "b")

    first = await rounds.report(REF, "m1", replace(batch("a", partial="p1"), previous=""), at(2))
    then = await rounds.report(REF, "m1", replace(batch("b", partial="p2"), previous="p1"), at(2))

    assert (first.positions, then.positions) == ((1,), (2,))


async def test_a_new_model_does_not_end_a_round_that_was_given_up_meanwhile(
    stores: Stores,
) -> None:
    rounds = await stores.open(report_goal=1)
    await join(rounds, "a")
    await count(rounds, "m1", "a")
    await rounds.take_lease(REF, "m1", 500, at(3))
    await rounds.abort(REF, Reason.AGGREGATE_FAILED, at(4))
    await rounds.take_lease(REF, "m1", 500, at(5))

    late = await rounds.publish(REF, "m1", Outcome(model(1), finishes_job=False, commits=True))
    right = await rounds.publish(REF, "m1", Outcome(model(1), finishes_job=False, commits=False))

    assert (late, right) == (Verdict.MOVED_ON, Verdict.ACCEPTED)


async def test_a_repeated_report_gets_the_first_answer(stores: Stores) -> None:
    rounds = await stores.open(report_goal=3)
    await join(rounds, "a", "b", "c")
    first = await count(rounds, "m1", "b", "a")
    before = await rounds.load()

    again = await rounds.report(REF, "m1", batch("b", "a"), at(9_999))

    assert again == first == ReportOutcome(Verdict.ACCEPTED, (1, 2))
    assert await rounds.load() == before


async def test_the_report_that_met_the_goal_may_be_repeated_too(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b", "c")
    await count(rounds, "m1", "a", "b")
    assert isinstance((await rounds.load()).phase, Aggregating)

    assert await rounds.report(REF, "m1", batch("a", "b"), at(9_999)) == ReportOutcome(
        Verdict.ACCEPTED, (1, 2)
    )


async def test_a_report_exactly_at_the_deadline_is_late(stores: Stores) -> None:
    rounds = await stores.open(report_goal=3)
    await join(rounds, "a", "b", "c")
    await count(rounds, "m1", "a", offset=10)
    await claim(rounds, "m2", "b", "c", offset=11)

    in_time = await rounds.report(REF, "m2", batch("b", partial="p2"), at(59))
    late = await rounds.report(REF, "m2", batch("c", partial="p3"), at(60))

    assert in_time == ReportOutcome(Verdict.ACCEPTED, (2,))
    assert late == ReportOutcome(Verdict.LATE, ())


async def test_the_goal_ends_collecting(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await count(rounds, "m1", "a", "b")

    loaded = await rounds.load()
    snapshot = await rounds.snapshot()

    assert isinstance(loaded.phase, Aggregating)
    assert loaded.phase.since == at(2)
    assert snapshot == seen(stores.plan, "aggregating", opened_at=at(0), ended_at=at(2))
    assert snapshot.needs_finishing
    assert await join(rounds, "c", offset=3) == [Verdict.COHORT_FULL]
    assert await claim(rounds, "m1", "a", offset=3) == [Verdict.ENOUGH]
    assert await rounds.release(REF, "m1", ["a"]) is Verdict.ENOUGH


async def test_a_tick_does_nothing_before_the_deadline(stores: Stores) -> None:
    rounds = await stores.open()
    assert await rounds.tick(REF, at(10**9)) is Verdict.ACCEPTED
    await join(rounds, "a")
    before = await rounds.load()

    assert await rounds.tick(REF, at(99)) is Verdict.ACCEPTED

    assert await rounds.load() == before


@pytest.mark.parametrize(
    ("numbers", "devices", "reason", "deadline"),
    [
        ({}, ["a"], Reason.SELECT_WINDOW, 100),
        ({}, ["a", "b", "c"], Reason.REPORT_WINDOW, 52),
        ({"report_window_ms": 500}, ["a", "b", "c"], Reason.ROUND_WINDOW, 200),
        ({"round_window_ms": 51}, ["a"], Reason.ROUND_WINDOW, 51),
    ],
)
async def test_the_first_window_to_close_ends_the_round(
    stores: Stores, numbers: dict[str, int], devices: list[str], reason: Reason, deadline: int
) -> None:
    rounds = await stores.open(**numbers)
    await join(rounds, *devices)
    if len(devices) == 3:
        await count(rounds, "m1", "a")
    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert snapshot.deadline == at(deadline)

    await rounds.tick(REF, at(deadline - 1))
    assert isinstance((await rounds.load()).phase, Selecting | Reporting)
    await rounds.tick(REF, at(deadline))

    phase = (await rounds.load()).phase
    assert isinstance(phase, Abandoning)
    assert phase.reason is reason
    assert phase.since == at(deadline)
    assert set(phase.cohort) == set(devices)
    after = await rounds.snapshot()
    assert after is not None
    assert (after.phase, after.reason) == ("abandoning", reason)


async def test_a_round_knows_how_and_when_the_one_before_ended(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await rounds.tick(REF, at(100))
    assert await finish(rounds) is Verdict.ACCEPTED

    snapshot = await rounds.snapshot()

    assert snapshot == seen(
        stores.plan,
        "waiting",
        ref=REF.next(),
        served=False,
        last_outcome="abandoned",
        last_reason=Reason.SELECT_WINDOW,
        last_ended_at=at(100),
    )


async def test_the_first_counted_update_is_dated_while_devices_may_report(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    instants = []
    for offset, device in ((3, "a"), (4, "b")):
        snapshot = await rounds.snapshot()
        assert snapshot is not None
        instants.append(snapshot.first_report_at)
        await count(rounds, "m1", device, partial=f"p{offset}", offset=offset)
    ended = await rounds.snapshot()

    assert instants == [None, at(3)]
    assert ended is not None
    assert (ended.phase, ended.first_report_at) == ("aggregating", None)


async def test_aborting_names_the_reason(stores: Stores) -> None:
    rounds = await stores.open()

    assert await rounds.abort(REF, Reason.JOB_DISABLED, at(5)) is Verdict.ACCEPTED
    assert await rounds.abort(REF, Reason.AGGREGATE_FAILED, at(6)) is Verdict.NOTHING_TO_FINISH

    phase = (await rounds.load()).phase
    assert phase == Abandoning(REF, stores.plan, None, {}, {}, {}, at(5), None, Reason.JOB_DISABLED)


async def test_aborting_takes_the_lease_from_who_aggregates(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await count(rounds, "m1", "a", "b")
    await rounds.take_lease(REF, "m1", 500, at(3))

    await rounds.abort(REF, Reason.JOB_DISABLED, at(4))

    assert await rounds.publish(REF, "m1", Outcome(model(1), False)) is Verdict.LEASE_LOST


async def test_a_lease_keeps_others_away_until_it_ends(stores: Stores) -> None:
    rounds = await stores.open()
    assert await rounds.take_lease(REF, "m1", 500, at(0)) is Verdict.NOTHING_TO_FINISH
    await join(rounds, "a", "b")
    await count(rounds, "m1", "a", "b")

    assert await rounds.take_lease(REF, "m1", 500, at(10)) is Verdict.ACCEPTED
    assert await rounds.take_lease(REF, "m2", 500, at(509)) is Verdict.LEASED
    assert await rounds.take_lease(REF, "m1", 500, at(100)) is Verdict.ACCEPTED
    assert await rounds.take_lease(REF, "m2", 500, at(599)) is Verdict.LEASED
    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert (snapshot.lease_member, snapshot.lease_until) == ("m1", at(600))
    assert await rounds.take_lease(REF, "m2", 500, at(600)) is Verdict.ACCEPTED

    phase = (await rounds.load()).phase
    assert isinstance(phase, Aggregating)
    assert phase.lease == Lease("m2", at(1100))
    assert await rounds.publish(REF, "m1", Outcome(model(1), False)) is Verdict.LEASE_LOST


async def test_a_lease_that_ran_out_is_good_until_another_takes_it(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await count(rounds, "m1", "a", "b")
    await rounds.take_lease(REF, "m1", 1, at(3))

    assert await rounds.publish(REF, "m1", Outcome(model(1), False)) is Verdict.ACCEPTED


async def test_publishing_opens_the_next_round(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await count(rounds, "m1", "a", "b")

    assert await finish(rounds) is Verdict.ACCEPTED

    assert await rounds.load() == Round(Waiting(REF.next(), stores.plan), served=False)
    assert await rounds.snapshot() == seen(
        stores.plan,
        "waiting",
        ref=REF.next(),
        served=False,
        last_outcome="committed",
        last_ended_at=at(2),
    )
    assert await stores.jobs.models() == {0: stores.model, 1: model(1)}
    assert await rounds.publish(REF, "m1", Outcome(model(1), False)) is Verdict.MOVED_ON


async def test_a_finished_round_still_proves_what_it_counted(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b", "c")
    await count(rounds, "m1", "a")
    await count(rounds, "m2", "b", partial="p2")
    await finish(rounds)

    assert await rounds.receipt(REF, "a") == Receipt(1, update("a").digest, 1)
    assert await rounds.receipt(REF, "b") == Receipt(1, update("b").digest, 2)
    assert await rounds.receipt(REF, "c") is None
    assert await rounds.receipt(REF.next(), "a") is None
    assert await rounds.partials(REF) == {"m1": "p1", "m2": "p2"}
    assert [one.device for one in await rounds.reported(REF)] == ["a", "b"]
    assert await rounds.report(REF, "m1", batch("a"), at(3)) == ReportOutcome(Verdict.MOVED_ON, ())


async def test_a_summary_has_everything_about_each_update(stores: Stores) -> None:
    rounds = await stores.open()
    await rounds.check_in(REF, [Offer("z", 9, 3)], at(0))
    await rounds.check_in(REF, [Offer("b", 7, 0)], at(5))
    await claim(rounds, "m1", "z", offset=10)
    await rounds.report(REF, "m1", ReportBatch([UpdateRecord("z", "d1", 0.75, 1.0)], "p1"), at(20))
    await claim(rounds, "m2", "b", offset=21)
    await rounds.report(REF, "m2", ReportBatch([UpdateRecord("b", "d2", 1e30, 0.0)], "p2"), at(30))

    assert await rounds.reported(REF) == [
        ReportedUpdate("b", "m2", 2, at(30), "d2", 1e30, 0.0, 7, 0, at(5)),
        ReportedUpdate("z", "m1", 1, at(20), "d1", 0.75, 1.0, 9, 3, at(0)),
    ]
    assert await rounds.reported(REF.next()) == []


async def test_a_loss_need_not_be_finite(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await claim(rounds, "m1", "a", "b")
    sent = [UpdateRecord("a", "d1", math.nan, 0.0), UpdateRecord("b", "d2", math.inf, -math.inf)]
    await rounds.report(REF, "m1", ReportBatch(sent, "p1"), at(2))

    first, second = await rounds.reported(REF)

    assert math.isnan(first.loss)
    assert (second.loss, second.accuracy) == (math.inf, -math.inf)


async def test_the_last_round_closes_the_job(stores: Stores) -> None:
    rounds = await stores.open()
    await rounds.abort(REF, Reason.JOB_DISABLED, at(0))

    assert await finish(rounds, finishes_job=True) is Verdict.ACCEPTED

    assert await rounds.load() == Round(Closed(REF.next(), stores.plan), served=False)
    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert snapshot.is_closed
    assert not snapshot.is_collecting
    assert snapshot.job_state == "finished"
    verdicts = await rounds.check_in(REF.next(), [offer("a")], at(1))
    assert verdicts == [Verdict.COHORT_FULL]
    assert await rounds.abort(REF.next(), Reason.JOB_DISABLED) is Verdict.NOTHING_TO_FINISH


async def test_the_next_round_knows_how_the_last_one_ended(stores: Stores) -> None:
    rounds = await stores.open()
    await rounds.abort(REF, Reason.AGGREGATE_FAILED, at(0))
    await rounds.take_lease(REF, "m1", 500, at(0))
    await rounds.publish(REF, "m1", Outcome(model(1), finishes_job=False, failures_in_a_row=3))

    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert (snapshot.last_outcome, snapshot.failures_in_a_row) == ("abandoned", 3)
    assert snapshot.job_state == "running"


async def test_the_last_three_models_are_kept(stores: Stores) -> None:
    rounds = await stores.open()
    for number in range(1, 6):
        await rounds.abort(RoundRef("run-1", number), Reason.JOB_DISABLED, at(0))
        await finish(rounds, number)

    assert await stores.jobs.models() == {number: model(number) for number in (3, 4, 5)}


async def test_until_the_model_is_served_the_round_before_has_enough(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await count(rounds, "m1", "a", "b")
    await finish(rounds)
    ref = REF.next()
    old, new = ClaimRequest("a", 1), ClaimRequest("a", 2)

    before = await rounds.claim(ref, "m1", [old, new], at(200))
    assert await rounds.model_served(REF) is Verdict.MOVED_ON
    assert await rounds.model_served(ref) is Verdict.ACCEPTED
    assert await rounds.model_served(ref) is Verdict.ACCEPTED
    waiting = await rounds.claim(ref, "m1", [old, new], at(200))
    await rounds.check_in(ref, [offer("a")], at(200))
    after = await rounds.claim(ref, "m1", [old, new], at(200))

    def words(answers: Sequence[ClaimAnswer]) -> list[Verdict]:
        return [answer.verdict for answer in answers]

    assert words(before) == [Verdict.ENOUGH, Verdict.NOT_IN_COHORT]
    assert words(waiting) == [Verdict.NOT_IN_COHORT, Verdict.NOT_IN_COHORT]
    assert words(after) == [Verdict.STALE_ROUND, Verdict.ACCEPTED]


async def test_a_lost_member_gives_up_its_claims_and_nothing_it_counted(stores: Stores) -> None:
    rounds = await stores.open(report_goal=3)
    await join(rounds, "a", "b", "c")
    await count(rounds, "m1", "a")
    await claim(rounds, "m1", "b")
    await claim(rounds, "m2", "c")

    assert await rounds.member_lost("m1", at(5)) is Verdict.ACCEPTED
    assert await rounds.member_lost("m1", at(6)) is Verdict.ACCEPTED

    loaded = await rounds.load()
    assert isinstance(loaded.phase, Reporting)
    assert loaded.fenced == {"m1"}
    assert loaded.phase.claims == {"c": "m2"}
    assert set(loaded.phase.reports) == {"a"}
    assert await rounds.partials(REF) == {"m1": "p1"}
    assert await claim(rounds, "m2", "b", offset=7) == [Verdict.ACCEPTED]


async def test_a_lost_member_changes_nothing_any_more(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await claim(rounds, "m1", "a")
    await rounds.member_lost("m1", at(2))
    before = await rounds.load()

    assert await claim(rounds, "m1", "a", "x", number=9) == [Verdict.FENCED, Verdict.FENCED]
    assert (await rounds.report(REF, "m1", batch("a"), at(3))).verdict is Verdict.FENCED
    assert await rounds.release(REF, "m1", ["a"]) is Verdict.FENCED
    assert await rounds.take_lease(REF, "m1", 5, at(3)) is Verdict.FENCED
    assert await rounds.publish(REF, "m1", Outcome(model(1), False)) is Verdict.FENCED
    assert await rounds.load() == before


async def test_a_lost_member_gives_up_its_lease(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await count(rounds, "m1", "a", "b")
    await rounds.take_lease(REF, "m1", 10_000, at(3))
    await rounds.take_lease(REF, "m2", 10_000, at(3))

    await rounds.member_lost("m1", at(4))

    assert await rounds.take_lease(REF, "m2", 10_000, at(5)) is Verdict.ACCEPTED


async def test_the_dead_stay_dead_in_the_next_round(stores: Stores) -> None:
    rounds = await stores.open()
    await rounds.member_lost("m9", at(0))
    await rounds.abort(REF, Reason.JOB_DISABLED, at(1))
    await finish(rounds)

    answers = await rounds.claim(REF.next(), "m9", [ClaimRequest("a", 2)], at(2))

    assert [answer.verdict for answer in answers] == [Verdict.FENCED]


@pytest.mark.parametrize(
    "ref", [RoundRef("run-1", 2), RoundRef("run-1", 1, 2), RoundRef("run-2", 1)], ids=str
)
async def test_an_event_for_another_round_is_refused(stores: Stores, ref: RoundRef) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await claim(rounds, "m1", "a")
    before = await rounds.load()
    moved_on = Verdict.MOVED_ON

    assert await rounds.check_in(ref, [offer("c"), offer("d")], at(2)) == [moved_on] * 2
    assert await rounds.claim(ref, "m1", [ClaimRequest("b", 1)], at(2)) == [ClaimAnswer(moved_on)]
    assert await rounds.release(ref, "m1", ["a"]) is moved_on
    assert await rounds.report(ref, "m1", batch("a"), at(2)) == ReportOutcome(moved_on, ())
    assert await rounds.tick(ref, at(10**9)) is moved_on
    assert await rounds.abort(ref, Reason.JOB_DISABLED, at(2)) is moved_on
    assert await rounds.take_lease(ref, "m1", 5, at(2)) is moved_on
    assert await rounds.publish(ref, "m1", Outcome(model(1), False)) is moved_on
    assert await rounds.model_served(ref) is moved_on
    assert await rounds.load() == before


async def test_a_device_may_have_any_name(stores: Stores) -> None:
    size = len(ODD_DEVICES)
    rounds = await stores.open(cohort_size=size, report_goal=size)

    assert set(await join(rounds, *ODD_DEVICES)) == {Verdict.ACCEPTED}
    assert set(await claim(rounds, "m1", *ODD_DEVICES)) == {Verdict.ACCEPTED}
    assert await rounds.release(REF, "m1", ODD_DEVICES) is Verdict.ACCEPTED
    outcome = await count(rounds, "m1", *ODD_DEVICES)

    assert outcome == ReportOutcome(Verdict.ACCEPTED, tuple(range(1, size + 1)))
    assert [one.device for one in await rounds.reported(REF)] == sorted(ODD_DEVICES)
    for position, device in enumerate(ODD_DEVICES, 1):
        assert await rounds.receipt(REF, device) == Receipt(1, update(device).digest, position)
    phase = (await rounds.load()).phase
    assert isinstance(phase, Aggregating)
    assert set(phase.cohort) == set(phase.reports) == set(ODD_DEVICES)


async def test_visits_add_up_for_each_round(stores: Stores) -> None:
    rounds = await stores.open()

    await rounds.count_visits(REF, {"update accepted": 2, "update late": 1})
    await rounds.count_visits(REF, {"update accepted": 40})
    await rounds.count_visits(REF, {})

    assert await rounds.visits(REF) == {"update accepted": 42, "update late": 1}
    assert await rounds.visits(REF.next()) == {}


async def test_the_store_has_a_clock_of_its_own(stores: Stores) -> None:
    rounds = await stores.open(
        select_window_ms=60_000, report_window_ms=60_000, round_window_ms=60_000
    )

    await rounds.check_in(REF, [offer("a"), offer("b"), offer("c")])
    await rounds.claim(REF, "m1", [ClaimRequest("a", 1)])
    await rounds.report(REF, "m1", batch("a"))
    await rounds.tick(REF)
    running = (await rounds.load()).phase
    await rounds.abort(REF, Reason.JOB_DISABLED)
    await rounds.take_lease(REF, "m1", 500)
    ending = (await rounds.load()).phase

    assert isinstance(running, Reporting)
    assert running.opened_at <= running.reports["a"].at < running.opened_at + 60_000
    assert running.first_report_at == running.reports["a"].at
    assert isinstance(ending, Abandoning)
    assert ending.lease is not None
    assert running.opened_at <= ending.since <= ending.lease.until - 500 < ending.since + 60_000


async def test_a_thousand_devices_report_in_one_batch(stores: Stores) -> None:
    devices = [f"device-{i}" for i in range(1000)]
    rounds = await stores.open(cohort_size=1000, report_goal=1000)

    assert set(await join(rounds, *devices)) == {Verdict.ACCEPTED}
    outcome = await count(rounds, "m1", *devices)

    assert outcome.verdict is Verdict.ACCEPTED
    assert list(outcome.positions) == list(range(1, 1001))
    assert isinstance((await rounds.load()).phase, Aggregating)


async def test_windows_may_be_as_long_as_the_configuration_allows(stores: Stores) -> None:
    longest = 2**32 - 1
    rounds = await stores.open(
        select_window_ms=longest, report_window_ms=longest, round_window_ms=longest
    )
    await join(rounds, "a")

    assert await join(rounds, "b", offset=longest - 1) == [Verdict.ACCEPTED]
    assert await join(rounds, "c", offset=longest) == [Verdict.LATE]
    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert snapshot.deadline == at(longest)
    assert snapshot.plan == RoundPlan(3, 2, longest, longest, longest)


async def test_a_stopped_job_gives_up_its_round_and_takes_no_device(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a")

    assert await rounds.disable(at(5)) is Verdict.ACCEPTED
    assert await rounds.disable(at(6)) is Verdict.ALREADY_DISABLED

    phase = (await rounds.load()).phase
    assert isinstance(phase, Abandoning)
    assert (phase.reason, phase.since) == (Reason.JOB_DISABLED, at(5))
    assert await join(rounds, "b", offset=7) == [Verdict.JOB_DISABLED]
    await finish(rounds)
    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert snapshot.job_state == "disabled"
    assert await rounds.check_in(REF.next(), [offer("a")], at(9)) == [Verdict.JOB_DISABLED]

    assert await rounds.enable() is Verdict.ACCEPTED
    assert await rounds.enable() is Verdict.ALREADY_ENABLED
    assert await rounds.check_in(REF.next(), [offer("a")], at(9)) == [Verdict.ACCEPTED]


async def test_a_job_stopped_while_it_aggregates_still_gets_its_model(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await count(rounds, "m1", "a", "b")

    assert await rounds.disable(at(5)) is Verdict.ACCEPTED
    assert isinstance((await rounds.load()).phase, Aggregating)
    assert await finish(rounds) is Verdict.ACCEPTED

    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert (snapshot.is_disabled, snapshot.last_outcome) == (True, "committed")


async def test_a_finished_job_is_neither_stopped_nor_started(stores: Stores) -> None:
    rounds = await stores.open()
    await rounds.abort(REF, Reason.JOB_DISABLED, at(0))
    await finish(rounds, finishes_job=True)

    assert await rounds.disable() is Verdict.JOB_FINISHED
    assert await rounds.enable() is Verdict.JOB_FINISHED


NEXT_JOB = JobRecord("run-2", 5, '{"epochs": 9}', "[1]")
NEXT_PLAN = RoundPlan(7, 6, 5, 4, 3)
NEXT_MODEL = ModelRecord(0, "model-of-run-2", 20, "ef" * 32, (7,))
SUCCESSOR = Successor("run-2", NEXT_PLAN, NEXT_MODEL)


@pytest.mark.parametrize("finishes_job", [False, True])
async def test_a_restarted_job_begins_anew_when_its_round_is_over(
    stores: Stores, finishes_job: bool
) -> None:
    rounds = await stores.open()
    await join(rounds, "a", "b")
    await count(rounds, "m1", "a")
    assert await stores.jobs.successor() is None

    assert await rounds.restart(NEXT_JOB, at(5)) is Verdict.ACCEPTED

    phase = (await rounds.load()).phase
    assert isinstance(phase, Abandoning)
    assert (phase.reason, set(phase.reports)) == (Reason.JOB_RESTARTED, {"a"})
    assert await stores.jobs.job() == stores.job
    assert await stores.jobs.successor() == NEXT_JOB
    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert snapshot.successor == "run-2"
    await rounds.take_lease(REF, "m1", 500, at(6))
    assert await rounds.publish(REF, "m1", Outcome(model(1), False)) is Verdict.MOVED_ON
    outcome = Outcome(model(1), finishes_job, 2, SUCCESSOR)
    assert await rounds.publish(REF, "m1", outcome) is Verdict.ACCEPTED

    first = RoundRef("run-2", 1)
    assert await rounds.load() == Round(Waiting(first, NEXT_PLAN))
    assert await rounds.snapshot() == seen(
        NEXT_PLAN, "waiting", ref=first, failures_in_a_row=2, last_ended_at=at(5)
    )
    assert await stores.jobs.job() == NEXT_JOB
    assert await stores.jobs.successor() is None
    assert await stores.jobs.models() == {0: NEXT_MODEL}
    assert await rounds.receipt(REF, "a") == Receipt(1, update("a").digest, 1)
    assert await rounds.check_in(first, [offer("a")], at(7)) == [Verdict.ACCEPTED]


async def test_a_finished_job_may_be_restarted(stores: Stores) -> None:
    rounds = await stores.open()
    await rounds.abort(REF, Reason.JOB_DISABLED, at(0))
    await finish(rounds, finishes_job=True)

    assert await rounds.restart(NEXT_JOB, at(5)) is Verdict.ACCEPTED

    assert await rounds.load() == Round(
        Abandoning(REF.next(), stores.plan, None, {}, {}, {}, at(5), None, Reason.JOB_RESTARTED),
        served=False,
        successor="run-2",
    )
    await rounds.take_lease(REF.next(), "m1", 500, at(6))
    outcome = Outcome(model(2), False, 0, SUCCESSOR)
    assert await rounds.publish(REF.next(), "m1", outcome) is Verdict.ACCEPTED
    assert await rounds.load() == Round(Waiting(RoundRef("run-2", 1), NEXT_PLAN))
    assert await stores.jobs.models() == {0: NEXT_MODEL}


async def test_the_last_restart_counts(stores: Stores) -> None:
    rounds = await stores.open()
    await rounds.restart(replace(NEXT_JOB, instance="run-1b"), at(1))
    await rounds.take_lease(REF, "m1", 500, at(1))
    assert await rounds.restart(NEXT_JOB, at(2)) is Verdict.ACCEPTED
    stale = replace(SUCCESSOR, instance="run-1b")

    assert await rounds.publish(REF, "m1", Outcome(model(1), False, 0, stale)) is Verdict.MOVED_ON
    assert await rounds.publish(REF, "m1", Outcome(model(1), False, 0, SUCCESSOR)) is (
        Verdict.ACCEPTED
    )
    assert await stores.jobs.job() == NEXT_JOB


@pytest.mark.parametrize("is_stopped_last", [False, True])
async def test_of_stop_and_restart_the_last_word_counts(
    stores: Stores, is_stopped_last: bool
) -> None:
    rounds = await stores.open()
    calls = [lambda: rounds.disable(at(1)), lambda: rounds.restart(NEXT_JOB, at(1))]
    for call in calls[::-1] if is_stopped_last else calls:
        assert await call() is Verdict.ACCEPTED
    await rounds.take_lease(REF, "m1", 500, at(2))
    await rounds.publish(REF, "m1", Outcome(model(1), False, 0, SUCCESSOR))

    loaded = await rounds.load()

    assert loaded.phase.ref == RoundRef("run-2", 1)
    assert loaded.is_disabled is is_stopped_last


async def test_a_round_is_counted(stores: Stores) -> None:
    rounds = await stores.open(report_goal=3)
    assert await rounds.counts(REF) == Counts(0, 0, 0)
    await join(rounds, "a", "b", "c")
    await count(rounds, "m1", "a")
    await claim(rounds, "m1", "b")

    assert await rounds.counts(REF) == Counts(3, 1, 1)
    await rounds.abort(REF, Reason.JOB_DISABLED, at(9))
    assert (await rounds.counts(REF)).reports == 1
    assert await rounds.counts(REF.next()) == Counts(0, 0, 0)


async def test_it_is_remembered_who_was_answered(stores: Stores) -> None:
    rounds = await stores.open()

    await rounds.note_answered(REF, ODD_DEVICES)
    await rounds.note_answered(REF, [])
    await rounds.note_answered(REF, [f"device-{i}" for i in range(20_000)])

    for device in (*ODD_DEVICES, "device-0", "device-19999"):
        assert await rounds.was_answered(REF, device)
        assert not await rounds.was_answered(REF.next(), device)
    assert not await rounds.was_answered(REF, "nobody")


def evaluated(device: str, vector: bytes, kept: int = 3) -> UpdateRecord:
    return replace(update(device), evaluation=EvaluationData(vector, kept))


async def evaluate(rounds: RoundStore, ref: RoundRef, batch: ReportBatch, at_ms: int) -> None:
    """Count a batch of one member's, from the check-in on."""
    devices = [each.device for each in batch.updates]
    await rounds.check_in(ref, [offer(device) for device in devices], at(at_ms))
    asked = [ClaimRequest(device, ref.number) for device in devices]
    await rounds.claim(ref, "m1", asked, at(at_ms))
    outcome = await rounds.report(ref, "m1", batch, at(at_ms))
    assert outcome.verdict is Verdict.ACCEPTED


async def test_the_newest_vectors_of_counted_updates_are_kept_over_rounds(stores: Stores) -> None:
    rounds = await stores.open(cohort_size=9, report_goal=9)
    assert await rounds.evaluations("run-1") == []
    first = ReportBatch([evaluated("a", b"1111"), update("b"), evaluated("c", b"\x00\xff22")], "p1")
    await evaluate(rounds, REF, first, 0)

    assert await rounds.evaluations("run-1") == [b"\x00\xff22", b"1111"]

    assert (await rounds.report(REF, "m1", first, at(1))).verdict is Verdict.ACCEPTED
    await rounds.abort(REF, Reason.AGGREGATE_FAILED, at(2))
    await rounds.take_lease(REF, "m1", 500, at(3))
    await rounds.publish(REF, "m1", Outcome(model(1), False))
    second = ReportBatch([evaluated("a", b"3333"), evaluated("d", b"4444")], "p2")
    await evaluate(rounds, REF.next(), second, 4)

    assert await rounds.evaluations("run-1") == [b"4444", b"3333", b"\x00\xff22"]
    assert await rounds.evaluations("run-2") == []


async def test_a_report_that_is_refused_leaves_no_vector(stores: Stores) -> None:
    rounds = await stores.open()
    await join(rounds, "a")

    refused = await rounds.report(REF, "m1", ReportBatch([evaluated("a", b"1111")], "p1"), at(1))

    assert refused.verdict is Verdict.UNCLAIMED
    assert await rounds.evaluations("run-1") == []


async def test_a_run_may_keep_more_vectors_than_there_will_ever_be(stores: Stores) -> None:
    rounds = await stores.open()

    await evaluate(rounds, REF, ReportBatch([evaluated("a", b"1111", 2**63 - 1)], "p1"), 0)

    assert await rounds.evaluations("run-1") == [b"1111"]
