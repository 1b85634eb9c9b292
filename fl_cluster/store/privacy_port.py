"""What is kept of a job's noise: the secret of each round, and what all rounds have cost.

Two stores have this port, as those of `store.ports`: memory and Redis, held to one contract.
A charge is the name of a kind of release and how often it was made; it only ever grows, so
that what several members know of it is put together by taking the larger number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef


class PrivacyStore(Protocol):
    """A job's noise and charges."""

    async def charge(
        self, ref: RoundRef, member: str, release: str, seed: bytes
    ) -> bytes | Verdict:
        """Count one release of this name for the round, and fix the seed of its noise.

        The first call for a round attempt does both in one step; every later one changes
        nothing and gets the seed of the first.  A verdict when the round is not this member's
        to finish (any more).  Nobody may show or log a seed.
        """

    async def is_charged(self, ref: RoundRef) -> bool:
        """Whether the round attempt was charged, and is not over for long."""

    async def charges(self) -> Mapping[str, int]:
        """Name of a release -> how often it was made, in every run of the job."""

    async def learn(self, known: Mapping[str, int]) -> None:
        """Raise charges to what somebody knows of them; none falls."""
