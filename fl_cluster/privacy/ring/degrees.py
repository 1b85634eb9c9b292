"""How many neighbours a device needs, and how many of them rebuild a secret.

With n devices on the circle of `graph`, k neighbours each (k/2 to either side) and t shares
needed, it is

- *safe* if every k/2 devices in a row hold fewer than t - k/2 that are corrupt, against servers
  that lie, choose who vanished, and know all that corrupt devices know.  Then nobody's two
  secrets can both be rebuilt, and the servers read one sum of honest devices at most.
- *complete* if at most `dropout` of the devices vanish: a device fails that has fewer than t
  surviving neighbours; their number is hypergeometric.

Why that is safe.  Let c(i) be the corrupt neighbours of i, which are at most 2t - k - 2.

1. An honest neighbour gives one share of i, a corrupt one both.  Both secrets of i need
   2 (t - c(i)) honest ones of k - c(i), so c(i) >= 2t - k.
2. An honest j that gave i's seed away has a tag of i under its own roster and sharers, so both
   reports have the mask of this pair on.  j's list holds j, and t neighbours confirmed it, so
   j's key cannot be rebuilt, as in 1, nor can i's: the mask goes only if both are in one sum.
3. So a sum that can be read holds, with each i, at least t - c(i) of i's neighbours.
4. Say there were two such sums without a common device.  Somewhere on the circle are i of the
   first and i' of the second, with nobody of either between them.  The honest neighbours of 3
   are then all in the k/2 places before i and the k/2 after i', and nobody is in both sums:
   (t - c(i)) + (t - c(i')) <= k - the corrupt in those places.  What is left of c(i) and c(i')
   are the corrupt in the k/2 places after i and the k/2 before i': together at least 2t - k,
   so one of these rows holds t - k/2.

The corrupt in a row are hypergeometric, and there are n rows.  The order of the circle follows
from the offers, so servers can try others, by leaving offers out or adding what nobody offered:
they are granted 2**GRINDING_BITS tries.

The smallest even k that meets both bounds is taken, with the smallest t that is safe; if there
is none below n - 1, and in small cohorts, everybody is everybody's neighbour: then t is such
that 2t - k exceeds the number of all corrupt devices, which rules out the same two things.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_BITS = 10_000
"""So rare that it is never."""

GRINDING_BITS = 32
"""How many orders of the circle servers may try in a round: a digest of the roster each."""

_ROUNDED_UP = 1 + 2.0**-23
"""Shares travel in single precision, where 0.05 may be a little less than a twentieth."""

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
    """An update, or a second sum, is exposed in at most one of 2**safety_bits rounds."""
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
    corrupt = math.floor(devices * assumptions.corrupt * _ROUNDED_UP)
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
    allowed = 2.0 ** -(safety_bits + GRINDING_BITS) / devices
    side = neighbours // 2
    return side + _most_marked(devices, corrupt, side, allowed) + 1


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
