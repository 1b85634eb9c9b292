"""A test aid: named points in the life of an update and of a round, where a process may end.

    FL_CLUSTER_POINT=name[:nth][:kill|stop]

makes the process that has it in its environment kill itself (SIGKILL, the default) or stop
itself (SIGSTOP) when it comes to that point for the nth time (the first by default).  That is
how `make chaos` strikes between two steps that no clock could hit.
Without the variable a point costs one comparison.  The variable is read once, when the module
is imported; nothing inside the process can set a point.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from fl_cluster.errors import StartupError

VARIABLE = "FL_CLUSTER_POINT"


class Point(StrEnum):
    """Every point there is, in the order in which an update and its round come to them."""

    AFTER_CLAIM_BEFORE_FOLD = "after_claim_before_fold"
    """The store has given the claim; nothing was added."""
    AFTER_FOLD_BEFORE_COMMIT = "after_fold_before_commit"
    """The update is in this server's memory and nowhere else."""
    AFTER_BLOB_BEFORE_REPORT = "after_blob_before_report"
    """The new partial is stored; the store still counts the old one."""
    AFTER_REPORT_BEFORE_ANSWER = "after_report_before_answer"
    """The updates are counted; nobody has been told."""
    AFTER_LEASE = "after_lease"
    """This server has taken over finishing the round."""
    AFTER_AGGREGATE_BEFORE_HAND_OVER = "after_aggregate_before_hand_over"
    """The mean of a hybrid round is stored; no worker can have it."""
    AFTER_BLOB_BEFORE_PUSH = "after_blob_before_push"
    """What a worker handed in is stored; the round does not know of it."""
    AFTER_PUSH_BEFORE_ANSWER = "after_push_before_answer"
    """The round has what a worker handed in; the worker has not been told."""
    AFTER_CONCLUDE_BEFORE_ANSWER = "after_conclude_before_answer"
    """The round waits for nothing any more; the worker has not been told."""
    AFTER_AGGREGATE_BEFORE_RECORD = "after_aggregate_before_record"
    """The new model is stored; no file and no record speaks of it."""
    AFTER_RECORD_BEFORE_PUBLISH = "after_record_before_publish"
    """Metrics line and checkpoint are written; the round is not over."""
    AFTER_PUBLISH = "after_publish"
    """The next round is open; what the old one needs no more is still there."""


OF_HYBRID_ROUNDS = frozenset(
    {
        Point.AFTER_AGGREGATE_BEFORE_HAND_OVER,
        Point.AFTER_BLOB_BEFORE_PUSH,
        Point.AFTER_PUSH_BEFORE_ANSWER,
        Point.AFTER_CONCLUDE_BEFORE_ANSWER,
    }
)
"""Points that no other round comes to."""


@dataclass(frozen=True, slots=True)
class Armed:
    """The point to end at, and how many visits it takes."""

    point: Point
    signal: signal.Signals
    visits: Iterator[int]
    """Counts down; the visit that gets 0 is the last."""


def parse(text: str) -> Armed | None:
    """What the variable asks for; None when it is empty, StartupError when it is not a point."""
    if not text:
        return None
    name, *rest = text.split(":")
    action = rest.pop() if rest and rest[-1] in ("kill", "stop") else "kill"
    nth = rest.pop() if rest else "1"
    if rest or name not in list(Point) or not nth.isdecimal() or int(nth) < 1:
        raise StartupError(
            f"{VARIABLE}: expected NAME[:NTH][:kill|stop] with one of the names"
            f" {', '.join(Point)}; found {text!r}"
        )
    number = signal.SIGKILL if action == "kill" else signal.SIGSTOP
    return Armed(Point(name), number, itertools.count(int(nth) - 1, -1))


def reaching(
    armed: Armed | None, send: Callable[[signal.Signals], None]
) -> Callable[[Point], None]:
    """The function that code calls at a point; `send` delivers a signal to this process."""

    def reach(point: Point) -> None:
        if armed is None:
            return
        if point is armed.point and next(armed.visits) == 0:
            send(armed.signal)

    return reach


def from_environment(environ: Mapping[str, str]) -> Callable[[Point], None]:
    """`reach` as this environment asks for it."""
    return reaching(parse(environ.get(VARIABLE, "")), lambda number: os.kill(os.getpid(), number))


reach = from_environment(os.environ)
"""Tell that this process is at a point; it may not return."""
