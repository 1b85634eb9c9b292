"""No kernel touches a byte outside its arrays, not even by reading.

AddressSanitizer does not see masked AVX-512 loads and stores, so this is the only test of
those lines: arrays end right before a page without access, or begin right after one, and a
stray access ends the whole test run with a segmentation fault.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_cluster.kernels import native, reference

Place = Callable[[Any, int, Any], Any]

PLACES = {
    "right_before_a_guard": lambda memory, n, dtype: memory.at_end(n, dtype),
    "right_after_a_guard": lambda memory, n, dtype: memory.at_start(n, dtype),
}


@pytest.fixture(params=list(PLACES.values()), ids=list(PLACES))
def place(request: pytest.FixtureRequest) -> Place:
    place: Place = request.param
    return place


def test_find_unfit_reads_only_its_array(
    kernels: native.KernelSet, guarded: Any, place: Place
) -> None:
    for n in (*range(131), 1000):
        x = place(guarded[0], n, np.float32)
        x[:] = 1.0

        assert kernels.find_unfit(x, 1.0, 1) == -1


def test_fold_touches_only_its_arrays(
    kernels: native.KernelSet, guarded: Any, place: Place, inputs: Any
) -> None:
    for n in (*range(131), 1000):
        acc, x = place(guarded[0], n, np.int64), place(guarded[1], n, np.float32)
        acc[:], x[:] = inputs.random_integers(n), inputs.random_floats(n)
        expected = acc.copy()
        reference.fold(expected, x, 2.0**25)

        kernels.fold(acc, x, 2.0**25)

        assert expected.tobytes() == acc.tobytes()


def test_merge_touches_only_its_arrays(
    kernels: native.KernelSet, guarded: Any, place: Place, inputs: Any
) -> None:
    for n in (*range(131), 1000):
        acc, other = place(guarded[0], n, np.int64), place(guarded[1], n, np.int64)
        acc[:], other[:] = inputs.random_integers(n), inputs.random_integers(n)
        expected = acc + other

        kernels.merge(acc, other)

        assert expected.tobytes() == acc.tobytes()


def test_finalise_touches_only_its_arrays(
    kernels: native.KernelSet, guarded: Any, place: Place, inputs: Any
) -> None:
    for n in (*range(131), 1000):
        out, acc = place(guarded[0], n, np.float32), place(guarded[1], n, np.int64)
        acc[:] = inputs.random_integers(n)
        expected = np.empty(n, np.float32)
        reference.finalise(expected, acc, 3.0)

        kernels.finalise(out, acc, 3.0)

        assert expected.tobytes() == out.tobytes()


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_fold_quantised_touches_only_its_arrays(
    kernels: native.KernelSet, guarded_four: Any, place: Place, inputs: Any, rate: float
) -> None:
    """Four arrays, each in a memory of its own: quants are read in blocks that may be short."""
    memories = guarded_four
    numbers = (-0.3125, 0.0078125, 37.0, 2.0**24)
    for n in (*range(131), 1000):
        base_, kept_, quants_ = inputs.compressed(n, rate)
        acc = place(memories[0], n, np.int64)
        base, kept = place(memories[1], n, np.float32), place(memories[2], kept_.size, np.uint8)
        quants = place(memories[3], quants_.size, np.int8)
        acc[:], base[:], kept[:], quants[:] = inputs.random_integers(n), base_, kept_, quants_
        expected = acc.copy()
        reference.fold_quantised(expected, base, kept, quants, numbers)

        kernels.fold_quantised(acc, base, kept, quants, numbers)

        assert expected.tobytes() == acc.tobytes()


def test_choose_kept_touches_only_its_array(
    kernels: native.KernelSet, guarded: Any, place: Place
) -> None:
    for n in (*range(131), 1000):
        flags = place(guarded[0], n, np.uint8)

        kernels.choose_kept(flags, n, n // 3)

        assert int(flags.sum()) == n // 3


TRESPASS = """
import ctypes, importlib.util, sys
spec = importlib.util.spec_from_file_location("shared", sys.argv[1])
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
array = getattr(shared.GuardedMemory(100), sys.argv[2])(10, "u1")
print("before", flush=True)
ctypes.string_at(array.ctypes.data + int(sys.argv[3]), 1)
print("after", flush=True)
"""


@pytest.mark.parametrize(
    ("place_name", "distance", "survives"),
    [
        ("at_end", 9, True),
        ("at_end", 10, False),
        ("at_start", 0, True),
        ("at_start", -1, False),
    ],
)
def test_the_guards_bite_one_byte_outside(place_name: str, distance: int, survives: bool) -> None:
    shared = Path(__file__).with_name("conftest.py")

    process = subprocess.run(
        [sys.executable, "-c", TRESPASS, str(shared), place_name, str(distance)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert ("before\nafter\n" if survives else "before\n") == process.stdout
    assert survives == (process.returncode == 0)
    if not survives and "AddressSanitizer" not in process.stderr:
        assert process.returncode == -signal.SIGSEGV
