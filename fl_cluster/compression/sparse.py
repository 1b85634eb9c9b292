"""Which elements of an update are sent: a choice that both sides make from the round's number.

The choice runs over all tensors of the update in the order in which it names them, so both
sides must have the same order and the same sizes.  It is the same for all devices of a round:
make it once and keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fl_cluster.kernels import native as kernels
from fl_cluster.kernels.native import Bytes

MOST_ELEMENTS = 2**31 - 1
"""The published generator counts in 32 bits."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Which elements of one tensor are sent."""

    size: int
    count: int
    bits: Bytes
    """Element i is sent when bit i % 8 of byte i // 8 is set."""

    def flags(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """One truth value per element."""
        return np.unpackbits(self.bits, count=self.size, bitorder="little").view(np.bool_)


def kept_count(size: int, rate: float) -> int:
    """How many of `size` elements are sent at this rate: a float32 product, cut off."""
    return min(size, int(np.float32(size) * np.float32(rate)))


def choose(seed: int, rate: float, sizes: Sequence[int]) -> tuple[Kept, ...]:
    """What is sent of tensors of these sizes, in this order; `seed` is the round's number.

    ValueError when the rate is not above 0 and at most 1, or there are more elements than the
    published generator can count.
    """
    total = sum(sizes)
    if not 0 < rate <= 1:
        raise ValueError(f"expected a rate above 0, at most 1, found {rate}")
    if total > MOST_ELEMENTS:
        raise ValueError(f"expected at most {MOST_ELEMENTS} elements, found {total}")
    flags = np.empty(total, np.uint8)
    kernels.choose_kept(flags, seed, kept_count(total, rate))
    ends = np.cumsum([0, *sizes]).tolist()
    return tuple(_packed(flags[start:stop]) for start, stop in pairwise(ends))


def _packed(flags: Bytes) -> Kept:
    return Kept(flags.size, int(np.count_nonzero(flags)), np.packbits(flags, bitorder="little"))
