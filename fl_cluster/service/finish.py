"""Finishing a round: merge, divide, record, publish.  Any member may; one at a time does.

Nothing here is owed to a message that could be lost: a round that needs finishing says so
in the store, and whoever sees it takes the lease.  Partials are immutable and publishing is
fenced, so a second member that takes over from a dead one repeats the work harmlessly and
comes to the same bits.

Order: record (metrics line, checkpoint), then publish.  No device ever sees a model whose
checkpoint is missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Partial, Pointer
from fl_cluster.aggregate.scale import exponents
from fl_cluster.errors import StoreCorrupt
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import Millis
from fl_cluster.service.collect import Collector
from fl_cluster.service.view import JobView, Stores
from fl_cluster.service.visits import Visits
from fl_cluster.store.ports import JobRecord, ModelRecord, Outcome, ReportedUpdate, Snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EndedRound:
    """All there is to record of a round, before anybody sees that it has ended."""

    ref: RoundRef
    job: JobRecord
    reason: Reason | None
    """Why it was abandoned; None when it has a new model."""
    opened_at: Millis | None
    ended_at: Millis
    """When the goal was met or time ran out; the same whichever member finishes the round."""
    model: Model
    reported: Sequence[ReportedUpdate]
    visits: Mapping[str, int]
    failures_in_a_row: int
    """How many rounds failed one after the other, this one included."""
    is_event: bool
    """Whether so many failures are to be told; the count then starts again."""


class Recorder(Protocol):
    """Writes what outlives the round outside the store."""

    def record(self, ended: EndedRound) -> None:
        """Write the round's files.  Runs in a thread; may be repeated for the same round."""


@dataclass(frozen=True, slots=True)
class FinishRules:
    """How long a member may be silent while it finishes a round, and when failures are told."""

    lease_ms: int
    failures_told_at: int


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
        self._at_work = asyncio.Lock()
        self._failures_told_at = rules.failures_told_at

    async def finish(self) -> bool:
        """Finish the current round if it needs it and nobody else is at it; whether it did."""
        async with self._at_work:
            return await self._finish_current()

    async def settle(self) -> None:
        """Return when no round is being finished here; none will be any more."""
        await self._at_work.acquire()

    async def _finish_current(self) -> bool:
        snapshot = self._view.snapshot
        if not snapshot.needs_finishing or not await self._take_lease(snapshot.ref):
            return False
        async with self._keep_lease(snapshot.ref):
            try:
                verdict = await self._finish(snapshot)
            except StoreCorrupt:
                if snapshot.phase != "aggregating":
                    raise
                logger.exception("round %s cannot be aggregated and is abandoned", snapshot.ref)
                verdict = await self._stores.rounds.abort(snapshot.ref, Reason.AGGREGATE_FAILED)
        await self._view.refresh()
        return verdict is Verdict.ACCEPTED

    async def _take_lease(self, ref: RoundRef) -> bool:
        member = self._collector.member
        verdict = await self._stores.rounds.take_lease(ref, member, self._lease_ms)
        return verdict is Verdict.ACCEPTED

    @asynccontextmanager
    async def _keep_lease(self, ref: RoundRef) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(self._lease_ms / 3000)
                await self._take_lease(ref)

        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))

    async def _finish(self, snapshot: Snapshot) -> Verdict:
        ref = snapshot.ref
        pointers = await self._pointers(ref)
        if snapshot.phase == "aggregating":
            model, record = await self._aggregate(snapshot, pointers)
        else:
            model = self._view.base.model
            record = replace(self._view.base.record, number=ref.number)
        failures = 0 if snapshot.reason is None else snapshot.failures_in_a_row + 1
        is_event = failures >= self._failures_told_at
        await self._visits.flush(ref)
        reported, visits = await asyncio.gather(
            self._stores.rounds.reported(ref), self._stores.rounds.visits(ref)
        )
        ended = EndedRound(
            ref=ref,
            job=self._view.job,
            reason=snapshot.reason,
            opened_at=snapshot.opened_at,
            ended_at=snapshot.ended_at or Millis(0),
            model=model,
            reported=reported,
            visits=visits,
            failures_in_a_row=failures,
            is_event=is_event,
        )
        await asyncio.to_thread(self._recorder.record, ended)
        finishes_job = ref.number >= self._view.job.rounds_total
        outcome = Outcome(record, finishes_job, 0 if is_event else failures)
        return await self._publish(ref, outcome, [pointer.blob for pointer in pointers.values()])

    async def _pointers(self, ref: RoundRef) -> Mapping[str, Pointer]:
        count = len(self._view.layout.summed)
        stored = await self._stores.rounds.partials(ref)
        return {text: Pointer.parse(text, count) for text in stored.values()}

    async def _aggregate(
        self, snapshot: Snapshot, pointers: Mapping[str, Pointer]
    ) -> tuple[Model, ModelRecord]:
        base, layout, ref = self._view.base.model, self._view.layout, snapshot.ref
        ledger = self._collector.ledger(ref)
        held = ledger.hand_over() if ledger is not None else None
        if held is not None and held.pointer in pointers:
            total = Partial(layout, self._view.scaling, held.sums, held.weights)
            scratch = held.scratch
        else:
            held, total = None, Partial(layout, self._view.scaling)
            scratch = np.empty_like(total.sums)
        for text, pointer in pointers.items():
            if held is None or held.pointer != text:
                await self._stores.blobs.get(pointer.blob, scratch.data)
                await asyncio.to_thread(total.merge, scratch, pointer.weights)
        model, left_out = await asyncio.to_thread(total.finalise, base)
        digest = await asyncio.to_thread(lambda: model.digest)
        scales = await asyncio.to_thread(exponents, model, snapshot.plan.cohort_size)
        blob = f"model-{ref}-{digest[:16]}"
        await self._stores.blobs.put(blob, model.values.data, None)
        self._view.prepare(model)
        size = model.values.nbytes
        return model, ModelRecord(ref.number, blob, size, digest, scales, left_out)

    async def _publish(self, ref: RoundRef, outcome: Outcome, partials: Sequence[str]) -> Verdict:
        before = await self._stores.jobs.models()
        verdict = await self._stores.rounds.publish(ref, self._collector.member, outcome)
        if verdict is not Verdict.ACCEPTED:
            logger.warning("round %s: outcome not published: %s", ref, verdict)
            return verdict
        after = await self._stores.jobs.models()
        kept = {model.blob for model in after.values()}
        gone = {model.blob for model in before.values()} - kept
        await self._stores.blobs.drop([*partials, *gone])
        return verdict
