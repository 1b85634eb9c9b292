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


async def test_a_store_that_is_away_is_asked_again_ever_more_slowly():
    loop = asyncio.get_running_loop()
    asked, heard = [], []

    async def ask(attempt: int) -> str:
        asked.append((attempt, loop.time()))
        if attempt < 8:
            raise StoreUnavailable("report", f"away {attempt}")
        return "known"

    answer = await until_known(ask, lambda fault, pause: heard.append((fault.reason, pause)))

    assert answer == "known"
    assert [attempt for attempt, _ in asked] == list(range(9))
    pauses = [*PAUSES_S, 1.0, 1.0, 1.0]
    assert heard == [(f"away {n}", pause) for n, pause in enumerate(pauses)]
    assert asked[-1][1] - asked[0][1] == pytest.approx(sum(pauses), abs=1e-6)


async def test_another_fault_ends_it():
    async def ask(_: int) -> None:
        raise StoreCorrupt("no record of ours")

    with pytest.raises(StoreCorrupt):
        await until_known(ask, _unheard)


def _unheard(fault: StoreUnavailable, pause_s: float) -> None:
    pytest.fail(f"{fault} after {pause_s}")
