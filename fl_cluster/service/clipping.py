"""An update whose step is clipped before it is added, for noise that is calibrated to it.

It counts once whatever its data size, and for every aggregated tensor: one that it leaves out
counts as unchanged.  So the sum of a round is a number of starting models that is known
beforehand, and steps of which each is at most as long as the norm; nothing else of a device
gets into it.
Whatever form the update came in is added to a sum of its own first, so clipping is integer
arithmetic, and the same on every server and kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Contribution, Partial, Scaling, Unfit
from fl_cluster.config.protection import Protection
from fl_cluster.privacy.central_dp import factor_for, make_steps, on_grid, shorten, square_sum

PLAIN_ADDITIONS = 24
"""So many of them take as long as one that is clipped."""


@dataclass(frozen=True, slots=True)
class ClippedUpdate:
    """`content` as a step away from `base` of at most the norm `clip`."""

    content: Contribution
    base: Model
    clip: float

    @property
    def waits_for_size(self) -> bool:
        """The data size is divided out again, but decides whether it fits."""
        return self.content.waits_for_size

    @property
    def element_count(self) -> int:
        """All aggregated elements, as often as adding one plainly takes as long."""
        return PLAIN_ADDITIONS * sum(place.tensor.size for place in self.base.layout.summed)

    def bound_to(self, base: Model) -> ClippedUpdate:
        """The same, for a round that started from `base`."""
        return ClippedUpdate(self.content.bound_to(base), base, self.clip)

    def find_unfit(self, scaling: Scaling, data_size: int) -> Unfit | None:
        """Why the update itself does not fit; clipped, what fits still does."""
        return self.content.find_unfit(scaling, data_size)

    def add_to(self, partial: Partial, data_size: int) -> None:
        """Add the starting model and the clipped step."""
        own = Partial(partial.layout, partial.scaling)
        own.add(self.content, data_size)
        squares = Fraction(0)
        for place in partial.layout.summed:
            steps, exponent = own.sums_of(place), partial.scaling.exponents[place.sum_index]
            if own.weights[place.sum_index]:
                base = self.base.values[place.start : place.stop]
                make_steps(steps, data_size, base, exponent)
                squares += square_sum(steps, exponent)
        factor = factor_for(squares, self.clip)
        for place in partial.layout.summed:
            steps, exponent = own.sums_of(place), partial.scaling.exponents[place.sum_index]
            shorten(steps, factor)
            steps += on_grid(self.base.values[place.start : place.stop], exponent)
        partial.merge(own.sums, [1] * len(partial.weights))


def clipped(content: Contribution, base: Model, protection: Protection) -> Contribution:
    """The update as a round with this protection that started from `base` adds it."""
    if not protection.is_central:
        return content
    return ClippedUpdate(content, base, protection.clip_norm)
