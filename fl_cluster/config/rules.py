"""What a value may be: each rule judges one value and says what it would have taken.

A complaint is, to the letter, the original's message up to the name of the file; numbers in
it are written as C++ `std::to_string` writes them (floats with six decimals).
`allowed` says the same to a person.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

Value = str | int | float | bool

UINT32_MAX = 4_294_967_295
INT64_MAX = 9_223_372_036_854_775_807
FAILED = "Failed to check value of parameter"


def single(number: float) -> float:
    """`number` in single precision, out of which the original's floats come."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        return math.copysign(math.inf, number)


def number_text(number: float) -> str:
    """`number` as `std::to_string` has it."""
    return str(number) if isinstance(number, int) else f"{number:.6f}"


def _bound_text(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _failed(key: str, detail: str) -> str:
    return f"{FAILED} '{key}': {detail}"


class Rule(Protocol):
    """Judges a value that has the right type already."""

    def complaint(self, key: str, value: Value) -> str | None:
        """What the message says is wrong, or None when nothing is."""

    @property
    def allowed(self) -> str:
        """What is allowed, in a few words for a person."""


@dataclass(frozen=True, slots=True)
class Between:
    """A number between two bounds, each of which is inside unless it is said to be open."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False

    def complaint(self, key: str, value: Value) -> str | None:
        assert isinstance(value, int | float)
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        if above and below:
            return None
        # The four texts differ in more than the brackets; so they do in the original.
        words = {
            (True, True): "expect value to be range of (",
            (False, True): "value is expected to be range of [",
            (True, False): "value is expected value to be range of (",
            (False, False): "value is expected to be range of [",
        }[self.low_open, self.high_open]
        interval = f"{number_text(self.low)},{number_text(self.high)}"
        closing = ")" if self.high_open else "]"
        return _failed(key, f"{words}{interval}{closing}, but got {number_text(value)}")

    @property
    def allowed(self) -> str:
        kind = "a whole number" if isinstance(self.low, int) else "a number"
        low, high = _bound_text(self.low), _bound_text(self.high)
        if not self.low_open and not self.high_open:
            return f"{kind} from {low} to {high}"
        above, below = ("above", "at least"), ("below", "at most")
        return f"{kind} {above[not self.low_open]} {low}, {below[not self.high_open]} {high}"


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A whole number that is not below a bound."""

    low: int

    def complaint(self, key: str, value: Value) -> str | None:
        assert isinstance(value, int)
        if value < self.low:
            return _failed(key, f"value is expected >={self.low}, but got {value}")
        return None

    @property
    def allowed(self) -> str:
        return f"a whole number of at least {self.low}"


@dataclass(frozen=True, slots=True)
class Above:
    """A finite number above a bound."""

    low: float

    def complaint(self, key: str, value: Value) -> str | None:
        assert isinstance(value, int | float)
        if not value > self.low:
            bound = number_text(self.low)
            return _failed(key, f"value is expected >{bound}, but got {number_text(value)}")
        if math.isinf(value):
            return _failed(key, f"value is expected to be finite, but got {value}")
        return None

    @property
    def allowed(self) -> str:
        return f"a number above {_bound_text(self.low)}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few words; the checked value becomes the member of `words`."""

    words: type[StrEnum]
    ours: tuple[str, ...] = ()
    """Words that the original does not know, and so does not list."""

    def complaint(self, key: str, value: Value) -> str | None:
        if value in list(self.words):
            return None
        choices = ", ".join(word for word in self.words if word not in self.ours)
        return f"The value of parameter '{key}' can be only one of [{choices}], but got {value}"

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(self.words)

    @property
    def afterword(self) -> str:
        """What the original's message does not say, to be put behind it."""
        return f"; here {' or '.join(self.ours)} is one as well" if self.ours else ""


@dataclass(frozen=True, slots=True)
class OneServerMode(OneOf):
    """The one enumeration for which the original has a sentence of its own."""

    def complaint(self, key: str, value: Value) -> str | None:
        if OneOf.complaint(self, key, value) is None:
            return None
        return f"{value} is invalid. Server mode must be {' or '.join(self.words)}"


@dataclass(frozen=True, slots=True)
class Readable:
    """Text that `read` accepts; its `ValueError` is the complaint."""

    read: Callable[[str], object]
    form: str
    """What such a text looks like."""

    def complaint(self, key: str, value: Value) -> str | None:
        assert isinstance(value, str)
        try:
            self.read(value)
        except ValueError as exc:
            return _failed(key, str(exc))
        return None

    @property
    def allowed(self) -> str:
        return self.form
