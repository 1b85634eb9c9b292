"""What does not fit is refused by every kernel set, in the same way, before any change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import KernelMismatch
from fl_cluster.kernels import native

N = 4


@dataclass
class Arrays:
    """Good arguments, of which each case spoils one."""

    acc: Any = field(default_factory=lambda: np.arange(N, dtype=np.int64))
    other: Any = field(default_factory=lambda: np.arange(N, dtype=np.int64))
    x: Any = field(default_factory=lambda: np.ones(N, np.float32))
    out: Any = field(default_factory=lambda: np.full(N, 9, np.float32))
    number: Any = 2.0
    bound: Any = 10

    def call(self, kernels: native.KernelSet, operation: str) -> Any:
        arguments = {
            "find_unfit": (self.x, self.number, self.bound),
            "fold": (self.acc, self.x, self.number),
            "merge": (self.acc, self.other),
            "finalise": (self.out, self.acc, self.number),
        }
        return getattr(kernels, operation)(*arguments[operation])

    def contents(self) -> list[bytes]:
        arrays = (self.acc, self.other, self.x, self.out)
        return [array.tobytes() for array in arrays if isinstance(array, np.ndarray)]


USES = {
    "x": ["find_unfit", "fold"],
    "acc": ["fold", "merge", "finalise"],
    "other": ["merge"],
    "out": ["finalise"],
}
WRITTEN = [("acc", "fold"), ("acc", "merge"), ("out", "finalise")]

SPOILERS: dict[str, Callable[[Any], Any]] = {
    "wider": lambda a: a.astype(np.float64 if a.dtype.kind == "f" else np.uint64),
    "narrower": lambda a: a.astype(np.float16 if a.dtype.kind == "f" else np.int32),
    "of_the_other_kind": lambda a: a.view(np.int32 if a.dtype.kind == "f" else np.float64),
    "unsigned_bytes": lambda a: a.view(np.uint8),
    "complex": lambda a: a.astype(np.complex64),
    "of_pairs": lambda a: a.view([("value", a.dtype)]),
    "of_objects": lambda a: a.astype(object),
    "of_foreign_byte_order": lambda a: a.astype(a.dtype.newbyteorder()),
    "strided": lambda a: np.repeat(a, 2)[::2],
    "reversed": lambda a: a[::-1],
    "two_dimensional": lambda a: a.reshape(2, 2),
    "without_dimensions": lambda a: a[:1].reshape(()),
}


@pytest.mark.parametrize("spoil", list(SPOILERS.values()), ids=list(SPOILERS))
@pytest.mark.parametrize(
    ("name", "operation"),
    [(name, operation) for name, operations in USES.items() for operation in operations],
)
def test_an_array_that_does_not_fit_is_a_mismatch(
    any_kernels: native.KernelSet, name: str, operation: str, spoil: Callable[[Any], Any]
) -> None:
    arrays = Arrays()
    setattr(arrays, name, spoil(getattr(arrays, name)))
    before = arrays.contents()

    with pytest.raises(KernelMismatch, match=rf"^{operation}: {name} must be "):
        arrays.call(any_kernels, operation)

    assert before == arrays.contents()


@pytest.mark.parametrize(("name", "operation"), WRITTEN)
def test_a_read_only_target_is_a_mismatch(
    any_kernels: native.KernelSet, name: str, operation: str
) -> None:
    arrays = Arrays()
    getattr(arrays, name).flags.writeable = False
    before = arrays.contents()

    with pytest.raises(KernelMismatch, match=rf"^{operation}: {name} must be .*writable"):
        arrays.call(any_kernels, operation)

    assert before == arrays.contents()


@pytest.mark.parametrize("operation", ["find_unfit", "fold", "merge", "finalise"])
def test_what_is_only_read_may_be_read_only(any_kernels: native.KernelSet, operation: str) -> None:
    arrays = Arrays()
    arrays.x.flags.writeable = False
    arrays.other.flags.writeable = False
    arrays.acc.flags.writeable = operation != "finalise"
    before = arrays.contents()

    arrays.call(any_kernels, operation)

    assert (operation == "find_unfit") == (before == arrays.contents())


@pytest.mark.parametrize("size", [0, N - 1, N + 1])
@pytest.mark.parametrize(
    ("operation", "name"), [("fold", "x"), ("merge", "other"), ("finalise", "acc")]
)
def test_lengths_that_differ_are_a_mismatch(
    any_kernels: native.KernelSet, operation: str, name: str, size: int
) -> None:
    arrays = Arrays()
    setattr(arrays, name, np.zeros(size, getattr(arrays, name).dtype))
    before = arrays.contents()

    with pytest.raises(KernelMismatch, match=rf"{N} elements, {name} has {size}"):
        arrays.call(any_kernels, operation)

    assert before == arrays.contents()


def test_overlapping_arrays_are_a_mismatch(any_kernels: native.KernelSet) -> None:
    memory = np.arange(3 * N, dtype=np.int64)
    floats = memory.view(np.float32)
    before = memory.tobytes()
    overlapping: list[Callable[[], object]] = [
        lambda: any_kernels.merge(memory, memory),
        lambda: any_kernels.merge(memory[:N], memory[N - 1 : 2 * N - 1]),
        lambda: any_kernels.merge(memory[N - 1 : 2 * N - 1], memory[:N]),
        lambda: any_kernels.fold(memory[:N], floats[2 * N - 1 : 3 * N - 1], 1.0),
        lambda: any_kernels.fold(memory, floats[: 3 * N], 1.0),
        lambda: any_kernels.finalise(floats[:N], memory[:N], 1.0),
    ]

    for call in overlapping:
        with pytest.raises(KernelMismatch, match="overlap in memory"):
            call()

    assert before == memory.tobytes()


def test_neighbours_in_one_memory_do_not_overlap(any_kernels: native.KernelSet) -> None:
    memory = np.arange(2 * N, dtype=np.int64)

    any_kernels.merge(memory[:N], memory[N:])
    any_kernels.merge(memory[N:], memory[:N])

    assert memory.tolist() == [4, 6, 8, 10, 8, 11, 14, 17]


def test_empty_arrays_are_arrays(any_kernels: native.KernelSet) -> None:
    acc, x = np.zeros(0, np.int64), np.zeros(0, np.float32)

    any_kernels.fold(acc, x, 1.0)
    any_kernels.merge(acc, acc.copy())
    any_kernels.finalise(x, acc, 1.0)

    assert any_kernels.find_unfit(x, 1.0, 1) == -1


@pytest.mark.parametrize(
    "number", [0, 0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 10**400, -(10**400)]
)
@pytest.mark.parametrize("operation", ["find_unfit", "fold", "finalise"])
def test_a_factor_must_be_finite_and_above_zero(
    any_kernels: native.KernelSet, operation: str, number: float
) -> None:
    arrays = Arrays(number=number)
    before = arrays.contents()

    with pytest.raises(ValueError, match="must be a finite number above 0"):
        arrays.call(any_kernels, operation)

    assert before == arrays.contents()


@pytest.mark.parametrize("bound", [0, -1, native.MAX_BOUND + 1, 2**63, -(2**63) - 1, 10**30])
def test_a_bound_must_be_in_its_range(any_kernels: native.KernelSet, bound: int) -> None:
    with pytest.raises(ValueError, match=rf"from 1 to {native.MAX_BOUND}, got {bound}"):
        Arrays(bound=bound).call(any_kernels, "find_unfit")


@pytest.mark.parametrize("bound", [1, 2, native.MAX_BOUND, np.int64(7), True])
def test_a_bound_may_be_any_integer_in_its_range(any_kernels: native.KernelSet, bound: int) -> None:
    assert Arrays(bound=bound, number=1.0).call(any_kernels, "find_unfit") == -1


@pytest.mark.parametrize(
    ("spoiled", "operation"),
    [
        ({"number": None}, "find_unfit"),
        ({"number": "2"}, "fold"),
        ({"number": 2j}, "finalise"),
        ({"bound": 1.5}, "find_unfit"),
        ({"bound": None}, "find_unfit"),
        ({"x": [1.0, 2.0, 3.0, 4.0]}, "fold"),
        ({"x": None}, "find_unfit"),
        ({"acc": 7}, "merge"),
        ({"out": "text"}, "finalise"),
    ],
)
def test_what_is_no_array_or_no_number_is_a_type_error(
    any_kernels: native.KernelSet, spoiled: dict[str, Any], operation: str
) -> None:
    arrays = Arrays(**spoiled)
    before = arrays.contents()

    with pytest.raises(TypeError):
        arrays.call(any_kernels, operation)

    assert before == arrays.contents()


@pytest.mark.parametrize(
    ("operation", "expected"), [("find_unfit", 3), ("fold", 3), ("merge", 2), ("finalise", 3)]
)
def test_a_wrong_number_of_arguments_is_a_type_error(
    kernels: native.KernelSet, operation: str, expected: int
) -> None:
    call = getattr(kernels, operation)
    for count in (0, 1, expected - 1, expected + 1):
        message = f"{operation}: expected {expected} arguments, got {count}"
        with pytest.raises(TypeError, match=message):
            call(*[np.zeros(N, np.int64)] * count)


def test_keywords_are_a_type_error(any_kernels: native.KernelSet) -> None:
    call: Any = any_kernels.merge

    with pytest.raises(TypeError):
        call(acc=np.zeros(N, np.int64), other=np.zeros(N, np.int64))


def test_any_exporter_of_the_right_format_will_do(kernels: native.KernelSet) -> None:
    memory = bytearray(8 * N)
    acc: Any = memoryview(memory).cast("q")
    x: Any = memoryview(np.full(N, 2.5, np.float32).tobytes()).cast("f")

    kernels.fold(acc, x, 1.0)

    assert acc.tolist() == [2] * N


def test_a_plain_byte_buffer_is_a_mismatch(kernels: native.KernelSet) -> None:
    acc: Any = bytearray(8)

    with pytest.raises(KernelMismatch, match="fold: acc must be an array of int64"):
        kernels.fold(acc, np.ones(1, np.float32), 1.0)


def test_a_product_that_is_no_float32_becomes_infinite(any_kernels: native.KernelSet) -> None:
    out = np.zeros(2, np.float32)

    any_kernels.finalise(out, np.array([2**62, -(2**62)], np.int64), 2.0**-80)

    assert [np.inf, -np.inf] == out.tolist()
