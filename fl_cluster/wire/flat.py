"""FlatBuffers bytes <-> messages: the encoding that existing devices speak.

Decoding is `_wire`, in C, where it was built, and `flat_reference` otherwise, with the same
results.  Encoding is the official builder's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from flatbuffers import Builder

from fl_cluster.errors import CallerProtocolError
from fl_cluster.wire import flat_reference, limits, values
from fl_cluster.wire.messages import SCHEMA
from fl_cluster.wire.schema import AnyMessage, Buffer, Field, Kind
from fl_cluster.wire.values import Unfit

__all__ = ["decode", "encode", "make_decoder"]

Message = TypeVar("Message", bound=AnyMessage)

_EXTENSION: Final = "fl_cluster._wire"


class _Decoder(Protocol):
    def decode(self, cls: type[Message], body: Buffer, /) -> Message: ...


def make_decoder(make: Callable[..., _Decoder]) -> _Decoder:
    """A decoder of all messages; `make` is a class Decoder, the extension's or the reference's."""
    return make(
        tuple(SCHEMA.items()),
        least_bytes=limits.MIN_FLAT_BYTES,
        most_bytes=limits.MAX_FLAT_BYTES,
        most_depth=limits.MAX_FLAT_DEPTH,
        most_tables=limits.MAX_FLAT_TABLES,
    )


def _load() -> _Decoder:
    """The extension's decoder where it was built, else the reference, which says so once."""
    try:
        import fl_cluster._wire as extension
    except ModuleNotFoundError as fault:
        if fault.name != _EXTENSION:
            raise
        logging.getLogger(__name__).warning(
            "the extension %s was not built: decoding FlatBuffers in Python, "
            "with identical results but slower",
            _EXTENSION,
        )
        return make_decoder(flat_reference.Decoder)
    return make_decoder(extension.Decoder)


_DECODER: Final = _load()


def decode(cls: type[Message], body: Buffer) -> Message:
    """The message of class `cls` at the start of `body`; bytes behind it are ignored.

    Arrays are read-only views of the body, or of a copy of it when it does not begin at a
    multiple of 4 bytes in memory; the body must not change afterwards.  Texts keep bytes that
    are not UTF-8 as surrogate escapes, so that ids compare and go out again byte for byte.
    PeerProtocolError: the body is not such a message; it says what is wrong and at which byte.
    """
    return _DECODER.decode(cls, body)


def encode(message: AnyMessage) -> bytes:
    """`message` as a finished buffer without file identifier.

    Fields that are None, or a scalar at its default, are absent; fields that only msgpack has
    are left out.  CallerProtocolError: a field holds what its kind does not allow.
    """
    try:
        return _build(message)
    except Unfit as finding:
        raise CallerProtocolError(finding.explain(type(message))) from None


def _build(message: AnyMessage) -> bytes:
    size = _most_bytes(message)
    if size > limits.MAX_FLAT_BYTES:
        raise Unfit(f"takes {size} bytes, a FlatBuffer holds {limits.MAX_FLAT_BYTES}")
    builder = Builder(size)
    builder.Finish(_put_message(builder, message))
    return bytes(memoryview(builder.Bytes)[builder.Head() :])


def _most_bytes(value: object) -> int:
    """What the value takes at most, a little more than it will, so that nothing is copied to grow.

    Inline part, entry in the vtable, length, terminator and padding come to 8 bytes for a
    scalar and 16 for anything else.
    """
    if isinstance(value, tuple | list):
        return 16 + sum(map(_most_bytes, value))
    if isinstance(value, np.ndarray):
        return 16 + value.nbytes
    if isinstance(value, str):
        return 16 + len(value) * (1 if value.isascii() else 4)
    return 16 + len(value) if isinstance(value, bytes | bytearray | memoryview) else 8


def _put_message(builder: Any, message: AnyMessage) -> int:
    """The table behind everything it refers to, which is how the builder works."""
    if type(message) not in SCHEMA:
        raise Unfit("not a message")
    fields = [field for field in SCHEMA[type(message)] if field.slot is not None]
    inline: list[tuple[Field, Any]] = []
    for field, value in zip(fields, message, strict=False):  # what has no slot stands last
        if value is None:
            continue
        try:
            inline.append((field, _PUTS[field.kind](builder, field, value)))
        except Unfit as finding:
            finding.path.append(f".{field.name}")
            raise
    builder.StartObject(len(fields))
    for field, value in inline:
        _SLOTS[field.kind](builder, field.slot, value, field.default or 0)
    return int(builder.EndObject())


def _put_elements(builder: Any, data: memoryview | bytes, size: int) -> int:
    """A vector of scalars of `size` bytes each, copied as a whole."""
    builder.StartVector(size, len(data) // size, size)
    builder.head = head = builder.Head() - len(data)
    builder.Bytes[head : head + len(data)] = data
    return int(builder.EndVector())


def _put_offsets(builder: Any, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _put_text(builder: Any, _: Field, value: object) -> int:
    return int(builder.CreateString(values.text(value)))


def _put_table(builder: Any, field: Field, value: object) -> int:
    assert field.table is not None, field
    return _put_message(builder, values.instance(value, field.table))


_Put = Callable[[Any, Field, object], Any]


def _put_each(put: _Put) -> _Put:
    """What puts a vector of offsets, from what puts one thing they lead to."""

    def put_all(builder: Any, field: Field, value: object) -> int:
        return _put_offsets(builder, _each(value, lambda item: put(builder, field, item)))

    return put_all


def _each(value: object, put: Callable[[object], int]) -> list[int]:
    items = values.sequence(value)
    done: list[int] = []
    try:
        for item in items:
            done.append(put(item))  # noqa: PERF401 - the fault needs to know how many
    except Unfit as finding:
        finding.path.append(f"[{len(done)}]")
        raise
    return done


def _put_numbers(check: Callable[[object], int], dtype: str) -> _Put:
    def put(builder: Any, _: Field, value: object) -> int:
        numbers = np.array(_each(value, check), dtype)
        return _put_elements(builder, numbers.tobytes(), numbers.itemsize)

    return put


# What a value of each kind leaves in its table: itself, or the offset of what was put for it.
_PUTS: Final[Mapping[Kind, _Put]] = MappingProxyType(
    {
        Kind.BOOL: lambda _, __, value: values.boolean(value),
        Kind.ENUM: lambda _, __, value: values.enumerator(value),
        Kind.INT: lambda _, __, value: values.integer(value),
        Kind.FLOAT: lambda _, __, value: values.real(value),
        Kind.STRING: _put_text,
        Kind.TABLE: _put_table,
        Kind.FLOATS: lambda builder, _, value: _put_elements(builder, values.floats(value), 4),
        Kind.INTS: _put_numbers(values.integer, "<i4"),
        Kind.BYTES: lambda builder, _, value: _put_elements(builder, values.binary(value), 1),
        Kind.INT8S: lambda builder, _, value: _put_elements(builder, values.int8s(value), 1),
        Kind.ENUMS: _put_numbers(values.enumerator, "<i1"),
        Kind.STRINGS: _put_each(_put_text),
        Kind.TABLES: _put_each(_put_table),
    }
)
_OFFSET: Final = Builder.PrependUOffsetTRelativeSlot
_SLOTS: Final[Mapping[Kind, Callable[..., None]]] = MappingProxyType(
    dict.fromkeys(Kind, _OFFSET)
    | {
        Kind.BOOL: Builder.PrependBoolSlot,
        Kind.ENUM: Builder.PrependInt8Slot,
        Kind.INT: Builder.PrependInt32Slot,
        Kind.FLOAT: Builder.PrependFloat32Slot,
    }
)
