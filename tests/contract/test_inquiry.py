"""Why the round is not moving, asked of a Redis that is really in that condition."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from fl_cluster.lifecycle.membership import Member, MemberState, Role
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.rounds.plan import ExchangePlan, RoundPlan
from fl_cluster.service.explanation import Cause
from fl_cluster.service.inquiry import Inquiry, Witnesses
from fl_cluster.store.ports import JobRecord, ModelRecord, Offer
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.leases import RedisLeases
from fl_cluster.store.redis.members import RedisMemberStore

if TYPE_CHECKING:
    from conftest import RedisProcess, Stores

pytestmark = pytest.mark.redis

JOB = "frail"
REF = RoundRef("run-1", 1)
LONG = {"select_window_ms": 60_000, "report_window_ms": 60_000, "round_window_ms": 60_000}
LEASE_MS = 60_000

Make = Callable[..., "Stores"]


def a_process(role: Role, port: int) -> Member:
    return Member(
        id=f"127.0.0.1:{port}::2026-11-25-10:00:00.000.000::54321",
        role=role,
        tcp_address=f"127.0.0.1:{port}",
        http_address=f"127.0.0.1:{port}",
        manage_address="",
        pid=4711,
        host="host-a",
        process_started_s=1.0,
        version="0.1.0",
        kernel="avx2",
        started_ms=0,
        state=MemberState.SERVING,
    )


SERVER, SCHEDULER = a_process(Role.SERVER, 35_001), a_process(Role.SCHEDULER, 35_009)


class Asked:
    """An inquiry, and the connection that it asks over."""

    def __init__(self, connection: Connection, make_redis_stores: Make) -> None:
        keys = JobKeys(JOB)
        self.connection = connection
        self.stores = make_redis_stores(connection, JOB)
        self.rounds = self.stores._rounds()
        self.members = RedisMemberStore(connection, keys)
        self.inquiry = Inquiry(
            JOB,
            Witnesses(
                rounds=self.rounds,
                jobs=self.stores.jobs,
                members=self.members,
                leases=RedisLeases(connection, keys),
                now_ms=connection.now_ms,
                write=lambda: self.members.renew(SCHEDULER.id, LEASE_MS),
                unreachable=dict,
                exchange=self.rounds,
            ),
        )

    async def begin(self) -> None:
        """A round with one device in it, one server and this scheduler."""
        await self.stores.open(**LONG)
        for member in (SERVER, SCHEDULER):
            await self.members.register(member, LEASE_MS)
        await self.rounds.check_in(REF, [Offer("a", 1, 1)])

    async def cause(self) -> Cause:
        return (await self.inquiry.look()).cause

    async def next_cause(self, present: Cause) -> Cause:
        """The cause once it is another one than at present."""
        deadline = time.monotonic() + 10
        while (found := await self.cause()) is present:
            assert time.monotonic() < deadline
        return found


@pytest.fixture
def ask(connect: Callable[..., Connection], make_redis_stores: Make) -> Callable[..., Asked]:
    def make(redis: Any, **options: int) -> Asked:
        return Asked(connect(redis, **options), make_redis_stores)

    return make


@pytest.fixture
def stopped(redis_server: RedisProcess) -> Iterator[RedisProcess]:
    """A Redis that may be stopped by a signal; it goes on after the test."""
    yield redis_server
    os.kill(redis_server.pid, signal.SIGCONT)


async def test_a_healthy_store_leaves_the_round_s_own_cause(
    redis_server: RedisProcess, ask: Callable[..., Asked]
) -> None:
    asked = ask(redis_server)
    assert await asked.cause() is Cause.NO_JOB
    await asked.begin()

    found = await asked.inquiry.look()

    assert found.cause is Cause.WAITING_FOR_DEVICES
    assert (found.have, found.need) == (1, 3)
    assert found.since is not None
    assert found.until == found.since + 60_000
    assert found.notes == ()


async def test_the_devices_that_have_taken_a_step_are_counted(
    redis_server: RedisProcess, ask: Callable[..., Asked]
) -> None:
    asked = ask(redis_server)
    exchange = ExchangePlan(keys=2, shares=2, signatures=0, reveals=2, window_ms=20_000)
    await asked.stores.open(**{**LONG, "exchange": exchange})
    for member in (SERVER, SCHEDULER):
        await asked.members.register(member, LEASE_MS)
    await asked.rounds.check_in(REF, [Offer(device, 1, 1) for device in ("a", "b", "c")])
    await asked.rounds.tell(REF, Step.KEYS, "b", b"its keys")

    found = await asked.inquiry.look()

    assert found.cause is Cause.WAITING_FOR_EXCHANGE
    assert found.sentence.endswith("waits for devices to offer keys for masks: 1 of 2 have.")


async def test_the_kind_of_masks_is_read_from_the_job(
    redis_server: RedisProcess, ask: Callable[..., Asked]
) -> None:
    asked = ask(redis_server)
    plan = RoundPlan(3, 2, 60_000, 60_000, 60_000, exchange=ExchangePlan(2, 2, 2, 2, 20_000))
    job = JobRecord("run-1", 5, '{"encrypt_type":"SECURE_AGGREGATION"}', "[]")
    assert await asked.stores.jobs.open(job, REF, plan, ModelRecord(0, "model-0", 4, "d", (0,)))
    for member in (SERVER, SCHEDULER):
        await asked.members.register(member, LEASE_MS)
    await asked.rounds.check_in(REF, [Offer(device, 1, 1) for device in ("a", "b", "c")])
    await asked.rounds.tell(REF, Step.KEYS, "b", b"its keys")

    found = await asked.inquiry.look()

    assert "encrypt.secure_aggregation.step_window_ms" in found.then


async def test_a_redis_that_is_gone_is_unreachable(
    redis_server: RedisProcess, ask: Callable[..., Asked]
) -> None:
    asked = ask(redis_server)
    await asked.begin()
    redis_server.kill()

    found = await asked.inquiry.look()

    assert found.cause is Cause.STORE_UNREACHABLE
    assert "onnect" in found.sentence


async def test_a_redis_that_hangs_is_unreachable(
    stopped: RedisProcess, ask: Callable[..., Asked]
) -> None:
    asked = ask(stopped, timeout_ms=100)
    await asked.begin()
    os.kill(stopped.pid, signal.SIGSTOP)

    assert await asked.cause() is Cause.STORE_UNREACHABLE


async def test_a_replica_is_read_only_and_what_it_holds_is_noted(
    redis_server: RedisProcess, ask: Callable[..., Asked]
) -> None:
    asked = ask(redis_server)
    await asked.begin()
    await asked.connection.command("REPLICAOF", "127.0.0.1", "1")

    found = await asked.inquiry.look()

    assert found.cause is Cause.STORE_READ_ONLY
    assert "1 of 3 have checked in" in found.notes[0]


async def test_a_replica_that_tells_nothing_without_its_primary_is_unreachable(
    private_redis: Callable[..., RedisProcess], ask: Callable[..., Asked]
) -> None:
    asked = ask(private_redis("--replica-serve-stale-data", "no"))
    await asked.begin()
    await asked.connection.command("REPLICAOF", "127.0.0.1", "1")

    found = await asked.inquiry.look()

    assert found.cause is Cause.STORE_UNREACHABLE
    assert found.sentence.startswith("Redis has lost its primary")


async def test_a_redis_without_memory_says_so(
    redis_server: RedisProcess, ask: Callable[..., Asked]
) -> None:
    asked = ask(redis_server)
    await asked.begin()
    await asked.connection.command("CONFIG", "SET", "maxmemory", "1")

    assert await asked.cause() is Cause.STORE_OUT_OF_MEMORY


async def test_a_redis_that_cannot_save_has_trouble_with_its_disk(
    private_redis: Callable[..., RedisProcess], ask: Callable[..., Asked]
) -> None:
    redis = private_redis("--save", "3600", "1")
    asked = ask(redis)
    await asked.begin()
    # A folder by the name of the snapshot file cannot be replaced by it, not even by root.
    (redis.folder / "dump.rdb").mkdir()
    await asked.connection.command("BGSAVE")

    assert await asked.next_cause(Cause.WAITING_FOR_DEVICES) is Cause.STORE_DISK


async def test_a_redis_that_reads_its_data_is_loading(
    private_redis: Callable[..., RedisProcess], ask: Callable[..., Asked]
) -> None:
    redis = private_redis("--key-load-delay", "20000", has_debug=True)
    asked = ask(redis)
    await asked.begin()
    fill = ask(redis)
    for number in range(60):
        # Redis answers every 2 MB that it has read; what cannot be packed makes that often.
        await fill.connection.command("SET", f"filler {number}", os.urandom(256 * 1024))
    reload = asyncio.create_task(fill.connection.command("DEBUG", "RELOAD"))

    causes = set()
    while not reload.done():
        causes.add(await asked.cause())
    await reload

    assert Cause.STORE_LOADING in causes
    assert await asked.cause() is Cause.WAITING_FOR_DEVICES


async def test_a_redis_that_asks_for_a_password_forbids(
    private_redis: Callable[..., RedisProcess], ask: Callable[..., Asked]
) -> None:
    redis = private_redis()
    asked, admin = ask(redis), ask(redis)
    await asked.begin()
    await admin.connection.command("CONFIG", "SET", "requirepass", "secret")
    await asked.connection.close()

    assert await asked.cause() is Cause.STORE_FORBIDDEN


async def test_a_user_that_may_only_read_is_forbidden(
    redis_server: RedisProcess, ask: Callable[..., Asked]
) -> None:
    admin = ask(redis_server)
    await admin.begin()
    await admin.connection.command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+eval")
    reader = ask(f"redis://reader:pw@127.0.0.1:{redis_server.port}/0")

    assert await reader.cause() is Cause.STORE_FORBIDDEN


async def test_a_redis_in_a_script_that_does_not_end_is_busy(
    private_redis: Callable[..., RedisProcess], ask: Callable[..., Asked]
) -> None:
    redis = private_redis("--lua-time-limit", "50")
    asked, other = ask(redis), ask(redis, timeout_ms=20_000)
    await asked.begin()
    script = asyncio.create_task(other.connection.command("EVAL", "while true do end", "0"))

    found = await asked.next_cause(Cause.WAITING_FOR_DEVICES)
    await asked.connection.command("SCRIPT", "KILL")
    await asyncio.wait([script])

    assert found is Cause.STORE_BUSY
    assert script.exception() is not None


async def test_a_record_of_somebody_else_s_is_damage(
    redis_server: RedisProcess, ask: Callable[..., Asked]
) -> None:
    asked = ask(redis_server)
    await asked.begin()
    await asked.connection.command("DEL", JobKeys(JOB).round)
    await asked.connection.command("SET", JobKeys(JOB).round, "mine")

    assert await asked.cause() is Cause.STORE_DAMAGED


async def test_servers_whose_leases_ended_are_named(
    redis_server: RedisProcess, ask: Callable[..., Asked]
) -> None:
    asked = ask(redis_server)
    await asked.begin()
    await asked.members.register(SERVER, 1)

    assert await asked.next_cause(Cause.WAITING_FOR_DEVICES) is Cause.LEASES_EXPIRED
    found = await asked.inquiry.look()

    assert SERVER.id in found.sentence
    assert found.since is not None
    assert found.since <= await asked.connection.now_ms()
