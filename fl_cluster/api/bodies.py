"""Reading request bodies: once, into one buffer, within bounds.

A body whose length is known is copied chunk by chunk into a buffer of that size, which is
twice as fast as joining chunks at the end.  Bytes that wait to be read cost nothing but a
socket buffer, so a large body is not read before its share of the budget is free: memory
stays bounded however many devices send at once.

Shares go to whoever uses them: nobody gets one before its first bytes have come, and one that
stops sending while others wait loses it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from aiohttp import StreamReader, web

SLOWEST_BYTES_PER_S = 16 * 1024
"""A body that comes more slowly, after some grace, is given up: it holds budget of others."""

GRACE_S = 30.0

START_BYTES = 64 * 1024
"""A body that is longer waits for its share; one that is not is there before it could wait."""

STALLED_S = 2.0
LEAST_STALLED_S = 0.25
CROWD = 16
"""A body of which nothing more comes for so long is given up when others wait for its share:
the sooner, the more wait, down to the least at some hundred."""

MOST_WAITING = 256
"""Bodies that wait for a share at a time; each holds what sockets are read in, up to 320 KB."""

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

    def __init__(self, total: int, most_waiting: int = MOST_WAITING) -> None:
        self.total = total
        self._most_waiting = most_waiting
        self._used = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes handed out now."""
        return self._used

    def count(self, size: int) -> Callable[[], None]:
        """Count bytes that are in memory already; what gives them back."""
        self._used += size
        return self._returner(size)

    async def take(self, size: int, timeout_s: float) -> Callable[[], None]:
        """Take `size` bytes and return what gives them back.

        `TooBusy` when none are free in time, or too many wait already.  Giving back a second
        time does nothing.
        """
        share = min(size, self.total)
        await self._acquire(share, timeout_s)
        return self._returner(share)

    def _returner(self, share: int) -> Callable[[], None]:
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
        if len(self._queue) >= self._most_waiting:
            raise TooBusy
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


@dataclass(slots=True, eq=False)
class _Reading:
    """A body that is being read, and holds a share."""

    limit: asyncio.Timeout
    progressed_at: float


class BodyReader:
    """Reads bodies of at most `limit` bytes each, within a budget for all of them."""

    def __init__(self, limit: int, budget: ByteBudget, *, timeout_s: float = 10.0) -> None:
        self.limit = limit
        self._budget = budget
        self._pool = BufferPool(budget.total)
        self._timeout_s = timeout_s
        self._readings: set[_Reading] = set()
        self._waiting = 0
        self._sweeper: asyncio.TimerHandle | None = None

    async def read(self, request: web.BaseRequest) -> Body:
        """The whole body, empty when there is none; whoever gets it has to let it go.

        Raises TooLarge, TooBusy or Truncated.
        """
        length = request.content_length
        if length is not None and length > self.limit:
            raise TooLarge(self.limit)
        if not request.body_exists:
            return Body(b"", _nothing)
        allowed_s = GRACE_S + (length or self.limit) / SLOWEST_BYTES_PER_S
        try:
            async with asyncio.timeout(allowed_s) as limit:
                start = await _first_bytes(request.content, self.limit)
                if len(start) > self.limit:
                    raise TooLarge(self.limit)
                if request.content.at_eof():
                    return self._whole(start, length)
                return await self._rest(request.content, start, length, limit)
        except TimeoutError as exc:
            raise Truncated from exc

    def _whole(self, body: bytes, length: int | None) -> Body:
        if length is not None and len(body) != length:
            raise Truncated
        return Body(body, self._budget.count(len(body)))

    async def _rest(
        self, content: StreamReader, start: bytes, length: int | None, limit: asyncio.Timeout
    ) -> Body:
        give_back = await self._share(length or self.limit)
        reading = _Reading(limit, asyncio.get_running_loop().time())
        self._readings.add(reading)
        try:
            chunks = _watched(content, reading)
            if length is None:
                return Body(await self._gather_chunked(chunks, start), give_back)
            return await self._gather(chunks, start, length, give_back)
        except BaseException:
            give_back()
            raise
        finally:
            self._readings.discard(reading)

    async def _share(self, size: int) -> Callable[[], None]:
        self._waiting += 1
        if self._sweeper is None:
            self._sweep()
        try:
            return await self._budget.take(size, self._timeout_s)
        finally:
            self._waiting -= 1

    def _sweep(self) -> None:
        """Give up what has stalled, for as long as anybody waits."""
        loop = asyncio.get_running_loop()
        self._sweeper = None
        if not self._waiting:
            return
        now = loop.time()
        allowed_s = max(LEAST_STALLED_S, STALLED_S / (1 + self._waiting / CROWD))
        for reading in self._readings:
            if now - reading.progressed_at > allowed_s:
                reading.limit.reschedule(now)
        self._sweeper = loop.call_later(LEAST_STALLED_S / 2, self._sweep)

    async def _gather(
        self,
        chunks: AsyncIterator[bytes],
        start: bytes,
        length: int,
        give_back: Callable[[], None],
    ) -> Body:
        is_pooled = length >= POOLED_BYTES
        buffer = self._pool.take(length) if is_pooled else bytearray(length)
        buffer[: len(start)] = start
        filled = len(start)
        try:
            async for chunk in chunks:
                buffer[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
            if filled != length:
                raise Truncated
        except BaseException:
            # Otherwise the fault's traceback would keep the buffer until garbage is collected.
            if is_pooled:
                self._pool.put(buffer)
            raise

        def let_go() -> None:
            give_back()
            if is_pooled:
                self._pool.put(buffer)

        return Body(memoryview(buffer)[:length], let_go)

    async def _gather_chunked(self, chunks: AsyncIterator[bytes], start: bytes) -> bytes:
        body = bytearray(start)
        async for chunk in chunks:
            body += chunk
            if len(body) > self.limit:
                raise TooLarge(self.limit)
        return bytes(body)


async def _first_bytes(content: StreamReader, limit: int) -> bytes:
    """The beginning of a body, or all of it; one chunk is not copied."""
    start = await content.readany()
    while len(start) < min(START_BYTES, limit + 1) and not content.at_eof():
        start += await content.readany()
    return start


async def _watched(content: StreamReader, reading: _Reading) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    async for chunk in content.iter_any():
        reading.progressed_at = loop.time()
        yield chunk
