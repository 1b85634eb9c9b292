"""Named float32 tensors as MindSpore's checkpoint protobuf, and back.

    Checkpoint  { repeated Value value = 1 }
    Value       { required string tag = 1; optional TensorProto tensor = 2 }
    TensorProto { repeated int64 dims = 1; required string tensor_type = 2;
                  required bytes tensor_content = 3 }

A file is one Checkpoint per parameter, one after the other, which protobuf reads as a single
message.  `dims` is not packed (proto2), a scalar has dims [0], content is little-endian in C
order, and a parameter above 512 MiB is several values in a row with one tag and one dims.
The codec is written by hand because the messages are three and a protobuf library would hold
the file and every tensor twice; here tensors go between file and array directly.
Reading takes untrusted bytes: time and memory are linear in the file's size, whatever is in it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SLICE_BYTES = 512 * 1024 * 1024
"""A larger parameter is split, as MindSpore does: protobuf cannot hold 2 GiB in one message."""
MAX_NAME_BYTES = 1024
MAX_RANK = 32
"""What every NumPy can hold."""
MAX_TYPE_BYTES = 32

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_LITTLE_FLOAT = np.dtype("<f4")

log = logging.getLogger(__name__)


def write_checkpoint(
    file: BinaryIO, arrays: Mapping[str, Floats], slice_bytes: int = SLICE_BYTES
) -> None:
    """Write the tensors in the order given; names and arrays have been checked before."""
    for name, array in arrays.items():
        dims = array.shape or (0,)
        flat = np.asarray(array, _LITTLE_FLOAT, order="C").reshape(-1)
        for part in np.array_split(flat, max(1, math.ceil(flat.nbytes / slice_bytes))):
            file.write(_heading(name, dims, part.nbytes))
            file.write(part.data)


def _heading(name: str, dims: tuple[int, ...], content_bytes: int) -> bytes:
    """All of one Checkpoint message up to the content, with which it ends."""
    tensor = b"".join(b"\x08" + _varint(size) for size in dims)
    tensor += b"\x12\x07Float32" + b"\x1a" + _varint(content_bytes)
    tag = name.encode()
    value = b"\x0a" + _varint(len(tag)) + tag + b"\x12" + _varint(len(tensor) + content_bytes)
    return b"\x0a" + _varint(len(value) + len(tensor) + content_bytes) + value + tensor


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def read_checkpoint(file: BinaryIO, path: str) -> dict[str, Floats]:
    """The Float32 parameters in file order; others are passed over with a line in the log.

    ValueError with file, offset, and what was expected when the bytes are no checkpoint.
    """
    reader = _Reader(file, path)
    arrays: dict[str, Floats] = {}
    values = _values(reader)
    value = next(values, None)
    while value is not None:
        if value.name in arrays:
            reader.fail(value.offset, "one tensor per name", f"{value.name!r} again")
        parts = [value]
        while (value := next(values, None)) is not None and value.name == parts[0].name:
            parts.append(value)
        if parts[0].type != "Float32":
            log.info("%s: %r is %s, not Float32: skipped", path, parts[0].name, parts[0].type)
        else:
            arrays[parts[0].name] = _joined(reader, parts)
    if not arrays:
        reader.fail(reader.size, "at least one Float32 parameter", "none")
    return arrays


@dataclass(slots=True)
class _Value:
    """One Value message: what it is, and where in the file its content lies."""

    offset: int
    name: str = ""
    dims: tuple[int, ...] = ()
    type: str = ""
    content_at: int = 0
    content_bytes: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """MindSpore writes a scalar's dims as [0], newer versions as none."""
        return () if self.dims == (0,) else self.dims


def _joined(reader: _Reader, parts: list[_Value]) -> Floats:
    """The tensor of consecutive values with one name."""
    first = parts[0]
    size = math.prod(first.shape)
    for part in parts:
        if (part.dims, part.type) != (first.dims, first.type):
            reader.fail(part.offset, f"dims and type of {first.name!r} as before", "others")
    found = sum(part.content_bytes for part in parts)
    if size < 1 or found != 4 * size or any(part.content_bytes % 4 for part in parts):
        reader.fail(
            first.content_at,
            f"content of {first.name!r} of shape {first.shape}, {4 * size} bytes",
            f"{found} bytes",
        )
    array = np.empty(size, _LITTLE_FLOAT)
    target = array.data.cast("B")
    done = 0
    for part in parts:
        reader.fill(target[done : done + part.content_bytes], part.content_at)
        done += part.content_bytes
    return array.reshape(first.shape).astype(np.float32, copy=False)


def _values(reader: _Reader) -> Iterator[_Value]:
    """Every value of the file.  The reader may be moved between two of them."""
    at = 0
    while at < reader.size:
        reader.at = at
        field, wire, end = reader.field(reader.size)
        if field == 1:
            reader.expect_delimited(wire, "a value", at)
            yield _value(reader, end)
        at = end


def _value(reader: _Reader, end: int) -> _Value:
    value = _Value(reader.at)
    seen: set[int] = set()
    while reader.at < end:
        at = reader.at
        field, wire, stop = reader.field(end)
        if field in (1, 2):
            reader.once(field, seen, at)
            reader.expect_delimited(wire, ("a tag", "a tensor")[field - 1], at)
        if field == 1:
            value.name = reader.text(stop, MAX_NAME_BYTES, "a parameter's name")
        elif field == 2:
            _tensor(reader, stop, value)
        reader.at = stop
    if not value.name:
        reader.fail(value.offset, "a value with a tag", "none")
    value.type = value.type or "no tensor"
    return value


def _tensor(reader: _Reader, end: int, value: _Value) -> None:
    start = reader.at
    dims: list[int] = []
    seen: set[int] = set()
    while reader.at < end:
        at = reader.at
        field, wire, stop = reader.field(end)
        if field == 1:
            _dims(reader, wire, at, stop, dims)
        elif field in (2, 3):
            reader.once(field, seen, at)
            reader.expect_delimited(wire, ("a type", "content")[field - 2], at)
        if field == 2:
            value.type = reader.text(stop, MAX_TYPE_BYTES, "a type's name")
        elif field == 3:
            value.content_at, value.content_bytes = reader.at, stop - reader.at
        reader.at = stop
    if seen != {2, 3} or not value.type:
        reader.fail(start, "a tensor with type and content", "not both")
    value.dims = tuple(dims)


def _dims(reader: _Reader, wire: int, at: int, stop: int, dims: list[int]) -> None:
    """Append one dimension, or several: a protobuf reader has to take packed ones as well."""
    if wire not in (_VARINT, _DELIMITED):
        reader.fail(at, "a dimension", f"wire type {wire}")
    while reader.at < stop:
        size = reader.varint(stop)
        if size > 2**63 - 1 or len(dims) == MAX_RANK:
            reader.fail(at, f"at most {MAX_RANK} dimensions, none negative", "other dims")
        dims.append(size)


class _Reader:
    """A position in a file, and reads that refuse to pass a given end."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self._at = 0
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)

    @property
    def at(self) -> int:
        """Offset of the next byte."""
        return self._at

    @at.setter
    def at(self, offset: int) -> None:
        if offset != self._at:
            self._file.seek(offset)
            self._at = offset

    def fail(self, offset: int, expected: str, found: str) -> NoReturn:
        """Refuse the file."""
        raise ValueError(
            f"{self._path}: no MindSpore checkpoint: at byte {offset} expected {expected},"
            f" found {found}"
        )

    def field(self, end: int) -> tuple[int, int, int]:
        """Number and wire type of the field that starts here, and where its payload ends.

        The position is left at the payload: for a delimited field, after its length.
        """
        at = self.at
        key = self.varint(end)
        number, wire = key >> 3, key & 7
        if not 1 <= number < 2**29:
            self.fail(at, "a field", f"number {number}")
        if wire == _VARINT:
            start = self.at
            self.varint(end)
            stop, self.at = self.at, start
        elif wire == _DELIMITED:
            count = self.varint(end)
            stop = self.at + count
        elif wire in (_FIXED64, _FIXED32):
            stop = self.at + (8 if wire == _FIXED64 else 4)
        else:
            self.fail(at, "a field", f"wire type {wire}")
        if stop > end:
            self.fail(at, f"a field of at most {end - at} bytes", "a longer one")
        return number, wire, stop

    def varint(self, end: int) -> int:
        """An unsigned integer of up to 64 bits."""
        at, number, byte, shift = self.at, 0, 0x80, 0
        while byte & 0x80:
            if self.at == end:
                self.fail(at, "a number", "the end of its message")
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            shift += 7
            if number >= 2**64 or shift > 70:
                self.fail(at, "a number of at most 64 bits", "a longer one")
        return number

    def text(self, stop: int, most: int, what: str) -> str:
        """UTF-8 from here to `stop`, between 1 and `most` bytes."""
        at, count = self.at, stop - self.at
        if not 1 <= count <= most:
            self.fail(at, f"{what} of 1 to {most} bytes", f"{count} bytes")
        try:
            return self.take(count).decode()
        except UnicodeDecodeError:
            self.fail(at, f"{what} in UTF-8", "other bytes")

    def take(self, count: int) -> bytes:
        """The next bytes; `count` is small and inside the file."""
        data = self._file.read(count)
        if len(data) != count:
            self.fail(self._at, f"{count} bytes", "the end: the file was cut meanwhile")
        self._at += count
        return data

    def fill(self, target: memoryview, offset: int) -> None:
        """Fill `target` from the bytes at `offset`."""
        self.at = offset
        done = 0
        while done < len(target):
            count = self._file.readinto(target[done:])  # type: ignore[attr-defined]
            if not count:
                self.fail(offset, f"{len(target)} bytes", "the end: the file was cut meanwhile")
            done += count
        self._at = offset + done

    def once(self, field: int, seen: set[int], at: int) -> None:
        """Refuse a second occurrence of a field that is not repeated."""
        if field in seen:
            self.fail(at, f"field {field} once", "it again")
        seen.add(field)

    def expect_delimited(self, wire: int, what: str, at: int) -> None:
        """Refuse a string, bytes or message field of another wire type."""
        if wire != _DELIMITED:
            self.fail(at, what, f"wire type {wire}")
