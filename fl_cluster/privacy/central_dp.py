"""Central differential privacy: each update clipped to a norm, noise added once to the sum.

With a clip norm C and a noise multiplier z the sum of updates gets Gaussian noise of deviation
z * C in every element; a device's data change the sum by at most C, because every device
counts with data size 1.  Clipping is on the integers of exact aggregation and exact: the norm
is a sum of whole squares, and a step is shortened towards zero, so that none is ever longer
than C by as much as one rounding.  The noise is rounded to the same integers, so that it is
added to the sum like one more update.

The sampler sums four independent Gaussians per element: a difference of floating-point
neighbours, which lets single Gaussians be told from ideal ones (Mironov 2012), cannot be taken
apart from four (Holohan and Braghin 2021), and rounding to the grid of the sum hides the low
bits.  It is no exact discrete Gaussian: the accounting holds up to that approximation.

Nothing here depends on the machine: clipping is integer arithmetic, and the sampler uses the
operations that IEEE 754 rounds correctly and no others (no logarithm of any library), so that
the same seed gives the same noise, bit for bit, on every processor.

What it costs is `accountant`'s; who adds it is the server that finishes the round.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from fl_cluster.kernels.native import Floats, Integers
from fl_cluster.privacy.draws import Doubles, Stream

SEED_BYTES: Final = 32
"""How long the secret is from which the noise of one round is made."""

_DRAWS = 4
_BLOCK = 2**16
_LARGEST_SIGMA = 2.0**57
"""Noise of more than 30 deviations, which nobody will see, still fits an int64."""

_LIMIT = 2**63 - 1

_HALF_BITS = 26
_HALF = np.int64(2**_HALF_BITS - 1)
_SQUARES = 1024
"""So many squares of halves of steps, which are below 2**52, fit an int64."""

_ROOT_BITS = 120
_A_LITTLE_LESS = 1 - 2.0**-50
"""Makes up for the roundings of a factor and of a product with it."""

_LN_2 = 0.6931471805599453
_ROOT_HALF = 0.7071067811865476
_LOG_TERMS = tuple(1 / (2 * k + 1) for k in range(12))
"""Of the series for the logarithm; the first that is left out is below 2**-60."""


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

    def fits(self, exponent: int) -> bool:
        """Whether sums in units of 2**-exponent can hold such noise."""
        return self.sigma <= math.ldexp(_LARGEST_SIGMA, -exponent)


class SeededStream:
    """Bytes that nobody can tell from random who does not have the seed: ChaCha20.

    A seed serves for one stream.
    """

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"expected a seed of {SEED_BYTES} bytes, found {len(seed)}")
        self._encryptor = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        return self._encryptor.update(bytes(count))


def on_grid(values: Floats, exponent: int) -> Integers:
    """The values in units of 2**-exponent, rounded half to even."""
    scaled = np.multiply(values, 2.0**exponent, dtype=np.float64)
    return np.rint(scaled).astype(np.int64, copy=False)


def make_steps(terms: Integers, data_size: int, base: Floats, exponent: int) -> None:
    """Turn the terms of one tensor, which count `data_size` times, into steps away from `base`."""
    for start in range(0, terms.size, _BLOCK):
        part = terms[start : start + _BLOCK]
        once = np.rint(part / data_size).astype(np.int64)
        np.subtract(once, on_grid(base[start : start + _BLOCK], exponent), out=part)


def square_sum(steps: Integers, exponent: int) -> Fraction:
    """The exact sum of the squares of steps below 2**52 that are in units of 2**-exponent."""
    total = 0
    for start in range(0, steps.size, _BLOCK):
        part = steps[start : start + _BLOCK]
        high, low = part >> _HALF_BITS, part & _HALF
        total += _sum(high * high) << 2 * _HALF_BITS
        total += _sum(high * low) << _HALF_BITS + 1
        total += _sum(low * low)
    return total / Fraction(4) ** exponent


def factor_for(squares: Fraction, clip: float) -> float:
    """What steps of this square sum are multiplied by so that their norm is at most `clip`.

    1 when it is so already; else never too large, however it is rounded.
    """
    limit = Fraction(clip) ** 2
    if squares <= limit:
        return 1.0
    ratio = limit / squares
    root = math.isqrt((ratio.numerator << 2 * _ROOT_BITS) // ratio.denominator)
    return math.ldexp(root, -_ROOT_BITS) * _A_LITTLE_LESS


def shorten(steps: Integers, factor: float) -> None:
    """Multiply the steps by a factor of `factor_for`, in place, rounding towards zero."""
    if factor == 1.0:
        return
    for start in range(0, steps.size, _BLOCK):
        part = steps[start : start + _BLOCK]
        np.copyto(part, np.trunc(part * factor).astype(np.int64))


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


def _sum(numbers: Integers) -> int:
    """The exact sum of numbers up to 2**52."""
    return sum(np.add.reduceat(numbers, range(0, numbers.size, _SQUARES)).tolist())


def _gaussians(stream: Stream, count: int) -> Doubles:
    """Sums of four independent Gaussians each, scaled back to deviation 1."""
    drawn = np.empty((_DRAWS, count), np.float64)
    pairs = drawn.reshape(_DRAWS // 2, 2, count)
    for pair in pairs:
        done = 0
        for found in _pairs(stream, count):
            piece = found[:, : count - done]
            pair[:, done : done + piece.shape[1]] = piece
            done += piece.shape[1]
    total: Doubles = (drawn[0] + drawn[1] + drawn[2] + drawn[3]) / math.sqrt(_DRAWS)
    return total


def _pairs(stream: Stream, count: int) -> Iterator[Doubles]:
    """Independent Gaussians in two rows, until there are `count` columns, by the polar method."""
    while count > 0:
        raw = np.frombuffer(stream.take(16 * (count + count // 3 + 8)), "<u8").reshape(2, -1)
        points = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1
        squares = points[0] * points[0] + points[1] * points[1]
        is_inside = (squares < 1) & (squares > 0)
        squares = squares[is_inside]
        count -= squares.size
        yield points[:, is_inside] * np.sqrt(-2 * _log(squares) / squares)


def _log(numbers: Doubles) -> Doubles:
    """The natural logarithm, from operations that are the same on every machine."""
    fraction, power = np.frexp(numbers)
    is_low = fraction < _ROOT_HALF
    fraction = np.where(is_low, 2 * fraction, fraction)
    s = (fraction - 1) / (fraction + 1)
    square = s * s
    series = np.zeros_like(s)
    for term in reversed(_LOG_TERMS):
        series = series * square + term
    whole: Doubles = (power - is_low) * _LN_2 + 2 * s * series
    return whole


def _saturating_sum(one: Integers, other: Integers) -> Integers:
    total = one + other
    wrapped = ((one ^ total) & (other ^ total)) < 0
    limits = np.where(other < 0, np.int64(-_LIMIT - 1), np.int64(_LIMIT))
    return np.where(wrapped, limits, total)
