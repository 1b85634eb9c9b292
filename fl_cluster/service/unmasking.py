"""Taking the masks off the sum of a masked round, by whichever member finishes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fl_cluster.aggregate.partial import Partial
from fl_cluster.errors import FlClusterError
from fl_cluster.rounds.phases import RoundRef


class StaysMasked(FlClusterError):
    """What devices revealed does not take the masks off: the round comes to nothing."""


class Unmasker(Protocol):
    """Knows how the devices of this job mask what they upload."""

    async def unmask(self, ref: RoundRef, counted: Sequence[str], total: Partial) -> None:
        """Take the masks of the counted devices off the merged sums, in place.

        The same bits whoever does it.  StaysMasked when it cannot be done.
        """
