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

from fl_cluster.errors import StoreUnavailable
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
