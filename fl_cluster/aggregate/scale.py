"""Fixed point: how weights become integers whose sum cannot overflow.

An update contributes q = round_half_even(x * 2**s) for each element x that it uploads; where
the mean is weighted, already multiplied by its data size.  Per round and tensor, `s` leaves
room for
- values that are by the rule's growth bits larger than the largest today (or than 1/8, if
  they are all smaller): a data size below 2**16 and 2**8 for weights that are averaged,
- as many updates as the cohort is large.
An element beyond that is refused before anything is added, so a sum never wraps.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.rules import MEAN, Rule
from fl_cluster.kernels.bounds import term_bound

SMALLEST_MAGNITUDE = Fraction(1, 8)


def exponents(model: Model, cohort_size: int, rule: Rule = MEAN) -> tuple[int, ...]:
    """The scale exponent of each aggregated tensor for a round that starts from `model`.

    ValueError when its weights are not finite: no scale fits them.
    """
    bound = term_bound(cohort_size)
    return tuple(
        _exponent(
            model.values[place.start : place.stop], bound, rule.growth_bits(place.tensor.name)
        )
        for place in model.layout.summed
    )


def exponent_for(values: npt.NDArray[np.float32], cohort_size: int) -> int:
    """That of one tensor with these weights, where the mean is weighted as usual."""
    return _exponent(values, term_bound(cohort_size), MEAN.growth_bits(""))


def _exponent(values: npt.NDArray[np.float32], bound: int, growth_bits: int) -> int:
    largest = max(abs(float(values.max())), abs(float(values.min())))
    if not math.isfinite(largest):
        raise ValueError("the weights hold NaN or infinity")
    magnitude = max(Fraction(largest), SMALLEST_MAGNITUDE)
    room = Fraction(bound) / (magnitude * 2**growth_bits)
    return _floor_log2(room)


def _floor_log2(ratio: Fraction) -> int:
    guess = ratio.numerator.bit_length() - ratio.denominator.bit_length()
    return guess if Fraction(2) ** guess <= ratio else guess - 1
