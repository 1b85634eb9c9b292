"""Several members over one Redis: the model's bytes do not depend on who did what when.

Two hundred devices upload in random order to random members, some of them twice at once;
in every second repetition a member is gone half-way, as if killed: its tasks end where they
are, and the others learn that it is dead.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Update
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.clock import Clock
from fl_cluster.service.collect import Arrival, Collector
from fl_cluster.service.finish import EndedRound, Finisher, FinishRules
from fl_cluster.service.job import StartingPoint, open_job
from fl_cluster.service.view import JobView, Stores
from fl_cluster.service.visits import Visits
from fl_cluster.store.ports import Offer, Receipt, UpdateRecord
from fl_cluster.store.redis.jobs import RedisBlobStore, RedisEvents, RedisJobStore
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.rounds import RedisRoundStore

pytestmark = pytest.mark.redis

DEVICES = 200
PATIENCE_MS = 20_000
FIRST = RoundRef("run-of-digits", 1)

PARAMETERS = {
    "fl_iteration_num": 3,
    "start_fl_job_threshold": DEVICES,
    "update_model_ratio": 1.0,
    "start_fl_job_time_window": 60_000,
    "update_model_time_window": 60_000,
    "global_iteration_time_window": 120_000,
    "client_epoch_num": 1,
    "client_batch_size": 1,
    "client_learning_rate": 0.1,
    "upload_sparse_rate": 0.4,
}


class Silent:
    """Records nothing."""

    def record(self, ended: EndedRound) -> None:
        """Nothing outlives the test."""


@dataclass(frozen=True)
class Job:
    """The weights everybody starts from, and what each device sends."""

    start: Model
    updates: dict[str, tuple[Update, int]]

    @classmethod
    def draw(cls, seed: int) -> Job:
        rng = np.random.default_rng(seed)
        tensors = (
            Tensor("conv.weight", (8, 5, 5)),
            Tensor("conv.bias", (8,)),
            Tensor("fc", (300,)),
        )
        layout = Layout(tensors)
        start = Model(layout, rng.normal(scale=0.3, size=layout.size).astype(np.float32))
        updates = {}
        for n in range(DEVICES):
            size, is_plain = int(rng.integers(1, 2_000)), n % 4 == 0
            arrays = [
                (
                    place,
                    ((1 if is_plain else size) * rng.normal(size=place.tensor.size)).astype(
                        np.float32
                    ),
                )
                for place in layout.summed
            ]
            updates[f"device-{n:03}"] = (Update(arrays, is_plain), size)
        return cls(start, updates)

    def expected_digest(self) -> str:
        """SHA-256 of the exact mean, by NumPy and the definition alone."""
        bound = min(2**51, (2**63 - 1) // DEVICES)
        parts = []
        for n, place in enumerate(self.start.layout.summed):
            largest = float(np.abs(self.start.tensor(place.tensor.name)).max())
            s = math.floor(math.log2(bound / (max(largest, 2.0**-3) * 2.0**24)))
            sums, weight = np.zeros(place.tensor.size, np.int64), 0
            for update, size in self.updates.values():
                values = update.arrays[n][1].astype(np.float64)
                factor = size if update.is_plain else 1
                sums += np.rint(values * factor * 2.0**s).astype(np.int64)
                weight += size
            parts.append((sums.astype(np.float64) / (float(weight) * 2.0**s)).astype(np.float32))
        return hashlib.sha256(np.concatenate(parts).tobytes()).hexdigest()


@dataclass
class Member:
    """One member with a connection of its own, and its end."""

    name: str
    stores: Stores
    view: JobView
    collector: Collector
    clock: Clock
    is_dead: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @classmethod
    async def join(cls, name: str, connection: Any, job: str, start: Model) -> Member:
        keys = JobKeys(job)
        stores = Stores(
            RedisRoundStore(connection, keys),
            RedisJobStore(connection, keys),
            RedisBlobStore(connection, keys),
        )
        shared = SharedParameters.parse(json.dumps(PARAMETERS))
        await open_job(stores, shared, StartingPoint(start, 0), f"run-of-{job}")
        view = JobView(stores)
        await view.refresh()
        collector = Collector(view, stores, name, PATIENCE_MS)
        rules = FinishRules(lease_ms=3_000, failures_told_at=3)
        finisher = Finisher(view, stores, collector, Silent(), Visits(stores.rounds), rules)

        async def rebuild() -> None:
            pytest.fail("nobody loses this job")

        clock = Clock(view, stores.rounds, RedisEvents(connection, keys), finisher, rebuild)
        member = cls(name, stores, view, collector, clock)
        member.task = asyncio.create_task(clock.run())
        return member

    def die(self) -> None:
        """End where it is, in the middle of whatever it does."""
        self.is_dead.set()
        ledger = self.collector.ledger(self.view.snapshot.ref)
        tasks = [self.task, *self.collector._tasks, *self.collector._claims._background]
        tasks += [ledger._worker if ledger else None, self.collector._claims._asked._worker]
        for task in tasks:
            if task is not None:
                task.cancel()

    async def leave(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait((self.task,))

    async def collect(self, arrival: Arrival) -> Receipt | None:
        """The receipt; None when the connection broke or no answer came."""
        work = asyncio.create_task(self.collector.collect(arrival))
        death = asyncio.create_task(self.is_dead.wait())
        await asyncio.wait((work, death), return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if not work.done():
            work.cancel()
            return None
        try:
            answer = work.result()
        except (StoreUnavailable, asyncio.CancelledError):
            return None
        if answer.verdict is Verdict.ENOUGH:
            # The round is over; what it counted can still be proved, as to a device.
            return await self.stores.rounds.receipt(FIRST, arrival.record.device)
        assert answer.verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE), answer
        return answer.receipt


class Cluster:
    """The members of one repetition and the devices that report to them."""

    def __init__(self, members: list[Member], job: Job, rng: random.Random) -> None:
        self.members, self.job, self.rng = members, job, rng

    async def report(self, device: str) -> Receipt:
        """Upload until there is a receipt, each time to another member."""
        update, _ = self.job.updates[device]
        while True:
            living = [member for member in self.members if not member.is_dead.is_set()]
            record = UpdateRecord(device, f"digest of {device}", 0.5, 0.25)
            receipt = await self.rng.choice(living).collect(Arrival(record, 1, update))
            if receipt is not None:
                return receipt
            await asyncio.sleep(self.rng.uniform(0, 0.01))

    async def run(self, *, loses_one: bool) -> dict[str, set[Receipt]]:
        """All devices upload, every eighth twice; the receipts of each."""
        devices = list(self.job.updates)
        sent = devices + devices[::8]
        self.rng.shuffle(sent)
        receipts: dict[str, set[Receipt]] = {device: set() for device in devices}

        async def upload(device: str) -> None:
            await asyncio.sleep(self.rng.uniform(0, 0.2))
            receipts[device].add(await self.report(device))

        uploads = [asyncio.create_task(upload(device)) for device in sent]
        if loses_one:
            await asyncio.sleep(self.rng.uniform(0.05, 0.15))
            victim = self.members[-1]
            victim.die()
            await self.members[0].stores.rounds.member_lost(victim.name)
        await asyncio.gather(*uploads)
        return receipts


@pytest.mark.parametrize("size", [2, 4], ids="{} members".format)
@pytest.mark.parametrize("repetition", range(20))
async def test_the_model_is_the_exact_mean_whoever_counted_what_in_which_order(
    redis_server: Any, connect: Callable[..., Any], size: int, repetition: int
) -> None:
    job, rng = Job.draw(seed=1), random.Random(repetition)
    members = [
        await Member.join(f"member-{n}", connect(redis_server), "digits", job.start)
        for n in range(size)
    ]
    offers = [Offer(device, data_size, 1) for device, (_, data_size) in job.updates.items()]
    verdicts = await members[0].stores.rounds.check_in(FIRST, offers)
    assert set(verdicts) == {Verdict.ACCEPTED}

    receipts = await Cluster(members, job, rng).run(loses_one=repetition % 2 == 1)

    living = [member for member in members if not member.is_dead.is_set()]
    for member in living:
        assert await member.view.wait_for(lambda seen: seen.ref.number == 2, 10_000)
    assert {member.view.base.model.digest for member in living} == {job.expected_digest()}
    counted = [receipt for found in receipts.values() for receipt in found]
    assert sorted(receipt.position for receipt in counted) == list(range(1, DEVICES + 1))
    for member in members:
        await member.leave()
