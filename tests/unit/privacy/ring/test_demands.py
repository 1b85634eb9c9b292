"""What a device insists on, and how its owner may say it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import CallerProtocolError
from fl_cluster.privacy.ring.degrees import Assumptions
from fl_cluster.privacy.ring.demands import Demands
from fl_cluster.privacy.ring.messages import RingRound


def ring(**bounds: Any) -> RingRound:
    return RingRound("digits", 1, 1, 5, 3, Assumptions(**bounds))


def test_the_default_bounds_of_a_round_are_enough() -> None:
    assert Demands().find_unmet(ring()) is None
    assert Demands().find_unmet(ring(corrupt=0.05, dropout=0.0)) is None


def test_a_round_that_bears_fewer_corrupt_devices_is_not_enough() -> None:
    assert Demands().find_unmet(ring(corrupt=0.01)) == (
        "safety against 0.05 corrupt devices in all but one of 2**40 rounds, found 0.01 and 2**40"
    )


@pytest.mark.parametrize("share", [0.05, 0.1, 0.15, 0.2, 0.35, 0.45])
def test_what_single_precision_makes_of_a_share_meets_the_same_demand(share: float) -> None:
    kept = float(np.float32(share))

    assert Demands(corrupt=share).find_unmet(ring(corrupt=kept)) is None
    assert Demands(corrupt=share).find_unmet(ring(corrupt=kept - 1e-6)) is not None


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"corrupt": math.nan}, "found nan"),
        ({"corrupt": -0.1}, "found -0.1"),
        ({"corrupt": 1.0}, "found 1.0"),
        ({"safety_bits": -1}, "found -1 and 3"),
        ({"least_devices": 1}, "found 40 and 1"),
    ],
)
def test_demands_that_no_round_could_meet_are_refused(wrong: Any, found: str) -> None:
    with pytest.raises(CallerProtocolError, match=f"^demands: expected .*{found}$"):
        Demands(**wrong)
