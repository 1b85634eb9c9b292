"""Points at which a process may be made to end: at which, at which visit, and how."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from fl_cluster.errors import StartupError
from fl_cluster.telemetry import points
from fl_cluster.telemetry.points import Point, parse, reaching

PROGRAM = (
    "from fl_cluster.telemetry.points import Point, reach\n"
    "reach(Point.AFTER_LEASE)\n"
    "print('once', flush=True)\n"
    "reach(Point.AFTER_PUBLISH)\n"
    "reach(Point.AFTER_LEASE)\n"
    "print('twice', flush=True)\n"
)


def signals_at(text: str, visits: list[Point]) -> list[tuple[int, signal.Signals]]:
    """Which signals are sent, and at which of the visits, from 0."""
    sent: list[tuple[int, signal.Signals]] = []
    at = 0
    reach = reaching(parse(text), lambda number: sent.append((at, number)))
    for at, point in enumerate(visits):  # noqa: B007 - read where a signal is sent
        reach(point)
    return sent


def run(point: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, points.VARIABLE: point},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_nothing_happens_when_nobody_asks_for_it() -> None:
    assert signals_at("", list(Point) * 3) == []


@pytest.mark.parametrize("point", list(Point))
def test_a_process_ends_at_the_first_visit_by_default(point: Point) -> None:
    others = [each for each in Point if each is not point]

    sent = signals_at(point, [*others, point, *others])

    assert sent == [(len(others), signal.SIGKILL)]


def test_the_visit_can_be_chosen_and_later_ones_do_nothing() -> None:
    sent = signals_at("after_lease:3", [Point.AFTER_LEASE] * 6)

    assert sent == [(2, signal.SIGKILL)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("after_lease:kill", signal.SIGKILL),
        ("after_lease:stop", signal.SIGSTOP),
        ("after_lease:1:stop", signal.SIGSTOP),
    ],
)
def test_how_it_ends_can_be_chosen(text: str, number: signal.Signals) -> None:
    assert signals_at(text, [Point.AFTER_LEASE]) == [(0, number)]


@pytest.mark.parametrize(
    "text",
    ["nowhere", "after_lease:0", "after_lease:-1", "after_lease:x", "after_lease:1:melt", ":1"],
)
def test_what_is_no_point_is_told_with_the_names_there_are(text: str) -> None:
    with pytest.raises(StartupError, match=r"expected NAME.*after_publish.*found") as caught:
        parse(text)

    assert repr(text) in str(caught.value)


def test_a_process_really_ends_there() -> None:
    ended = run("after_lease:2")

    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "once\n")


def test_a_process_without_a_point_goes_on() -> None:
    ended = run("")

    assert (ended.returncode, ended.stdout) == (0, "once\ntwice\n")
