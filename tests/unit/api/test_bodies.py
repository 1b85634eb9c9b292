"""Reading bodies: whole or not at all, within a budget that is always given back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from fl_cluster.api import bodies, body_pace, plain_http
from fl_cluster.api.bodies import (
    POOLED_BYTES,
    Body,
    BodyReader,
    BufferPool,
    ByteBudget,
    TooBusy,
    TooLarge,
    Truncated,
)
from fl_cluster.api.body_pace import START_BYTES

# -- the budget --------------------------------------------------------------------------


async def test_bytes_are_taken_and_given_back_once() -> None:
    budget = ByteBudget(100)

    give_back = await budget.take(60, 1)
    other = await budget.take(40, 1)
    assert budget.used == 100
    give_back()
    give_back()

    assert budget.used == 40
    other()
    assert budget.used == 0


async def test_who_finds_no_room_waits_and_gets_it_in_the_order_of_asking() -> None:
    budget = ByteBudget(100)
    first = await budget.take(80, 1)
    got: list[str] = []

    async def take(name: str, size: int) -> Callable[[], None]:
        give_back = await budget.take(size, 5)
        got.append(name)
        return give_back

    large = asyncio.create_task(take("large", 90))
    await asyncio.sleep(0)
    # It would fit beside the first were it not for the one that came before it.
    small = asyncio.create_task(take("small", 20))
    await asyncio.sleep(0)
    first()
    (await large)()
    (await small)()

    assert got == ["large", "small"]
    assert budget.used == 0


async def test_one_that_is_larger_than_the_budget_gets_it_alone() -> None:
    budget = ByteBudget(100)
    held = await budget.take(1, 1)
    huge = asyncio.create_task(budget.take(10**9, 5))
    await asyncio.sleep(0)
    assert not huge.done()

    held()
    give_back = await huge

    assert budget.used == 100
    give_back()
    assert budget.used == 0


async def test_who_waits_too_long_is_told_and_makes_room_for_the_next() -> None:
    budget = ByteBudget(100)
    held = await budget.take(50, 1)
    impatient = asyncio.create_task(budget.take(80, 0.02))
    await asyncio.sleep(0)
    behind = asyncio.create_task(budget.take(30, 5))

    with pytest.raises(TooBusy):
        await impatient

    give_back = await behind
    assert budget.used == 80
    held()
    give_back()
    assert budget.used == 0


async def test_a_place_in_the_queue_that_is_given_up_costs_nothing() -> None:
    budget = ByteBudget(100)
    held = await budget.take(100, 1)
    waiting = [asyncio.create_task(budget.take(60, 5)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting[0]

    held()
    (await waiting[1])()
    (await waiting[2])()

    assert budget.used == 0


async def test_what_was_granted_to_one_who_has_just_given_up_is_not_lost() -> None:
    budget = ByteBudget(100)
    held = await budget.take(100, 1)
    waiting = asyncio.create_task(budget.take(100, 5))
    await asyncio.sleep(0)

    held()
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        (await waiting)()

    assert budget.used == 0


# -- buffers -----------------------------------------------------------------------------


def test_a_buffer_is_used_again_for_a_body_of_about_its_size() -> None:
    pool = BufferPool(10_000)
    buffer = pool.take(1_000)
    pool.put(buffer)

    assert pool.take(400) is not buffer
    assert pool.take(1_001) is not buffer
    assert pool.take(500) is buffer
    assert pool.take(500) is not buffer


def test_a_buffer_that_somebody_looks_at_is_not_used_again() -> None:
    pool = BufferPool(10_000)
    buffer = pool.take(1_000)
    view = memoryview(buffer)[:10]

    pool.put(buffer)

    assert pool.take(1_000) is not buffer
    assert bytes(view) == bytes(10)


def test_no_more_is_kept_than_there_is_room_for() -> None:
    pool = BufferPool(2_500)
    buffers = [pool.take(1_000) for _ in range(3)]
    for buffer in buffers:
        pool.put(buffer)

    kept = [pool.take(1_000) for _ in range(3)]

    assert [any(buffer is each for each in buffers) for buffer in kept] == [True, True, False]


def test_a_body_is_let_go_once() -> None:
    calls = []
    body = Body(b"x", lambda: calls.append(1))

    body.let_go()
    body.let_go()

    assert (calls, body.data) == ([1], b"")


# -- the reader --------------------------------------------------------------------------


@dataclass
class Desk:
    """A server that reads bodies, and what became of each."""

    listener: plain_http.Listener
    outcomes: list[Any] = field(default_factory=list)
    kept: list[Body] = field(default_factory=list)
    """Bodies that were read and are not let go yet."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @contextlib.asynccontextmanager
    async def peer(self) -> AsyncIterator[Any]:
        """Sends bytes of a request; gone at the end."""
        _, writer = await asyncio.open_connection(self.listener.host, self.listener.port)
        try:
            yield writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def outcome(self, count: int = 1) -> Any:
        """The newest one, once there are so many."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.outcomes) >= count)
        return self.outcomes[-1]

    async def note(self, outcome: Any) -> None:
        self.outcomes.append(outcome)
        async with self.changed:
            self.changed.notify_all()


@contextlib.asynccontextmanager
async def reading(reader: BodyReader) -> AsyncIterator[Desk]:
    async def read(request: web.BaseRequest) -> web.StreamResponse:
        try:
            body = await reader.read(request)
        except (TooLarge, TooBusy, Truncated, web.RequestPayloadError, ConnectionError) as exc:
            await desk.note(exc)
            raise ConnectionResetError from exc
        desk.kept.append(body)
        await desk.note(bytes(body.data))
        return plain_http.Answer(b"read")

    def broken(*_: object) -> web.StreamResponse:
        return plain_http.Answer(b"broken")

    plane = plain_http.Plane({"/": read}, broken, broken)
    desk = Desk(await plain_http.listen(plane, "127.0.0.1", 0))
    try:
        yield desk
    finally:
        await desk.listener.close(drain_s=0.1)


def head(length: int) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("size", [1, 1_000, POOLED_BYTES - 1, POOLED_BYTES, 3 * POOLED_BYTES])
async def test_a_body_is_read_whole_whatever_its_size(size: int) -> None:
    budget = ByteBudget(4 * POOLED_BYTES)
    sent = bytes(n % 251 for n in range(size))
    async with reading(BodyReader(4 * POOLED_BYTES, budget)) as desk, desk.peer() as peer:
        peer.write(head(size))
        for start in range(0, size, 100_000):
            peer.write(sent[start : start + 100_000])
            await peer.drain()

        assert await desk.outcome() == sent
        assert budget.used == size
        desk.kept[0].let_go()

    assert budget.used == 0


async def test_a_large_buffer_is_used_again_for_the_next_body() -> None:
    budget = ByteBudget(8 * POOLED_BYTES)
    reader = BodyReader(2 * POOLED_BYTES, budget)
    size = 2 * POOLED_BYTES
    seen = []
    async with reading(reader) as desk, desk.peer() as peer:
        for count, filling in enumerate((b"a", b"b"), start=1):
            peer.write(head(size))
            peer.write(filling)
            await peer.drain()
            peer.write(filling * (size - 1))
            assert await desk.outcome(count) == filling * size
            body = desk.kept.pop()
            assert isinstance(body.data, memoryview)
            seen.append(id(body.data.obj))
            body.let_go()

    assert seen[0] == seen[1]


async def test_a_chunked_body_is_read_whole() -> None:
    budget = ByteBudget(10_000)
    async with reading(BodyReader(1_000, budget)) as desk, desk.peer() as peer:
        peer.write(CHUNKED + b"3\r\nabc\r\n")
        await peer.drain()
        peer.write(b"4\r\ndefg\r\n0\r\n\r\n")

        assert await desk.outcome() == b"abcdefg"
        assert budget.used == 7
        desk.kept[0].let_go()

    assert budget.used == 0


async def test_for_a_long_chunked_body_the_most_is_set_aside(until: Any) -> None:
    """How long it will be is not known before its end."""
    budget = ByteBudget(4 * START_BYTES)
    async with reading(BodyReader(3 * START_BYTES, budget)) as desk, desk.peer() as peer:
        peer.write(CHUNKED + f"{START_BYTES:x}\r\n".encode() + bytes(START_BYTES))
        await until(lambda: budget.used)
        assert budget.used == 3 * START_BYTES
        peer.write(b"\r\n3\r\nabc\r\n0\r\n\r\n")

        assert await desk.outcome() == bytes(START_BYTES) + b"abc"


async def test_a_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    budget = ByteBudget(10_000)
    async with reading(BodyReader(1_000, budget)) as desk, desk.peer() as peer:
        peer.write(head(1_001))
        fault = await desk.outcome()

    assert isinstance(fault, TooLarge)
    assert (fault.limit, str(fault)) == (1_000, "the body is longer than 1000 bytes")
    assert budget.used == 0


async def test_chunks_over_the_limit_are_refused_where_they_pass_it() -> None:
    budget = ByteBudget(10_000)
    async with reading(BodyReader(1_000, budget)) as desk, desk.peer() as peer:
        peer.write(CHUNKED + b"3e8\r\n" + bytes(1_000) + b"\r\n1\r\nx\r\n")

        assert isinstance(await desk.outcome(), TooLarge)

    assert budget.used == 0


async def test_no_body_is_an_empty_one_and_takes_nothing() -> None:
    budget = ByteBudget(10_000)
    async with reading(BodyReader(1_000, budget)) as desk, desk.peer() as peer:
        peer.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n" + head(0))

        assert await desk.outcome(2) == b""
        assert desk.outcomes == [b"", b""]
        assert budget.used == 0


LONG = 16 * START_BYTES
"""More than comes in one read of a socket."""

PART = bytes(START_BYTES)


@pytest.mark.parametrize("start", [head(LONG) + PART, CHUNKED + f"{LONG:x}\r\n".encode() + PART])
async def test_a_body_that_breaks_off_gives_its_share_back(start: bytes, until: Any) -> None:
    budget = ByteBudget(LONG)
    async with reading(BodyReader(LONG, budget)) as desk:
        async with desk.peer() as peer:
            peer.write(start)
            await peer.drain()
            await until(lambda: budget.used)

        assert isinstance(await desk.outcome(), Exception)
        assert budget.used == 0


async def test_a_body_that_comes_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "GRACE_S", 0.05)
    budget = ByteBudget(10_000)
    async with reading(BodyReader(1_000, budget)) as desk, desk.peer() as peer:
        peer.write(head(100) + b"half")

        assert isinstance(await desk.outcome(), Truncated)

    assert budget.used == 0


async def test_a_body_is_not_read_before_its_share_is_free(until: Any) -> None:
    budget = ByteBudget(LONG)
    held = await budget.take(LONG, 1)
    async with reading(BodyReader(LONG, budget, timeout_s=5)) as desk, desk.peer() as peer:
        peer.write(head(LONG) + bytes(LONG))
        await until(lambda: budget._queue)
        assert desk.outcomes == []

        held()

        assert await desk.outcome() == bytes(LONG)


async def test_a_body_that_is_there_already_waits_for_nobody() -> None:
    """A check-in must not queue behind uploads."""
    budget = ByteBudget(LONG)
    await budget.take(LONG, 1)
    async with reading(BodyReader(LONG, budget)) as desk, desk.peer() as peer:
        peer.write(head(10) + b"0123456789")

        assert await desk.outcome() == b"0123456789"
        assert budget.used == LONG + 10


async def test_a_body_whose_share_does_not_become_free_is_told_so() -> None:
    budget = ByteBudget(LONG)
    await budget.take(LONG, 1)
    async with reading(BodyReader(LONG, budget, timeout_s=0.02)) as desk, desk.peer() as peer:
        peer.write(head(LONG) + bytes(LONG))

        assert isinstance(await desk.outcome(), TooBusy)

    assert budget.used == LONG


async def test_when_too_many_wait_the_next_one_is_told_at_once() -> None:
    budget = ByteBudget(LONG, most_waiting=1)
    held = await budget.take(LONG, 1)
    waiting = asyncio.create_task(budget.take(1, 5))
    await asyncio.sleep(0)

    with pytest.raises(TooBusy):
        await budget.take(1, 5)

    held()
    (await waiting)()
    assert budget.used == 0


async def test_a_body_that_stalls_loses_its_share_to_one_that_comes(
    monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    monkeypatch.setattr(body_pace, "PATIENCE_S", 0.05)
    budget = ByteBudget(LONG)
    reader = BodyReader(LONG, budget, timeout_s=10)
    async with reading(reader) as desk, desk.peer() as stalled, desk.peer() as peer:
        stalled.write(head(LONG) + PART)
        await until(lambda: budget.used)
        peer.write(head(LONG) + bytes(LONG))

        assert await desk.outcome(2) == bytes(LONG)

    assert isinstance(desk.outcomes[0], TooBusy)


async def test_a_body_that_comes_in_drops_loses_its_share_to_one_that_comes(until: Any) -> None:
    """It never stops, and would hold the only share for minutes."""
    budget = ByteBudget(LONG)
    reader = BodyReader(LONG, budget, timeout_s=10)
    async with reading(reader) as desk, desk.peer() as slow, desk.peer() as peer:
        slow.write(head(LONG) + PART)
        await until(lambda: budget.used)
        peer.write(head(LONG) + bytes(LONG))

        async def drip() -> None:
            while not desk.outcomes:
                slow.write(b"x")
                await asyncio.sleep(0.01)

        await drip()
        assert await desk.outcome(2) == bytes(LONG)

    assert isinstance(desk.outcomes[0], TooBusy)
    assert budget.used == LONG


async def test_bodies_that_never_get_as_far_as_a_share_hold_only_so_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body_pace, "ENOUGH_STARTED_BYTES", 3 * 1_000)
    monkeypatch.setattr(body_pace, "YOUNG_S", 0.05)
    reader = BodyReader(LONG, ByteBudget(5 * LONG))
    async with contextlib.AsyncExitStack() as stack:
        desk = await stack.enter_async_context(reading(reader))
        peers = [await stack.enter_async_context(desk.peer()) for _ in range(5)]
        for peer in peers:
            peer.write(head(LONG) + bytes(1_000))

        await desk.outcome(2)

        assert [type(each) for each in desk.outcomes] == [TooBusy] * 2
        for peer in peers:
            peer.write(bytes(LONG - 1_000))
        await desk.outcome(5)
    assert desk.outcomes[2:] == [bytes(LONG)] * 3


async def test_a_body_that_stalls_while_nobody_waits_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    monkeypatch.setattr(body_pace, "PATIENCE_S", 0.01)
    budget = ByteBudget(2 * LONG)
    async with reading(BodyReader(LONG, budget)) as desk, desk.peer() as slow:
        slow.write(head(LONG) + PART)
        await until(lambda: budget.used)
        async with desk.peer() as other:
            other.write(head(1) + b"x")
            assert await desk.outcome() == b"x"
        await asyncio.sleep(0.05)
        slow.write(bytes(LONG - len(PART)))

        assert await desk.outcome(2) == bytes(LONG)


async def test_no_share_goes_to_a_body_of_which_nothing_has_come() -> None:
    budget = ByteBudget(LONG)
    async with (
        reading(BodyReader(LONG, budget)) as desk,
        desk.peer() as silent,
        desk.peer() as peer,
    ):
        silent.write(head(LONG) + b"x")
        await silent.drain()
        peer.write(head(LONG) + bytes(LONG))

        assert await desk.outcome() == bytes(LONG)
