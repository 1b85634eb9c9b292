"""Tokens in Redis: one hash of digests and records, with the version beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from fl_cluster.errors import StoreCorrupt
from fl_cluster.security.tokens import TokenRecord, TokenRole
from fl_cluster.store.identity_port import TokenSet
from fl_cluster.store.redis.connection import Argument, Connection
from fl_cluster.store.redis.keys import JobKeys

VERSION = "version"
"""The field that is no digest."""

FIELDS = frozenset(field.name for field in fields(TokenRecord)) - {"digest"}


class RedisTokenStore:
    """`TokenStore` over one job's keys."""

    def __init__(self, connection: Connection, keys: JobKeys) -> None:
        self._connection = connection
        self._keys = keys

    async def version(self) -> int:
        found = await self._connection.command("HGET", self._keys.tokens, VERSION)
        return _number(found or b"0")

    async def read(self) -> TokenSet:
        found = await self._hash(self._keys.tokens)
        version = _number(found.pop(VERSION, b"0"))
        return TokenSet(version, {name: _record(name, text) for name, text in found.items()})

    async def write(self, known: int, version: int, records: Sequence[TokenRecord]) -> bool:
        args: list[Argument] = [known, version, self._keys.events]
        for record in records:
            args += (record.digest, _text(record))
        word = await self._connection.run("tokens_write", (self._keys.tokens,), args)
        return bool(word == b"accepted")

    async def note_used(self, used_ms: Mapping[str, int]) -> None:
        args: list[Argument] = []
        for digest, at_ms in used_ms.items():
            args += (digest, at_ms)
        if args:
            await self._connection.run("tokens_used", (self._keys.tokens_used,), args)

    async def used(self) -> Mapping[str, int]:
        found = await self._hash(self._keys.tokens_used)
        return {digest: _number(at_ms) for digest, at_ms in found.items()}

    async def _hash(self, key: str) -> dict[str, bytes]:
        raw = await self._connection.command("HGETALL", key)
        pairs = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
        return {name.decode(): value for name, value in pairs}


def _text(record: TokenRecord) -> str:
    known = asdict(record)
    del known["digest"]
    return json.dumps(known, separators=(",", ":"))


def _record(digest: str, text: bytes) -> TokenRecord:
    """The token of a record; what another version added to it is left out."""
    try:
        found: dict[str, Any] = json.loads(text)
        known = {name: value for name, value in found.items() if name in FIELDS}
        return TokenRecord(digest, **{**known, "role": TokenRole(known["role"])})
    except (ValueError, TypeError, KeyError) as exc:
        raise StoreCorrupt(f"the record of token {digest[:12]} cannot be read ({exc})") from exc


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError as exc:
        raise StoreCorrupt(f"a number of the tokens cannot be read: {text!r}") from exc
