"""What the devices of a masked round tell each other through the cluster.

    KEYS -> KEYS_READ -> SHARES -> SHARES_READ -> (updates) -> LIST_READ -> SIGNATURES
                                                                  +-------> REVEALS

Each step is open to the devices that took the one before it.  A step that waits for a number
of devices is complete once they are there, and takes no further one: whoever reads it after
that sees what everybody sees.  Until then a device that has lost its keys may offer new ones
in their place; anything else stays as it was said first.  Reading a step is a step too,
because only who has read may go on.
Not here: what is told, which is bytes between devices that the cluster only keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from fl_cluster.rounds.plan import ExchangePlan, Millis


class Step(StrEnum):
    """One thing that a device tells, or takes note of."""

    KEYS = "keys"
    """It offers its public keys."""
    KEYS_READ = "keys_read"
    SHARES = "shares"
    """It hands its secrets out in sealed shares, one for each other device."""
    SHARES_READ = "shares_read"
    """It has them; where its update depends on whose, that is told with the update."""
    LIST_READ = "list_read"
    """It has learnt whose updates are in the sum."""
    SIGNATURES = "signatures"
    """It confirms the list that it was given."""
    REVEALS = "reveals"
    """It gives the shares that take the masks off the sum."""


BEFORE: Mapping[Step, Step | None] = {
    Step.KEYS: None,
    Step.KEYS_READ: Step.KEYS,
    Step.SHARES: Step.KEYS_READ,
    Step.SHARES_READ: Step.SHARES,
    Step.LIST_READ: None,
    Step.SIGNATURES: Step.LIST_READ,
    Step.REVEALS: Step.LIST_READ,
}
"""The step that a device must have taken; the first of each half follows from the round."""

AFTER_REPORTS = frozenset({Step.LIST_READ, Step.SIGNATURES, Step.REVEALS})
"""The steps that come once all updates are counted."""

COMPLETED = (Step.KEYS, Step.SHARES, Step.SIGNATURES, Step.REVEALS)
"""The steps that wait for a number of devices, for a time."""

TIMED = (*COMPLETED, Step.LIST_READ)
"""The steps that time ends.  Somebody has to read the list in time, and what comes after that is
to be done in the time that begins with the first who has."""


def goal_of(plan: ExchangePlan, step: Step) -> int | None:
    """How many devices complete the step; None for one that never is."""
    goals = {
        Step.KEYS: plan.keys,
        Step.SHARES: plan.shares,
        Step.SIGNATURES: plan.signatures,
        Step.REVEALS: plan.reveals,
    }
    return goals.get(step)


def last_before_report(plan: ExchangePlan) -> Step:
    """What a device must have done before its update is taken."""
    return Step.SHARES_READ if plan.shares else Step.KEYS_READ


@dataclass(frozen=True, slots=True)
class Exchange:
    """What has been told so far, and since when each step is under way."""

    told: Mapping[Step, Mapping[str, bytes]] = field(default_factory=dict)
    began: Mapping[Step, Millis] = field(default_factory=dict)

    def has(self, step: Step, device: str) -> bool:
        """Whether the device has taken the step."""
        return device in self.told.get(step, {})

    def is_complete(self, plan: ExchangePlan, step: Step) -> bool:
        """Whether the step waits for nobody any more."""
        goal = goal_of(plan, step)
        return goal is not None and len(self.told.get(step, {})) >= goal

    def add(self, step: Step, device: str, message: bytes, at: Millis) -> Exchange:
        """With one message more, or another one."""
        told = {**self.told, step: {**self.told.get(step, {}), device: message}}
        began = dict(self.began)
        if step is Step.LIST_READ and step in began:
            del began[step]
            began |= {Step.SIGNATURES: at, Step.REVEALS: at}
        elif step in COMPLETED:
            began.setdefault(step, at)
        return replace(self, told=told, began=began)

    def await_readers(self, at: Millis) -> Exchange:
        """From now on somebody has to read the list."""
        return replace(self, began={**self.began, Step.LIST_READ: at})

    def deadline(self, plan: ExchangePlan) -> Millis | None:
        """The earliest instant at which a step under way has waited too long."""
        waiting = [
            Millis(self.began[step] + plan.window_ms)
            for step in TIMED
            if step in self.began and not self.is_complete(plan, step)
        ]
        return min(waiting, default=None)
