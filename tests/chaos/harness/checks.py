"""What is right and what is wrong about one round, decided from what was read of it.

Nothing here reads: `Witness` does.  What is found wrong is a `Violation`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness import job
from harness.diary import Line
from harness.reference import Expected


class Violation(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, story: str) -> None:
        super().__init__(f"{invariant}: {story}")
        self.invariant = invariant


@dataclass(frozen=True, slots=True)
class Counted:
    """One entry of a counted set."""

    position: int
    member: str
    digest: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A round that ended and was found right."""

    ref: str
    counted: Mapping[str, Counted]
    digest: str
    is_committed: bool


def counted_set(reports: Mapping[str, str]) -> dict[str, Counted]:
    """The counted set as Redis keeps it: `position instant [member, digest, loss, accuracy]`."""
    found = {}
    for device, text in reports.items():
        position, _, rest = text.split(" ", 2)
        member, digest, *_ = json.loads(rest)
        found[device] = Counted(int(position), member, digest)
    return found


def stored_weights(partials: Mapping[str, str]) -> list[int]:
    """Per tensor, the sum of the data sizes that stored partials say they hold."""
    total = [0] * len(job.SHAPES)
    for text in partials.values():
        weights = json.loads(text)[1]
        same = weights * len(total) if len(weights) == 1 else weights
        total = [mine + theirs for mine, theirs in zip(total, same, strict=True)]
    return total


def check_positions(ref: str, counted: Mapping[str, Counted]) -> None:
    """Positions are 1 to n, each once."""
    positions = sorted(each.position for each in counted.values())
    if positions != list(range(1, len(counted) + 1)):
        raise Violation("counted once", f"round {ref}: positions are {positions}")


def check_weights(ref: str, stored: Sequence[int], due: Expected) -> None:
    """What the partials hold weighs what the counted set weighs, tensor by tensor."""
    for name, found, right in zip(job.SHAPES, stored, due.weights, strict=True):
        if found != right:
            invariant = "counted twice" if found > right else "counted, but not in the sum"
            story = f"round {ref}, tensor {name}: the partials weigh {found}, the set {right}"
            raise Violation(invariant, story)


def check_model(ref: str, found: job.Floats, due: job.Floats) -> None:
    """The model is the reference, byte for byte."""
    if found.tobytes() != due.tobytes():
        apart = np.flatnonzero(found.view(np.uint32) != due.view(np.uint32))
        where = int(apart[0])
        raise Violation(
            "same bits",
            f"round {ref}: {apart.size} of {due.size} elements differ from the reference;"
            f" element {where} is {found[where]!r}, should be {due[where]!r}",
        )


def check_told(ref: str, line: Line, counted: Mapping[str, Counted]) -> None:
    """Who was told that its update is counted is in the set, at the place it was told."""
    entry = counted.get(line.device)
    if entry is None:
        raise Violation("lost", f"round {ref}: {line.device} was told 200 and is not counted")
    if line.position and line.position != entry.position:
        story = f"round {ref}: {line.device} was told position {line.position}, has {entry}"
        raise Violation("receipt", story)


def number_of(ref: str) -> int:
    """The round number of a reference `number.attempt@instance`; 0 for none."""
    return int(ref.split(".", 1)[0]) if ref else 0


def attempt_of(ref: str) -> int:
    """Which attempt at its round a reference names."""
    return int(ref.split("@", 1)[0].split(".")[1])


def again_of(ref: str) -> str:
    """The reference of the next attempt at it."""
    number, instance = number_of(ref), ref.split("@", 1)[1]
    return f"{number}.{attempt_of(ref) + 1}@{instance}"


def next_of(ref: str) -> str:
    """The reference of the round after it."""
    return f"{number_of(ref) + 1}.1@{ref.split('@', 1)[1]}"
