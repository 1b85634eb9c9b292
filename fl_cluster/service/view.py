"""What one member knows of the job: a cache that is told of changes and looks for itself.

Nothing decides on it: every decision is an atomic call to the store that names the round it
is about, and `moved_on` means that this view is old.  What it is for: answering without
asking, holding requests until something changes, and knowing when there is work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fl_cluster.aggregate.layout import Layout
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Scaling
from fl_cluster.aggregate.rules import Rule
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import JobLost, StoreCorrupt
from fl_cluster.kernels.bounds import term_bound
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.methods import rule_of
from fl_cluster.service.store_watch import StoreWatch
from fl_cluster.store.ports import BlobStore, JobRecord, JobStore, ModelRecord, RoundStore, Snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stores:
    """The places where a job's shared state is."""

    rounds: RoundStore
    jobs: JobStore
    blobs: BlobStore
    one_life: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    """While its block lasts the store does not go back in time: what it has answered stays so.
    StoreUnavailable from whatever is asked in the block once that cannot be had."""
    address: str = "memory"
    """What sentences call the store, without a password."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model with the record that says which round it ended."""

    record: ModelRecord
    model: Model


class JobView:
    """The job as last seen.  `refresh` before first use."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._snapshot: Snapshot | None = None
        self._job: JobRecord | None = None
        self._parse = lru_cache(maxsize=2)(SharedParameters.parse)
        self._rule_of = lru_cache(maxsize=2)(lambda text: rule_of(self._parse(text)))
        self._layout: Layout | None = None
        self._models: dict[int, ModelRecord] = {}
        self._base: StoredModel | None = None
        self._prepared: Model | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._holds = True
        self.watch = StoreWatch()
        """What this member's loops say of the store."""

    @property
    def is_available(self) -> bool:
        """Whether the store serves this member; `watch.trouble` says why not."""
        return self.watch.trouble is None

    @property
    def holds(self) -> bool:
        """Whether devices may be kept waiting here."""
        return self._holds

    @property
    def snapshot(self) -> Snapshot:
        """The current round."""
        assert self._snapshot is not None, "refresh first"
        return self._snapshot

    @property
    def job(self) -> JobRecord:
        """The current run."""
        assert self._job is not None, "refresh first"
        return self._job

    @property
    def parameters(self) -> SharedParameters:
        """The settings of the current run."""
        return self._parse(self.job.hyper_parameters)

    @property
    def rule(self) -> Rule:
        """How the current run aggregates."""
        return self._rule_of(self.job.hyper_parameters)

    @property
    def layout(self) -> Layout:
        """The tensors of the job's model."""
        assert self._layout is not None, "refresh first"
        return self._layout

    @property
    def base(self) -> StoredModel:
        """The model that the current round starts from."""
        assert self._base is not None, "refresh first"
        return self._base

    @property
    def scaling(self) -> Scaling:
        """How the current round turns floats into integers."""
        bound = term_bound(self.snapshot.plan.cohort_size)
        return Scaling(self.base.record.exponents, bound, self.rule)

    @property
    def kept(self) -> tuple[int, ...]:
        """The rounds whose models are kept, in order."""
        return tuple(sorted(self._models))

    def record_of(self, number: int) -> ModelRecord | None:
        """The record of the model that round `number` ended with, if it is kept."""
        return self._models.get(number)

    async def refresh(self) -> None:
        """See the store as it is now.  Callers that come together share one look.

        A caller that comes while a look is under way waits for the next one: the look under
        way may have read what the caller already knows to be old.
        """
        under_way = self._refreshing
        if under_way is not None:
            await asyncio.wait([under_way])
        if self._refreshing is None or self._refreshing is under_way:
            self._refreshing = asyncio.create_task(self._look())
        try:
            await asyncio.shield(self._refreshing)
        finally:
            if self._refreshing is not None and self._refreshing.done():
                self._refreshing = None

    async def _look(self) -> None:
        snapshot = await self._current_round()
        while self._snapshot is None or self._snapshot.ref != snapshot.ref:
            try:
                await self._look_deeper(snapshot.ref)
                break
            except StoreCorrupt:
                # Or the round moved on meanwhile, and took with it what belonged to it.
                before, snapshot = snapshot, await self._current_round()
                if before.ref == snapshot.ref:
                    raise
        if snapshot != self._snapshot:
            self._snapshot = snapshot
            self._announce()

    async def _current_round(self) -> Snapshot:
        snapshot = await self._stores.rounds.snapshot()
        if snapshot is None:
            raise JobLost("the store holds no round of this job any more")
        if self._snapshot is not None and _is_behind(snapshot.ref, self._snapshot.ref):
            number = snapshot.ref.number
            raise JobLost(f"the store is back at round {number}, and this server has seen its end")
        return snapshot

    async def _look_deeper(self, ref: RoundRef) -> None:
        job = await self._stores.jobs.job()
        if job is None:
            raise JobLost("the store holds a round and no job")
        if job.instance != ref.instance:
            raise StoreCorrupt(f"the round is one of run {ref.instance}, the job is {job.instance}")
        if self._job is None or self._job.layout != job.layout:
            self._layout = Layout.from_json(job.layout)
        models = dict(await self._stores.jobs.models())
        number = ref.number - 1
        record = models.get(number)
        if record is None:
            raise StoreCorrupt(f"model {number}, which round {ref.number} starts from, is missing")
        base = StoredModel(record, await self._find(record))
        self._job, self._models, self._base, self._prepared = job, models, base, None

    async def _find(self, record: ModelRecord) -> Model:
        at_hand = (self._prepared, self._base.model if self._base else None)
        for model in at_hand:
            if model is not None and model.digest == record.digest:
                return model
        return await self.load(record)

    def prepare(self, model: Model) -> None:
        """Keep a model that this member is about to publish, to spare fetching it."""
        self._prepared = model

    async def model(self, number: int) -> StoredModel | None:
        """The model that round `number` ended with; None when it is not kept."""
        record = self._models.get(number)
        if record is None:
            return None
        if record.digest == self.base.record.digest:
            return StoredModel(record, self.base.model)
        return StoredModel(record, await self.load(record))

    async def load(self, record: ModelRecord) -> Model:
        """What is stored of a model; StoreCorrupt when it is not what its record says."""
        layout = self.layout
        values = np.empty(layout.size, np.float32)
        await self._stores.blobs.get(record.blob, values.data)
        model = Model(layout, values)
        digest = await asyncio.to_thread(lambda: model.digest)
        if digest != record.digest:
            raise StoreCorrupt(
                f"model {record.number}: its bytes have SHA-256 {digest},"
                f" its record says {record.digest}"
            )
        return model

    async def hold(self, condition: Callable[[Snapshot], bool], timeout_ms: int) -> bool:
        """`wait_for` on behalf of a device: nobody is held once this member is about to go."""
        await self.wait_for(lambda seen: not self._holds or condition(seen), timeout_ms)
        return condition(self.snapshot)

    def stop_holding(self) -> None:
        """Let no device wait any more, now and later."""
        self._holds = False
        self._announce()

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_for(self, condition: Callable[[Snapshot], bool], timeout_ms: int) -> bool:
        """Wait until the round, as far as this member knows, meets the condition."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        while not condition(self.snapshot):
            remaining = deadline - loop.time()
            if remaining <= 0:
                return False
            changed = self._changed
            try:
                async with asyncio.timeout(remaining):
                    await changed.wait()
            except TimeoutError:
                return condition(self.snapshot)
        return True


def _is_behind(found: RoundRef, known: RoundRef) -> bool:
    """Whether the store has gone back in time, beyond the end of a round."""
    return found.instance == known.instance and found.number < known.number
