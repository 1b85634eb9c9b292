"""Asking again until the answer is known."""

from __future__ import annotations

import asyncio

import pytest

from fl_cluster.errors import StoreCorrupt, StoreUnavailable
from fl_cluster.service.retrying import PAUSES_S, until_known


async def test_an_answer_is_passed_on():
    async def ask(attempt: int) -> int:
        return attempt

    assert await until_known(ask, _unheard) == 0


async def test_a_store_that_is_away_is_asked_ever_more_slowly_and_complained_of_once():
    loop = asyncio.get_running_loop()
    asked, heard = [], []

    async def ask(attempt: int) -> str:
        asked.append((attempt, loop.time()))
        if attempt < 8:
            raise StoreUnavailable("report", f"away {attempt}")
        return "known"

    answer = await until_known(ask, lambda fault: heard.append(fault.reason))

    assert answer == "known"
    assert [attempt for attempt, _ in asked] == list(range(9))
    pauses = [*PAUSES_S, 1.0, 1.0, 1.0]
    assert heard == ["away 0"]
    assert asked[-1][1] - asked[0][1] == pytest.approx(sum(pauses), abs=1e-6)


async def test_another_fault_ends_it():
    async def ask(_: int) -> None:
        raise StoreCorrupt("no record of ours")

    with pytest.raises(StoreCorrupt):
        await until_known(ask, _unheard)


def _unheard(fault: StoreUnavailable) -> None:
    pytest.fail(str(fault))
