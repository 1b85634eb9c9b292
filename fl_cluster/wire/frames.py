"""The control link's frames: bytes <-> what a scheduler and a server say to each other.

    frame = "FL" | version, 1 byte | length, 4 bytes big-endian | payload: one msgpack map

The map's `kind` names the class below in lower case; the other keys are its fields.  Keys
that are not known are passed over, so that a later release can say more in the same version.
Pure: whoever has a connection feeds what came, cut anywhere, and asks for the next frame.
Invariants: any bytes are frames or a PeerProtocolError, which frames come out does not depend
on where the bytes were cut, and no more than one frame and one chunk is ever held.
Not here: who speaks first, deadlines, what a command does (service.link).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgpack

from fl_cluster.errors import CallerProtocolError, PeerProtocolError

VERSION: Final = 1
MAGIC: Final = b"FL"
"""First, so that whoever connects by mistake is known by the first byte."""

MAX_PAYLOAD_BYTES: Final = 64 * 1024
MAX_NAME_BYTES: Final = 512
"""Ids are some 60 bytes: an address, an instant and a number; names of commands are words."""
MAX_TEXT_BYTES: Final = 4096
MAX_FIGURES: Final = 64
MAX_SERIAL: Final = 2**63 - 1

_HEADER: Final = struct.Struct(">2sBI")


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of either end: who speaks, and whom it takes the other for."""

    sender: str
    receiver: str


@dataclass(frozen=True, slots=True)
class Beat:
    """A server lives, and this is its load: name -> a finite number."""

    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Ping:
    """A scheduler lives."""


@dataclass(frozen=True, slots=True)
class Command:
    """A scheduler asks a server to do something; `serial` comes back in the answer."""

    serial: int
    name: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command: done when `error` is empty."""

    serial: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Bye:
    """The last frame: this end closes the link in order."""

    reason: str


Frame = Hello | Beat | Ping | Command | Answer | Bye

_Check = Callable[[object], Any]
"""Returns the value when it fits."""


class _Unfit(Exception):
    """A value that does not fit its field: a clause that says what is wrong with it."""


def _text(value: object, limit: int = MAX_TEXT_BYTES) -> str:
    if not isinstance(value, str):
        raise _Unfit(f"is {type(value).__name__}, expected text")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise _Unfit("holds what UTF-8 cannot say") from None
    if size > limit:
        raise _Unfit(f"is {size} bytes long, at most {limit} are allowed")
    return value


def _name(value: object) -> str:
    if _text(value, MAX_NAME_BYTES) == "":
        raise _Unfit("is empty")
    return str(value)


def _serial(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_SERIAL:
        raise _Unfit(f"is {value!r:.40}, expected an integer from 0 to {MAX_SERIAL}")
    return value


def _figures(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise _Unfit(f"is {type(value).__name__}, expected a map")
    if len(value) > MAX_FIGURES:
        raise _Unfit(f"has {len(value)} entries, at most {MAX_FIGURES} are allowed")
    return {_name(name): _figure(number) for name, number in value.items()}


def _figure(value: object) -> float:
    if type(value) is int and abs(value) <= MAX_SERIAL:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    raise _Unfit(f"holds {value!r:.40}, expected a finite number")


_FIELDS: Final[Mapping[type[Frame], Mapping[str, _Check]]] = MappingProxyType(
    {
        Hello: {"sender": _name, "receiver": _name},
        Beat: {"figures": _figures},
        Ping: {},
        Command: {"serial": _serial, "name": _name},
        Answer: {"serial": _serial, "error": _text},
        Bye: {"reason": _text},
    }
)
_KINDS: Final = MappingProxyType({cls.__name__.lower(): cls for cls in _FIELDS})


def kind_of(frame: Frame) -> str:
    """The word that stands for the frame's class."""
    return type(frame).__name__.lower()


def encode(frame: Frame) -> bytes:
    """The frame's bytes, header and payload.

    CallerProtocolError: a field holds what `FrameReader` of the other end would not take.
    """
    content: dict[str, Any] = {"kind": kind_of(frame)}
    for name, check in _FIELDS[type(frame)].items():
        try:
            content[name] = check(getattr(frame, name))
        except _Unfit as finding:
            raise CallerProtocolError(f"{content['kind']}: {name} {finding}") from None
    payload: bytes = msgpack.packb(content)
    assert len(payload) <= MAX_PAYLOAD_BYTES, "the limits of the fields keep it smaller"
    return _HEADER.pack(MAGIC, VERSION, len(payload)) + payload


def clip(text: str) -> str:
    """As much of `text` as a frame takes, and only what can be encoded."""
    return text.encode("utf-8", "replace")[:MAX_TEXT_BYTES].decode("utf-8", "ignore")


class FrameReader:
    """Bytes in, frames out.  After each chunk, ask until there is no next frame.

    After a PeerProtocolError the bytes make no sense any more: it is raised again and again.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._fault: PeerProtocolError | None = None

    @property
    def held_bytes(self) -> int:
        """How many bytes of frames that are not complete are kept."""
        return len(self._held)

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take in what came; nothing is looked at yet."""
        if self._fault is None:
            self._held += chunk

    def next_frame(self) -> Frame | None:
        """The next frame; None when more bytes are needed for it."""
        if self._fault is not None:
            raise self._fault
        try:
            return self._take()
        except PeerProtocolError as fault:
            self._fault = fault
            self._held.clear()
            raise

    def _take(self) -> Frame | None:
        length = self._length()
        if length is None or len(self._held) < _HEADER.size + length:
            return None
        payload = bytes(self._held[_HEADER.size : _HEADER.size + length])
        del self._held[: _HEADER.size + length]
        return _decode(payload)

    def _length(self) -> int | None:
        """The payload's length, once the header says it; every byte of it is judged at once."""
        start = bytes(self._held[: len(MAGIC)])
        if not MAGIC.startswith(start):
            raise PeerProtocolError(f"expected a frame, which starts {MAGIC!r}; found {start!r}")
        if len(self._held) > len(MAGIC) and self._held[len(MAGIC)] != VERSION:
            raise PeerProtocolError(
                f"the other end speaks version {self._held[len(MAGIC)]} of the control link,"
                f" this one speaks version {VERSION}"
            )
        if len(self._held) < _HEADER.size:
            return None
        length = int(_HEADER.unpack_from(self._held)[2])
        if length > MAX_PAYLOAD_BYTES:
            raise PeerProtocolError(
                f"a frame of {length} bytes is announced, at most {MAX_PAYLOAD_BYTES} are allowed"
            )
        return length


def _decode(payload: bytes) -> Frame:
    try:
        content = msgpack.unpackb(
            payload, max_map_len=MAX_FIGURES, max_array_len=MAX_FIGURES, max_ext_len=0
        )
    except (ValueError, msgpack.UnpackException) as exc:
        raise PeerProtocolError(f"the payload is not one msgpack map ({exc})") from None
    if not isinstance(content, dict):
        raise PeerProtocolError(f"the payload is {type(content).__name__}, expected a map")
    kind = content.get("kind")
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise PeerProtocolError(f"a frame of kind {kind!r:.40}, which is none")
    values = {}
    for name, check in _FIELDS[cls].items():
        if name not in content:
            raise PeerProtocolError(f"{kind}: {name} is missing")
        try:
            values[name] = check(content[name])
        except _Unfit as finding:
            raise PeerProtocolError(f"{kind}: {name} {finding}") from None
    return cls(**values)
