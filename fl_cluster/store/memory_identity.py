"""The identity ports in one process: the executable specification, and what tests use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from fl_cluster.rounds.phases import RoundRef
from fl_cluster.security.tokens import TokenRecord
from fl_cluster.store.identity_port import Attested, Seen, SignedUse, TokenSet


class MemoryTokenStore:
    """`TokenStore` in one process."""

    def __init__(self) -> None:
        self._version = 0
        self._records: dict[str, TokenRecord] = {}
        self._used: dict[str, int] = {}

    async def version(self) -> int:
        return self._version

    async def read(self) -> TokenSet:
        return TokenSet(self._version, dict(self._records))

    async def write(self, known: int, version: int, records: Sequence[TokenRecord]) -> bool:
        if known != self._version:
            return False
        self._version = version
        self._records |= {record.digest: record for record in records}
        return True

    async def note_used(self, used_ms: Mapping[str, int]) -> None:
        for digest, at_ms in used_ms.items():
            self._used[digest] = max(at_ms, self._used.get(digest, 0))

    async def used(self) -> Mapping[str, int]:
        return dict(self._used)


class MemoryAttestationStore:
    """`AttestationStore` in one process; `now_ms` decides when a signature is forgotten."""

    def __init__(self, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._now_ms = now_ms
        self._attested: dict[tuple[RoundRef, str], Attested] = {}
        self._uses: dict[str, tuple[str, int]] = {}

    async def remember(self, ref: RoundRef, device: str, attested: Attested) -> None:
        known = self._attested.get((ref, device))
        if known is None or attested.signed_ms >= known.signed_ms:
            self._attested[ref, device] = attested

    async def recall(self, ref: RoundRef, device: str) -> Attested | None:
        return self._attested.get((ref, device))

    async def note_signed(self, use: SignedUse) -> Seen:
        now_ms = self._now_ms()
        known = self._uses.get(use.name)
        if known is None or known[1] <= now_ms:
            self._uses[use.name] = use.purpose, now_ms + use.lifetime_ms
            return Seen.FRESH
        return Seen.REPEATED if known[0] == use.purpose else Seen.REPLAYED
