"""What does not fit the two operations of compressed updates is refused before any change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import KernelMismatch
from fl_cluster.kernels import native

N = 12
NUMBERS = (-0.5, 0.25, 3.0, 2.0)


def good() -> dict[str, Any]:
    """Arguments of fold_quantised, by name, of which each case spoils one."""
    return {
        "acc": np.arange(N, dtype=np.int64),
        "base": np.ones(N, np.float32),
        "kept": np.array([0b10000001, 0b1000], np.uint8),
        "quants": np.array([1, -2, 3], np.int8),
    }


SPOILERS: dict[str, Callable[[Any], Any]] = {
    "of_another_type": lambda a: a.astype(np.int16),
    "of_the_other_sign": lambda a: a.view(
        {"i": f"u{a.itemsize}", "u": f"i{a.itemsize}", "f": np.int32}[a.dtype.kind]
    ),
    "strided": lambda a: np.repeat(a, 2)[::2],
    "two_dimensional": lambda a: a.reshape(1, -1),
    "of_pairs": lambda a: a.view([("value", a.dtype)]),
}


@pytest.mark.parametrize("spoil", list(SPOILERS.values()), ids=list(SPOILERS))
@pytest.mark.parametrize("name", ["acc", "base", "kept", "quants"])
def test_an_array_that_does_not_fit_is_a_mismatch(
    any_kernels: native.KernelSet, name: str, spoil: Callable[[Any], Any]
) -> None:
    arrays = good()
    before = arrays["acc"].tobytes()
    spoiled = {**arrays, name: spoil(arrays[name])}

    with pytest.raises(KernelMismatch, match=rf"^fold_quantised: {name} must be "):
        any_kernels.fold_quantised(*spoiled.values(), NUMBERS)

    assert arrays["acc"].tobytes() == before


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("base", np.ones(N + 1, np.float32), "acc has 12 elements, base has 13"),
        ("kept", np.array([7], np.uint8), "acc has 12 elements, kept has 1 bytes"),
        ("kept", np.array([7, 0, 0], np.uint8), "acc has 12 elements, kept has 3 bytes"),
        ("quants", np.ones(2, np.int8), "quants has 2 elements, which is not how many"),
        ("quants", np.ones(4, np.int8), "quants has 4 elements, which is not how many"),
        ("quants", np.ones(0, np.int8), "quants has 0 elements, which is not how many"),
        ("kept", np.array([3, 16], np.uint8), "quants has 3 elements, which is not how many"),
        ("kept", np.array([3, 128], np.uint8), "quants has 3 elements, which is not how many"),
    ],
)
def test_counts_that_do_not_fit_are_a_mismatch(
    any_kernels: native.KernelSet, name: str, value: Any, sentence: str
) -> None:
    """The last two: as many bits as quants, but one of them stands behind the last element."""
    arrays = good()
    before = arrays["acc"].tobytes()

    with pytest.raises(KernelMismatch, match=sentence):
        any_kernels.fold_quantised(*{**arrays, name: value}.values(), NUMBERS)

    assert arrays["acc"].tobytes() == before


@pytest.mark.parametrize("name", ["base", "kept", "quants"])
def test_a_source_in_the_memory_of_the_sums_is_a_mismatch(
    any_kernels: native.KernelSet, name: str
) -> None:
    arrays = good()
    memory = np.zeros(N, np.int64)
    inside = memory.view(arrays[name].dtype)[: arrays[name].size]
    inside[:] = arrays[name]
    before = memory.tobytes()

    with pytest.raises(KernelMismatch, match=f"acc and {name} overlap in memory"):
        any_kernels.fold_quantised(*{**arrays, "acc": memory, name: inside}.values(), NUMBERS)

    assert memory.tobytes() == before


@pytest.mark.parametrize(
    ("numbers", "fault"),
    [
        ((np.nan, 1.0, 1.0, 1.0), ValueError),
        ((0.0, np.inf, 1.0, 1.0), ValueError),
        ((0.0, 10**400, 1.0, 1.0), ValueError),
        ((0.0, 1.0, 0.0, 1.0), ValueError),
        ((0.0, 1.0, 1.0, -1.0), ValueError),
        ((0.0, 1.0, 1.0), TypeError),
        ([0.0, 1.0, 1.0, 1.0], TypeError),
        ((0.0, "1", 1.0, 1.0), TypeError),
        (None, TypeError),
    ],
)
def test_numbers_that_are_none_are_refused(
    any_kernels: native.KernelSet, numbers: Any, fault: type[Exception]
) -> None:
    arrays = good()
    before = arrays["acc"].tobytes()

    with pytest.raises(fault):
        any_kernels.fold_quantised(*arrays.values(), numbers)

    assert arrays["acc"].tobytes() == before


def test_read_only_sources_and_empty_arrays_are_arrays(any_kernels: native.KernelSet) -> None:
    arrays = good()
    for name in ("base", "kept", "quants"):
        arrays[name].flags.writeable = False

    any_kernels.fold_quantised(*arrays.values(), NUMBERS)
    any_kernels.fold_quantised(
        np.zeros(0, np.int64),
        np.zeros(0, np.float32),
        np.zeros(0, np.uint8),
        np.zeros(0, np.int8),
        NUMBERS,
    )

    # base * data_size * multiplier everywhere, and where kept (q + 128) * 0.25 - 0.5 times 2,
    # its halves rounded to even: 69.5, 68 and 70.5.
    expected = np.arange(N) + 6
    expected[[0, 7, 11]] = [70, 7 + 68, 11 + 70]
    assert arrays["acc"].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("arguments", "fault", "sentence"),
    [
        ((np.zeros(4, np.int8), 1, 2), KernelMismatch, "flags must be an array of uint8"),
        ((np.zeros(4, np.uint8), 2**31, 2), ValueError, "seed must be from"),
        ((np.zeros(4, np.uint8), 1, 5), ValueError, "kept must be from 0 to 4, got 5"),
        ((np.zeros(4, np.uint8), 1, -1), ValueError, "kept must be from 0 to 4, got -1"),
        ((np.zeros(4, np.uint8), 1.5, 1), TypeError, "float"),
        ((np.zeros(4, np.uint8), 1, None), TypeError, "NoneType"),
        (([0, 0], 1, 1), TypeError, "list"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(
    any_kernels: native.KernelSet, arguments: Any, fault: type[Exception], sentence: str
) -> None:
    with pytest.raises(fault, match=sentence):
        any_kernels.choose_kept(*arguments)


@pytest.mark.parametrize(("operation", "count"), [("fold_quantised", 5), ("choose_kept", 3)])
def test_a_wrong_number_of_arguments_is_a_type_error(
    kernels: native.KernelSet, operation: str, count: int
) -> None:
    for given in (0, count - 1, count + 1):
        with pytest.raises(TypeError, match=f"expected {count} arguments, got {given}"):
            getattr(kernels, operation)(*[None] * given)
