"""A worker's part in a hybrid round: it takes the mean, makes something of it, and says so.

Any member serves any worker: what there is between round and worker is in the store, and each
step is one atomic call there.  In a job that is not hybrid there is nothing for a worker to
do, and what it hands in is checked and forgotten, as existing servers do.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.retrained import Entries, is_finite, overlay
from fl_cluster.aggregate.scale import exponents
from fl_cluster.rounds.events import Verdict
from fl_cluster.service.checkin import LOOKS, TURNOVER_MS
from fl_cluster.service.ledger import PARTIAL_LIFETIME_MS
from fl_cluster.service.view import JobView, StoredModel, Stores
from fl_cluster.store.ports import Metrics, ModelRecord, Pushed, Snapshot
from fl_cluster.telemetry.points import Point, reach


@dataclass(frozen=True, slots=True)
class Offered:
    """The mean of the current round, and whether the worker has handed something in."""

    snapshot: Snapshot
    mean: StoredModel
    is_pushed: bool


class RetrainingDesk:
    """Serves workers on behalf of one member; `hold_ms` is how long they may be kept waiting."""

    def __init__(self, view: JobView, stores: Stores, *, hold_ms: int) -> None:
        self._view = view
        self._stores = stores
        self._hold_ms = hold_ms
        self._mean: StoredModel | None = None

    async def wait(self) -> Snapshot:
        """The current round, as soon as it has a mean to offer, or when waiting is over."""
        if not _offers(self._view.snapshot):
            await self._view.refresh()
        if self._view.snapshot.plan.is_hybrid:
            await self._view.hold(_offers, self._hold_ms)
            if self._view.snapshot.phase == "aggregating":
                await self._view.hold(lambda seen: seen.phase != "aggregating", TURNOVER_MS)
        return self._view.snapshot

    async def offered(self) -> Offered | None:
        """What the round has for its worker; None when there is nothing."""
        snapshot = await self.wait()
        share = snapshot.share
        if share is None or not _offers(snapshot):
            self._mean = None
            return None
        if self._mean is None or self._mean.record != share.aggregate:
            self._mean = None  # its memory may be needed for the next one
            self._mean = StoredModel(share.aggregate, await self._view.load(share.aggregate))
        return Offered(snapshot, self._mean, share.pushed is not None)

    async def push(self, offered: Offered, entries: Entries) -> Verdict:
        """Hand in what was made of the mean; `entries` are not misfit."""
        ref, mean = offered.snapshot.ref, offered.mean.model
        made = await asyncio.to_thread(overlay, mean, entries)
        is_fit = await asyncio.to_thread(is_finite, made)
        digest = await asyncio.to_thread(lambda: made.digest)
        record = replace(
            offered.mean.record,
            blob=f"{'pushed' if is_fit else 'unfit'}-{ref}-{digest[:16]}",
            digest=digest,
            exponents=(),
            left_out=tuple(sorted(set(offered.mean.record.left_out) - set(entries))),
        )
        if is_fit:
            record = replace(record, exponents=await self._scales(made, offered.snapshot))
        async with self._stores.one_life():
            if is_fit:
                await self._stores.blobs.put(record.blob, made.values.data, PARTIAL_LIFETIME_MS)
            reach(Point.AFTER_BLOB_BEFORE_PUSH)
            verdict = await self._stores.rounds.push(ref, Pushed(record, is_fit))
        reach(Point.AFTER_PUSH_BEFORE_ANSWER)
        if verdict is Verdict.LATE:
            await self._stores.rounds.tick(ref)
        await self._view.refresh()
        if verdict is not Verdict.ACCEPTED:
            await self._forget(record)
        return verdict

    async def _scales(self, made: Model, snapshot: Snapshot) -> tuple[int, ...]:
        rule, cohort_size = self._view.rule, snapshot.plan.cohort_size
        return await asyncio.to_thread(exponents, made, cohort_size, rule)

    async def _forget(self, record: ModelRecord) -> None:
        """Drop what was refused, unless the round has the very same from somebody else."""
        share = self._view.snapshot.share
        if share is None or share.pushed is None or share.pushed.model.blob != record.blob:
            await self._stores.blobs.drop([record.blob])

    async def conclude(self, metrics: Metrics) -> Verdict:
        """End the worker's part of the round; a repeat for the round before is accepted too."""
        verdict = Verdict.NOT_AGGREGATED
        for _ in range(LOOKS):
            snapshot = await self.wait()
            if not snapshot.plan.is_hybrid:
                return Verdict.ACCEPTED
            verdict = await self._stores.rounds.conclude(snapshot.ref, metrics)
            if verdict is Verdict.ACCEPTED:
                reach(Point.AFTER_CONCLUDE_BEFORE_ANSWER)
            elif verdict is Verdict.LATE:
                await self._stores.rounds.tick(snapshot.ref)
            await self._view.refresh()
            if verdict not in (Verdict.MOVED_ON, Verdict.LATE):
                break
        is_repeat = self._view.snapshot.last_metrics == metrics
        if verdict is Verdict.NOT_AGGREGATED and is_repeat:
            return Verdict.ACCEPTED
        return verdict


def _offers(snapshot: Snapshot) -> bool:
    return snapshot.phase in ("retraining", "concluding")
