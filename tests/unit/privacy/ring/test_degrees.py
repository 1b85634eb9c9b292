"""How many neighbours: within the stated odds, and with thresholds that expose nobody."""

from __future__ import annotations

import random
from itertools import combinations

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

    assert counts == [52, 166, 216, 248]


@pytest.mark.parametrize("devices", [3, 20, 64])
def test_in_a_small_cohort_everybody_is_everybodys_neighbour(devices: int) -> None:
    assert choose_degree(devices, Assumptions(0.0, 0.0, 1, 1)).neighbours == devices - 1
    assert choose_degree(65, Assumptions(0.0, 0.0, 1, 1)).neighbours < 64


def rows_that_cut(order: list[int], corrupt: set[int], degree: Degree) -> int:
    """After how many honest devices a row could be declared vanished and the mask still go.

    Counted so that no two rows overlap.
    """
    side, count = degree.neighbours // 2, len(order)
    least = degree.needed - side
    found, start = 0, 0
    while start < count:
        row = [order[(start + step) % count] for step in range(1, side + 1)]
        if order[start] not in corrupt and len(corrupt.intersection(row)) >= least:
            found += 1
            start += side
        start += 1
    return found


@pytest.mark.parametrize(
    ("assumptions", "allowed"),
    [(Assumptions(), 0), (Assumptions(0.1, 0.05, safety_bits=3, failure_bits=3), 50)],
)
def test_servers_who_choose_the_vanished_cut_the_circle_as_rarely_as_stated(
    assumptions: Assumptions, allowed: int
) -> None:
    """Half of the odds of exposure are for cuts: 800 rounds / 2**4 with the looser bound."""
    devices = 100
    degree = choose_degree(devices, assumptions)
    assert degree.neighbours < devices - 1
    choice = random.Random(5)
    cut = 0
    for _ in range(800):
        order = choice.sample(range(devices), devices)
        corrupt = set(range(int(devices * assumptions.corrupt)))
        cut += rows_that_cut(order, corrupt, degree) >= 2

    assert cut <= allowed


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
