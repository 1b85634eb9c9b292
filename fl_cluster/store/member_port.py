"""What the cluster needs from the place that keeps its membership.

A member is alive while its lease is; leases are compared with the store's own clock.
Declaring a member dead is not here: that also frees what it had claimed, so it belongs to
the round's port.
Every method may raise `StoreUnavailable`; asking again with the same arguments is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from fl_cluster.lifecycle.membership import Member


class Renewal(StrEnum):
    """What became of a renewal."""

    RENEWED = "renewed"
    FENCED = "fenced"
    """This id was declared dead; nothing it writes counts any more."""
    UNKNOWN = "unknown"
    """The store has no record of this id, as after it came back empty: register again."""


class MemberStore(Protocol):
    """The members of one job."""

    async def register(self, member: Member, lease_ms: int) -> Renewal:
        """Write the member's record and its lease; FENCED when its id was declared dead."""

    async def renew(self, member_id: str, lease_ms: int) -> Renewal:
        """Let the lease end `lease_ms` from now."""

    async def deregister(self, member_id: str) -> None:
        """Remove the member at once; nothing happens when it is not there."""

    async def live(self) -> Sequence[Member]:
        """Members whose lease has not ended, ordered by id."""

    async def overdue(self) -> Sequence[str]:
        """Ids of members whose lease has ended and whom nobody has declared dead yet."""

    async def everyone(self) -> Sequence[Member]:
        """Every member on record, the dead of the last days too, ordered by id."""

    async def forget_dead(self, after_ms: int) -> int:
        """Drop records of members declared dead `after_ms` ago; how many there were."""


class JobDirectory(Protocol):
    """Which jobs this store knows."""

    async def names(self) -> Sequence[str]:
        """The names of all jobs that ever started here, ordered."""
