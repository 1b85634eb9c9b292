"""What releases with noise have cost so far, and what the next ones would: Rényi accounting.

A `Ledger` adds up Rényi differential privacy at fixed orders (Mironov 2017) and turns it into
(epsilon, delta) by the bound of Canonne, Kamath and Steinke (2020).  Neighbouring data differ
by one device, added or removed.  Subsampling counts only where each device takes part in a
round independently with the sampling rate (Poisson; Mironov, Talwar and Zhang 2019): a cohort
of whoever comes first is no such sample, and then the rate is 1.

Agrees with Google's dp-accounting, which has the orders up to 1,024; those above them are for
small epsilons, for which it gives no useful bound.  Rounds never make a cost less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ORDERS: Final = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *(float(order) for order in range(11, 64)),
    128.0,
    256.0,
    512.0,
    1024.0,
    *(2.0 ** (half / 2) for half in range(21, 81)),
    math.inf,
)
"""Those of dp-accounting; half octaves, for an epsilon of e needs an order of about
2 log(1/delta) / e, and missing it by so little costs 2 percent; and the one at which releases
without a delta add up exactly."""

SMALLEST_NOISE: Final = 1e-100
LARGEST_NOISE: Final = 1e100
"""Noise multipliers between these have squares that a double holds."""

_LARGEST_SAMPLED_ORDER = 1024.0
"""Above it the moment of a sample, a sum of as many terms, is not worth its time."""

_CLOSE = 1 + 1e-6
"""How near the least noise `noise_for` comes."""

_NEGLIGIBLE = -30.0
"""How far, as a logarithm, a term is below the sum when nothing that matters follows."""

_MOST_TERMS = 1_000


@dataclass(frozen=True, slots=True)
class GaussianRelease:
    """A sum with Gaussian noise, of a cohort sampled with a rate from 0 to 1.

    `noise_multiplier` is the deviation of the noise over the norm to which each device's
    contribution was clipped.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        is_noise = SMALLEST_NOISE <= self.noise_multiplier <= LARGEST_NOISE
        if not (is_noise and 0 <= self.sampling_rate <= 1):
            raise ValueError(
                f"expected a noise multiplier above 0, from {SMALLEST_NOISE:g} to"
                f" {LARGEST_NOISE:g}, and a sampling rate from 0 to 1,"
                f" found {self.noise_multiplier} and {self.sampling_rate}"
            )

    def cost(self, order: float) -> float:
        """Rényi divergence of this order between neighbouring data."""
        rate, sigma = self.sampling_rate, self.noise_multiplier
        if rate == 0:
            return 0.0
        if rate == 1 or order > _LARGEST_SAMPLED_ORDER:
            # Sampling never makes it more.
            return order / (2 * sigma**2)
        if order.is_integer():
            return _log_moment_whole(rate, sigma, int(order)) / (order - 1)
        return _log_moment(rate, sigma, order) / (order - 1)


@dataclass(frozen=True, slots=True)
class PureRelease:
    """A release with epsilon and no delta, as of signs of chosen dimensions."""

    epsilon: float

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(f"expected an epsilon of at least 0, found {self.epsilon}")

    def cost(self, order: float) -> float:
        """Rényi divergence of this order (Bun and Steinke 2016)."""
        return min(self.epsilon, order * self.epsilon**2 / 2)


Release = GaussianRelease | PureRelease


@dataclass(frozen=True, slots=True)
class Ledger:
    """The cost so far, by order: a value, made anew from what a job was charged for."""

    costs: tuple[float, ...] = (0.0,) * len(ORDERS)
    rounds: int = 0

    def after(self, release: Release, rounds: int = 1) -> Ledger:
        """The ledger after so many rounds with this release."""
        if rounds == 0:
            return self
        added = (release.cost(order) for order in ORDERS)
        costs = tuple(old + rounds * new for old, new in zip(self.costs, added, strict=True))
        return Ledger(costs, self.rounds + rounds)

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon that holds with this delta; infinite when no order gives one."""
        if not 0 < delta < 1:
            raise ValueError(f"expected a delta between 0 and 1, found {delta}")
        return max(0.0, min(map(self._epsilon_at, ORDERS, self.costs, [delta] * len(ORDERS))))

    @staticmethod
    def _epsilon_at(order: float, cost: float, delta: float) -> float:
        if delta**2 + math.expm1(-cost) > 0:
            return 0.0
        if order == math.inf:
            return cost
        if order <= 1.01:
            return math.inf
        return cost + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a job may spend; a round that would exceed it must not open."""

    epsilon: float
    delta: float

    def allows(self, ledger: Ledger, release: Release) -> bool:
        """Whether one more round stays within it."""
        return ledger.after(release).epsilon(self.delta) <= self.epsilon

    def rounds_left(self, ledger: Ledger, release: Release, most: int) -> int:
        """How many more rounds stay within it, of `most` that are wanted."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            fits = ledger.after(release, middle).epsilon(self.delta) <= self.epsilon
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


def noise_for(budget: Budget, rounds: int, sampling_rate: float = 1.0) -> float | None:
    """The least noise multiplier with which so many rounds fit the budget, up to one part in 10**6.

    None when not even the largest one does.
    """

    def fits(multiplier: float) -> bool:
        return _fits(budget, rounds, GaussianRelease(multiplier, sampling_rate))

    low = high = 1.0
    factor = 2.0
    if fits(high):
        while low > SMALLEST_NOISE and fits(low):
            low, high, factor = max(SMALLEST_NOISE, low / factor), low, factor * factor
    else:
        while not fits(high):
            if high == LARGEST_NOISE:
                return None
            low, high, factor = high, min(LARGEST_NOISE, high * factor), factor * factor
    while high > low * _CLOSE:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _fits(budget: Budget, rounds: int, release: GaussianRelease) -> bool:
    return Ledger().after(release, rounds).epsilon(budget.delta) <= budget.epsilon


def _log_moment_whole(rate: float, sigma: float, order: int) -> float:
    terms = [
        _log_ways(order, i)
        + i * math.log(rate)
        + (order - i) * math.log1p(-rate)
        + (i * i - i) / (2 * sigma**2)
        for i in range(order + 1)
    ]
    return _log_sum(terms)


def _log_moment(rate: float, sigma: float, order: float) -> float:
    """The series of section 3.3 of Mironov, Talwar and Zhang, for orders that are not whole.

    Its terms are added by magnitude, which is never too little; infinite, and so left out,
    where that does not converge.
    """
    z = sigma**2 * math.log(1 / rate - 1) + 0.5
    total = last_first = last_second = -math.inf
    for i in range(_MOST_TERMS):
        j = order - i
        ways = _log_ways(order, i)
        first = ways + i * math.log(rate) + j * math.log1p(-rate) + (i * i - i) / (2 * sigma**2)
        second = ways + j * math.log(rate) + i * math.log1p(-rate) + (j * j - j) / (2 * sigma**2)
        first += math.log(0.5) + _log_erfc((i - z) / (math.sqrt(2) * sigma))
        second += math.log(0.5) + _log_erfc((z - j) / (math.sqrt(2) * sigma))
        total = _log_sum((total, first, second))
        falls = first < last_first and second < last_second
        if falls and max(first, second) < total + _NEGLIGIBLE:
            return total
        last_first, last_second = first, second
    return math.inf


def _log_ways(n: float, k: int) -> float:
    """The logarithm of |n choose k|."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_erfc(x: float) -> float:
    if x < 25:
        return math.log(math.erfc(x))
    # Beyond here erfc leaves the doubles; its asymptotic series does not.
    square = x * x
    reciprocal = 1 / square
    series = 1 - reciprocal / 2 + 3 * reciprocal**2 / 4 - 15 * reciprocal**3 / 8
    return -square - math.log(x * math.sqrt(math.pi)) + math.log(series)


def _log_sum(terms: Sequence[float]) -> float:
    largest = max(terms)
    if largest == -math.inf:
        return largest
    return largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
