"""For how many devices the steps of a masked round wait.

A round admits n devices and needs m updates, so it bears n - m devices that vanish before
their update is counted: at the offer, at the sharing, at the report.  A third of them may be
missing at each of these steps; whoever is slower than that sits the round out.
"""

from __future__ import annotations

from dataclasses import dataclass

from fl_cluster.privacy.ring.degrees import Assumptions, choose_degree


@dataclass(frozen=True, slots=True)
class RingGoals:
    """How many offers make the roster, and how many devices have to share."""

    offers: int
    sharings: int


def ring_goals(
    cohort_size: int, report_goal: int, least_devices: int, bounds: Assumptions
) -> RingGoals:
    """The goals of a round; ValueError when no round with these numbers can be relied on."""
    if report_goal < max(least_devices, 2):
        raise ValueError(
            f"devices help to read a sum of at least {least_devices} updates, and a round of"
            f" this job ends with {report_goal}"
        )
    spare = cohort_size - report_goal
    offers, sharings = cohort_size - spare // 3, cohort_size - 2 * spare // 3
    degree = choose_degree(offers, bounds)
    is_complete = degree.neighbours == offers - 1
    # In a sparse graph the neighbours of some device may be just those that vanish.
    enough = degree.needed + 1 if is_complete else offers - int(offers * bounds.dropout)
    if report_goal < enough:
        raise ValueError(
            f"with {offers} devices, of which a share of {bounds.dropout:g} may vanish and one of"
            f" {bounds.corrupt:g} be corrupt, at least {enough} updates are needed, and a round"
            f" of this job ends with {report_goal}; raise the share that must report or that of"
            " devices that may vanish"
        )
    return RingGoals(offers, sharings)
