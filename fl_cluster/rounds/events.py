"""What can happen to a round, and the words that answer it.

A verdict has one spelling everywhere: the reply of the Lua script, the value here, the word
on the wire, the label of the metric, the field of the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import Millis


class Verdict(StrEnum):
    """The answer to one event."""

    ACCEPTED = "accepted"
    MOVED_ON = "moved_on"
    """The event names a round that is not the current one; look again and decide anew."""
    LATE = "late"
    """A window has closed; the round is over as soon as somebody ticks."""
    COHORT_FULL = "cohort_full"
    ALREADY_CHECKED_IN = "already_checked_in"
    ENOUGH = "enough"
    """The round takes no further update."""
    NOT_IN_COHORT = "not_in_cohort"
    STALE_ROUND = "stale_round"
    """The device speaks of another round than the current one."""
    DUPLICATE = "duplicate"
    PENDING = "pending"
    """Not decided yet: this device's update, or the last free place, is being committed."""
    TOO_EARLY = "too_early"
    """The step of a masked round that comes before is not complete."""
    UNPREPARED = "unprepared"
    """The device has not taken the step that comes before, or has no part in the round."""
    UNCLAIMED = "unclaimed"
    """The member reports an update that it does not hold a claim for."""
    NOT_AGGREGATED = "not_aggregated"
    """There is no aggregate that a worker could retrain: not yet, or never in this job."""
    FENCED = "fenced"
    """The member was declared dead and may not change anything any more."""
    NOTHING_TO_FINISH = "nothing_to_finish"
    LEASED = "leased"
    """Another member is finishing the round."""
    LEASE_LOST = "lease_lost"
    JOB_DISABLED = "job_disabled"
    """Somebody has disabled the job, and nobody has enabled it again."""
    JOB_FINISHED = "job_finished"
    """The job has run all its rounds."""
    ALREADY_DISABLED = "already_disabled"
    ALREADY_ENABLED = "already_enabled"


@dataclass(frozen=True, slots=True)
class CheckIn:
    """A device offers to take part."""

    ref: RoundRef
    device: str
    data_size: int
    eval_data_size: int
    at: Millis


@dataclass(frozen=True, slots=True)
class Claim:
    """A member has an update in hand that is fit to be added, and asks whether to."""

    ref: RoundRef
    member: str
    device: str
    number: int
    """The round that the device says its update is for."""
    at: Millis


@dataclass(frozen=True, slots=True)
class Release:
    """A member gives up claims whose updates it could not add."""

    ref: RoundRef
    member: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A member has stored a partial that holds these updates beside all it reported before."""

    ref: RoundRef
    member: str
    devices: tuple[str, ...]
    partial: str
    """Pointer to the stored partial; a repeat of the same event carries the same pointer."""
    at: Millis
    previous: str | None = None
    """Pointer that this partial goes on from, empty for none; None when it does not matter.
    A store that went back in time knows another one: what was added since is in this partial
    and counted nowhere."""


@dataclass(frozen=True, slots=True)
class Tell:
    """A device of a masked round takes a step."""

    ref: RoundRef
    step: Step
    device: str
    message: bytes
    at: Millis
    former: bytes | None = None
    """Keys that the device offered before and that these take the place of: whoever decides
    has seen them there, so that a call that is sent again does not undo what came after it."""


@dataclass(frozen=True, slots=True)
class Proceed:
    """A member has found that what was revealed so far takes all masks off."""

    ref: RoundRef
    at: Millis


@dataclass(frozen=True, slots=True)
class MemberLost:
    """A member was declared dead."""

    member: str
    at: Millis


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    ref: RoundRef
    at: Millis


@dataclass(frozen=True, slots=True)
class Abort:
    """The round is to end without a new model, for a reason other than time."""

    ref: RoundRef
    reason: Reason
    at: Millis


@dataclass(frozen=True, slots=True)
class TakeLease:
    """A member offers to finish the round."""

    ref: RoundRef
    member: str
    lease_ms: int
    at: Millis


@dataclass(frozen=True, slots=True)
class HandOver:
    """The member that merged a hybrid round's partials has stored the mean for the worker."""

    ref: RoundRef
    member: str
    aggregate: str
    """Pointer to the stored mean; the same whoever formed it."""
    at: Millis


@dataclass(frozen=True, slots=True)
class Push:
    """A worker hands in what it made of the aggregate, and a member has stored it."""

    ref: RoundRef
    model: str
    """Pointer to what is stored; a repeat with the same weights carries the same pointer."""
    is_fit: bool
    """Whether it can be a model: what holds NaN or infinity costs the round."""
    at: Millis


@dataclass(frozen=True, slots=True)
class Conclude:
    """A worker has said how good its model is: it is done with the round."""

    ref: RoundRef
    at: Millis


@dataclass(frozen=True, slots=True)
class Publish:
    """The member that finished the round makes the outcome visible."""

    ref: RoundRef
    member: str
    successor: str = ""
    """The instance whose first round it has prepared; empty for the next round of this one."""
    commits: bool | None = None
    """Whether it has a new model to show; None when the phase is not to be compared."""


@dataclass(frozen=True, slots=True)
class ModelServed:
    """A device was handed the model that the round before this one ended with."""

    ref: RoundRef


@dataclass(frozen=True, slots=True)
class Disable:
    """An operator stops the job until it is enabled again; the round under way is given up."""

    at: Millis


@dataclass(frozen=True, slots=True)
class Enable:
    """An operator lets a disabled job go on."""


@dataclass(frozen=True, slots=True)
class Restart:
    """An operator wants a new run, from round 1 and from the newest weights."""

    instance: str
    at: Millis


Event = (
    CheckIn
    | Claim
    | Release
    | Report
    | Tell
    | Proceed
    | MemberLost
    | Tick
    | Abort
    | TakeLease
    | HandOver
    | Push
    | Conclude
    | Publish
    | ModelServed
    | Disable
    | Enable
    | Restart
)
