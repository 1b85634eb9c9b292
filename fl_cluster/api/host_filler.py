"""A `Host` for requests that come without one, wherever their bytes are cut.

The parser insists on it, as the standard does; the original never looked, and programs that
write their requests by hand leave it out.

Facts: a line can be added to a head as long as the empty line that ends it has not gone on, so
bytes are held up by one at most; where heads begin follows from the lengths of bodies.
Invariant: what goes on is what came, with `Host: none` added at the end of heads that name no
host.  Whatever leaves a doubt where a body ends, which the parser mostly refuses, passes as it
is, and so does all behind it: nothing is ever added to a body, and no proxy in front of us can
be made to see other requests than we do.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Final

HOST_LINE: Final = b"Host: none\r\n"

LONGEST_LINE: Final = 4096
"""Of those between chunks and behind the last one: longer ones are not followed."""

_FOREVER: Final = sys.maxsize
_HEAD_END: Final = b"\r\n\r\n"
_EMPTY_LINES: Final = re.compile(rb"[\r\n]*")
_TOLD: Final = re.compile(
    rb"\r\n(host|content-length|transfer-encoding|upgrade)[ \t]*:[ \t]*([^\r\n]*)"
)
"""In lower case: looking for either case takes three times as long."""

_CHUNK: Final = re.compile(rb"([0-9a-f]{1,15})(?:[ \t]*;[^\r\n]*)?\r\n", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")


class HostFiller:
    """What one connection brings, on its way to the parser.

    A head of more than `most_bytes` is not followed.
    """

    __slots__ = ("_begun", "_held", "_left", "_most_bytes", "_read")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._left = 0
        """How many bytes pass without a look."""
        self._begun = bytearray()
        """What has come of a head, or of a line between chunks."""
        self._held = b""
        self._read: Callable[[HostFiller, bytes, int, list[int]], int]
        self._read = HostFiller._read_head

    def fill(self, data: bytes) -> bytes:
        """What is to go on now that `data` has come; it may be nothing."""
        if len(data) <= self._left:
            self._left -= len(data)
            return data
        data = self._held + data
        self._held = b""
        gaps: list[int] = []
        at = 0
        while at < len(data):
            if self._left:
                passed = min(self._left, len(data) - at)
                self._left -= passed
                at += passed
            else:
                at = self._read(self, data, at, gaps)
        if self._held:
            data = data[:-1]
        if not gaps:
            return data
        return HOST_LINE.join(data[one:other] for one, other in pairwise([0, *gaps, len(data)]))

    def _read_head(self, data: bytes, at: int, gaps: list[int]) -> int:
        """Where to go on; a gap is where the head's last line ends, if it names no host."""
        begun = self._begun
        if not begun:
            match = _EMPTY_LINES.match(data, at)
            at = at if match is None else match.end()
            end = data.find(_HEAD_END, at)
            head = data[at : end + 2] if end >= 0 else b""
        if begun or not head:
            before = len(begun)
            begun += data[at:]
            end = begun.find(_HEAD_END, max(0, before - 3))
            if end < 0:
                return self._wait_for_more(len(data))
            head = bytes(begun[: end + 2])
            begun.clear()
            end += at - before
        if not self._follow(head):
            gaps.append(end + 2)
        return end + len(_HEAD_END)

    def _wait_for_more(self, end: int) -> int:
        """Let a head that is not complete go on, but for what may begin the line that ends it."""
        if self._begun.endswith(_HEAD_END[:3]):
            self._begun.pop()
            self._held = b"\r"
        if len(self._begun) > self._most_bytes:
            self._give_up()
        return end

    def _follow(self, head: bytes) -> bool:
        """Take note of what comes behind a head; False when it lacks a host."""
        found = _TOLD.findall(head.lower())
        told = {name: value.rstrip(b" \t") for name, value in found}
        is_odd = len(told) < len(found) or b"\r\n " in head or b"\r\n\t" in head
        if is_odd or not head.count(b"\r") == head.count(b"\n") == head.count(b"\r\n"):
            self._give_up()
            return True
        length = told.get(b"content-length", b"0")
        coding = told.get(b"transfer-encoding")
        if b"upgrade" in told or head.startswith(b"CONNECT "):
            self._give_up()
        elif coding is None and _LENGTH.fullmatch(length):
            self._left = int(length)
        elif coding == b"chunked" and b"content-length" not in told:
            self._read = HostFiller._read_chunk
        else:
            self._give_up()
        return b"host" in told or not head.partition(b"\r\n")[0].endswith(b" HTTP/1.1")

    def _read_chunk(self, data: bytes, at: int, _: list[int]) -> int:
        """The line before a chunk."""
        end = self._read_line(data, at)
        if self._begun.endswith(b"\n"):
            fit = _CHUNK.fullmatch(self._begun)
            size = -1 if fit is None else int(fit[1], 16)
            self._begun.clear()
            if size < 0:
                self._give_up()
            elif size:
                self._left = size + len(b"\r\n")
            else:
                self._read = HostFiller._read_trailer
        return end

    def _read_trailer(self, data: bytes, at: int, _: list[int]) -> int:
        """A line behind the last chunk; an empty one is the end."""
        end = self._read_line(data, at)
        if self._begun.endswith(b"\n"):
            if self._begun == b"\r\n":
                self._read = HostFiller._read_head
            elif not self._begun.endswith(b"\r\n"):
                self._give_up()
            self._begun.clear()
        return end

    def _read_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at) + 1 or len(data)
        self._begun += data[at:end]
        if len(self._begun) > LONGEST_LINE:
            self._give_up()
        return end

    def _give_up(self) -> None:
        """From here on everything passes as it is."""
        self._begun.clear()
        self._left = _FOREVER
