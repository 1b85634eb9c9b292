"""Noise and charges in Redis: seeds die with their round, charges live with the job."""

from __future__ import annotations

from collections.abc import Mapping

from fl_cluster.errors import StoreCorrupt
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.store.redis import records
from fl_cluster.store.redis.connection import Argument, Connection
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.rounds import LIVE_MS


class RedisPrivacyStore:
    """`PrivacyStore` over one job's keys."""

    def __init__(self, connection: Connection, keys: JobKeys) -> None:
        self._connection = connection
        self._keys = keys

    async def charge(
        self, ref: RoundRef, member: str, release: str, seed: bytes
    ) -> bytes | Verdict:
        noise = self._keys.noise(str(ref))
        keys = (self._keys.round, noise, self._keys.charges, self._keys.fenced)
        args = (str(ref), member, release, seed, LIVE_MS)
        word, *fixed = await self._connection.run("charge", keys, args)
        if fixed:
            return bytes(fixed[0])
        try:
            return Verdict(word.decode())
        except ValueError as exc:
            raise StoreCorrupt(f"a script answered {word!r}, which is no verdict") from exc

    async def is_charged(self, ref: RoundRef) -> bool:
        return bool(await self._connection.command("EXISTS", self._keys.noise(str(ref))))

    async def charges(self) -> Mapping[str, int]:
        raw = await self._connection.command("HGETALL", self._keys.charges)
        found = records.text_fields(records.pairs(raw))
        try:
            return {release: int(count) for release, count in found.items()}
        except ValueError as exc:
            raise StoreCorrupt(f"the charges of the job are damaged: {found}") from exc

    async def learn(self, known: Mapping[str, int]) -> None:
        args: list[Argument] = []
        for release, count in known.items():
            args += (release, count)
        if args:
            await self._connection.run("raise_charges", (self._keys.charges,), args)
