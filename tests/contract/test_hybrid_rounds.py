"""The worker's part of a hybrid round, held against both stores alike."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Abandoning, Concluding, Reason, Retraining, RoundRef, Waiting
from fl_cluster.rounds.plan import Millis, RoundPlan
from fl_cluster.store.ports import (
    ClaimRequest,
    JobRecord,
    Metrics,
    ModelRecord,
    Offer,
    Outcome,
    Pushed,
    ReportBatch,
    RoundStore,
    Successor,
    UpdateRecord,
    WorkerShare,
)

if TYPE_CHECKING:
    from conftest import Stores

REF = RoundRef("run-1", 1)
OTHERS = (RoundRef("run-1", 2), RoundRef("run-1", 1, 2), RoundRef("run-2", 1))
T0 = 1_700_000_000_000
DEADLINE = 200

MEAN = ModelRecord(1, "aggregate-1", 16, "cd" * 32, (40, 41), ("left",))
MADE = Pushed(ModelRecord(1, "pushed-1", 16, "ef" * 32, (38, 39)))
OTHER = Pushed(ModelRecord(1, "pushed-2", 16, "ee" * 32, (38, 39)))
UNFIT = Pushed(ModelRecord(1, "unfit-1", 16, "ff" * 32, ()), is_fit=False)
SAID = Metrics(6.900000095367432, 10.100000381469727)


def at(offset: int) -> Millis:
    return Millis(T0 + offset)


async def aggregating(stores: Stores, *, is_hybrid: bool = True) -> RoundStore:
    """A round whose goal was met after 10 ms, and whose lease `m1` has."""
    rounds = await stores.open(is_hybrid=is_hybrid)
    await rounds.check_in(REF, [Offer("a", 32, 8), Offer("b", 32, 8)], at(0))
    await rounds.claim(REF, "m1", [ClaimRequest("a", 1), ClaimRequest("b", 1)], at(5))
    updates = [UpdateRecord(name, "digest", 0.5, 0.25) for name in ("a", "b")]
    await rounds.report(REF, "m1", ReportBatch(updates, "p1"), at(10))
    assert await rounds.take_lease(REF, "m1", 1000, at(11)) is Verdict.ACCEPTED
    return rounds


@pytest.fixture
async def rounds(stores: Stores) -> RoundStore:
    """A hybrid round whose mean was handed over after 20 ms."""
    found = await aggregating(stores)
    assert await found.hand_over(REF, "m1", MEAN, at(20)) is Verdict.ACCEPTED
    return found


async def share(rounds: RoundStore) -> WorkerShare | None:
    snapshot = await rounds.snapshot()
    assert snapshot is not None
    return snapshot.share


async def phase_word(rounds: RoundStore) -> str:
    snapshot = await rounds.snapshot()
    assert snapshot is not None
    return snapshot.phase


async def publish(rounds: RoundStore, *, commits: bool, model: ModelRecord = MEAN) -> Verdict:
    assert await rounds.take_lease(REF, "m2", 1000, at(60)) is Verdict.ACCEPTED
    outcome = Outcome(model, finishes_job=False, commits=commits)
    return await rounds.publish(REF, "m2", outcome)


async def test_the_mean_is_handed_over_instead_of_published(stores: Stores) -> None:
    rounds = await aggregating(stores)
    outcome = Outcome(MEAN, finishes_job=False, commits=True)
    before = await rounds.load()

    assert await rounds.publish(REF, "m1", outcome) is Verdict.MOVED_ON
    assert await rounds.load() == before
    assert await rounds.hand_over(REF, "m1", MEAN, at(20)) is Verdict.ACCEPTED

    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert (snapshot.phase, snapshot.deadline) == ("retraining", at(DEADLINE))
    assert snapshot.share == WorkerShare(at(20), MEAN)
    assert (snapshot.ended_at, snapshot.lease_member) == (None, None)
    assert snapshot.is_retraining
    assert not snapshot.needs_finishing
    assert not snapshot.is_collecting


async def test_a_round_that_is_not_hybrid_hands_nothing_over(stores: Stores) -> None:
    rounds = await aggregating(stores, is_hybrid=False)

    assert await rounds.hand_over(REF, "m1", MEAN, at(20)) is Verdict.NOTHING_TO_FINISH
    assert await rounds.push(REF, MADE, at(20)) is Verdict.NOT_AGGREGATED
    assert await rounds.conclude(REF, SAID, at(20)) is Verdict.NOT_AGGREGATED
    assert await share(rounds) is None


async def test_only_the_holder_of_the_lease_hands_over(stores: Stores) -> None:
    rounds = await aggregating(stores)

    assert await rounds.hand_over(REF, "m2", MEAN, at(20)) is Verdict.LEASE_LOST
    await rounds.member_lost("m1", at(20))
    assert await rounds.hand_over(REF, "m1", MEAN, at(20)) is Verdict.FENCED
    assert await phase_word(rounds) == "aggregating"


async def test_the_same_mean_may_be_handed_over_again_by_anyone(rounds: RoundStore) -> None:
    before = await rounds.load()

    for member in ("m1", "m2"):
        assert await rounds.hand_over(REF, member, MEAN, at(30)) is Verdict.ACCEPTED
    other = replace(MEAN, blob="aggregate-2")
    assert await rounds.hand_over(REF, "m1", other, at(30)) is Verdict.NOTHING_TO_FINISH
    assert await rounds.load() == before


async def test_no_device_is_taken_while_the_worker_is_at_it(rounds: RoundStore) -> None:
    assert await rounds.check_in(REF, [Offer("c", 1, 1)], at(25)) == [Verdict.COHORT_FULL]
    [answer] = await rounds.claim(REF, "m1", [ClaimRequest("c", 1)], at(25))
    assert answer.verdict is Verdict.ENOUGH
    counts = await rounds.counts(REF)
    assert (counts.cohort, counts.claims, counts.reports) == (2, 0, 2)


async def test_a_repeat_of_what_was_counted_keeps_its_answer(rounds: RoundStore) -> None:
    updates = [UpdateRecord(name, "digest", 0.5, 0.25) for name in ("a", "b")]

    outcome = await rounds.report(REF, "m1", ReportBatch(updates, "p1"), at(30))

    assert (outcome.verdict, list(outcome.positions)) == (Verdict.ACCEPTED, [1, 2])


async def test_the_first_push_is_taken_and_its_repeat(rounds: RoundStore) -> None:
    assert await rounds.push(REF, MADE, at(30)) is Verdict.ACCEPTED
    assert await rounds.push(REF, MADE, at(DEADLINE + 1)) is Verdict.ACCEPTED
    assert await rounds.push(REF, OTHER, at(31)) is Verdict.DUPLICATE
    assert await rounds.push(REF, UNFIT, at(31)) is Verdict.DUPLICATE

    found = await share(rounds)
    assert found is not None
    assert found.pushed == MADE
    phase = (await rounds.load()).phase
    assert isinstance(phase, Retraining)
    assert (phase.pushed, phase.is_fit) == ("pushed-1", True)


async def test_the_first_metrics_end_the_workers_part(rounds: RoundStore) -> None:
    await rounds.push(REF, MADE, at(30))

    assert await rounds.conclude(REF, SAID, at(40)) is Verdict.ACCEPTED
    assert await rounds.conclude(REF, Metrics(1.0, 2.0), at(41)) is Verdict.ACCEPTED

    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert (snapshot.phase, snapshot.ended_at, snapshot.deadline) == ("concluding", at(40), None)
    assert snapshot.share == WorkerShare(at(20), MEAN, MADE, SAID)
    assert snapshot.needs_finishing
    phase = (await rounds.load()).phase
    assert isinstance(phase, Concluding)
    assert await rounds.push(REF, MADE, at(42)) is Verdict.ACCEPTED
    assert await rounds.push(REF, OTHER, at(42)) is Verdict.DUPLICATE


async def test_what_the_worker_made_is_published_and_its_metrics_are_remembered(
    rounds: RoundStore, stores: Stores
) -> None:
    await rounds.push(REF, MADE, at(30))
    await rounds.conclude(REF, SAID, at(40))

    model = replace(MADE.model, blob="model-1")
    assert await publish(rounds, commits=True, model=model) is Verdict.ACCEPTED

    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert (snapshot.ref, snapshot.phase) == (REF.next(), "waiting")
    assert (snapshot.last_outcome, snapshot.last_ended_at) == ("committed", at(40))
    assert (snapshot.share, snapshot.last_metrics) == (None, SAID)
    assert snapshot.plan.is_hybrid
    assert (await stores.jobs.models())[1] == model


async def test_metrics_without_weights_are_enough(rounds: RoundStore) -> None:
    assert await rounds.conclude(REF, SAID, at(40)) is Verdict.ACCEPTED

    assert await rounds.push(REF, MADE, at(41)) is Verdict.ENOUGH
    found = await share(rounds)
    assert found is not None
    assert found.pushed is None
    assert await publish(rounds, commits=True) is Verdict.ACCEPTED


async def test_weights_that_can_be_no_model_cost_the_round(rounds: RoundStore) -> None:
    assert await rounds.push(REF, UNFIT, at(30)) is Verdict.ACCEPTED
    assert await rounds.conclude(REF, SAID, at(40)) is Verdict.ACCEPTED

    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert (snapshot.phase, snapshot.reason) == ("abandoning", Reason.RETRAINED_UNFIT)
    assert snapshot.share == WorkerShare(at(20), MEAN, UNFIT, SAID)
    assert await rounds.conclude(REF, SAID, at(41)) is Verdict.ENOUGH
    assert await publish(rounds, commits=True) is Verdict.MOVED_ON
    assert await publish(rounds, commits=False) is Verdict.ACCEPTED
    after = await rounds.snapshot()
    assert after is not None
    assert (after.last_outcome, after.last_reason) == ("abandoned", Reason.RETRAINED_UNFIT)


@pytest.mark.parametrize(
    "numbers", [(math.inf, -math.inf), (0.0, -0.0), (1e-45, 3.4028234663852886e38)]
)
async def test_metrics_keep_their_bits(rounds: RoundStore, numbers: tuple[float, float]) -> None:
    await rounds.conclude(REF, Metrics(*numbers), at(40))

    found = await share(rounds)
    assert found is not None
    assert found.metrics is not None
    assert repr(found.metrics) == repr(Metrics(*numbers))


async def test_metrics_that_are_no_numbers_are_kept_as_such(rounds: RoundStore) -> None:
    await rounds.conclude(REF, Metrics(math.nan, 0.5), at(40))

    found = await share(rounds)
    assert found is not None
    assert found.metrics is not None
    assert math.isnan(found.metrics.loss)


async def test_the_rounds_window_is_the_workers_too(rounds: RoundStore) -> None:
    just_in_time = at(DEADLINE - 1)
    assert await rounds.tick(REF, just_in_time) is Verdict.ACCEPTED
    assert await phase_word(rounds) == "retraining"
    for verdict in (
        await rounds.push(REF, MADE, at(DEADLINE)),
        await rounds.conclude(REF, SAID, at(DEADLINE)),
    ):
        assert verdict is Verdict.LATE
    assert await rounds.push(REF, MADE, just_in_time) is Verdict.ACCEPTED

    assert await rounds.tick(REF, at(DEADLINE)) is Verdict.ACCEPTED

    phase = (await rounds.load()).phase
    assert isinstance(phase, Abandoning)
    assert phase.reason is Reason.ROUND_WINDOW
    assert await rounds.push(REF, OTHER, at(DEADLINE)) is Verdict.ENOUGH


async def test_no_other_window_ends_the_workers_part(stores: Stores) -> None:
    rounds = await stores.open(is_hybrid=True, round_window_ms=10_000, cohort_size=2)
    await rounds.check_in(REF, [Offer("a", 32, 8), Offer("b", 32, 8)], at(0))
    await rounds.claim(REF, "m1", [ClaimRequest("a", 1), ClaimRequest("b", 1)], at(5))
    updates = [UpdateRecord(name, "digest", 0.5, 0.25) for name in ("a", "b")]
    await rounds.report(REF, "m1", ReportBatch(updates, "p1"), at(10))
    await rounds.take_lease(REF, "m1", 1000, at(11))
    await rounds.hand_over(REF, "m1", MEAN, at(20))

    await rounds.tick(REF, at(9_999))

    assert await rounds.push(REF, MADE, at(9_999)) is Verdict.ACCEPTED
    assert await rounds.conclude(REF, SAID, at(9_999)) is Verdict.ACCEPTED


@pytest.mark.parametrize("ref", OTHERS, ids=str)
async def test_what_is_for_another_round_changes_nothing(rounds: RoundStore, ref: RoundRef) -> None:
    before = await rounds.load()

    assert await rounds.hand_over(ref, "m1", MEAN, at(30)) is Verdict.MOVED_ON
    assert await rounds.push(ref, MADE, at(30)) is Verdict.MOVED_ON
    assert await rounds.conclude(ref, SAID, at(30)) is Verdict.MOVED_ON
    assert await rounds.load() == before


@pytest.mark.parametrize("step", ["aggregating", "retraining", "concluding"])
async def test_an_operator_waits_for_no_worker(stores: Stores, step: str) -> None:
    """What only members still have to do is done; a worker is not waited for."""
    rounds = await aggregating(stores)
    if step != "aggregating":
        await rounds.hand_over(REF, "m1", MEAN, at(20))
    if step == "concluding":
        await rounds.conclude(REF, SAID, at(40))

    assert await rounds.disable(at(50)) is Verdict.ACCEPTED

    snapshot = await rounds.snapshot()
    assert snapshot is not None
    expected = (step, None) if step == "concluding" else ("abandoning", Reason.JOB_DISABLED)
    assert (snapshot.phase, snapshot.reason) == expected
    assert await publish(rounds, commits=step == "concluding") is Verdict.ACCEPTED
    phase = (await rounds.load()).phase
    assert isinstance(phase, Waiting)
    assert await rounds.enable() is Verdict.ACCEPTED


@pytest.mark.parametrize("step", ["aggregating", "retraining", "concluding"])
async def test_a_new_run_waits_for_no_worker(stores: Stores, step: str) -> None:
    rounds = await aggregating(stores)
    if step != "aggregating":
        await rounds.hand_over(REF, "m1", MEAN, at(20))
    if step == "concluding":
        await rounds.conclude(REF, SAID, at(40))
    run = JobRecord("run-2", 9, "{}", "[]")

    assert await rounds.restart(run, at(50)) is Verdict.ACCEPTED

    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert snapshot.phase == ("concluding" if step == "concluding" else "abandoning")
    plan = RoundPlan(1, 1, 10, 10, 10)
    successor = Successor("run-2", plan, replace(MEAN, number=0))
    await rounds.take_lease(REF, "m2", 1000, at(60))
    commits = step == "concluding"
    outcome = Outcome(MEAN, finishes_job=False, successor=successor, commits=commits)
    assert await rounds.publish(REF, "m2", outcome) is Verdict.ACCEPTED
    after = await rounds.snapshot()
    assert after is not None
    assert (after.ref, after.plan) == (RoundRef("run-2", 1), plan)
    assert after.share is None


async def test_a_dead_member_takes_nothing_of_the_workers_with_it(rounds: RoundStore) -> None:
    await rounds.push(REF, MADE, at(30))
    await rounds.conclude(REF, SAID, at(40))
    await rounds.take_lease(REF, "m1", 1000, at(41))

    await rounds.member_lost("m1", at(42))

    assert await share(rounds) == WorkerShare(at(20), MEAN, MADE, SAID)
    assert await publish(rounds, commits=True) is Verdict.ACCEPTED


async def test_a_mean_that_is_damaged_is_given_up(rounds: RoundStore) -> None:
    await rounds.conclude(REF, SAID, at(40))
    await rounds.take_lease(REF, "m1", 1000, at(41))

    assert await rounds.abort(REF, Reason.AGGREGATE_FAILED, at(42)) is Verdict.ACCEPTED

    phase = (await rounds.load()).phase
    assert isinstance(phase, Abandoning)
    assert phase.reason is Reason.AGGREGATE_FAILED
