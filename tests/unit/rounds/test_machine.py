"""Every phase meets every event.

`CASES` holds at least one case for each cell of phases and events.  The grid is made from
the types, so a phase or an event that is added without a case is a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import pytest

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
from fl_cluster.rounds.exchange import Exchange, Step
from fl_cluster.rounds.machine import Round, open_next, step
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
from fl_cluster.rounds.plan import ExchangePlan, Millis, RoundPlan

REF = RoundRef("run-1", 7)
OTHER_REFS = (RoundRef("run-1", 6), RoundRef("run-1", 8), RoundRef("run-1", 7, 2))
PLAN = RoundPlan(
    cohort_size=3, report_goal=2, select_window_ms=100, report_window_ms=50, round_window_ms=200
)
OPENED = 1000
SELECT_DEADLINE, ROUND_DEADLINE = 1100, 1200
FIRST_REPORT, REPORT_DEADLINE = 1020, 1070


def at(instant: int) -> Millis:
    return Millis(instant)


def admitted(*devices: str) -> dict[str, Admission]:
    return {device: Admission(32, 8, at(OPENED)) for device in devices}


COUNTED_A = {"a": Counted("m1", 1, at(FIRST_REPORT))}
COUNTED_AB = COUNTED_A | {"b": Counted("m2", 2, at(1030))}
PARTIALS = {"m1": "p1", "m2": "p2"}

WAITING = Waiting(REF, PLAN)
SELECTING = Selecting(REF, PLAN, at(OPENED), admitted("a", "b"), {"a": "m1"}, {}, {}, None)
REPORTING = Reporting(
    REF,
    PLAN,
    at(OPENED),
    admitted("a", "b", "c"),
    {"b": "m2"},
    COUNTED_A,
    {"m1": "p1"},
    at(FIRST_REPORT),
)
AGGREGATING = Aggregating(
    REF,
    PLAN,
    at(OPENED),
    admitted("a", "b", "c"),
    COUNTED_AB,
    PARTIALS,
    at(1030),
    Lease("m1", at(1500)),
)
MASKED = replace(
    PLAN, exchange=ExchangePlan(keys=3, shares=2, signatures=1, reveals=2, window_ms=60)
)
STEP_DEADLINE = 1110
ALL_KEYS = dict.fromkeys("abc", b"keys")
BEFORE_SHARES = Exchange({Step.KEYS: ALL_KEYS, Step.KEYS_READ: ALL_KEYS}, {Step.KEYS: at(1010)})
SHARED = Exchange(
    {**BEFORE_SHARES.told, Step.SHARES: {"a": b"s", "b": b"s"}, Step.SHARES_READ: {"a": b""}},
    {**BEFORE_SHARES.began, Step.SHARES: at(1015)},
)
MASKED_REPORTING = Reporting(
    REF, MASKED, at(OPENED), admitted("a", "b", "c"), {}, {}, {}, None, BEFORE_SHARES
)
UNMASKING = Unmasking(
    REF,
    MASKED,
    at(OPENED),
    admitted("a", "b", "c"),
    COUNTED_AB,
    PARTIALS,
    Exchange(
        {**SHARED.told, Step.LIST_READ: {"a": b"", "b": b""}, Step.REVEALS: {"a": b"r"}},
        {**SHARED.began, Step.REVEALS: at(1050)},
    ),
)
UNMASKED = Aggregating(
    REF, MASKED, at(OPENED), admitted("a", "b", "c"), COUNTED_AB, PARTIALS, at(1060), None
)
HYBRID = replace(PLAN, is_hybrid=True)
RETRAINING = Retraining(
    REF,
    HYBRID,
    at(OPENED),
    admitted("a", "b", "c"),
    COUNTED_AB,
    PARTIALS,
    at(1040),
    "mean",
)
CONCLUDING = Concluding(
    REF,
    HYBRID,
    at(OPENED),
    admitted("a", "b", "c"),
    COUNTED_AB,
    PARTIALS,
    at(1045),
    Lease("m1", at(1500)),
    "mean",
    "pushed",
)
FOR_WORKER = replace(AGGREGATING, plan=HYBRID)
ABANDONING = Abandoning(
    REF,
    PLAN,
    at(OPENED),
    admitted("a", "b"),
    COUNTED_A,
    {"m1": "p1"},
    at(1100),
    Lease("m1", at(1500)),
    Reason.SELECT_WINDOW,
)
COMMITTED = Committed(REF, 2)
ABANDONED = Abandoned(REF, Reason.SELECT_WINDOW)
CLOSED = Closed(REF, PLAN)

SAMPLES: tuple[Phase, ...] = (
    WAITING,
    SELECTING,
    REPORTING,
    UNMASKING,
    AGGREGATING,
    RETRAINING,
    CONCLUDING,
    ABANDONING,
    COMMITTED,
    ABANDONED,
    CLOSED,
)
NOT_COLLECTING: tuple[Phase, ...] = (
    UNMASKING,
    AGGREGATING,
    RETRAINING,
    CONCLUDING,
    ABANDONING,
    COMMITTED,
    ABANDONED,
    CLOSED,
)
OVER: tuple[Phase, ...] = (COMMITTED, ABANDONED, CLOSED)


def check_in(device: str = "c", instant: int = 1050) -> CheckIn:
    return CheckIn(REF, device, 64, 16, at(instant))


def claim(device: str = "b", member: str = "m1", number: int = 7, instant: int = 1050) -> Claim:
    return Claim(REF, member, device, number, at(instant))


def report(
    *devices: str, member: str = "m2", partial: str = "p-new", instant: int = 1050
) -> Report:
    return Report(REF, member, devices, partial, at(instant))


def lease(member: str = "m2", instant: int = 1050) -> TakeLease:
    return TakeLease(REF, member, 300, at(instant))


UNCHANGED = "the very same round comes back"


@dataclass(frozen=True)
class Case:
    """A phase (or a whole round), what happens to it, the verdict, and what is after.

    That is a phase's type, a phase, or a whole round; a phase stands for a round that has
    nothing else to remember.
    """

    what: str
    before: Phase | Round
    event: Event
    verdict: Verdict
    after: object = UNCHANGED

    def __str__(self) -> str:
        return f"{type(self.phase).__name__}-{type(self.event).__name__}-{self.what}"

    @property
    def phase(self) -> Phase:
        return self.before.phase if isinstance(self.before, Round) else self.before


def check_in_cases() -> list[Case]:
    joined = admitted("a", "b") | {"c": Admission(64, 16, at(1050))}
    full = Reporting(REF, PLAN, at(OPENED), joined, {"a": "m1"}, {}, {}, None)
    alone = replace(PLAN, cohort_size=1, report_goal=1)
    only = {"c": Admission(64, 16, at(1050))}
    return [
        Case(
            "the first one opens the cohort",
            WAITING,
            check_in(),
            Verdict.ACCEPTED,
            Selecting(REF, PLAN, at(1050), only, {}, {}, {}, None),
        ),
        Case(
            "a cohort of one is full at once",
            Waiting(REF, alone),
            check_in(),
            Verdict.ACCEPTED,
            Reporting(REF, alone, at(1050), only, {}, {}, {}, None),
        ),
        Case("the last place is taken", SELECTING, check_in("c"), Verdict.ACCEPTED, full),
        Case("a second time", SELECTING, check_in("a"), Verdict.ALREADY_CHECKED_IN),
        Case(
            "just in time",
            SELECTING,
            check_in("c", SELECT_DEADLINE - 1),
            Verdict.ACCEPTED,
            Reporting,
        ),
        Case("exactly at the deadline", SELECTING, check_in("c", SELECT_DEADLINE), Verdict.LATE),
        Case("a full cohort", REPORTING, check_in("d"), Verdict.COHORT_FULL),
        Case("a member of a full cohort", REPORTING, check_in("a"), Verdict.ALREADY_CHECKED_IN),
        Case("a full cohort, late", REPORTING, check_in("d", REPORT_DEADLINE), Verdict.LATE),
        *(Case("too late", phase, check_in(), Verdict.COHORT_FULL) for phase in NOT_COLLECTING),
    ]


def claim_cases() -> list[Case]:
    place_left = replace(REPORTING, claims={})
    return [
        Case("nobody is in", WAITING, claim(), Verdict.NOT_IN_COHORT),
        Case(
            "while the cohort fills",
            SELECTING,
            claim("b", "m2"),
            Verdict.ACCEPTED,
            replace(SELECTING, claims={"a": "m1", "b": "m2"}),
        ),
        Case("a stranger", SELECTING, claim("x"), Verdict.NOT_IN_COHORT),
        Case(
            "a stranger with an old number", SELECTING, claim("x", number=3), Verdict.NOT_IN_COHORT
        ),
        Case("an old number", SELECTING, claim("b", number=6), Verdict.STALE_ROUND),
        Case("a number to come", SELECTING, claim("b", number=8), Verdict.STALE_ROUND),
        Case("being committed elsewhere", SELECTING, claim("a", "m2"), Verdict.PENDING),
        Case("being committed here", SELECTING, claim("a", "m1"), Verdict.PENDING),
        Case("exactly at the deadline", SELECTING, claim(instant=SELECT_DEADLINE), Verdict.LATE),
        Case("a stranger, late", SELECTING, claim("x", instant=SELECT_DEADLINE), Verdict.LATE),
        Case(
            "a place is left",
            place_left,
            claim("b", "m2"),
            Verdict.ACCEPTED,
            replace(place_left, claims={"b": "m2"}),
        ),
        Case("counted already", REPORTING, claim("a"), Verdict.DUPLICATE),
        Case(
            "counted already, with an old number",
            REPORTING,
            claim("a", number=6),
            Verdict.STALE_ROUND,
        ),
        Case("the last place is being committed", REPORTING, claim("c"), Verdict.PENDING),
        Case(
            "exactly at the deadline", REPORTING, claim("c", instant=REPORT_DEADLINE), Verdict.LATE
        ),
        Case(
            "just in time",
            place_left,
            claim("c", instant=REPORT_DEADLINE - 1),
            Verdict.ACCEPTED,
            Reporting,
        ),
        *(Case("too late", phase, claim(), Verdict.ENOUGH) for phase in NOT_COLLECTING),
        *(
            Case("a stranger, too late", phase, claim("x"), Verdict.ENOUGH)
            for phase in NOT_COLLECTING
        ),
    ]


def release_cases() -> list[Case]:
    mine, theirs = Release(REF, "m1", ("a", "b")), Release(REF, "m2", ("a",))
    return [
        Case("nothing to give up", WAITING, mine, Verdict.ENOUGH),
        Case("its own claim", SELECTING, mine, Verdict.ACCEPTED, replace(SELECTING, claims={})),
        Case("a claim of another", SELECTING, theirs, Verdict.ACCEPTED),
        Case("nothing", SELECTING, Release(REF, "m1", ()), Verdict.ACCEPTED),
        Case(
            "its own claim",
            REPORTING,
            Release(REF, "m2", ("b", "x")),
            Verdict.ACCEPTED,
            replace(REPORTING, claims={}),
        ),
        Case("a counted update stays", REPORTING, Release(REF, "m1", ("a",)), Verdict.ACCEPTED),
        *(Case("too late", phase, mine, Verdict.ENOUGH) for phase in NOT_COLLECTING),
    ]


def report_cases() -> list[Case]:
    first = replace(
        SELECTING,
        claims={},
        reports={"a": Counted("m1", 1, at(1050))},
        partials={"m1": "p-new"},
        first_report_at=at(1050),
    )
    both = COUNTED_A | {"b": Counted("m2", 2, at(1050))}
    goal = Aggregating(
        REF,
        PLAN,
        at(OPENED),
        REPORTING.cohort,
        both,
        {"m1": "p1", "m2": "p-new"},
        at(1050),
        None,
    )
    held = replace(SELECTING, claims={"a": "m1", "b": "m1"})
    return [
        Case("before anybody is in", WAITING, report("a"), Verdict.ENOUGH),
        Case("the first one", SELECTING, report("a", member="m1"), Verdict.ACCEPTED, first),
        Case("without a claim", SELECTING, report("b", member="m1"), Verdict.UNCLAIMED),
        Case("with the claim of another", SELECTING, report("a", member="m2"), Verdict.UNCLAIMED),
        Case("partly without a claim", SELECTING, report("a", "b", member="m1"), Verdict.UNCLAIMED),
        Case(
            "exactly at the deadline",
            SELECTING,
            report("a", member="m1", instant=SELECT_DEADLINE),
            Verdict.LATE,
        ),
        Case(
            "the goal is met while the cohort has room",
            held,
            report("b", "a", member="m1"),
            Verdict.ACCEPTED,
            Aggregating(
                REF,
                PLAN,
                at(OPENED),
                held.cohort,
                {"b": Counted("m1", 1, at(1050)), "a": Counted("m1", 2, at(1050))},
                {"m1": "p-new"},
                at(1050),
                None,
            ),
        ),
        Case("the goal is met", REPORTING, report("b"), Verdict.ACCEPTED, goal),
        Case(
            "a repeat",
            REPORTING,
            report("a", member="m1", partial="p1", instant=REPORT_DEADLINE),
            Verdict.ACCEPTED,
        ),
        Case("counted already", REPORTING, report("a", member="m1"), Verdict.UNCLAIMED),
        Case(
            "exactly at the deadline", REPORTING, report("b", instant=REPORT_DEADLINE), Verdict.LATE
        ),
        Case(
            "just in time",
            REPORTING,
            report("b", instant=REPORT_DEADLINE - 1),
            Verdict.ACCEPTED,
            Aggregating,
        ),
        *(
            Case("a repeat", phase, report("a", member="m1", partial="p1"), Verdict.ACCEPTED)
            for phase in (UNMASKING, AGGREGATING, RETRAINING, CONCLUDING, ABANDONING)
        ),
        *(Case("too late", phase, report("a"), Verdict.ENOUGH) for phase in NOT_COLLECTING),
    ]


def member_lost_cases() -> list[Case]:
    gone = MemberLost("m1", at(1050))
    return [
        Case("only fenced", WAITING, gone, Verdict.ACCEPTED, WAITING),
        Case("its claim is free", SELECTING, gone, Verdict.ACCEPTED, replace(SELECTING, claims={})),
        Case(
            "its claim is free, what was counted stays",
            REPORTING,
            MemberLost("m2", at(1050)),
            Verdict.ACCEPTED,
            replace(REPORTING, claims={}),
        ),
        Case("the claims of others stay", REPORTING, gone, Verdict.ACCEPTED, REPORTING),
        Case(
            "its lease is free",
            AGGREGATING,
            gone,
            Verdict.ACCEPTED,
            replace(AGGREGATING, lease=None),
        ),
        Case(
            "the lease of another stays",
            AGGREGATING,
            MemberLost("m2", at(1050)),
            Verdict.ACCEPTED,
            AGGREGATING,
        ),
        *(
            Case("its lease is free", phase, gone, Verdict.ACCEPTED, replace(phase, lease=None))
            for phase in (CONCLUDING, ABANDONING)
        ),
        Case("only fenced", RETRAINING, gone, Verdict.ACCEPTED, RETRAINING),
        Case("only fenced", UNMASKING, gone, Verdict.ACCEPTED, UNMASKING),
        *(Case("only fenced", phase, gone, Verdict.ACCEPTED, phase) for phase in OVER),
    ]


def tick_cases() -> list[Case]:
    def abandoning(
        phase: Collecting | Unmasking | Retraining, reason: Reason, instant: int
    ) -> Abandoning:
        return Abandoning(
            REF,
            phase.plan,
            phase.opened_at,
            phase.cohort,
            phase.reports,
            phase.partials,
            at(instant),
            None,
            reason,
        )

    untouched = replace(REPORTING, first_report_at=None)
    return [
        Case("waiting costs nothing", WAITING, Tick(REF, at(10**12)), Verdict.ACCEPTED),
        Case("in time", SELECTING, Tick(REF, at(SELECT_DEADLINE - 1)), Verdict.ACCEPTED),
        Case(
            "at the deadline",
            SELECTING,
            Tick(REF, at(SELECT_DEADLINE)),
            Verdict.ACCEPTED,
            abandoning(SELECTING, Reason.SELECT_WINDOW, SELECT_DEADLINE),
        ),
        Case("in time", REPORTING, Tick(REF, at(REPORT_DEADLINE - 1)), Verdict.ACCEPTED),
        Case(
            "at the deadline",
            REPORTING,
            Tick(REF, at(REPORT_DEADLINE)),
            Verdict.ACCEPTED,
            abandoning(REPORTING, Reason.REPORT_WINDOW, REPORT_DEADLINE),
        ),
        Case("in time", untouched, Tick(REF, at(ROUND_DEADLINE - 1)), Verdict.ACCEPTED),
        Case(
            "at the last deadline",
            untouched,
            Tick(REF, at(ROUND_DEADLINE)),
            Verdict.ACCEPTED,
            abandoning(untouched, Reason.ROUND_WINDOW, ROUND_DEADLINE),
        ),
        Case("in time", UNMASKING, Tick(REF, at(STEP_DEADLINE - 1)), Verdict.ACCEPTED),
        Case(
            "too few reveal",
            UNMASKING,
            Tick(REF, at(STEP_DEADLINE)),
            Verdict.ACCEPTED,
            abandoning(UNMASKING, Reason.EXCHANGE_WINDOW, STEP_DEADLINE),
        ),
        Case("in time", RETRAINING, Tick(REF, at(ROUND_DEADLINE - 1)), Verdict.ACCEPTED),
        Case(
            "a worker has until the round's window ends",
            RETRAINING,
            Tick(REF, at(ROUND_DEADLINE)),
            Verdict.ACCEPTED,
            abandoning(RETRAINING, Reason.ROUND_WINDOW, ROUND_DEADLINE),
        ),
        *(
            Case("no deadline", phase, Tick(REF, at(10**12)), Verdict.ACCEPTED)
            for phase in NOT_COLLECTING
            if phase not in (RETRAINING, UNMASKING)
        ),
    ]


def abort_cases() -> list[Case]:
    event = Abort(REF, Reason.JOB_DISABLED, at(1060))
    reason = Reason.JOB_DISABLED
    running = [
        Case(
            "what was counted is kept for the record",
            phase,
            event,
            Verdict.ACCEPTED,
            Abandoning(
                REF,
                phase.plan,
                at(OPENED),
                phase.cohort,
                phase.reports,
                phase.partials,
                at(1060),
                None,
                reason,
            ),
        )
        for phase in (SELECTING, REPORTING, UNMASKING, AGGREGATING, RETRAINING, CONCLUDING)
    ]
    return [
        Case(
            "before anybody is in",
            WAITING,
            event,
            Verdict.ACCEPTED,
            Abandoning(REF, PLAN, None, {}, {}, {}, at(1060), None, reason),
        ),
        *running,
        *(
            Case("over already", phase, event, Verdict.NOTHING_TO_FINISH)
            for phase in (ABANDONING, *OVER)
        ),
    ]


def take_lease_cases() -> list[Case]:
    cases = [
        Case("still running", phase, lease(), Verdict.NOTHING_TO_FINISH)
        for phase in (WAITING, SELECTING, REPORTING, UNMASKING, RETRAINING, *OVER)
    ]
    for phase in (AGGREGATING, CONCLUDING, ABANDONING):
        free = replace(phase, lease=None)
        taken = replace(phase, lease=Lease("m2", at(1350)))
        cases += [
            Case("free", free, lease(), Verdict.ACCEPTED, taken),
            Case("held by another", phase, lease(instant=1499), Verdict.LEASED),
            Case(
                "of another, run out",
                phase,
                lease(instant=1500),
                Verdict.ACCEPTED,
                replace(phase, lease=Lease("m2", at(1800))),
            ),
            Case(
                "its own, renewed",
                phase,
                lease("m1"),
                Verdict.ACCEPTED,
                replace(phase, lease=Lease("m1", at(1350))),
            ),
        ]
    return cases


def publish_cases() -> list[Case]:
    holder, other = Publish(REF, "m1"), Publish(REF, "m2")
    cases = [
        Case("nothing to finish", phase, holder, Verdict.NOTHING_TO_FINISH)
        for phase in (WAITING, SELECTING, REPORTING, UNMASKING, RETRAINING, *OVER)
    ]
    ends = ((AGGREGATING, COMMITTED), (CONCLUDING, COMMITTED), (ABANDONING, ABANDONED))
    for phase, after in ends:
        cases += [
            Case("by the holder of the lease", phase, holder, Verdict.ACCEPTED, after),
            Case("by another", phase, other, Verdict.LEASE_LOST),
            Case("without a lease", replace(phase, lease=None), holder, Verdict.LEASE_LOST),
        ]
    return cases


def model_served_cases() -> list[Case]:
    return [Case("known already", phase, ModelServed(REF), Verdict.ACCEPTED) for phase in SAMPLES]


def disable_cases() -> list[Case]:
    event = Disable(at(1060))
    cases = []
    for phase in SAMPLES:
        stopped = Round(phase, is_disabled=True)
        if isinstance(phase, Closed):
            cases.append(Case("over for good", phase, event, Verdict.JOB_FINISHED))
            continue
        cases.append(Case("stopped already", stopped, event, Verdict.ALREADY_DISABLED))
        if isinstance(phase, Waiting | Collecting | Unmasking | Retraining):
            given_up = Round(given_up_at(1060, phase, Reason.JOB_DISABLED), is_disabled=True)
            cases.append(Case("it is given up", phase, event, Verdict.ACCEPTED, given_up))
        else:
            cases.append(Case("it ends first", phase, event, Verdict.ACCEPTED, stopped))
    return cases


def enable_cases() -> list[Case]:
    cases = []
    for phase in SAMPLES:
        stopped = Round(phase, is_disabled=True)
        if isinstance(phase, Closed):
            cases.append(Case("over for good", stopped, Enable(), Verdict.JOB_FINISHED))
            continue
        cases.append(Case("it goes on", stopped, Enable(), Verdict.ACCEPTED, Round(phase)))
        cases.append(Case("never stopped", phase, Enable(), Verdict.ALREADY_ENABLED))
    return cases


def restart_cases() -> list[Case]:
    event = Restart("run-2", at(1060))
    cases = []
    for phase in SAMPLES:
        after: Phase = phase
        if isinstance(phase, Waiting | Collecting | Unmasking | Retraining | Closed):
            after = given_up_at(1060, phase, Reason.JOB_RESTARTED)
        restarted = Round(after, successor="run-2")
        before = Round(phase, is_disabled=True, successor="run-1b")
        cases.append(Case("from anywhere", phase, event, Verdict.ACCEPTED, restarted))
        cases.append(Case("stopped, and once more", before, event, Verdict.ACCEPTED, restarted))
    return cases


def given_up_at(
    instant: int,
    phase: Waiting | Collecting | Unmasking | Retraining | Aggregating | Closed,
    reason: Reason,
) -> Abandoning:
    if isinstance(phase, Waiting | Closed):
        return Abandoning(REF, PLAN, None, {}, {}, {}, at(instant), None, reason)
    return Abandoning(
        REF,
        phase.plan,
        phase.opened_at,
        phase.cohort,
        phase.reports,
        phase.partials,
        at(instant),
        None,
        reason,
    )


BEFORE_THE_MEAN: tuple[Phase, ...] = (WAITING, SELECTING, REPORTING, UNMASKING, AGGREGATING)
AFTER_THE_WORKER: tuple[Phase, ...] = (ABANDONING, *OVER)


def hand_over_cases() -> list[Case]:
    event = HandOver(REF, "m1", "mean", at(1040))
    return [
        Case("the mean is for the worker", FOR_WORKER, event, Verdict.ACCEPTED, RETRAINING),
        Case("no lease", replace(FOR_WORKER, lease=None), event, Verdict.LEASE_LOST),
        Case("the lease of another", FOR_WORKER, replace(event, member="m2"), Verdict.LEASE_LOST),
        *(Case("a repeat", phase, event, Verdict.ACCEPTED) for phase in (RETRAINING, CONCLUDING)),
        *(
            Case("another mean", phase, replace(event, aggregate="x"), Verdict.NOTHING_TO_FINISH)
            for phase in (RETRAINING, CONCLUDING)
        ),
        *(
            Case("not to be handed over", phase, event, Verdict.NOTHING_TO_FINISH)
            for phase in (*BEFORE_THE_MEAN, *AFTER_THE_WORKER)
        ),
    ]


def push_cases() -> list[Case]:
    event = Push(REF, "pushed", is_fit=True, at=at(1050))
    pushed = replace(RETRAINING, pushed="pushed")
    return [
        Case("the first one is taken", RETRAINING, event, Verdict.ACCEPTED, pushed),
        Case(
            "NaN is taken and noted",
            RETRAINING,
            replace(event, is_fit=False),
            Verdict.ACCEPTED,
            replace(pushed, is_fit=False),
        ),
        Case("a repeat", pushed, event, Verdict.ACCEPTED),
        Case("another one", pushed, replace(event, model="x"), Verdict.DUPLICATE),
        Case("a repeat", CONCLUDING, event, Verdict.ACCEPTED),
        Case("another one", CONCLUDING, replace(event, model="x"), Verdict.DUPLICATE),
        Case("too late", replace(CONCLUDING, pushed=None), event, Verdict.ENOUGH),
        Case(
            "exactly at the deadline",
            RETRAINING,
            replace(event, at=at(ROUND_DEADLINE)),
            Verdict.LATE,
        ),
        *(Case("too early", phase, event, Verdict.NOT_AGGREGATED) for phase in BEFORE_THE_MEAN),
        *(Case("over", phase, event, Verdict.ENOUGH) for phase in AFTER_THE_WORKER),
    ]


def conclude_cases() -> list[Case]:
    event = Conclude(REF, at(1045))
    pushed = replace(RETRAINING, pushed="pushed")
    free = replace(CONCLUDING, lease=None)
    return [
        Case("after it has pushed", pushed, event, Verdict.ACCEPTED, free),
        Case("without weights", RETRAINING, event, Verdict.ACCEPTED, replace(free, pushed=None)),
        Case(
            "with NaN",
            replace(pushed, is_fit=False),
            event,
            Verdict.ACCEPTED,
            given_up_at(1045, RETRAINING, Reason.RETRAINED_UNFIT),
        ),
        Case("a repeat", CONCLUDING, event, Verdict.ACCEPTED),
        Case("exactly at the deadline", pushed, Conclude(REF, at(ROUND_DEADLINE)), Verdict.LATE),
        *(Case("too early", phase, event, Verdict.NOT_AGGREGATED) for phase in BEFORE_THE_MEAN),
        *(Case("over", phase, event, Verdict.ENOUGH) for phase in AFTER_THE_WORKER),
    ]


def tell(step: Step, device: str = "c", instant: int = 1050) -> Tell:
    return Tell(REF, step, device, b"new", at(instant))


def anew(step: Step, instant: int = 1050) -> Tell:
    return Tell(REF, step, "a", b"newer", at(instant), former=b"new")


def tell_cases() -> list[Case]:
    shared = replace(MASKED_REPORTING, exchange=SHARED)
    no_keys = replace(MASKED_REPORTING, exchange=Exchange())
    few_shares = BEFORE_SHARES.add(Step.SHARES, "a", b"s", at(1015))
    sharing = replace(MASKED_REPORTING, exchange=few_shares)
    offered = Exchange().add(Step.KEYS, "a", b"new", at(1015))
    offering = replace(MASKED_REPORTING, exchange=offered)
    other = replace(anew(Step.KEYS), former=b"newest")
    revealed = replace(UNMASKED, since=at(1050))
    return [
        Case(
            "the first one begins the step's time",
            no_keys,
            tell(Step.KEYS),
            Verdict.ACCEPTED,
            replace(no_keys, exchange=Exchange({Step.KEYS: {"c": b"new"}}, {Step.KEYS: at(1050)})),
        ),
        Case("a stranger", no_keys, tell(Step.KEYS, "x"), Verdict.UNPREPARED),
        Case("enough are there", shared, tell(Step.SHARES), Verdict.ENOUGH),
        Case("a second time", shared, tell(Step.SHARES, "a"), Verdict.DUPLICATE),
        Case("shares stay as they are", sharing, anew(Step.SHARES), Verdict.DUPLICATE),
        Case(
            "new keys while others are awaited",
            offering,
            anew(Step.KEYS),
            Verdict.ACCEPTED,
            replace(offering, exchange=replace(offered, told={Step.KEYS: {"a": b"newer"}})),
        ),
        Case("new keys in place of others", offering, other, Verdict.DUPLICATE),
        Case("new keys when all have theirs", sharing, anew(Step.KEYS), Verdict.ENOUGH),
        Case("new keys too late", offering, anew(Step.KEYS, 1075), Verdict.LATE),
        Case(
            "reading goes on when enough have read",
            shared,
            tell(Step.SHARES_READ, "b"),
            Verdict.ACCEPTED,
            replace(shared, exchange=SHARED.add(Step.SHARES_READ, "b", b"new", at(1050))),
        ),
        Case("it has not shared", shared, tell(Step.SHARES_READ), Verdict.UNPREPARED),
        Case("too few have shared", sharing, tell(Step.SHARES_READ, "a"), Verdict.TOO_EARLY),
        Case("a step waited too long", sharing, tell(Step.SHARES, "b", 1075), Verdict.LATE),
        Case("while updates are missing", shared, tell(Step.REVEALS, "a"), Verdict.TOO_EARLY),
        Case("nobody is in", Waiting(REF, MASKED), tell(Step.KEYS), Verdict.UNPREPARED),
        Case("nobody is in", Waiting(REF, MASKED), tell(Step.LIST_READ), Verdict.TOO_EARLY),
        Case("all updates are in", UNMASKING, tell(Step.SHARES, "b"), Verdict.ENOUGH),
        Case("it is not in the sum", UNMASKING, tell(Step.LIST_READ), Verdict.UNPREPARED),
        Case("it has not read the list", UNMASKING, tell(Step.REVEALS), Verdict.UNPREPARED),
        Case("the last reveal", UNMASKING, tell(Step.REVEALS, "b"), Verdict.ACCEPTED, revealed),
        Case("too late", UNMASKING, tell(Step.REVEALS, "b", STEP_DEADLINE), Verdict.LATE),
        *(
            Case("it is not masked, or over", phase, tell(step), Verdict.ENOUGH)
            for phase in SAMPLES
            if phase is not UNMASKING
            for step in (Step.KEYS, Step.REVEALS)
        ),
        *(
            Case("over", phase, tell(step), Verdict.ENOUGH)
            for phase in (UNMASKED, replace(RETRAINING, plan=MASKED), replace(CLOSED, plan=MASKED))
            for step in (Step.KEYS, Step.REVEALS)
        ),
    ]


def reading_cases() -> list[Case]:
    """Somebody has to read the list in time; then what comes after it has its own time."""
    unread = replace(UNMASKING, exchange=SHARED.await_readers(at(1040)))
    read = replace(unread, exchange=unread.exchange.add(Step.LIST_READ, "a", b"new", at(1090)))
    given_up = given_up_at(1150, read, Reason.EXCHANGE_WINDOW)
    return [
        Case("the list is read", unread, tell(Step.LIST_READ, "a", 1090), Verdict.ACCEPTED, read),
        Case("nobody reads the list", unread, tell(Step.LIST_READ, "a", 1100), Verdict.LATE),
        Case(
            "nobody reads the list",
            unread,
            Tick(REF, at(1100)),
            Verdict.ACCEPTED,
            given_up_at(1100, unread, Reason.EXCHANGE_WINDOW),
        ),
        Case("it is read, and time is left", read, Tick(REF, at(1149)), Verdict.ACCEPTED),
        Case("nobody reveals", read, Tick(REF, at(1150)), Verdict.ACCEPTED, given_up),
    ]


def proceed_cases() -> list[Case]:
    event = Proceed(REF, at(1060))
    late = Proceed(REF, at(STEP_DEADLINE))
    return [
        Case("enough is revealed", UNMASKING, event, Verdict.ACCEPTED, UNMASKED),
        Case("too late", UNMASKING, late, Verdict.LATE),
        *(
            Case("updates are missing", phase, event, Verdict.TOO_EARLY)
            for phase in (WAITING, SELECTING, REPORTING)
        ),
        *(
            Case("over", phase, event, Verdict.ENOUGH)
            for phase in NOT_COLLECTING
            if phase is not UNMASKING
        ),
    ]


def masked_cases() -> list[Case]:
    """Updates of a masked round, and the goal."""
    shared = replace(MASKED_REPORTING, exchange=SHARED, claims={"b": "m2"})
    last = replace(shared, reports=COUNTED_A, partials={"m1": "p1"}, first_report_at=at(1020))
    stable = replace(MASKED, exchange=ExchangePlan(3, 0, 0, 0, 60))
    unmasking = Unmasking(
        REF,
        MASKED,
        at(OPENED),
        last.cohort,
        {**COUNTED_A, "b": Counted("m2", 2, at(1050))},
        {"m1": "p1", "m2": "p-new"},
        SHARED.await_readers(at(1050)),
    )
    return [
        Case("it has not read its shares", shared, claim("c"), Verdict.UNPREPARED),
        Case(
            "it has read its shares",
            shared,
            claim("a"),
            Verdict.ACCEPTED,
            replace(shared, claims={"b": "m2", "a": "m1"}),
        ),
        Case(
            "keys are enough where nothing is shared",
            replace(MASKED_REPORTING, plan=stable),
            claim("a"),
            Verdict.ACCEPTED,
            replace(MASKED_REPORTING, plan=stable, claims={"a": "m1"}),
        ),
        Case("the goal is met", last, report("b"), Verdict.ACCEPTED, unmasking),
        Case(
            "the goal is met, and no mask is left",
            replace(last, plan=stable),
            report("b"),
            Verdict.ACCEPTED,
            Aggregating,
        ),
    ]


def hybrid_cases() -> list[Case]:
    """A round whose mean is still to be formed, and for a worker."""
    given_up = given_up_at(1060, FOR_WORKER, Reason.JOB_DISABLED)
    restarted = given_up_at(1060, FOR_WORKER, Reason.JOB_RESTARTED)
    return [
        Case(
            "no worker is waited for",
            FOR_WORKER,
            Disable(at(1060)),
            Verdict.ACCEPTED,
            Round(given_up, is_disabled=True),
        ),
        Case(
            "no worker is waited for",
            FOR_WORKER,
            Restart("run-2", at(1060)),
            Verdict.ACCEPTED,
            Round(restarted, successor="run-2"),
        ),
    ]


CASES: list[Case] = [
    *hand_over_cases(),
    *push_cases(),
    *conclude_cases(),
    *hybrid_cases(),
    *tell_cases(),
    *reading_cases(),
    *proceed_cases(),
    *masked_cases(),
    *check_in_cases(),
    *claim_cases(),
    *release_cases(),
    *report_cases(),
    *member_lost_cases(),
    *tick_cases(),
    *abort_cases(),
    *take_lease_cases(),
    *publish_cases(),
    *model_served_cases(),
    *disable_cases(),
    *enable_cases(),
    *restart_cases(),
]


def test_the_mean_that_is_for_a_worker_is_not_published() -> None:
    before = Round(FOR_WORKER)

    result = step(before, Publish(REF, "m1"))

    assert result.verdict is Verdict.MOVED_ON
    assert result.round is before


def test_every_phase_meets_every_event() -> None:
    grid = {(phase, event) for phase in get_args(Phase) for event in get_args(Event)}

    covered = {(type(case.phase), type(case.event)) for case in CASES}

    assert covered == grid


def test_every_verdict_of_one_event_to_one_phase_is_tried() -> None:
    """What is answered before the phase is looked at has tests of its own."""
    seen = {case.verdict for case in CASES}

    assert set(Verdict) - seen == {Verdict.MOVED_ON, Verdict.FENCED, Verdict.JOB_DISABLED}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_phase_meets_an_event(case: Case) -> None:
    before = case.before if isinstance(case.before, Round) else Round(case.before)

    result = step(before, case.event)

    assert result.verdict is case.verdict
    if case.after is UNCHANGED:
        assert result.round is before
    elif isinstance(case.after, Round):
        assert result.round == case.after
        assert type(result.round.phase) is type(case.after.phase)
    elif isinstance(case.after, type):
        assert type(result.round.phase) is case.after
    else:
        assert type(result.round.phase) is type(case.after)
        assert result.round.phase == case.after


EVENTS: dict[type, Callable[[RoundRef, str], Event]] = {
    CheckIn: lambda ref, _: CheckIn(ref, "c", 1, 1, at(1050)),
    Claim: lambda ref, member: Claim(ref, member, "b", ref.number, at(1050)),
    Release: lambda ref, member: Release(ref, member, ("a", "b")),
    Report: lambda ref, member: Report(ref, member, ("b",), "p-new", at(1050)),
    MemberLost: lambda _, member: MemberLost(member, at(1050)),
    Tick: lambda ref, _: Tick(ref, at(10**9)),
    Abort: lambda ref, _: Abort(ref, Reason.JOB_DISABLED, at(1050)),
    TakeLease: lambda ref, member: TakeLease(ref, member, 300, at(10**9)),
    Publish: Publish,
    HandOver: lambda ref, member: HandOver(ref, member, "mean", at(1050)),
    Push: lambda ref, _: Push(ref, "pushed", is_fit=True, at=at(1050)),
    Conclude: lambda ref, _: Conclude(ref, at(1050)),
    ModelServed: lambda ref, _: ModelServed(ref),
    Tell: lambda ref, _: Tell(ref, Step.REVEALS, "b", b"", at(1050)),
    Proceed: lambda ref, _: Proceed(ref, at(1050)),
    Disable: lambda *_: Disable(at(1050)),
    Enable: lambda *_: Enable(),
    Restart: lambda *_: Restart("run-2", at(1050)),
}

NAMING_A_ROUND = [event for event in get_args(Event) if "ref" in event.__annotations__]
BY_A_MEMBER = [event for event in get_args(Event) if "member" in event.__annotations__]


def test_every_event_can_be_made() -> None:
    assert set(EVENTS) == set(get_args(Event))


@pytest.mark.parametrize("phase", SAMPLES, ids=lambda phase: type(phase).__name__)
@pytest.mark.parametrize("event", NAMING_A_ROUND, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("ref", OTHER_REFS, ids=str)
def test_an_event_for_another_round_is_refused_before_anything_else(
    phase: Phase, event: type, ref: RoundRef
) -> None:
    before = Round(phase, fenced=frozenset({"m1"}), served=False)

    result = step(before, EVENTS[event](ref, "m1"))

    assert result.verdict is Verdict.MOVED_ON
    assert result.round is before


@pytest.mark.parametrize("phase", SAMPLES, ids=lambda phase: type(phase).__name__)
@pytest.mark.parametrize("event", BY_A_MEMBER, ids=lambda kind: kind.__name__)
def test_a_member_that_was_declared_dead_changes_nothing_any_more(
    phase: Phase, event: type
) -> None:
    before = Round(phase, fenced=frozenset({"m1"}), served=False)

    result = step(before, EVENTS[event](REF, "m1"))

    assert result.verdict is (Verdict.ACCEPTED if event is MemberLost else Verdict.FENCED)
    assert result.round is before


def test_a_fenced_member_does_not_get_its_old_report_confirmed() -> None:
    before = Round(REPORTING, fenced=frozenset({"m1"}))

    result = step(before, report("a", member="m1", partial="p1"))

    assert result.verdict is Verdict.FENCED


@pytest.mark.parametrize("phase", SAMPLES, ids=lambda phase: type(phase).__name__)
def test_a_lost_member_is_remembered_beside_the_others(phase: Phase) -> None:
    before = Round(phase, fenced=frozenset({"m9"}), served=False)

    result = step(before, MemberLost("m1", at(1050)))

    assert result.round.fenced == {"m1", "m9"}
    assert result.round.served is False


@pytest.mark.parametrize("phase", SAMPLES, ids=lambda phase: type(phase).__name__)
def test_the_first_hand_out_of_the_model_is_noted(phase: Phase) -> None:
    before = Round(phase, served=False)

    result = step(before, ModelServed(REF))

    assert result == replace(result, round=Round(phase, served=True), verdict=Verdict.ACCEPTED)


@pytest.mark.parametrize("phase", SAMPLES, ids=lambda phase: type(phase).__name__)
def test_until_the_model_is_handed_out_the_round_before_has_enough(phase: Phase) -> None:
    before = Round(phase, served=False)

    result = step(before, claim("x", number=6, instant=10**9))

    assert result.verdict is Verdict.ENOUGH
    assert result.round is before


@pytest.mark.parametrize(
    ("number", "verdict"),
    [(5, Verdict.STALE_ROUND), (7, Verdict.ACCEPTED), (8, Verdict.STALE_ROUND)],
)
def test_other_numbers_are_judged_as_ever_before_the_model_is_handed_out(
    number: int, verdict: Verdict
) -> None:
    before = Round(SELECTING, served=False)

    assert step(before, claim("b", number=number)).verdict is verdict


@pytest.mark.parametrize("device", ["", " ", "a b", "{x}", "\n", "\udcff"])
def test_a_device_may_have_any_name(device: str) -> None:
    joined = step(Round(WAITING), check_in(device)).round
    claimed = step(joined, claim(device, "m1")).round
    counted = step(claimed, report(device, member="m1", instant=1051)).round

    assert isinstance(counted.phase, Selecting)
    assert counted.phase.reports == {device: Counted("m1", 1, at(1051))}


def test_positions_go_on_where_the_last_report_ended() -> None:
    plan = replace(PLAN, cohort_size=4, report_goal=4)
    phase = Reporting(
        REF,
        plan,
        at(OPENED),
        admitted("a", "b", "c", "d"),
        {"b": "m2", "c": "m2"},
        COUNTED_A,
        {"m1": "p1"},
        at(FIRST_REPORT),
    )

    after = step(Round(phase), report("c", "b")).round.phase

    assert isinstance(after, Reporting)
    assert {device: counted.position for device, counted in after.reports.items()} == {
        "a": 1,
        "c": 2,
        "b": 3,
    }
    assert after.first_report_at == FIRST_REPORT


@pytest.mark.parametrize("phase", SAMPLES, ids=lambda phase: type(phase).__name__)
def test_a_stopped_job_takes_no_device(phase: Phase) -> None:
    before = Round(phase, is_disabled=True)

    result = step(before, check_in("d", 10**9))

    assert result.verdict is Verdict.JOB_DISABLED
    assert result.round is before


@pytest.mark.parametrize("phase", [AGGREGATING, ABANDONING], ids=["aggregating", "abandoning"])
@pytest.mark.parametrize(("expected", "published"), [("", "run-2"), ("run-2", ""), ("a", "b")])
def test_an_outcome_that_does_not_know_what_comes_next_is_refused(
    phase: Phase, expected: str, published: str
) -> None:
    before = Round(phase, successor=expected)

    result = step(before, Publish(REF, "m1", published))

    assert result.verdict is Verdict.MOVED_ON
    assert result.round is before


def test_an_outcome_that_knows_the_next_run_is_accepted() -> None:
    result = step(Round(AGGREGATING, successor="run-2"), Publish(REF, "m1", "run-2"))

    assert result.verdict is Verdict.ACCEPTED
    assert result.round == Round(Committed(REF, 2), successor="run-2")


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("is_disabled", [False, True])
def test_a_new_run_begins_with_its_first_round(closes: bool, is_disabled: bool) -> None:
    finished = Round(
        COMMITTED, frozenset({"m1"}), served=False, is_disabled=is_disabled, successor="run-2"
    )

    opened = open_next(finished, PLAN, closes=closes)

    assert opened == Round(
        Waiting(RoundRef("run-2", 1), PLAN),
        frozenset({"m1"}),
        served=True,
        is_disabled=is_disabled,
    )


def test_a_stopped_job_stays_stopped_in_the_next_round() -> None:
    opened = open_next(Round(ABANDONED, is_disabled=True), PLAN, closes=False)

    assert opened == Round(Waiting(REF.next(), PLAN), served=False, is_disabled=True)


@pytest.mark.parametrize("finished", [COMMITTED, ABANDONED], ids=["committed", "abandoned"])
def test_the_next_round_waits_for_devices_and_remembers_the_dead(finished: Phase) -> None:
    before = Round(finished, fenced=frozenset({"m1"}), served=True)

    opened = open_next(before, PLAN, closes=False)

    assert opened == Round(Waiting(REF.next(), PLAN), frozenset({"m1"}), served=False)


def test_after_the_last_round_the_job_is_closed() -> None:
    opened = open_next(Round(COMMITTED), PLAN, closes=True)

    assert opened == Round(Closed(REF.next(), PLAN), served=False)


@pytest.mark.parametrize(
    "phase",
    [phase for phase in SAMPLES if phase not in (COMMITTED, ABANDONED)],
    ids=lambda phase: type(phase).__name__,
)
def test_only_a_finished_round_has_a_next(phase: Phase) -> None:
    with pytest.raises(AssertionError):
        open_next(Round(phase), PLAN, closes=False)


def test_an_event_that_does_not_exist_is_a_bug() -> None:
    class Earthquake:
        ref = REF

    with pytest.raises(AssertionError):
        step(Round(WAITING), Earthquake())  # type: ignore[arg-type]


def test_aborting_a_phase_that_does_not_exist_is_a_bug() -> None:
    @dataclass(frozen=True)
    class Dreaming:
        ref: RoundRef

    with pytest.raises(AssertionError):
        step(Round(Dreaming(REF)), Abort(REF, Reason.JOB_DISABLED, at(1)))  # type: ignore[arg-type]


def test_a_committed_round_says_how_many_were_counted() -> None:
    published = step(Round(AGGREGATING), Publish(REF, "m1")).round.phase

    assert published == Committed(REF, 2)


def test_an_ending_round_keeps_what_its_summary_needs() -> None:
    for phase in (AGGREGATING, ABANDONING):
        assert isinstance(phase, Ending)
        assert set(phase.reports) <= set(phase.cohort)
