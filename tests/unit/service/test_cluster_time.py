"""The cluster's time on one host, and the warning when the host's clock is off."""

from __future__ import annotations

import logging

import pytest

from fl_cluster.service.cluster_time import ClusterTime

LOCAL_MS = 1_795_000_000_000


def time_with(*store_ms):
    answers = iter(store_ms)

    async def read():
        return next(answers)

    return ClusterTime(read, lambda: LOCAL_MS)


@pytest.mark.parametrize(
    ("offset_ms", "words"), [(5_000, "5.0 s behind"), (-61_000, "61.0 s ahead of")]
)
async def test_a_clock_that_is_off_is_set_right_and_told_of_once(caplog, offset_ms, words):
    time = time_with(LOCAL_MS + offset_ms, LOCAL_MS + offset_ms)
    with caplog.at_level(logging.WARNING):
        await time.measure()
        await time.measure()

    assert abs(time.now_ms() - LOCAL_MS - offset_ms) < 100
    assert [words in record.message for record in caplog.records] == [True]


async def test_small_differences_are_nobodys_business(caplog):
    time = time_with(LOCAL_MS + 1_500)
    with caplog.at_level(logging.INFO):
        await time.measure()

    assert caplog.records == []


async def test_a_clock_that_was_set_is_told_of(caplog):
    time = time_with(LOCAL_MS + 9_000, LOCAL_MS)
    with caplog.at_level(logging.INFO):
        await time.measure()
        await time.measure()

    assert "agrees with that of the store again" in caplog.records[-1].message


async def test_clocks_are_compared_now_and_then_not_at_every_look():
    time = time_with(LOCAL_MS)

    for _ in range(5):
        await time.look()

    assert time.now_ms() == pytest.approx(LOCAL_MS, abs=100)
