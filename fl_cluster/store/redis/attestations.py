"""Attestations and signed requests in Redis: the first die with their round, the others by age."""

from __future__ import annotations

from fl_cluster.errors import StoreCorrupt
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.store.identity_port import Attested, Seen, SignedUse
from fl_cluster.store.redis import records
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.rounds import FINISHED_MS, LIVE_MS


class RedisAttestationStore:
    """`AttestationStore` over one job's keys."""

    def __init__(self, connection: Connection, keys: JobKeys) -> None:
        self._connection = connection
        self._keys = keys

    async def remember(self, ref: RoundRef, device: str, attested: Attested) -> None:
        keys = (self._keys.attestations(str(ref)), self._keys.round)
        args = (
            *(str(ref), LIVE_MS, FINISHED_MS),
            *(records.encode_id(device), attested.signed_ms, attested.certificates),
        )
        await self._connection.run("attest", keys, args)

    async def recall(self, ref: RoundRef, device: str) -> Attested | None:
        key = self._keys.attestations(str(ref))
        found = await self._connection.command("HGET", key, records.encode_id(device))
        if found is None:
            return None
        signed_ms, blank, certificates = found.partition(b" ")
        if not blank or not signed_ms.isdigit():
            raise StoreCorrupt(f"the attestation of device {device} in round {ref} is damaged")
        return Attested(int(signed_ms), certificates.decode())

    async def note_signed(self, use: SignedUse) -> Seen:
        args = (use.purpose, use.lifetime_ms)
        word = await self._connection.run("note_signed", (self._keys.signed(use.name),), args)
        try:
            return Seen(word.decode())
        except ValueError as exc:
            raise StoreCorrupt(f"a script answered {word!r}, which is none of its words") from exc
