"""Bad weather between processes: one process of proxies, each a route with its own weather.

    python -m harness.proxy '{"seed": 1, "routes": [{"name": "s0", "kind": "http", ...}, ...]}'

Orders come in as JSON lines on standard input and are answered by a line each on standard
output: what was done to connections so far, by kind.  Two kinds of route:
- `http` knows requests: it loses, cuts short, delays and doubles whole requests and answers;
- `stream` knows bytes, as between servers and Redis: it breaks connections before or after
  bytes have passed or in the middle of them, and delays.
An `http` route may lead to several servers; as a load balancer does, it takes one at random for
each connection, and another when nobody listens there.
A request that is doubled goes out again on a connection of its own, to any of the servers,
and that answer is thrown away.  A route that is `split` keeps every connection and passes
nothing on.  What happens to which request is drawn from the seed.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

READ_BYTES = 64 * 1024
STREAM_LIMIT = 1024 * 1024
UPSTREAM_S = 40.0
"""How long a request may take: longer than any server holds one."""


class Gone(Exception):
    """The connection is to end here."""


TROUBLES = (Gone, OSError, EOFError, TimeoutError, asyncio.LimitOverrunError)


@dataclass(slots=True)
class Weather:
    """How likely each trouble is, per request or per piece of bytes."""

    lose_request: float = 0.0
    """The connection ends before anything is passed on."""
    lose_answer: float = 0.0
    """It is passed on, and the connection ends before the answer comes back."""
    cut_request: float = 0.0
    """A part of it is passed on, then both connections end."""
    cut_answer: float = 0.0
    """A part of the answer comes back, then the connection ends."""
    delay: float = 0.0
    double: float = 0.0
    longest_delay_s: float = 0.5


@dataclass(slots=True)
class Route:
    """One listening port and where it leads."""

    name: str
    kind: str
    listen: int
    to: Sequence[int]
    source: random.Random
    weather: Weather = field(default_factory=Weather)
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared while the route is split: connections stay, and nothing passes."""

    def draw(self) -> str:
        """What happens to the next request: the name of a trouble, or nothing."""
        drawn, weather = self.source.random(), self.weather
        for trouble in ("lose_request", "lose_answer", "cut_request", "cut_answer", "delay"):
            drawn -= getattr(weather, trouble)
            if drawn < 0:
                return trouble
        return "double" if drawn < weather.double else ""

    def delay_s(self) -> float:
        """How long to hold something up."""
        return self.source.uniform(0.05, self.weather.longest_delay_s)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two connections that make a passage."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    def of(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Side:
        """A side whose `send` returns only when the bytes are with the kernel."""
        writer.transport.set_write_buffer_limits(0)
        return cls(reader, writer)

    @classmethod
    async def to(cls, port: int) -> Side:
        """A new connection to a process of this machine."""
        return cls.of(*await asyncio.open_connection("127.0.0.1", port, limit=STREAM_LIMIT))

    async def send(self, data: bytes) -> None:
        """Pass bytes on."""
        self.writer.write(data)
        await self.writer.drain()

    def end(self) -> None:
        """End the connection at once, as a process that dies does."""
        self.writer.transport.abort()


class Proxy:
    """All routes of this process."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = {route.name: route for route in routes}
        self.troubles: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: list[asyncio.Server] = []

    async def stop(self) -> None:
        """Listen no more, and end every connection."""
        for server in self._listening:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def start(self) -> None:
        """Listen on every route."""
        for route in self._routes.values():

            async def accept(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, route: Route = route
            ) -> None:
                self._keep(self._serve(route, Side.of(reader, writer)))

            self._listening.append(
                await asyncio.start_server(accept, "127.0.0.1", route.listen, limit=STREAM_LIMIT)
            )

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def order(self, order: Mapping[str, Any]) -> dict[str, int]:
        """Change the weather of routes; what was done so far."""
        for name in order.get("routes", ()):
            route = self._routes[name]
            if "weather" in order:
                route.weather = Weather(**order["weather"])
            if order.get("split") is True:
                route.is_open.clear()
            elif order.get("split") is False:
                route.is_open.set()
        return dict(self.troubles)

    async def _serve(self, route: Route, near: Side) -> None:
        try:
            far = await self._connect(route)
        except OSError:
            near.end()
            return
        try:
            if route.kind == "http":
                while True:
                    await self._pass_request(route, near, far)
            await self._pass_bytes(route, near, far)
        except TROUBLES:
            pass  # whichever side broke, both end
        finally:
            near.end()
            far.end()

    async def _connect(self, route: Route) -> Side:
        """To one of the route's servers; OSError when none listens."""
        ports = route.source.sample(route.to, len(route.to))
        for port in ports[:-1]:
            with suppress(OSError):
                return await Side.to(port)
        return await Side.to(ports[-1])

    # -- requests ------------------------------------------------------------------------

    async def _pass_request(self, route: Route, near: Side, far: Side) -> None:
        request = await _next_request(near, far)
        trouble = await self._draw(route)
        if trouble == "lose_request":
            raise Gone
        if trouble == "cut_request":
            await far.send(_part(route, request))
            raise Gone
        if trouble == "delay":
            await asyncio.sleep(route.delay_s())
        if trouble == "double":
            self._double(route, request)
        await far.send(request)
        async with asyncio.timeout(UPSTREAM_S):
            answer = await _message(far.reader)
        await route.is_open.wait()
        if trouble == "lose_answer":
            raise Gone
        if trouble == "cut_answer":
            await near.send(_part(route, answer))
            raise Gone
        await near.send(answer)

    async def _draw(self, route: Route) -> str:
        await route.is_open.wait()
        trouble = route.draw()
        if trouble:
            self.troubles[f"{route.kind} {trouble}"] += 1
        return trouble

    def _double(self, route: Route, request: bytes) -> None:
        servers = [other for other in self._routes.values() if other.kind == "http"]
        target = route.source.choice(servers)
        self._keep(self._send_and_forget(target, request, route.delay_s()))

    async def _send_and_forget(self, route: Route, request: bytes, delay_s: float) -> None:
        """The second copy comes at once or later, and its answer is nobody's."""
        await asyncio.sleep(route.source.choice((0.0, delay_s)))
        with suppress(*TROUBLES):
            far = await self._connect(route)
            try:
                await far.send(request)
                async with asyncio.timeout(UPSTREAM_S):
                    await _message(far.reader)
            finally:
                far.end()

    # -- bytes ---------------------------------------------------------------------------

    async def _pass_bytes(self, route: Route, near: Side, far: Side) -> None:
        answers: list[str] = []
        pumps = [
            asyncio.create_task(self._pump_requests(route, near, far, answers)),
            asyncio.create_task(self._pump_answers(route, near, far, answers)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump_requests(self, route: Route, near: Side, far: Side, answers: list[str]) -> None:
        """Returns when the connection is to end; `answers` hears what to do with the next one."""
        while data := await near.reader.read(READ_BYTES):
            trouble = await self._draw(route)
            if trouble == "lose_request":
                return
            if trouble == "cut_request":
                await far.send(_part(route, data))
                return
            if trouble == "delay":
                await asyncio.sleep(route.delay_s())
            if trouble in ("lose_answer", "cut_answer"):
                answers.append(trouble)
            await far.send(data)

    async def _pump_answers(self, route: Route, near: Side, far: Side, answers: list[str]) -> None:
        while data := await far.reader.read(READ_BYTES):
            await route.is_open.wait()
            if answers:
                if answers[0] == "cut_answer":
                    await near.send(_part(route, data))
                return
            await near.send(data)


def _part(route: Route, data: bytes) -> bytes:
    """The beginning of it; all of it when it is a single byte."""
    return data[: route.source.randrange(1, max(2, len(data)))]


async def _next_request(near: Side, far: Side) -> bytes:
    """The next request, or Gone when the server ends the connection before there is one."""
    request = asyncio.create_task(_message(near.reader))
    ended = asyncio.create_task(far.reader.read(1))
    try:
        await asyncio.wait((request, ended), return_when=asyncio.FIRST_COMPLETED)
        if request.done():
            return request.result()
        raise Gone
    finally:
        request.cancel()
        ended.cancel()
        await asyncio.gather(request, ended, return_exceptions=True)


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One whole request or answer, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head + await reader.readexactly(length)


async def run(told: Mapping[str, Any]) -> None:
    """Be the proxies until standard input ends."""
    routes = [
        Route(**fields, source=random.Random(f"{told['seed']} {fields['name']}"))
        for fields in told["routes"]
    ]
    for route in routes:
        route.is_open.set()
    proxy = Proxy(routes)
    await proxy.start()
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    while line := await orders.readline():
        sys.stdout.write(json.dumps(proxy.order(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
