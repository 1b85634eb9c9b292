"""msgpack bytes <-> messages: the encoding for devices in any language.

A message is one map from field names to values; docs/protocol.md has the rules.  Decoding
walks the bytes along the schema instead of letting msgpack build objects first: a tensor
becomes a view of the body instead of a copy, a fault names its key, unknown keys are stepped
over, and no body can ask for more memory than its own size deserves.

Numbers that are not finite pass: whether NaN makes sense is not the encoding's business.
This module must stay importable with nothing but NumPy and msgpack: devices carry it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgpack
import numpy as np

from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.wire import limits, values
from fl_cluster.wire.messages import SCHEMA
from fl_cluster.wire.schema import AnyMessage, Buffer, Field, Floats, Int8s, Kind
from fl_cluster.wire.values import Unfit

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
        message = reader.message(cls)
        if reader.position != reader.size:
            raise Unfit(f"{reader.size - reader.position} bytes follow the message")
    except Unfit as finding:
        raise PeerProtocolError(finding.explain(cls)) from None
    except (IndexError, struct.error):
        raise PeerProtocolError(
            f"{cls.__name__}: the body ends after {reader.size} bytes, inside the message"
        ) from None
    return message


def encode(message: AnyMessage) -> bytes:
    """`message` in msgpack: every scalar, and of the rest what is not None.

    CallerProtocolError: a field holds what its kind does not allow.
    """
    writer = _Writer()
    try:
        writer.message(message)
    except Unfit as finding:
        raise CallerProtocolError(finding.explain(type(message))) from None
    return b"".join(writer.parts)


# Reading

_NIL: Final = 0xC0
_HEADERS: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        0xC4: ("bin", "BHI"),
        0xC7: ("ext", "BHI"),
        0xCA: ("float", "fd"),
        0xCC: ("int", "BHIQbhiq"),
        0xD9: ("str", "BHI"),
        0xDC: ("array", "HI"),
        0xDE: ("map", "HI"),
    }
)


def _first_bytes() -> tuple[tuple[str, Any, struct.Struct | None], ...]:
    """For each first byte: the family, and the value or length or how to read it."""
    table: list[tuple[str, Any, struct.Struct | None]] = [("unused", None, None)] * 256
    for start, end, family, lowest in (
        (0x00, 0x80, "int", 0),
        (0x80, 0x90, "map", 0),
        (0x90, 0xA0, "array", 0),
        (0xA0, 0xC0, "str", 0),
        (0xE0, 0x100, "int", -32),
    ):
        table[start:end] = [(family, lowest + at, None) for at in range(end - start)]
    for start, (family, codes) in _HEADERS.items():
        for first, code in enumerate(codes, start):
            table[first] = (family, None, struct.Struct(">" + code))
    for power in range(5):
        table[0xD4 + power] = ("ext", 2**power, None)
    table[_NIL] = ("nil", None, None)
    table[0xC2], table[0xC3] = ("bool", False, None), ("bool", True, None)
    return tuple(table)


_FIRST_BYTES: Final = _first_bytes()
_ARTICLES: Final = MappingProxyType({"array": "an array", "ext": "an ext", "int": "an int"})


class _Reader:
    """A position in a body; every method reads from there and moves on.

    IndexError and struct.error mean that the body ended.
    """

    __slots__ = ("data", "position", "size", "whole")

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.size = len(data)
        self.position = 0
        self.whole: Floats | None = None

    def head(self) -> tuple[str, Any]:
        """The family of the next value, and the value itself or how long it is."""
        position = self.position
        family, argument, number = _FIRST_BYTES[self.data[position]]
        if number is None:
            self.position = position + 1
            return family, argument
        self.position = position + 1 + number.size
        return family, number.unpack_from(self.data, position + 1)[0]

    def length(self, family: str, longest: int) -> int:
        """How long the next value is, which has to be of `family` and not above `longest`."""
        found, argument = self.head()
        if found != family:
            raise _mismatch(_ARTICLES.get(family, f"a {family}"), found, argument)
        if argument > longest:
            raise Unfit(f"{family} of length {argument}, the longest is {longest}")
        return int(argument)

    def skip_bytes(self, length: int) -> int:
        """Where the next `length` bytes begin; they are there."""
        start = self.position
        self.position = end = start + length
        if end > self.size:
            raise IndexError(end)
        return start

    def take(self, length: int) -> memoryview:
        """The next `length` bytes."""
        start = self.skip_bytes(length)
        return self.data[start : start + length]

    def text(self) -> memoryview:
        """The bytes of a str; short ones, which most are, without further calls."""
        start = self.position + 1
        length = self.data[start - 1] - 0xA0
        if not 0 <= length < 0x20:
            length = self.length("str", limits.MAX_TEXT_BYTES)
            start = self.position
        self.position = end = start + length
        if end > self.size:
            raise IndexError(end)
        return self.data[start:end]

    def floats(self, length: int) -> Floats:
        """The next `length` bytes as float32: a slice of the whole body, or a copy."""
        if self.whole is None:
            self.whole = np.frombuffer(self.data[: self.size - self.size % 4], _FLOAT32)
        start = self.skip_bytes(length)
        if start % 4 == 0 and self.whole.flags.aligned:
            return self.whole[start // 4 : (start + length) // 4]
        copy = np.frombuffer(self.data[start : start + length], _FLOAT32).copy()
        copy.flags.writeable = False
        return copy

    def skip(self) -> None:
        """Step over one value, whatever it is, without memory and without recursion."""
        pending = 1
        while pending:
            pending -= 1
            family, argument = self.head()
            if family == "array":
                pending += argument
            elif family == "map":
                pending += 2 * argument
            elif family in {"str", "bin"}:
                self.skip_bytes(argument)
            elif family == "ext":
                self.skip_bytes(1 + argument)
            elif family == "unused":
                raise _mismatch("a value", family, argument)

    def message(self, cls: type[Message]) -> Message:
        """One map; nil stands for an absent field."""
        entries, defaults = _READERS[cls]
        found: list[object] = list(defaults)
        seen = set()
        for _ in range(self.length("map", limits.MAX_INT)):
            key = bytes(self.text())
            entry = entries.get(key)
            if entry is None:
                self.skip()
                continue
            if key in seen:
                raise Unfit(f"the key {key.decode()} comes twice")
            seen.add(key)
            if self.data[self.position] == _NIL:
                self.position += 1
                continue
            index, read = entry
            try:
                found[index] = read(self)
            except Unfit as finding:
                finding.path.append(f".{key.decode()}")
                raise
        return tuple.__new__(cls, found)


def _mismatch(expected: str, family: str, argument: object) -> Unfit:
    """Numbers are shown; texts and arrays may be secret or huge, and are not."""
    if family == "nil":
        found = family
    elif family == "unused":
        found = "the byte 0xc1, which msgpack does not use"
    elif family in {"bool", "int", "float"}:
        found = f"the {family} {argument}"
    else:
        found = f"{_ARTICLES.get(family, f'a {family}')} of length {argument}"
    return Unfit(f"expected {expected}, found {found}")


def _read_bool(reader: _Reader) -> bool:
    family, argument = reader.head()
    if family != "bool":
        raise _mismatch("a bool", family, argument)
    return bool(argument)


def _read_whole(reader: _Reader, lowest: int, highest: int) -> int:
    family, argument = reader.head()
    if family != "int" or not lowest <= argument <= highest:
        raise _mismatch(f"an int from {lowest} to {highest}", family, argument)
    return int(argument)


def _read_int(reader: _Reader) -> int:
    return _read_whole(reader, limits.MIN_INT, limits.MAX_INT)


def _read_enum(reader: _Reader) -> int:
    return _read_whole(reader, limits.MIN_ENUM, limits.MAX_ENUM)


def _read_float(reader: _Reader) -> float:
    """A float or an int, since many languages write 1.0 as 1."""
    family, argument = reader.head()
    if family not in {"float", "int"}:
        raise _mismatch("a float", family, argument)
    if abs(argument) > limits.MAX_FLOAT and not math.isinf(argument):
        raise _mismatch("a number within float32", family, argument)
    return float(argument)


def _read_text(reader: _Reader) -> str:
    """UTF-8; bytes that are not come back unchanged when the text is encoded again."""
    return str(reader.text(), "utf-8", "surrogateescape")


def _read_bytes(reader: _Reader) -> bytes:
    return bytes(reader.take(reader.length("bin", limits.MAX_BINARY_BYTES)))


def _read_floats(reader: _Reader) -> Floats:
    length = reader.length("bin", limits.MAX_FLAT_BYTES)
    if length % _FLOAT32.itemsize:
        raise Unfit(f"{length} bytes are not a whole number of float32")
    return reader.floats(length)


def _read_int8s(reader: _Reader) -> Int8s:
    return np.frombuffer(reader.take(reader.length("bin", limits.MAX_FLAT_BYTES)), np.int8)


_Read = Callable[[_Reader], object]


def _read_each(read: _Read) -> _Read:
    """The reader of an array, from the reader of one element."""

    def read_all(reader: _Reader) -> tuple[object, ...]:
        length = reader.length("array", limits.MAX_LIST_ITEMS)
        items: list[object] = []
        try:
            for _ in range(length):
                items.append(read(reader))  # noqa: PERF401 - the fault needs to know how many
        except Unfit as finding:
            finding.path.append(f"[{len(items)}]")
            raise
        return tuple(items)

    return read_all


def _read_table(cls: type[AnyMessage]) -> _Read:
    return lambda reader: reader.message(cls)


_READS: Final[Mapping[Kind, _Read]] = MappingProxyType(
    {
        Kind.BOOL: _read_bool,
        Kind.ENUM: _read_enum,
        Kind.INT: _read_int,
        Kind.FLOAT: _read_float,
        Kind.STRING: _read_text,
        Kind.FLOATS: _read_floats,
        Kind.INTS: _read_each(_read_int),
        Kind.BYTES: _read_bytes,
        Kind.INT8S: _read_int8s,
        Kind.ENUMS: _read_each(_read_enum),
        Kind.STRINGS: _read_each(_read_text),
    }
)


def _read_of(field: Field) -> _Read:
    if field.table is None:
        return _READS[field.kind]
    read = _read_table(field.table)
    return read if field.kind is Kind.TABLE else _read_each(read)


# Class -> what to do at each key, and the values of a message that has none.
_READERS: Final = MappingProxyType(
    {
        cls: (
            {field.name.encode(): (at, _read_of(field)) for at, field in enumerate(fields)},
            tuple(field.default for field in fields),
        )
        for cls, fields in SCHEMA.items()
    }
)


# Writing

_BINARY_HEADER: Final = struct.Struct(">BI")


class _Writer:
    """The parts of a body so far; tensors stand among them uncopied."""

    __slots__ = ("packer", "parts", "size")

    def __init__(self) -> None:
        self.packer = msgpack.Packer(use_bin_type=False)  # bytes become str: texts are encoded
        self.parts: list[bytes | memoryview] = []
        self.size = 0

    def put(self, part: bytes | memoryview) -> None:
        self.parts.append(part)
        self.size += len(part)

    def pack(self, value: float | bytes) -> None:
        self.put(self.packer.pack(value))

    def binary(self, data: bytes | memoryview) -> None:
        """Always with the widest header, so that what precedes a tensor can be added up."""
        self.put(_BINARY_HEADER.pack(0xC6, len(data)))
        self.put(data)

    def message(self, message: AnyMessage) -> None:
        if type(message) not in _WRITERS:
            raise Unfit("not a message")
        present = [
            (key, write, value)
            for (key, write), value in zip(_WRITERS[type(message)], message, strict=True)
            if value is not None
        ]
        header = len(self.parts)
        self.put(self.packer.pack_map_header(len(present)))
        for key, write, value in present:
            if write is _write_floats:
                self.aligning_key(key, header)
            else:
                self.pack(key)
            try:
                write(self, value)
            except Unfit as finding:
                finding.path.append(f".{key.decode()}")
                raise

    def aligning_key(self, key: bytes, header: int) -> None:
        """`key`, so that the tensor behind it lies at a multiple of 4 bytes.

        msgpack allows headers wider than needed.  The key's may take 1 to 3 bytes; where none
        of these fits, 2 more for the header of its map, which is the part `header`, help.
        """
        behind = len(key) + _BINARY_HEADER.size
        width = -(self.size + behind) % 4
        if width == 0 and len(self.parts[header]) == 1:
            self.parts[header] = struct.pack(">BH", 0xDE, self.parts[header][0] & 0x0F)
            self.size += 2
            width = 2
        if width == 3:
            self.put(struct.pack(">BH", 0xDA, len(key)) + key)
        elif width == 2:
            self.put(struct.pack(">BB", 0xD9, len(key)) + key)
        else:
            self.pack(key)


def _check_length(length: int, longest: int) -> None:
    if length > longest:
        raise Unfit(f"length {length}, the longest is {longest}")


def _write_text(writer: _Writer, value: object) -> None:
    data = values.text(value)
    _check_length(len(data), limits.MAX_TEXT_BYTES)
    writer.pack(data)


def _write_bytes(writer: _Writer, value: object) -> None:
    data = values.binary(value)
    _check_length(len(data), limits.MAX_BINARY_BYTES)
    writer.binary(data)


def _write_floats(writer: _Writer, value: object) -> None:
    writer.binary(values.floats(value))


_Write = Callable[[_Writer, object], None]


def _write_scalar(check: Callable[[object], float]) -> _Write:
    return lambda writer, value: writer.pack(check(value))


def _write_each(write: _Write) -> _Write:
    """The writer of an array, from the writer of one element."""

    def write_all(writer: _Writer, value: object) -> None:
        items = values.sequence(value)
        _check_length(len(items), limits.MAX_LIST_ITEMS)
        writer.put(writer.packer.pack_array_header(len(items)))
        for index, item in enumerate(items):
            try:
                write(writer, item)
            except Unfit as finding:
                finding.path.append(f"[{index}]")
                raise

    return write_all


def _write_table(cls: type[AnyMessage]) -> _Write:
    def write(writer: _Writer, value: object) -> None:
        writer.message(values.instance(value, cls))

    return write


_WRITES: Final[Mapping[Kind, _Write]] = MappingProxyType(
    {
        Kind.BOOL: _write_scalar(values.boolean),
        Kind.ENUM: _write_scalar(values.enumerator),
        Kind.INT: _write_scalar(values.integer),
        Kind.FLOAT: _write_scalar(values.real),
        Kind.STRING: _write_text,
        Kind.FLOATS: _write_floats,
        Kind.INTS: _write_each(_write_scalar(values.integer)),
        Kind.BYTES: _write_bytes,
        Kind.INT8S: lambda writer, value: writer.binary(values.int8s(value)),
        Kind.ENUMS: _write_each(_write_scalar(values.enumerator)),
        Kind.STRINGS: _write_each(_write_text),
    }
)


def _write_of(field: Field) -> _Write:
    if field.table is None:
        return _WRITES[field.kind]
    write = _write_table(field.table)
    return write if field.kind is Kind.TABLE else _write_each(write)


_WRITERS: Final = MappingProxyType(
    {
        cls: tuple((field.name.encode(), _write_of(field)) for field in fields)
        for cls, fields in SCHEMA.items()
    }
)
