"""The phases of a round; each holds only what is known in it.

    Waiting -> Selecting -> Reporting -> Aggregating -----------------------> Committed
                   |            |  |        ^ |                                   ^
                   |            |  +--> Unmasking                                 |
                   |            |       |     +-> Retraining -> Concluding -------+
                   |            |       |             |
                   +------------+-------+-------------+-----> Abandoning  -> Abandoned

In a masked round devices take the masks off the sum before it can be used.  A hybrid round
goes the lower way: a worker retrains the aggregate before the round ends.
A finished round is followed by the next one's `Waiting`, or by `Closed` after the last.

Updates are counted while the cohort still fills: a device that was admitted early need not
wait for the others.  `Aggregating`, `Concluding` and `Abandoning` are work that any member may
do: they carry a lease, and a lease that ran out is free for the next one who looks.
Not here: the weights themselves, which no decision depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fl_cluster.rounds.exchange import Exchange
from fl_cluster.rounds.plan import Millis, RoundPlan


@dataclass(frozen=True, slots=True)
class RoundRef:
    """Which round, and which try at it: the fencing token in every write."""

    instance: str
    number: int
    attempt: int = 1

    def __str__(self) -> str:
        return f"{self.number}.{self.attempt}@{self.instance}"

    @classmethod
    def parse(cls, text: str) -> RoundRef:
        """The reference that `str` wrote; ValueError when it did not."""
        numbers, instance = text.split("@", 1)
        number, attempt = numbers.split(".")
        return cls(instance, int(number), int(attempt))

    def next(self) -> RoundRef:
        """The reference of the round after this one."""
        return RoundRef(self.instance, self.number + 1)


class Reason(StrEnum):
    """Why a round was abandoned."""

    SELECT_WINDOW = "select_window"
    REPORT_WINDOW = "report_window"
    ROUND_WINDOW = "round_window"
    EXCHANGE_WINDOW = "exchange_window"
    """Too few devices took a step of a masked round in time."""
    UNMASK_FAILED = "unmask_failed"
    """What devices revealed does not take the masks off the sum."""
    AGGREGATE_FAILED = "aggregate_failed"
    BUDGET_SPENT = "budget_spent"
    """Its noise would have cost more than what is left of the privacy budget."""
    RETRAINED_UNFIT = "retrained_unfit"
    """What the worker handed in holds NaN or infinity."""
    JOB_DISABLED = "job_disabled"
    JOB_RESTARTED = "job_restarted"
    STORE_LOST = "store_lost"
    """The store came back without it."""


Deadlines = tuple[tuple[Millis, Reason], ...]
"""Instants at which a phase ends its round, and for what reason; of several that have passed the
first is named."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a device declared when it checked in."""

    data_size: int
    eval_data_size: int
    at: Millis


@dataclass(frozen=True, slots=True)
class Counted:
    """One counted update: when, by which member, and which in order (from 1)."""

    member: str
    position: int
    at: Millis


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one member to finish the round, until an instant."""

    member: str
    until: Millis


@dataclass(frozen=True, slots=True)
class Waiting:
    """Open, and nobody has checked in yet."""

    ref: RoundRef
    plan: RoundPlan


@dataclass(frozen=True, slots=True)
class Collecting:
    """Common to the two phases in which updates are taken; never used by itself."""

    ref: RoundRef
    plan: RoundPlan
    opened_at: Millis
    cohort: Mapping[str, Admission]
    claims: Mapping[str, str]
    reports: Mapping[str, Counted]
    partials: Mapping[str, str]
    first_report_at: Millis | None
    exchange: Exchange = field(default_factory=Exchange)

    def deadlines(self) -> Deadlines:
        """The instants at which this phase ends the round, and for what reason."""
        found: list[tuple[Millis, Reason]] = []
        if len(self.cohort) < self.plan.cohort_size:
            found.append(
                (Millis(self.opened_at + self.plan.select_window_ms), Reason.SELECT_WINDOW)
            )
        if self.first_report_at is not None:
            found.append(
                (Millis(self.first_report_at + self.plan.report_window_ms), Reason.REPORT_WINDOW)
            )
        found += _exchange_deadlines(self.plan, self.exchange)
        found.append((Millis(self.opened_at + self.plan.round_window_ms), Reason.ROUND_WINDOW))
        return tuple(found)

    def overdue(self, at: Millis) -> Reason | None:
        """Why the round has run out of time at this instant, if it has."""
        return _first_passed(self.deadlines(), at)


def _first_passed(deadlines: Deadlines, at: Millis) -> Reason | None:
    """Why time is up at this instant, if it is.

    The instant of a deadline itself is already too late, so that two members comparing the same
    two integers never disagree.
    """
    return next((reason for deadline, reason in deadlines if at >= deadline), None)


def _exchange_deadlines(plan: RoundPlan, exchange: Exchange) -> Deadlines:
    deadline = exchange.deadline(plan.exchange) if plan.exchange is not None else None
    return () if deadline is None else ((deadline, Reason.EXCHANGE_WINDOW),)


@dataclass(frozen=True, slots=True)
class Selecting(Collecting):
    """The cohort has room."""


@dataclass(frozen=True, slots=True)
class Reporting(Collecting):
    """The cohort is full."""


@dataclass(frozen=True, slots=True)
class Unmasking:
    """All updates are counted, and devices are to take the masks off their sum."""

    ref: RoundRef
    plan: RoundPlan
    opened_at: Millis
    cohort: Mapping[str, Admission]
    reports: Mapping[str, Counted]
    partials: Mapping[str, str]
    exchange: Exchange

    def deadlines(self) -> Deadlines:
        """The instants at which this phase ends the round, and for what reason."""
        last = Millis(self.opened_at + self.plan.round_window_ms)
        return (*_exchange_deadlines(self.plan, self.exchange), (last, Reason.ROUND_WINDOW))

    def overdue(self, at: Millis) -> Reason | None:
        """Why the round has run out of time at this instant, if it has."""
        return _first_passed(self.deadlines(), at)


@dataclass(frozen=True, slots=True)
class Ending:
    """Common to the phases in which a member has work to do; never used by itself."""

    ref: RoundRef
    plan: RoundPlan
    opened_at: Millis | None
    """When the first device checked in; None when none did."""
    cohort: Mapping[str, Admission]
    reports: Mapping[str, Counted]
    partials: Mapping[str, str]
    since: Millis
    lease: Lease | None


@dataclass(frozen=True, slots=True)
class Aggregating(Ending):
    """The goal was met: the partials are to be merged, and the mean of a hybrid round handed
    over to the worker, of any other published."""


@dataclass(frozen=True, slots=True)
class Retraining:
    """The aggregate is there for the worker, who has not concluded; only time limits it."""

    ref: RoundRef
    plan: RoundPlan
    opened_at: Millis
    cohort: Mapping[str, Admission]
    reports: Mapping[str, Counted]
    partials: Mapping[str, str]
    since: Millis
    aggregate: str
    """Pointer to the stored mean."""
    pushed: str | None = None
    """Pointer to what the worker made of it; None until it hands that in."""
    is_fit: bool = True
    """Whether what was handed in can be a model."""

    @property
    def deadline(self) -> Millis:
        """The instant at which time ends the round."""
        return Millis(self.opened_at + self.plan.round_window_ms)

    def overdue(self, at: Millis) -> Reason | None:
        """Why the round has run out of time at this instant, if it has."""
        return Reason.ROUND_WINDOW if at >= self.deadline else None


@dataclass(frozen=True, slots=True)
class Concluding(Ending):
    """The worker has done its part: what it handed in is to be recorded and published."""

    aggregate: str
    pushed: str | None
    """None when it handed nothing in: the model stays as it was."""


@dataclass(frozen=True, slots=True)
class Abandoning(Ending):
    """It came to nothing: the round is to be recorded, and the model stays as it was."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Committed:
    """Over, with a new model."""

    ref: RoundRef
    counted: int


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Over, with the model it started from."""

    ref: RoundRef
    reason: Reason


@dataclass(frozen=True, slots=True)
class Closed:
    """The job has run all its rounds; `ref` names the one that will never open."""

    ref: RoundRef
    plan: RoundPlan


Phase = (
    Waiting
    | Selecting
    | Reporting
    | Unmasking
    | Aggregating
    | Retraining
    | Concluding
    | Abandoning
    | Committed
    | Abandoned
    | Closed
)
