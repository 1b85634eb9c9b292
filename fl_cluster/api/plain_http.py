"""HTTP as both planes speak it: an exact table of paths, and answers of our own making.

The device plane and the management plane share this dispatch: it decides path and method,
maps faults in one place, and drains.  Answers are rendered here, byte for byte as devices and
old tools know them: no `Server` header, a fixed order, head and body in one write.
Invariants: whatever a handler does, a request gets an answer or its connection ends; only
`FlClusterError` is mapped by meaning, anything else is logged with its traceback and answered
by the plane's generic answer.  Header bytes, header count, idle time and the number of
connections are bounded.
Not here: what the paths mean, bodies and their limits, TLS settings.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import html
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http import HttpVersion11

from fl_cluster.api.host_filler import HostFiller
from fl_cluster.errors import FlClusterError, StartupError
from fl_cluster.security.tls_door import Complaints, TlsDoor
from fl_cluster.telemetry.processes import describe_listener

if TYPE_CHECKING:
    import ssl

    from aiohttp.abc import AbstractStreamWriter

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE"})
"""Passed on without a look; every other method is answered 501, as the original does."""

DEVICE_TYPE = "text/html; charset=ISO-8859-1"
"""What devices have always been told, also for binary answers; the explicit charset keeps
clients that look at the text first from guessing one over a whole model."""

HEADER_BYTES = 132 * 1024
"""Largest request line or header: the original takes 128 KiB headers, and a name beside."""

HEAD_BYTES = 1024 * 1024
"""Largest request line and headers together, counted in whole reads of the socket: many
long headers must not add up."""

SWEEP_SECONDS = 1.0
"""How often connections are looked over for a request head that comes too slowly."""

SLOWEST_READER_BYTES_PER_S = 16 * 1024
READER_GRACE_S = 30.0
"""An answer that is taken more slowly, after this grace, is given up: it holds a connection."""

FLUSH_SECONDS = 0.2
"""How long a draining server waits for finished answers to leave."""

BACKLOG = 1024
JOINED_BODY_BYTES = 64 * 1024
"""Up to here copying a body behind its head is cheaper than a second write."""

log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


class Answer(web.StreamResponse):
    """One complete answer; `body` is sent as it is and may be shared by many answers.

    `headers` come first, then Date and Content-Length, then Content-Type unless `headers`
    has one: the order in which the original writes them.  An HTTP/1.0 request without
    keep-alive gets neither Date nor Content-Length, also as there.
    """

    has_body_for_head = True
    """HEAD is answered with the body, as the original does; only closing the connection keeps
    a client from taking that body for its next answer."""

    def __init__(
        self,
        body: bytes | memoryview,
        *,
        status: int = 200,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str = DEVICE_TYPE,
    ) -> None:
        super().__init__(status=status, reason=reason or HTTPStatus(status).phrase)
        self.payload = body
        self._first = headers or {}
        self._type = "" if "Content-Type" in self._first else content_type
        self._outlet: AbstractStreamWriter | None = None
        self._on_end: Callable[[bool], None] | None = None
        self._head = b""

    def _render_head(self, request: web.BaseRequest) -> bytes:
        keep_alive = bool(self._keep_alive)
        modern = request.version >= HttpVersion11
        parts = [f"HTTP/1.{1 if modern else 0} {self.status} {self.reason}\r\n"]
        parts += [f"{name}: {value}\r\n" for name, value in self._first.items()]
        if modern:
            parts.append(f"Date: {_date(int(time.time()))}\r\n")
        elif keep_alive:
            parts.append("Connection: keep-alive\r\n")
        has_length = not self._answers_head(request) and self.status != HTTPStatus.NOT_MODIFIED
        if (modern or keep_alive) and has_length:
            parts.append(f"Content-Length: {len(self.payload)}\r\n")
        if self._type and self.payload:
            parts.append(f"Content-Type: {self._type}\r\n")
        if modern and not keep_alive and "Connection" not in self._first:
            parts.append("Connection: close\r\n")
        parts.append("\r\n")
        return "".join(parts).encode("latin-1", "replace")

    def _answers_head(self, request: web.BaseRequest) -> bool:
        return request.method == "HEAD" and self.has_body_for_head

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Fix the head; nothing is sent yet, so that head and body leave together."""
        if self._keep_alive is None:
            self._keep_alive = (
                request.keep_alive
                and not self._answers_head(request)
                and self._first.get("Connection") != "close"
            )
        self._head = self._render_head(request)
        if request.method == "HEAD" and not self.has_body_for_head:
            self.payload = b""
        self._outlet = request.writer
        return self._outlet

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the answer; `data` is there for the base class and stays empty."""
        outlet = self._outlet
        if outlet is None:
            return
        self._outlet = None
        has_left = False
        try:
            if len(self.payload) <= JOINED_BODY_BYTES:
                await outlet.write_eof(b"".join((self._head, self.payload, data)))
            else:
                await self._write_large(outlet)
            transport = outlet.transport
            has_left = transport is not None and not transport.is_closing()
        finally:
            # The connection keeps its last answer until it makes the next one.
            self.payload = b""
            if self._on_end is not None:
                self._on_end(has_left)

    async def _write_large(self, outlet: AbstractStreamWriter) -> None:
        allowed_s = READER_GRACE_S + len(self.payload) / SLOWEST_READER_BYTES_PER_S
        try:
            async with asyncio.timeout(allowed_s):
                await outlet.write(self._head)
                await outlet.write(self.payload)
                await outlet.write_eof()
        except TimeoutError:
            if outlet.transport is not None:
                outlet.transport.abort()
            raise ConnectionResetError("the answer was taken too slowly") from None

    def when_over(self, tell: Callable[[bool], None]) -> None:
        """Call `tell` once with whether the answer has left for the network."""
        self._on_end = tell


class _MalformedAnswer(Answer):
    """The 400 page: the request line was unreadable, so its version is not the client's."""

    def _render_head(self, request: web.BaseRequest) -> bytes:
        head = super()._render_head(request)
        date = f"Date: {_date(int(time.time()))}\r\nContent-Length: {len(self.payload)}\r\n\r\n"
        return head.replace(b"HTTP/1.0", b"HTTP/1.1", 1)[:-2] + date.encode()


PAGE_HEADERS = {"Content-Type": "text/html", "Connection": "close"}


def _short_page(title: str, heading: str) -> bytes:
    return (
        f"<HTML><HEAD>\n<TITLE>{title}</TITLE>\n</HEAD><BODY>\n<H1>{heading}</H1>\n</BODY></HTML>\n"
    ).encode()


MALFORMED_PAGE = _short_page("400 Bad Request", "Bad Request")
UNKNOWN_METHOD_PAGE = _short_page("501 Not Implemented", "Not Implemented")


def malformed() -> Answer:
    """The page for a request that is not HTTP; the connection closes behind it."""
    return _MalformedAnswer(MALFORMED_PAGE, status=400, headers=PAGE_HEADERS)


def unknown_method() -> Answer:
    """The page for a method outside `METHODS`; the connection closes behind it."""
    return Answer(UNKNOWN_METHOD_PAGE, status=501, headers=PAGE_HEADERS)


def unknown_path(request: web.BaseRequest) -> Answer:
    """The page for a path nobody serves; the connection closes behind it."""
    path = html.escape(request.raw_path).replace("&#x27;", "&#039;")
    page = (
        "<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1>"
        f"<p>The requested URL {path} was not found on this server.</p></body></html>\n"
    )
    return Answer(page.encode("utf-8", "surrogateescape"), status=404, headers=PAGE_HEADERS)


def json_answer(body: bytes) -> Answer:
    """A success of the management plane; its reason phrase is `Client`, as it always was."""
    return Answer(body, reason="Client", headers={"Content-Type": "application/json"})


def json_refusal(text: str, *, status: int = 400) -> Answer:
    """A refusal with a sentence: `{"code":"1","error_message":...}`, typed as HTML as ever."""
    import json

    body = json.dumps({"code": "1", "error_message": text}, separators=(",", ":"))
    return Answer(body.encode(), status=status, reason="Client")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on connections.

    When one more than `connections` comes, the oldest idle one is closed to make room; when
    none is idle, the new one is told so and closed.

    `idle_s` is longer than the minute that load balancers keep theirs, so that they are the
    ones to close and never meet a connection that is closing.
    """

    connections: int = 10_000
    header_s: float = 10.0
    idle_s: float = 75.0


@dataclass(frozen=True, slots=True)
class Plane:
    """What one listening address serves.

    `routes` maps the exact path, without query, to its handler; `folders` maps a path without
    its last part, for what has many names, and is asked when no route fits.  `on_fault` answers
    what a handler raised on purpose, `on_bug` what it did not.
    """

    routes: Mapping[str, Handler]
    on_fault: Callable[[web.BaseRequest, FlClusterError], web.StreamResponse]
    on_bug: Callable[[web.BaseRequest], web.StreamResponse]
    limits: Limits = field(default_factory=Limits)
    folders: Mapping[str, Handler] = field(default_factory=dict)


class _Link(web.RequestHandler):
    """One connection, with our page for what is not HTTP and our bounds on request heads."""

    __slots__ = ("_head_bytes", "_head_since", "_host_filler", "_plain_server", "_request")

    def __init__(self, server: PlainServer, **options: Any) -> None:
        self._plain_server = server
        self._request: web.BaseRequest | None = None
        self._head_since: float | None = None
        self._head_bytes = 0
        self._host_filler = HostFiller(HEAD_BYTES)
        super().__init__(server, **options)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._plain_server.is_full() and not self._plain_server.make_room(self):
            cast(asyncio.Transport, transport).write(FULL)  # uvloop's are no subclass
            self.force_close()

    def data_received(self, data: bytes) -> None:
        request = self._request
        # Without data it is the parser that is told to go on with what it has.
        if data and (request is None or request.content.is_eof()):
            if data.startswith(TLS_HELLO) and request is None:
                self._plain_server.note_tls(self.transport)
                self.force_close()
                return
            if self._head_since is None:
                self._head_since = time.monotonic()
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.force_close()
                return
        if not data or (data := self._host_filler.fill(data)):
            super().data_received(data)

    def take_up(self, request: web.BaseRequest) -> None:
        """A request's head is complete, and its turn has come."""
        self._request = request
        self._head_since = None
        self._head_bytes = 0

    @property
    def has_begun(self) -> bool:
        """Whether some of the next request has come."""
        return self._head_since is not None

    def is_head_overdue(self, now: float, allowed_s: float) -> bool:
        """Whether the head of the next request began more than `allowed_s` ago."""
        return self._head_since is not None and now - self._head_since > allowed_s

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The page for a request that cannot be parsed: what handlers raise is mapped before."""
        if isinstance(exc, ConnectionError):
            raise exc  # the peer went away inside its request: nothing to answer, nothing to log
        if status != HTTPStatus.BAD_REQUEST:
            return super().handle_error(request, status, exc, message)
        log.debug("malformed request from %s: %s", request.remote, message)
        return malformed()


TLS_HELLO = b"\x16\x03"
"""How every connection begins that speaks TLS."""

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n"
    b"Connection: close\r\n\r\n"
)


def _acknowledge(request: web.BaseRequest) -> None:
    """Let the peer know at once that the head has come, for it may send no body before it does.

    A peer that writes head and body by turns, and whose system gathers small packets, waits
    for the acknowledgement, which ours would otherwise put off for 40 ms.
    """
    accepted = request.get_extra_info("socket")
    is_tcp = accepted is not None and accepted.family in (socket.AF_INET, socket.AF_INET6)
    if is_tcp and hasattr(socket, "TCP_QUICKACK"):
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class PlainServer(web.Server):
    """Turns connections into calls of a plane's handlers; made and used on one event loop."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.draining = False
        self._open = 0
        self._busy: set[object] = set()
        self._leaving: set[object] = set()
        """Closed by us, and not gone yet."""
        self._quiet = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None
        self._complaints = Complaints("plain HTTP")
        self._options: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "keepalive_timeout": plane.limits.idle_s,
            "access_log": None,
            "max_line_size": HEADER_BYTES,
            "max_field_size": HEADER_BYTES,
            "auto_decompress": False,
            "logger": log,
        }
        super().__init__(self._dispatch)

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection; asyncio calls this."""
        if self._sweeper is None:
            self._sweep()
        return _Link(self, **self._options)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection in."""
        self._open += 1
        super().connection_made(handler, transport)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Count a connection out."""
        self._open -= 1
        self._leaving.discard(handler)
        super().connection_lost(handler, exc)

    def note_tls(self, transport: asyncio.BaseTransport | None) -> None:
        """Say that somebody spoke TLS to this port, which does not."""
        peer = transport.get_extra_info("peername") if transport is not None else None
        host = str(peer[0]) if peer else "somebody"
        self._complaints.add(host, "it speaks TLS, and this port does not: http:// is meant")

    def count_open(self) -> int:
        """How many connections are open."""
        return self._open

    def is_full(self) -> bool:
        """Whether the connections open now are more than the plane allows."""
        return self._open - len(self._leaving) > self.plane.limits.connections

    def make_room(self, newcomer: _Link) -> bool:
        """Close the oldest connection on which nothing happens; False when there is none."""
        for link in self.connections:
            assert isinstance(link, _Link)
            is_idle = not (link is newcomer or link in self._busy or link in self._leaving)
            if is_idle and not link.has_begun:
                self._leaving.add(link)
                link.force_close()
                return True
        return False

    def _sweep(self) -> None:
        now, allowed_s = time.monotonic(), self.plane.limits.header_s
        for link in self.connections:
            assert isinstance(link, _Link)
            if link not in self._busy and link.is_head_overdue(now, allowed_s):
                link.force_close()
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep)

    def _find(self, request: web.BaseRequest) -> Handler | None:
        routes, path = self.plane.routes, request.raw_path.partition("?")[0]
        handler = routes.get(path)
        if handler is None:  # an escape, or the absolute form of the target
            path = request.rel_url.path
            handler = routes.get(path)
        return handler or self.plane.folders.get(path.rpartition("/")[0])

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        link = request.protocol
        assert isinstance(link, _Link)
        link.take_up(request)
        if request.method not in METHODS:
            return unknown_method()
        handler = self._find(request)
        if handler is None:
            return unknown_path(request)
        self._busy.add(link)
        if not request.content.is_eof():
            _acknowledge(request)
        try:
            if "Expect" in request.headers:
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            answer = await handler(request)
        except FlClusterError as fault:
            answer = self.plane.on_fault(request, fault)
        except web.RequestPayloadError:
            answer = malformed()
        except ConnectionError:
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            answer = self.plane.on_bug(request)
        finally:
            self._busy.discard(link)
        if self.draining:
            answer.force_close()
            if not self._busy:
                self._quiet.set()
        return answer

    async def drain(self, *, timeout_s: float) -> None:
        """Close what is idle, let running requests finish within `timeout_s`, close the rest.

        The listening socket is the caller's and closed before, so nothing new arrives.
        """
        self.draining = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for link in self.connections:
            if link not in self._busy:
                link.force_close()
        try:
            async with asyncio.timeout(timeout_s):
                while self._busy:
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            log.warning("%d requests were cut off when the drain ended", len(self._busy))
        await self.shutdown(timeout=FLUSH_SECONDS)


@dataclass(slots=True)
class Listener:
    """An open address and the server behind it."""

    host: str
    port: int
    server: PlainServer
    _socket: asyncio.Server | TlsDoor
    _closed: bool = field(default=False)

    @property
    def address(self) -> str:
        """`ip:port` as bound, also when port 0 was asked for."""
        return _address(self.host, self.port)

    async def close(self, *, drain_s: float = 0.5) -> None:
        """Stop accepting at once, then drain; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._socket.close()
        await self.server.drain(timeout_s=drain_s)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def listen(
    plane: Plane, host: str, port: int, *, tls: ssl.SSLContext | None = None
) -> Listener:
    """Serve `plane` on `host:port` (0 picks a port); `StartupError` names who holds it."""
    server = PlainServer(plane)
    loop = asyncio.get_running_loop()
    try:
        opened: asyncio.Server | TlsDoor
        if tls is None:
            opened = await loop.create_server(
                server, host, port, backlog=BACKLOG, reuse_address=True
            )
        else:
            most = plane.limits.connections
            opened = await TlsDoor.open(
                server, (host, port), tls, most_unfinished=most, inside=server.count_open
            )
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            holder = describe_listener(host, port)
            raise StartupError(f"{_address(host, port)} is already in use by {holder}") from exc
        reason = exc.strerror or exc
        raise StartupError(f"cannot listen on {_address(host, port)}: {reason}") from exc
    bound = opened.sockets[0].getsockname()
    return Listener(host, bound[1], server, opened)
