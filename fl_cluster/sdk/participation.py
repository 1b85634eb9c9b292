"""One device's way through a job, as a pure machine: no clock, no I/O, no randomness.

    Offering -> Training -> Reporting -> Awaiting -> Offering -> ...
        |                       |           |
        +-----------------------+-----------+---> Closing -> Finished
        +-----------------------+-----------+---> Unreachable | Rejected

    Offering -> Preparing.. -> Training -> Reporting -> Revealing.. -> Awaiting      (masked)

The state is the to-do list: each names one thing to do (`Training` trains, the others ask a
server), and `step` says what the outcome of that leads to.
Invariants, each a property test:
- what was asked in vain is asked again only after a rest;
- a finished job ends every life; servers that stay silent end it when patience does;
- a report that got no answer is repeated, never made anew: the update stays the same bytes;
- a masked update is reported only after all steps before it, and none is taken again in a
  round: a device that lost its place makes new keys, and the cluster takes them in a new round.
Not here: how long a rest is (retry.py), what is sent and to whom (client.py, transport.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar, assert_never

NOTHING_HELD = -1
"""`held_round` of a device that holds no model."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a device puts up with."""

    patience_ms: int = 300_000
    """How long servers may fail to answer, or say that they cannot work, before it gives up."""
    trust_ms: int = 60_000
    """How long a device that reported believes `not_ready` before it makes sure that the
    round still knows it: a cluster whose store was lost begins the round again."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A pause before the next request: as long as the server asked for, or by back-off."""

    at_least_ms: int
    attempt: int
    """How often in a row the request was made in vain, from 1."""

    def __post_init__(self) -> None:
        assert self.at_least_ms >= 0, self
        assert self.attempt >= 1, self


@dataclass(frozen=True, slots=True)
class Standing:
    """What a device knows of the job whatever it is doing."""

    held_round: int = NOTHING_HELD
    """The round whose model the device holds; 0 is the initial model."""
    rounds_total: int = 0
    """0 until a server has said."""

    @property
    def holds_last(self) -> bool:
        """Whether there can be no newer model than the one held."""
        return 0 < self.rounds_total <= self.held_round


@dataclass(frozen=True, slots=True)
class Kept:
    """An update that was reported for a round that is not known to be over."""

    number: int
    trust_ms: int
    """How long to believe `not_ready` next time; doubles, since asking costs an upload."""
    is_masked: bool = False
    """Whether shares have to be revealed before the round can end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Common to the states that ask a server; never used by itself."""

    standing: Standing
    rest: Rest | None = None
    """How long to pause before asking; None: ask at once, for something new."""
    trouble_since_ms: int | None = None
    """When the servers began to fail, if the last answer was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offering(Asking):
    """Check in."""

    kept: Kept | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparing(Asking):
    """Agree with the other devices on masks for the round, one step after the other."""

    number: int
    since_ms: int
    """When the step before was taken, or last known to be."""
    is_doubting: bool = False
    """Whether to say first once more what was said last, to see whether the round knows it."""


@dataclass(frozen=True, slots=True)
class Training:
    """Train on the model of the round, and make the update."""

    standing: Standing
    number: int
    is_masked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporting(Asking):
    """Report the update that was made for this round."""

    kept: Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Revealing(Asking):
    """Give the shares that take the masks off the sum, one step after the other."""

    kept: Kept
    since_ms: int
    """When the step before was taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaiting(Asking):
    """Fetch the model that the round ends with."""

    kept: Kept
    since_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing(Asking):
    """The job is finished: fetch its last model."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The job is finished, and the device holds the newest model it could get."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No server has answered for longer than patience allows."""

    for_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A server refused for good what the device sent."""

    doing: str
    verdict: str
    reason: str


Question = Offering | Preparing | Reporting | Revealing | Awaiting | Closing
Over = Finished | Unreachable | Rejected
State = Question | Training | Over

_Asking = TypeVar("_Asking", bound=Asking)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The check-in was accepted; the device holds the round's model now."""

    number: int
    rounds_total: int
    held_round: int
    at_ms: int
    is_masked: bool = False


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step with the other devices of a masked round is taken."""

    is_last: bool
    """Whether it was the last one before the update, or the last one after it."""
    at_ms: int


@dataclass(frozen=True, slots=True)
class Objected:
    """What the others are said to have sent is not safe to go on with in this round."""

    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Trained:
    """The update is made."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The report was accepted: the update is in the round."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class ModelCame:
    """The asked-for model came; the device holds it now."""

    held_round: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class NotReady:
    """What was asked for does not exist yet: a model, or what other devices have to say first."""

    retry_after_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A server answered, with a verdict other than accepted."""

    verdict: str
    retry_after_ms: int | None
    """When to ask again; None: asking again is of no use."""
    reason: str
    at_ms: int
    rounds_total: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """No answer: connection refused or lost, time-out, or bytes that are no answer."""

    reason: str
    at_ms: int
    retry_after_ms: int | None = None


Event = Admitted | Stepped | Objected | Trained | Counted | ModelCame | NotReady | Refused | Fault

JOB_FINISHED = "job_finished"
UNAVAILABLE = "unavailable"
COHORT_FULL = "cohort_full"
"""Nothing is wrong: the device comes again in the server's rhythm, however often."""
ROUND_IS_OVER = frozenset({"stale_round", "not_in_cohort", "not_attested", "unprepared"})
"""Verdicts on a report after which only a new check-in helps."""
ROUND_HAS_ENOUGH = frozenset({"enough", "duplicate"})
"""Verdicts on a report after which the round's model comes without this update."""
NO_PLACE = ROUND_IS_OVER | ROUND_HAS_ENOUGH | {"invalid"}
"""Verdicts on a step of a masked round after which the round goes on without this device."""
SIT_OUT_MS = 5_000
"""When a device that objected looks whether another round has begun."""


def begin() -> Offering:
    """The state of a device that knows nothing yet."""
    return Offering(standing=Standing())


def step(state: State, event: Event, rules: Rules) -> State:
    """What the device does after this; AssertionError when the event cannot happen in it."""
    match state:
        case Training():
            if not isinstance(event, Trained):
                raise _impossible(state, event)
            kept = Kept(state.number, rules.trust_ms, state.is_masked)
            return Reporting(standing=state.standing, kept=kept)
        case Offering() | Preparing() | Reporting() | Revealing() | Awaiting() | Closing():
            match event:
                case Fault():
                    return _after_trouble(state, event, rules)
                case Refused() if event.verdict == UNAVAILABLE:
                    return _after_trouble(state, event, rules)
                case Refused():
                    return _after_refusal(state, event)
                case Stepped() | Objected():
                    return _after_step(state, event)
                case NotReady():
                    return _while_not_ready(state, event, rules)
                case _:
                    return _after_success(state, event)
        case Finished() | Unreachable() | Rejected():
            raise _impossible(state, event)
        case _:
            assert_never(state)


def _impossible(state: State, event: Event) -> AssertionError:
    return AssertionError(f"{event} cannot happen to a device in {state}")


def _after_success(state: Question, event: Admitted | Trained | Counted | ModelCame) -> State:
    match state, event:
        case Offering(), Admitted():
            standing = Standing(event.held_round, event.rounds_total)
            kept = state.kept
            same = kept is not None and kept.number == event.number
            if kept is not None and same and event.held_round == state.standing.held_round:
                return Reporting(standing=standing, kept=kept)
            if event.is_masked:
                return Preparing(standing=standing, number=event.number, since_ms=event.at_ms)
            return Training(standing, event.number)
        case Reporting(), Counted():
            following = Revealing if state.kept.is_masked else Awaiting
            return following(standing=state.standing, kept=state.kept, since_ms=event.at_ms)
        case Awaiting(), ModelCame():
            standing = replace(state.standing, held_round=event.held_round)
            over = state.kept.number >= standing.rounds_total > 0
            return Finished(standing) if over else Offering(standing=standing)
        case Closing(), ModelCame():
            return Finished(replace(state.standing, held_round=event.held_round))
        case _:
            raise _impossible(state, event)


def _after_step(state: Question, event: Stepped | Objected) -> State:
    match state, event:
        case Preparing(), Stepped():
            if event.is_last:
                return Training(state.standing, state.number, is_masked=True)
            return Preparing(standing=state.standing, number=state.number, since_ms=event.at_ms)
        case Preparing(), Objected():
            return Offering(standing=state.standing, rest=Rest(SIT_OUT_MS, 1))
        case Revealing(), Stepped() if not event.is_last:
            return replace(state, since_ms=event.at_ms, rest=None, trouble_since_ms=None)
        case Revealing(), _:
            return Awaiting(standing=state.standing, kept=state.kept, since_ms=event.at_ms)
        case _:
            raise _impossible(state, event)


def _while_not_ready(state: Question, event: NotReady, rules: Rules) -> State:
    """Ask again; but make sure at times that the cluster did not begin the round again without
    the device."""
    rest = Rest(event.retry_after_ms, 1)
    match state:
        case Revealing() | Awaiting():
            if event.at_ms - state.since_ms < state.kept.trust_ms:
                return replace(state, rest=rest, trouble_since_ms=None)
            kept = replace(state.kept, trust_ms=2 * state.kept.trust_ms)
            return Offering(standing=state.standing, rest=rest, kept=kept)
        case Preparing():
            is_doubting = event.at_ms - state.since_ms >= rules.trust_ms
            return replace(state, rest=rest, trouble_since_ms=None, is_doubting=is_doubting)
        case Closing():
            return _again(state, event.retry_after_ms)
        case _:
            raise _impossible(state, event)


def _after_refusal(state: Question, event: Refused) -> State:
    """The verdict decides; what it does not say, `retry_after_ms` does."""
    if event.verdict == JOB_FINISHED:
        standing = state.standing
        if event.rounds_total:
            standing = replace(standing, rounds_total=event.rounds_total)
        if standing.holds_last or isinstance(state, Closing):
            return Finished(standing)
        return Closing(standing=standing)
    if isinstance(state, Reporting) and event.verdict in ROUND_HAS_ENOUGH:
        return Awaiting(standing=state.standing, kept=state.kept, since_ms=event.at_ms)
    if isinstance(state, Reporting | Awaiting) and event.verdict in ROUND_IS_OVER:
        return Offering(standing=state.standing, rest=Rest(event.retry_after_ms or 0, 1))
    if event.retry_after_ms is not None and event.verdict in NO_PLACE:
        if isinstance(state, Preparing):
            return Offering(standing=state.standing, rest=Rest(event.retry_after_ms, 1))
        if isinstance(state, Revealing):
            return Awaiting(standing=state.standing, kept=state.kept, since_ms=event.at_ms)
    if event.retry_after_ms is None:
        return Rejected(_doing(state), event.verdict, event.reason)
    if event.verdict == COHORT_FULL:
        return replace(state, rest=Rest(event.retry_after_ms, 1), trouble_since_ms=None)
    return _again(state, event.retry_after_ms)


def _after_trouble(state: Question, event: Fault | Refused, rules: Rules) -> State:
    since_ms = event.at_ms if state.trouble_since_ms is None else state.trouble_since_ms
    if event.at_ms - since_ms >= rules.patience_ms:
        return Unreachable(event.at_ms - since_ms, event.reason)
    return replace(_again(state, event.retry_after_ms or 0), trouble_since_ms=since_ms)


def _again(state: _Asking, at_least_ms: int) -> _Asking:
    """The same request, after a rest."""
    attempt = 1 if state.rest is None else state.rest.attempt + 1
    return replace(state, rest=Rest(at_least_ms, attempt), trouble_since_ms=None)


def _doing(state: Question) -> str:
    """What the device was about to get done, for a message."""
    match state:
        case Offering():
            return "check in"
        case Preparing():
            return f"agree on masks for round {state.number}"
        case Reporting():
            return f"report for round {state.kept.number}"
        case Revealing():
            return f"reveal shares for round {state.kept.number}"
        case Awaiting():
            return f"fetch the model of round {state.kept.number}"
        case Closing():
            return "fetch the last model"
        case _:
            assert_never(state)
