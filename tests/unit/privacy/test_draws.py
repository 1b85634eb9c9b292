"""Random numbers as genuine devices draw them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from fl_cluster.privacy.draws import SystemStream, gaussians, next_below, next_bit, next_double


class Bytes:
    """A stream of given bytes."""

    def __init__(self, text: bytes) -> None:
        self._rest = text

    def take(self, count: int) -> bytes:
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken


def test_a_bit_is_the_top_bit_of_a_byte() -> None:
    assert [next_bit(Bytes(each)) for each in (b"\x80", b"\x7f", b"\xff", b"\x00")] == [
        True,
        False,
        True,
        False,
    ]


def test_a_bounded_number_is_the_remainder_of_31_bits() -> None:
    assert next_below(Bytes((12_345).to_bytes(4, "big")), 1_000) == (12_345 >> 1) % 1_000


def test_a_power_of_two_takes_the_high_bits() -> None:
    assert next_below(Bytes(b"\xff\xff\xff\xff"), 8) == 7
    assert next_below(Bytes(b"\x20\x00\x00\x00"), 8) == 1


def test_numbers_that_would_bias_are_drawn_again() -> None:
    bound = 2**30 + 1
    refused = (2**31 - 1).to_bytes(4, "big").replace(b"\x7f", b"\xff", 1)

    assert next_below(Bytes(refused + (10).to_bytes(4, "big")), bound) == 5


def test_a_fraction_has_26_and_27_bits() -> None:
    assert next_double(Bytes(bytes(8))) == 0.0
    assert next_double(Bytes(b"\xff" * 8)) == 1 - 2.0**-53
    assert next_double(Bytes(b"\x80" + bytes(7))) == 0.5


def test_gaussians_are_those_of_the_polar_method_one_by_one(stream: Callable[[str], Any]) -> None:
    def one_by_one(source: Any, count: int) -> list[float]:
        found: list[float] = []
        while len(found) < count:
            v1, v2 = 2 * next_double(source) - 1, 2 * next_double(source) - 1
            s = v1 * v1 + v2 * v2
            if 0 < s < 1:
                factor = math.sqrt(-2 * math.log(s) / s)
                found += [v1 * factor, v2 * factor]
        return found[:count]

    expected = one_by_one(stream("gauss"), 1_001)

    np.testing.assert_allclose(gaussians(stream("gauss"), 1_001), expected, rtol=4e-16, atol=0)


def test_gaussians_have_the_right_moments() -> None:
    class Fast:
        def take(self, count: int) -> bytes:
            return random.Random(count).randbytes(count)

    drawn = gaussians(SystemStream(), 200_000)

    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02
    assert abs((drawn**4).mean() - 3) < 0.15
    assert gaussians(Fast(), 0).size == 0
