"""Many questions, few calls: while one call is under way, the next batch gathers.

What databases do with commits.  A lone question pays nothing for it; under load the cost of
a round trip is shared by everyone who asked meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(Generic[Question, Answer]):
    """Gathers questions for `send`, which answers a batch in order, or fails all of it.

    At most `limit` questions go in one call; one call is under way at a time.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]],
        *,
        limit: int = 512,
    ) -> None:
        self._send = send
        self._limit = limit
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        """The answer to this question; raises what `send` raised for its batch."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[: self._limit]
                del self._waiting[: self._limit]
                await self._answer(batch)
        finally:
            self._worker = None

    async def _answer(self, batch: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._send([question for question, _ in batch])
        except BaseException as exc:
            # Whoever asked has to hear of it, whatever it was; a cancelled worker goes on
            # being cancelled after telling them.
            for _, future in batch:
                if not future.done():
                    future.set_exception(
                        exc if isinstance(exc, Exception) else asyncio.CancelledError()
                    )
            if not isinstance(exc, Exception):
                raise
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
