"""A task that is cancelled while it talks to Redis ends, at whatever instant that is."""

from __future__ import annotations

import asyncio

import pytest

from fl_cluster.store.redis.connection import Connection

pytestmark = pytest.mark.redis


async def ask_forever(connection: Connection) -> None:
    while True:
        await connection.command("PING")


async def test_a_loop_over_commands_ends_when_it_is_cancelled(connection: Connection) -> None:
    """The library waits for its socket with `asyncio.wait_for`, which up to Python 3.11 forgets
    a cancellation that comes in the step in which the socket is ready."""
    for steps in range(200):
        task = asyncio.create_task(ask_forever(connection))
        for _ in range(steps % 40):
            await asyncio.sleep(0)

        task.cancel()
        await asyncio.wait([task], timeout=0.5)

        assert task.cancelled()


async def test_a_task_that_cleans_up_after_its_cancellation_may_still_ask(
    connection: Connection,
) -> None:
    answers: list[object] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            answers.append(await connection.command("PING"))

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert answers == [True]
