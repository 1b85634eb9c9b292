"""One connection to Redis: what breaks it, and what callers hear of that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import uvloop

from fl_cluster.errors import StoreCorrupt, StoreUnavailable
from fl_cluster.store.redis import connection as connection_module
from fl_cluster.store.redis.connection import Connection

if TYPE_CHECKING:
    from conftest import RedisProcess

Start = Callable[..., "RedisProcess"]
Connect = Callable[..., Connection]


async def _hang_up_soon(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Somebody who closes every connection, now at once, now in the middle of a command."""
    with contextlib.suppress(asyncio.CancelledError):
        if random.random() < 0.5:
            await asyncio.sleep(random.random() / 500)
    writer.close()


async def _ask_somebody_who_hangs_up() -> Counter[str]:
    server = await asyncio.start_server(_hang_up_soon, "127.0.0.1", 0)
    connection = Connection(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    heard: Counter[str] = Counter()

    async def ask() -> None:
        for _ in range(100):
            try:
                await connection.command("SET", "key", "value")
            except StoreUnavailable as fault:
                heard[fault.operation] += 1

    async with server:
        await asyncio.gather(*(ask() for _ in range(8)))
    await connection.close()
    return heard


def test_a_connection_that_is_closed_at_any_instant_is_a_fault_and_no_bug() -> None:
    """The fast event loop has words of its own for a write that comes too late."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        heard = runner.run(_ask_somebody_who_hangs_up())

    assert heard == {"SET": 800}


@pytest.mark.redis
async def test_a_listener_whose_link_carries_nothing_finds_out(
    private_redis: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "SILENCE_S", 0.05)
    redis = private_redis()
    words = connect(redis, timeout_ms=200).listen("channel")
    assert await anext(words) == "subscribed"
    os.kill(redis.pid, signal.SIGSTOP)
    began = time.monotonic()

    with pytest.raises(StoreUnavailable, match="silent"):
        await anext(words)

    os.kill(redis.pid, signal.SIGCONT)
    assert time.monotonic() - began < 2.0


@pytest.mark.redis
async def test_a_quiet_channel_is_no_fault(
    private_redis: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "SILENCE_S", 0.02)
    connection = connect(private_redis())
    words = connection.listen("channel")
    assert await anext(words) == "subscribed"
    heard = asyncio.ensure_future(anext(words))
    done, _ = await asyncio.wait((heard,), timeout=0.3)
    assert not done

    await connection.publish("channel", "committed")

    assert await heard == "committed"
    await words.aclose()  # type: ignore[attr-defined]


@pytest.mark.redis
async def test_a_listener_whose_link_breaks_subscribes_again_and_says_so(
    private_redis: Start, connect: Connect
) -> None:
    """What was said in between is lost; `subscribed` tells the caller to look."""
    connection = connect(private_redis())
    words = connection.listen("channel")
    assert await anext(words) == "subscribed"
    await connection.command("CLIENT", "KILL", "TYPE", "pubsub")

    assert await anext(words) == "subscribed"
    await words.aclose()  # type: ignore[attr-defined]


async def _cut(other: Connection) -> None:
    """Break every connection but this one, as a Redis that ends does."""
    await other.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.mark.redis
async def test_one_life_ends_with_its_connection_and_repeats_nothing(
    redis_server: RedisProcess, connect: Connect
) -> None:
    connection, other = connect(redis_server), connect(redis_server)

    async def live_on() -> None:
        async with connection.one_life():
            await connection.command("SET", "key", "first")
            await _cut(other)
            await connection.command("SET", "key", "second")

    with pytest.raises(StoreUnavailable):
        await live_on()

    assert await other.command("GET", "key") == b"first"
    assert await connection.command("GET", "key") == b"first"


@pytest.mark.redis
async def test_a_life_that_is_over_does_not_begin_again(
    redis_server: RedisProcess, connect: Connect
) -> None:
    connection, other = connect(redis_server), connect(redis_server)

    async with connection.one_life():
        await _cut(other)
        for value in ("one", "two"):
            with pytest.raises(StoreUnavailable):
                await connection.command("SET", "key", value)

    assert await other.command("EXISTS", "key") == 0
    assert await connection.command("SET", "key", "three") in (True, b"OK")


@pytest.mark.redis
async def test_what_is_refused_within_one_life_does_not_end_it(
    redis_server: RedisProcess, connect: Connect
) -> None:
    connection = connect(redis_server)

    async with connection.one_life():
        with pytest.raises(StoreCorrupt):
            await connection.command("INCR", "key", "nonsense")
        await connection.command("SET", "key", "value")

    assert await connection.command("GET", "key") == b"value"


@pytest.mark.redis
async def test_others_go_on_beside_one_life_and_after_it(
    redis_server: RedisProcess, connect: Connect
) -> None:
    connection = connect(redis_server)

    async def count() -> None:
        async with connection.one_life():
            before = int(await connection.command("INCR", "mine"))
            await asyncio.sleep(0)
            assert int(await connection.command("INCR", "mine")) > before
        await connection.command("INCR", "mine")

    await asyncio.gather(*(count() for _ in range(20)))

    assert int(await connection.command("GET", "mine")) == 60
