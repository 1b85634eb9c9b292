"""Central differential privacy: each update clipped to a norm, noise added once to the sum.

With a clip norm C and a noise multiplier z the sum of updates gets Gaussian noise of deviation
z * C in every element; a device's presence changes the sum by at most C, because every device
counts with data size 1.  The noise is rounded to the integers of exact aggregation, so that it
is added to the sum like one more update and the same noise gives the same model everywhere.

The sampler takes 53-bit uniforms from the system's generator and sums four independent
Gaussians per element: a difference of floating-point neighbours, which lets single Gaussians be
told from ideal ones (Mironov 2012), cannot be taken apart from four (Holohan and Braghin 2021),
and rounding to the grid of the sum hides the low bits.  It is no exact discrete Gaussian: the
accounting holds up to that approximation.

What it costs is `accountant`'s; who adds it is the server that finishes the round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fl_cluster.kernels.native import Floats, Integers
from fl_cluster.privacy.draws import Doubles, Stream

_DRAWS = 4
_BLOCK = 2**16
_LARGEST_SIGMA = 2.0**57
"""Noise of more than 30 deviations, which nobody will see, still fits an int64."""

_LIMIT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class CentralNoise:
    """The protection of one round's sum."""

    clip: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        if not (0 < self.clip < math.inf and 0 < self.noise_multiplier < math.inf):
            raise ValueError(
                "expected a clip norm and a noise multiplier above 0,"
                f" found {self.clip} and {self.noise_multiplier}"
            )

    @property
    def sigma(self) -> float:
        """The deviation of the noise, in units of the weights."""
        return self.clip * self.noise_multiplier


def clip_update(trained: Sequence[Floats], base: Sequence[Floats], norm: float) -> list[Floats]:
    """The weights moved back towards `base` so that their distance is at most `norm`.

    Rounding to float32 can lengthen a step again; it is shortened until it does not.
    """
    steps = [a.astype(np.float64) - b for a, b in zip(trained, base, strict=True)]
    length = _length(steps)
    if not math.isfinite(length):
        raise ValueError("the update holds NaN or infinity")
    factor = min(1.0, norm / length) if length > 0 else 1.0
    if factor == 1.0:
        return [tensor.copy() for tensor in trained]
    while True:
        clipped = [
            (b + step * factor).astype(np.float32) for b, step in zip(base, steps, strict=True)
        ]
        if distance(clipped, base) <= norm or factor == 0:
            return clipped
        factor = 0.0 if factor < 1e-30 else factor * (1 - 1e-7)


def distance(one: Sequence[Floats], other: Sequence[Floats]) -> float:
    """The Euclidean distance between two sets of tensors, in double precision."""
    return _length([a.astype(np.float64) - b for a, b in zip(one, other, strict=True)])


def add_noise(sums: Integers, sigma: float, exponent: int, stream: Stream) -> None:
    """Add noise of deviation `sigma` to one tensor's sums, which are in units of 2**-exponent.

    Sums stop at the ends of int64 instead of wrapping around.  ValueError when the noise would
    be larger than any sum of this scale: the clip norm or the multiplier is far off.
    """
    steps = math.ldexp(sigma, exponent)
    if steps > _LARGEST_SIGMA:
        raise ValueError(
            f"noise of deviation {sigma:g} does not fit sums with {exponent} binary places"
        )
    for start in range(0, sums.size, _BLOCK):
        part = sums[start : start + _BLOCK]
        noise = np.rint(_gaussians(stream, part.size) * steps).astype(np.int64)
        np.copyto(part, _saturating_sum(part, noise))


def _gaussians(stream: Stream, count: int) -> Doubles:
    """Sums of four independent Gaussians each, scaled back to deviation 1."""
    total = np.zeros(count, np.float64)
    for _ in range(_DRAWS // 2):
        uniforms = np.frombuffer(stream.take(16 * count), "<u8").reshape(2, count)
        # In (0, 1]: the logarithm of 0 is nobody's noise.
        radius = ((uniforms[0] >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53
        angle = (uniforms[1] >> np.uint64(11)).astype(np.float64) * (2.0**-53 * 2 * math.pi)
        size = np.sqrt(-2 * np.log(radius))
        total += size * np.cos(angle) + size * np.sin(angle)
    scaled: Doubles = total / math.sqrt(_DRAWS)
    return scaled


def _saturating_sum(one: Integers, other: Integers) -> Integers:
    total = one + other
    wrapped = ((one ^ total) & (other ^ total)) < 0
    limits = np.where(other < 0, np.int64(-_LIMIT - 1), np.int64(_LIMIT))
    return np.where(wrapped, limits, total)


def _length(steps: Sequence[Doubles]) -> float:
    return math.sqrt(math.fsum(float(np.dot(step.ravel(), step.ravel())) for step in steps))
