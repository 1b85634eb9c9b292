"""Reading leases from a real Redis: a renewal is seen, and nothing else looks like one."""

from __future__ import annotations

import pytest

from fl_cluster.lifecycle.membership import Member, Role
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.leases import RedisLeases
from fl_cluster.store.redis.members import RedisMemberStore

pytestmark = pytest.mark.redis

NOW_MS = 1_795_000_000_000
MEMBER = Member(
    id="127.0.0.1:35001::2026-11-25-10:00:00.000.000::54321",
    role=Role.SERVER,
    tcp_address="127.0.0.1:35001",
    http_address="127.0.0.1:6661",
    manage_address="",
    pid=4711,
    host="host-a",
    process_started_s=0.0,
    version="0.1.0",
    kernel="avx2",
    started_ms=0,
)


@pytest.fixture
def keys(request: pytest.FixtureRequest) -> JobKeys:
    return JobKeys(f"leases-{request.node.nodeid}")


@pytest.fixture
def members(connection: Connection, keys: JobKeys) -> RedisMemberStore:
    return RedisMemberStore(connection, keys)


@pytest.fixture
def leases(connection: Connection, keys: JobKeys) -> RedisLeases:
    return RedisLeases(connection, keys)


async def test_a_lease_ends_when_it_was_said_to_and_every_renewal_moves_that(
    members: RedisMemberStore, leases: RedisLeases
) -> None:
    await members.register(MEMBER, 10_000, at_ms=NOW_MS)
    assert await leases.lease_end(MEMBER.id) == NOW_MS + 10_000

    await members.renew(MEMBER.id, 10_000, at_ms=NOW_MS + 1)

    assert await leases.lease_end(MEMBER.id) == NOW_MS + 10_001


async def test_a_member_that_left_or_was_never_there_has_no_lease(
    members: RedisMemberStore, leases: RedisLeases
) -> None:
    assert await leases.lease_end(MEMBER.id) is None
    await members.register(MEMBER, 10_000)

    await members.deregister(MEMBER.id)

    assert await leases.lease_end(MEMBER.id) is None


async def test_a_member_that_was_declared_dead_cannot_move_its_lease(
    members: RedisMemberStore, leases: RedisLeases, connection: Connection, keys: JobKeys
) -> None:
    await members.register(MEMBER, 10_000, at_ms=NOW_MS)
    await connection.command("ZADD", keys.fenced, NOW_MS, MEMBER.id)

    await members.renew(MEMBER.id, 10_000, at_ms=NOW_MS + 5_000)

    assert await leases.lease_end(MEMBER.id) == NOW_MS + 10_000
