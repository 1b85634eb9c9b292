"""Random numbers as genuine devices draw them from a stream of bytes.

In production the stream is the system's; tests inject one and then get a device's numbers to
the bit.  The published SDK makes a new generator where this package takes `streams`, a
function that gives one; from the system's stream the difference cannot be seen.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_ATTEMPTS = 2**14
_ATTEMPT_BYTES = 16


class Stream(Protocol):
    """Random bytes, one after the other."""

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""


class SystemStream:
    """The system's generator, fit for keys."""

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        return secrets.token_bytes(count)


Streams = Callable[[], Stream]
"""Where the published SDK makes a generator, this makes a stream."""


def next_bit(stream: Stream) -> bool:
    """The top bit of one byte."""
    return stream.take(1)[0] >= 128


def next_below(stream: Stream, bound: int) -> int:
    """A whole number from 0 to below `bound`, which is at most 2**31 - 1, without bias."""
    bits = _next_31(stream)
    if bound & (bound - 1) == 0:
        return bound * bits >> 31
    while bits - bits % bound + bound - 1 >= 2**31:
        bits = _next_31(stream)
    return bits % bound


def next_double(stream: Stream) -> float:
    """A number from 0 to below 1, a multiple of 2**-53."""
    return float(_doubles(stream.take(8))[0])


def gaussians(stream: Stream, count: int) -> Doubles:
    """`count` numbers of mean 0 and deviation 1, by the polar method.

    Reads ahead: the position of the stream afterwards means nothing.
    """
    out = np.empty(count, np.float64)
    done = 0
    while done < count:
        attempts = min(_ATTEMPTS, (count - done) // 2 + 8)
        points = 2 * _doubles(stream.take(_ATTEMPT_BYTES * attempts)).reshape(-1, 2) - 1
        squares = points[:, 0] * points[:, 0] + points[:, 1] * points[:, 1]
        is_inside = (squares < 1) & (squares > 0)
        squares = squares[is_inside]
        factors = np.sqrt(-2 * np.log(squares) / squares)
        found = (points[is_inside] * factors[:, None]).reshape(-1)[: count - done]
        out[done : done + found.size] = found
        done += found.size
    return out


def _next_31(stream: Stream) -> int:
    return int.from_bytes(stream.take(4), "big") >> 1


def _doubles(raw: bytes) -> Doubles:
    words = np.frombuffer(raw, ">u4").astype(np.uint64).reshape(-1, 2)
    whole = ((words[:, 0] >> np.uint64(6)) << np.uint64(27)) + (words[:, 1] >> np.uint64(5))
    return whole.astype(np.float64) * 2.0**-53
