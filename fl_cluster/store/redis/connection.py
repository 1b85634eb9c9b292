"""One connection pool to Redis, its scripts, and the translation of its failures.

Invariant: nothing but `StoreUnavailable` and `StoreCorrupt` leaves this package when Redis
misbehaves; callers never see an exception of the client library.
Every command has a deadline.  A command is sent again once when its connection breaks or its
answer does not come, and may then be carried out twice.  That is safe: a script whose second
answer would be another one is given a name for the call and knows its own work by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis.asyncio as redis_asyncio
from redis import exceptions
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from fl_cluster.config.addresses import parse_cache_address
from fl_cluster.errors import StoreCorrupt, StoreUnavailable
from fl_cluster.security.tls import StoreTls
from fl_cluster.store.redis.sentinel import PrimaryConnection, Sentinels, TlsPrimaryConnection
from fl_cluster.store.redis.tls_connection import TlsConnection

Argument = bytes | memoryview | str | int | float

UNAVAILABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.ClusterDownError,
    exceptions.NoPermissionError,
    OSError,
    TimeoutError,
)

CONDITIONS = (
    *("MISCONF", "NOREPLICAS", "MASTERDOWN", "BUSY", "NOAUTH", "NOPERM", "OOM", "READONLY"),
    "unauthenticated",
)
"""Words in error replies that speak of Redis's condition and not of our command."""

SILENCE_S = 5.0
"""How long a listener hears nothing before it asks whether its link still carries words: the
link to a primary that was cut off, or replaced, looks just like that of a quiet job."""


def call_name() -> str:
    """A name for one call of a script, the same however often the call is sent."""
    return secrets.token_hex(6)


@contextlib.contextmanager
def faults(operation: str) -> Iterator[None]:
    """Turn the client library's exceptions inside the block into faults of ours."""
    try:
        with _heeded_cancellation():
            yield
    except UNAVAILABLE as exc:
        raise StoreUnavailable(operation, str(exc) or type(exc).__name__) from exc
    except exceptions.ResponseError as exc:
        reason = str(exc)
        if any(word in reason for word in CONDITIONS):
            raise StoreUnavailable(operation, reason) from exc
        raise StoreCorrupt(f"{operation}: Redis refused the command: {reason}") from exc
    except exceptions.RedisError as exc:
        raise StoreUnavailable(operation, f"{type(exc).__name__}: {exc}") from exc
    except RuntimeError as exc:
        if not _is_closed(exc):
            raise
        raise StoreUnavailable(operation, "Connection closed by server.") from exc


def _is_closed(fault: RuntimeError) -> bool:
    """Whether it is what uvloop says of a write to a connection that the other end has closed."""
    return "handler is closed" in str(fault)


@contextlib.contextmanager
def _heeded_cancellation() -> Iterator[None]:
    """Raise the cancellation that came inside the block, also when the library lost it.

    It waits for its socket with `asyncio.wait_for`, which up to Python 3.11 forgets a
    cancellation that comes in the very step in which the socket is ready; a loop would then
    go on although it was told to end.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest that Redis knows it by."""

    text: str
    digest: str


class _Life:
    """One connection for as long as it lasts."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection: AbstractConnection | None = connection
        self._is_broken = False

    @property
    def is_under_way(self) -> bool:
        """Whether the block that it belongs to has not ended."""
        return self._connection is not None

    async def send(self, *args: Argument) -> Any:
        """The raw reply."""
        assert self._connection is not None
        if self._is_broken:
            raise exceptions.ConnectionError("the connection broke")
        try:
            await self._connection.send_command(*args)
            return await self._connection.read_response()
        except exceptions.ResponseError:
            raise
        except BaseException:
            self._is_broken = True
            raise

    async def give_up(self) -> None:
        """Leave no answer behind for whoever is given the connection next."""
        self._is_broken = True
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)

    def end(self) -> AbstractConnection:
        """The connection, which is somebody else's from now on."""
        connection, self._connection = self._connection, None
        assert connection is not None
        return connection


class Connection:
    """A pool of connections to one Redis, with the scripts loaded by name.

    `url` is `redis://...`, `rediss://...`, `unix://...` or `sentinel://...`; `timeout_ms` bounds
    every command and the wait for a free connection.  With `tls` Redis, and Sentinels, are
    spoken to by TLS.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_ms: int = 5_000,
        pool_size: int = 16,
        tls: StoreTls | None = None,
    ) -> None:
        self._timeout_s = seconds = timeout_ms / 1000
        options: dict[str, Any] = {
            "max_connections": pool_size,
            "timeout": seconds,
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 1),
            "retry_on_error": [exceptions.ConnectionError],
        }
        if not url.startswith("unix"):
            options["socket_keepalive"] = True
        self._sentinels: Sentinels | None = None
        if url.startswith("sentinel"):
            pool = self._primary_pool(url, seconds, options, tls)
        else:
            if tls is not None:
                url = url.replace("rediss://", "redis://", 1)
                options.update(connection_class=TlsConnection, tls=tls)
            pool = redis_asyncio.BlockingConnectionPool.from_url(url, **options)
        self.client: redis_asyncio.Redis = redis_asyncio.Redis.from_pool(pool)
        self._scripts: dict[str, Script] = {}
        self._life: ContextVar[_Life | None] = ContextVar("life", default=None)

    def _primary_pool(
        self, url: str, seconds: float, options: dict[str, Any], tls: StoreTls | None
    ) -> redis_asyncio.BlockingConnectionPool:
        address = parse_cache_address(url)
        self._sentinels = Sentinels(address, seconds, tls)
        if tls is not None:
            options["tls"] = tls
        return redis_asyncio.BlockingConnectionPool(
            connection_class=PrimaryConnection if tls is None else TlsPrimaryConnection,
            sentinels=self._sentinels,
            username=address.username or None,
            password=address.password or None,
            db=address.database,
            **options,
        )

    def _script(self, name: str) -> Script:
        script = self._scripts.get(name)
        if script is None:
            folder = resources.files(__package__).joinpath("scripts")
            text = folder.joinpath(f"{name}.lua").read_text("utf-8")
            if text.startswith("-- needs prelude"):
                text = folder.joinpath("prelude.lua").read_text("utf-8") + text
            digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            script = self._scripts[name] = Script(text, digest)
        return script

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Argument] = ()) -> Any:
        """The raw reply of scripts/`name`.lua.

        A Redis that does not know the script gets it with the call itself: one that was
        loaded first could be forgotten again in between.
        """
        script, rest = self._script(name), (len(keys), *keys, *args)
        with faults(name):
            try:
                return await self._send("EVALSHA", script.digest, *rest)
            except exceptions.NoScriptError:
                return await self._send("EVAL", script.text, *rest)

    async def command(self, *args: Argument) -> Any:
        """The raw reply of one command."""
        with faults(str(args[0])):
            return await self._send(*args)

    @contextlib.asynccontextmanager
    async def one_life(self) -> AsyncIterator[None]:
        """Send what the block sends over one connection, and nothing of it a second time.

        So what was answered in the block is true until its end: a Redis that goes back in time
        has restarted, or another one has taken its place, and either breaks the connection.
        The block sends one thing after the other; StoreUnavailable once the connection breaks.
        """
        pool = self.client.connection_pool
        with faults("connect"):
            life = _Life(await pool.get_connection())  # type: ignore[no-untyped-call]
        token = self._life.set(life)
        try:
            yield
        except BaseException:
            await life.give_up()
            raise
        finally:
            self._life.reset(token)
            connection = life.end()
            await asyncio.shield(pool.release(connection))

    async def _send(self, *args: Argument) -> Any:
        life = self._life.get()
        if life is not None and life.is_under_way:
            return await life.send(*args)
        try:
            return await self.client.execute_command(*args)  # type: ignore[no-untyped-call]
        except RuntimeError as exc:
            if not _is_closed(exc):
                raise
        return await self.client.execute_command(*args)  # type: ignore[no-untyped-call]

    async def together(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """The raw replies of several commands that nothing comes between."""
        with faults(str(commands[0][0])):
            async with self.client.pipeline(transaction=True) as transaction:
                for command in commands:
                    transaction.execute_command(*command)
                return list(await transaction.execute())

    async def ping(self) -> None:
        """Return when Redis answers; `StoreUnavailable` says why it does not."""
        await self.command("PING")

    async def now_ms(self) -> int:
        """The cluster's time: Redis's clock, in milliseconds since the epoch."""
        with faults("TIME"):
            seconds, micros = await self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def publish(self, channel: str, word: str) -> None:
        """Tell every listener on `channel`; nobody may depend on having heard it."""
        await self.command("PUBLISH", channel, word)

    async def listen(self, channel: str) -> AsyncIterator[str]:
        """Words published on `channel` from now on; ends with a fault when the link breaks.

        The first word is `subscribed`, so that the caller can read what it may have missed.
        """
        subscription = self.client.pubsub()
        try:
            with faults("SUBSCRIBE"):
                await subscription.subscribe(channel)
            while True:
                with faults("SUBSCRIBE"):
                    message = await self._next_message(subscription)
                if message["type"] == "subscribe":
                    yield "subscribed"
                elif message["type"] == "message":
                    yield message["data"].decode()
        finally:
            await subscription.aclose()  # type: ignore[no-untyped-call]

    async def _next_message(self, subscription: PubSub) -> Any:
        message = await subscription.get_message(timeout=SILENCE_S)
        if message is None:
            await subscription.ping()
            message = await subscription.get_message(timeout=self._timeout_s)
        if message is None:
            raise TimeoutError(f"the link for events is silent for {self._timeout_s:g} s")
        return message

    async def close(self) -> None:
        """Give every connection back to the operating system."""
        await self.client.aclose(close_connection_pool=True)
        if self._sentinels is not None:
            await self._sentinels.close()
