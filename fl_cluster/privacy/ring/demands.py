"""What a device insists on, whatever the server announces.

Its owner may ask for more, or for less.  Light enough to be imported by every device: what the
demands are held against is only needed once a job asks for masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fl_cluster.errors import CallerProtocolError

if TYPE_CHECKING:
    from fl_cluster.privacy.ring.messages import RingRound

_ROUNDING = 1 - 2.0**-24
"""Servers keep shares in single precision: 0.35 there is a little less than 0.35 here."""


@dataclass(frozen=True, slots=True)
class Demands:
    """The least that a round of secure aggregation must promise."""

    corrupt: float = 0.05
    """Share of the devices that may work with the servers."""
    safety_bits: int = 40
    """An update is exposed in at most one of 2**safety_bits rounds."""
    least_devices: int = 3
    """How many updates a sum holds."""

    def __post_init__(self) -> None:
        if not 0 <= self.corrupt < 1:
            raise CallerProtocolError(
                f"demands: expected a share corrupt of at least 0 and below 1, found {self.corrupt}"
            )
        if self.safety_bits < 0 or self.least_devices < 2:
            raise CallerProtocolError(
                "demands: expected safety_bits of at least 0 and least_devices of at least 2,"
                f" found {self.safety_bits} and {self.least_devices}"
            )

    def find_unmet(self, ring: RingRound) -> str | None:
        """What this round falls short of; None when nothing."""
        bounds = ring.assumptions
        if not (
            bounds.corrupt >= self.corrupt * _ROUNDING and bounds.safety_bits >= self.safety_bits
        ):
            return (
                f"safety against {self.corrupt:g} corrupt devices in all but one of"
                f" 2**{self.safety_bits} rounds,"
                f" found {bounds.corrupt:g} and 2**{bounds.safety_bits}"
            )
        if ring.least_devices < self.least_devices:
            return f"at least {self.least_devices} reports in a sum, found {ring.least_devices}"
        return None


USUAL: Final = Demands()
"""Of a device whose owner says nothing."""
