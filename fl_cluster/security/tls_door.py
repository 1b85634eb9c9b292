"""A listening port that speaks TLS, and says in one sentence why somebody could not come in.

Event loops keep failed handshakes to themselves, and drop the alert that would have told the
other end; so connections are accepted here, with their address, and handed to the loop's TLS.
Whoever speaks plain text is told so in HTTP, whoever is refused gets TLS's own alert.
Invariants: a handshake ends within `HANDSHAKE_S`, whatever comes; connections that have not
finished theirs are bounded, and it is the old that make room, so that those who go on come in;
the log has one line per host and reason in a minute.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from fl_cluster.security.anteroom import Anteroom, Caller, peek
from fl_cluster.security.tls_trouble import NOT_TLS, explain_incoming, has_given_up

logger = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
"""From being accepted to being let in."""

MOST_UNFINISHED = 1_000
"""Connections that are accepted and not let in, unless it is said otherwise."""

FEWEST_UNFINISHED = 64
"""So many may always try, however many were let in."""

HANDSHAKES_AT_ONCE = 256
"""Handshakes under way at a time, each with TLS's buffers: the others wait for their turn."""

PATIENCE_S = 1.0
"""A handshake on which nothing happens for so long is given up when another waits."""

SHORTEST_S = 0.05
"""What is left, at the least, to one whose turn comes late."""

SHUTDOWN_S = 1.0
BACKLOG = 1024
ACCEPTED_AT_ONCE = 256
RESPITE_S = 1.0
"""How long no connection is accepted after the process ran out of descriptors."""

SAID_AGAIN_S = 60.0
REMEMBERED = 1024

PLAIN_TEXT = b"This port speaks TLS: use https://\n"
ANSWER_TO_PLAIN_TEXT = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%s" % (len(PLAIN_TEXT), PLAIN_TEXT)
)

LEFT = (
    "it ended the connection when it had seen this server's certificate, as those do that trust"
    " another CA, asked for another host, or whose clock is off"
)


@dataclass(slots=True)
class _Attempt:
    """One handshake: who hears why it failed, and how far it came."""

    tell: Callable[[str], None]
    has_answered: bool = False
    """Whether our side has sent anything."""
    has_told: bool = False

    def explain(self, reason: str) -> None:
        """Tell why it failed, unless that was done."""
        if not self.has_told:
            self.has_told = True
            self.tell(reason)


@dataclass(slots=True, eq=False)
class _Entering:
    """A handshake under way, and when anything was last known to happen on it."""

    task: asyncio.Task[None]
    connection: socket.socket
    since: float


_attempt: ContextVar[_Attempt] = ContextVar("attempt")
"""The handshake that the current task began."""


class _Handshake(ssl.SSLObject):
    """A connection's TLS that lets its last words leave before it fails."""

    _has_failed = False
    # Not the error itself, which knows this object: the two would keep each other.

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> Any:
        # The standard library's own constructor; there is no public one.
        made = super()._create(incoming, outgoing, **options)  # type: ignore[misc]
        made._incoming, made._outgoing = incoming, outgoing  # noqa: SLF001 - of this class
        return made

    def do_handshake(self) -> None:
        """Go on with it; after a failure, wait for the other end to take notice."""
        if self._has_failed:
            self._incoming.read()
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "waiting for the other end")
        attempt = _attempt.get()
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            attempt.has_answered |= self._outgoing.pending > 0
            raise
        except ssl.SSLError as exc:
            attempt.explain(explain_incoming(exc))
            if has_given_up(exc):
                raise
            self._has_failed = True
            if exc.reason in NOT_TLS:
                self._outgoing.read()
                self._outgoing.write(ANSWER_TO_PLAIN_TEXT)
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "failed") from exc

    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO


class Complaints:
    """Logs why connections failed, each host's reason once in a while."""

    def __init__(self, port_name: str) -> None:
        self._port_name = port_name
        self._said: dict[tuple[str, str], float] = {}

    def add(self, host: str, reason: str) -> None:
        """Say it, unless that was done within the last minute."""
        now, key = time.monotonic(), (host, reason)
        if now - self._said.get(key, -SAID_AGAIN_S) < SAID_AGAIN_S:
            return
        self._said.pop(key, None)
        if len(self._said) >= REMEMBERED:
            del self._said[next(iter(self._said))]
        self._said[key] = now
        logger.warning("%s: refused a connection from %s: %s", self._port_name, host, reason)


class TlsDoor:
    """Accepts connections until it is closed."""

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext,
        *,
        most_unfinished: int,
        inside: Callable[[], int],
    ) -> None:
        context.sslobject_class = _Handshake
        self._make_protocol = make_protocol
        self._context = context
        self._most_unfinished = most_unfinished
        self._inside = inside
        self._most_entering = max(1, min(HANDSHAKES_AT_ONCE, most_unfinished // 2))
        self._accepted_at_once = max(1, min(ACCEPTED_AT_ONCE, most_unfinished // 4))
        self._anteroom = Anteroom(self._call_in)
        self._entering: dict[_Entering, None] = {}
        """Handshakes under way; the first are those of which nothing was heard for the longest."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._hurry: asyncio.TimerHandle | None = None
        self._complaints = Complaints("TLS")
        self.sockets: Sequence[socket.socket] = ()
        """Those that listen."""

    @property
    def unfinished(self) -> int:
        """Connections that are accepted and not let in yet."""
        return len(self._anteroom) + len(self._entering)

    @classmethod
    async def open(
        cls,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        place: tuple[str, int],
        context: ssl.SSLContext,
        *,
        most_unfinished: int = MOST_UNFINISHED,
        inside: Callable[[], int] = lambda: 0,
    ) -> TlsDoor:
        """Listen at host and port (0 picks one); an OSError says why that is not possible.

        `inside` says how many connections have been let in: so many fewer may be unfinished.
        """
        door = cls(make_protocol, context, most_unfinished=most_unfinished, inside=inside)
        door.sockets = await _listening(*place)
        host, port = door.sockets[0].getsockname()[:2]
        door._complaints = Complaints(f"TLS on {host}:{port}")
        for each in door.sockets:
            door._watch(each)
        return door

    def _watch(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(self._accepted_at_once):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._pause(listening, exc)
                return
            accepted.setblocking(False)
            places = self._places()
            while self.unfinished >= places:
                self._make_room()
            self._anteroom.admit(accepted, str(address[0]), HANDSHAKE_S)

    def _places(self) -> int:
        most = self._most_unfinished
        return max(most - self._inside(), min(most, FEWEST_UNFINISHED))

    def _make_room(self) -> None:
        """One unfinished connection less, or one step further.

        It is one of the most common kind: the others do not suffer for it.
        """
        room = self._anteroom
        shaking = len(self._entering) + len(room.ready)
        if shaking > max(len(room.silent), len(room.begun)):
            self._give_up(self._find_stalled())
        else:
            room.turn_away_one()

    def _pause(self, listening: socket.socket, fault: OSError) -> None:
        if fault.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
            raise fault
        if self._anteroom.silent or self._anteroom.begun:
            self._anteroom.turn_away_one()
            return
        logger.error("no connection is accepted for %g s: %s", RESPITE_S, fault.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(RESPITE_S, self._watch, listening)

    def _call_in(self) -> None:
        """Let those shake hands whose turn it is, and hurry the others while anybody waits."""
        loop = asyncio.get_running_loop()
        while len(self._entering) < self._most_entering:
            caller = self._anteroom.next()
            if caller is None:
                return
            task = loop.create_task(self._let_in(caller))
            entering = _Entering(task, caller.connection, loop.time())
            self._entering[entering] = None
            task.add_done_callback(functools.partial(self._finish, entering))
        if self._hurry is None and self._anteroom.ready:
            due = next(iter(self._entering)).since + PATIENCE_S
            self._hurry = loop.call_at(due, self._give_up_stalled)

    def _find_stalled(self) -> _Entering:
        """The handshake on which nothing has happened for the longest."""
        for entering in tuple(self._entering):
            if not self._has_news(entering):
                return entering
        return next(iter(self._entering))

    def _has_news(self, entering: _Entering) -> bool:
        """Whether it waits for us; if so, it has been heard of just now."""
        if peek(entering.connection) is None:
            return False
        del self._entering[entering]
        entering.since = asyncio.get_running_loop().time()
        self._entering[entering] = None
        return True

    def _give_up_stalled(self) -> None:
        now = asyncio.get_running_loop().time()
        self._hurry = None
        if not self._anteroom.ready:
            return
        for entering in [each for each in self._entering if now - each.since >= PATIENCE_S]:
            if not self._has_news(entering):
                self._give_up(entering)
        self._call_in()

    def _give_up(self, entering: _Entering) -> None:
        del self._entering[entering]
        self._leaving.add(entering.task)
        entering.task.cancel()
        self._call_in()

    def _finish(self, entering: _Entering, task: asyncio.Task[None]) -> None:
        self._entering.pop(entering, None)
        self._leaving.discard(task)
        if task.cancelled():  # before it began, or it would have closed it
            entering.connection.close()
        self._call_in()

    async def _let_in(self, caller: Caller) -> None:
        attempt = _Attempt(lambda reason: self._complaints.add(caller.host, reason))
        _attempt.set(attempt)
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._make_protocol,
                caller.connection,
                ssl=self._context,
                ssl_handshake_timeout=max(caller.until - loop.time(), SHORTEST_S),
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        except (OSError, asyncio.CancelledError) as exc:
            # Who went away at once has not tried to be served.
            if attempt.has_answered and isinstance(exc, ConnectionError):
                attempt.explain(LEFT)
            logger.debug("nobody came in from %s: %s", caller.host, exc)
            caller.connection.close()

    def close(self) -> None:
        """Accept nothing more; handshakes under way are given up."""
        loop = asyncio.get_running_loop()
        for each in self.sockets:
            loop.remove_reader(each)
            each.close()
        self._anteroom.close()
        if self._hurry is not None:
            self._hurry.cancel()
        for entering in self._entering:
            entering.task.cancel()


async def _listening(host: str, port: int) -> list[socket.socket]:
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    opened: list[socket.socket] = []
    try:
        for family, kind, protocol, _, place in dict.fromkeys(found):
            made = socket.socket(family, kind, protocol)
            opened.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(place)
            made.listen(BACKLOG)
            made.setblocking(False)
    except OSError:
        for made in opened:
            made.close()
        raise
    return opened
