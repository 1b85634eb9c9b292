"""The reference against arithmetic that does not round: it defines what correct means."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_cluster.kernels import reference

SIZES = st.integers(1, 2**16 - 1)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Python rounds a fraction half to even, and converts one to a double with one rounding.


@settings(deadline=None)
@given(values=st.lists(FLOATS, max_size=40), size=SIZES, exponent=st.integers(-30, 30))
def test_find_unfit_and_fold_are_exact(values: list[float], size: int, exponent: int) -> None:
    multiplier = size * 2.0**exponent
    exact = [Fraction(value) * Fraction(multiplier) for value in values]
    unfit = [i for i, v in enumerate(exact) if abs(v) > reference.MAX_BOUND]
    x = np.array(values, np.float32)

    assert (unfit or [-1])[0] == reference.find_unfit(x, multiplier, reference.MAX_BOUND)

    fitting = len(values) if not unfit else unfit[0]
    acc = np.arange(fitting, dtype=np.int64)
    reference.fold(acc, x[:fitting], multiplier)

    assert [i + round(v) for i, v in enumerate(exact[:fitting])] == acc.tolist()


@settings(deadline=None)
@given(
    value=st.integers(-(2**63), 2**63 - 1),
    divisor=st.floats(min_value=2.0**-60, max_value=2.0**80),
)
def test_finalise_rounds_three_times(value: int, divisor: float) -> None:
    out = np.empty(1, np.float32)

    reference.finalise(out, np.array([value], np.int64), divisor)

    quotient = Fraction(float(Fraction(value))) / Fraction(divisor)
    assert np.float32(float(quotient)) == out[0]


def test_ties_go_to_the_even_neighbour() -> None:
    x = np.array([0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5], np.float32)
    acc = np.zeros(x.size, np.int64)

    reference.fold(acc, x, 1.0)

    assert acc.tolist() == [0, 2, 2, 4, 0, -2, -2]


def test_merge_adds_and_wraps_around() -> None:
    acc = np.array([1, -5, 2**63 - 1], np.int64)

    reference.merge(acc, np.array([2, 3, 1], np.int64))

    assert acc.tolist() == [3, -2, -(2**63)]


@pytest.mark.parametrize("unfit", [np.nan, np.inf, -np.inf, 2.1, -2.1])
def test_find_unfit_tells_the_first_of_several_across_blocks(unfit: float) -> None:
    x = np.full(2 * reference.BLOCK + 10, 2.0, np.float32)
    x[reference.BLOCK + 3] = unfit
    x[-1] = np.nan

    assert reference.find_unfit(x, 1.0, 2) == reference.BLOCK + 3


def test_the_sum_does_not_depend_on_the_order_of_updates() -> None:
    random = np.random.default_rng(7)
    updates = random.standard_normal((50, 1000), dtype=np.float32)
    forwards, backwards = np.zeros(1000, np.int64), np.zeros(1000, np.int64)

    for update in updates:
        reference.fold(forwards, update, 2.0**30)
    for update in updates[::-1]:
        reference.fold(backwards, update, 2.0**30)

    assert forwards.tobytes() == backwards.tobytes()


def test_temporaries_stay_small_however_large_the_arrays_are() -> None:
    n = 50 * reference.BLOCK
    acc, x, out = np.zeros(n, np.int64), np.ones(n, np.float32), np.zeros(n, np.float32)
    tracemalloc.start()

    reference.find_unfit(x, 2.0, 10)
    reference.fold(acc, x, 2.0)
    reference.finalise(out, acc, 2.0)

    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < x.nbytes / 2
    assert (out == 1.0).all()
