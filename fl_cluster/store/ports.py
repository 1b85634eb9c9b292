"""What the cluster needs from the place that keeps its shared state.

Two stores have these ports: `store.memory`, which calls the pure round machine and is the
executable specification, and `store.redis`, whose scripts do the same atomically for many
members.  One contract suite holds both to it.

Every method may raise `StoreUnavailable` (nothing is known about the outcome; asking again
with the same arguments is safe) and `StoreCorrupt`.  Instants are the store's own clock
unless a test passes one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.machine import Round
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import Millis, RoundPlan

Buffer = bytes | bytearray | memoryview

KEPT_MODELS = 3
"""How many models a job keeps: the newest ones."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A device that wants to check in, and what it declares."""

    device: str
    data_size: int
    eval_data_size: int


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A device whose update is in hand, and the round it says the update is for."""

    device: str
    number: int


@dataclass(frozen=True, slots=True)
class ClaimAnswer:
    """The verdict on a claim and, when accepted, the data size that the device declared."""

    verdict: Verdict
    data_size: int = 0


@dataclass(frozen=True, slots=True)
class EvaluationData:
    """A vector that a device evaluated, to be scored with the newest others of the run."""

    vector: bytes
    """Float32, little-endian."""
    kept: int
    """How many vectors the run keeps: the newest ones."""


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """What is kept of one counted update beside its share of the sum."""

    device: str
    digest: str
    """SHA-256 of the request body, hex."""
    loss: float
    accuracy: float
    evaluation: EvaluationData | None = None


@dataclass(frozen=True, slots=True)
class ReportBatch:
    """Updates that one stored partial newly holds."""

    updates: Sequence[UpdateRecord]
    partial: str
    """Pointer to the partial; unique for every commit."""
    previous: str | None = None
    """Pointer to the partial it goes on from, empty for none; None when it is not compared."""


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """The verdict on a batch and, when accepted, each update's position from 1."""

    verdict: Verdict
    positions: Sequence[int]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that an update was counted."""

    round_number: int
    digest: str
    position: int


@dataclass(frozen=True, slots=True)
class ReportedUpdate:
    """One counted update as the round's summary needs it."""

    device: str
    member: str
    position: int
    at: Millis
    digest: str
    loss: float
    accuracy: float
    data_size: int
    eval_data_size: int
    checked_in_at: Millis


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Where a model is and how the next round's sums are scaled."""

    number: int
    """The round that ended with this model; 0 for the initial one."""
    blob: str
    byte_count: int
    digest: str
    """SHA-256 of the model's bytes, hex."""
    exponents: Sequence[int]
    """Per aggregated tensor, the scale exponent of sums that start from this model."""
    left_out: Sequence[str] = ()
    """Aggregated tensors that nobody uploaded in that round."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a worker made of the aggregate."""

    model: ModelRecord
    is_fit: bool = True
    """Whether it can be a model; what holds NaN or infinity is not stored anywhere."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """How good a worker finds its model; single precision, whatever it sent."""

    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class WorkerShare:
    """What there is between a hybrid round and its worker, once the mean was handed over."""

    since: Millis
    aggregate: ModelRecord
    pushed: Pushed | None = None
    metrics: Metrics | None = None
    """What ended the worker's part; None before."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The current round as a member caches it: enough to answer with, not to decide with."""

    ref: RoundRef
    phase: str
    """waiting | selecting | reporting | unmasking | aggregating | retraining | concluding |
    abandoning | closed."""
    plan: RoundPlan
    opened_at: Millis | None
    deadline: Millis | None
    """The earliest instant at which time ends the round; None when none is set."""
    ended_at: Millis | None
    """When there was nothing left to wait for, or the round was given up; None before."""
    reason: Reason | None
    lease_member: str | None
    lease_until: Millis | None
    served: bool
    failures_in_a_row: int
    """How many rounds before this one were abandoned one after the other, since last told."""
    is_disabled: bool
    successor: str
    """The instance that begins when this round is over; empty when this one goes on."""
    first_report_at: Millis | None
    """When the first update was counted, while devices may still report."""
    last_outcome: str
    """committed | abandoned: how the round before ended; empty when there was none."""
    last_reason: Reason | None
    """Why the round before was abandoned, if it was."""
    last_ended_at: Millis | None
    """`ended_at` of the round before, of another run too; None when there was none."""
    share: WorkerShare | None = None
    """None before a hybrid round's mean was handed over, and in any other round."""
    last_metrics: Metrics | None = None
    """What a worker said of the round before, if it did."""
    complete: frozenset[Step] = frozenset()
    """The steps of a masked round that wait for nobody any more."""

    @property
    def is_collecting(self) -> bool:
        """Whether devices may check in or report."""
        return self.phase in ("waiting", "selecting", "reporting")

    @property
    def needs_finishing(self) -> bool:
        """Whether some member has to aggregate or record this round."""
        return self.phase in ("aggregating", "concluding", "abandoning")

    @property
    def is_unmasking(self) -> bool:
        """Whether devices are to take the masks off the sum."""
        return self.phase == "unmasking"

    @property
    def is_retraining(self) -> bool:
        """Whether a worker has the mean and time to hand in what it makes of it."""
        return self.phase == "retraining"

    @property
    def is_closed(self) -> bool:
        """Whether the job has run all its rounds."""
        return self.phase == "closed"

    @property
    def job_state(self) -> str:
        """running | disabled | finished."""
        if self.is_closed:
            return "finished"
        return "disabled" if self.is_disabled else "running"


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One training run as all members share it."""

    instance: str
    rounds_total: int
    hyper_parameters: str
    """JSON object under the names of the management plane."""
    layout: str
    """JSON list of tensors: name, shape, whether aggregated."""


@dataclass(frozen=True, slots=True)
class Successor:
    """The first round of a new instance, and the model it starts from, as number 0."""

    instance: str
    plan: RoundPlan
    model: ModelRecord


@dataclass(frozen=True, slots=True)
class Counts:
    """How full the current round is."""

    cohort: int
    claims: int
    reports: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a finished round becomes visible."""

    model: ModelRecord
    finishes_job: bool
    failures_in_a_row: int = 0
    """What the next round shall know of how many rounds have failed."""
    successor: Successor | None = None
    """What begins instead of the next round."""
    commits: bool | None = None
    """Whether `model` is new; None when the round's phase is not compared with it."""


class RoundStore(Protocol):
    """The current round.  Each method is atomic, whoever calls it at the same time."""

    async def snapshot(self) -> Snapshot | None:
        """The current round; None when the store has no job."""

    async def load(self) -> Round:
        """The current round in full, as the machine has it."""

    async def check_in(
        self, ref: RoundRef, offers: Sequence[Offer], at: Millis | None = None
    ) -> Sequence[Verdict]:
        """One verdict per offer."""

    async def claim(
        self,
        ref: RoundRef,
        member: str,
        requests: Sequence[ClaimRequest],
        at: Millis | None = None,
    ) -> Sequence[ClaimAnswer]:
        """One answer per request; an accepted one must end in `report` or `release`."""

    async def release(self, ref: RoundRef, member: str, devices: Sequence[str]) -> Verdict:
        """Give up claims of this member."""

    async def report(
        self, ref: RoundRef, member: str, batch: ReportBatch, at: Millis | None = None
    ) -> ReportOutcome:
        """Count a batch of claimed updates; all of it or nothing."""

    async def tick(self, ref: RoundRef, at: Millis | None = None) -> Verdict:
        """Let time do what it does."""

    async def abort(self, ref: RoundRef, reason: Reason, at: Millis | None = None) -> Verdict:
        """End the round without a new model."""

    async def take_lease(
        self, ref: RoundRef, member: str, lease_ms: int, at: Millis | None = None
    ) -> Verdict:
        """Take over finishing the round."""

    async def hand_over(
        self, ref: RoundRef, member: str, aggregate: ModelRecord, at: Millis | None = None
    ) -> Verdict:
        """Let the worker have the mean of a hybrid round; it is stored already."""

    async def push(self, ref: RoundRef, pushed: Pushed, at: Millis | None = None) -> Verdict:
        """Take what a worker made of the mean, the first time; it is stored already."""

    async def conclude(self, ref: RoundRef, metrics: Metrics, at: Millis | None = None) -> Verdict:
        """The worker is done with the round; of several the first metrics stay."""

    async def publish(self, ref: RoundRef, member: str, outcome: Outcome) -> Verdict:
        """Make the outcome visible and open the next round."""

    async def model_served(self, ref: RoundRef) -> Verdict:
        """Note that a device has been handed the model this round starts from."""

    async def member_lost(self, member: str, at: Millis | None = None) -> Verdict:
        """Fence a member and free its claims and its lease."""

    async def disable(self, at: Millis | None = None) -> Verdict:
        """Stop the job; a round that still collects is given up."""

    async def enable(self) -> Verdict:
        """Let a disabled job go on."""

    async def restart(self, job: JobRecord, at: Millis | None = None) -> Verdict:
        """Begin the run `job` as soon as the current round is over; it is given up if it can be."""

    async def counts(self, ref: RoundRef) -> Counts:
        """How many devices are in the round, being folded, and counted."""

    async def note_answered(self, ref: RoundRef, answers: Sequence[str]) -> None:
        """Note that these answers have reached their devices; an answer is any text."""

    async def was_answered(self, ref: RoundRef, answer: str) -> bool:
        """Whether the answer has reached its device, as far as is known."""

    async def partials(self, ref: RoundRef) -> Mapping[str, str]:
        """Member -> pointer to its stored partial, in a fixed order."""

    async def reported(self, ref: RoundRef) -> Sequence[ReportedUpdate]:
        """Every counted update of the round, ordered by device."""

    async def evaluations(self, instance: str) -> Sequence[bytes]:
        """The vectors of the newest updates of a run that had one, the newest first."""

    async def receipt(self, ref: RoundRef, device: str) -> Receipt | None:
        """The receipt of this device's counted update; None when it has none."""

    async def count_visits(self, ref: RoundRef, counts: Mapping[str, int]) -> None:
        """Add to the round's counters of requests by kind and outcome."""

    async def visits(self, ref: RoundRef) -> Mapping[str, int]:
        """The round's counters so far."""


class JobStore(Protocol):
    """The job's records: one run at a time, and its newest models."""

    async def open(
        self,
        job: JobRecord,
        first: RoundRef,
        plan: RoundPlan,
        model: ModelRecord,
        *,
        is_disabled: bool = False,
    ) -> bool:
        """Create the job's records; False when they exist already and nothing was changed.

        Those of an earlier round of the same run are replaced: the store went back in time.
        A first round beyond the last one leaves the job closed.
        """

    async def job(self) -> JobRecord | None:
        """The current run; None when there is none."""

    async def successor(self) -> JobRecord | None:
        """The run that begins when the current round is over; None when none is to."""

    async def nominate(self, number: int) -> int:
        """Say that a lost job can be built again up to this round; the highest anyone has said.

        Forgotten after a few seconds: who said it may be gone.
        """

    async def models(self) -> Mapping[int, ModelRecord]:
        """Round number -> model, the newest KEPT_MODELS."""


class BlobStore(Protocol):
    """Large immutable byte strings under names that are never used twice."""

    async def put(self, name: str, data: Buffer, lifetime_ms: int | None) -> None:
        """Store `data`; for ever when no lifetime is given."""

    async def get(self, name: str, into: memoryview) -> None:
        """Fill `into` with the blob; StoreCorrupt when it is missing or of another size."""

    async def has(self, name: str) -> bool:
        """Whether the blob is there."""

    async def drop(self, names: Sequence[str]) -> None:
        """Forget blobs; names that do not exist are passed over."""


class Events(Protocol):
    """Words about changes of the job.  Hearing one is never needed to be right, only quick."""

    def listen(self) -> AsyncIterator[str]:
        """Words from now on, the first of them `subscribed`; a fault when the link breaks."""
