"""What noise costs: the numbers of dp-accounting, and a ledger that refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from fl_cluster.privacy.accountant import (
    ORDERS,
    Budget,
    GaussianRelease,
    Ledger,
    PureRelease,
    noise_for,
)


@pytest.mark.parametrize("row", range(12))
def test_the_cost_is_that_of_dp_accounting(vectors: Callable[[str], Any], row: int) -> None:
    expected = vectors("accounting")["rows"][row]
    release = GaussianRelease(expected["noise_multiplier"], expected["sampling_rate"])

    ledger = Ledger().after(release, expected["rounds"])

    assert ledger.epsilon(expected["delta"]) == pytest.approx(expected["epsilon"], abs=1e-9)


def test_different_releases_add_up_as_in_dp_accounting(vectors: Callable[[str], Any]) -> None:
    expected = vectors("accounting")["mixed"]

    ledger = Ledger().after(GaussianRelease(1.0, 0.05), 300).after(GaussianRelease(5.0), 20)

    assert ledger.rounds == 320
    assert ledger.epsilon(expected["delta"]) == pytest.approx(expected["epsilon"], abs=1e-9)


def test_one_round_at_a_time_costs_what_many_at_once_cost() -> None:
    release = GaussianRelease(1.5, 0.1)
    one_by_one = Ledger()
    for _ in range(10):
        one_by_one = one_by_one.after(release)

    assert one_by_one.epsilon(1e-5) == pytest.approx(Ledger().after(release, 10).epsilon(1e-5))


def test_nothing_spent_is_zero_and_more_rounds_never_cost_less() -> None:
    assert Ledger().epsilon(1e-5) == 0.0
    release = GaussianRelease(2.0, 0.3)
    spent = [Ledger().after(release, rounds).epsilon(1e-5) for rounds in (0, 1, 2, 5, 100)]

    assert spent == sorted(spent)
    assert spent[0] == 0.0


def test_a_device_that_is_never_sampled_pays_nothing() -> None:
    assert Ledger().after(GaussianRelease(1.0, 0.0), 50).epsilon(1e-5) == 0.0


def test_pure_releases_cost_no_more_than_their_sum() -> None:
    ledger = Ledger().after(PureRelease(0.5), 4)

    assert 0 < ledger.epsilon(1e-9) <= 4 * 0.5
    assert Ledger().after(PureRelease(0.0), 9).epsilon(1e-9) == 0.0


def test_a_budget_lets_rounds_open_until_the_next_would_overspend() -> None:
    budget, release = Budget(3.0, 1e-5), GaussianRelease(4.0)
    ledger, rounds = Ledger(), 0
    while budget.allows(ledger, release):
        ledger, rounds = ledger.after(release), rounds + 1

    assert rounds > 3
    assert ledger.epsilon(1e-5) <= 3.0 < ledger.after(release).epsilon(1e-5)
    assert budget.rounds_left(Ledger(), release, 1_000) == rounds
    assert budget.rounds_left(Ledger(), release, 2) == 2
    assert budget.rounds_left(ledger, release, 1_000) == 0


def test_the_noise_for_a_budget_is_the_smallest() -> None:
    budget = Budget(2.0, 1e-5)
    noise = noise_for(budget, 100, 0.1)

    assert noise is not None
    assert Ledger().after(GaussianRelease(noise, 0.1), 100).epsilon(1e-5) <= 2.0
    assert Ledger().after(GaussianRelease(noise - 1e-5, 0.1), 100).epsilon(1e-5) > 2.0


def exact_delta(multiplier: float, rounds: int, epsilon: float) -> float:
    """The delta of Gaussian releases of whole cohorts (Balle and Wang 2018)."""
    distance = math.sqrt(rounds) / multiplier

    def below(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    far = epsilon / distance
    return below(distance / 2 - far) - math.exp(epsilon) * below(-distance / 2 - far)


@pytest.mark.parametrize("delta", [1e-5, 1e-9, 1e-12])
@pytest.mark.parametrize("epsilon", [1e-3, 0.01, 0.1, 1.0, 8.0])
@pytest.mark.parametrize("rounds", [1, 100])
def test_the_noise_for_a_budget_is_near_the_exact_one_also_for_small_epsilons(
    delta: float, epsilon: float, rounds: int
) -> None:
    noise = noise_for(Budget(epsilon, delta), rounds)

    assert noise is not None
    assert exact_delta(noise, rounds, epsilon) <= delta
    assert exact_delta(noise / 1.2, rounds, epsilon) > delta


@pytest.mark.parametrize("epsilon", [1e-37, 1e-9, 1e-2, 1e6, 1e37])
@pytest.mark.parametrize("delta", [1e-37, 1e-12, 0.9])
@pytest.mark.parametrize("rounds", [1, 2**32])
def test_the_noise_for_any_budget_is_found(epsilon: float, delta: float, rounds: int) -> None:
    budget = Budget(epsilon, delta)
    noise = noise_for(budget, rounds)

    assert noise is not None
    assert budget.rounds_left(Ledger(), GaussianRelease(noise), rounds) == rounds


def test_a_budget_that_no_noise_keeps_is_told_from_one_that_much_noise_does() -> None:
    assert noise_for(Budget(1e-300, 1e-200), 100) is None
    assert noise_for(Budget(1e300, 1e-5), 1) == pytest.approx(1e-100, rel=1e-5)


def test_large_orders_never_make_a_sample_dearer_than_the_whole_cohort() -> None:
    for order in (order for order in ORDERS if order >= 512):
        costs = [GaussianRelease(3.0, rate).cost(order) for rate in (0.0, 0.01, 0.5, 1.0)]

        assert costs[0] == 0
        assert 0 < max(costs) <= costs[3] * (1 + 1e-9)


@pytest.mark.parametrize("noise", [1e-100, 1e-45, 1e45, 1e100])
@pytest.mark.parametrize("rate", [0.01, 0.9, 1.0])
def test_noise_far_from_any_use_has_a_cost_all_the_same(noise: float, rate: float) -> None:
    spent = Ledger().after(GaussianRelease(noise, rate), 10).epsilon(1e-5)

    assert spent == 0 if noise > 1 else spent > 1e6


def test_releases_that_protect_nothing_are_refused() -> None:
    for noise, rate in (
        (0.0, 1.0),
        (1.0, 1.5),
        (math.nan, 1.0),
        (math.inf, 1.0),
        (1e200, 1.0),
        (1e-200, 1.0),
    ):
        with pytest.raises(ValueError, match="expected a noise multiplier above 0"):
            GaussianRelease(noise, rate)
    with pytest.raises(ValueError, match="expected an epsilon of at least 0"):
        PureRelease(-1.0)
    with pytest.raises(ValueError, match="expected a delta between 0 and 1"):
        Ledger().epsilon(0.0)
