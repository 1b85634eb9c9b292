"""References, deadlines, and what a phase knows."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from fl_cluster.rounds.phases import (
    Admission,
    Phase,
    Reason,
    Reporting,
    RoundRef,
    Selecting,
)
from fl_cluster.rounds.plan import Millis, RoundPlan

PLAN = RoundPlan(
    cohort_size=2, report_goal=2, select_window_ms=10, report_window_ms=20, round_window_ms=100
)
REF = RoundRef("run-1", 7)
ONE = {"a": Admission(1, 0, Millis(1000))}
TWO = ONE | {"b": Admission(1, 0, Millis(1001))}


def selecting(first_report_at: int | None = None, plan: RoundPlan = PLAN) -> Selecting:
    at = None if first_report_at is None else Millis(first_report_at)
    return Selecting(REF, plan, Millis(1000), ONE, {}, {}, {}, at)


def reporting(first_report_at: int | None = None, plan: RoundPlan = PLAN) -> Reporting:
    at = None if first_report_at is None else Millis(first_report_at)
    return Reporting(REF, plan, Millis(1000), TWO, {}, {}, {}, at)


@pytest.mark.parametrize(
    "ref",
    [
        RoundRef("run", 1),
        RoundRef("run", 0, 3),
        RoundRef("", 12, 1),
        RoundRef("a@b.c@d", 2**31, 2),
        RoundRef("{ }\n:", 5),
    ],
)
def test_a_reference_is_read_back_as_it_was_written(ref: RoundRef) -> None:
    assert RoundRef.parse(str(ref)) == ref


@pytest.mark.parametrize("text", ["", "7", "7.1", "7@x", "7.1.1@x", "a.b@x", ".@x"])
def test_text_that_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which of its parts is wrong does not matter
        RoundRef.parse(text)


def test_the_next_round_belongs_to_the_same_run() -> None:
    assert RoundRef("run", 7, 3).next() == RoundRef("run", 8)


def test_references_of_another_run_number_or_attempt_differ() -> None:
    refs = {RoundRef("a", 1), RoundRef("b", 1), RoundRef("a", 2), RoundRef("a", 1, 2)}

    assert len({str(ref) for ref in refs}) == 4


@pytest.mark.parametrize("phase", get_args(Phase), ids=lambda kind: kind.__name__)
def test_a_phase_is_frozen_slotted_and_names_its_round(phase: type) -> None:
    assert dataclasses.is_dataclass(phase)
    assert phase.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert hasattr(phase, "__slots__")
    assert "ref" in {field.name for field in dataclasses.fields(phase)}


def test_a_cohort_with_room_has_until_the_selection_window_closes() -> None:
    assert selecting().overdue(Millis(1009)) is None
    assert selecting().overdue(Millis(1010)) is Reason.SELECT_WINDOW


def test_a_full_cohort_has_no_selection_window() -> None:
    assert reporting().overdue(Millis(1099)) is None
    assert reporting().overdue(Millis(1100)) is Reason.ROUND_WINDOW


def test_the_reporting_window_runs_from_the_first_counted_update() -> None:
    assert reporting(1040).overdue(Millis(1059)) is None
    assert reporting(1040).overdue(Millis(1060)) is Reason.REPORT_WINDOW


def test_the_round_window_ends_a_round_whatever_is_missing() -> None:
    plan = dataclasses.replace(PLAN, select_window_ms=500, report_window_ms=500)

    for phase in (selecting(plan=plan), selecting(1099, plan), reporting(1099, plan)):
        assert phase.overdue(Millis(1099)) is None
        assert phase.overdue(Millis(1100)) is Reason.ROUND_WINDOW


def test_of_windows_that_closed_together_the_narrowest_is_the_reason() -> None:
    assert selecting(1001).overdue(Millis(5000)) is Reason.SELECT_WINDOW
    assert reporting(1001).overdue(Millis(5000)) is Reason.REPORT_WINDOW
