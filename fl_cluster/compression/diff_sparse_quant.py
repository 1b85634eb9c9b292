"""Uploads as sparse 8-bit differences: what a device sends, and how it enters the sum.

What would have been uploaded is `products`: weights times the data size, with noise where
there is any.  A device sends only the kept elements of products - base * data_size; whoever
reads it puts base * data_size back under all elements.  Elements that are not kept therefore
say "unchanged", and the step that the average takes shrinks with the rate.

A chunk goes from the message into the sum without an array in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fl_cluster.compression.quant import Chunk, Doubles, in_steps, scale_of
from fl_cluster.compression.sparse import Kept, kept_count
from fl_cluster.kernels import native as kernels
from fl_cluster.kernels.native import Floats, Integers

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why chunks are no update, as a sentence for whoever sent them."""

    reason: str


def encode(
    products: Sequence[Floats], base: Sequence[Floats], data_size: int, kept: Sequence[Kept]
) -> tuple[Chunk, ...]:
    """The chunks of an update, one per tensor: flat arrays, in the order of the choice."""
    return tuple(
        _encode_tensor(product, start * np.float32(data_size), choice)
        for product, start, choice in zip(products, base, kept, strict=True)
    )


def _encode_tensor(product: Floats, start: Floats, kept: Kept) -> Chunk:
    differences = (product - start)[kept.flags()]
    if differences.size == 0:
        # What the published device sends for a tensor of which nothing is kept.
        return Chunk(np.empty(0, np.int8), _LARGEST, -_LARGEST)
    minimum, maximum = np.float32(differences.min()), np.float32(differences.max())
    scale = np.float32(scale_of(float(minimum), float(maximum)))
    if not (math.isfinite(scale) and math.isfinite(minimum)):
        raise ValueError("the update holds NaN or infinity, or spans more than float32 can say")
    quants = in_steps(differences, minimum, scale, _half_up)
    return Chunk(quants, float(minimum), float(maximum))


def _half_up(steps: Doubles) -> Doubles:
    whole: Doubles = np.floor(steps + 0.5)
    return whole


def find_unusable(chunks: Sequence[Chunk], sizes: Sequence[int], rate: float) -> Unreadable | None:
    """Why these chunks are no update of tensors of these sizes, whichever elements are kept.

    Costs nothing per element; what is left to ask is `find_unreadable`.
    """
    if len(chunks) != len(sizes):
        return Unreadable(f"expected {len(sizes)} compressed tensors, found {len(chunks)}")
    for number, chunk in enumerate(chunks):
        # The limits of a chunk without elements say nothing, and are out of order.
        if chunk.quants.size == 0:
            continue
        where = f"compressed tensor {number}"
        if not chunk.minimum <= chunk.maximum:
            limits = f"{chunk.minimum} and {chunk.maximum}"
            return Unreadable(f"{where}: expected a minimum and a maximum, found {limits}")
        if not math.isfinite(largest_difference(chunk)):
            return Unreadable(f"{where}: its values are not finite")
    expected, found = kept_count(sum(sizes), rate), sum(chunk.quants.size for chunk in chunks)
    if found != expected:
        return Unreadable(f"expected {expected} kept values in all, found {found}")
    return None


def find_unreadable(chunks: Sequence[Chunk], kept: Sequence[Kept]) -> Unreadable | None:
    """Why chunks that are not unusable do not fit this choice; None when they do."""
    for number, (chunk, choice) in enumerate(zip(chunks, kept, strict=True)):
        if chunk.quants.size != choice.count:
            found = chunk.quants.size
            return Unreadable(
                f"compressed tensor {number}: expected {choice.count} kept values, found {found}"
            )
    return None


def largest_difference(chunk: Chunk) -> float:
    """The largest magnitude that a value of the chunk can have; 0 when it has none."""
    if chunk.quants.size == 0:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        top = np.float32(255) * np.float32(chunk.scale) + np.float32(chunk.minimum)
    return max(abs(chunk.minimum), abs(float(top)))


def is_in_range(
    chunk: Chunk, base_magnitude: float, factors: tuple[int, float], bound: int
) -> bool:
    """Whether no element can exceed `bound` in the sum: the condition to `fold` it.

    `base_magnitude` is the largest |base| of the tensor, so the answer costs nothing per
    element; it assumes that the largest difference meets the largest base.
    """
    data_size, multiplier = factors
    largest = largest_difference(chunk) + base_magnitude * data_size
    # A hair more than the two float32 roundings of an element can add.
    return largest * (1 + 2.0**-22) * multiplier <= bound and largest <= _LARGEST


def fold(
    sums: Integers, base: Floats, chunk: Chunk, kept: Kept, factors: tuple[int, float]
) -> None:
    """Add one tensor to its sums; `factors` is the data size, and what makes it an integer.

    The chunk was readable and in range.  `base` is the model that the round started from, at
    full precision, whatever the device had: it is put back under a difference.
    """
    has_values = chunk.quants.size > 0
    data_size, multiplier = factors
    numbers = (
        chunk.minimum if has_values else 0.0,
        chunk.scale if has_values else 0.0,
        float(data_size),
        multiplier,
    )
    kernels.fold_quantised(sums, base, kept.bits, chunk.quants, numbers)


def decode(base: Floats, chunk: Chunk, kept: Kept, data_size: int) -> Floats:
    """The products that `fold` adds, as an array: for tests and for looking at an update."""
    values: Floats = base * np.float32(data_size)
    if chunk.quants.size:
        steps = (chunk.quants.astype(np.int16) + 128).astype(np.float32)
        values[kept.flags()] += steps * np.float32(chunk.scale) + np.float32(chunk.minimum)
    return values
