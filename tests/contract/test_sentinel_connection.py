"""Connections that Sentinels point the way for: whom they reach, and when they ask again.

Sentinel speaks Redis's protocol; here one of a few lines says what a test wants it to say, so
that a fail-over takes no time.  tests/cluster/test_sentinel.py has the real thing.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis as redis_client

from fl_cluster.errors import StoreUnavailable
from fl_cluster.store.redis.connection import Connection

if TYPE_CHECKING:
    from conftest import RedisProcess

pytestmark = pytest.mark.redis

Start = Callable[..., "RedisProcess"]
Connect = Callable[..., Connection]


class Guide:
    """A Sentinel that names whom it is told to name, and counts who asks."""

    def __init__(self) -> None:
        self.primary: RedisProcess | None = None
        self.asked = 0
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                await reader.readline()
                words.append((await reader.readline()).strip())
            writer.write(self._reply(words))
        writer.close()

    def _reply(self, words: list[bytes]) -> bytes:
        if words[0] != b"SENTINEL":
            return b"+OK\r\n"
        self.asked += 1
        if words[2] != b"main" or self.primary is None:
            return b"*-1\r\n"
        port = str(self.primary.port)
        return f"*2\r\n$9\r\n127.0.0.1\r\n${len(port)}\r\n{port}\r\n".encode()


@pytest.fixture
async def guide() -> AsyncIterator[Guide]:
    guide = Guide()
    server = await asyncio.start_server(guide.answer, "127.0.0.1", 0)
    guide.port = server.sockets[0].getsockname()[1]
    async with server:
        yield guide


@pytest.fixture
def follow(guide: Guide, connect: Connect) -> Callable[..., Connection]:
    """Connects to whom the guide names."""

    def follow(path: str = "main", **options: int) -> Connection:
        return connect(f"sentinel://127.0.0.1:1,127.0.0.1:{guide.port}/{path}", **options)

    return follow


async def test_the_named_primary_is_reached_in_the_chosen_database(
    private_redis: Start, guide: Guide, follow: Callable[..., Connection]
) -> None:
    guide.primary = private_redis()

    await follow("main/3").command("SET", "key", "value")

    with redis_client.Redis(port=guide.primary.port, db=3) as client:
        assert client.get("key") == b"value"


async def test_it_is_asked_for_new_connections_only(
    private_redis: Start, guide: Guide, follow: Callable[..., Connection]
) -> None:
    guide.primary = private_redis()
    connection = follow()

    for _ in range(20):
        await connection.command("SET", "key", "value")

    assert guide.asked == 1


async def test_a_primary_that_died_is_replaced_by_the_one_named_now(
    private_redis: Start, guide: Guide, follow: Callable[..., Connection]
) -> None:
    old = guide.primary = private_redis()
    connection = follow()
    await connection.command("SET", "key", "old")
    guide.primary = private_redis()
    old.kill()

    await connection.command("SET", "key", "new")

    with redis_client.Redis(port=guide.primary.port) as client:
        assert client.get("key") == b"new"


@pytest.mark.parametrize(
    "command",
    [("SET", "key", "new"), ("EVAL", "redis.call('SET', KEYS[1], 'new')", 1, "key")],
    ids=["plain", "script"],
)
async def test_a_primary_that_was_made_a_replica_is_left_for_the_one_named_now(
    private_redis: Start,
    guide: Guide,
    follow: Callable[..., Connection],
    command: tuple[str | int, ...],
) -> None:
    old = guide.primary = private_redis()
    connection = follow()
    await connection.command("SET", "key", "old")
    guide.primary = private_redis()
    with redis_client.Redis(port=old.port) as client:
        client.replicaof("127.0.0.1", "1")

    await connection.command(*command)

    with redis_client.Redis(port=guide.primary.port) as client:
        assert client.get("key") == b"new"


async def test_a_replica_that_is_still_named_is_a_fault_that_says_so(
    private_redis: Start, guide: Guide, follow: Callable[..., Connection]
) -> None:
    guide.primary = private_redis()
    with redis_client.Redis(port=guide.primary.port) as client:
        client.replicaof("127.0.0.1", "1")
    connection = follow()

    with pytest.raises(StoreUnavailable, match="READONLY"):
        await connection.command("SET", "key", "value")


async def test_connections_that_lie_idle_follow_as_soon_as_one_has_learnt(
    private_redis: Start, guide: Guide, follow: Callable[..., Connection]
) -> None:
    """The old primary may go on answering: cut off from its replicas, it does not know."""
    old = guide.primary = private_redis()
    connection = follow(pool_size=4)
    await asyncio.gather(*(connection.command("BLPOP", "none", 0.05) for _ in range(4)))
    guide.primary = private_redis()
    with redis_client.Redis(port=old.port) as client:
        [victim, *_] = [c for c in client.client_list() if c["cmd"] == "blpop"]
        client.client_kill_filter(_id=victim["id"])

    for _ in range(8):
        await asyncio.gather(*(connection.command("INCR", "count") for _ in range(4)))

    with redis_client.Redis(port=guide.primary.port) as client:
        assert int(client.get("count") or 0) >= 28


async def test_a_listener_goes_on_at_the_new_primary(
    private_redis: Start, guide: Guide, follow: Callable[..., Connection]
) -> None:
    old = guide.primary = private_redis()
    connection = follow()
    words = connection.listen("channel")
    assert await anext(words) == "subscribed"
    guide.primary = private_redis()
    old.kill()

    assert await anext(words) == "subscribed"
    await connection.publish("channel", "committed")
    assert await anext(words) == "committed"
    await words.aclose()  # type: ignore[attr-defined]


async def test_a_name_that_the_sentinels_do_not_know_is_said_at_once(
    guide: Guide, follow: Callable[..., Connection]
) -> None:
    began = time.monotonic()

    with pytest.raises(StoreUnavailable, match="it knows no service 'mian'"):
        await follow("mian").ping()

    assert time.monotonic() - began < 2.0


async def test_without_any_sentinel_each_is_named(
    connect: Connect, free_port: Callable[..., int]
) -> None:
    nobody = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    connection = connect(f"sentinel://{','.join(nobody)}/main", timeout_ms=1_000)

    with pytest.raises(StoreUnavailable, match="no Sentinel names a primary") as caught:
        await connection.ping()

    assert all(place in str(caught.value) for place in nobody)


@pytest.fixture
def secured_sentinel(
    redis_program: str,
    start_redis: Start,
    free_port: Callable[..., int],
    wait_until: Callable[..., None],
    tmp_path: Path,
) -> Iterator[tuple[Any, int]]:
    """A Redis with a password, and the port of a real Sentinel with the same."""
    primary, port = start_redis("--requirepass", "secret"), free_port()
    path = tmp_path / "sentinel.conf"
    path.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "requirepass secret\nsentinel auth-pass main secret\n"
    )
    sentinel = subprocess.Popen([redis_program, str(path), "--sentinel"], stdout=subprocess.DEVNULL)
    wait_until(lambda: _listens(port), "the Sentinel listens")
    yield primary, port
    sentinel.kill()
    sentinel.wait()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


async def test_a_sentinel_that_asks_for_a_password_is_given_that_of_redis(
    secured_sentinel: tuple[Any, int], connect: Connect
) -> None:
    primary, port = secured_sentinel
    connection = connect(f"sentinel://:secret@127.0.0.1:{port}/main/1", timeout_ms=1_000)

    assert await connection.command("SET", "key", "value")

    with redis_client.Redis(port=primary.port, password="secret", db=1) as client:
        assert client.get("key") == b"value"
