"""What a round aims at: how many devices, how many updates, how long.  Arithmetic only.

A round admits devices until `cohort_size` are in.  It collects updates from the moment the
first device is in, and ends well as soon as `report_goal` updates are counted.  It is
abandoned when a window closes first: `select_window_ms` after the first check-in without a
full cohort, `report_window_ms` after the first counted update without the goal, or
`round_window_ms` after the first check-in, whatever is missing.  A round that nobody has
checked in to waits for ever: it costs nothing and harms nobody.
A hybrid round does not end with the goal: a worker outside the cluster retrains the
aggregate first, and has until `round_window_ms` to say that it has.
In a masked round devices exchange messages before and after their updates; each step of that
waits for a number of devices, and `window_ms` from the first of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NewType

import numpy as np

Millis = NewType("Millis", int)
"""An instant on the cluster's clock (the store's), in milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class ExchangePlan:
    """How many devices each step of a masked round waits for; 0 for a step that it has not.

    Without reveals nothing is left to take off the sum once all updates are in.
    """

    keys: int
    shares: int
    signatures: int
    reveals: int
    window_ms: int

    def __post_init__(self) -> None:
        assert min(self.keys, self.window_ms) >= 1, self
        assert min(self.shares, self.signatures, self.reveals) >= 0, self


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """The numbers that govern one round; fixed when the round opens."""

    cohort_size: int
    report_goal: int
    select_window_ms: int
    report_window_ms: int
    round_window_ms: int
    is_hybrid: bool = False
    exchange: ExchangePlan | None = None
    """None when updates come unmasked."""

    def __post_init__(self) -> None:
        assert 1 <= self.report_goal <= self.cohort_size, self
        assert min(self.select_window_ms, self.report_window_ms, self.round_window_ms) >= 1, self

    @property
    def unmasks(self) -> bool:
        """Whether devices have to take masks off the sum before it says anything."""
        return self.exchange is not None and self.exchange.reveals > 0


def report_goal(cohort_size: int, ratio: float) -> int:
    """How many updates end the round: ceil(cohort_size * ratio), in float32.

    Single precision is part of the contract: 10 * 0.1 is exactly 1 there, while the double
    that is nearest to 0.1f times 10 is above 1 and would ask for a second update.
    """
    product = np.float32(cohort_size) * np.float32(ratio)
    return max(1, min(cohort_size, math.ceil(product)))
