"""Reading request bodies: once, into one buffer, within bounds.

A body whose length is known is copied chunk by chunk into a buffer of that size, which is
twice as fast as joining chunks at the end.  Bytes that wait to be read cost nothing but a
socket buffer, so a large body is not read before its share of the budget is free: memory
stays bounded however many devices send at once.

Shares go to whoever uses them: nobody gets one before its first bytes have come, and one that
stops sending, or dawdles, while others wait loses it (`body_pace`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from aiohttp import StreamReader, web

from fl_cluster.api.body_pace import START_BYTES, Paces, Reading

SLOWEST_BYTES_PER_S = 16 * 1024
"""A body that comes more slowly, after some grace, is given up: it holds budget of others."""

GRACE_S = 30.0

LOOK_S = 0.125
"""How often somebody looks who keeps others waiting, while anybody waits."""

HELD_UP_S = 1.0
"""A look that comes so late came to a process that was stopped: nobody could progress."""

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
    """No budget became free in time, or the body was too slow to keep others waiting for it."""


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


class BodyReader:
    """Reads bodies of at most `limit` bytes each, within a budget for all of them."""

    def __init__(self, limit: int, budget: ByteBudget, *, timeout_s: float = 10.0) -> None:
        self.limit = limit
        self._budget = budget
        self._pool = BufferPool(budget.total)
        self._timeout_s = timeout_s
        self._paces = Paces()
        self._limits: dict[Reading, asyncio.Timeout] = {}
        """What ends the reading of each body that is on its way."""
        self._turned_away: set[Reading] = set()
        self._looks_at: float | None = None
        """When somebody looks next who keeps others waiting."""

    async def read(self, request: web.BaseRequest) -> Body:
        """The whole body, empty when there is none; whoever gets it has to let it go.

        Raises TooLarge, TooBusy or Truncated.
        """
        length = request.content_length
        if length is not None and length > self.limit:
            raise TooLarge(self.limit)
        if not request.body_exists:
            return Body(b"", _nothing)
        start = await self._first_chunk(request.content)
        if request.content.at_eof():
            return self._whole(start, length)
        return await self._rest(request.content, start, length)

    async def _first_chunk(self, content: StreamReader) -> bytes:
        try:
            async with asyncio.timeout(GRACE_S):
                start = await content.readany()
        except TimeoutError as exc:
            raise Truncated from exc
        if len(start) > self.limit:
            raise TooLarge(self.limit)
        return start

    def _whole(self, body: bytes, length: int | None) -> Body:
        if length is not None and len(body) != length:
            raise Truncated
        return Body(body, self._budget.count(len(body)))

    async def _rest(self, content: StreamReader, first: bytes, length: int | None) -> Body:
        """The body of which `first` has come."""
        reading = Reading(length or self.limit, asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(GRACE_S + reading.length / SLOWEST_BYTES_PER_S) as limit:
                self._limits[reading] = limit
                start = await self._start(content, first, reading)
                if content.at_eof():
                    return self._whole(start, length)
                return await self._long(content, start, length, reading)
        except TimeoutError as exc:
            if reading in self._turned_away:
                raise TooBusy from exc
            raise Truncated from exc
        finally:
            del self._limits[reading]
            self._turned_away.discard(reading)

    async def _start(self, content: StreamReader, first: bytes, reading: Reading) -> bytes:
        """The beginning of a body, as far as it is needed for a share, or all of it."""
        enough = min(START_BYTES, self.limit + 1)
        if len(first) >= enough:
            reading.received = len(first)
            return first
        start = bytearray()
        self._paces.start(reading)
        try:
            chunk = first
            while True:
                start += chunk
                if not self._paces.start_on(reading, len(chunk)):
                    raise TooBusy
                if len(start) >= enough or content.at_eof():
                    break
                self._look_out()
                chunk = await content.readany()
        finally:
            self._paces.start_no_more(reading)
        if len(start) > self.limit:
            raise TooLarge(self.limit)
        return bytes(start)

    async def _long(
        self, content: StreamReader, start: bytes, length: int | None, reading: Reading
    ) -> Body:
        clock, paces = asyncio.get_running_loop().time, self._paces
        paces.wait(reading, clock())
        self._look_out()
        try:
            give_back = await self._budget.take(length or self.limit, self._timeout_s)
        finally:
            paces.wait_no_more(reading)
        paces.hold(reading, clock())
        try:
            chunks = _watched(content, reading)
            if length is None:
                body = Body(await self._gather_chunked(chunks, start), give_back)
            else:
                body = await self._gather(chunks, start, length, give_back)
        except BaseException:
            give_back()
            raise
        finally:
            paces.hold_no_more(reading)
        paces.complete(reading, clock())
        return body

    def _look_out(self) -> None:
        """See to it that nobody keeps others waiting, for as long as anybody waits."""
        if self._looks_at is None and self._paces.is_crowded:
            loop = asyncio.get_running_loop()
            self._looks_at = loop.time() + LOOK_S
            loop.call_at(self._looks_at, self._look)

    def _look(self) -> None:
        due, now = self._looks_at, asyncio.get_running_loop().time()
        self._looks_at = None
        if due is not None and now - due > HELD_UP_S:
            self._paces.resume(now)
        for reading in [*self._paces.dawdling(now), *self._paces.surplus(now)]:
            limit = self._limits[reading]
            if not limit.expired():
                self._turned_away.add(reading)
                limit.reschedule(now)
        self._look_out()

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


async def _watched(content: StreamReader, reading: Reading) -> AsyncIterator[bytes]:
    async for chunk in content.iter_any():
        reading.received += len(chunk)
        yield chunk
