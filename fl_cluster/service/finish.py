"""Finishing a round: merge, divide, record, publish.  Any member may; one at a time does.

Of a hybrid round the mean is handed over to the worker, and what that makes of it is recorded
and published once it has concluded.

Nothing here is owed to a message that could be lost: a round that needs finishing says so
in the store, and whoever sees it takes the lease.  Partials are immutable and publishing is
fenced, so a second member that takes over from a dead one repeats the work harmlessly and
comes to the same bits.

Order: record (metrics line, checkpoint), then publish.  No device ever sees a model whose
checkpoint is missing.  A member records an end once, however often it has to try to publish it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from fl_cluster.aggregate.layout import Layout
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Partial, Pointer, Scaling
from fl_cluster.aggregate.scale import exponents
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import FlClusterError, StoreCorrupt, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import Millis
from fl_cluster.service.collect import Collector
from fl_cluster.service.ledger import PARTIAL_LIFETIME_MS
from fl_cluster.service.methods import plan_of, rule_of
from fl_cluster.service.noising import NoiseDesk, may_go_on
from fl_cluster.service.spending import Spent
from fl_cluster.service.unmasking import StaysMasked, Unmasker
from fl_cluster.service.view import JobView, StoredModel, Stores
from fl_cluster.service.visits import Visits
from fl_cluster.store.ports import (
    KEPT_MODELS,
    JobRecord,
    Metrics,
    ModelRecord,
    Outcome,
    ReportedUpdate,
    Snapshot,
    Successor,
)
from fl_cluster.telemetry.points import Point, reach

logger = logging.getLogger(__name__)

FIGURES_S = 0.01
"""How long the other members are given, while the round is being finished, to add their share of
its figures: they hear of its end at the same time, and a line of statistics is written once."""


End = tuple[RoundRef, Reason | None, Millis | None, Millis, str]
"""One end that a round came to; a round that the store has lost may come to another."""


@dataclass(frozen=True, slots=True)
class EndedRound:
    """All there is to record of a round, before anybody sees that it has ended."""

    ref: RoundRef
    job: JobRecord
    reason: Reason | None
    """Why it was abandoned; None when it has a new model."""
    job_state: str
    """running | finished: the job's before this round ended; disabling ends a running round."""
    is_success: bool
    """Whether it has a new model; for a round cut off by a new run, how the last one ended."""
    opened_at: Millis | None
    ended_at: Millis
    """When the goal was met or time ran out; the same whichever member finishes the round."""
    model: Model
    cohort_count: int
    """How many devices were admitted."""
    reported: Sequence[ReportedUpdate]
    evaluations: Sequence[bytes]
    """Vectors of evaluation data of the run so far, the newest first."""
    visits: Mapping[str, int]
    failures_in_a_row: int
    """How many rounds failed one after the other, this one included."""
    is_event: bool
    """Whether so many failures are to be told; the count then starts again."""
    left_out: Sequence[str] = ()
    """Tensors to be aggregated that no device sent: the model has their old values."""
    metrics: Metrics | None = None
    """What the worker of a hybrid round said, zeros when it said nothing; None in others."""
    spent: Spent | None = None
    """What noise has cost, this round included; None in a job without any."""

    @property
    def end(self) -> End:
        """What makes it this end and no other, whoever comes to it and however often."""
        return self.ref, self.reason, self.opened_at, self.ended_at, self.model.digest


class Recorder(Protocol):
    """Writes what outlives the round outside the store."""

    def record(self, ended: EndedRound) -> None:
        """Write the round's files.  Runs in a thread; another member may repeat it."""


@dataclass(frozen=True, slots=True)
class FinishRules:
    """How long a member may be silent while it finishes a round, when failures are told, and
    what makes a masked sum readable."""

    lease_ms: int
    failures_told_at: int
    unmasker: Unmasker | None = None
    """None in a job whose devices mask nothing."""
    noise: NoiseDesk | None = None
    """None where nobody adds noise."""


@dataclass(frozen=True, slots=True)
class Task:
    """A round to finish and what it started from, all seen at one instant.

    The view goes on meanwhile: a member that was slow must not mix the next round's base or
    scale into this one.
    """

    snapshot: Snapshot
    job: JobRecord
    base: StoredModel
    layout: Layout
    scaling: Scaling
    seed: bytes | None = field(default=None, repr=False)
    """Of the noise that goes into the sum; never shown."""

    @property
    def ref(self) -> RoundRef:
        """The round."""
        return self.snapshot.ref

    @property
    def commits(self) -> bool:
        """Whether the round comes to a good end."""
        return self.snapshot.phase in ("aggregating", "concluding")

    @property
    def is_for_worker(self) -> bool:
        """Whether the mean is to be handed over, instead of ending the round."""
        return self.snapshot.phase == "aggregating" and self.snapshot.plan.is_hybrid


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds of a round: pointers by their text, and the counted updates."""

    pointers: Mapping[str, Pointer]
    reported: Sequence[ReportedUpdate]


class Finisher:
    """Finishes rounds on behalf of one member."""

    def __init__(
        self,
        view: JobView,
        stores: Stores,
        collector: Collector,
        recorder: Recorder,
        visits: Visits,
        rules: FinishRules,
    ) -> None:
        self._view = view
        self._stores = stores
        self._collector = collector
        self._recorder = recorder
        self._visits = visits
        self._lease_ms = rules.lease_ms
        self._recorded: End | None = None
        self._at_work = asyncio.Lock()
        self._rests_until = 0.0
        self._failures_told_at = rules.failures_told_at
        self._unmasker = rules.unmasker
        self._noise = rules.noise

    async def finish(self) -> bool:
        """Finish the current round if it needs it and nobody else is at it; whether it did."""
        async with self._at_work:
            return await self._finish_current()

    async def settle(self) -> None:
        """Return when no round is being finished here; none will be any more."""
        await self._at_work.acquire()

    async def _finish_current(self) -> bool:
        view = self._view
        task = Task(view.snapshot, view.job, view.base, view.layout, view.scaling)
        is_resting = asyncio.get_running_loop().time() < self._rests_until
        if not task.snapshot.needs_finishing or is_resting or not await self._take_lease(task.ref):
            return False
        reach(Point.AFTER_LEASE)
        async with self._keep_lease(task.ref):
            try:
                verdict = await self._finish(task)
            except StoreUnavailable:
                raise
            except BaseException:
                # Another member may fare better: leave the lease alone until it has run out.
                rest_s = 2 * self._lease_ms / 1000
                self._rests_until = asyncio.get_running_loop().time() + rest_s
                raise
        # Before the first answer with the new model is built, which takes as much memory.
        self._collector.let_go(task.ref)
        await view.refresh()
        return verdict is Verdict.ACCEPTED

    async def _take_lease(self, ref: RoundRef) -> bool:
        member = self._collector.member
        verdict = await self._stores.rounds.take_lease(ref, member, self._lease_ms)
        return verdict is Verdict.ACCEPTED

    @asynccontextmanager
    async def _keep_lease(self, ref: RoundRef) -> AsyncIterator[None]:
        is_over = asyncio.Event()

        async def renew() -> None:
            while not await _happens(is_over, self._lease_ms / 3000):
                try:
                    await self._take_lease(ref)
                except FlClusterError as exc:
                    logger.warning("round %s: the lease is not renewed: %s", ref, exc)

        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            # Told, not cancelled: a renewal that is under way is answered before its round ends.
            is_over.set()
            await asyncio.wait((task,))

    async def _finish(self, task: Task) -> Verdict:
        ref, figures_at = task.ref, asyncio.get_running_loop().time() + FIGURES_S
        settled = await self._pay(task)
        if isinstance(settled, Verdict):
            return settled
        if isinstance(settled, Reason):
            return await self._abort(ref, settled)
        task = replace(task, seed=settled)
        try:
            stored = await self._find(task)
            if task.is_for_worker:
                return await self._hand_over(task, stored)
            model, record = await self._outcome(task, stored)
        except StaysMasked as exc:
            logger.error("round %s stays masked and is abandoned: %s", ref, exc)
            return await self._abort(ref, Reason.UNMASK_FAILED)
        except StoreCorrupt:
            if not task.commits:
                raise
            logger.exception("round %s cannot be aggregated and is abandoned", ref)
            return await self._abort(ref, Reason.AGGREGATE_FAILED)
        ended = await self._account(task, stored, model, figures_at)
        ended = replace(ended, left_out=record.left_out)
        if not await self._take_lease(ref):
            # Another member took over, and maybe came to another end: the files are its to write.
            return Verdict.LEASE_LOST
        reach(Point.AFTER_AGGREGATE_BEFORE_RECORD)
        await self._record(ended)
        reach(Point.AFTER_RECORD_BEFORE_PUBLISH)
        finishes_job = ref.number >= task.job.rounds_total or not may_go_on(ended.spent)
        failures = 0 if ended.is_event else ended.failures_in_a_row
        outcome = Outcome(record, finishes_job, failures, commits=task.commits)
        return await self._make_visible(ref, model, outcome, _used_up(task.snapshot, stored))

    async def _record(self, ended: EndedRound) -> None:
        """Write the files, unless this member has: programs are told of each end once."""
        if ended.end != self._recorded:
            await asyncio.to_thread(self._recorder.record, ended)
            self._recorded = ended.end

    async def _make_visible(
        self, ref: RoundRef, model: Model, outcome: Outcome, used_up: Sequence[str]
    ) -> Verdict:
        """Publish; where a new run is to begin, the one that was asked for last.

        How the round ended does not depend on that, so one that is asked for meanwhile takes
        the place of the one before it, with the lease still held.
        """
        tried = None
        while (name := await self._successor_name(ref)) not in (None, tried):
            successor = await self._successor(model, outcome.model) if name else None
            verdict = await self._publish(ref, replace(outcome, successor=successor), used_up)
            if verdict is not Verdict.MOVED_ON:
                return verdict
            tried = name
        return Verdict.MOVED_ON

    async def _pay(self, task: Task) -> bytes | Verdict | Reason | None:
        """Pay for the noise of the round; its seed, or why the round cannot end well here."""
        if self._noise is None:
            return None
        return await self._noise.settle(task.snapshot, task.job, self._collector.member)

    async def _abort(self, ref: RoundRef, reason: Reason) -> Verdict:
        if not await self._take_lease(ref):
            return Verdict.LEASE_LOST
        return await self._stores.rounds.abort(ref, reason)

    async def _hand_over(self, task: Task, stored: Stored) -> Verdict:
        """Let the worker have the mean; the partials stay until the round is over."""
        _, record = await self._mean(task, stored, "aggregate", PARTIAL_LIFETIME_MS)
        reach(Point.AFTER_AGGREGATE_BEFORE_HAND_OVER)
        async with self._stores.one_life():
            await self._see(record)
            verdict = await self._stores.rounds.hand_over(task.ref, self._collector.member, record)
        if verdict is not Verdict.ACCEPTED:
            logger.warning("round %s: its mean is not handed over: %s", task.ref, verdict)
        return verdict

    async def _successor_name(self, ref: RoundRef) -> str | None:
        """The run that begins when the round is over, or empty; None when it is over."""
        found = await self._stores.rounds.snapshot()
        return found.successor if found is not None and found.ref == ref else None

    async def _successor(self, model: Model, record: ModelRecord) -> Successor | None:
        """The first round of the run that is to begin, from the newest weights."""
        job = await self._stores.jobs.successor()
        if job is None:
            return None
        parameters = SharedParameters.parse(job.hyper_parameters)
        plan, rule = plan_of(parameters), rule_of(parameters)
        scales = await asyncio.to_thread(exponents, model, plan.cohort_size, rule)
        return Successor(job.instance, plan, replace(record, number=0, exponents=scales))

    async def _find(self, task: Task) -> Stored:
        """What the store holds of the round; what is damaged does not keep one from ending."""
        try:
            return await self._find_intact(task)
        except StoreCorrupt:
            if task.commits:
                raise
            logger.exception("round %s is abandoned without its records", task.ref)
            return Stored({}, ())

    async def _find_intact(self, task: Task) -> Stored:
        ref = task.ref
        partials, reported = await asyncio.gather(
            self._stores.rounds.partials(ref), self._stores.rounds.reported(ref)
        )
        if task.commits and len(reported) < task.snapshot.plan.report_goal:
            goal = task.snapshot.plan.report_goal
            raise StoreCorrupt(f"round {ref}: expected {goal} updates, found {len(reported)}")
        count = len(task.layout.summed)
        try:
            pointers = {text: Pointer.parse(text, count) for text in partials.values()}
        except ValueError as exc:
            raise StoreCorrupt(f"round {ref}: a pointer to a partial is damaged: {exc}") from exc
        return Stored(pointers, reported)

    async def _account(
        self, task: Task, stored: Stored, model: Model, figures_at: float
    ) -> EndedRound:
        """What there is to record; `figures_at` is when the others have had their time."""
        snapshot = task.snapshot
        await self._visits.flush(task.ref)
        await asyncio.sleep(figures_at - asyncio.get_running_loop().time())
        is_cut_off = snapshot.reason is Reason.JOB_RESTARTED
        is_failure = snapshot.reason is not None and not is_cut_off
        failures = snapshot.failures_in_a_row + 1 if is_failure else 0
        ran_out = task.ref.number > task.job.rounds_total
        return EndedRound(
            ref=task.ref,
            job=task.job,
            job_state="finished" if ran_out else "running",
            is_success=snapshot.last_outcome != "abandoned" if is_cut_off else not is_failure,
            reason=snapshot.reason,
            opened_at=snapshot.opened_at,
            ended_at=snapshot.ended_at or Millis(0),
            model=model,
            cohort_count=(await self._stores.rounds.counts(task.ref)).cohort,
            reported=stored.reported,
            evaluations=await self._stores.rounds.evaluations(task.ref.instance),
            visits=await self._stores.rounds.visits(task.ref),
            failures_in_a_row=failures,
            is_event=failures >= self._failures_told_at,
            metrics=_metrics_of(snapshot),
            spent=await self._noise.spent(task.job) if self._noise is not None else None,
        )

    async def _outcome(self, task: Task, stored: Stored) -> tuple[Model, ModelRecord]:
        if not task.commits:
            return task.base.model, replace(task.base.record, number=task.ref.number)
        if task.snapshot.phase == "concluding":
            return await self._retrained(task)
        return await self._mean(task, stored, "model", None)

    async def _retrained(self, task: Task) -> tuple[Model, ModelRecord]:
        """What the worker made of the mean; the model stays as it was if it made nothing."""
        share = task.snapshot.share
        if share is None or share.pushed is None:
            return task.base.model, replace(task.base.record, number=task.ref.number)
        model = await self._view.load(share.pushed.model)
        blob = f"model-{task.ref}-{model.digest[:16]}"
        await self._stores.blobs.put(blob, model.values.data, None)
        self._view.prepare(model)
        return model, replace(share.pushed.model, blob=blob)

    async def _mean(
        self, task: Task, stored: Stored, kind: str, lifetime_ms: int | None
    ) -> tuple[Model, ModelRecord]:
        """The mean of the round, stored under a name that begins with `kind`."""
        total = await self._merge(task, stored.pointers)
        if task.snapshot.plan.exchange is not None and self._unmasker is not None:
            counted = [update.device for update in stored.reported]
            await self._unmasker.unmask(task.ref, counted, total)
        if self._noise is not None:
            await self._noise.add_noise(task.job, total, task.seed)
        model, left_out = await asyncio.to_thread(total.finalise, task.base.model)
        digest = await asyncio.to_thread(lambda: model.digest)
        cohort_size = task.snapshot.plan.cohort_size
        try:
            scales = await asyncio.to_thread(exponents, model, cohort_size, task.scaling.rule)
        except ValueError as exc:
            raise StoreCorrupt(f"round {task.ref}: its mean cannot be a model: {exc}") from exc
        blob = f"{kind}-{task.ref}-{digest[:16]}"
        await self._stores.blobs.put(blob, model.values.data, lifetime_ms)
        self._view.prepare(model)
        size = model.values.nbytes
        return model, ModelRecord(task.ref.number, blob, size, digest, scales, left_out)

    async def _merge(self, task: Task, pointers: Mapping[str, Pointer]) -> Partial:
        """All partials in one, going on from what this member has in its memory."""
        ledger = self._collector.ledger(task.ref)
        held = ledger.hand_over() if ledger is not None else None
        if held is not None and held.pointer in pointers:
            total = Partial(task.layout, task.scaling, held.sums, held.weights)
            scratch = held.scratch
        else:
            held, total = None, Partial(task.layout, task.scaling)
            scratch = np.empty_like(total.sums)
        for text, pointer in pointers.items():
            if held is None or held.pointer != text:
                await self._stores.blobs.get(pointer.blob, scratch.data)
                await asyncio.to_thread(total.merge, scratch, pointer.weights)
        return total

    async def _publish(self, ref: RoundRef, outcome: Outcome, used_up: Sequence[str]) -> Verdict:
        async with self._stores.one_life():
            before = await self._stores.jobs.models()
            if going := _going(before, outcome):
                # Now rather than afterwards: whoever dies after publishing would leave for ever
                # what no record names any more.
                await self._stores.blobs.drop(sorted(going))
            if outcome.commits:
                await self._see(outcome.model)
            verdict = await self._stores.rounds.publish(ref, self._collector.member, outcome)
            if verdict is not Verdict.ACCEPTED:
                logger.warning("round %s: outcome not published: %s", ref, verdict)
                return verdict
            reach(Point.AFTER_PUBLISH)
            after = await self._stores.jobs.models()
            kept = {model.blob for model in after.values()}
            gone = {model.blob for model in before.values()} - kept
            await self._stores.blobs.drop([*used_up, *gone])
        return verdict

    async def _see(self, record: ModelRecord) -> None:
        """StoreUnavailable when the model was forgotten since it was stored: do it again."""
        if not await self._stores.blobs.has(record.blob):
            raise StoreUnavailable("publish", f"Redis has forgotten the new model {record.blob}")


def _used_up(snapshot: Snapshot, stored: Stored) -> list[str]:
    """The blobs that nobody needs once the round is over."""
    blobs = [each.blob for each in stored.pointers.values()]
    share = snapshot.share
    if share is not None:
        blobs.append(share.aggregate.blob)
        if share.pushed is not None:
            blobs.append(share.pushed.model.blob)
    return blobs


def _metrics_of(snapshot: Snapshot) -> Metrics | None:
    if not snapshot.plan.is_hybrid:
        return None
    said = snapshot.share.metrics if snapshot.share is not None else None
    return said or Metrics(0.0, 0.0)


def _going(models: Mapping[int, ModelRecord], outcome: Outcome) -> set[str]:
    """The blobs of models that are not kept once the outcome is published."""
    if outcome.successor is not None:
        return set()  # the round still starts from one of them, and may have to be finished again
    after = {**models, outcome.model.number: outcome.model}
    kept = {after[number].blob for number in sorted(after)[-KEPT_MODELS:]}
    return {model.blob for model in models.values()} - kept


async def _happens(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False
