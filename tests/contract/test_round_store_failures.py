"""What callers see when Redis misbehaves: a fault of ours that says why, and nothing done.

`StoreUnavailable` when Redis cannot or may not answer now, `StoreCorrupt` when what it holds
cannot be.  No exception of the client library gets past the store.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fl_cluster.errors import StoreCorrupt, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.machine import Round
from fl_cluster.rounds.phases import Reason, RoundRef, Selecting, Waiting
from fl_cluster.store.ports import (
    ClaimRequest,
    JobRecord,
    Metrics,
    ModelRecord,
    Offer,
    Outcome,
    Pushed,
    ReportBatch,
    ReportOutcome,
    RoundStore,
    UpdateRecord,
)
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.jobs import RedisEvents
from fl_cluster.store.redis.keys import JobKeys

if TYPE_CHECKING:
    from conftest import RedisProcess, Stores

pytestmark = pytest.mark.redis

REF = RoundRef("run-1", 1)
JOB = "frail"
KEYS = JobKeys(JOB)
MODEL = ModelRecord(1, "model-1", 16, "00" * 32, (1,))

Start = Callable[..., "RedisProcess"]
Connect = Callable[..., Connection]
Make = Callable[..., "Stores"]


def batch(*devices: str, partial: str = "p1") -> ReportBatch:
    return ReportBatch([UpdateRecord(device, "d", 0.0, 0.0) for device in devices], partial)


CALLS: dict[str, Callable[[RoundStore], Awaitable[object]]] = {
    "snapshot": lambda rounds: rounds.snapshot(),
    "load": lambda rounds: rounds.load(),
    "check_in": lambda rounds: rounds.check_in(REF, [Offer("b", 1, 1)]),
    "claim": lambda rounds: rounds.claim(REF, "m1", [ClaimRequest("a", 1)]),
    "release": lambda rounds: rounds.release(REF, "m1", ["a"]),
    "report": lambda rounds: rounds.report(REF, "m1", batch("a")),
    "tick": lambda rounds: rounds.tick(REF),
    "abort": lambda rounds: rounds.abort(REF, Reason.JOB_DISABLED),
    "take_lease": lambda rounds: rounds.take_lease(REF, "m1", 1000),
    "publish": lambda rounds: rounds.publish(REF, "m1", Outcome(MODEL, finishes_job=False)),
    "model_served": lambda rounds: rounds.model_served(REF),
    "member_lost": lambda rounds: rounds.member_lost("m1"),
    "disable": lambda rounds: rounds.disable(),
    "enable": lambda rounds: rounds.enable(),
    "restart": lambda rounds: rounds.restart(JobRecord("run-2", 1, "{}", "[]")),
    "counts": lambda rounds: rounds.counts(REF),
    "note_answered": lambda rounds: rounds.note_answered(REF, ["a"]),
    "was_answered": lambda rounds: rounds.was_answered(REF, "a"),
    "partials": lambda rounds: rounds.partials(REF),
    "reported": lambda rounds: rounds.reported(REF),
    "receipt": lambda rounds: rounds.receipt(REF, "a"),
    "count_visits": lambda rounds: rounds.count_visits(REF, {"x": 1}),
    "visits": lambda rounds: rounds.visits(REF),
    "hand_over": lambda rounds: rounds.hand_over(REF, "m1", MODEL),
    "push": lambda rounds: rounds.push(REF, Pushed(MODEL, is_fit=True)),
    "conclude": lambda rounds: rounds.conclude(REF, Metrics(0.5, 0.5)),
    "evaluations": lambda rounds: rounds.evaluations("run-1"),
}
"""Every method of the port."""


def test_no_method_of_the_port_is_left_out() -> None:
    methods = {name for name in vars(RoundStore) if not name.startswith("_")}

    assert set(CALLS) == methods


async def a_round_with_a_claim(stores: Stores) -> RoundStore:
    """Round 1 with device `a` in it, whose update `m1` has claimed."""
    rounds = await stores.open(
        select_window_ms=60_000, report_window_ms=60_000, round_window_ms=60_000
    )
    await rounds.check_in(REF, [Offer("a", 1, 1)])
    await rounds.claim(REF, "m1", [ClaimRequest("a", 1)])
    return rounds


async def reason_of(call: Callable[[], Awaitable[object]]) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        await call()
    assert caught.value.operation
    return caught.value.reason


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 10
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_redis_that_is_not_there_is_a_fault_of_every_call(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis()
    connection = connect(redis)
    stores = make_redis_stores(connection, JOB)
    rounds = await a_round_with_a_claim(stores)
    redis.kill()

    for call in CALLS.values():
        assert "onnect" in await reason_of(lambda call=call: call(rounds))
    for call in (stores.jobs.job, stores.jobs.models, connection.ping, connection.now_ms):
        assert "onnect" in await reason_of(call)
    assert await reason_of(lambda: stores.blobs.put("x", b"1", None))
    assert await reason_of(lambda: stores.blobs.get("x", memoryview(bytearray(1))))
    assert await reason_of(lambda: stores.blobs.drop(["x"]))
    assert await reason_of(
        lambda: stores.jobs.open(stores.job, stores.first, stores.plan, stores.model)
    )
    assert await reason_of(lambda: anext(RedisEvents(connection, KEYS).listen()))


async def test_a_port_that_refuses_is_named_in_the_reason(connect: Connect) -> None:
    connection = connect("redis://127.0.0.1:1/0", timeout_ms=500)

    reason = await reason_of(connection.ping)

    assert "127.0.0.1:1" in reason


async def test_everything_goes_on_when_redis_comes_back(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis("--appendonly", "yes", "--appendfsync", "always")
    rounds = await a_round_with_a_claim(make_redis_stores(connect(redis), JOB))
    before = await rounds.load()
    redis.kill()
    await reason_of(rounds.snapshot)
    redis.start()

    assert await rounds.load() == before
    assert await rounds.report(REF, "m1", batch("a")) == ReportOutcome(Verdict.ACCEPTED, (1,))


async def test_a_redis_that_comes_back_empty_has_no_round(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis()
    stores = make_redis_stores(connect(redis), JOB)
    rounds = await a_round_with_a_claim(stores)
    redis.kill()
    redis.start()

    assert await rounds.snapshot() is None
    assert await stores.jobs.job() is None
    assert await stores.jobs.models() == {}
    assert (await rounds.report(REF, "m1", batch("a"))).verdict is Verdict.MOVED_ON
    assert await rounds.check_in(REF, [Offer("b", 1, 1)]) == [Verdict.MOVED_ON]
    assert await rounds.member_lost("m1") is Verdict.MOVED_ON
    with pytest.raises(StoreCorrupt, match=f"no round.*{JOB}"):
        await rounds.load()


async def test_a_redis_that_comes_back_with_older_data_goes_on_from_there(
    private_redis: Start, connect: Connect, make_redis_stores: Make, tmp_path: Path
) -> None:
    """What was counted since is forgotten, and whoever counted it is told so."""
    redis = private_redis("--appendonly", "yes", "--appendfsync", "always")
    rounds = await a_round_with_a_claim(make_redis_stores(connect(redis), JOB))
    older, saved = await rounds.load(), tmp_path / "saved"
    shutil.copytree(redis.folder, saved)
    await rounds.report(REF, "m1", batch("a"))
    await rounds.check_in(REF, [Offer("b", 1, 1)])
    await rounds.claim(REF, "m1", [ClaimRequest("b", 1)])
    redis.kill()
    shutil.rmtree(redis.folder)
    shutil.copytree(saved, redis.folder)
    redis.start()

    assert await rounds.load() == older
    assert await rounds.receipt(REF, "a") is None
    newer = await rounds.report(REF, "m1", batch("b", partial="p2"))
    again = await rounds.report(REF, "m1", batch("a", partial="p3"))
    assert newer == ReportOutcome(Verdict.UNCLAIMED, ())
    assert again == ReportOutcome(Verdict.ACCEPTED, (1,))


async def test_a_rebuilt_round_takes_nothing_of_its_first_try(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis()
    stores = make_redis_stores(connect(redis), JOB)
    rounds = await a_round_with_a_claim(stores)
    redis.kill()
    redis.start()
    again = RoundRef("run-1", 1, attempt=2)

    assert await stores.jobs.open(stores.job, again, stores.plan, stores.model)

    assert (await rounds.report(REF, "m1", batch("a"))).verdict is Verdict.MOVED_ON
    assert await rounds.load() == Round(Waiting(again, stores.plan))


@pytest.mark.parametrize("name", CALLS)
async def test_a_redis_that_hangs_is_a_fault_in_time(
    name: str, private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis()
    rounds = await a_round_with_a_claim(make_redis_stores(connect(redis, timeout_ms=100), JOB))
    os.kill(redis.pid, signal.SIGSTOP)
    started = time.monotonic()

    reason = await reason_of(lambda name=name: CALLS[name](rounds))

    assert "imeout" in reason
    assert time.monotonic() - started < 2
    os.kill(redis.pid, signal.SIGCONT)


async def test_a_call_that_timed_out_leaves_no_answer_for_the_next(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis()
    connection = connect(redis, timeout_ms=100, pool_size=1)
    rounds = await a_round_with_a_claim(make_redis_stores(connection, JOB))
    os.kill(redis.pid, signal.SIGSTOP)
    await reason_of(connection.now_ms)
    os.kill(redis.pid, signal.SIGCONT)

    assert await rounds.partials(REF) == {}
    assert (await rounds.load()).phase.ref == REF


async def test_a_claim_that_redis_carries_out_late_is_released_all_the_same(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis()
    rounds = await a_round_with_a_claim(make_redis_stores(connect(redis, timeout_ms=100), JOB))
    await rounds.check_in(REF, [Offer("b", 1, 1)])
    os.kill(redis.pid, signal.SIGSTOP)
    await reason_of(lambda: rounds.claim(REF, "m1", [ClaimRequest("b", 1)]))
    os.kill(redis.pid, signal.SIGCONT)

    assert await rounds.release(REF, "m1", ["b"]) is Verdict.ACCEPTED

    phase = (await rounds.load()).phase
    assert isinstance(phase, Selecting)
    assert phase.claims == {"a": "m1"}


async def test_a_cancelled_call_leaves_no_answer_for_the_next(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis()
    connection = connect(redis, pool_size=1)
    rounds = await a_round_with_a_claim(make_redis_stores(connection, JOB))
    os.kill(redis.pid, signal.SIGSTOP)
    task = asyncio.create_task(connection.now_ms())
    await asyncio.wait({task}, timeout=0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.kill(redis.pid, signal.SIGCONT)

    assert await rounds.partials(REF) == {}
    assert (await rounds.load()).phase.ref == REF


async def test_a_redis_without_memory_leaves_the_round_as_it_was(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis("--maxmemory-policy", "noeviction")
    connection = connect(redis)
    stores = make_redis_stores(connection, JOB)
    rounds = await a_round_with_a_claim(stores)
    before, models = await rounds.load(), await stores.jobs.models()
    await connection.command("CONFIG", "SET", "maxmemory", "1")

    for name in ("check_in", "abort", "member_lost", "count_visits"):
        reason = await reason_of(lambda name=name: CALLS[name](rounds))
        assert "maxmemory" in reason
    assert "maxmemory" in await reason_of(lambda: stores.blobs.put("x", b"1", None))
    assert await stores.jobs.models() == models
    await connection.command("CONFIG", "SET", "maxmemory", "0")

    assert await rounds.load() == before


async def test_a_report_without_memory_is_counted_whole(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    """Its first write frees memory, and Redis never stops a script that has begun to write."""
    connection = connect(private_redis())
    rounds = await a_round_with_a_claim(make_redis_stores(connection, JOB))
    await connection.command("CONFIG", "SET", "maxmemory", "1")

    assert await rounds.report(REF, "m1", batch("a")) == ReportOutcome(Verdict.ACCEPTED, (1,))
    await connection.command("CONFIG", "SET", "maxmemory", "0")

    phase = (await rounds.load()).phase
    assert isinstance(phase, Selecting)
    assert (phase.claims, set(phase.reports), phase.partials) == ({}, {"a"}, {"m1": "p1"})
    assert phase.first_report_at == phase.reports["a"].at


async def test_publishing_without_memory_publishes_nothing(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis()
    connection = connect(redis)
    stores = make_redis_stores(connection, JOB)
    rounds = await a_round_with_a_claim(stores)
    await rounds.abort(REF, Reason.JOB_DISABLED)
    await rounds.take_lease(REF, "m1", 60_000)
    before, models = await rounds.load(), await stores.jobs.models()
    await connection.command("CONFIG", "SET", "maxmemory", "1")

    assert "maxmemory" in await reason_of(lambda: CALLS["publish"](rounds))
    await connection.command("CONFIG", "SET", "maxmemory", "0")

    assert await rounds.load() == before
    assert await stores.jobs.models() == models


async def test_a_replica_takes_no_writes_and_still_tells_what_it_knows(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis()
    connection = connect(redis)
    stores = make_redis_stores(connection, JOB)
    rounds = await a_round_with_a_claim(stores)
    before = await rounds.load()
    await connection.command("REPLICAOF", "127.0.0.1", "1")

    for name in ("check_in", "report", "release", "abort", "member_lost", "model_served"):
        assert "read only replica" in await reason_of(lambda name=name: CALLS[name](rounds))
    assert "read only replica" in await reason_of(lambda: stores.blobs.put("x", b"1", None))
    assert await rounds.load() == before


async def test_a_replica_without_its_master_is_a_fault(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis("--replica-serve-stale-data", "no")
    connection = connect(redis)
    rounds = await a_round_with_a_claim(make_redis_stores(connection, JOB))
    await connection.command("REPLICAOF", "127.0.0.1", "1")

    for call in CALLS.values():
        assert "MASTER" in await reason_of(lambda call=call: call(rounds))


async def test_a_redis_busy_with_a_script_is_a_fault(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis("--lua-time-limit", "50")
    connection, other = connect(redis), connect(redis, timeout_ms=20_000)
    rounds = await a_round_with_a_claim(make_redis_stores(connection, JOB))
    endless = asyncio.create_task(other.command("EVAL", "while true do end", 0))

    async def is_busy() -> bool:
        try:
            await connection.ping()
        except StoreUnavailable:
            return True
        return False

    await eventually(is_busy)
    for call in CALLS.values():
        assert "busy running a script" in await reason_of(lambda call=call: call(rounds))
    await connection.command("SCRIPT", "KILL")
    with pytest.raises(StoreCorrupt, match="killed"):
        await endless

    assert isinstance((await rounds.load()).phase, Selecting)


async def test_a_redis_that_cannot_save_is_a_fault(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis("--save", "3600", "1")
    connection = connect(redis)
    rounds = await a_round_with_a_claim(make_redis_stores(connection, JOB))
    # A folder by the name of the snapshot file cannot be replaced by it, not even by root.
    (redis.folder / "dump.rdb").mkdir()

    with pytest.raises(StoreCorrupt):
        await connection.command("SAVE")
    await connection.command("BGSAVE")

    async def refuses() -> bool:
        try:
            await rounds.model_served(REF)
        except StoreUnavailable as exc:
            return "MISCONF" in exc.reason
        return False

    await eventually(refuses)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis://{address}", "uthenticat"),
        ("redis://user:wrong@{address}", "invalid username-password"),
        ("redis://reader:secret@{address}", "permission"),
    ],
)
async def test_a_redis_that_does_not_let_us_in_is_a_fault(
    private_redis: Start, connect: Connect, make_redis_stores: Make, url: str, word: str
) -> None:
    redis = private_redis("--requirepass", "secret")
    admin = connect(f"redis://:secret@{redis.address}")
    await admin.command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+ping")
    connection = connect(url.format(address=redis.address))
    rounds = make_redis_stores(connection, JOB)._rounds()

    for call in CALLS.values():
        assert word in await reason_of(lambda call=call: call(rounds))


async def test_no_connection_left_is_a_fault(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis()
    connection = connect(redis, timeout_ms=200, pool_size=1)
    rounds = await a_round_with_a_claim(make_redis_stores(connection, JOB))
    words = RedisEvents(connection, KEYS).listen()
    assert await anext(words) == "subscribed"

    reason = await reason_of(rounds.snapshot)

    assert "onnection" in reason
    await words.aclose()  # type: ignore[attr-defined]
    assert await rounds.snapshot() is not None


async def test_scripts_that_redis_forgot_are_loaded_again(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    connection = connect(private_redis())
    rounds = await a_round_with_a_claim(make_redis_stores(connection, JOB))
    await connection.command("SCRIPT", "FLUSH")

    assert await rounds.report(REF, "m1", batch("a")) == ReportOutcome(Verdict.ACCEPTED, (1,))


@pytest.mark.parametrize(
    "damage",
    [
        ("HSET", KEYS.round, "phase", "dreaming"),
        ("HSET", KEYS.round, "ref", "nonsense"),
        ("HSET", KEYS.round, "cohort_size", "many"),
        ("HDEL", KEYS.round, "report_goal"),
        ("HSET", KEYS.cohort(str(REF)), "a", "1"),
        ("HSET", KEYS.reports(str(REF)), "a", "1 2 not json"),
    ],
    ids=lambda command: f"{command[1].rpartition(':')[2]}-{command[2]}",
)
async def test_a_damaged_record_is_no_round(
    connection: Connection, redis_job: Stores, damage: tuple[str, ...]
) -> None:
    rounds = await a_round_with_a_claim(redis_job)
    own = redis_job.jobs._keys  # type: ignore[attr-defined]
    key = damage[1].replace(KEYS.name, own.name)
    await connection.command(damage[0], key, *damage[2:])

    with pytest.raises(StoreCorrupt):
        await rounds.load()


async def test_a_damaged_snapshot_is_no_snapshot(connection: Connection, redis_job: Stores) -> None:
    rounds = await redis_job.open()
    own = redis_job.jobs._keys  # type: ignore[attr-defined]
    await connection.command("HDEL", own.round, "served")

    with pytest.raises(StoreCorrupt, match="served"):
        await rounds.snapshot()


async def test_damaged_counts_are_not_passed_on(connection: Connection, redis_job: Stores) -> None:
    rounds = await a_round_with_a_claim(redis_job)
    own = redis_job.jobs._keys  # type: ignore[attr-defined]
    await connection.command("HSET", own.reports(str(REF)), "a", "1 2 not json")

    with pytest.raises(StoreCorrupt, match="damaged"):
        await rounds.receipt(REF, "a")
    with pytest.raises(StoreCorrupt, match="damaged"):
        await rounds.reported(REF)


async def test_a_key_of_another_kind_is_corruption(
    connection: Connection, redis_job: Stores
) -> None:
    rounds = await redis_job.open()
    own = redis_job.jobs._keys  # type: ignore[attr-defined]
    await connection.command("SET", own.cohort(str(REF)), "not a hash")

    with pytest.raises(StoreCorrupt, match="WRONGTYPE"):
        await rounds.check_in(REF, [Offer("a", 1, 1)])


async def test_a_script_that_cannot_go_on_is_corruption(
    connection: Connection, redis_job: Stores
) -> None:
    rounds = await redis_job.open()
    own = redis_job.jobs._keys  # type: ignore[attr-defined]
    await connection.command("HDEL", own.round, "round_window_ms")

    with pytest.raises(StoreCorrupt, match="round_window_ms"):
        await rounds.check_in(REF, [Offer("a", 1, 1)])


async def test_silence_is_no_fault_of_a_listener(private_redis: Start, connect: Connect) -> None:
    redis = private_redis()
    connection, other = connect(redis, timeout_ms=50), connect(redis)
    words = RedisEvents(connection, KEYS).listen()
    assert await anext(words) == "subscribed"
    waiting = asyncio.ensure_future(anext(words))

    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done
    await other.publish(KEYS.events, "reporting")

    assert await asyncio.wait_for(waiting, 5) == "reporting"
    await words.aclose()  # type: ignore[attr-defined]


async def test_a_listener_hears_of_every_change_of_phase(
    private_redis: Start, connect: Connect, make_redis_stores: Make
) -> None:
    redis = private_redis()
    rounds = await make_redis_stores(connect(redis), JOB).open(report_goal=1, cohort_size=1)
    words = RedisEvents(connect(redis), KEYS).listen()
    heard = [await anext(words)]

    await rounds.check_in(REF, [Offer("a", 1, 1)])
    await rounds.claim(REF, "m1", [ClaimRequest("a", 1)])
    await rounds.report(REF, "m1", batch("a"))
    await rounds.take_lease(REF, "m1", 1000)
    await rounds.publish(REF, "m1", Outcome(MODEL, finishes_job=False))
    await rounds.member_lost("m1")
    await rounds.abort(REF.next(), Reason.JOB_DISABLED)
    heard += [await anext(words) for _ in range(6)]

    assert heard == [
        "subscribed",
        "selecting",
        "reporting",
        "aggregating",
        "committed",
        "member_lost",
        "abandoning",
    ]
    await words.aclose()  # type: ignore[attr-defined]


async def test_a_listener_learns_when_the_link_breaks(
    private_redis: Start, connect: Connect
) -> None:
    redis = private_redis()
    words = RedisEvents(connect(redis), KEYS).listen()
    assert await anext(words) == "subscribed"
    redis.kill()

    with pytest.raises(StoreUnavailable):
        await anext(words)
