"""How many neighbours a device needs, and how many of them rebuild a secret.

With n devices on the circle of `graph`, k neighbours each (k/2 to either side) and t shares
needed, it is

- *safe* against servers that lie, choose who vanished, and work with `corrupt` of the devices.
  A device reveals only under a list that t of its neighbours confirmed; of another one it
  reveals one share, a corrupt device both.  So an update is exposed only

  - if some device has c >= 2t - k corrupt neighbours: both its secrets can be rebuilt; or
  - if the circle can be cut at two places, which gives sums of fewer devices.  Between two
    parts there are k/2 in a row who are corrupt or were declared vanished; the last device
    before them has k/2 honest neighbours at most, so its mask comes off only if at least
    t - k/2 of the row are corrupt.

  The counts of corrupt devices are hypergeometric, and those of two rows not more likely
  together than apart.  Half of the odds are for either case.
- *complete* if at most `dropout` of the devices vanish: a device fails that has fewer than t
  surviving neighbours; their number is hypergeometric too.

Probabilities are summed over all n devices, or pairs of places.  The smallest even k that meets
both bounds is taken, with the smallest t that is safe; if there is none below n - 1, and in
small cohorts, everybody is everybody's neighbour: nothing can be cut, and all agree on one list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_BITS = 10_000
"""So rare that it is never."""

SMALL_COHORT = 64
"""Up to here everybody is everybody's neighbour, which costs a device some ten milliseconds."""


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
    for neighbours in range(2, devices - 1 if devices > SMALL_COHORT else 0, 2):
        needed = _least_needed(devices, neighbours, corrupt, assumptions.safety_bits)
        if needed > neighbours:
            continue
        fails = _lower_tail(devices - 1, alive - 1, neighbours, needed - 1)
        if devices * fails <= 2.0**-assumptions.failure_bits:
            return Degree(neighbours, needed)
    neighbours = devices - 1
    return Degree(neighbours, min(neighbours, (neighbours + corrupt) // 2 + 1))


def _least_needed(devices: int, neighbours: int, corrupt: int, safety_bits: int) -> int:
    """How many shares are safe; more than there are neighbours when no number is."""
    allowed = 2.0 ** -(safety_bits + 1)
    side = neighbours // 2
    around = _most_marked(devices - 1, corrupt, neighbours, allowed / devices)
    in_a_row = _most_marked(devices - 1, corrupt, side, math.sqrt(2 * allowed) / devices)
    return max((neighbours + around) // 2, side + in_a_row) + 1


def _most_marked(population: int, marked: int, drawn: int, allowed: float) -> int:
    """The most that `drawn` have to be expected to hold: more is at most `allowed` likely."""
    tail, most = 0.0, min(marked, drawn)
    while most > 0:
        tail += _odds(population, marked, drawn, most)
        if tail > allowed:
            break
        most -= 1
    return most


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
