"""The stores' ports over plain objects: the executable specification of the Redis adapters.

The round is exactly what `rounds.step` makes of it.  Nothing here survives the process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

from fl_cluster.errors import StoreCorrupt
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
from fl_cluster.rounds.exchange import COMPLETED, Exchange, Step
from fl_cluster.rounds.machine import Round, open_next, step
from fl_cluster.rounds.phases import (
    Abandoning,
    Aggregating,
    Closed,
    Collecting,
    Concluding,
    Ending,
    Reason,
    Reporting,
    Retraining,
    RoundRef,
    Selecting,
    Unmasking,
    Waiting,
)
from fl_cluster.rounds.plan import Millis, RoundPlan
from fl_cluster.store.ports import (
    KEPT_MODELS,
    Buffer,
    ClaimAnswer,
    ClaimRequest,
    Counts,
    JobRecord,
    Metrics,
    ModelRecord,
    Offer,
    Outcome,
    Pushed,
    Receipt,
    ReportBatch,
    ReportedUpdate,
    ReportOutcome,
    Snapshot,
    UpdateRecord,
    WorkerShare,
)

PHASE_WORDS: Mapping[type, str] = {
    Waiting: "waiting",
    Selecting: "selecting",
    Reporting: "reporting",
    Unmasking: "unmasking",
    Aggregating: "aggregating",
    Retraining: "retraining",
    Concluding: "concluding",
    Abandoning: "abandoning",
    Closed: "closed",
}


ESCAPED = "surrogateescape"
"""How ids keep bytes that are not UTF-8."""

Known = Collecting | Unmasking | Retraining | Ending
"""The phases of a round that somebody has checked in to."""


class MemoryJobStore:
    """`JobStore` in one process."""

    def __init__(self) -> None:
        self.record: JobRecord | None = None
        self.next: JobRecord | None = None
        self._nominee = 0
        self.rounds: MemoryRoundStore | None = None
        self.kept: dict[int, ModelRecord] = {}
        self._clock: Callable[[], int] = lambda: 0

    def use_clock(self, clock: Callable[[], int]) -> None:
        """Take instants from `clock` (milliseconds) where the caller gives none."""
        self._clock = clock

    async def open(
        self,
        job: JobRecord,
        first: RoundRef,
        plan: RoundPlan,
        model: ModelRecord,
        *,
        is_disabled: bool = False,
    ) -> bool:
        is_same_run = self.record is not None and self.record.instance == job.instance
        if self.rounds is not None and not (is_same_run and self.rounds.number < first.number):
            return False
        self.record = job
        self.kept = {**(self.kept if is_same_run else {}), model.number: model}
        is_over = first.number > job.rounds_total
        opened = Round(
            Closed(first, plan) if is_over else Waiting(first, plan), is_disabled=is_disabled
        )
        self.rounds = MemoryRoundStore(self, opened, plan, self._clock)
        return True

    async def job(self) -> JobRecord | None:
        return self.record

    async def successor(self) -> JobRecord | None:
        return self.next

    async def nominate(self, number: int) -> int:
        self._nominee = max(self._nominee, number)
        return self._nominee

    async def models(self) -> Mapping[int, ModelRecord]:
        return dict(self.kept)


class MemoryRoundStore:
    """`RoundStore` in one process: `step`, and what it says."""

    def __init__(
        self, jobs: MemoryJobStore, opened: Round, plan: RoundPlan, clock: Callable[[], int]
    ) -> None:
        self._jobs = jobs
        self._plan = plan
        self._clock = clock
        self._round = opened
        self._share: WorkerShare | None = None
        self._last_metrics: Metrics | None = None
        self._failures = 0
        self._last_outcome = ""
        self._last_reason: Reason | None = None
        self._last_ended_at: Millis | None = None
        self._answered: set[tuple[RoundRef, str]] = set()
        self._finished: dict[RoundRef, Ending] = {}
        self._updates: dict[RoundRef, dict[str, UpdateRecord]] = {}
        self._visits: dict[RoundRef, dict[str, int]] = {}
        self._exchanges: dict[RoundRef, Exchange] = {}
        """Of rounds that are not collecting or unmasking any more, too."""
        self._evaluations: dict[str, list[bytes]] = {}

    @property
    def number(self) -> int:
        """The current round's."""
        return self._round.phase.ref.number

    async def snapshot(self) -> Snapshot | None:
        phase = self._round.phase
        collecting = phase if isinstance(phase, Collecting) else None
        ending = phase if isinstance(phase, Ending) else None
        lease = ending.lease if ending else None
        waiting = phase if isinstance(phase, Collecting | Unmasking) else None
        deadline = min(d for d, _ in waiting.deadlines()) if waiting else None
        return Snapshot(
            ref=phase.ref,
            phase=PHASE_WORDS[type(phase)],
            plan=self._plan,
            opened_at=phase.opened_at if isinstance(phase, Known) else None,
            deadline=phase.deadline if isinstance(phase, Retraining) else deadline,
            ended_at=ending.since if ending else None,
            reason=phase.reason if isinstance(phase, Abandoning) else None,
            lease_member=lease.member if lease else None,
            lease_until=lease.until if lease else None,
            served=self._round.served,
            failures_in_a_row=self._failures,
            is_disabled=self._round.is_disabled,
            successor=self._round.successor,
            first_report_at=collecting.first_report_at if collecting else None,
            last_outcome=self._last_outcome,
            last_reason=self._last_reason,
            last_ended_at=self._last_ended_at,
            share=self._share,
            last_metrics=self._last_metrics,
            complete=self._complete(),
        )

    async def load(self) -> Round:
        return self._round

    async def check_in(
        self, ref: RoundRef, offers: Sequence[Offer], at: Millis | None = None
    ) -> Sequence[Verdict]:
        return [
            self._step(CheckIn(ref, o.device, o.data_size, o.eval_data_size, self._at(at)))
            for o in offers
        ]

    async def claim(
        self,
        ref: RoundRef,
        member: str,
        requests: Sequence[ClaimRequest],
        at: Millis | None = None,
    ) -> Sequence[ClaimAnswer]:
        return [self._claim(Claim(ref, member, r.device, r.number, self._at(at))) for r in requests]

    async def release(self, ref: RoundRef, member: str, devices: Sequence[str]) -> Verdict:
        return self._step(Release(ref, member, tuple(devices)))

    async def report(
        self, ref: RoundRef, member: str, batch: ReportBatch, at: Millis | None = None
    ) -> ReportOutcome:
        devices = tuple(update.device for update in batch.updates)
        verdict = self._step(
            Report(ref, member, devices, batch.partial, self._at(at), batch.previous)
        )
        phase = self._round.phase
        if verdict is not Verdict.ACCEPTED or not isinstance(phase, Known):
            return ReportOutcome(verdict, ())
        kept = self._updates.setdefault(ref, {})
        if not all(update.device in kept for update in batch.updates):
            self._keep_evaluations(ref.instance, batch)
        kept.update({update.device: update for update in batch.updates})
        return ReportOutcome(verdict, tuple(phase.reports[device].position for device in devices))

    async def tell(
        self, ref: RoundRef, step: Step, device: str, message: bytes, at: Millis | None = None
    ) -> Verdict:
        return self._tell(Tell(ref, step, device, message, self._at(at)))

    async def replace_keys(
        self, ref: RoundRef, device: str, message: bytes, former: bytes, at: Millis | None = None
    ) -> Verdict:
        return self._tell(Tell(ref, Step.KEYS, device, message, self._at(at), former))

    def _tell(self, event: Tell) -> Verdict:
        verdict = self._step(event)
        if verdict is Verdict.ACCEPTED:
            so_far = self._exchanges.get(event.ref, Exchange())
            told = so_far.add(event.step, event.device, event.message, event.at)
            self._exchanges[event.ref] = told
        return verdict

    async def told(self, ref: RoundRef, step: Step) -> Mapping[str, bytes]:
        found = self._told(ref, step)
        return dict(sorted(found.items(), key=lambda pair: pair[0].encode(errors=ESCAPED)))

    async def message(self, ref: RoundRef, step: Step, device: str) -> bytes | None:
        return self._told(ref, step).get(device)

    async def takers(self, ref: RoundRef, step: Step) -> int:
        return len(self._told(ref, step))

    def _told(self, ref: RoundRef, step: Step) -> Mapping[str, bytes]:
        return self._exchanges.get(ref, Exchange()).told.get(step, {})

    async def proceed(self, ref: RoundRef, at: Millis | None = None) -> Verdict:
        return self._step(Proceed(ref, self._at(at)))

    async def tick(self, ref: RoundRef, at: Millis | None = None) -> Verdict:
        return self._step(Tick(ref, self._at(at)))

    async def abort(self, ref: RoundRef, reason: Reason, at: Millis | None = None) -> Verdict:
        return self._step(Abort(ref, reason, self._at(at)))

    async def take_lease(
        self, ref: RoundRef, member: str, lease_ms: int, at: Millis | None = None
    ) -> Verdict:
        return self._step(TakeLease(ref, member, lease_ms, self._at(at)))

    async def hand_over(
        self, ref: RoundRef, member: str, aggregate: ModelRecord, at: Millis | None = None
    ) -> Verdict:
        before = self._round
        verdict = self._step(HandOver(ref, member, aggregate.blob, self._at(at)))
        phase = self._round.phase
        if self._round is not before and isinstance(phase, Retraining):
            self._share = WorkerShare(phase.since, aggregate)
        return verdict

    async def push(self, ref: RoundRef, pushed: Pushed, at: Millis | None = None) -> Verdict:
        before = self._round
        verdict = self._step(Push(ref, pushed.model.blob, pushed.is_fit, self._at(at)))
        if self._round is not before and self._share is not None:
            self._share = replace(self._share, pushed=pushed)
        return verdict

    async def conclude(self, ref: RoundRef, metrics: Metrics, at: Millis | None = None) -> Verdict:
        before = self._round
        verdict = self._step(Conclude(ref, self._at(at)))
        if self._round is not before and self._share is not None:
            self._share = replace(self._share, metrics=metrics)
        return verdict

    async def publish(self, ref: RoundRef, member: str, outcome: Outcome) -> Verdict:
        ending = self._round.phase
        successor = outcome.successor
        name = successor.instance if successor else ""
        verdict = self._step(Publish(ref, member, name, outcome.commits))
        if verdict is not Verdict.ACCEPTED:
            return verdict
        assert isinstance(ending, Ending)
        self._finished[ref] = ending
        self._failures = outcome.failures_in_a_row
        self._last_metrics = self._share.metrics if self._share else None
        self._share = None
        self._last_outcome = "abandoned" if isinstance(ending, Abandoning) else "committed"
        self._last_reason = ending.reason if isinstance(ending, Abandoning) else None
        self._last_ended_at = ending.since
        self._jobs.kept[ref.number] = outcome.model
        self._jobs.kept.pop(ref.number - KEPT_MODELS, None)
        if successor is not None:
            self._plan, self._last_outcome, self._last_reason = successor.plan, "", None
            self._jobs.record, self._jobs.next = self._jobs.next, None
            self._jobs.kept = {0: successor.model}
        self._round = open_next(self._round, self._plan, closes=outcome.finishes_job)
        return verdict

    async def model_served(self, ref: RoundRef) -> Verdict:
        return self._step(ModelServed(ref))

    async def member_lost(self, member: str, at: Millis | None = None) -> Verdict:
        return self._step(MemberLost(member, self._at(at)))

    async def disable(self, at: Millis | None = None) -> Verdict:
        return self._step(Disable(self._at(at)))

    async def enable(self) -> Verdict:
        return self._step(Enable())

    async def restart(self, job: JobRecord, at: Millis | None = None) -> Verdict:
        self._jobs.next = job
        return self._step(Restart(job.instance, self._at(at)))

    async def counts(self, ref: RoundRef) -> Counts:
        known = self._known(ref)
        if known is None:
            return Counts(0, 0, 0)
        claims = len(known.claims) if isinstance(known, Collecting) else 0
        return Counts(len(known.cohort), claims, len(known.reports))

    async def note_answered(self, ref: RoundRef, answers: Sequence[str]) -> None:
        self._answered.update((ref, answer) for answer in answers)

    async def was_answered(self, ref: RoundRef, answer: str) -> bool:
        return (ref, answer) in self._answered

    async def partials(self, ref: RoundRef) -> Mapping[str, str]:
        known = self._known(ref)
        return dict(sorted(known.partials.items())) if known else {}

    async def reported(self, ref: RoundRef) -> Sequence[ReportedUpdate]:
        known = self._known(ref)
        if known is None:
            return []
        found = []
        for device, counted in sorted(known.reports.items()):
            update, admission = self._updates[ref][device], known.cohort[device]
            found.append(
                ReportedUpdate(
                    device=device,
                    member=counted.member,
                    position=counted.position,
                    at=counted.at,
                    digest=update.digest,
                    loss=update.loss,
                    accuracy=update.accuracy,
                    data_size=admission.data_size,
                    eval_data_size=admission.eval_data_size,
                    checked_in_at=admission.at,
                )
            )
        return found

    async def evaluations(self, instance: str) -> Sequence[bytes]:
        return list(self._evaluations.get(instance, ()))

    async def receipt(self, ref: RoundRef, device: str) -> Receipt | None:
        known = self._known(ref)
        if known is None or device not in known.reports:
            return None
        digest = self._updates[ref][device].digest
        return Receipt(ref.number, digest, known.reports[device].position)

    async def count_visits(self, ref: RoundRef, counts: Mapping[str, int]) -> None:
        visits = self._visits.setdefault(ref, {})
        for name, count in counts.items():
            visits[name] = visits.get(name, 0) + count

    async def visits(self, ref: RoundRef) -> Mapping[str, int]:
        return dict(self._visits.get(ref, {}))

    def _keep_evaluations(self, instance: str, batch: ReportBatch) -> None:
        """The batch is new: the same report again finds all its devices counted."""
        newest = self._evaluations.setdefault(instance, [])
        for update in batch.updates:
            if update.evaluation is not None:
                newest.insert(0, update.evaluation.vector)
                del newest[update.evaluation.kept :]

    def _claim(self, event: Claim) -> ClaimAnswer:
        verdict = self._step(event)
        phase = self._round.phase
        if verdict is not Verdict.ACCEPTED or not isinstance(phase, Collecting):
            return ClaimAnswer(verdict)
        return ClaimAnswer(verdict, phase.cohort[event.device].data_size)

    def _at(self, at: Millis | None) -> Millis:
        return Millis(self._clock()) if at is None else at

    def _step(self, event: Event) -> Verdict:
        result = step(self._round, event)
        self._round = result.round
        return result.verdict

    def _complete(self) -> frozenset[Step]:
        ref = self._round.phase.ref
        plan, so_far = self._plan.exchange, self._exchanges.get(ref, Exchange())
        if plan is None:
            return frozenset()
        return frozenset(
            step for step in COMPLETED if step in so_far.told and so_far.is_complete(plan, step)
        )

    def _known(self, ref: RoundRef) -> Known | None:
        if ref in self._finished:
            return self._finished[ref]
        phase = self._round.phase
        return phase if phase.ref == ref and isinstance(phase, Known) else None


class MemoryBlobStore:
    """`BlobStore` in one process."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    async def put(self, name: str, data: Buffer, lifetime_ms: int | None) -> None:
        assert lifetime_ms is None or lifetime_ms > 0
        copy = bytes(data)
        known = self._blobs.setdefault(name, copy)
        assert known == copy, f"blob {name} is written twice, with other bytes"

    async def get(self, name: str, into: memoryview) -> None:
        target = into.cast("B")
        found = self._blobs.get(name)
        if found is None or len(found) != len(target):
            state = "missing" if found is None else f"{len(found)} bytes long"
            raise StoreCorrupt(f"blob {name} is {state}; expected {len(target)} bytes")
        target[:] = found

    async def has(self, name: str) -> bool:
        return name in self._blobs

    async def drop(self, names: Sequence[str]) -> None:
        for name in names:
            self._blobs.pop(name, None)


class MemoryEvents:
    """`Events` without any: members learn everything by looking."""

    async def listen(self) -> AsyncIterator[str]:
        yield "subscribed"
