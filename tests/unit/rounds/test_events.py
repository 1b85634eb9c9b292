"""Events are facts, and verdicts are words."""

from __future__ import annotations

import dataclasses
import re
from typing import get_args

import pytest

from fl_cluster.rounds.events import Event, MemberLost, Verdict


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
def test_every_event_but_a_lost_member_names_its_round(event: type) -> None:
    names = {field.name for field in dataclasses.fields(event)}

    assert ("ref" in names) is (event is not MemberLost)
