from __future__ import annotations

import itertools
import re
from dataclasses import replace
from datetime import UTC

import pytest

from fl_cluster.lifecycle.membership import (
    Member,
    MemberEvent,
    MemberState,
    Role,
    member_id,
    reborn,
    step,
)

JOINING, SERVING = MemberState.JOINING, MemberState.SERVING
DRAINING, GONE = MemberState.DRAINING, MemberState.GONE
REGISTERED, STOP_ASKED = MemberEvent.REGISTERED, MemberEvent.STOP_ASKED
DECLARED_DEAD, LEFT = MemberEvent.DECLARED_DEAD, MemberEvent.LEFT


def a_member(state: MemberState = JOINING) -> Member:
    return Member(
        id="127.0.0.1:35001::2026-11-25-10:00:00.000.000::54321",
        role=Role.SERVER,
        tcp_address="127.0.0.1:35001",
        http_address="127.0.0.1:6666",
        manage_address="",
        pid=4711,
        host="host-a",
        process_started_s=1_795_000_000.25,
        version="0.1.0",
        kernel="avx2",
        started_ms=1_795_000_000_500,
        state=state,
    )


def test_an_id_has_the_form_that_tools_know() -> None:
    made = member_id("127.0.0.1:35001", 1_654_101_630_123_456, 38_383, zone=UTC)

    assert made == "127.0.0.1:35001::2022-06-01-16:40:30.123.456::38383"


def test_an_id_shows_local_time_unless_told_otherwise() -> None:
    made = member_id("10.0.0.1:1", 1_654_101_630_000_001, 10_000)

    assert re.fullmatch(r"10\.0\.0\.1:1::2022-06-0\d-\d\d:\d\d:30\.000\.001::10000", made)


@pytest.mark.parametrize("random", [-1, 9_999, 100_000])
def test_a_random_part_of_other_than_five_digits_is_refused(random: int) -> None:
    with pytest.raises(ValueError, match=r"within 10000\.\.99999"):
        member_id("127.0.0.1:1", 0, random)


EDGES = {
    (JOINING, REGISTERED): SERVING,
    (JOINING, STOP_ASKED): GONE,
    (JOINING, LEFT): GONE,
    (SERVING, STOP_ASKED): DRAINING,
    (SERVING, DECLARED_DEAD): JOINING,
    (SERVING, LEFT): GONE,
    (DRAINING, LEFT): GONE,
    (DRAINING, DECLARED_DEAD): GONE,
}


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(MemberState, MemberEvent)), ids=str
)
def test_every_event_in_every_state_leads_where_the_picture_says(
    state: MemberState, event: MemberEvent
) -> None:
    member = a_member(state)

    after = step(member, event)

    expected = EDGES.get((state, event))
    if expected is None:
        assert after is member
    else:
        assert after == replace(member, state=expected)


def test_a_member_that_was_declared_dead_comes_back_under_a_new_name_only() -> None:
    member = a_member(SERVING)

    again = reborn(member, "127.0.0.1:35001::2026-11-25-10:01:00.000.000::11111")

    assert again.state is JOINING
    assert replace(again, id=member.id, state=SERVING) == member
    with pytest.raises(ValueError, match="needs a new name"):
        reborn(member, member.id)
