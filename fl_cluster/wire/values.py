"""What a field of each kind may hold, checked once for both encoders.

Each check returns the value in the form that goes over the wire: numbers as they are, texts
in UTF-8, arrays as their bytes, uncopied where they are contiguous float32 already.  Nothing
is cut or converted to make it fit, except that a float becomes the nearest float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from fl_cluster.wire import limits

Value = TypeVar("Value")

_FLOAT32 = np.dtype("<f4")


class Unfit(Exception):
    """A value does not fit its field; whoever passes this on adds where it stands.

    `path` is written from the inside out.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def explain(self, cls: type[object]) -> str:
        """The whole sentence: message class, path, reason."""
        return f"{cls.__name__}{''.join(reversed(self.path))}: {self.reason}"


def _mismatch(expected: str, value: object) -> Unfit:
    """Numbers are shown; texts and arrays may be secret or huge, and are not."""
    found = type(value).__name__
    if isinstance(value, np.ndarray):
        found = f"{value.dtype} array"
    elif isinstance(value, bool | int | float | np.number):
        found = f"{found} {value}"
    return Unfit(f"expected {expected}, got {found}")


def boolean(value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise _mismatch("a bool", value)
    return bool(value)


def _whole(value: object, lowest: int, highest: int) -> int:
    """An int in a range; a bool is no int here, though Python says so."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise _mismatch("an int", value)
    if not lowest <= value <= highest:
        raise _mismatch(f"an int from {lowest} to {highest}", value)
    return int(value)


def integer(value: object) -> int:
    return _whole(value, limits.MIN_INT, limits.MAX_INT)


def enumerator(value: object) -> int:
    """Any number an enum could have: a peer may know members that we do not."""
    return _whole(value, limits.MIN_ENUM, limits.MAX_ENUM)


def real(value: object) -> float:
    """A number that float32 can hold, infinite and NaN included."""
    if isinstance(value, bool) or not isinstance(value, float | int | np.floating | np.integer):
        raise _mismatch("a float", value)
    number = float(value)
    if abs(number) > limits.MAX_FLOAT and not math.isinf(number):
        raise _mismatch("a number within float32", value)
    return number


def text(value: object) -> bytes:
    """UTF-8; what came in as other bytes goes out as the same bytes."""
    if not isinstance(value, str):
        raise _mismatch("a str", value)
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as fault:
        raise Unfit(f"a str that UTF-8 cannot hold: {fault.reason}") from fault


def binary(value: object) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise _mismatch("bytes", value)
    return bytes(value)


def floats(value: object) -> memoryview:
    """The bytes of an array of float32, in C order whatever its shape."""
    if not isinstance(value, np.ndarray) or value.dtype.newbyteorder("<") != _FLOAT32:
        raise _mismatch("an array of float32", value)
    flat = np.ascontiguousarray(value, _FLOAT32).reshape(-1)
    return memoryview(flat.view(np.uint8).data)


def int8s(value: object) -> memoryview:
    """The bytes of an array of int8, in C order whatever its shape."""
    if not isinstance(value, np.ndarray) or value.dtype != np.int8:
        raise _mismatch("an array of int8", value)
    return memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


def sequence(value: object) -> Sequence[object]:
    if not isinstance(value, tuple | list):
        raise _mismatch("a tuple or a list", value)
    return value


def instance(value: object, cls: type[Value]) -> Value:
    if not isinstance(value, cls):
        raise _mismatch(cls.__name__, value)
    return value
