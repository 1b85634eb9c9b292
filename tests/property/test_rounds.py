"""The invariants of `step`, over any history.

A history starts at a round that nobody has checked in to and goes on over round ends, as
the stores do it.  The events are drawn from a small world, so that they often concern the
same device and member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fl_cluster.rounds.events import (
    Abort,
    CheckIn,
    Claim,
    Conclude,
    Disable,
    Enable,
    Event,
    HandOver,
    MemberLost,
    ModelServed,
    Proceed,
    Publish,
    Push,
    Release,
    Report,
    Restart,
    TakeLease,
    Tell,
    Tick,
    Verdict,
)
from fl_cluster.rounds.exchange import AFTER_REPORTS, BEFORE, COMPLETED, Exchange, Step, goal_of
from fl_cluster.rounds.machine import Round, open_next, step
from fl_cluster.rounds.machine import Step as Result
from fl_cluster.rounds.phases import (
    Abandoned,
    Abandoning,
    Admission,
    Aggregating,
    Closed,
    Collecting,
    Committed,
    Concluding,
    Counted,
    Ending,
    Phase,
    Reason,
    Retraining,
    RoundRef,
    Unmasking,
    Waiting,
)
from fl_cluster.rounds.plan import ExchangePlan, Millis, RoundPlan, report_goal

DEVICES = st.sampled_from(["a", "b", "c", "d", "e"])
MEMBERS = st.sampled_from(["m1", "m2", "m3"])
PARTIALS = st.sampled_from([f"p{i}" for i in range(12)])
MEANS = st.sampled_from(["mean", "mean", "mean", "other mean"])
MESSAGES = st.sampled_from([b"one", b"another"])
MADE = st.sampled_from(["made", "made", "made otherwise"])
FIRST = RoundRef("run", 1)
Known = Collecting | Unmasking | Retraining | Ending


@st.composite
def plans(draw: st.DrawFn) -> RoundPlan:
    cohort_size = draw(st.integers(1, 4))
    goal = draw(st.integers(1, cohort_size))
    windows = [draw(st.sampled_from([1, 5, 40, 100, 1000, 1000])) for _ in range(3)]
    exchange = draw(st.none() | exchanges(cohort_size))
    return RoundPlan(cohort_size, goal, *windows, draw(st.booleans()), exchange)


def exchanges(cohort_size: int) -> st.SearchStrategy[ExchangePlan]:
    few = st.integers(1, min(2, cohort_size))
    steps = st.sampled_from([0, 1, 2])
    return st.builds(ExchangePlan, few, steps, steps, steps, st.sampled_from([5, 1000, 1000]))


@st.composite
def any_events(draw: st.DrawFn, ref: RoundRef, at: Millis) -> Event:
    """An event that may make no sense at all."""
    member, device = draw(MEMBERS), draw(DEVICES)
    number = draw(st.sampled_from([ref.number, ref.number - 1, ref.number + 1]))
    devices = tuple(draw(st.lists(DEVICES, max_size=3, unique=True)))
    return draw(
        st.sampled_from(
            [
                ModelServed(ref),
                Tick(ref, at),
                CheckIn(ref, device, 10, 2, at),
                Claim(ref, member, device, number, at),
                Claim(ref, member, device, ref.number, at),
                Release(ref, member, devices),
                Report(ref, member, devices, draw(PARTIALS), at),
                TakeLease(ref, member, draw(st.integers(1, 30)), at),
                HandOver(ref, member, draw(MEANS), at),
                Push(ref, draw(MADE), draw(st.booleans()), at),
                Conclude(ref, at),
                Publish(ref, member),
                Publish(ref, member, "run-2"),
                Abort(ref, Reason.JOB_DISABLED, at),
                Tell(
                    *(ref, draw(st.sampled_from(Step)), device, draw(MESSAGES), at),
                    former=draw(st.none() | MESSAGES),
                ),
                Proceed(ref, at),
                MemberLost(member, at),
                Disable(at),
                Enable(),
                Restart("run-2", at),
            ]
        )
    )


@st.composite
def events_of_worker(draw: st.DrawFn, phase: Retraining, at: Millis) -> Event:
    """What brings a round on that waits for its worker."""
    if phase.overdue(at) is not None:
        return Tick(phase.ref, at)
    is_fit = draw(st.sampled_from([True, True, False]))
    push = Push(phase.ref, draw(MADE), is_fit, at)
    return draw(st.sampled_from([push, Conclude(phase.ref, at)]))


@st.composite
def steps_of_devices(
    draw: st.DrawFn, phase: Collecting | Unmasking, devices: list[str], at: Millis
) -> Event:
    """What brings the exchange of a masked round on."""
    device = draw(st.sampled_from(devices))
    is_after = isinstance(phase, Unmasking)
    wanted = [step for step in Step if (step in AFTER_REPORTS) is is_after]
    missing = [step for step in wanted if not phase.exchange.has(step, device)]
    if is_after and not missing:
        return Proceed(phase.ref, at)
    return Tell(phase.ref, missing[0] if missing else Step.KEYS, device, draw(MESSAGES), at)


@st.composite
def sensible_events(draw: st.DrawFn, before: Round, at: Millis) -> Event:
    """An event that tends to carry the round forward."""
    phase = before.phase
    ref, member = phase.ref, draw(MEMBERS)
    if isinstance(phase, Ending):
        if phase.lease is None:
            return TakeLease(ref, member, 20, at)
        if is_for_worker(phase):
            return HandOver(ref, phase.lease.member, draw(MEANS), at)
        return Publish(ref, phase.lease.member, before.successor)
    if before.is_disabled:
        return Enable()
    if isinstance(phase, Retraining):
        return draw(events_of_worker(phase, at))
    if isinstance(phase, Unmasking):
        return draw(steps_of_devices(phase, sorted(phase.reports), at))
    if not isinstance(phase, Collecting):
        return CheckIn(ref, draw(DEVICES), 10, 2, at)
    return draw(events_of_devices(phase, member, at))


@st.composite
def events_of_devices(draw: st.DrawFn, phase: Collecting, member: str, at: Millis) -> Event:
    """What brings a round on that collects updates."""
    ref = phase.ref
    if phase.plan.exchange is not None and phase.cohort and draw(st.integers(0, 3)):
        return draw(steps_of_devices(phase, sorted(phase.cohort), at))
    if phase.overdue(at) is not None and draw(st.booleans()):
        return Tick(ref, at)
    holders = sorted(set(phase.claims.values()))
    if holders and draw(st.booleans()):
        holder = draw(st.sampled_from(holders))
        held = tuple(device for device, owner in phase.claims.items() if owner == holder)
        return Report(ref, holder, held, draw(PARTIALS), at)
    waiting = sorted(set(phase.cohort) - set(phase.claims) - set(phase.reports))
    if waiting and draw(st.booleans()):
        return Claim(ref, member, draw(st.sampled_from(waiting)), ref.number, at)
    return CheckIn(ref, draw(DEVICES), 10, 2, at)


@dataclass(frozen=True)
class Moment:
    """One event of a history: the round before, what happened, the instant, what followed."""

    before: Round
    event: Event
    at: Millis
    result: Result

    @property
    def after(self) -> Round:
        return self.result.round


def for_the_worker(plan: RoundPlan) -> Aggregating:
    """A hybrid round whose goal is met; drawn from the beginning, few come as far."""
    devices = ["a", "b", "c", "d"][: plan.report_goal]
    cohort = {device: Admission(10, 2, Millis(1000)) for device in devices}
    reports = {
        device: Counted("m1", position, Millis(1000))
        for position, device in enumerate(devices, start=1)
    }
    plan = replace(plan, is_hybrid=True)
    return Aggregating(FIRST, plan, Millis(1000), cohort, reports, {"m1": "p0"}, Millis(1000), None)


@st.composite
def histories(draw: st.DrawFn) -> list[Moment]:
    plan = draw(plans())
    beginning = draw(st.sampled_from([Waiting(FIRST, plan)] * 3 + [for_the_worker(plan)]))
    now, current = 1000, Round(beginning)
    moments = []
    for _ in range(draw(st.integers(0, 50))):
        now += draw(st.sampled_from([0, 0, 1, 1, 3, 20]))
        phase = current.phase
        aim = draw(st.sampled_from([phase.ref] * 9 + [replace(phase.ref, attempt=2)]))
        if draw(st.integers(0, 3)):
            event = draw(sensible_events(current, Millis(now)))
        else:
            event = draw(any_events(aim, Millis(now)))
        result = step(current, event)
        moments.append(Moment(current, event, Millis(now), result))
        current = result.round
        if isinstance(current.phase, Committed | Abandoned) and draw(st.booleans()):
            current = open_next(current, plan, closes=draw(st.sampled_from([False] * 3 + [True])))
    return moments


def over_any_history(check: Callable[..., None]) -> Callable[..., None]:
    """The property is checked on many histories, however slow the machine is today."""
    return settings(deadline=None)(given(histories())(check))


def collecting(rounds: Iterable[Round]) -> Iterator[Collecting]:
    return (each.phase for each in rounds if isinstance(each.phase, Collecting))


def is_for_worker(phase: Phase) -> bool:
    return isinstance(phase, Aggregating) and phase.plan.is_hybrid


def counted(phase: Phase) -> dict[str, int]:
    if isinstance(phase, Known):
        return {device: one.position for device, one in phase.reports.items()}
    return {}


@over_any_history
def test_a_refused_event_changes_nothing(history: list[Moment]) -> None:
    for moment in history:
        if moment.result.verdict is not Verdict.ACCEPTED:
            assert moment.after is moment.before


@over_any_history
def test_an_event_for_another_round_is_refused(history: list[Moment]) -> None:
    for moment in history:
        ref = getattr(moment.event, "ref", moment.before.phase.ref)
        if ref != moment.before.phase.ref:
            assert moment.result.verdict is Verdict.MOVED_ON
        elif not isinstance(moment.event, Publish):
            assert moment.result.verdict is not Verdict.MOVED_ON


@over_any_history
def test_an_outcome_always_knows_what_comes_next(history: list[Moment]) -> None:
    for moment in history:
        if isinstance(moment.event, Publish) and moment.result.verdict is Verdict.ACCEPTED:
            assert moment.event.successor == moment.before.successor
            assert moment.after.successor == moment.before.successor


@over_any_history
def test_a_stopped_job_admits_nobody(history: list[Moment]) -> None:
    for moment in history:
        if moment.before.is_disabled and isinstance(moment.event, CheckIn):
            assert moment.after is moment.before
        if moment.after.is_disabled:
            assert not isinstance(moment.after.phase, Collecting)


@over_any_history
def test_only_an_operator_steers_the_job(history: list[Moment]) -> None:
    for moment in history:
        if not isinstance(moment.event, Disable | Enable | Restart):
            assert moment.after.is_disabled is moment.before.is_disabled
            assert moment.after.successor == moment.before.successor


@over_any_history
def test_an_enabled_job_admits_again(history: list[Moment]) -> None:
    for moment in history:
        disabled = step(moment.after, Disable(moment.at)).round
        if isinstance(moment.after.phase, Closed):
            assert disabled is moment.after
            continue
        enabled = step(disabled, Enable())

        assert enabled.verdict is Verdict.ACCEPTED
        assert not enabled.round.is_disabled
        following = following_round(enabled.round, moment.at, closes=False)
        newcomer = CheckIn(following.phase.ref, "newcomer", 1, 1, moment.at)
        assert step(following, newcomer).verdict is Verdict.ACCEPTED


@over_any_history
def test_a_restart_leads_to_round_1_of_the_new_run_after_one_finish(history: list[Moment]) -> None:
    for moment in history:
        restarted = step(moment.after, Restart("run-9", moment.at))

        assert restarted.verdict is Verdict.ACCEPTED
        following = following_round(restarted.round, moment.at, closes=True)
        assert isinstance(following.phase, Waiting)
        assert following.phase.ref == RoundRef("run-9", 1)
        assert (following.successor, following.is_disabled) == ("", False)


def following_round(now: Round, at: Millis, *, closes: bool) -> Round:
    """The round after this one when a new member does what is to be done."""
    phase = now.phase
    if isinstance(phase, Unmasking | Retraining):
        late = Millis(phase.opened_at + phase.plan.round_window_ms)
        now = step(now, Tick(phase.ref, late)).round
        return following_round(now, late, closes=closes)
    if isinstance(phase, Ending):
        free_at = Millis(max(at, phase.lease.until if phase.lease is not None else at))
        leased = step(now, TakeLease(phase.ref, "m-new", 10, free_at))
        if is_for_worker(phase):
            handed = step(leased.round, HandOver(phase.ref, "m-new", "mean", free_at))
            assert handed.verdict is Verdict.ACCEPTED
            return following_round(handed.round, free_at, closes=closes)
        published = step(leased.round, Publish(phase.ref, "m-new", now.successor))
        assert published.verdict is Verdict.ACCEPTED
        now = published.round
    if isinstance(now.phase, Committed | Abandoned):
        now = open_next(now, RoundPlan(2, 1, 100, 100, 100), closes=closes)
    return now


@over_any_history
def test_what_is_complete_is_aggregated_whatever_an_operator_does(history: list[Moment]) -> None:
    for moment in history:
        if needs_members_alone(moment.before.phase) and isinstance(
            moment.event, Disable | Enable | Restart
        ):
            assert moment.after.phase is moment.before.phase
        if needs_members_alone(moment.after.phase):
            for event in (Disable(moment.at), Enable(), Restart("run-9", moment.at)):
                assert step(moment.after, event).round.phase is moment.after.phase


def needs_members_alone(phase: Phase) -> bool:
    return isinstance(phase, Aggregating | Concluding) and not is_for_worker(phase)


@over_any_history
def test_no_operator_waits_for_a_worker(history: list[Moment]) -> None:
    for moment in history:
        phase = moment.after.phase
        if isinstance(phase, Retraining) or is_for_worker(phase):
            for event in (Disable(moment.at), Restart("run-9", moment.at)):
                if not (isinstance(event, Disable) and moment.after.is_disabled):
                    assert isinstance(step(moment.after, event).round.phase, Abandoning)


@over_any_history
def test_of_what_a_worker_hands_in_the_first_stays(history: list[Moment]) -> None:
    for moment in history:
        before, after = moment.before.phase, moment.after.phase
        if isinstance(before, Retraining | Concluding) and isinstance(
            after, Retraining | Concluding
        ):
            assert after.aggregate == before.aggregate
            if before.pushed is not None or isinstance(before, Concluding):
                assert after.pushed == before.pushed
        if isinstance(after, Retraining | Concluding) and after is not before:
            assert isinstance(moment.event, HandOver | Push | Conclude | TakeLease | MemberLost)


@over_any_history
def test_what_can_be_no_model_never_gets_to_a_good_end(history: list[Moment]) -> None:
    for moment in history:
        before, after = moment.before.phase, moment.after.phase
        if isinstance(before, Retraining) and not before.is_fit:
            assert not isinstance(after, Concluding)
        if isinstance(after, Abandoning) and after.reason is Reason.RETRAINED_UNFIT:
            is_first = after is not before and isinstance(before, Retraining)
            assert not is_first or not before.is_fit


@over_any_history
def test_a_worker_has_its_part_in_hybrid_rounds_only(history: list[Moment]) -> None:
    for moment in history:
        phase = moment.after.phase
        if isinstance(phase, Retraining | Concluding):
            assert phase.plan.is_hybrid
            assert len(phase.reports) == phase.plan.report_goal


@over_any_history
def test_a_dead_member_changes_nothing_any_more(history: list[Moment]) -> None:
    for moment in history:
        if getattr(moment.event, "member", None) in moment.before.fenced:
            assert moment.after is moment.before
            assert moment.result.verdict is not Verdict.ACCEPTED or isinstance(
                moment.event, MemberLost
            )
        assert moment.before.fenced <= moment.after.fenced


@over_any_history
def test_a_dead_member_holds_neither_claims_nor_the_lease(history: list[Moment]) -> None:
    for moment in history:
        phase, fenced = moment.after.phase, moment.after.fenced
        if isinstance(phase, Collecting):
            assert not fenced & set(phase.claims.values())
        if isinstance(phase, Ending) and phase.lease is not None:
            assert phase.lease.member not in fenced


@over_any_history
def test_an_update_is_counted_once_and_only_for_the_cohort(history: list[Moment]) -> None:
    for moment in history:
        before, after = counted(moment.before.phase), counted(moment.after.phase)
        phase = moment.after.phase
        if isinstance(phase, Known):
            assert set(after) <= set(phase.cohort)
            assert sorted(after.values()) == list(range(1, len(after) + 1))
            assert before.items() <= after.items()
        if isinstance(moment.event, Report) and set(after) != set(before):
            assert set(after) - set(before) == set(moment.event.devices)


@over_any_history
def test_what_is_counted_is_in_a_partial_of_who_counted_it(history: list[Moment]) -> None:
    for moment in history:
        phase = moment.after.phase
        if isinstance(phase, Known):
            assert {one.member for one in phase.reports.values()} <= set(phase.partials)


@over_any_history
def test_the_cohort_keeps_its_size_and_the_updates_their_goal(history: list[Moment]) -> None:
    for phase in collecting(moment.after for moment in history):
        assert len(phase.cohort) <= phase.plan.cohort_size
        assert len(phase.reports) + len(phase.claims) <= phase.plan.report_goal
        assert len(phase.reports) < phase.plan.report_goal
        assert set(phase.claims) <= set(phase.cohort)
        assert not set(phase.claims) & set(phase.reports)


def exchange_of(phase: Phase) -> Exchange | None:
    return phase.exchange if isinstance(phase, Collecting | Unmasking) else None


@over_any_history
def test_a_step_is_taken_once_and_only_after_the_one_before(history: list[Moment]) -> None:
    for moment in history:
        before, after = exchange_of(moment.before.phase), exchange_of(moment.after.phase)
        if before is None or after is None:
            continue
        for step_taken, messages in before.told.items():
            assert messages.keys() <= after.told[step_taken].keys()
        for step_taken, messages in after.told.items():
            earlier = BEFORE[step_taken]
            if earlier is not None:
                assert messages.keys() <= after.told[earlier].keys()


@over_any_history
def test_a_message_stays_but_for_keys_that_nobody_can_have_read(history: list[Moment]) -> None:
    for moment in history:
        phase, after = moment.before.phase, exchange_of(moment.after.phase)
        if not isinstance(phase, Collecting | Unmasking) or after is None:
            continue
        for step_taken, messages in phase.exchange.told.items():
            if messages.items() <= after.told[step_taken].items():
                continue
            assert phase.plan.exchange is not None
            assert isinstance(moment.event, Tell)
            assert step_taken is Step.KEYS
            assert moment.event.former == messages[moment.event.device]
            assert not phase.exchange.is_complete(phase.plan.exchange, Step.KEYS)
            assert Step.KEYS_READ not in phase.exchange.told
            assert after.began == phase.exchange.began


@over_any_history
def test_a_step_takes_no_more_devices_than_it_waits_for(history: list[Moment]) -> None:
    for moment in history:
        phase = moment.after.phase
        if isinstance(phase, Collecting | Unmasking) and phase.plan.exchange is not None:
            for step_taken in COMPLETED:
                goal = goal_of(phase.plan.exchange, step_taken)
                assert len(phase.exchange.told.get(step_taken, {})) <= (goal or 0)


@over_any_history
def test_in_a_masked_round_only_who_has_read_its_shares_is_counted(history: list[Moment]) -> None:
    for moment in history:
        phase = moment.after.phase
        if isinstance(phase, Unmasking):
            assert phase.plan.exchange is not None
            assert phase.plan.exchange.reveals > 0
        if isinstance(phase, Collecting | Unmasking) and phase.plan.exchange is not None:
            last = Step.SHARES_READ if phase.plan.exchange.shares else Step.KEYS_READ
            assert phase.reports.keys() <= phase.exchange.told.get(last, {}).keys()


@over_any_history
def test_a_cohort_only_grows(history: list[Moment]) -> None:
    for moment in history:
        before, after = moment.before.phase, moment.after.phase
        if isinstance(before, Known) and isinstance(after, Known):
            assert before.cohort.items() <= after.cohort.items()
        fixed = Unmasking | Retraining | Ending
        if isinstance(before, fixed) and isinstance(after, fixed):
            assert before.cohort == after.cohort


@over_any_history
def test_only_the_goal_leads_to_a_new_model(history: list[Moment]) -> None:
    for moment in history:
        phase = moment.after.phase
        if isinstance(phase, Aggregating):
            assert len(phase.reports) == phase.plan.report_goal
        if isinstance(phase, Committed) and phase is not moment.before.phase:
            assert needs_members_alone(moment.before.phase)
            assert phase.counted == moment.before.phase.plan.report_goal


@over_any_history
def test_a_round_never_goes_back(history: list[Moment]) -> None:
    """But for a restart, which takes a job up again that had run all its rounds."""
    order = ["Waiting", "Selecting", "Reporting", "Unmasking", "Aggregating", "Retraining"]
    order += ["Concluding", "Abandoning", "Committed", "Closed"]
    rank = {name: i for i, name in enumerate(order)} | {"Abandoned": order.index("Committed")}
    for moment in history:
        before, after = moment.before.phase, moment.after.phase
        assert before.ref == after.ref
        if isinstance(before, Closed) and isinstance(moment.event, Restart):
            assert isinstance(after, Abandoning)
            continue
        assert rank[type(before).__name__] <= rank[type(after).__name__]
        if isinstance(before, Committed | Abandoned | Closed):
            assert after is before


@over_any_history
def test_the_model_once_served_stays_served(history: list[Moment]) -> None:
    for moment in history:
        if moment.before.served:
            assert moment.after.served
        if moment.after.served is not moment.before.served:
            assert isinstance(moment.event, ModelServed)


@over_any_history
def test_any_run_of_ticks_ends_a_round_that_waits_for_a_worker(history: list[Moment]) -> None:
    for moment in history:
        phase = moment.after.phase
        if isinstance(phase, Retraining):
            early, late = Millis(phase.deadline - 1), phase.deadline
            assert step(moment.after, Tick(phase.ref, early)).round is moment.after
            ended = step(moment.after, Tick(phase.ref, late)).round.phase
            assert isinstance(ended, Abandoning)
            assert ended.reason is Reason.ROUND_WINDOW


@over_any_history
def test_any_run_of_ticks_ends_a_round_that_waits_for_devices(history: list[Moment]) -> None:
    for phase in (moment.after.phase for moment in history):
        if not isinstance(phase, Collecting | Unmasking):
            continue
        last = max(deadline for deadline, _ in phase.deadlines())
        first = min(deadline for deadline, _ in phase.deadlines())
        now = Round(phase)

        assert step(now, Tick(phase.ref, Millis(first - 1))).round is now
        for instant in (first, last):
            assert isinstance(step(now, Tick(phase.ref, instant)).round.phase, Abandoning)


@over_any_history
def test_a_round_being_finished_is_free_when_its_lease_has_run_out(history: list[Moment]) -> None:
    for moment in history:
        phase = moment.after.phase
        if isinstance(phase, Ending):
            free_at = moment.at if phase.lease is None else phase.lease.until
            leased = step(moment.after, TakeLease(phase.ref, "m-new", 10, Millis(free_at)))
            assert leased.verdict is Verdict.ACCEPTED
            if is_for_worker(phase):
                end: Event = HandOver(phase.ref, "m-new", "mean", Millis(free_at))
            else:
                end = Publish(phase.ref, "m-new", moment.after.successor)
            ended = step(leased.round, end)

            assert ended.verdict is Verdict.ACCEPTED
            assert isinstance(ended.round.phase, Retraining | Committed | Abandoned)


@over_any_history
def test_a_lease_is_never_taken_from_a_member_that_holds_it(history: list[Moment]) -> None:
    for moment in history:
        before = moment.before.phase
        if not isinstance(moment.event, TakeLease) or not isinstance(before, Ending):
            continue
        if moment.result.verdict is Verdict.ACCEPTED and before.lease is not None:
            is_own = before.lease.member == moment.event.member
            assert is_own or before.lease.until <= moment.event.at


@over_any_history
def test_an_accepted_report_is_confirmed_when_it_is_repeated(history: list[Moment]) -> None:
    for moment in history:
        if isinstance(moment.event, Report) and moment.result.verdict is Verdict.ACCEPTED:
            late = replace(moment.event, at=Millis(moment.at + 10_000))
            again = step(moment.after, late)

            assert again.verdict is Verdict.ACCEPTED
            assert again.round is moment.after


@over_any_history
def test_nothing_happens_after_a_deadline_but_the_end(history: list[Moment]) -> None:
    for moment in history:
        before = moment.before.phase
        if not isinstance(before, Collecting | Unmasking) or before.overdue(moment.at) is None:
            continue
        if isinstance(moment.event, CheckIn | Claim | Report | Tell | Proceed):
            assert moment.after is moment.before
        if counted(moment.after.phase) != counted(before):
            assert isinstance(moment.after.phase, Abandoning)


@over_any_history
def test_an_event_sees_the_same_round_the_same_way(history: list[Moment]) -> None:
    for moment in history:
        assert step(moment.before, moment.event) == moment.result


@given(st.integers(1, 100_000), st.floats(0.0, 1.0, width=32, allow_subnormal=False))
def test_the_goal_lies_within_the_cohort(cohort_size: int, ratio: float) -> None:
    assert 1 <= report_goal(cohort_size, ratio) <= cohort_size


@given(st.integers(1, 10_000), st.lists(st.floats(0.0, 1.0, width=32), min_size=2, max_size=2))
def test_a_larger_ratio_never_asks_for_less(cohort_size: int, ratios: list[float]) -> None:
    low, high = sorted(ratios)

    assert report_goal(cohort_size, low) <= report_goal(cohort_size, high)


@given(st.text(), st.integers(0, 2**63), st.integers(1, 2**31))
def test_a_reference_is_read_back_as_it_was_written(
    instance: str, number: int, attempt: int
) -> None:
    ref = RoundRef(instance, number, attempt)

    assert RoundRef.parse(str(ref)) == ref
