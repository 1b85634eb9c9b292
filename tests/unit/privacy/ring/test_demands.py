"""What a device insists on, and how its owner may say it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import CallerProtocolError
from fl_cluster.privacy.ring.degrees import Assumptions, choose_degree
from fl_cluster.privacy.ring.demands import Demands
from fl_cluster.privacy.ring.messages import RingRound


def ring(**bounds: Any) -> RingRound:
    return RingRound("digits", 1, 1, 5, 3, Assumptions(**bounds))


def test_the_default_bounds_of_a_round_are_enough() -> None:
    assert Demands().find_unmet(ring()) is None
    assert Demands().find_unmet(ring(corrupt=0.05, dropout=0.05)) is None


def test_a_round_for_devices_that_never_vanish_has_too_few_neighbours() -> None:
    bounds = Assumptions(dropout=0.0)
    few, enough = choose_degree(1_000, bounds), choose_degree(1_000, Assumptions(dropout=0.05))

    assert few.neighbours < 0.8 * enough.neighbours
    assert Demands().find_unmet(ring(dropout=0.0)) == (
        "neighbours enough for 0.05 vanishing devices, found 0"
    )


@pytest.mark.parametrize("share", [0.05, 0.1, 0.15, 0.2, 0.35, 0.45])
def test_what_single_precision_makes_of_a_share_meets_the_same_demand(share: float) -> None:
    kept = float(np.float32(share))

    assert (
        Demands(corrupt=share, dropout=share).find_unmet(ring(corrupt=kept, dropout=kept)) is None
    )
    less = kept - 1e-6
    assert Demands(dropout=share).find_unmet(ring(dropout=less)) is not None
    assert Demands(corrupt=share).find_unmet(ring(corrupt=less)) is not None


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"corrupt": math.nan}, "found nan and 0.05"),
        ({"dropout": math.nan}, "found 0.05 and nan"),
        ({"corrupt": -0.1}, "found -0.1 and 0.05"),
        ({"corrupt": 0.5, "dropout": 0.5}, "found 0.5 and 0.5"),
        ({"safety_bits": -1}, "found -1 and 3"),
        ({"least_devices": 1}, "found 40 and 1"),
    ],
)
def test_demands_that_no_round_could_meet_are_refused(wrong: Any, found: str) -> None:
    with pytest.raises(CallerProtocolError, match=f"^demands: expected .*{found}$"):
        Demands(**wrong)
