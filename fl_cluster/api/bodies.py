"""Reading request bodies: once, into one buffer, within bounds.

A body whose length is known is copied chunk by chunk into a buffer of that size, which is
twice as fast as joining chunks at the end.  Bytes that wait to be read cost nothing but a
socket buffer, so a body is not read before its share of the budget is free: memory stays
bounded however many devices send at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from aiohttp import web

SLOWEST_BYTES_PER_S = 16 * 1024
"""A body that comes more slowly, after some grace, is given up: it holds budget of others."""

GRACE_S = 30.0

POOLED_BYTES = 256 * 1024
"""Smaller buffers come from a heap that needs no pool."""


class TooLarge(Exception):
    """The body is longer than the plane takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is longer than {limit} bytes")
        self.limit = limit


class TooBusy(Exception):
    """No budget became free in time."""


class Truncated(Exception):
    """The body ended early, or came too slowly."""


class ByteBudget:
    """At most `total` bytes at a time; whoever wants more waits its turn.

    A request larger than the whole budget gets it when it is alone.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._used = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes handed out now."""
        return self._used

    async def take(self, size: int, timeout_s: float) -> Callable[[], None]:
        """Take `size` bytes and return what gives them back; `TooBusy` when none are free in time.

        Giving back a second time does nothing.
        """
        share = min(size, self.total)
        await self._acquire(share, timeout_s)
        is_held = True

        def give_back() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._used -= share
                self._wake()

        return give_back

    async def _acquire(self, share: int, timeout_s: float) -> None:
        if not self._queue and self._used + share <= self.total:
            self._used += share
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((share, turn))
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():
                self._used -= share
            else:
                self._queue.remove((share, turn))
            self._wake()
            if isinstance(exc, TimeoutError):
                raise TooBusy from exc
            raise

    def _wake(self) -> None:
        while self._queue and self._used + self._queue[0][0] <= self.total:
            share, turn = self._queue.popleft()
            self._used += share
            turn.set_result(None)


class BufferPool:
    """Large buffers for bodies, used again and again.

    Fresh memory of this size comes page by page from the kernel, zeroed, which takes as long
    as receiving the body.  A buffer that anything still has a view of is never used again.
    """

    def __init__(self, total: int) -> None:
        self._room = total
        self._buffers: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """A buffer of at least `size` bytes."""
        for index, buffer in enumerate(self._buffers):
            if size <= len(buffer) <= 2 * size:
                self._room += len(buffer)
                return self._buffers.pop(index)
        return bytearray(size)

    def put(self, buffer: bytearray) -> None:
        """Keep the buffer for later, if nobody looks at it and there is room."""
        if len(buffer) > self._room:
            return
        try:
            # A byte array that has views refuses to change its size.
            buffer.append(buffer.pop())
        except BufferError:
            return
        self._room -= len(buffer)
        self._buffers.append(buffer)


class Body:
    """The bytes of one request, until somebody lets them go."""

    __slots__ = ("_let_go", "data")

    def __init__(self, data: bytes | memoryview, let_go: Callable[[], None]) -> None:
        self.data = data
        self._let_go = let_go

    def let_go(self) -> None:
        """Forget the bytes and give their share of the budget back; harmless when repeated."""
        let_go, self._let_go, self.data = self._let_go, _nothing, b""
        let_go()


def _nothing() -> None:
    """What a body that was let go lets go of."""


class BodyReader:
    """Reads bodies of at most `limit` bytes each, within a budget for all of them."""

    def __init__(self, limit: int, budget: ByteBudget, *, timeout_s: float = 10.0) -> None:
        self.limit = limit
        self._budget = budget
        self._pool = BufferPool(budget.total)
        self._timeout_s = timeout_s

    async def read(self, request: web.BaseRequest) -> Body:
        """The whole body, empty when there is none; whoever gets it has to let it go.

        Raises TooLarge, TooBusy or Truncated.
        """
        length = request.content_length
        if length is not None and length > self.limit:
            raise TooLarge(self.limit)
        if not request.body_exists:
            return Body(b"", _nothing)
        give_back = await self._budget.take(length or self.limit, self._timeout_s)
        allowed_s = GRACE_S + (length or self.limit) / SLOWEST_BYTES_PER_S
        try:
            async with asyncio.timeout(allowed_s):
                if length is None:
                    return Body(await self._gather_chunked(request), give_back)
                return await self._gather(request, length, give_back)
        except BaseException as exc:
            give_back()
            if isinstance(exc, TimeoutError):
                raise Truncated from exc
            raise

    async def _gather(
        self, request: web.BaseRequest, length: int, give_back: Callable[[], None]
    ) -> Body:
        chunks = request.content.iter_any()
        first = await anext(chunks, b"")
        if len(first) == length:
            return Body(first, give_back)
        is_pooled = length >= POOLED_BYTES
        buffer = self._pool.take(length) if is_pooled else bytearray(length)
        buffer[: len(first)] = first
        filled = len(first)
        async for chunk in chunks:
            buffer[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        if filled != length:
            raise Truncated

        def let_go() -> None:
            give_back()
            if is_pooled:
                self._pool.put(buffer)

        return Body(memoryview(buffer)[:length], let_go)

    async def _gather_chunked(self, request: web.BaseRequest) -> bytes:
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > self.limit:
                raise TooLarge(self.limit)
        return bytes(body)
