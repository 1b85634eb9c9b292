"""Updates that are not arrays of weights: sparse differences, and signs of a few dimensions.

Both say how the round's starting model is to change, so they can be judged and added only
with that model and the data size.  What a tensor's numbers add up to is one array at most.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from fl_cluster.aggregate.layout import Place
from fl_cluster.aggregate.model import Floats, Model
from fl_cluster.aggregate.partial import Partial, Scaling, Unfit
from fl_cluster.compression import diff_sparse_quant as sparse
from fl_cluster.compression.quant import Chunk
from fl_cluster.compression.sparse import Kept, choose
from fl_cluster.kernels import native as kernels
from fl_cluster.privacy.signds import Signs


class Choices:
    """Which elements the devices of a round send; made once, whoever asks at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._make = lru_cache(maxsize=2)(choose)

    def of(self, number: int, rate: float, sizes: tuple[int, ...]) -> tuple[Kept, ...]:
        """The choice of round `number` for tensors of these sizes, in this order."""
        with self._lock:
            return self._make(number, rate, sizes)


@dataclass(frozen=True, slots=True)
class OtherRoundUpdate:
    """Sparse differences for a round that is not under way: nobody can tell what they mean.

    The round's verdict is the answer to them.
    """

    waits_for_size: bool = True
    element_count: int = 0

    def bound_to(self, base: Model) -> OtherRoundUpdate:
        """Itself."""
        del base
        return self

    def find_unfit(self, scaling: Scaling, data_size: int) -> Unfit | None:
        """Always."""
        del scaling, data_size
        return Unfit("the round changed while the update was read; send it again")

    def add_to(self, partial: Partial, data_size: int) -> None:
        """Never."""
        raise AssertionError(f"{partial} of {data_size}: it is never fit")


@dataclass(frozen=True, slots=True)
class SparseUpdate:
    """A device's kept differences, readable and as many as its round's choice keeps."""

    places: Sequence[Place]
    chunks: Sequence[Chunk]
    kept: Sequence[Kept]
    base: Model | None = None

    @property
    def waits_for_size(self) -> bool:
        """The model is put back under the differences, times the data size."""
        return True

    @property
    def element_count(self) -> int:
        """All elements of its tensors: those that were not sent count as unchanged."""
        return sum(place.tensor.size for place in self.places)

    def bound_to(self, base: Model) -> SparseUpdate:
        """The same, for a round that started from `base`."""
        return replace(self, base=base)

    def find_unfit(self, scaling: Scaling, data_size: int) -> Unfit | None:
        """The first tensor of which an element may be too large for the sums."""
        for place, chunk, _, values in self._aggregated():
            factors = (data_size, 2.0 ** scaling.exponents[place.sum_index])
            magnitude = float(np.abs(values).max())
            if not sparse.is_in_range(chunk, magnitude, factors, scaling.bound):
                largest = sparse.largest_difference(chunk)
                return Unfit(
                    f"tensor {place.tensor.name!r}: its differences of up to {largest:.6g} are"
                    " too large for this round's sums",
                    is_out_of_range=True,
                )
        return None

    def add_to(self, partial: Partial, data_size: int) -> None:
        """Add each tensor from the message's bytes."""
        for place, chunk, kept, values in self._aggregated():
            factors = (data_size, 2.0 ** partial.scaling.exponents[place.sum_index])
            sparse.fold(partial.sums_of(place), values, chunk, kept, factors)
            partial.weights[place.sum_index] += data_size

    def _aggregated(self) -> Iterator[tuple[Place, Chunk, Kept, Floats]]:
        assert self.base is not None, "bound_to comes first"
        for place, chunk, kept in zip(self.places, self.chunks, self.kept, strict=True):
            if place.tensor.is_aggregated:
                yield place, chunk, kept, self.base.values[place.start : place.stop]


@dataclass(frozen=True, slots=True)
class SignUpdate:
    """A device's signs: its tensors count as unchanged but for a step at the chosen elements."""

    places: Sequence[Place]
    signs: Signs
    learning_rate: float
    base: Model | None = None

    @property
    def waits_for_size(self) -> bool:
        """Everything is multiplied by the data size."""
        return True

    @property
    def element_count(self) -> int:
        """All elements of its tensors."""
        return sum(place.tensor.size for place in self.places)

    def bound_to(self, base: Model) -> SignUpdate:
        """The same, for a round that started from `base`."""
        return replace(self, base=base)

    def find_unfit(self, scaling: Scaling, data_size: int) -> Unfit | None:
        """The first tensor of which an element is too large for the sums."""
        for place, products in self._products(data_size):
            multiplier = 2.0 ** scaling.exponents[place.sum_index]
            if kernels.find_unfit(products, multiplier, scaling.bound) >= 0:
                reason = f"tensor {place.tensor.name!r} would be too large for this round's sums"
                return Unfit(reason, is_out_of_range=True)
        return None

    def add_to(self, partial: Partial, data_size: int) -> None:
        """Add what the signs stand for, tensor by tensor."""
        for place, products in self._products(data_size):
            multiplier = 2.0 ** partial.scaling.exponents[place.sum_index]
            kernels.fold(partial.sums_of(place), products, multiplier)
            partial.weights[place.sum_index] += data_size

    def _products(self, data_size: int) -> Iterator[tuple[Place, Floats]]:
        assert self.base is not None, "bound_to comes first"
        step = np.float32(self.signs.sign) * np.float32(self.learning_rate)
        start = 0
        for place in self.places:
            stop = start + place.tensor.size
            first, last = np.searchsorted(self.signs.indices, [start, stop])
            if place.tensor.is_aggregated:
                values = self.base.values[place.start : place.stop].copy()
                values[self.signs.indices[first:last] - start] += step
                yield place, values * np.float32(data_size)
            start = stop
