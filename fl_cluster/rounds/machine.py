"""`step`: one event happens to a round; what follows.

Invariants, each a property test:
- a refused event changes nothing: the very same round comes back;
- an event for another round is refused before anything else;
- a member that was declared dead changes nothing any more;
- an update is counted at most once, and only for a device of the cohort;
- the cohort never exceeds its size, nor the counted updates the goal;
- no device takes a step of a masked round twice, or without the one before;
- any run of ticks ends a round that waits for devices or for a worker; a round that is being
  finished is always free to be leased when its lease has run out.
The scripts in store/redis/scripts do the same to the stored round, one script per event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

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
from fl_cluster.rounds.masked import aggregating, exchange, is_prepared
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
    Lease,
    Phase,
    Reason,
    Reporting,
    Retraining,
    RoundRef,
    Selecting,
    Unmasking,
    Waiting,
)
from fl_cluster.rounds.plan import Millis, RoundPlan

_Unaggregated = Waiting | Selecting | Reporting | Unmasking | Aggregating


@dataclass(frozen=True, slots=True)
class Round:
    """A round in some phase, with what outlives it."""

    phase: Phase
    fenced: frozenset[str] = frozenset()
    """Members that were declared dead."""
    served: bool = True
    """Whether any device has been handed the model that the round before ended with.  Until
    then an update for that round is told that the round has enough, not that it is stale:
    the device cannot know yet that its round is over."""
    is_disabled: bool = False
    """Whether an operator has stopped the job."""
    successor: str = ""
    """The instance that begins when this round is over; empty when this one goes on."""


@dataclass(frozen=True, slots=True)
class Step:
    """What became of the round, and the answer to the event."""

    round: Round
    verdict: Verdict


def step(before: Round, event: Event) -> Step:
    """The round after the event, and the verdict on it."""
    if isinstance(event, MemberLost):
        return _lose(before, event.member)
    if isinstance(event, Disable | Enable | Restart):
        return _steer(before, event)
    if event.ref != before.phase.ref:
        return Step(before, Verdict.MOVED_ON)
    if isinstance(event, Claim | Release | Report | TakeLease | HandOver | Publish) and (
        event.member in before.fenced
    ):
        return Step(before, Verdict.FENCED)
    if isinstance(event, ModelServed):
        after = before if before.served else replace(before, served=True)
        return Step(after, Verdict.ACCEPTED)
    if isinstance(event, CheckIn) and before.is_disabled:
        return Step(before, Verdict.JOB_DISABLED)
    if (
        isinstance(event, Claim)
        and not before.served
        and event.number == before.phase.ref.number - 1
    ):
        return Step(before, Verdict.ENOUGH)
    if isinstance(event, Publish) and not _is_about(before, event):
        return Step(before, Verdict.MOVED_ON)
    phase, verdict = _apply(before.phase, event)
    if phase is before.phase:
        return Step(before, verdict)
    return Step(replace(before, phase=phase), verdict)


def _is_about(before: Round, event: Publish) -> bool:
    """Whether what the member finished is still what the round comes to."""
    phase = before.phase
    if isinstance(phase, Aggregating) and phase.plan.is_hybrid:
        return False
    commits = isinstance(phase, Aggregating | Concluding)
    same_end = event.commits in (None, commits) or not isinstance(phase, Ending)
    return same_end and event.successor == before.successor


def _apply(
    phase: Phase,
    event: CheckIn
    | Claim
    | Release
    | Report
    | Tell
    | Proceed
    | Tick
    | Abort
    | TakeLease
    | HandOver
    | Push
    | Conclude
    | Publish,
) -> tuple[Phase, Verdict]:
    match event:
        case CheckIn():
            return _check_in(phase, event)
        case Claim():
            return _claim(phase, event)
        case Release():
            return _release(phase, event)
        case Report():
            return _report(phase, event)
        case Tell() | Proceed():
            return exchange(phase, event)
        case Tick():
            return _tick(phase, event.at)
        case Abort():
            return _abort(phase, event.reason, event.at)
        case TakeLease():
            return _take_lease(phase, event)
        case HandOver() | Push() | Conclude():
            return _retrain(phase, event)
        case Publish():
            return _publish(phase, event)
        case _:
            assert_never(event)


def _retrain(phase: Phase, event: HandOver | Push | Conclude) -> tuple[Phase, Verdict]:
    """What happens between a hybrid round and its worker."""
    match event:
        case HandOver():
            return _hand_over(phase, event)
        case Push():
            return _push(phase, event)
        case Conclude():
            return _conclude(phase, event.at)
        case _:
            assert_never(event)


def _steer(before: Round, event: Disable | Enable | Restart) -> Step:
    """What an operator does to the job as a whole."""
    if isinstance(event, Restart):
        phase = _interrupted(before.phase, Reason.JOB_RESTARTED, event.at)
        after = replace(before, phase=phase, is_disabled=False, successor=event.instance)
        return Step(after, Verdict.ACCEPTED)
    if isinstance(before.phase, Closed):
        return Step(before, Verdict.JOB_FINISHED)
    if isinstance(event, Enable):
        if not before.is_disabled:
            return Step(before, Verdict.ALREADY_ENABLED)
        return Step(replace(before, is_disabled=False), Verdict.ACCEPTED)
    if before.is_disabled:
        return Step(before, Verdict.ALREADY_DISABLED)
    phase = _interrupted(before.phase, Reason.JOB_DISABLED, event.at)
    return Step(replace(before, phase=phase, is_disabled=True), Verdict.ACCEPTED)


def _interrupted(phase: Phase, reason: Reason, at: Millis) -> Phase:
    """What an operator makes of a round: what waits for others is given up, and what the
    members can finish by themselves is finished."""
    match phase:
        case Waiting() | Closed():
            return Abandoning(phase.ref, phase.plan, None, {}, {}, {}, at, None, reason)
        case Selecting() | Reporting() | Unmasking() | Retraining():
            return _abandoning(phase, reason, at)
        case Aggregating() if phase.plan.is_hybrid:
            return _abandoning(phase, reason, at)
        case _:
            return phase


def _lose(before: Round, member: str) -> Step:
    if member in before.fenced:
        return Step(before, Verdict.ACCEPTED)
    phase = before.phase
    if isinstance(phase, Selecting | Reporting):
        kept = {device: holder for device, holder in phase.claims.items() if holder != member}
        phase = replace(phase, claims=kept)
    elif isinstance(phase, Aggregating | Concluding | Abandoning) and _holds_lease(phase, member):
        phase = replace(phase, lease=None)
    return Step(replace(before, phase=phase, fenced=before.fenced | {member}), Verdict.ACCEPTED)


def _holds_lease(phase: Ending, member: str) -> bool:
    return phase.lease is not None and phase.lease.member == member


def _check_in(phase: Phase, event: CheckIn) -> tuple[Phase, Verdict]:
    if isinstance(phase, Waiting):
        phase = Selecting(phase.ref, phase.plan, event.at, {}, {}, {}, {}, None)
    if not isinstance(phase, Selecting | Reporting):
        return phase, Verdict.COHORT_FULL
    if phase.overdue(event.at) is not None:
        return phase, Verdict.LATE
    if event.device in phase.cohort:
        return phase, Verdict.ALREADY_CHECKED_IN
    if len(phase.cohort) >= phase.plan.cohort_size:
        return phase, Verdict.COHORT_FULL
    admission = Admission(event.data_size, event.eval_data_size, event.at)
    grown = replace(phase, cohort={**phase.cohort, event.device: admission})
    if len(grown.cohort) == grown.plan.cohort_size:
        grown = _filled(grown)
    return grown, Verdict.ACCEPTED


def _filled(phase: Collecting) -> Reporting:
    return Reporting(
        phase.ref,
        phase.plan,
        phase.opened_at,
        phase.cohort,
        phase.claims,
        phase.reports,
        phase.partials,
        phase.first_report_at,
        phase.exchange,
    )


def _claim(phase: Phase, event: Claim) -> tuple[Phase, Verdict]:
    if isinstance(phase, Waiting):
        return phase, Verdict.NOT_IN_COHORT
    if not isinstance(phase, Selecting | Reporting):
        return phase, Verdict.ENOUGH
    if phase.overdue(event.at) is not None:
        return phase, Verdict.LATE
    if event.device not in phase.cohort:
        return phase, Verdict.NOT_IN_COHORT
    if event.number != phase.ref.number:
        return phase, Verdict.STALE_ROUND
    if not is_prepared(phase, event.device):
        return phase, Verdict.UNPREPARED
    if event.device in phase.reports:
        return phase, Verdict.DUPLICATE
    if event.device in phase.claims:
        return phase, Verdict.PENDING
    if len(phase.reports) + len(phase.claims) >= phase.plan.report_goal:
        return phase, Verdict.PENDING
    claims = {**phase.claims, event.device: event.member}
    return replace(phase, claims=claims), Verdict.ACCEPTED


def _release(phase: Phase, event: Release) -> tuple[Phase, Verdict]:
    if not isinstance(phase, Selecting | Reporting):
        return phase, Verdict.ENOUGH
    kept = {
        device: member
        for device, member in phase.claims.items()
        if member != event.member or device not in event.devices
    }
    if len(kept) == len(phase.claims):
        return phase, Verdict.ACCEPTED
    return replace(phase, claims=kept), Verdict.ACCEPTED


def _report(phase: Phase, event: Report) -> tuple[Phase, Verdict]:
    if (
        isinstance(phase, Collecting | Unmasking | Retraining | Ending)
        and phase.partials.get(event.member) == event.partial
    ):
        return phase, Verdict.ACCEPTED
    if not isinstance(phase, Selecting | Reporting):
        return phase, Verdict.ENOUGH
    if phase.overdue(event.at) is not None:
        return phase, Verdict.LATE
    if any(phase.claims.get(device) != event.member for device in event.devices):
        return phase, Verdict.UNCLAIMED
    if event.previous is not None and phase.partials.get(event.member, "") != event.previous:
        return phase, Verdict.UNCLAIMED
    first = len(phase.reports) + 1
    counted = {
        device: Counted(event.member, first + offset, event.at)
        for offset, device in enumerate(event.devices)
    }
    after = replace(
        phase,
        claims={d: m for d, m in phase.claims.items() if d not in counted},
        reports={**phase.reports, **counted},
        partials={**phase.partials, event.member: event.partial},
        first_report_at=event.at if phase.first_report_at is None else phase.first_report_at,
    )
    if len(after.reports) < after.plan.report_goal:
        return after, Verdict.ACCEPTED
    if after.plan.unmasks:
        known = (after.cohort, after.reports, after.partials)
        exchange_so_far = after.exchange.await_readers(event.at)
        unmasking = Unmasking(after.ref, after.plan, after.opened_at, *known, exchange_so_far)
        return unmasking, Verdict.ACCEPTED
    return aggregating(after, event.at), Verdict.ACCEPTED


def _tick(phase: Phase, at: Millis) -> tuple[Phase, Verdict]:
    if not isinstance(phase, Selecting | Reporting | Unmasking | Retraining):
        return phase, Verdict.ACCEPTED
    reason = phase.overdue(at)
    if reason is None:
        return phase, Verdict.ACCEPTED
    return _abandoning(phase, reason, at), Verdict.ACCEPTED


def _abandoning(
    phase: Collecting | Unmasking | Retraining | Ending, reason: Reason, at: Millis
) -> Abandoning:
    return Abandoning(
        phase.ref,
        phase.plan,
        phase.opened_at,
        phase.cohort,
        phase.reports,
        phase.partials,
        at,
        None,
        reason,
    )


def _abort(phase: Phase, reason: Reason, at: Millis) -> tuple[Phase, Verdict]:
    match phase:
        case Waiting() | Selecting() | Reporting() | Unmasking() | Retraining():
            return _interrupted(phase, reason, at), Verdict.ACCEPTED
        case Aggregating() | Concluding():
            return _abandoning(phase, reason, at), Verdict.ACCEPTED
        case Abandoning() | Committed() | Abandoned() | Closed():
            return phase, Verdict.NOTHING_TO_FINISH
        case _:
            assert_never(phase)


def _take_lease(phase: Phase, event: TakeLease) -> tuple[Phase, Verdict]:
    if not isinstance(phase, Aggregating | Concluding | Abandoning):
        return phase, Verdict.NOTHING_TO_FINISH
    held = phase.lease
    if held is not None and held.member != event.member and event.at < held.until:
        return phase, Verdict.LEASED
    lease = Lease(event.member, Millis(event.at + event.lease_ms))
    return replace(phase, lease=lease), Verdict.ACCEPTED


def _hand_over(phase: Phase, event: HandOver) -> tuple[Phase, Verdict]:
    if isinstance(phase, Retraining | Concluding) and phase.aggregate == event.aggregate:
        return phase, Verdict.ACCEPTED
    if not (isinstance(phase, Aggregating) and phase.plan.is_hybrid):
        return phase, Verdict.NOTHING_TO_FINISH
    if not _holds_lease(phase, event.member):
        return phase, Verdict.LEASE_LOST
    assert phase.opened_at is not None
    after = Retraining(
        phase.ref,
        phase.plan,
        phase.opened_at,
        phase.cohort,
        phase.reports,
        phase.partials,
        event.at,
        event.aggregate,
    )
    return after, Verdict.ACCEPTED


def _push(phase: Phase, event: Push) -> tuple[Phase, Verdict]:
    if isinstance(phase, _Unaggregated):
        return phase, Verdict.NOT_AGGREGATED
    if not isinstance(phase, Retraining | Concluding):
        return phase, Verdict.ENOUGH
    if phase.pushed is not None:
        is_repeat = phase.pushed == event.model
        return phase, Verdict.ACCEPTED if is_repeat else Verdict.DUPLICATE
    if isinstance(phase, Concluding):
        return phase, Verdict.ENOUGH
    if phase.overdue(event.at) is not None:
        return phase, Verdict.LATE
    return replace(phase, pushed=event.model, is_fit=event.is_fit), Verdict.ACCEPTED


def _conclude(phase: Phase, at: Millis) -> tuple[Phase, Verdict]:
    if isinstance(phase, _Unaggregated):
        return phase, Verdict.NOT_AGGREGATED
    if isinstance(phase, Concluding):
        return phase, Verdict.ACCEPTED
    if not isinstance(phase, Retraining):
        return phase, Verdict.ENOUGH
    if phase.overdue(at) is not None:
        return phase, Verdict.LATE
    if not phase.is_fit:
        return _abandoning(phase, Reason.RETRAINED_UNFIT, at), Verdict.ACCEPTED
    after = Concluding(
        phase.ref,
        phase.plan,
        phase.opened_at,
        phase.cohort,
        phase.reports,
        phase.partials,
        at,
        None,
        phase.aggregate,
        phase.pushed,
    )
    return after, Verdict.ACCEPTED


def _publish(phase: Phase, event: Publish) -> tuple[Phase, Verdict]:
    if not isinstance(phase, Aggregating | Concluding | Abandoning):
        return phase, Verdict.NOTHING_TO_FINISH
    if not _holds_lease(phase, event.member):
        return phase, Verdict.LEASE_LOST
    if isinstance(phase, Abandoning):
        return Abandoned(phase.ref, phase.reason), Verdict.ACCEPTED
    return Committed(phase.ref, len(phase.reports)), Verdict.ACCEPTED


def open_next(finished: Round, plan: RoundPlan, *, closes: bool) -> Round:
    """The round after a finished one; none any more when the job `closes`.

    With a successor it is the first round of that instance, whatever else was to come.
    """
    phase = finished.phase
    assert isinstance(phase, Committed | Abandoned), phase
    if finished.successor:
        first = Waiting(RoundRef(finished.successor, 1), plan)
        return Round(first, finished.fenced, is_disabled=finished.is_disabled)
    ref = phase.ref.next()
    after = Closed(ref, plan) if closes else Waiting(ref, plan)
    return Round(after, finished.fenced, served=False, is_disabled=finished.is_disabled)
