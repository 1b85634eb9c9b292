"""Events are facts, and verdicts are words."""

from __future__ import annotations

import dataclasses
import re
from typing import get_args

import pytest

from fl_cluster.rounds.events import Disable, Enable, Event, MemberLost, Restart, Verdict

OF_NO_ROUND = (MemberLost, Disable, Enable, Restart)


@pytest.mark.parametrize("verdict", Verdict)
def test_a_verdict_has_one_spelling(verdict: Verdict) -> None:
    assert verdict.value == verdict.name.lower()
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", verdict.value)


@pytest.mark.parametrize("event", get_args(Event), ids=lambda kind: kind.__name__)
def test_an_event_is_frozen_and_slotted(event: type) -> None:
    assert dataclasses.is_dataclass(event)
    assert event.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert hasattr(event, "__slots__")


@pytest.mark.parametrize("event", get_args(Event), ids=lambda kind: kind.__name__)
def test_an_event_names_its_round_unless_it_concerns_the_whole_job(event: type) -> None:
    names = {field.name for field in dataclasses.fields(event)}

    assert ("ref" in names) is (event not in OF_NO_ROUND)
