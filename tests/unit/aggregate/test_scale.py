"""How weights become integers: room for what may come, and never an overflow."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.scale import exponents
from fl_cluster.kernels.bounds import LARGEST_TERM, term_bound

LARGEST_FLOAT = float(np.finfo(np.float32).max)
SMALLEST_FLOAT = float(np.finfo(np.float32).smallest_subnormal)


def model_of(*values: float) -> Model:
    layout = Layout([Tensor("a", (len(values),))])
    return Model(layout, np.array(values, np.float32))


def exponent(*values: float, cohort_size: int = 1) -> int:
    return exponents(model_of(*values), cohort_size)[0]


@pytest.mark.parametrize(
    ("cohort_size", "bound"),
    [
        (1, 2**51),
        (4095, 2**51),
        (4096, (2**63 - 1) // 4096),
        (4097, (2**63 - 1) // 4097),
        (10**6, (2**63 - 1) // 10**6),
        (2**62, 1),
        (2**63 - 1, 1),
    ],
)
def test_the_bound_of_a_term_leaves_room_for_the_whole_cohort(cohort_size, bound):
    assert term_bound(cohort_size) == bound
    assert cohort_size * bound <= 2**63 - 1
    assert bound <= LARGEST_TERM


def test_small_weights_are_scaled_as_if_they_were_an_eighth():
    assert exponent(0.0) == exponent(0.125) == exponent(SMALLEST_FLOAT) == 51 - 24 + 3


def test_larger_weights_and_larger_cohorts_lower_the_exponent():
    assert [exponent(m) for m in (0.25, 0.5, 1.0, 1.5, 2.0)] == [29, 28, 27, 26, 26]
    assert exponent(1.0, cohort_size=4095) == 27
    assert exponent(1.0, cohort_size=4096) == 26
    assert exponent(1.0, cohort_size=2**20) == 18


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("others", [(), (0.0,), (0.5, -0.5)])
def test_the_largest_magnitude_counts_whatever_its_sign(sign, others):
    assert exponent(sign * 3.0, *others) == exponent(3.0)


def test_each_tensor_has_its_own_and_those_not_aggregated_have_none():
    layout = Layout([Tensor("a", (1,)), Tensor("b", (2,), is_aggregated=False), Tensor("c", (2,))])
    model = Model(layout, np.array([1, 1000, 1000, 0, 4], np.float32))

    assert exponents(model, 1) == (27, 25)


@pytest.mark.parametrize("magnitude", [0.125, 0.3, 1.0, 1.0000001, 7.9, 1e10, 3e38, LARGEST_FLOAT])
@pytest.mark.parametrize("cohort_size", [1, 2, 1000, 4096, 10**6, 2**40])
def test_the_exponent_is_the_largest_that_leaves_the_promised_room(magnitude, cohort_size):
    """Any legal data size below 2**16, and weights 2**8 times as large as the largest today."""
    magnitude = Fraction(float(np.float32(magnitude)))
    bound = term_bound(cohort_size)

    s = exponent(float(magnitude), cohort_size=cohort_size)

    assert magnitude * 2**24 * Fraction(2) ** s <= bound
    assert magnitude * 2**24 * Fraction(2) ** (s + 1) > bound


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_have_no_scale(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        exponent(1.0, value)
