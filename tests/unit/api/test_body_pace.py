"""Who has to go so that others come in: only who keeps others waiting, and is slow beside them."""

from __future__ import annotations

import pytest

from fl_cluster.api.body_pace import (
    ENOUGH_STARTED_BYTES,
    FAST_BYTES_PER_S,
    MOST_STARTED_BYTES,
    PATIENCE_S,
    REMEMBERED_S,
    START_BYTES,
    YOUNG_S,
    Paces,
    Reading,
)

LENGTH = 20_000_000


def holder(paces: Paces, *, length: int = LENGTH, now: float = 0.0) -> Reading:
    """A body that has its share since `now`."""
    reading = Reading(length, now)
    reading.received = START_BYTES
    paces.hold(reading, now)
    return reading


def waiter(paces: Paces, pace: float, *, now: float = 0.0) -> Reading:
    """A body that began to come at this pace, and waits."""
    reading = Reading(LENGTH, now - START_BYTES / pace)
    reading.received = START_BYTES
    paces.wait(reading, now)
    return reading


def completed(paces: Paces, pace: float, *, now: float = 0.0) -> None:
    """A body that came as a whole at this pace."""
    reading = Reading(LENGTH, now - LENGTH / pace)
    reading.hold(now - LENGTH / pace)
    reading.received = LENGTH
    paces.complete(reading, now)


def test_nobody_goes_while_nobody_waits() -> None:
    paces = Paces()
    holder(paces)

    assert not paces.is_crowded
    assert paces.dawdling(1_000) == []


def test_who_comes_in_drops_goes_when_others_wait() -> None:
    paces = Paces()
    slow, fast = holder(paces), holder(paces)
    waiter(paces, 10e6)
    slow.received += 5
    fast.received += 5_000_000

    assert paces.dawdling(PATIENCE_S / 2) == []
    assert paces.dawdling(PATIENCE_S) == [slow]


def test_where_all_are_slow_nobody_goes() -> None:
    """A cohort of phones at 100 KB/s, whose first bytes came out of a buffer."""
    paces = Paces()
    phones = [holder(paces) for _ in range(4)]
    waiter(paces, 640e3)
    for phone in phones:
        phone.received += 100_000

    assert paces.dawdling(1.0) == []
    completed(paces, 100e3, now=1.0)
    for phone in phones:
        phone.received += 60_000
    assert paces.dawdling(2.0) == []


def test_a_slow_one_goes_where_others_are_many_times_faster() -> None:
    paces = Paces()
    slow = holder(paces)
    completed(paces, 1e6)
    waiter(paces, 1e6)
    slow.received += 100_000

    assert paces.dawdling(1.0) == [slow]


def test_what_others_once_did_is_forgotten() -> None:
    paces = Paces()
    completed(paces, 1e9)
    slow = holder(paces, now=REMEMBERED_S + 1)
    waiter(paces, 500e3, now=REMEMBERED_S + 1)
    slow.received += 50_000

    assert paces.dawdling(REMEMBERED_S + 2) == []


def test_whoever_is_fast_stays_however_fast_others_are() -> None:
    paces = Paces()
    steady = holder(paces)
    completed(paces, 1e9)
    waiter(paces, 1e9)
    steady.received += FAST_BYTES_PER_S

    assert paces.dawdling(1.0) == []


def test_whoever_will_be_whole_soon_stays() -> None:
    paces = Paces()
    nearly = holder(paces, length=300_000)
    waiter(paces, 1e9)
    nearly.received += 150_000

    assert paces.dawdling(1.0) == []


def test_who_has_stopped_goes_even_among_the_slow() -> None:
    paces = Paces()
    completed(paces, 10.0)
    stopped = holder(paces)
    waiter(paces, 20.0)

    assert paces.dawdling(1.0) == [stopped]


def test_a_fast_beginning_buys_no_more_than_a_window() -> None:
    paces = Paces()
    clever = holder(paces)
    waiter(paces, 10e6)
    clever.received += LENGTH // 2

    assert paces.dawdling(1.0) == []
    clever.received += 10
    assert paces.dawdling(2.0) == [clever]


def test_no_more_go_than_wait_and_the_slowest_first() -> None:
    paces = Paces()
    holders = [holder(paces) for _ in range(3)]
    waiter(paces, 10e6)
    for count, each in zip((30, 10, 20), holders, strict=True):
        each.received += count

    assert paces.dawdling(1.0) == [holders[1]]


def test_in_a_crowd_patience_is_short() -> None:
    paces = Paces()
    slow = holder(paces)
    for _ in range(200):
        waiter(paces, 10e6)

    assert paces.dawdling(PATIENCE_S / 3) == [slow]


def test_a_process_that_was_stopped_blames_nobody() -> None:
    paces = Paces()
    steady = holder(paces)
    waiter(paces, 10e6)

    paces.resume(60.0)

    assert paces.dawdling(60.1) == []
    steady.received += 5_000_000
    assert paces.dawdling(61.0) == []


@pytest.mark.parametrize("excess", [0, 1])
def test_of_those_without_a_share_the_slowest_go_when_there_is_no_room(excess: int) -> None:
    paces = Paces()
    sizes = {10.0: 5_000, 5.0: 4_000, 20.0: 6_000}
    readings = {age: Reading(LENGTH, -age) for age in sizes}
    for age, reading in readings.items():
        paces.start(reading)
        paces.start_on(reading, sizes[age])
    fast = Reading(LENGTH, -2.0)
    paces.start(fast)
    paces.start_on(fast, ENOUGH_STARTED_BYTES + excess - sum(sizes.values()))

    found = list(paces.surplus(0.0))

    assert paces.is_crowded == bool(excess)
    assert found == [readings[20.0]] * excess


def test_who_has_only_begun_is_no_surplus_but_has_no_more_room_than_there_is() -> None:
    paces = Paces()
    reading = Reading(LENGTH, 0.0)
    paces.start(reading)

    assert paces.start_on(reading, MOST_STARTED_BYTES)
    assert list(paces.surplus(YOUNG_S / 2)) == []
    assert not paces.start_on(reading, 1)
    paces.start_no_more(reading)
    assert paces.started_bytes == 0
