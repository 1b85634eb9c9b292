"""msgpack bytes <-> messages: the encoding for devices in any language.

A message is one map from field names to values; docs/protocol.md has the rules.  Decoding
walks the bytes along the schema instead of letting msgpack build objects first: a tensor
becomes a view of the body instead of a copy, a fault names its key, unknown keys are stepped
over, and no body can ask for more memory than its own size deserves.

Numbers that are not finite pass: whether NaN makes sense is not the encoding's business.
This module must stay importable with nothing but NumPy and msgpack: devices carry it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

import msgpack
import numpy as np

from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.wire import limits
from fl_cluster.wire.messages import SCHEMA
from fl_cluster.wire.schema import AnyMessage, Buffer, Field, Floats, Int8s, Kind

__all__ = ["decode", "encode"]

Message = TypeVar("Message", bound=AnyMessage)

_FLOAT32: Final = np.dtype("<f4")


def decode(cls: type[Message], body: Buffer) -> Message:
    """The message of class `cls` that fills `body`, whole and alone.

    Tensors are read-only views of the body where they lie at a multiple of 4 bytes, as
    `encode` sees to, and read-only copies elsewhere.  The body must not change afterwards.
    PeerProtocolError: the body is not such a message; it names the key and what was expected.
    """
    reader = _Reader(memoryview(body).toreadonly().cast("B"))
    try:
        message = reader.message(cls, cls.__name__)
    except (IndexError, struct.error):
        raise PeerProtocolError(
            f"{cls.__name__}: the body ends after {reader.size} bytes, inside the message"
        ) from None
    if reader.position != reader.size:
        raise PeerProtocolError(
            f"{cls.__name__}: {reader.size - reader.position} bytes follow the message"
        )
    return message


def encode(message: AnyMessage) -> bytes:
    """`message` in msgpack: every scalar, and of the rest what is not None.

    CallerProtocolError: a field holds what its kind does not allow.
    """
    writer = _Writer()
    writer.message(message)
    return b"".join(writer.parts)


# Reading

_CONSTANTS: Final[Mapping[int, tuple[str, int | bool | None]]] = MappingProxyType(
    {
        0xC0: ("nil", None),
        0xC2: ("bool", False),
        0xC3: ("bool", True),
        **{0xD4 + power: ("ext", 2**power) for power in range(5)},
    }
)
# First byte -> family, and how the number that follows is written: the value, or the length.
_NUMBERS: Final[Mapping[int, tuple[str, struct.Struct]]] = MappingProxyType(
    {
        first: (family, struct.Struct(">" + code))
        for family, start, codes in (
            ("bin", 0xC4, "BHI"),
            ("ext", 0xC7, "BHI"),
            ("float", 0xCA, "fd"),
            ("int", 0xCC, "BHIQbhiq"),
            ("str", 0xD9, "BHI"),
            ("array", 0xDC, "HI"),
            ("map", 0xDE, "HI"),
        )
        for first, code in enumerate(codes, start=start)
    }
)


class _Reader:
    """A position in a body; every method reads from there and moves on.

    IndexError and struct.error mean that the body ended.
    """

    __slots__ = ("data", "position", "size")

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.size = len(data)
        self.position = 0

    def head(self) -> tuple[str, int | float | bool | None]:
        """The family of the next value, and the value itself or the length of it."""
        first = self.data[self.position]
        self.position += 1
        if first < 0x80:
            return "int", first
        if first < 0x90:
            return "map", first & 0x0F
        if first < 0xA0:
            return "array", first & 0x0F
        if first < 0xC0:
            return "str", first & 0x1F
        if first >= 0xE0:
            return "int", first - 0x100
        constant = _CONSTANTS.get(first)
        if constant is not None:
            return constant
        if first not in _NUMBERS:
            raise PeerProtocolError(f"byte {self.position - 1} is {first:#04x}, not msgpack")
        family, number = _NUMBERS[first]
        argument = number.unpack_from(self.data, self.position)[0]
        self.position += number.size
        return family, argument

    def take(self, length: int) -> memoryview:
        """The next `length` bytes."""
        end = self.position + length
        if end > self.size:
            raise IndexError(end)
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def length(self, family: str, longest: int, where: str) -> int:
        """The length of the next value, which has to be of `family` and not above `longest`."""
        found, argument = self.head()
        if found != family:
            raise _unexpected(where, _A[family], found, argument)
        if argument > longest:
            raise PeerProtocolError(f"{where}: {family} of {argument}, longest is {longest}")
        return argument

    def skip(self) -> None:
        """Step over one value, whatever it is; it takes no memory and no stack."""
        pending = 1
        while pending:
            pending -= 1
            family, argument = self.head()
            if family == "array":
                pending += argument
            elif family == "map":
                pending += 2 * argument
            elif family in {"str", "bin"}:
                self.take(argument)
            elif family == "ext":
                self.take(1 + argument)
