"""FlatBuffers bytes -> message in plain Python: the definition of what `_wire` does in C.

Bytes are checked and read in one walk along the schema.  The checks are those of the official
verifier (no file identifier, alignment checked, bytes behind the message accepted), in its
order, and one more: what is copied out of the body may not be larger than the body.  Offsets
let a small body refer to one part a million times; an honest one says nothing twice.

Both give the same message for the same bytes, or refuse with the same sentence.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

import numpy as np

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire.schema import AnyMessage, Buffer, Field, Floats, Int8s, Kind

__all__ = ["Decoder"]

Message = TypeVar("Message", bound=AnyMessage)

_UINT16: Final = struct.Struct("<H").unpack_from
_UINT32: Final = struct.Struct("<I").unpack_from
_INT32: Final = struct.Struct("<i").unpack_from
_INT8: Final = struct.Struct("<b").unpack_from
_FLOAT: Final = struct.Struct("<f").unpack_from

_MAX_OFFSET: Final = 2**31 - 1  # more would be negative to those who read it with a sign
_ABSENT: Final = 0  # no field lies at position 0: the root offset does


class Decoder:
    """Decodes the messages of a schema: pairs of class and Fields."""

    def __init__(
        self,
        schema: tuple[tuple[type[AnyMessage], tuple[Field, ...]], ...],
        *,
        least_bytes: int,
        most_bytes: int,
        most_depth: int,
        most_tables: int,
    ) -> None:
        self.schema = dict(schema)
        self.least_bytes = least_bytes
        self.most_bytes = most_bytes
        self.most_depth = most_depth
        self.most_tables = most_tables

    def decode(self, cls: type[Message], body: Buffer) -> Message:
        """The message of class `cls` at the start of `body`; see `flat.decode`."""
        walk = _Walk(self, _aligned(memoryview(body).toreadonly().cast("B")))
        try:
            return walk.table(cls, walk.root())
        except _Flaw as flaw:
            raise PeerProtocolError(
                f"{flaw.place or cls.__name__}: {flaw.reason}, "
                f"at byte {flaw.position} of {walk.size}"
            ) from None


def _aligned(data: memoryview) -> memoryview:
    """The same bytes where float32 may lie: at a multiple of 4 in memory."""
    start = np.frombuffer(data, np.uint8).ctypes.data
    return memoryview(bytes(data)) if start % 4 else data


class _Flaw(Exception):
    """What is wrong and where; `place` is the innermost field around it."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position
        self.place = ""


class _Table(NamedTuple):
    position: int
    vtable: int
    vtable_size: int


class _Walk:
    """The body, and how much of what it may ask for it has asked for."""

    def __init__(self, decoder: Decoder, data: memoryview) -> None:
        self.decoder = decoder
        self.data = data
        self.size = len(data)
        self.allowance = len(data)
        self.tables = 0
        self.depth = 0

    # Structure: every method checks before it reads.

    def check(self, position: int, length: int, alignment: int) -> None:
        if position % alignment:
            raise _Flaw(f"not at a multiple of {alignment} bytes", position)
        if length >= self.size or position > self.size - length:
            raise _Flaw("reaches outside the body", position)

    def charge(self, length: int, position: int) -> None:
        """Count `length` bytes against the size of the body."""
        if length > self.allowance:
            raise _Flaw("the body refers to the same parts again and again", position)
        self.allowance -= length

    def follow(self, position: int) -> int:
        """Where the offset at `position` leads."""
        self.check(position, 4, 4)
        offset: int = _UINT32(self.data, position)[0]
        if offset == 0:
            raise _Flaw("an offset leads to itself", position)
        if offset > _MAX_OFFSET:
            raise _Flaw("an offset is negative", position)
        self.check(position + offset, 1, 1)
        return position + offset

    def root(self) -> int:
        if self.size > self.decoder.most_bytes:
            raise _Flaw("larger than a FlatBuffer can be", 0)
        if self.size < self.decoder.least_bytes:
            raise _Flaw("too small to hold a table", 0)
        return self.follow(0)

    def enter(self, position: int) -> _Table:
        """The table at `position`; whoever enters it leaves it."""
        self.check(position, 4, 4)
        vtable = position - _INT32(self.data, position)[0]
        self.depth += 1
        self.tables += 1
        if self.depth > self.decoder.most_depth:
            raise _Flaw("tables nest too deep", position)
        if self.tables > self.decoder.most_tables:
            raise _Flaw("too many tables", position)
        self.charge(4, position)
        if vtable < 0:
            raise _Flaw("reaches outside the body", position)
        self.check(vtable, 2, 2)
        vtable_size: int = _UINT16(self.data, vtable)[0]
        if vtable_size % 2:
            raise _Flaw("a vtable has an odd size", vtable)
        self.check(vtable, vtable_size, 2)
        return _Table(position, vtable, vtable_size)

    def locate(self, table: _Table, slot: int, size: int) -> int:
        """Where the field is whose inline part takes `size` bytes, or _ABSENT."""
        entry = 4 + 2 * slot
        if entry >= table.vtable_size:
            return _ABSENT
        offset: int = _UINT16(self.data, table.vtable + entry)[0]
        if offset == 0:
            return _ABSENT
        self.check(table.position + offset, size, size)
        return table.position + offset

    def vector(self, position: int, element: int) -> tuple[int, int]:
        """Where the elements of the vector at `position` begin, and how many there are."""
        self.check(position, 4, 4)
        count: int = _UINT32(self.data, position)[0]
        if count >= self.decoder.most_bytes // element:
            raise _Flaw("a vector is too long", position)
        self.check(position, 4 + count * element, 4)
        return position + 4, count

    def text(self, position: int) -> str:
        start, length = self.vector(position, 1)
        self.check(start + length, 1, 1)
        if self.data[start + length] != 0:
            raise _Flaw("a string does not end in a zero byte", start + length)
        self.charge(4 + length, position)
        return str(self.data[start : start + length], "utf-8", "surrogateescape")

    def element(self, position: int) -> int:
        """Where the offset in a vector leads; the vector was checked, the target was not."""
        return position + int(_UINT32(self.data, position)[0])

    # Values.

    def table(self, cls: type[Message], position: int) -> Message:
        table = self.enter(position)
        found: list[object] = []
        for field in self.decoder.schema[cls]:
            if field.slot is None:
                found.append(field.default)
                continue
            try:
                size, read = _READS[field.kind]
                at = self.locate(table, field.slot, size)
                found.append(field.default if at == _ABSENT else read(self, field, at))
            except _Flaw as flaw:
                flaw.place = flaw.place or f"{cls.__name__}.{field.name}"
                raise
        self.depth -= 1
        return tuple.__new__(cls, found)


_Read = Callable[[_Walk, Field, int], object]


def _read_bool(walk: _Walk, _: Field, at: int) -> bool:
    return walk.data[at] != 0


def _read_enum(walk: _Walk, _: Field, at: int) -> int:
    return int(_INT8(walk.data, at)[0])


def _read_int(walk: _Walk, _: Field, at: int) -> int:
    return int(_INT32(walk.data, at)[0])


def _read_float(walk: _Walk, _: Field, at: int) -> float:
    return float(_FLOAT(walk.data, at)[0])


def _read_text(walk: _Walk, _: Field, at: int) -> str:
    return walk.text(walk.follow(at))


def _read_table(walk: _Walk, field: Field, at: int) -> AnyMessage:
    assert field.table is not None, field
    return walk.table(field.table, walk.follow(at))


def _read_floats(walk: _Walk, _: Field, at: int) -> Floats:
    position = walk.follow(at)
    start, count = walk.vector(position, 4)
    walk.charge(4, position)
    return np.frombuffer(walk.data[start : start + 4 * count], "<f4")


def _read_int8s(walk: _Walk, _: Field, at: int) -> Int8s:
    position = walk.follow(at)
    start, count = walk.vector(position, 1)
    walk.charge(4, position)
    return np.frombuffer(walk.data[start : start + count], np.int8)


def _read_bytes(walk: _Walk, _: Field, at: int) -> bytes:
    position = walk.follow(at)
    start, count = walk.vector(position, 1)
    walk.charge(4 + count, position)
    return bytes(walk.data[start : start + count])


def _read_element_text(walk: _Walk, _: Field, at: int) -> str:
    return walk.text(walk.element(at))


def _read_element_table(walk: _Walk, field: Field, at: int) -> AnyMessage:
    assert field.table is not None, field
    return walk.table(field.table, walk.element(at))


def _read_each(size: int, read: _Read) -> _Read:
    """The reader of a vector, from the size of its elements and the reader of one."""

    def read_all(walk: _Walk, field: Field, at: int) -> tuple[object, ...]:
        position = walk.follow(at)
        start, count = walk.vector(position, size)
        walk.charge(4 + count * size, position)
        return tuple([read(walk, field, start + index * size) for index in range(count)])

    return read_all


# What a field takes in its table, and how to read it from there.
_READS: Final[Mapping[Kind, tuple[int, _Read]]] = MappingProxyType(
    {
        Kind.BOOL: (1, _read_bool),
        Kind.ENUM: (1, _read_enum),
        Kind.INT: (4, _read_int),
        Kind.FLOAT: (4, _read_float),
        Kind.STRING: (4, _read_text),
        Kind.TABLE: (4, _read_table),
        Kind.FLOATS: (4, _read_floats),
        Kind.INTS: (4, _read_each(4, _read_int)),
        Kind.BYTES: (4, _read_bytes),
        Kind.INT8S: (4, _read_int8s),
        Kind.ENUMS: (4, _read_each(1, _read_enum)),
        Kind.STRINGS: (4, _read_each(4, _read_element_text)),
        Kind.TABLES: (4, _read_each(4, _read_element_table)),
    }
)
