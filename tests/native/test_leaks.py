"""No call leaves anything behind, neither one that succeeds nor one that is refused."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import pytest

from fl_cluster.errors import KernelMismatch
from fl_cluster.kernels import native

_native = pytest.importorskip(
    "fl_cluster._native", reason="the extension was not built or not wanted", exc_type=ImportError
)

CALLS = 10_000
# What an interpreter may come to need meanwhile; a leak of one object per call shows as CALLS.
SLACK_BLOCKS = CALLS // 50
SLACK_BYTES = 2 * 2**20

ACC, OTHER = np.zeros(8, np.int64), np.zeros(8, np.int64)
X, OUT = np.ones(8, np.float32), np.zeros(8, np.float32)
LARGE_ACC, LARGE_X = np.zeros(2**13, np.int64), np.ones(2**13, np.float32)
SHORT, STRIDED, WRONG = np.zeros(3, np.int64), np.zeros(16, np.int64)[::2], np.zeros(8, np.uint8)
KEPT, QUANTS, FLAGS = np.array([7], np.uint8), np.ones(3, np.int8), np.zeros(8, np.uint8)
NUMBERS = (0.0, 1.0, 1.0, 1.0)
FIXED = np.zeros(8, np.int64)
FIXED.flags.writeable = False
ARRAYS = (
    ACC,
    OTHER,
    X,
    OUT,
    LARGE_ACC,
    LARGE_X,
    SHORT,
    STRIDED,
    WRONG,
    FIXED,
    KEPT,
    QUANTS,
    FLAGS,
    NUMBERS,
)

Call = Callable[[Any], object]

CALLED: dict[str, Call] = {
    "find_unfit": lambda k: k.find_unfit(X, 1.0, 1),
    "find_unfit without the lock": lambda k: k.find_unfit(LARGE_X, 1.0, 1),
    "fold": lambda k: k.fold(ACC, X, 2.0),
    "fold without the lock": lambda k: k.fold(LARGE_ACC, LARGE_X, 2.0),
    "merge": lambda k: k.merge(ACC, OTHER),
    "finalise": lambda k: k.finalise(OUT, ACC, 2.0),
    "fold_quantised": lambda k: k.fold_quantised(ACC, X, KEPT, QUANTS, NUMBERS),
    "fold_quantised refused": lambda k: k.fold_quantised(ACC, X, KEPT, QUANTS[:2], NUMBERS),
    "fold_quantised without quants": lambda k: k.fold_quantised(ACC, X, KEPT, None, NUMBERS),
    "fold_quantised without numbers": lambda k: k.fold_quantised(ACC, X, KEPT, QUANTS, None),
    "choose_kept": lambda k: k.choose_kept(FLAGS, 1, 3),
    "choose_kept out of range": lambda k: k.choose_kept(FLAGS, 1, 9),
    "choose_kept of another type": lambda k: k.choose_kept(ACC, 1, 3),
    "count": lambda k: k.fold(ACC, X),
    "factor of another type": lambda k: k.fold(ACC, X, "2"),
    "factor out of range": lambda k: k.fold(ACC, X, -1.0),
    "factor too large": lambda k: k.fold(ACC, X, 10**400),
    "bound of another type": lambda k: k.find_unfit(X, 1.0, "1"),
    "bound out of range": lambda k: k.find_unfit(X, 1.0, 2**70),
    "first is no array": lambda k: k.fold(None, X, 2.0),
    "second is no array": lambda k: k.fold(ACC, None, 2.0),
    "first of another type": lambda k: k.merge(WRONG, OTHER),
    "second of another type": lambda k: k.merge(ACC, WRONG),
    "first strided": lambda k: k.merge(STRIDED, OTHER),
    "second strided": lambda k: k.merge(ACC, STRIDED),
    "first read-only": lambda k: k.merge(FIXED, OTHER),
    "lengths differ": lambda k: k.merge(ACC, SHORT),
    "overlap": lambda k: k.merge(ACC, ACC),
    "finalise refused": lambda k: k.finalise(OUT, SHORT, 1.0),
    "find_unfit refused": lambda k: k.find_unfit(ACC, 1.0, 1),
    "attributes": lambda k: (k.name, k.block),
}


ASKED: dict[str, Call] = {
    "kernel_set": lambda m: m.kernel_set("portable"),
    "kernel_set of an unknown name": lambda m: m.kernel_set("avx3"),
    "kernel_set of another type": lambda m: m.kernel_set(3),
    "names": lambda m: (m.kernel(), m.available()),
}


def references() -> list[int]:
    return [sys.getrefcount(each) for each in (*ARRAYS, KernelMismatch, None)]


def repeat(call: Call, kernels: object, times: int) -> None:
    for _ in range(times):
        with suppress(KernelMismatch, TypeError, ValueError):
            call(kernels)


def check(call: Call, target: object) -> None:
    process = psutil.Process()
    repeat(call, target, 100)
    gc.collect()
    before, blocks, rss = references(), sys.getallocatedblocks(), process.memory_info().rss

    repeat(call, target, CALLS)
    gc.collect()

    growth = [after - count for after, count in zip(references(), before, strict=True)]
    assert max(growth) < SLACK_BLOCKS
    assert sys.getallocatedblocks() - blocks < SLACK_BLOCKS
    assert process.memory_info().rss - rss < SLACK_BYTES


under_asan = "asan" in os.environ.get("LD_PRELOAD", "")
pytestmark = pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory")


@pytest.mark.parametrize("call", list(CALLED.values()), ids=list(CALLED))
def test_ten_thousand_calls_leave_nothing_behind(kernels: native.KernelSet, call: Call) -> None:
    check(call, _native.kernel_set(kernels.name))


@pytest.mark.parametrize("call", list(ASKED.values()), ids=list(ASKED))
def test_ten_thousand_questions_leave_nothing_behind(call: Call) -> None:
    check(call, _native)
