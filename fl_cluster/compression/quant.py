"""Tensors in 8 bits an element: a model as devices download it, and what they make of it.

Each tensor has its own scale: 255 steps from its smallest to its largest element, and 1e-10
on top so that a constant tensor has one too.  All arithmetic is float32, as on devices; the
worst error of an element is half a step, (maximum - minimum) / 510.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fl_cluster.kernels.native import Floats, Quants

_STEPS = np.float32(255)
_LEAST_SCALE = 1e-10
_OFFSET = 128
_BLOCK = 1 << 16
"""Elements that are worked on at a time, so that a large tensor costs no large copies."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chunk:
    """One tensor, or the kept elements of one: q stands for (q + 128) * scale + minimum."""

    quants: Quants
    minimum: float
    maximum: float

    @property
    def scale(self) -> float:
        """The size of one step; a float32, as it comes out of the devices' arithmetic."""
        return scale_of(self.minimum, self.maximum)


def scale_of(minimum: float, maximum: float) -> float:
    """The size of one step between two float32; infinite when they are too far apart."""
    with np.errstate(over="ignore"):
        step = (np.float32(maximum) - np.float32(minimum)) / _STEPS
        return float(np.float32(float(step) + _LEAST_SCALE))


def quantise(values: Floats) -> Chunk:
    """One tensor of a model for download, its halves rounded away from zero.

    ValueError when it is empty, not finite, or spans more than a float32 can say: such a
    tensor would reach devices as rubbish.
    """
    if values.size == 0:
        raise ValueError("a tensor without elements cannot be quantised")
    minimum, maximum = np.float32(values.min()), np.float32(values.max())
    scale = np.float32(scale_of(float(minimum), float(maximum)))
    if not (math.isfinite(scale) and math.isfinite(minimum)):
        raise ValueError("the tensor holds NaN or infinity, or spans more than float32 can say")
    quants = in_steps(values, minimum, scale, _half_away)
    return Chunk(quants, float(minimum), float(maximum))


def dequantise(chunk: Chunk) -> Floats:
    """The values that a device reads from `chunk`."""
    steps = (chunk.quants.astype(np.int16) + _OFFSET).astype(np.float32)
    values: Floats = steps * np.float32(chunk.scale) + np.float32(chunk.minimum)
    return values


def in_steps(
    values: Floats, minimum: np.float32, scale: np.float32, rounded: Callable[[Doubles], Doubles]
) -> Quants:
    """How many steps each value lies above `minimum`, less 128: the low 8 bits of it, rounded."""
    quants = np.empty(values.size, np.int8)
    for start in range(0, values.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        steps = (values[block] - minimum) / scale - np.float32(_OFFSET)
        quants[block] = rounded(steps.astype(np.float64)).astype(np.int64).astype(np.int8)
    return quants


def _half_away(steps: Doubles) -> Doubles:
    whole: Doubles = np.trunc(steps + np.copysign(0.5, steps))
    return whole
