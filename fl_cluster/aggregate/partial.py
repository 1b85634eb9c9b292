"""A partial: the exact sum of the updates that one member has added so far.

Sums are int64 (see `scale`), weight sums are integers, so partials merge in any order to
the same bits, and a partial of a partial is a partial.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fl_cluster.aggregate.layout import Layout, Place
from fl_cluster.aggregate.model import Floats, Model
from fl_cluster.aggregate.rules import MEAN, Rule
from fl_cluster.kernels import native as kernels

Integers = npt.NDArray[np.int64]


class Contribution(Protocol):
    """What one device uploads, in whatever form: it is judged, and then added as a whole."""

    @property
    def waits_for_size(self) -> bool:
        """Whether it can be judged only once the data size that its device declared is known."""

    @property
    def element_count(self) -> int:
        """How many elements of the model it touches: how long work on it takes."""

    def bound_to(self, base: Model) -> Contribution:
        """The same, knowing the model that its round started from."""

    def find_unfit(self, scaling: Scaling, data_size: int) -> Unfit | None:
        """Why it cannot be added with this data size; None when it can."""

    def add_to(self, partial: Partial, data_size: int) -> None:
        """Add it, when `find_unfit` had nothing against it."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one device uploads: for each aggregated tensor it sends, the flat values.

    `is_plain` says that the values are weights as they are, not yet multiplied by the data
    size; then the product is formed exactly.
    """

    arrays: Sequence[tuple[Place, Floats]]
    is_plain: bool

    @property
    def waits_for_size(self) -> bool:
        """Plain weights may be too large only for some data sizes."""
        return self.is_plain

    @property
    def element_count(self) -> int:
        """How many values were sent."""
        return sum(values.size for _, values in self.arrays)

    def bound_to(self, base: Model) -> Update:
        """Itself: it holds all there is to know."""
        del base
        return self

    def find_unfit(self, scaling: Scaling, data_size: int) -> Unfit | None:
        """The first element that is not finite, or too large for the sums."""
        for place, values in self.arrays:
            multiplier = scaling.multiplier(place, self, data_size)
            index = kernels.find_unfit(values, multiplier, scaling.bound)
            if index >= 0:
                value, largest = float(values[index]), scaling.bound / multiplier
                return Unfit(
                    f"tensor {place.tensor.name!r}, element {index}: expected a finite value of"
                    f" magnitude at most {largest:.6g}, found {value:.6g}",
                    is_out_of_range=bool(np.isfinite(value)),
                )
        return None

    def add_to(self, partial: Partial, data_size: int) -> None:
        """Add every tensor to its sum."""
        for place, values in self.arrays:
            multiplier = partial.scaling.multiplier(place, self, data_size)
            kernels.fold(partial.sums_of(place), values, multiplier)
            partial.weights[place.sum_index] += data_size


@dataclass(frozen=True, slots=True)
class Scaling:
    """How one round turns floats into integers; the same on all members."""

    exponents: Sequence[int]
    bound: int
    rule: Rule = MEAN

    def multiplier(self, place: Place, update: Update, data_size: int) -> float:
        """The exact double by which an uploaded element becomes a term of the sum."""
        is_weighed_here = update.is_plain and self.rule.is_weighted(place.tensor.name)
        factor = data_size if is_weighed_here else 1
        return float(factor) * 2.0 ** self.exponents[place.sum_index]


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why an update cannot be added, as a sentence for whoever sent it."""

    reason: str
    is_out_of_range: bool = False
    """The number is finite and too large for this round's sums."""


class Partial:
    """A running sum.  Not thread-safe: one caller at a time."""

    def __init__(
        self,
        layout: Layout,
        scaling: Scaling,
        sums: Integers | None = None,
        weights: Sequence[int] | None = None,
    ) -> None:
        """An empty partial, or one that goes on from `sums`, in place, and `weights`."""
        self.layout = layout
        self.scaling = scaling
        self.sums = np.zeros(layout.sum_size, np.int64) if sums is None else sums
        self.weights = [0] * len(layout.summed) if weights is None else list(weights)

    def add(self, update: Contribution, data_size: int) -> None:
        """Add an update that fits."""
        update.add_to(self, data_size)

    def sums_of(self, place: Place) -> Integers:
        """The sums of one aggregated tensor, a view."""
        return self.sums[place.sum_start : place.sum_stop]

    def merge(self, sums: Integers, weights: Sequence[int]) -> None:
        """Add what another partial of the same round holds."""
        kernels.merge(self.sums, sums)
        self.weights = [mine + theirs for mine, theirs in zip(self.weights, weights, strict=True)]

    def finalise(self, base: Model) -> tuple[Model, tuple[str, ...]]:
        """The next model by the job's rule, and the names of tensors that nobody uploaded.

        A tensor that nobody uploaded, like one that is not aggregated, keeps its value of
        `base`, the model that the round started from.
        """
        values = base.values.copy()
        left_out = []
        for place in self.layout.summed:
            weight = self.weights[place.sum_index]
            if weight == 0:
                left_out.append(place.tensor.name)
                continue
            sums = self.sums_of(place)
            scale = self.scaling.exponents[place.sum_index]
            of_tensor = values[place.start : place.stop]
            self.scaling.rule.finalise(place.tensor.name, of_tensor, sums, weight, scale)
        return Model(self.layout, values), tuple(left_out)


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where a stored partial is: the name of its blob, and the weight sums beside it."""

    blob: str
    weights: Sequence[int]

    def to_text(self) -> str:
        """One line of JSON; equal weights, the usual case, are written once."""
        same = len(set(self.weights)) == 1
        weights = [self.weights[0]] if same else list(self.weights)
        return json.dumps([self.blob, weights], separators=(",", ":"))

    @classmethod
    def parse(cls, text: str, count: int) -> Pointer:
        """The inverse of `to_text` for a layout with `count` aggregated tensors.

        ValueError when the text is not one of ours for such a layout.
        """
        match json.loads(text):
            case [str(blob), [int(same)]]:
                return cls(blob, [same] * count)
            case [str(blob), [*weights]] if len(weights) == count:
                return cls(blob, weights)
        raise ValueError(f"expected a blob and {count} weights, found {text[:200]}")
