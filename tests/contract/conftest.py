"""The two stores under one roof, and connections that are closed after the test.

`stores` gives each test the stores of a job that nobody has opened, once in memory and once
over a Redis of the test's own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from fl_cluster.rounds.phases import RoundRef
from fl_cluster.rounds.plan import Millis, RoundPlan
from fl_cluster.store.memory import MemoryBlobStore, MemoryJobStore
from fl_cluster.store.ports import BlobStore, JobRecord, JobStore, ModelRecord, RoundStore
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.jobs import RedisBlobStore, RedisJobStore
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.rounds import RedisRoundStore


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Connection]]:
    """Opens connections; they are closed after the test."""
    opened: list[Connection] = []

    def open_one(redis: Any, **options: int) -> Connection:
        url = redis if isinstance(redis, str) else redis.url
        opened.append(Connection(url, **options))
        return opened[-1]

    yield open_one
    for connection in opened:
        await connection.close()


@pytest.fixture
def private_redis(start_redis: Callable[..., Any]) -> Callable[..., Any]:
    """Starts a Redis with the given options, to stop, starve or break."""
    return start_redis


@dataclass
class Stores:
    """The stores of one job that nobody has opened, and what a test opens it with."""

    jobs: JobStore
    blobs: BlobStore
    _rounds: Callable[[], RoundStore]

    job = JobRecord("run-1", 20, '{"epochs": 1}', "[]")
    model = ModelRecord(0, "model-0", 16, "ab" * 32, (40, 41))
    first = RoundRef("run-1", 1)
    plan = RoundPlan(
        cohort_size=3,
        report_goal=2,
        select_window_ms=100,
        report_window_ms=50,
        round_window_ms=200,
    )

    async def open(self, **numbers: Any) -> RoundStore:
        """The job's rounds; `numbers` replace those of the plan."""
        plan = replace(self.plan, **numbers)
        assert await self.jobs.open(self.job, self.first, plan, self.model)
        return self._rounds()


def redis_stores(connection: Connection, job: str = "job") -> Stores:
    """The stores over Redis."""
    keys = JobKeys(job)
    rounds = RedisRoundStore(connection, keys)
    jobs, blobs = RedisJobStore(connection, keys), RedisBlobStore(connection, keys)
    return Stores(jobs, blobs, lambda: rounds)


def memory_stores() -> Stores:
    """The stores over plain objects."""
    jobs = MemoryJobStore()
    jobs.use_clock(lambda: Millis(time.time_ns() // 1_000_000))

    def rounds() -> RoundStore:
        assert jobs.rounds is not None
        return jobs.rounds

    return Stores(jobs, MemoryBlobStore(), rounds)


@pytest.fixture
def connection(redis_server: Any, connect: Callable[..., Connection]) -> Connection:
    return connect(redis_server)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def stores(request: pytest.FixtureRequest) -> Stores:
    if request.param == "memory":
        return memory_stores()
    return redis_stores(request.getfixturevalue("connection"))


@pytest.fixture
def redis_job(connection: Connection) -> Stores:
    """The stores over Redis alone, for what only they can do."""
    return redis_stores(connection)


@pytest.fixture
def make_memory_stores() -> Callable[[], Stores]:
    return memory_stores


@pytest.fixture
def make_redis_stores() -> Callable[..., Stores]:
    return redis_stores
