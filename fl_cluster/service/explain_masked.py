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

WHY_LATE = "cipher_time_window: too few devices took a step of the masked round"
WHY_LATE_SECURE = (
    "encrypt.secure_aggregation.step_window_ms: too few devices took a step of the masked round"
)


class Awaited(NamedTuple):
    """A step that is not complete."""

    have: int
    need: int | None
    """None: no number of devices is waited for."""
    words: str
    """What is waited for, after "waits for devices to"."""


def find_awaited(facts: Facts, snapshot: Snapshot) -> Awaited | None:
    """The step without which the round cannot go on; None when it waits for something else.

    While too few devices are in for a step, it waits for devices.
    """
    exchange = snapshot.plan.exchange
    if exchange is None:
        return None
    if snapshot.is_unmasking and facts.is_secure:
        return _unmasking(facts, snapshot)
    steps = (Step.KEYS, Step.SHARES)
    if snapshot.is_unmasking:
        steps = (Step.SIGNATURES, Step.REVEALS)
    for step in steps:
        need, have = goal_of(exchange, step) or 0, facts.told.get(step, 0)
        if not need or step in snapshot.complete:
            continue
        if step is Step.KEYS and facts.counts.cohort < need:
            return None
        return Awaited(have, need, f"{WORDS[step]}: {have} of {need} have")
    return None


def _unmasking(facts: Facts, snapshot: Snapshot) -> Awaited:
    """In SECURE_AGGREGATION the shares decide that are there, not how many devices gave them."""
    exchange = snapshot.plan.exchange
    assert exchange is not None
    confirmed, revealed = (
        (goal_of(exchange, step) or 0) if step in snapshot.complete else facts.told.get(step, 0)
        for step in (Step.SIGNATURES, Step.REVEALS)
    )
    words = (
        "confirm the list of those whose updates are in the sum, and to reveal what takes the "
        f"masks off it: {confirmed} have confirmed, {revealed} have revealed; it goes on as soon "
        "as what was revealed suffices"
    )
    return Awaited(revealed, None, words)
