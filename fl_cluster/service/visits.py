"""How many requests of each kind came, how many of them were accepted, and their bytes.

Counted here, added to the round's counters in the store now and then and before a round is
finished.  A count that is lost with its member costs a line of statistics, nothing else.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from fl_cluster.errors import StoreUnavailable
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.store.ports import RoundStore


class Visit(StrEnum):
    """A kind of request that is counted."""

    CHECK_IN = "check_in"
    REPORT = "report"
    GET_MODEL = "get_model"


def accepted(visit: Visit) -> str:
    """The name of the counter of accepted requests of this kind."""
    return f"{visit}_accepted"


def volume(visit: Visit) -> str:
    """The name of the counter of the bytes of updates or models that accepted ones carried."""
    return f"{visit}_bytes"


class Visits:
    """The counts of one member that are not in the store yet."""

    def __init__(self, rounds: RoundStore) -> None:
        self._rounds = rounds
        self._counts: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()

    def note(self, visit: Visit, *, is_accepted: bool, size: int = 0) -> None:
        """Count one answered request; `size` is that of the body with the update or the model."""
        for name in (visit.value, accepted(visit)) if is_accepted else (visit.value,):
            self._counts[name] += 1
            self._totals[name] += 1
        if is_accepted and size:
            self._counts[volume(visit)] += size

    @property
    def requests(self) -> int:
        """How many requests of all kinds this member has answered."""
        return sum(self._totals[visit] for visit in Visit)

    @property
    def reports(self) -> int:
        """How many updates it has counted."""
        return self._totals[accepted(Visit.REPORT)]

    async def flush(self, ref: RoundRef) -> None:
        """Add what was counted to this round; kept for later when the store is away."""
        if not self._counts:
            return
        counts, self._counts = self._counts, Counter()
        try:
            await self._rounds.count_visits(ref, counts)
        except StoreUnavailable:
            self._counts.update(counts)
            raise
