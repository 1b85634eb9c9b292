"""How many neighbours a device needs, and how many of them rebuild a secret.

With n devices, k neighbours each and t shares needed, chosen at random as in `graph`:

- *Safe* against a server that works with `corrupt` of the devices.  To learn an update it
  needs t shares of the seed and t of the mask key; an honest neighbour gives one, a corrupt
  one both, so it needs c >= 2t - k corrupt neighbours; c is hypergeometric.  Or it needs the
  honest survivors to fall apart, for which k/2 in a row must be missing on the circle: at most
  n * (corrupt + dropout)**(k/2).
- *Complete* if at most `dropout` of the devices vanish: a device fails that has fewer than t
  surviving neighbours; their number is hypergeometric too.

Probabilities are summed over all n devices.  The smallest even k that meets both bounds is
taken, with the smallest t that is safe; if there is none below n - 1, everybody is everybody's
neighbour, and nothing is left to chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_BITS = 10_000
"""So rare that it is never."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What a cohort may have to bear, and how rarely it may be too much."""

    corrupt: float = 0.05
    """Share of the devices that work with the server."""
    dropout: float = 0.2
    """Share of the devices that vanish after sharing."""
    safety_bits: int = 40
    """An update is exposed in at most one of 2**safety_bits rounds."""
    failure_bits: int = 20
    """A round fails for lack of shares in at most one of 2**failure_bits."""

    def __post_init__(self) -> None:
        shares = self.corrupt, self.dropout
        # Said in this way round because no comparison with NaN holds.
        if not (all(share >= 0 for share in shares) and sum(shares) < 1):
            raise ValueError(
                "expected shares of corrupt and vanishing devices that are not negative and"
                f" together below 1, found {self.corrupt} and {self.dropout}"
            )
        bits = self.safety_bits, self.failure_bits
        if not all(0 <= each <= MOST_BITS for each in bits):
            raise ValueError(
                f"expected safety_bits and failure_bits from 0 to {MOST_BITS},"
                f" found {self.safety_bits} and {self.failure_bits}"
            )


@dataclass(frozen=True, slots=True)
class Degree:
    """`neighbours` of each device, of whom any `needed` rebuild its secrets."""

    neighbours: int
    needed: int


def choose_degree(devices: int, assumptions: Assumptions) -> Degree:
    """The degree for a cohort of this size, at least 2."""
    if devices < 2:
        raise ValueError(f"expected at least 2 devices, found {devices}")
    corrupt = math.floor(devices * assumptions.corrupt)
    alive = devices - math.floor(devices * assumptions.dropout)
    for neighbours in range(2, devices - 1, 2):
        needed = _least_needed(devices, neighbours, corrupt, assumptions)
        if needed is None:
            continue
        fails = _lower_tail(devices - 1, alive - 1, neighbours, needed - 1)
        if devices * fails <= 2.0**-assumptions.failure_bits:
            return Degree(neighbours, needed)
    neighbours = devices - 1
    return Degree(neighbours, min(neighbours, (neighbours + corrupt) // 2 + 1))


def _least_needed(
    devices: int, neighbours: int, corrupt: int, assumptions: Assumptions
) -> int | None:
    allowed = 2.0**-assumptions.safety_bits
    missing = assumptions.corrupt + assumptions.dropout
    allowed -= devices * missing ** (neighbours / 2)
    if allowed <= 0:
        return None
    # From the rarest count of corrupt neighbours down to the first that is not rare enough.
    tail, most = 0.0, min(corrupt, neighbours)
    while most >= 0:
        tail += _odds(devices - 1, corrupt, neighbours, most)
        if devices * tail > allowed:
            break
        most -= 1
    # At most `most` corrupt neighbours: 2 * needed - neighbours must be more.
    needed = (neighbours + most) // 2 + 1
    return needed if needed <= neighbours else None


def _odds(population: int, marked: int, drawn: int, found: int) -> float:
    """Hypergeometric: the odds that `drawn` of `population` hold `found` of the marked."""
    if found > marked or drawn - found > population - marked or found < 0:
        return 0.0
    return math.exp(
        _log_ways(marked, found)
        + _log_ways(population - marked, drawn - found)
        - _log_ways(population, drawn)
    )


def _lower_tail(population: int, marked: int, drawn: int, most: int) -> float:
    return sum(_odds(population, marked, drawn, found) for found in range(most + 1))


def _log_ways(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
