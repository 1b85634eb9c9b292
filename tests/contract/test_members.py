"""The membership port on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from fl_cluster.errors import StoreCorrupt, StoreUnavailable
from fl_cluster.lifecycle.membership import Member, MemberState, Role
from fl_cluster.store.member_port import Renewal
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JOBS, JobKeys
from fl_cluster.store.redis.members import RedisJobDirectory, RedisMemberStore
from fl_cluster.store.redis.rounds import RedisRoundStore

pytestmark = pytest.mark.redis

LEASE_MS = 10_000


def a_member(number: int = 1, **changes: Any) -> Member:
    member = Member(
        id=f"127.0.0.1:3500{number}::2026-11-25-10:00:00.000.000::54321",
        role=Role.SERVER,
        tcp_address=f"127.0.0.1:3500{number}",
        http_address=f"127.0.0.1:666{number}",
        manage_address="",
        pid=4711,
        host="host-a",
        process_started_s=1_795_000_000.25,
        version="0.1.0",
        kernel="avx2",
        started_ms=1_795_000_000_500,
        state=MemberState.SERVING,
    )
    return replace(member, **changes)


@pytest.fixture
def keys(connection: Connection, request: pytest.FixtureRequest) -> JobKeys:
    return JobKeys(f"members-{request.node.nodeid}")


@pytest.fixture
async def members(connection: Connection, keys: JobKeys) -> AsyncIterator[RedisMemberStore]:
    yield RedisMemberStore(connection, keys)
    await connection.command("SREM", JOBS, keys.name)


async def test_a_registered_member_is_listed_exactly_as_it_registered(
    members: RedisMemberStore,
) -> None:
    first, second = a_member(1), a_member(2, role=Role.WORKER, state=MemberState.DRAINING)

    assert await members.register(second, LEASE_MS) is Renewal.RENEWED
    assert await members.register(first, LEASE_MS) is Renewal.RENEWED

    assert await members.live() == [first, second]
    assert await members.everyone() == [first, second]


async def test_registering_again_replaces_the_record(members: RedisMemberStore) -> None:
    await members.register(a_member(), LEASE_MS)

    await members.register(a_member(state=MemberState.DRAINING), LEASE_MS)

    assert await members.live() == [a_member(state=MemberState.DRAINING)]


async def test_a_lease_holds_until_its_last_millisecond_and_a_renewal_moves_it(
    members: RedisMemberStore,
) -> None:
    await members.register(a_member(), LEASE_MS, at_ms=1_000)

    assert await members.live(at_ms=10_999) == [a_member()]
    assert await members.live(at_ms=11_000) == []
    assert await members.renew(a_member().id, LEASE_MS, at_ms=5_000) is Renewal.RENEWED
    assert await members.live(at_ms=14_999) == [a_member()]
    assert await members.live(at_ms=15_000) == []


async def test_an_overdue_member_is_reported_until_it_is_declared_dead(
    members: RedisMemberStore, connection: Connection, keys: JobKeys
) -> None:
    await members.register(a_member(1), LEASE_MS, at_ms=1_000)
    await members.register(a_member(2), LEASE_MS, at_ms=9_000)

    assert await members.overdue(at_ms=10_999) == []
    assert await members.overdue(at_ms=11_000) == [a_member(1).id]
    await connection.command("ZADD", keys.fenced, 11_000, a_member(1).id)
    assert await members.overdue(at_ms=11_000) == []


async def test_an_overdue_member_that_nobody_declared_dead_is_alive_again(
    members: RedisMemberStore,
) -> None:
    await members.register(a_member(), LEASE_MS, at_ms=1_000)

    assert await members.renew(a_member().id, LEASE_MS, at_ms=50_000) is Renewal.RENEWED

    assert await members.live(at_ms=50_001) == [a_member()]


async def test_a_dead_member_can_neither_renew_nor_register_and_is_not_listed(
    members: RedisMemberStore, redis_job: Any, connection: Connection
) -> None:
    await redis_job.open()
    keys = redis_job.jobs._keys
    members = RedisMemberStore(connection, keys)
    await members.register(a_member(), LEASE_MS)

    await RedisRoundStore(connection, keys).member_lost(a_member().id)

    assert await members.renew(a_member().id, LEASE_MS) is Renewal.FENCED
    assert await members.register(a_member(), LEASE_MS) is Renewal.FENCED
    assert await members.live() == []
    assert await members.everyone() == [a_member()]


async def test_a_member_of_whom_nothing_is_known_is_told_so(members: RedisMemberStore) -> None:
    assert await members.renew(a_member().id, LEASE_MS) is Renewal.UNKNOWN
    assert await members.live() == []


async def test_a_member_that_leaves_is_gone_at_once_and_may_leave_twice(
    members: RedisMemberStore,
) -> None:
    await members.register(a_member(), LEASE_MS)

    await members.deregister(a_member().id)
    await members.deregister(a_member().id)

    assert await members.everyone() == []
    assert await members.renew(a_member().id, LEASE_MS) is Renewal.UNKNOWN


async def test_the_dead_are_forgotten_after_their_time_and_not_before(
    members: RedisMemberStore, connection: Connection, keys: JobKeys
) -> None:
    await members.register(a_member(1), LEASE_MS, at_ms=1_000)
    await members.register(a_member(2), LEASE_MS, at_ms=1_000)
    await connection.command("ZADD", keys.fenced, 20_000, a_member(1).id)

    assert await members.forget_dead(5_000, at_ms=24_999) == 0
    assert await members.everyone() == [a_member(1), a_member(2)]
    assert await members.forget_dead(5_000, at_ms=25_000) == 1
    assert await members.everyone() == [a_member(2)]
    assert await members.renew(a_member(1).id, LEASE_MS) is Renewal.UNKNOWN


async def test_members_of_one_job_are_none_of_another_s(
    members: RedisMemberStore, connection: Connection
) -> None:
    other = RedisMemberStore(connection, JobKeys("another job"))

    await members.register(a_member(), LEASE_MS)

    assert await other.everyone() == []


async def test_a_job_is_in_the_directory_from_its_first_member_on(
    members: RedisMemberStore, connection: Connection, keys: JobKeys
) -> None:
    directory = RedisJobDirectory(connection)
    assert keys.name not in await directory.names()

    await members.register(a_member(role=Role.SCHEDULER), LEASE_MS)

    assert keys.name in await directory.names()


async def test_a_record_of_a_newer_version_is_read_without_what_is_unknown(
    members: RedisMemberStore, connection: Connection, keys: JobKeys
) -> None:
    await members.register(a_member(), LEASE_MS)
    record = await connection.command("HGET", keys.members, a_member().id)
    newer = record[:-1] + b',"region":"eu"}'

    await connection.command("HSET", keys.members, a_member().id, newer)

    assert await members.live() == [a_member()]


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b"not json", b'{"role":"king"}'])
async def test_a_record_that_cannot_be_is_a_fault_that_shows_it(
    members: RedisMemberStore, connection: Connection, keys: JobKeys, record: bytes
) -> None:
    await members.register(a_member(), LEASE_MS)
    await connection.command("HSET", keys.members, a_member().id, record)

    with pytest.raises(StoreCorrupt, match="the record of a member cannot be read"):
        await members.live()


async def test_a_real_lease_ends_by_redis_s_own_clock(members: RedisMemberStore) -> None:
    await members.register(a_member(), 100)
    assert await members.live() == [a_member()]

    async with asyncio.timeout(5):
        while True:
            if not await members.live():
                break
            await asyncio.sleep(0.01)

    assert await members.overdue() == [a_member().id]


async def test_a_redis_that_is_away_is_a_fault_and_the_members_are_there_when_it_is_back(
    private_redis: Any, connect: Any
) -> None:
    redis = private_redis("--appendonly", "yes", "--appendfsync", "always")
    members = RedisMemberStore(connect(redis, timeout_ms=500), JobKeys("job"))
    await members.register(a_member(), LEASE_MS)

    redis.kill()
    with pytest.raises(StoreUnavailable):
        await members.renew(a_member().id, LEASE_MS)
    redis.start()

    assert await members.renew(a_member().id, LEASE_MS) is Renewal.RENEWED
    assert await members.live() == [a_member()]
