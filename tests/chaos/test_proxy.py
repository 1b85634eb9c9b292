"""The weather between processes does what it is called."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
from harness.proxy import Proxy, Route, Weather

REQUEST = b"POST /updateModel HTTP/1.1\r\nContent-Length: 40\r\n\r\n" + b"u" * 40
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n" + b"a" * 400


class Server:
    """Answers whole requests, and remembers everything that came."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.port = 0

    @property
    def whole(self) -> int:
        """How many whole requests came."""
        return sum(data.count(REQUEST) for data in self.received)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = len(self.received)
        self.received.append(b"")
        while data := await reader.read(65536):
            self.received[place] += data
            if self.received[place].endswith(REQUEST):
                writer.write(ANSWER)
                await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()


Open = Callable[..., Awaitable[tuple[Proxy, Route]]]


@pytest.fixture
async def open_proxy(free_port: Callable[[], int]) -> AsyncIterator[Open]:
    """Starts proxies of one route each."""
    started: list[Proxy] = []

    async def start(kind: str, weather: Weather, *ports: int) -> tuple[Proxy, Route]:
        route = Route("r", kind, free_port(), ports, random.Random(1), weather)
        route.is_open.set()
        started.append(Proxy([route]))
        await started[-1].start()
        return started[-1], route

    yield start
    for proxy in started:
        await proxy.stop()


async def ask(route: Route) -> bytes:
    """Send one request; what came back until the end, or the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", route.listen)
    writer.write(REQUEST)
    received = b""
    with suppress(ConnectionResetError):
        while len(received) < len(ANSWER) and (data := await reader.read(65536)):
            received += data
    writer.close()
    with suppress(ConnectionResetError):
        await writer.wait_closed()
    return received


@pytest.mark.parametrize("kind", ["http", "stream"])
async def test_in_good_weather_everything_passes(
    kind: str, server: Server, open_proxy: Open
) -> None:
    _, route = await open_proxy(kind, Weather(), server.port)

    assert await ask(route) == ANSWER
    assert server.whole == 1


@pytest.mark.parametrize("kind", ["http", "stream"])
async def test_a_lost_request_reaches_nobody(kind: str, server: Server, open_proxy: Open) -> None:
    _, route = await open_proxy(kind, Weather(lose_request=1.0), server.port)

    assert await ask(route) == b""
    assert b"".join(server.received) == b""


@pytest.mark.parametrize("kind", ["http", "stream"])
async def test_a_lost_answer_is_to_a_request_that_was_heard(
    kind: str, server: Server, open_proxy: Open
) -> None:
    _, route = await open_proxy(kind, Weather(lose_answer=1.0), server.port)

    assert await ask(route) == b""
    assert server.whole == 1


@pytest.mark.parametrize("kind", ["http", "stream"])
async def test_a_request_that_was_cut_is_heard_in_part(
    kind: str, server: Server, open_proxy: Open
) -> None:
    _, route = await open_proxy(kind, Weather(cut_request=1.0), server.port)

    assert await ask(route) == b""
    assert server.whole == 0
    assert 0 < len(b"".join(server.received)) < len(REQUEST)


@pytest.mark.parametrize("kind", ["http", "stream"])
async def test_an_answer_that_was_cut_comes_in_part(
    kind: str, server: Server, open_proxy: Open
) -> None:
    _, route = await open_proxy(kind, Weather(cut_answer=1.0), server.port)

    received = await ask(route)

    assert ANSWER.startswith(received)
    assert 0 < len(received) < len(ANSWER)
    assert server.whole == 1


async def test_a_doubled_request_is_heard_twice_and_answered_once(
    server: Server, open_proxy: Open
) -> None:
    _, route = await open_proxy("http", Weather(double=1.0, longest_delay_s=0.06), server.port)

    assert await ask(route) == ANSWER
    async with asyncio.timeout(5):
        while server.whole < 2:
            await asyncio.sleep(0.01)
    assert len(server.received) == 2


async def test_a_balancer_passes_over_servers_that_are_down(
    server: Server, open_proxy: Open, free_port: Callable[[], int]
) -> None:
    _, route = await open_proxy("http", Weather(), free_port(), free_port(), server.port)

    for _ in range(5):
        assert await ask(route) == ANSWER
    assert server.whole == 5


async def test_a_split_route_keeps_everything_to_itself(server: Server, open_proxy: Open) -> None:
    proxy, route = await open_proxy("stream", Weather(), server.port)
    proxy.order({"routes": ["r"], "split": True})
    reader, writer = await asyncio.open_connection("127.0.0.1", route.listen)
    writer.write(REQUEST)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    proxy.order({"routes": ["r"], "split": False})

    assert await reader.readexactly(len(ANSWER)) == ANSWER
    writer.close()
