"""How many neighbours: within the stated odds, and with thresholds that expose nobody."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import combinations
from math import comb

import pytest

from fl_cluster.privacy.ring.degrees import Assumptions, Degree, choose_degree
from fl_cluster.privacy.ring.graph import all_neighbours, neighbours_of


@pytest.mark.parametrize("devices", [*range(2, 40), 64, 100, 333, 1_000])
@pytest.mark.parametrize(
    "assumptions", [Assumptions(), Assumptions(0.1, 0.1), Assumptions(0, 0), Assumptions(0.05, 0.4)]
)
def test_more_than_half_of_the_neighbours_are_needed(
    devices: int, assumptions: Assumptions
) -> None:
    """So a server that asks some for seeds and the others for keys never gets both."""
    degree = choose_degree(devices, assumptions)

    assert 2 * degree.needed > degree.neighbours
    assert degree.needed <= degree.neighbours <= devices - 1


def test_neighbours_grow_much_slower_than_the_cohort() -> None:
    counts = [choose_degree(n, Assumptions()).neighbours for n in (100, 1_000, 10_000, 100_000)]

    assert counts == [52, 230, 328, 366]


@pytest.mark.parametrize("devices", [3, 20, 64])
def test_in_a_small_cohort_everybody_is_everybodys_neighbour(devices: int) -> None:
    assert choose_degree(devices, Assumptions(0.0, 0.0, 1, 1)).neighbours == devices - 1
    assert choose_degree(65, Assumptions(0.0, 0.0, 1, 1)).neighbours < 64


def odds_of_a_row(devices: int, corrupt: int, degree: Degree) -> Fraction:
    """That one row of half the neighbours holds as many corrupt devices as a second sum needs."""
    side, least = degree.neighbours // 2, degree.needed - degree.neighbours // 2
    ways = sum(
        comb(corrupt, found) * comb(devices - corrupt, side - found)
        for found in range(least, side + 1)
    )
    return Fraction(ways, comb(devices, side))


@pytest.mark.parametrize("devices", [65, 100, 300, 1_000, 10_000])
@pytest.mark.parametrize("assumptions", [Assumptions(), Assumptions(0.1), Assumptions(0.2, 0.1)])
def test_fewer_shares_would_be_needed_only_against_servers_that_try_fewer_orders(
    devices: int, assumptions: Assumptions
) -> None:
    """Of 2**32 orders and 2**40 rounds: the stated number of shares, and not one less."""
    degree, corrupt = choose_degree(devices, assumptions), int(devices * assumptions.corrupt)
    lower = Degree(degree.neighbours, degree.needed - 1)
    allowed = Fraction(1, 2 ** (32 + 40))

    assert degree.neighbours < devices - 1
    assert devices * odds_of_a_row(devices, corrupt, degree) <= allowed
    assert devices * odds_of_a_row(devices, corrupt, lower) > allowed


def is_exposed(order: list[int], corrupt: set[int], degree: Degree) -> bool:
    """Whether some row on the circle holds that many."""
    side = degree.neighbours // 2
    marks = [index in corrupt for index in order] * 2
    rows = (marks[start : start + side] for start in range(len(order)))
    return any(sum(row) >= degree.needed - side for row in rows)


def test_rows_with_that_many_corrupt_devices_are_not_more_frequent_than_calculated() -> None:
    """With so few shares that chance can show it, and none with those that are needed."""
    devices, assumptions = 100, Assumptions(0.1)
    degree, corrupt = choose_degree(devices, assumptions), set(range(10))
    lower = Degree(degree.neighbours, degree.needed - 3)
    choice = random.Random(5)
    orders = [choice.sample(range(devices), devices) for _ in range(400)]
    expected = 400 * devices * odds_of_a_row(devices, 10, lower)

    assert 0 < sum(is_exposed(order, corrupt, lower) for order in orders) <= expected
    assert not any(is_exposed(order, corrupt, degree) for order in orders)


def test_the_odds_of_failing_are_as_stated() -> None:
    """A looser bound, so that chance can show it: at most one round in 2**3 fails."""
    assumptions = Assumptions(corrupt=0.0, dropout=0.2, safety_bits=5, failure_bits=3)
    devices = 80
    degree = choose_degree(devices, assumptions)
    assert degree.neighbours < devices - 1
    choice = random.Random(4)
    failed = 0
    for _ in range(400):
        graph = all_neighbours(devices, degree.neighbours, choice.randbytes(32))
        gone = set(choice.sample(range(devices), 16))
        failed += any(
            sum(other not in gone for other in graph[index]) < degree.needed
            for index in range(devices)
            if index not in gone
        )

    assert failed <= 400 / 2**3


@pytest.mark.parametrize(("devices", "degree"), [(2, 1), (5, 4), (7, 2), (30, 8), (31, 30)])
def test_neighbours_are_mutual_equally_many_and_the_same_for_all_who_ask(
    devices: int, degree: int
) -> None:
    graph = all_neighbours(devices, degree, b"seed")

    assert [len(each) for each in graph] == [degree] * devices
    assert all((a in graph[b]) == (b in graph[a]) for a, b in combinations(range(devices), 2))
    assert [neighbours_of(i, devices, degree, b"seed") for i in range(devices)] == list(graph)
    assert all(index not in each for index, each in enumerate(graph))


def test_another_seed_makes_another_graph() -> None:
    assert all_neighbours(30, 8, b"one") != all_neighbours(30, 8, b"two")


def test_assumptions_that_leave_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match=r"together below 1, found 0\.5 and 0\.5"):
        Assumptions(0.5, 0.5)
    with pytest.raises(ValueError, match="at least 2 devices, found 1"):
        choose_degree(1, Assumptions())
