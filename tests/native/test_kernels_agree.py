"""Every kernel set gives the bytes of the reference, and changes nothing else.

Arrays are windows into a canvas; the whole canvas is compared, so that a store before the
first or after the last element shows.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_cluster.kernels import native, reference

BOUNDARY = 64

Array = npt.NDArray[Any]


class Canvas:
    """A window with the given contents, a given distance after a 64-byte boundary."""

    def __init__(self, contents: npt.NDArray[Any], offset_bytes: int = 0) -> None:
        memory = np.full(contents.nbytes + 5 * BOUNDARY, 0xA5, np.uint8)
        first = -memory.ctypes.data % BOUNDARY
        self._aligned = memory[first : first + contents.nbytes + 4 * BOUNDARY]
        start = BOUNDARY + offset_bytes
        window = self._aligned[start : start + contents.nbytes]
        self.window: npt.NDArray[Any] = window.view(contents.dtype)
        self.window[:] = contents

    def bytes(self) -> bytes:
        """All of it: the window and what lies around it."""
        return self._aligned.tobytes()


Offsets = tuple[int, int]


def folded(
    kernels: Any, acc: Array, x: Array, multiplier: float, offsets: Offsets = (0, 0)
) -> bytes:
    canvas = Canvas(acc, offsets[0])
    kernels.fold(canvas.window, Canvas(x, offsets[1]).window, multiplier)
    return canvas.bytes()


def merged(kernels: Any, acc: Array, other: Array, offsets: Offsets = (0, 0)) -> bytes:
    canvas = Canvas(acc, offsets[0])
    kernels.merge(canvas.window, Canvas(other, offsets[1]).window)
    return canvas.bytes()


def finalised(kernels: Any, acc: Array, divisor: float, offsets: Offsets = (0, 0)) -> bytes:
    canvas = Canvas(np.full(acc.size, np.nan, np.float32), offsets[0])
    kernels.finalise(canvas.window, Canvas(acc, offsets[1]).window, divisor)
    return canvas.bytes()


NUMBERS = (-0.3125, 0.0078125, 37.0, 2.0**24)


def folded_quantised(
    kernels: Any,
    acc: Array,
    compressed: tuple[Array, Array, Array],
    numbers: tuple[float, float, float, float] = NUMBERS,
    offsets: Offsets = (0, 0),
) -> bytes:
    canvas = Canvas(acc, offsets[0])
    base, kept, quants = (Canvas(each, offsets[1]).window for each in compressed)
    kernels.fold_quantised(canvas.window, base, kept, quants, numbers)
    return canvas.bytes()


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.4, 1.0])
def test_fold_quantised_agrees_at_every_length(
    kernels: native.KernelSet, lengths: list[int], inputs: Any, rate: float
) -> None:
    for n in lengths:
        acc, compressed = inputs.random_integers(n), inputs.compressed(n, rate)

        expected = folded_quantised(reference, acc, compressed)

        assert expected == folded_quantised(kernels, acc, compressed), n


@pytest.mark.parametrize("offset", [*range(0, 72, 5), 3])
def test_fold_quantised_agrees_at_every_offset(
    kernels: native.KernelSet, inputs: Any, offset: int
) -> None:
    n = 2 * kernels.block + 5
    acc, compressed = inputs.random_integers(n), inputs.compressed(n)

    for at in ((offset, offset), (offset, 0), (0, offset)):
        expected = folded_quantised(reference, acc, compressed, offsets=at)
        assert expected == folded_quantised(kernels, acc, compressed, offsets=at)


@settings(deadline=None)
@given(
    n=st.integers(0, 200),
    minimum=st.floats(-1e4, 1e4, width=32),
    scale=st.floats(2.0**-33, 128, width=32),
    size=st.integers(1, 2**16 - 1),
    exponent=st.integers(-20, 12),
)
def test_fold_quantised_agrees_for_any_numbers(
    kernels: native.KernelSet, n: int, minimum: float, scale: float, size: int, exponent: int
) -> None:
    """Every product is rounded to float32 where the reference rounds it: nothing is fused."""
    numbers = (minimum, scale, float(size), 2.0**exponent)
    random = np.random.default_rng(n)
    flags = random.random(n) < 0.5
    quants = random.integers(-128, 128, int(np.count_nonzero(flags)), dtype=np.int8)
    base = random.standard_normal(n, dtype=np.float32)
    compressed = (base, np.packbits(flags, bitorder="little"), quants)
    acc = np.arange(n, dtype=np.int64)

    expected = folded_quantised(reference, acc, compressed, numbers)

    assert expected == folded_quantised(kernels, acc, compressed, numbers)


@settings(deadline=None)
@given(n=st.integers(0, 300), seed=st.integers(-(2**31), 2**31 - 1), rate=st.floats(0, 1))
def test_choose_kept_agrees_for_any_seed(
    kernels: native.KernelSet, n: int, seed: int, rate: float
) -> None:
    kept = int(n * rate)
    expected, found = Canvas(np.full(n, 7, np.uint8), 3), Canvas(np.full(n, 7, np.uint8), 3)

    reference.choose_kept(expected.window, seed, kept)
    kernels.choose_kept(found.window, seed, kept)

    assert expected.bytes() == found.bytes()


def test_fold_agrees_at_every_length(
    kernels: native.KernelSet, lengths: list[int], inputs: Any
) -> None:
    for n in lengths:
        acc = inputs.random_integers(n)
        for x in (inputs.periodic_floats(n), inputs.random_floats(n)):
            expected = folded(reference, acc, x, 300 * 2.0**20)

            assert expected == folded(kernels, acc, x, 300 * 2.0**20), n


def test_merge_agrees_at_every_length(
    kernels: native.KernelSet, lengths: list[int], inputs: Any
) -> None:
    for n in lengths:
        acc, other = inputs.random_integers(n), inputs.random_integers(n)

        assert merged(reference, acc, other) == merged(kernels, acc, other), n


def test_finalise_agrees_at_every_length(
    kernels: native.KernelSet, lengths: list[int], inputs: Any
) -> None:
    for n in lengths:
        acc = inputs.random_integers(n)

        assert finalised(reference, acc, 777.0) == finalised(kernels, acc, 777.0), n


def test_find_unfit_agrees_at_every_length(
    kernels: native.KernelSet, lengths: list[int], inputs: Any
) -> None:
    for n in lengths:
        x = inputs.random_floats(n)

        for bound in (1, 2, 3, 4, 2**51):
            assert reference.find_unfit(x, 1.0, bound) == kernels.find_unfit(x, 1.0, bound), n


@pytest.mark.parametrize("offset", [*range(16), -1])
def test_the_operations_agree_at_every_offset(
    kernels: native.KernelSet, inputs: Any, offset: int
) -> None:
    """Counted in elements; -1 is not even a multiple of a byte pair."""
    n = 2 * kernels.block + 5
    x = inputs.random_floats(n)
    acc, other = inputs.random_integers(n), inputs.random_integers(n)
    wide, narrow = (8 * offset, 4 * (offset * 7 % 16)) if offset >= 0 else (3, 1)
    last_unfit = np.where(np.arange(n) == n - 1, np.float32(np.nan), x)

    for at in ((wide, narrow), (wide, 0), (0, narrow)):
        assert folded(reference, acc, x, 3.0, at) == folded(kernels, acc, x, 3.0, at)
        assert finalised(reference, acc, 3.0, at[::-1]) == finalised(kernels, acc, 3.0, at[::-1])
    assert merged(reference, acc, other, (wide, 8)) == merged(kernels, acc, other, (wide, 8))
    assert n - 1 == kernels.find_unfit(Canvas(last_unfit, narrow).window, 1.0, 100)


@pytest.mark.parametrize("multiplier", [1.0, 0.5, 2.0**-140, 5e-324])
def test_fold_agrees_on_ties_subnormals_zeros_and_the_bound(
    kernels: native.KernelSet, inputs: Any, multiplier: float
) -> None:
    x = np.tile(inputs.odd_floats(), 3)
    acc = inputs.random_integers(x.size)

    assert kernels.find_unfit(x, multiplier, native.MAX_BOUND) == -1
    assert folded(reference, acc, x, multiplier) == folded(kernels, acc, x, multiplier)


@pytest.mark.parametrize("divisor", [1.0, 3.0, 12_345 * 2.0**25, 2.0**160, 2.0**200, 2.0**-70])
def test_finalise_agrees_on_every_magnitude(
    kernels: native.KernelSet, inputs: Any, divisor: float
) -> None:
    """From float32 subnormals and zero (2**200) to values beyond its range (2**-70)."""
    acc = np.concatenate([inputs.odd_integers(), inputs.random_integers(20_000)])

    assert finalised(reference, acc, divisor) == finalised(kernels, acc, divisor)


def test_merge_wraps_around_like_the_reference(kernels: native.KernelSet) -> None:
    acc = np.array([2**63 - 1, -(2**63)] * 50, np.int64)
    other = np.array([1, -1] * 50, np.int64)

    assert merged(reference, acc, other) == merged(kernels, acc, other)


def test_find_unfit_finds_the_first_one_at_every_position(kernels: native.KernelSet) -> None:
    n = 2 * kernels.block + 2
    for position in range(n):
        x = np.ones(n, np.float32)
        x[position:] = np.nan

        assert position == kernels.find_unfit(x, 1.0, 1)
        assert kernels.find_unfit(x[:position], 1.0, 1) == -1


@pytest.mark.parametrize(
    "unfit",
    [np.nan, -np.nan, np.inf, -np.inf, *np.nextafter([8, -8], [9, -9], dtype=np.float32), 3e38],
)
def test_find_unfit_knows_every_kind_of_unfit(kernels: native.KernelSet, unfit: float) -> None:
    n = kernels.block + 3
    for position in (0, 1, kernels.block - 1, kernels.block, n - 1):
        x = np.full(n, 8.0, np.float32)
        x[position] = unfit

        assert position == kernels.find_unfit(x, 1.0, 8)


def test_find_unfit_passes_subnormals_and_signed_zeros(kernels: native.KernelSet) -> None:
    x = np.tile(np.array([0.0, -0.0, 1e-45, -1e-45, 1e-39], np.float32), 40)

    assert kernels.find_unfit(x, 65_535 * 2.0**40, 1) == -1


@settings(deadline=None)
@given(
    size=st.integers(1, 2**16 - 1),
    exponent=st.integers(-160, 180),
    bound=st.integers(1, native.MAX_BOUND),
    steps=st.integers(-3, 3),
)
def test_find_unfit_is_exact_at_the_limit(
    kernels: native.KernelSet, size: int, exponent: int, bound: int, steps: int
) -> None:
    """Within three floats of bound / multiplier, against arithmetic without rounding."""
    multiplier = size * 2.0**exponent
    x = np.array([min(bound / multiplier, 3.4e38)], np.float32)
    for _ in range(abs(steps)):
        x = np.nextafter(x, np.float32(np.inf if steps > 0 else 0))
    fits = bool(np.isfinite(x[0])) and Fraction(float(x[0])) * Fraction(multiplier) <= bound

    assert (-1 if fits else 0) == kernels.find_unfit(x, multiplier, bound)
    assert (-1 if fits else 0) == kernels.find_unfit(-x, multiplier, bound)


@settings(deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=150),
    size=st.integers(1, 2**16 - 1),
    exponent=st.integers(-20, 40),
)
def test_what_fits_folds_like_the_reference(
    kernels: native.KernelSet, values: list[float], size: int, exponent: int
) -> None:
    x = np.array(values, np.float32)
    multiplier = size * 2.0**exponent
    unfit = reference.find_unfit(x, multiplier, native.MAX_BOUND)
    x = x if unfit < 0 else x[:unfit]
    acc = np.arange(x.size, dtype=np.int64)

    assert unfit == kernels.find_unfit(np.array(values, np.float32), multiplier, native.MAX_BOUND)
    assert folded(reference, acc, x, multiplier) == folded(kernels, acc, x, multiplier)


@settings(deadline=None)
@given(
    values=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=150),
    divisor=st.floats(min_value=2.0**-80, max_value=2.0**200, allow_subnormal=False),
)
def test_finalise_agrees_with_the_reference(
    kernels: native.KernelSet, values: list[int], divisor: float
) -> None:
    acc = np.array(values, np.int64)

    assert finalised(reference, acc, divisor) == finalised(kernels, acc, divisor)
