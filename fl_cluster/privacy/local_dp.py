"""Noise that genuine devices add to their own update, to the bit.

An update is clipped to a norm and gets Gaussian noise per element, calibrated analytically;
the product with the data size is formed afterwards and scales the noise too.  The clip norm
starts at 0.05 and follows the size of the global step.  What the guarantee is worth over many
rounds is `accountant`'s question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fl_cluster.kernels.native import Floats
from fl_cluster.privacy.draws import Stream, gaussians

FIRST_CLIP: Final = 0.05

_SEGMENTS = 10_000
_MOST_HALVINGS = 1_001
_CLOSE = 1e-6


@dataclass(frozen=True, slots=True)
class Noise:
    """What one round of noise is made of; epsilon and delta are float32 on the wire."""

    epsilon: float
    delta: float
    clip: float

    @property
    def sigma(self) -> float:
        """The deviation of the noise of one element."""
        return sigma(self.epsilon, self.delta, self.clip)

    @property
    def noise_multiplier(self) -> float:
        """What the ledger counts one round of it as: two updates differ by up to twice the clip."""
        return self.sigma / (2 * self.clip)


def protect(
    trained: Sequence[Floats], base: Sequence[Floats], noise: Noise, data_size: int, stream: Stream
) -> list[Floats]:
    """What a device uploads: clipped, noisy weights times the data size, tensor by tensor."""
    factor = clip_factor(trained, base, noise.clip)
    drawn = gaussians(stream, sum(tensor.size for tensor in trained)) * noise.sigma
    products, done = [], 0
    for after, before in zip(trained, base, strict=True):
        step = ((after - before).astype(np.float64) * factor).astype(np.float32)
        step = (step + drawn[done : done + step.size]).astype(np.float32)
        done += step.size
        products.append((before + step) * np.float32(data_size))
    return products


def clip_factor(trained: Sequence[Floats], base: Sequence[Floats], clip: float) -> float:
    """What the update is multiplied by so that its norm is at most `clip`; 0 when it is 0."""
    total = 0.0
    for after, before in zip(trained, base, strict=True):
        difference = after - before
        squares = (difference * difference).astype(np.float64)
        total = float(np.cumsum(np.concatenate(([total], squares)))[-1])
    norm = math.sqrt(total)
    return min(1.0, clip / norm) if norm > 0 else 0.0


def next_clip(
    clip: float, number: int, factor: float, base: Sequence[Floats], model: Sequence[Floats]
) -> float:
    """The clip norm for the round after `number`, which went from `base` to `model`.

    It becomes the size of the global step times `factor` after round 1; later it only falls.
    """
    differences = [before - after for before, after in zip(base, model, strict=True)]
    squares = np.concatenate([step * step for step in differences])
    norm = np.float32(math.sqrt(np.cumsum(squares, dtype=np.float32)[-1]))
    proposed = float(np.float32(factor) * norm)
    return proposed if number == 1 or proposed < clip else clip


def sigma(epsilon: float, delta: float, clip: float) -> float:
    """The least deviation for (epsilon, delta) at sensitivity `clip`, as devices compute it.

    The analytic calibration of Balle and Wang (2018), its normal distribution by a trapezoid
    rule whose result is a float32, which shows in the digits.
    """
    alpha = _alpha(epsilon, delta)
    return alpha * clip / math.sqrt(2 * epsilon)


def _alpha(epsilon: float, delta: float) -> float:
    try:
        growth = math.exp(epsilon)
    except OverflowError:
        return 1.0

    def above(v: float) -> float:
        return _phi(math.sqrt(epsilon * v)) - growth * _phi(-math.sqrt(epsilon * (v + 2)))

    def below(v: float) -> float:
        return _phi(-math.sqrt(epsilon * v)) - growth * _phi(-math.sqrt(epsilon * (v + 2)))

    middle = above(0.0)
    if delta > middle:
        low, high = 0.0, 1.0
        while above(high) <= delta:
            low, high = high, high * 2
        s = _bisect(above, (low, high), delta, rises=True)
        return math.sqrt(1 + s / 2) - math.sqrt(s / 2)
    if delta < middle:
        low, high = 0.0, 1.0
        while below(high) > delta:
            low, high = high, high * 2
        s = _bisect(below, (low, high), delta, rises=False)
        return math.sqrt(1 + s / 2) + math.sqrt(s / 2)
    return 1.0


def _bisect(
    function: Callable[[float], float], bounds: tuple[float, float], delta: float, *, rises: bool
) -> float:
    low, high = bounds
    middle = low + (high - low) / 2
    for _ in range(_MOST_HALVINGS):
        middle = low + (high - low) / 2
        value = function(middle)
        if value <= delta and delta - value <= _CLOSE:
            break
        if (value <= delta) == rises:
            low = middle
        else:
            high = middle
    return middle


def _phi(x: float) -> float:
    return 0.5 * (1 + _erf(x / math.sqrt(2)))


def _erf(x: float) -> float:
    step = x / _SEGMENTS
    inner = np.exp(-((step * np.arange(1, _SEGMENTS)) ** 2))
    total = 1 + 2 * float(np.cumsum(inner)[-1]) + math.exp(-((step * _SEGMENTS) ** 2))
    return float(np.float32(total * step / math.sqrt(math.pi)))
