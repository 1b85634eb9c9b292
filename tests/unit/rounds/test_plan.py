"""The arithmetic of goals and windows."""

from __future__ import annotations

import pytest

from fl_cluster.rounds.plan import RoundPlan, report_goal


@pytest.mark.parametrize(
    ("cohort_size", "ratio", "goal"),
    [
        (1, 1.0, 1),
        (2, 0.5, 1),
        (3, 0.5, 2),
        (10, 1.0, 10),
        (10, 0.95, 10),
        (1000, 0.801, 801),
        (3, 0.3333333, 1),
        (3, 0.3333334, 2),
    ],
)
def test_the_goal_is_the_share_of_the_cohort_rounded_up(
    cohort_size: int, ratio: float, goal: int
) -> None:
    assert report_goal(cohort_size, ratio) == goal


def test_the_product_is_formed_in_single_precision() -> None:
    """In double precision float32(0.1) * 10 is above 1 and would ask for a second update."""
    assert report_goal(10, 0.1) == 1
    assert report_goal(20, 0.7) == 14


@pytest.mark.parametrize("cohort_size", [1, 7, 10_000])
@pytest.mark.parametrize("ratio", [1e-9, 0.0])
def test_a_tiny_ratio_still_asks_for_one_update(cohort_size: int, ratio: float) -> None:
    assert report_goal(cohort_size, ratio) == 1


def test_a_ratio_just_above_one_never_asks_for_more_than_the_cohort() -> None:
    assert report_goal(5, 1.0000002) == 5


@pytest.mark.parametrize("goal", [0, 4])
def test_a_goal_outside_the_cohort_is_a_bug(goal: int) -> None:
    with pytest.raises(AssertionError):
        RoundPlan(3, goal, 1, 1, 1)


@pytest.mark.parametrize("windows", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_window_without_length_is_a_bug(windows: tuple[int, int, int]) -> None:
    with pytest.raises(AssertionError):
        RoundPlan(1, 1, *windows)
