"""Draws the phases of a round into docs/rounds.md, from what `step` really does.

python tools/draw_rounds.py            write the diagram between the markers of the file
python tools/draw_rounds.py --check    exit 1 when it is out of date

Every kind of event happens to a sample of every phase; what leads to another phase is an
edge.  There is no table of transitions to keep in step with the code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

from fl_cluster.rounds.events import (
    Abort,
    CheckIn,
    Claim,
    Conclude,
    Disable,
    Enable,
    Event,
    HandOver,
    MemberLost,
    ModelServed,
    Proceed,
    Publish,
    Push,
    Release,
    Report,
    Restart,
    TakeLease,
    Tell,
    Tick,
)
from fl_cluster.rounds.exchange import Exchange, Step
from fl_cluster.rounds.machine import Round, open_next, step
from fl_cluster.rounds.phases import (
    Abandoned,
    Abandoning,
    Admission,
    Aggregating,
    Closed,
    Committed,
    Concluding,
    Lease,
    Phase,
    Reason,
    Reporting,
    Retraining,
    RoundRef,
    Selecting,
    Unmasking,
    Waiting,
)
from fl_cluster.rounds.plan import ExchangePlan, Millis, RoundPlan

TARGET = Path(__file__).resolve().parent.parent / "docs" / "rounds.md"
BEGIN = "<!-- The diagram is written by tools/draw_rounds.py; `make docs` writes it again. -->"
END = "<!-- End of the diagram. -->"

REF = RoundRef("run", 7)
NOW, LATE = Millis(1_000), Millis(10_000)
PLAN = RoundPlan(
    cohort_size=2, report_goal=1, select_window_ms=500, report_window_ms=500, round_window_ms=500
)
MASKED = replace(PLAN, exchange=ExchangePlan(1, 1, 1, 1, window_ms=500))
READY = Exchange({Step.SHARES_READ: {"a": b""}, Step.LIST_READ: {"a": b""}}, {})
HYBRID = replace(PLAN, is_hybrid=True)
COHORT = {"a": Admission(1, 1, NOW)}
FULL = COHORT | {"b": Admission(1, 1, NOW)}
CLAIMS = {"a": "m"}
LEASE = Lease("m", LATE)

SAMPLES: tuple[Phase, ...] = (
    Waiting(REF, PLAN),
    Waiting(REF, replace(PLAN, cohort_size=1)),
    Selecting(REF, PLAN, NOW, COHORT, CLAIMS, {}, {}, None),
    Reporting(REF, PLAN, NOW, FULL, CLAIMS, {}, {}, None),
    Reporting(REF, MASKED, NOW, FULL, CLAIMS, {}, {}, None, READY),
    Unmasking(REF, MASKED, NOW, FULL, {}, {}, READY),
    Aggregating(REF, PLAN, NOW, FULL, {}, {}, NOW, LEASE),
    Aggregating(REF, HYBRID, NOW, FULL, {}, {}, NOW, LEASE),
    Retraining(REF, HYBRID, NOW, FULL, {}, {}, NOW, "mean", "pushed"),
    Concluding(REF, HYBRID, NOW, FULL, {}, {}, NOW, LEASE, "mean", "pushed"),
    Abandoning(REF, PLAN, NOW, FULL, {}, {}, NOW, LEASE, Reason.ROUND_WINDOW),
    Committed(REF, 1),
    Abandoned(REF, Reason.ROUND_WINDOW),
    Closed(REF, PLAN),
)

EVENTS: tuple[Event, ...] = (
    CheckIn(REF, "b", 1, 1, NOW),
    Claim(REF, "m", "b", REF.number, NOW),
    Release(REF, "m", ("a",)),
    Report(REF, "m", ("a",), "pointer", NOW),
    Tell(REF, Step.REVEALS, "a", b"", NOW),
    Proceed(REF, NOW),
    MemberLost("m", NOW),
    Tick(REF, NOW),
    Tick(REF, LATE),
    Abort(REF, Reason.AGGREGATE_FAILED, NOW),
    TakeLease(REF, "m", 1, NOW),
    HandOver(REF, "m", "mean", NOW),
    Push(REF, "pushed", is_fit=True, at=NOW),
    Conclude(REF, NOW),
    Publish(REF, "m"),
    ModelServed(REF),
    Disable(NOW),
    Enable(),
    Restart("next run", NOW),
)

Edge = tuple[str, str]


def words(kind: type) -> str:
    """The name of a class as words: `CheckIn` is `check in`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()


def transitions() -> Iterator[tuple[Edge, str]]:
    """Every edge between two phases, with the word for what leads along it."""
    missing = (set(get_args(Phase)) - set(map(type, SAMPLES))) | (
        set(get_args(Event)) - set(map(type, EVENTS))
    )
    assert not missing, f"no sample of {missing}"
    for phase in SAMPLES:
        before = type(phase).__name__
        for event in EVENTS:
            after = type(step(Round(phase), event).round.phase).__name__
            if after != before:
                yield (before, after), words(type(event))
        if isinstance(phase, Committed | Abandoned):
            for closes, word in ((False, "next round"), (True, "no round left")):
                after = type(open_next(Round(phase), PLAN, closes=closes).phase).__name__
                yield (before, after), word


def diagram() -> str:
    """The diagram in Mermaid, with the markers around it."""
    edges: dict[Edge, list[str]] = {}
    for edge, word in transitions():
        if word not in edges.setdefault(edge, []):
            edges[edge].append(word)
    lines = [f"    {a} --> {b}: {', '.join(found)}" for (a, b), found in edges.items()]
    body = "\n".join(["stateDiagram-v2", "    [*] --> Waiting", *lines, "    Closed --> [*]"])
    return f"{BEGIN}\n\n```mermaid\n{body}\n```\n\n{END}"


def with_diagram(text: str) -> str:
    """The document with today's diagram in place of the one it has."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{TARGET}: the lines that mark the diagram are missing")
    return before + diagram() + after


def main(arguments: list[str]) -> int:
    """Write the diagram, or with `--check` only compare."""
    found = TARGET.read_text("utf-8")
    wanted = with_diagram(found)
    if arguments == ["--check"]:
        print(f"{TARGET.name}: {'in sync' if found == wanted else 'out of date, run make docs'}")
        return 0 if found == wanted else 1
    TARGET.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
