"""Times by the clock of a device: ahead of it when it is fast, and otherwise ours."""

from __future__ import annotations

import time

import pytest

from fl_cluster.api.device_clocks import MOST_AHEAD_MS, ahead_ms, by_its_clock
from fl_cluster.wire import messages

NOW = 1_795_317_213_000


@pytest.mark.parametrize(
    ("timestamp", "ahead"),
    [
        (None, 0),
        ("", 0),
        (str(NOW), 0),
        (str(NOW - 1), 0),
        ("1", 0),
        (str(NOW + 1), 1),
        (str(NOW + MOST_AHEAD_MS), MOST_AHEAD_MS),
        (str(NOW + MOST_AHEAD_MS + 1), 0),
        (f"000{NOW + 5_000}", 0),  # longer than milliseconds are
        (str(NOW * 1_000), 0),
        (f"{NOW + 5_000}.0", 0),
        (f"+{NOW + 5_000}", 0),
        (f" {NOW + 5_000}", 0),
        ("2020/11/16/19/18", 0),
        ("１７９５３１７２１８０００", 0),  # noqa: RUF001 - digits, but not those of the protocol
        ("9" * 5_000, 0),
    ],
)
def test_a_clock_is_ahead_when_it_says_so_within_reason(timestamp: str | None, ahead: int) -> None:
    assert ahead_ms(timestamp, NOW) == ahead


def test_the_time_moves_with_the_clock_in_the_text_too() -> None:
    answer = messages.ResponseUpdateModel(
        retcode=300, reason="retry at: 1795317273000, fl id is x", next_req_time="1795317273000"
    )
    hour = 3_600_000
    before = time.time_ns() // 1_000_000

    moved = by_its_clock(answer, str(before + hour))

    later = int(moved.next_req_time or "") - 1_795_317_273_000
    assert hour - 5_000 < later <= hour
    assert moved.reason == f"retry at: {moved.next_req_time}, fl id is x"
    assert moved.retcode == 300


@pytest.mark.parametrize("time_told", [None, ""])
def test_an_answer_without_a_time_stays_without_one(time_told: str | None) -> None:
    answer = messages.ResponseFLJob(retcode=400, reason="no", next_req_time=time_told)

    assert by_its_clock(answer, str(time.time_ns() // 1_000_000 + 60_000)) is answer
