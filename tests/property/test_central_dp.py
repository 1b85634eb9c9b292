"""Clipping and noise hold for any update and any seed, not only for likely ones."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_cluster.privacy.accountant import Budget, GaussianRelease, Ledger
from fl_cluster.privacy.central_dp import (
    SEED_BYTES,
    SeededStream,
    add_noise,
    factor_for,
    shorten,
    square_sum,
)
from fl_cluster.service.spending import ledger_of

STEPS = hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(-(2**52) + 1, 2**52 - 1))
NORMS = st.floats(1e-30, 1e30)
EXPONENTS = st.integers(-60, 60)
SEEDS = st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES)
MULTIPLIERS = st.floats(0.3, 30.0)


@given(STEPS, EXPONENTS, NORMS)
def test_no_step_is_ever_longer_than_the_norm(
    steps: np.ndarray, exponent: int, norm: float
) -> None:
    before = steps.copy()

    shorten(steps, factor_for(square_sum(steps, exponent), norm))

    assert square_sum(steps, exponent) <= Fraction(norm) ** 2
    assert (np.abs(steps) <= np.abs(before)).all()
    assert ((steps == 0) | (np.sign(steps) == np.sign(before))).all()


@given(STEPS, EXPONENTS)
def test_the_sum_of_squares_is_that_of_whole_numbers(steps: np.ndarray, exponent: int) -> None:
    exact = sum(int(step) ** 2 for step in steps)

    assert square_sum(steps, exponent) == exact / Fraction(4) ** exponent


@given(SEEDS, st.integers(1, 300), st.floats(1e-3, 1e3))
def test_a_seed_decides_every_bit(seed: bytes, size: int, sigma: float) -> None:
    once, again = np.zeros(size, np.int64), np.zeros(size, np.int64)

    add_noise(once, sigma, 40, SeededStream(seed))
    add_noise(again, sigma, 40, SeededStream(seed))

    assert once.tobytes() == again.tobytes()
    assert np.abs(once).max() <= 40 * sigma * 2.0**40


@given(st.dictionaries(MULTIPLIERS, st.integers(0, 40), min_size=1, max_size=4))
def test_the_ledger_of_charges_is_that_of_the_rounds_one_by_one(counts: dict[float, int]) -> None:
    one_by_one = Ledger()
    for multiplier, count in sorted(counts.items()):
        for _ in range(count):
            one_by_one = one_by_one.after(GaussianRelease(multiplier))

    found = ledger_of({f"central {multiplier!r}": n for multiplier, n in counts.items()})

    expected, epsilon = one_by_one.epsilon(1e-5), found.epsilon(1e-5)
    assert found.rounds == one_by_one.rounds
    assert abs(epsilon - expected) <= 1e-9 * max(1.0, expected)


@given(MULTIPLIERS, st.floats(0.1, 50.0))
def test_a_budget_is_used_up_and_never_exceeded(multiplier: float, epsilon: float) -> None:
    budget, release = Budget(epsilon, 1e-5), GaussianRelease(multiplier)

    rounds = budget.rounds_left(Ledger(), release, 500)

    assert Ledger().after(release, rounds).epsilon(1e-5) <= epsilon
    if rounds < 500:
        assert Ledger().after(release, rounds + 1).epsilon(1e-5) > epsilon
