"""Reads from Redis how durable it is; a user without CONFIG rights gets UNKNOWN, no fault."""

from __future__ import annotations

from fl_cluster.errors import StoreCorrupt, StoreUnavailable
from fl_cluster.store.durability import UNKNOWN, StoreDurability, judge
from fl_cluster.store.redis.connection import Connection

FORBIDDEN = ("NOPERM", "unknown command", "no permissions", "Access denied")
"""What Redis, and managed Redis whose CONFIG was renamed or removed, answer then."""


class RedisDurability:
    """`DurabilityReader` over CONFIG GET."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def durability(self) -> StoreDurability:
        try:
            return judge(
                append_only=await self._read("appendonly"),
                append_fsync=await self._read("appendfsync"),
                save=await self._read("save"),
            )
        except (StoreUnavailable, StoreCorrupt) as exc:
            if any(word in str(exc) for word in FORBIDDEN):
                return UNKNOWN
            raise

    async def _read(self, name: str) -> str:
        reply = await self._connection.command("CONFIG", "GET", name)
        if isinstance(reply, dict):
            value = reply.get(name.encode(), b"")
        else:
            value = reply[1] if len(reply) == 2 else b""
        return value.decode() if isinstance(value, bytes) else str(value)
