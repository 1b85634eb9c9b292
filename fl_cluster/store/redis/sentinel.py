"""Connections to whichever Redis is the primary now, as the Sentinels that watch over it say.

They are asked each time a connection is made, the one that answered last first: Redis's own
guide for clients.  A fail-over breaks connections or makes the old primary read-only; both
end in a new connection, hence in a new question, and connections that lie idle are given up
as soon as any of them has learnt of another primary.
Not here: deciding that a primary is dead, and promoting another; the Sentinels do that.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio as redis_asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from fl_cluster.config.addresses import Address, CacheAddress
from fl_cluster.security.tls import StoreTls
from fl_cluster.store.redis.tls_connection import TlsConnection

Place = tuple[str, int]

ANSWER_S = 1.0
"""Longest wait for one Sentinel; they do nothing else than answering."""


class Sentinels:
    """Those that watch over one primary and its replicas; all are asked within `timeout_s`.

    A Sentinel that asks for a password is given Redis's.
    """

    def __init__(
        self, address: CacheAddress, timeout_s: float, tls: StoreTls | None = None
    ) -> None:
        self._tls = tls
        self._service = address.service
        self._login = {"username": address.username or None, "password": address.password or None}
        self._patience_s = min(ANSWER_S, timeout_s / len(address.sentinels))
        self._known = {place: self._client(place) for place in address.sentinels}
        self.primary: Place | None = None
        """Where the primary was when they were asked last."""

    def _client(self, place: Address, **login: Any) -> redis_asyncio.Redis:
        options: dict[str, Any] = {
            "host": place.host,
            "port": place.port,
            "socket_timeout": self._patience_s,
            "socket_connect_timeout": self._patience_s,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            **login,
        }
        if self._tls is None:
            return redis_asyncio.Redis(**options)
        pool = redis_asyncio.ConnectionPool(
            connection_class=TlsConnection, tls=self._tls, **options
        )
        return redis_asyncio.Redis.from_pool(pool)

    async def ask(self) -> Place:
        """Where the primary is; `redis.exceptions.ConnectionError` says why nobody knows."""
        refusals = []
        for place in list(self._known):
            try:
                found = await self._ask_one(place)
            except (exceptions.RedisError, OSError) as exc:
                refusals.append(f"{place}: {exc or type(exc).__name__}")
                continue
            if found is None:
                refusals.append(f"{place}: it knows no service {self._service!r}")
                continue
            self._known = {place: self._known.pop(place), **self._known}
            self.primary = found
            return found
        reasons = "; ".join(refusals)
        raise exceptions.ConnectionError(f"no Sentinel names a primary ({reasons})")

    async def _ask_one(self, place: Address) -> Place | None:
        try:
            return await self._question(place)
        except exceptions.AuthenticationError:
            if self._login["password"] is None:
                raise
        await self._known[place].aclose()
        self._known[place] = self._client(place, **self._login)
        return await self._question(place)

    async def _question(self, place: Address) -> Place | None:
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        found = await self._known[place].execute_command(*question)  # type: ignore[no-untyped-call]
        return (found[0].decode(), int(found[1])) if found else None

    async def close(self) -> None:
        """Give every connection back to the operating system."""
        for client in self._known.values():
            await client.aclose()


class PrimaryConnection(redis_asyncio.Connection):
    """One connection to the primary; to another Redis after a fail-over."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def connect(self) -> None:
        """Connect unless that is done; to the primary of now when it is not the one it was."""
        if self.is_connected and (self.host, self.port) != self._sentinels.primary:
            await self.disconnect()
        await super().connect()  # type: ignore[no-untyped-call]

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.ask()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """The next answer; a refusal to write means that there is another primary now."""
        try:
            return await super().read_response(*args, **options)
        except exceptions.ResponseError as exc:
            if not isinstance(exc, exceptions.ReadOnlyError) and "READONLY" not in str(exc):
                raise
            await self.disconnect()
            raise exceptions.ConnectionError(f"READONLY {exc}") from exc


class TlsPrimaryConnection(PrimaryConnection, TlsConnection):
    """The same by TLS."""
