"""A load generator that is not the bottleneck: prebuilt bytes, raw sockets, one epoll loop.

Requests are lists of buffers that are sent as they are; nothing is encoded, copied or hashed
while the clock runs, and devices share the buffers in which they do not differ.
It understands as much HTTP as our servers speak: keep-alive and Content-Length.
What it uses itself is measured by whoever runs it, as for every other process.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
SILENCE_SECONDS = 60.0
MOST_BUFFERS = 64


Judge = Callable[[memoryview], int]


class LoadError(Exception):
    """The servers did something that makes the measurement meaningless."""


class ClosedError(LoadError):
    """A server closed a connection."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as buffers in order; `server` pins it to one, None lets any take it."""

    parts: tuple[bytes | memoryview, ...]
    server: int | None = None
    keep: bool = False
    """Whether the answer's body is wanted, and not only what `judge` says of it."""


@dataclass(slots=True)
class Answer:
    """What came back, and when, in seconds of `time.perf_counter`."""

    request: Request
    sent_at: float
    answered_at: float
    status: int
    code: int
    """What the load's `judge` read from the body."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Phase:
    """The answers in the order in which they came."""

    answers: Sequence[Answer]
    seconds: float
    """From the first byte sent to the last answer."""


class _Connection:
    """One keep-alive connection; busy from the start of a request to the end of its answer."""

    def __init__(self, address: tuple[str, int], server: int, judge: Judge) -> None:
        self.server = server
        self._judge = judge
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.request: Request | None = None
        self._unsent: deque[memoryview] = deque()
        self._buffer = bytearray(1 << 16)
        self._filled = 0
        self._body_start = 0
        self._total = 0
        self._sent_at = 0.0

    def start(self, request: Request) -> bool:
        """Begin to send; whether everything was taken at once."""
        self.request = request
        self._unsent = deque(memoryview(part) for part in request.parts)
        self._filled = self._total = 0
        self._sent_at = time.perf_counter()
        return self.send()

    def send(self) -> bool:
        """Send what the socket takes; whether nothing is left."""
        unsent = self._unsent
        while unsent:
            try:
                count = self.socket.sendmsg(
                    [unsent[i] for i in range(min(len(unsent), MOST_BUFFERS))]
                )
            except BlockingIOError:
                return False
            while unsent and count >= len(unsent[0]):
                count -= len(unsent.popleft())
            if count:
                unsent[0] = unsent[0][count:]
        return True

    def receive(self) -> Answer | None:
        """Take what has come; the answer once it is whole."""
        while True:
            if self._filled == len(self._buffer):
                self._buffer.extend(bytes(len(self._buffer)))
            with memoryview(self._buffer) as view:
                try:
                    count = self.socket.recv_into(view[self._filled :])
                except BlockingIOError:
                    return None
                except ConnectionError:
                    count = 0
            if count == 0:
                raise ClosedError(f"a server closed a connection after {self._filled} bytes")
            self._filled += count
            if not self._total and not self._read_head():
                continue
            if self._filled >= self._total:
                return self._answer()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            return False
        length = CONTENT_LENGTH.search(self._buffer, 0, end)
        if length is None:
            raise LoadError(f"an answer without Content-Length: {bytes(self._buffer[:end])!r}")
        self._body_start = end + 4
        self._total = self._body_start + int(length[1])
        if len(self._buffer) < self._total:
            self._buffer.extend(bytes(self._total - len(self._buffer)))
        return True

    def _answer(self) -> Answer:
        assert self.request is not None
        if self._filled > self._total:
            raise LoadError("more bytes than the answer has")
        with memoryview(self._buffer)[self._body_start : self._total] as body:
            answer = Answer(
                self.request,
                self._sent_at,
                time.perf_counter(),
                int(self._buffer[9:12]),
                self._judge(body),
                bytes(body) if self.request.keep else b"",
            )
        self.request = None
        return answer


class Load:
    """A fixed number of connections, spread over the servers, kept open between phases."""

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        connections: int,
        judge: Judge,
        *,
        reconnects: bool = False,
    ) -> None:
        """With `reconnects`, what was under way on a closed connection is sent again."""
        self._addresses = addresses
        self._judge = judge
        self._reconnects = reconnects
        self._epoll = select.epoll()
        self._connections = {
            each.socket.fileno(): each
            for each in (
                _Connection(addresses[i % len(addresses)], i % len(addresses), judge)
                for i in range(connections)
            )
        }
        for descriptor in self._connections:
            self._epoll.register(descriptor, select.EPOLLIN)

    def close(self) -> None:
        """Close all connections."""
        self._epoll.close()
        for connection in self._connections.values():
            connection.socket.close()

    def run(self, requests: Iterable[Request]) -> Phase:
        """Send every request once, as many at a time as there are connections."""
        waiting = deque(requests)
        wanted = len(waiting)
        answers: list[Answer] = []
        start = time.perf_counter()
        for connection in list(self._connections.values()):
            self._next(connection, waiting)
        while len(answers) < wanted:
            events = self._epoll.poll(SILENCE_SECONDS)
            if not events:
                raise LoadError(f"no server said anything for {SILENCE_SECONDS:.0f} s")
            for descriptor, event in events:
                connection = self._connections[descriptor]
                try:
                    answer = self._go_on(connection, event)
                except (ClosedError, ConnectionError):
                    if not self._reconnects:
                        raise
                    if connection.request is not None:
                        waiting.append(connection.request)
                    connection = self._reconnect(descriptor, connection)
                    self._next(connection, waiting)
                    continue
                if answer is not None:
                    answers.append(answer)
                    self._next(connection, waiting)
        return Phase(answers, time.perf_counter() - start)

    def _go_on(self, connection: _Connection, event: int) -> Answer | None:
        if event & select.EPOLLOUT and connection.send():
            self._epoll.modify(connection.socket, select.EPOLLIN)
        return connection.receive() if event & ~select.EPOLLOUT else None

    def _reconnect(self, descriptor: int, connection: _Connection) -> _Connection:
        self._epoll.unregister(descriptor)
        del self._connections[descriptor]
        connection.socket.close()
        again = _Connection(self._addresses[connection.server], connection.server, self._judge)
        self._connections[again.socket.fileno()] = again
        self._epoll.register(again.socket, select.EPOLLIN)
        return again

    def _next(self, connection: _Connection, waiting: deque[Request]) -> None:
        for _ in range(len(waiting)):
            request = waiting.popleft()
            if request.server in (None, connection.server):
                if not connection.start(request):
                    self._epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)
                return
            waiting.append(request)
