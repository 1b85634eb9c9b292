"""`PrivacyStore` in one process: the executable specification, and what tests use."""

from __future__ import annotations

from collections.abc import Mapping

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Ending, RoundRef
from fl_cluster.store.memory import MemoryJobStore


class MemoryPrivacyStore:
    """The noise and the charges of the job that `jobs` holds."""

    def __init__(self, jobs: MemoryJobStore) -> None:
        self._jobs = jobs
        self._charges: dict[str, int] = {}
        self._seeds: dict[RoundRef, bytes] = {}

    async def charge(
        self, ref: RoundRef, member: str, release: str, seed: bytes
    ) -> bytes | Verdict:
        refusal = await self._refuse(ref, member)
        if refusal is not None:
            return refusal
        if ref not in self._seeds:
            self._seeds[ref] = seed
            self._charges[release] = self._charges.get(release, 0) + 1
        return self._seeds[ref]

    async def is_charged(self, ref: RoundRef) -> bool:
        return ref in self._seeds

    async def charges(self) -> Mapping[str, int]:
        return dict(self._charges)

    async def learn(self, known: Mapping[str, int]) -> None:
        for release, count in known.items():
            self._charges[release] = max(count, self._charges.get(release, 0))

    async def _refuse(self, ref: RoundRef, member: str) -> Verdict | None:
        rounds = self._jobs.rounds
        current = await rounds.load() if rounds is not None else None
        if current is None or current.phase.ref != ref:
            return Verdict.MOVED_ON
        if member in current.fenced:
            return Verdict.FENCED
        if not isinstance(current.phase, Ending):
            return Verdict.NOTHING_TO_FINISH
        lease = current.phase.lease
        return None if lease is not None and lease.member == member else Verdict.LEASE_LOST
