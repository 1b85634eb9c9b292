"""The transitions of a masked round: devices take steps, and the sum becomes readable."""

from __future__ import annotations

from dataclasses import replace

from fl_cluster.rounds.events import Proceed, Tell, Verdict
from fl_cluster.rounds.exchange import (
    AFTER_REPORTS,
    BEFORE,
    Step,
    goal_of,
    last_before_report,
)
from fl_cluster.rounds.phases import (
    Abandoned,
    Aggregating,
    Collecting,
    Committed,
    Phase,
    Reporting,
    Selecting,
    Unmasking,
    Waiting,
)
from fl_cluster.rounds.plan import Millis


def exchange(phase: Phase, event: Tell | Proceed) -> tuple[Phase, Verdict]:
    """The phase after the event, and the verdict on it."""
    if isinstance(event, Tell):
        return _tell(phase, event)
    return _proceed(phase, event.at)


def is_prepared(phase: Collecting, device: str) -> bool:
    """Whether the device has done all that comes before its update."""
    plan = phase.plan.exchange
    return plan is None or phase.exchange.has(last_before_report(plan), device)


def aggregating(phase: Collecting | Unmasking, at: Millis) -> Aggregating:
    """What follows once nothing is left to wait for."""
    return Aggregating(
        phase.ref,
        phase.plan,
        phase.opened_at,
        phase.cohort,
        phase.reports,
        phase.partials,
        at,
        None,
    )


def _tell(phase: Phase, event: Tell) -> tuple[Phase, Verdict]:
    if isinstance(phase, Committed | Abandoned) or phase.plan.exchange is None:
        return phase, Verdict.ENOUGH
    plan, step = phase.plan.exchange, event.step
    if isinstance(phase, Waiting):
        return phase, Verdict.TOO_EARLY if step in AFTER_REPORTS else Verdict.UNPREPARED
    if isinstance(phase, Selecting | Reporting) and step in AFTER_REPORTS:
        return phase, Verdict.TOO_EARLY
    awaited = Unmasking if step in AFTER_REPORTS else Collecting
    if not isinstance(phase, Collecting | Unmasking) or not isinstance(phase, awaited):
        return phase, Verdict.ENOUGH
    if phase.overdue(event.at) is not None:
        return phase, Verdict.LATE
    if phase.exchange.has(step, event.device):
        verdict = _may_tell_anew(phase, event)
    else:
        verdict = _may_tell(phase, step, event.device)
    if verdict is not Verdict.ACCEPTED:
        return phase, verdict
    exchange = phase.exchange.add(step, event.device, event.message, event.at)
    if isinstance(phase, Unmasking) and step is Step.REVEALS and exchange.is_complete(plan, step):
        return aggregating(phase, event.at), Verdict.ACCEPTED
    return replace(phase, exchange=exchange), Verdict.ACCEPTED


def _may_tell_anew(phase: Collecting | Unmasking, event: Tell) -> Verdict:
    """Whether a device may say something else: keys, as long as nobody can have read them."""
    plan = phase.plan.exchange
    assert plan is not None
    if event.former is None or event.step is not Step.KEYS:
        return Verdict.DUPLICATE
    if phase.exchange.is_complete(plan, event.step):
        return Verdict.ENOUGH
    is_there = phase.exchange.told[event.step][event.device] == event.former
    return Verdict.ACCEPTED if is_there else Verdict.DUPLICATE


def _may_tell(phase: Collecting | Unmasking, step: Step, device: str) -> Verdict:
    """Whether the step is open to a device that has not taken it."""
    plan, exchange, before = phase.plan.exchange, phase.exchange, BEFORE[step]
    assert plan is not None
    if before is None:
        known = phase.cohort if step is Step.KEYS else phase.reports
        is_prepared = device in known
    else:
        if goal_of(plan, before) is not None and not exchange.is_complete(plan, before):
            return Verdict.TOO_EARLY
        is_prepared = exchange.has(before, device)
    if not is_prepared:
        return Verdict.UNPREPARED
    return Verdict.ENOUGH if exchange.is_complete(plan, step) else Verdict.ACCEPTED


def _proceed(phase: Phase, at: Millis) -> tuple[Phase, Verdict]:
    if isinstance(phase, Waiting | Selecting | Reporting):
        return phase, Verdict.TOO_EARLY
    if not isinstance(phase, Unmasking):
        return phase, Verdict.ENOUGH
    if phase.overdue(at) is not None:
        return phase, Verdict.LATE
    return aggregating(phase, at), Verdict.ACCEPTED
