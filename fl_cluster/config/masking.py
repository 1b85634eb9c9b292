"""Settings of PW_ENCRYPT with which no round could ever end well."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from fl_cluster.config.rules import single

FAILS: Final = "cipher init fail."
"""The original's words."""


class MaskNumbers(NamedTuple):
    """The settings that decide how many devices take part in which step."""

    cohort_size: int
    report_ratio: float
    share_ratio: float
    threshold: int

    @property
    def report_goal(self) -> int:
        """How many updates end a round."""
        return _share_of(self.cohort_size, self.report_ratio)


def why_impossible(numbers: MaskNumbers) -> str | None:
    """Why masks could never be taken off, as the end of a sentence; None when they can be.

    One more than `threshold` devices have to share secrets, so that any of them can vanish, and
    as many of those whose updates are in the sum have to help.
    """
    needed = numbers.threshold + 1
    goal = numbers.report_goal
    sharers = numbers.cohort_size
    for _step in ("exchange", "get", "share"):
        sharers = max(_share_of(sharers, numbers.share_ratio), goal)
    if sharers < needed:
        return f"only {sharers} devices share secrets and at least {needed} must"
    if goal < needed:
        return (
            f"a round ends with {goal} updates and at least {needed} of their devices have to"
            " help to read the sum"
        )
    return None


def _share_of(count: int, ratio: float) -> int:
    return math.ceil(single(single(count) * single(ratio)))
