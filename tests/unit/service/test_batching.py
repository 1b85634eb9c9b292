"""Questions that come together share a call; every one of them is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fl_cluster.errors import StoreUnavailable
from fl_cluster.service.batching import Batcher


class Oracle:
    """Doubles numbers, a batch at a time, when it is let."""

    def __init__(self, limit: int = 512) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.faults: list[BaseException] = []
        self.batcher: Batcher[int, int] = Batcher(self.send, limit=limit)

    async def send(self, questions: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(questions))
        await self.open.wait()
        if self.faults:
            raise self.faults.pop(0)
        return [2 * question for question in questions]

    def ask(self, question: int) -> asyncio.Task[int]:
        return asyncio.create_task(self.batcher.ask(question))


async def test_a_lone_question_is_asked_at_once():
    oracle = Oracle()
    oracle.open.set()

    assert await oracle.batcher.ask(21) == 42
    assert oracle.batches == [[21]]


async def test_what_is_asked_during_a_call_goes_in_the_next_one_in_order():
    oracle = Oracle()
    first = oracle.ask(0)
    await asyncio.sleep(0.1)
    later = [oracle.ask(n) for n in range(1, 6)]
    await asyncio.sleep(0.1)

    oracle.open.set()

    assert await asyncio.gather(first, *later) == [0, 2, 4, 6, 8, 10]
    assert oracle.batches == [[0], [1, 2, 3, 4, 5]]


async def test_a_batch_is_no_larger_than_the_limit():
    oracle = Oracle(limit=2)
    oracle.open.set()

    assert await asyncio.gather(*map(oracle.ask, range(5))) == [0, 2, 4, 6, 8]
    assert oracle.batches == [[0, 1], [2, 3], [4]]


async def test_a_fault_reaches_all_of_its_batch_and_nobody_else():
    oracle = Oracle()
    oracle.faults = [StoreUnavailable("claim", "away")]
    first = oracle.ask(0)
    await asyncio.sleep(0.1)
    later = oracle.ask(1)
    oracle.open.set()

    with pytest.raises(StoreUnavailable):
        await first
    assert await later == 2


async def test_one_who_gives_up_does_not_take_the_others_answers():
    oracle = Oracle()
    tasks = [oracle.ask(n) for n in range(3)]
    await asyncio.sleep(0.1)
    tasks[1].cancel()
    await asyncio.sleep(0.1)
    oracle.open.set()

    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert (answers[0], answers[2]) == (0, 4)
    assert isinstance(answers[1], asyncio.CancelledError)


async def test_no_task_is_left_when_all_is_answered():
    oracle = Oracle()
    oracle.open.set()
    await oracle.batcher.ask(1)
    await asyncio.sleep(0.1)

    assert len(asyncio.all_tasks()) == 1
