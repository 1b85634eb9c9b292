"""How the sum of a round's updates becomes the next model: one rule for a whole job.

With s the sum of what was uploaded of a tensor, n the data sizes of those who uploaded it,
and x its value in the model that the round started from:

    mean        s / n
    normalised  x + n * s / divisor     what is uploaded is a step, and n counts steps
    control     x + s / devices_total   what is uploaded is the change of a control variate

A tensor that nobody uploaded keeps its value under every rule.
Sums are exact integers; what follows is one pass of double precision without contraction,
element by element, so every member comes to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Floats, Model
from fl_cluster.kernels import native as kernels

Integers = npt.NDArray[np.int64]

DATA_SIZE_BITS = 16
"""Data sizes are below 2**16."""

CONTROL_PREFIX = "control."
"""A control variate is a tensor named like the one that it steers, with this before it."""

BLOCK = 1 << 16
"""Elements that are worked on at a time, so that a large tensor costs no large copies."""


class Combination(Enum):
    """What becomes of one tensor's sum."""

    MEAN = "mean"
    NORMALISED = "normalised"
    CONTROL = "control"


GROWTH_BITS: Mapping[Combination, int] = {
    Combination.MEAN: DATA_SIZE_BITS + 8,
    Combination.NORMALISED: 16,
    Combination.CONTROL: 24,
}
"""By how many bits an uploaded value may be larger than the tensor is now.

What is to be averaged comes multiplied by a data size.  A control variate is of the size of
gradients, which is anybody's guess.  A step is small, and what its sum is multiplied by makes
the bits below the point count.
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule of one job, the same on all its members."""

    is_normalised: bool = False
    has_controls: bool = False
    divisor: float = 1.0
    """For normalised steps."""
    devices_total: int = 1
    """For control variates: how many devices there are, taking part or not."""

    def combination(self, name: str) -> Combination:
        """What becomes of the sum of the tensor of this name."""
        if self.is_normalised:
            return Combination.NORMALISED
        is_control = self.has_controls and name.startswith(CONTROL_PREFIX)
        return Combination.CONTROL if is_control else Combination.MEAN

    def is_weighted(self, name: str) -> bool:
        """Whether an upload of the tensor counts by the data size of its device."""
        return self.combination(name) is Combination.MEAN

    def growth_bits(self, name: str) -> int:
        """By how many bits an uploaded value may be larger than the tensor is now."""
        return GROWTH_BITS[self.combination(name)]

    def is_control(self, name: str) -> bool:
        """Whether the tensor is a control variate, which is no weight of the model."""
        return self.has_controls and name.startswith(CONTROL_PREFIX)

    def finalise(self, name: str, values: Floats, sums: Integers, weight: int, scale: int) -> None:
        """Turn `values` of the starting model into those of the next, in place.

        `sums` are integers scaled by 2**scale, `weight` is n and not 0.
        """
        combination = self.combination(name)
        if combination is Combination.MEAN:
            kernels.finalise(values, sums, float(weight) * 2.0**scale)
            return
        if combination is Combination.NORMALISED:
            factor = float(weight) / self.divisor * 2.0**-scale
        else:
            factor = 2.0**-scale / float(self.devices_total)
        with np.errstate(over="ignore"):  # infinity is found, and told, by whoever stores it
            for start in range(0, values.size, BLOCK):
                block = slice(start, start + BLOCK)
                values[block] = values[block].astype(np.float64) + sums[block] * factor

    def completed(self, model: Model) -> Model:
        """The model with every tensor that this rule needs: missing controls, all zero."""
        missing = list(self._missing_controls(model.layout))
        if not missing:
            return model
        arrays = model.arrays()
        layout = Layout([*model.layout, *missing])
        values = np.zeros(layout.size, np.float32)
        for place in layout.places:
            held = arrays.get(place.tensor.name)
            if held is not None:
                values[place.start : place.stop] = held.reshape(-1)
        return Model(layout, values)

    def _missing_controls(self, layout: Layout) -> Iterator[Tensor]:
        if not self.has_controls:
            return
        for tensor in layout:
            name = CONTROL_PREFIX + tensor.name
            if not tensor.name.startswith(CONTROL_PREFIX) and layout.find(name) is None:
                yield Tensor(name, tensor.shape, tensor.is_aggregated)


MEAN = Rule()
"""The weighted mean of every tensor."""
