"""Updates that are not arrays of weights: sparse differences, signs of a few dimensions, and
terms under masks.

The first two say how the round's starting model is to change, so they can be judged and added
only with that model and the data size.  What a tensor's numbers add up to is one array at most.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fl_cluster.aggregate.layout import Place
from fl_cluster.aggregate.model import Floats, Model
from fl_cluster.aggregate.partial import Integers, Partial, Scaling, Unfit
from fl_cluster.compression import diff_sparse_quant as sparse
from fl_cluster.compression.quant import Chunk
from fl_cluster.compression.sparse import Kept, choose
from fl_cluster.kernels import native as kernels
from fl_cluster.privacy.signds import Signs
from fl_cluster.privacy.signds import products as products_of

CHOICES_KEPT = 2
"""That of the round, and one for devices that upload other tensors or in another order."""


class _Making:
    """One choice, made by whoever asks first while the others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[Kept, ...] | None = None

    def get(self, number: int, rate: float, sizes: tuple[int, ...]) -> tuple[Kept, ...]:
        with self._lock:
            if self._kept is None:
                self._kept = choose(number, rate, sizes)
            return self._kept


class Choices:
    """Which elements the devices of a round send; any thread may ask, each is made once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._makings: OrderedDict[tuple[int, float, tuple[int, ...]], _Making] = OrderedDict()

    def of(self, number: int, rate: float, sizes: tuple[int, ...]) -> tuple[Kept, ...]:
        """The choice of round `number` for tensors of these sizes, in this order."""
        key = number, rate, sizes
        with self._lock:
            making = self._makings.setdefault(key, _Making())
            self._makings.move_to_end(key)
            while len(self._makings) > CHOICES_KEPT:
                self._makings.popitem(last=False)
        return making.get(*key)


@dataclass(frozen=True, slots=True)
class SparseUpdate:
    """A device's kept differences, which are not unusable.

    `choice` says which they are.  Making it takes time, so it is asked for only once the round
    is known to want the update.
    """

    places: Sequence[Place]
    chunks: Sequence[Chunk]
    choice: Callable[[], Sequence[Kept]]
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
        """Whether it is not as the choice has it, or an element may be too large for the sums."""
        unreadable = sparse.find_unreadable(self.chunks, self.choice())
        if unreadable is not None:
            return Unfit(unreadable.reason)
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
        for place, chunk, kept in zip(self.places, self.chunks, self.choice(), strict=True):
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
        start = 0
        for place in self.places:
            if place.tensor.is_aggregated:
                values = self.base.values[place.start : place.stop]
                rate = self.learning_rate
                yield place, products_of(values, start, self.signs, rate, data_size)
            start += place.tensor.size


@dataclass(frozen=True, slots=True)
class MaskedTerms:
    """A device's terms of the sum under its masks: any number may be any integer modulo 2**64.

    So nothing of it can be found unfit but its length, and what a device hides under its masks
    is in the sum whatever it is.
    """

    terms: Integers
    tags: bytes = b""
    """For its neighbours, under whose masks are on."""

    @property
    def waits_for_size(self) -> bool:
        """The device has multiplied already."""
        return False

    @property
    def element_count(self) -> int:
        """All elements that are aggregated."""
        return self.terms.size

    def bound_to(self, base: Model) -> MaskedTerms:
        """Itself: the terms are of the sum, not of a difference."""
        del base
        return self

    def find_unfit(self, scaling: Scaling, data_size: int) -> Unfit | None:
        """Nothing: no integer is out of range in a ring."""
        del scaling, data_size
        return None

    def add_to(self, partial: Partial, data_size: int) -> None:
        """Add modulo 2**64; every tensor was uploaded."""
        np.add(partial.sums, self.terms, out=partial.sums)
        partial.weights = [weight + data_size for weight in partial.weights]
