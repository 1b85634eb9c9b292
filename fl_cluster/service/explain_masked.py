"""Which step of a masked round is waited for, and by how many devices it has been taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fl_cluster.rounds.exchange import Step, goal_of
from fl_cluster.service.explanation import Facts
from fl_cluster.store.ports import Snapshot

WORDS: Mapping[Step, str] = {
    Step.KEYS: "offer keys for masks",
    Step.SHARES: "share the secrets behind their masks",
    Step.SIGNATURES: "sign the list of those whose updates are in the sum",
    Step.REVEALS: "reveal what takes the masks off the sum",
}
"""What devices do in a step that waits for a number of them."""


class Awaited(NamedTuple):
    """A step that is not complete."""

    step: Step
    have: int
    need: int

    @property
    def words(self) -> str:
        """What devices are waited for to do."""
        return WORDS[self.step]


def find_awaited(facts: Facts, snapshot: Snapshot) -> Awaited | None:
    """The step without which the round cannot go on; None when it waits for something else.

    While too few devices are in for a step, it waits for devices.
    """
    exchange = snapshot.plan.exchange
    if exchange is None:
        return None
    steps = (Step.KEYS, Step.SHARES)
    if snapshot.is_unmasking:
        steps = (Step.SIGNATURES, Step.REVEALS)
    for step in steps:
        need, have = goal_of(exchange, step) or 0, facts.told.get(step, 0)
        if not need or step in snapshot.complete:
            continue
        if step is Step.KEYS and facts.counts.cohort < need:
            return None
        return Awaited(step, have, need)
    return None
