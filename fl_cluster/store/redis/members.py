"""Members in Redis: a record per process in a hash, and its lease in a sorted set.

Leases are written and compared inside Redis with its own clock, so members whose clocks are
apart agree on who is alive.  The record of a dead member stays for some days: who ends a
cluster by hand has to find processes that hang as well.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from fl_cluster.errors import StoreCorrupt
from fl_cluster.lifecycle.membership import Member, MemberState, Role
from fl_cluster.store.member_port import Renewal
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JOBS, JobKeys

_FIELDS = {field.name: field for field in dataclasses.fields(Member)}


def _encode(member: Member) -> str:
    return json.dumps(dataclasses.asdict(member), separators=(",", ":"))


def _decode(text: bytes) -> Member:
    """The member of a record; what another version added to it is left out."""
    try:
        values: dict[str, Any] = json.loads(text)
        known = {name: value for name, value in values.items() if name in _FIELDS}
        known["role"] = Role(known["role"])
        known["state"] = MemberState(known["state"])
        return Member(**known)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise StoreCorrupt(f"the record of a member cannot be read ({exc}): {text!r}") from exc


def _ordered(records: Sequence[bytes]) -> list[Member]:
    return sorted(map(_decode, records), key=lambda member: member.id.encode())


def _instant(at_ms: int | None) -> str:
    return "" if at_ms is None else str(at_ms)


def _renewal(word: bytes) -> Renewal:
    try:
        return Renewal(word.decode())
    except ValueError as exc:
        raise StoreCorrupt(f"a script answered {word!r}, which is no word it may answer") from exc


class RedisMemberStore:
    """`MemberStore` over one job's keys; tests pass instants, everyone else uses Redis's."""

    def __init__(self, connection: Connection, keys: JobKeys) -> None:
        self._connection = connection
        self._keys = keys
        self._all = (keys.members, keys.leases, keys.fenced)

    async def register(self, member: Member, lease_ms: int, *, at_ms: int | None = None) -> Renewal:
        await self._connection.command("SADD", JOBS, self._keys.name)
        args = (member.id, _encode(member), lease_ms, _instant(at_ms))
        return _renewal(await self._connection.run("member_register", self._all, args))

    async def renew(self, member_id: str, lease_ms: int, *, at_ms: int | None = None) -> Renewal:
        args = (member_id, lease_ms, _instant(at_ms))
        return _renewal(await self._connection.run("member_renew", self._all, args))

    async def deregister(self, member_id: str) -> None:
        await self._connection.run("member_leave", self._all[:2], (member_id,))

    async def live(self, *, at_ms: int | None = None) -> Sequence[Member]:
        return _ordered(await self._connection.run("member_list", self._all, (_instant(at_ms),)))

    async def overdue(self, *, at_ms: int | None = None) -> Sequence[str]:
        found = await self._connection.run("member_overdue", self._all[1:], (_instant(at_ms),))
        return [member_id.decode() for member_id in found]

    async def everyone(self) -> Sequence[Member]:
        return _ordered(await self._connection.command("HVALS", self._keys.members))

    async def forget_dead(self, after_ms: int, *, at_ms: int | None = None) -> int:
        args = (after_ms, _instant(at_ms))
        return int(await self._connection.run("member_forget", self._all, args))


class RedisJobDirectory:
    """`JobDirectory` over the set of jobs of one Redis."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def names(self) -> Sequence[str]:
        found = await self._connection.command("SMEMBERS", JOBS)
        return sorted(name.decode() for name in found)
