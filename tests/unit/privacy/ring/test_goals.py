"""How many devices each step waits for, and rounds that are not worth opening."""

from __future__ import annotations

import pytest

from fl_cluster.privacy.ring.degrees import Assumptions
from fl_cluster.privacy.ring.goals import RingGoals, ring_goals

BOUNDS = Assumptions()


@pytest.mark.parametrize(
    ("cohort", "goal", "offers", "sharings"),
    [(4, 4, 4, 4), (4, 3, 4, 4), (12, 9, 11, 10), (12, 10, 12, 11), (1_000, 850, 950, 900)],
)
def test_a_third_of_those_that_may_be_missing_may_be_at_each_step(
    cohort: int, goal: int, offers: int, sharings: int
) -> None:
    assert ring_goals(cohort, goal, 3, BOUNDS) == RingGoals(offers, sharings)


def test_steps_never_wait_for_more_devices_than_the_one_before() -> None:
    for cohort in range(4, 80):
        for goal in range(cohort - cohort // 6, cohort + 1):
            goals = ring_goals(cohort, goal, 3, BOUNDS)
            assert cohort >= goals.offers >= goals.sharings >= goal


def test_a_sum_of_fewer_updates_than_devices_insist_on_is_never_asked_for() -> None:
    with pytest.raises(ValueError, match=r"a sum of at least 5 updates, and a round .* with 4"):
        ring_goals(6, 4, 5, BOUNDS)


def test_everybody_needs_enough_neighbours_that_survive() -> None:
    with pytest.raises(ValueError, match=r"with 8 devices, .* at least 5 updates are needed"):
        ring_goals(10, 4, 3, BOUNDS)

    assert ring_goals(10, 6, 3, BOUNDS) == RingGoals(9, 8)


def test_of_a_large_cohort_no_more_may_vanish_than_the_neighbours_are_chosen_for() -> None:
    with pytest.raises(ValueError, match="at least 841 updates are needed"):
        ring_goals(1_000, 800, 3, Assumptions(dropout=0.1))

    assert ring_goals(1_000, 800, 3, BOUNDS).offers == 934
