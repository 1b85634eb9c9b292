"""A cluster in one event loop: several members over the stores of `store.memory`.

Time is the loop's own and passes only when nothing else can happen, so what waits for
seconds takes none, what happens is the same in every run, and a wait that nothing can end
is a failure and not a hang.  `Interposed` stands between the members and a store and can
fail a call before or after it is done, or hold it there.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Update
from fl_cluster.aggregate.scale import exponents
from fl_cluster.errors import StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.rounds.plan import RoundPlan
from fl_cluster.service.checkin import CheckInDesk
from fl_cluster.service.collect import Arrival, CollectAnswer, Collector
from fl_cluster.service.finish import EndedRound, Finisher, FinishRules
from fl_cluster.service.noising import NoiseDesk
from fl_cluster.service.spending import Spending
from fl_cluster.service.view import JobView, Stores
from fl_cluster.service.visits import Visits
from fl_cluster.store.memory import MemoryBlobStore, MemoryJobStore, MemoryRoundStore
from fl_cluster.store.memory_privacy import MemoryPrivacyStore
from fl_cluster.store.ports import Buffer, JobRecord, ModelRecord, Offer, Snapshot, UpdateRecord

SETTINGS = {
    "fl_iteration_num": 20,
    "start_fl_job_threshold": 3,
    "update_model_ratio": 1.0,
    "start_fl_job_time_window": 30_000,
    "update_model_time_window": 30_000,
    "global_iteration_time_window": 60_000,
    "client_epoch_num": 1,
    "client_batch_size": 32,
    "client_learning_rate": 0.01,
    "upload_sparse_rate": 0.4,
}
"""The settings of the job, as far as its records need them; plans are set apart."""

START_S = 1_000_000.0
LEASE_MS = 3_000
PATIENCE_MS = 10_000


class NothingCanHappen(Exception):
    """Everybody waits, for nothing: no timer is set and no thread is at work."""


class _Selector(selectors.BaseSelector):
    """The real one, but a wait for time moves the loop's clock instead."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        if self.loop.threads:
            return self._real.select(None)
        if timeout is None:
            raise NothingCanHappen
        self.loop.now += timeout
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = START_S
        self.threads = 0
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        future = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(self._count_down)
        return future

    def _count_down(self, _: object) -> None:
        self.threads -= 1

    async def shutdown_default_executor(self, *args: Any) -> None:
        self.threads += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self.threads -= 1


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": VirtualLoop}


Weather = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]


@dataclass
class Held:
    """A call that was stopped on its way: `reached` when it is there, `go` lets it go on."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


class Interposed:
    """A store whose calls can be failed, held and counted."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.calls: Counter[str] = Counter()
        self.arguments: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self.is_away = False
        self.weather: Weather | None = None
        """Does all calls instead, when there is one: it is given each call's name and the call."""
        self.answers: dict[str, deque[Any]] = defaultdict(deque)
        """What calls that were held afterwards answer instead, in order."""
        self._before: dict[str, deque[Exception | Held | None]] = defaultdict(deque)
        self._after: dict[str, deque[Exception | Held | None]] = defaultdict(deque)

    def fail_before(self, method: str, *, times: int = 1, fault: Exception | None = None) -> None:
        """The next calls raise and do nothing."""
        self._before[method] += [fault or self._unavailable(method)] * times

    def fail_after(self, method: str, *, times: int = 1, fault: Exception | None = None) -> None:
        """The next calls are done, and raise all the same: their answer is lost."""
        self._after[method] += [fault or self._unavailable(method)] * times

    def hold_before(self, method: str) -> Held:
        """The next call waits before it is done."""
        held = Held()
        self._before[method].append(held)
        return held

    def hold_after(self, method: str) -> Held:
        """The next call is done and waits before it is answered."""
        held = Held()
        self._after[method].append(held)
        return held

    def _unavailable(self, method: str) -> StoreUnavailable:
        return StoreUnavailable(method, "the link broke")

    def __getattr__(self, method: str) -> Any:
        real: Callable[..., Awaitable[Any]] = getattr(self.store, method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[method] += 1
            self.arguments[method].append(args)
            if self.is_away:
                raise self._unavailable(method)
            if self.weather is not None:
                if method == "put":
                    # What is on its way does not change any more, however late it arrives.
                    args = (args[0], bytes(args[1]), *args[2:])
                return await self.weather(method, lambda: real(*args, **kwargs))
            await self._meet(self._before[method])
            answer = await real(*args, **kwargs)
            await self._meet(self._after[method])
            return self.answers[method].popleft() if self.answers[method] else answer

        return call

    @staticmethod
    async def _meet(waiting: deque[Exception | Held | None]) -> None:
        # A call is never answered at once: others get their turn, as with a real link.
        await asyncio.sleep(0)
        met = waiting.popleft() if waiting else None
        if isinstance(met, Held):
            met.reached.set()
            await met.go.wait()
        elif met is not None:
            raise met


class Blobs(MemoryBlobStore):
    """Blobs that reach the store as bytes, as over a link."""

    async def put(self, name: str, data: Buffer, lifetime_ms: int | None) -> None:
        await super().put(name, bytes(data), lifetime_ms)

    def names(self) -> set[str]:
        """What is stored now."""
        return set(self._blobs)

    def forget(self, name: str) -> None:
        """Lose a blob, as a store that was damaged."""
        del self._blobs[name]


@dataclass
class NotedRounds:
    """A recorder that remembers what it was given, and what the store showed at that time."""

    view: JobView
    ended: list[EndedRound] = field(default_factory=list)
    seen_in_store: list[RoundRef] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    current: Callable[[], RoundRef] | None = None

    def record(self, ended: EndedRound) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.ended.append(ended)
        if self.current is not None:
            self.seen_in_store.append(self.current())


@dataclass
class Member:
    """One member's services, and the stores as it reaches them."""

    name: str
    rounds: Interposed
    jobs: Interposed
    blobs: Interposed
    stores: Stores
    view: JobView
    collector: Collector
    desk: CheckInDesk
    visits: Visits
    recorder: NotedRounds
    finisher: Finisher

    async def finish(self) -> bool:
        """Look, and finish the round if that is to be done."""
        await self.view.refresh()
        return await self.finisher.finish()


DEFAULT_TENSORS = (
    Tensor("layer.weight", (3, 4)),
    Tensor("layer.bias", (4,)),
    Tensor("steps", (2,), is_aggregated=False),
)

DEFAULT_PLAN = RoundPlan(
    cohort_size=4,
    report_goal=4,
    select_window_ms=60_000,
    report_window_ms=60_000,
    round_window_ms=100_000,
)


class World:
    """A job in memory, the members that serve it, and the devices that take part."""

    def __init__(self) -> None:
        self.job_store = MemoryJobStore()
        self.job_store.use_clock(self.now_ms)
        self.blob_store = Blobs()
        self.members: list[Member] = []
        self.data_sizes: dict[str, int] = {}
        self.sent: dict[str, Update] = {}
        self.rng = np.random.default_rng(7)
        self.settings: dict[str, Any] = {}
        """Of the job, beside those that every job has."""
        self.privacy = MemoryPrivacyStore(self.job_store)

    def now_ms(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)

    async def open(
        self,
        *,
        plan: RoundPlan = DEFAULT_PLAN,
        tensors: Sequence[Tensor] = DEFAULT_TENSORS,
        rounds_total: int = 20,
        **numbers: int,
    ) -> World:
        """Create the job; `numbers` replace those of the plan."""
        self.plan = replace(plan, **numbers)
        self.layout = Layout(tensors)
        values = self.rng.normal(size=self.layout.size).astype(np.float32)
        self.model = Model(self.layout, values)
        self.first = RoundRef("run-1", 1)
        job = JobRecord(
            "run-1", rounds_total, json.dumps(SETTINGS | self.settings), self.layout.to_json()
        )
        scales = exponents(self.model, self.plan.cohort_size)
        record = ModelRecord(0, "model-0", values.nbytes, self.model.digest, scales)
        await self.blob_store.put("model-0", values.data, None)
        assert await self.job_store.open(job, self.first, self.plan, record)
        return self

    @property
    def round_store(self) -> MemoryRoundStore:
        assert self.job_store.rounds is not None
        return self.job_store.rounds

    async def member(
        self, name: str = "a", *, patience_ms: int = PATIENCE_MS, is_durable: bool = True
    ) -> Member:
        """A member that has looked once."""
        rounds, jobs, blobs = (
            Interposed(store) for store in (self.round_store, self.job_store, self.blob_store)
        )
        stores = Stores(cast(Any, rounds), cast(Any, jobs), cast(Any, blobs))
        view = JobView(stores)
        collector = Collector(view, stores, name, patience_ms, is_durable=is_durable)
        recorder = NotedRounds(view, current=lambda: self.round_store._round.phase.ref)
        visits = Visits(stores.rounds)
        noise = NoiseDesk(self.privacy, Spending(self.privacy))
        rules = FinishRules(LEASE_MS, failures_told_at=3, noise=noise)
        finisher = Finisher(view, stores, collector, recorder, visits, rules)
        desk = CheckInDesk(view, stores.rounds)
        await view.refresh()
        member = Member(
            name, rounds, jobs, blobs, stores, view, collector, desk, visits, recorder, finisher
        )
        self.members.append(member)
        return member

    async def admit(self, *devices: str, data_size: int | None = None) -> None:
        """Check devices in to the current round, whatever it is."""
        ref = self.round_store._round.phase.ref
        for number, device in enumerate(devices, start=1):
            size = data_size or 10 * number + 1
            self.data_sizes[device] = size
            verdicts = await self.round_store.check_in(ref, [Offer(device, size, 5)])
            assert verdicts == [Verdict.ACCEPTED]
        for member in self.members:
            await member.view.refresh()

    def update(
        self, *, is_plain: bool = False, scale: float = 1.0, names: Sequence[str] | None = None
    ) -> Update:
        """Random values for the aggregated tensors, or for those named."""
        chosen = [p for p in self.layout.summed if names is None or p.tensor.name in names]
        sent = [
            (place, (scale * self.rng.normal(size=place.tensor.size)).astype(np.float32))
            for place in chosen
        ]
        return Update(sent, is_plain)

    def arrival(
        self, device: str, update: Update | None = None, *, number: int | None = None
    ) -> Arrival:
        """An update as it comes from the device, for the current round unless told."""
        if number is None:
            number = self.round_store._round.phase.ref.number
        self.sent[device] = self.update() if update is None else update
        return Arrival(
            UpdateRecord(device, f"{device}-digest", 0.5, 0.75), number, self.sent[device]
        )

    async def snapshot(self) -> Snapshot:
        found = await self.round_store.snapshot()
        assert found is not None
        return found

    def claims(self) -> dict[str, str]:
        """Device -> member, as the store has them now."""
        return dict(getattr(self.round_store._round.phase, "claims", {}))

    def reports(self) -> list[str]:
        """The devices counted in the current round."""
        return sorted(getattr(self.round_store._round.phase, "reports", {}))

    def exact_sum(self, *devices: str, base: Model | None = None) -> tuple[Any, list[int]]:
        """The sums and weights that what these devices sent last makes, by fractions alone."""
        scales = exponents(base or self.model, self.plan.cohort_size)
        sums, weights = np.zeros(self.layout.sum_size, np.int64), [0] * len(scales)
        for device in devices:
            sent, size = self.sent[device], self.data_sizes[device]
            for place, array in sent.arrays:
                factor = (size if sent.is_plain else 1) * Fraction(2) ** scales[place.sum_index]
                terms = [round(Fraction(float(x)) * factor) for x in array]
                sums[place.sum_start : place.sum_stop] += np.array(terms, np.int64)
                weights[place.sum_index] += size
        return sums, weights

    def expected(self, *devices: str, base: Model | None = None) -> bytes:
        """The bytes of the model that what these devices sent last makes."""
        base = base or self.model
        scales = exponents(base, self.plan.cohort_size)
        sums, weights = self.exact_sum(*devices, base=base)
        values = base.values.copy()
        for place, s, weight in zip(self.layout.summed, scales, weights, strict=True):
            if weight:
                mean = [
                    np.float32(float(int(q)) / (float(weight) * 2.0**s))
                    for q in sums[place.sum_start : place.sum_stop]
                ]
                values[place.start : place.stop] = mean
        return values.tobytes()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def interposed() -> type[Interposed]:
    return Interposed


@pytest.fixture
async def job(world: World) -> World:
    """A job for four devices of which all four have to report."""
    return await world.open()


@pytest.fixture
def pass_time() -> Callable[[float], Awaitable[None]]:
    """Let so many seconds pass; they take no time."""
    return asyncio.sleep


@pytest.fixture
def settled() -> Callable[[], Awaitable[None]]:
    """Let everything happen that needs no time."""

    async def settle() -> None:
        for _ in range(200):
            await asyncio.sleep(0)

    return settle


@pytest.fixture
def start() -> Callable[..., asyncio.Task[CollectAnswer]]:
    """Collects an arrival at a member, in the background."""

    def begin(member: Member, arrival: Arrival) -> asyncio.Task[CollectAnswer]:
        return asyncio.create_task(member.collector.collect(arrival))

    return begin
