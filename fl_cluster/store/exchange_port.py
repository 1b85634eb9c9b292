"""Where the messages between the devices of a masked round are kept.

The stores that keep rounds have this port too: whether a message is taken depends on the
round, and is decided together with keeping it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.rounds.plan import Millis


class ExchangeStore(Protocol):
    """The exchange of the current round.  Each method is atomic, whoever calls it."""

    async def tell(
        self, ref: RoundRef, step: Step, device: str, message: bytes, at: Millis | None = None
    ) -> Verdict:
        """Take a device's step; of several messages the first stays."""

    async def replace_keys(
        self, ref: RoundRef, device: str, message: bytes, former: bytes, at: Millis | None = None
    ) -> Verdict:
        """Take a device's keys in place of its `former` ones, or as its first.

        `duplicate` when it has others by now, `enough` once nobody's keys are awaited.
        """

    async def told(self, ref: RoundRef, step: Step) -> Mapping[str, bytes]:
        """Device -> message, in the order of the devices' bytes; of a round just over too."""

    async def message(self, ref: RoundRef, step: Step, device: str) -> bytes | None:
        """What one device told; None when it did not."""

    async def takers(self, ref: RoundRef, step: Step) -> int:
        """How many devices have taken the step."""

    async def proceed(self, ref: RoundRef, at: Millis | None = None) -> Verdict:
        """Let the sum be used: what was revealed takes all masks off."""
