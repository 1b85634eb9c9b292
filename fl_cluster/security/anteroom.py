"""Connections that have not yet said all it takes to be answered, kept as the sockets they are.

TLS costs memory, a third of a megabyte a connection, before a word of it is spoken; so nobody
gets to it before the whole of a first record is there.  Until then the system keeps what was
said, and a connection costs next to nothing.  Whoever speaks no TLS goes on at once, to be told.
Invariants: nobody stays longer than was allowed at the door; nothing is read, only looked at.
Not here: how many may wait, and who has to go when they are too many.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass

HANDSHAKE = b"\x16\x03"
"""How a record begins that begins a handshake."""

HEADER_BYTES = 5
LONGEST_RECORD = HEADER_BYTES + 16 * 1024


@dataclass(slots=True, eq=False)
class Caller:
    """A connection that waits."""

    connection: socket.socket
    host: str
    until: float
    """The loop's time when it has to be through."""
    expected: int = 1
    """Bytes that are to come before it is looked at again."""
    end: asyncio.TimerHandle | None = None


Crowd = dict[Caller, None]
"""Callers, those first who came to it first."""


def bytes_expected(said: bytes) -> int:
    """How much there will be of a connection that began so, when its first record is whole.

    Never more than was said when it is not TLS, or no record that anybody takes.
    """
    if not said.startswith(HANDSHAKE[: len(said)]):
        return 0
    if len(said) < HEADER_BYTES:
        return HEADER_BYTES
    length = HEADER_BYTES + int.from_bytes(said[3:HEADER_BYTES], "big")
    return length if length <= LONGEST_RECORD else 0


def peek(connection: socket.socket) -> bytes | None:
    """What was said and not read yet; None when nothing was, empty when nothing will be."""
    try:
        return connection.recv(LONGEST_RECORD, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:  # it was cut off
        return b""


class Anteroom:
    """Those who wait, by how far they came; `when_ready` is called when one more is ready."""

    def __init__(self, when_ready: Callable[[], None]) -> None:
        self._when_ready = when_ready
        self.silent: Crowd = {}
        self.begun: Crowd = {}
        """Some of their first record is there."""
        self.ready: Crowd = {}

    def __len__(self) -> int:
        return len(self.silent) + len(self.begun) + len(self.ready)

    def admit(self, connection: socket.socket, host: str, within_s: float) -> None:
        """Wait for what it says; it is closed when it is still here after `within_s`."""
        loop = asyncio.get_running_loop()
        caller = Caller(connection, host, loop.time() + within_s)
        caller.end = loop.call_later(within_s, self._turn_away, caller)
        self.silent[caller] = None
        loop.add_reader(connection, self._hear, caller)

    def next(self) -> Caller | None:
        """Take out the one that was ready last; nobody looks at it any more.

        When more come than can be served, whoever was served in turn would be served too late.
        """
        caller = next(reversed(self.ready), None)
        if caller is not None:
            self._forget(caller)
            if caller.expected > 1:
                _wake_at(caller.connection, 1)
        return caller

    def turn_away_one(self) -> None:
        """Close the oldest of the silent or of those that have begun, whichever are more.

        One of which there is news is heard instead.
        """
        crowd = self.silent if len(self.silent) >= len(self.begun) else self.begun
        caller = next(iter(crowd))
        said = peek(caller.connection)
        if said is not None and len(said) >= caller.expected:
            self._hear(caller)
        else:
            self._turn_away(caller)

    def close(self) -> None:
        """Close all of them."""
        for caller in (*self.silent, *self.begun, *self.ready):
            self._turn_away(caller)

    def _hear(self, caller: Caller) -> None:
        said = peek(caller.connection)
        if said is None:
            return
        if len(said) < caller.expected:  # and no more will come, or it would not be readable
            self._turn_away(caller)
            return
        expected = bytes_expected(said)
        self.silent.pop(caller, None)
        if expected > len(said):
            self.begun[caller] = None
            caller.expected = expected
            _wake_at(caller.connection, expected)
            return
        asyncio.get_running_loop().remove_reader(caller.connection)
        self.begun.pop(caller, None)
        self.ready[caller] = None
        self._when_ready()

    def _turn_away(self, caller: Caller) -> None:
        self._forget(caller)
        caller.connection.close()

    def _forget(self, caller: Caller) -> None:
        if caller.end is not None:
            caller.end.cancel()
        if caller not in self.ready:
            asyncio.get_running_loop().remove_reader(caller.connection)
        for crowd in (self.silent, self.begun, self.ready):
            crowd.pop(caller, None)


def _wake_at(connection: socket.socket, count: int) -> None:
    """Let the connection be readable when so many bytes are there, or no more will come."""
    # One that was cut off takes no options, and is readable.
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
