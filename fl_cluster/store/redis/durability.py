"""Reads from Redis what it keeps; a user without CONFIG rights learns nothing, and no fault."""

from __future__ import annotations

from fl_cluster.errors import StoreCorrupt, StoreUnavailable
from fl_cluster.store.durability import UNKNOWN, StoreDurability, judge
from fl_cluster.store.redis.connection import Connection

FORBIDDEN = ("NOPERM", "unknown command", "no permissions", "Access denied")
"""What Redis, and managed Redis whose CONFIG was renamed or removed, answer then."""


def _is_forbidden(fault: StoreUnavailable | StoreCorrupt) -> bool:
    return any(word in str(fault) for word in FORBIDDEN)


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
            if _is_forbidden(exc):
                return UNKNOWN
            raise

    async def evicting_policy(self) -> str:
        """The policy by which Redis drops keys when its memory is full; empty when it never does.

        Empty also when it does not say.
        """
        try:
            limit = await self._read("maxmemory")
            policy = await self._read("maxmemory-policy")
        except (StoreUnavailable, StoreCorrupt) as exc:
            if _is_forbidden(exc):
                return ""
            raise
        return "" if limit == "0" or policy == "noeviction" else policy

    async def _read(self, name: str) -> str:
        reply = await self._connection.command("CONFIG", "GET", name)
        if isinstance(reply, dict):
            value = reply.get(name.encode(), b"")
        else:
            value = reply[1] if len(reply) == 2 else b""
        return value.decode() if isinstance(value, bytes) else str(value)
