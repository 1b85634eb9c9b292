"""Calls that give the interpreter lock away do not disturb each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fl_cluster.kernels import native

_native = pytest.importorskip(
    "fl_cluster._native", reason="the extension was not built or not wanted", exc_type=ImportError
)

THREADS = 8
REPETITIONS = 50


def life_of_an_array(kernels: native.KernelSet, x: Any) -> bytes:
    """Every operation on arrays of one's own; what comes out depends on every step."""
    acc, total = np.zeros(x.size, np.int64), np.zeros(x.size, np.int64)
    out = np.empty(x.size, np.float32)
    for _ in range(REPETITIONS):
        assert kernels.find_unfit(x, 2.0**25, native.MAX_BOUND) == -1
        kernels.fold(acc, x, 2.0**25)
        kernels.merge(total, acc)
    kernels.finalise(out, total, 7.0)
    return out.tobytes() + total.tobytes()


@pytest.mark.parametrize("with_lock", [True, False])
def test_concurrent_calls_agree_with_serial_ones(
    kernels: native.KernelSet, inputs: Any, with_lock: bool
) -> None:
    n = _native.GIL_RELEASE_BYTES // 8 + (-1 if with_lock else 1_000)
    arrays = [inputs.random_floats(n) for _ in range(THREADS)]
    expected = [life_of_an_array(kernels, x) for x in arrays]

    with ThreadPoolExecutor(THREADS) as pool:
        actual = list(pool.map(lambda x: life_of_an_array(kernels, x), arrays))

    assert expected == actual


def test_readers_may_share_an_array(kernels: native.KernelSet, inputs: Any) -> None:
    x = inputs.random_floats(_native.GIL_RELEASE_BYTES)
    expected = life_of_an_array(kernels, x)

    with ThreadPoolExecutor(THREADS) as pool:
        actual = set(pool.map(lambda _: life_of_an_array(kernels, x), range(THREADS)))

    assert {expected} == actual


@pytest.mark.parametrize("n", [1_000, 50_000])
def test_concurrent_folds_of_compressed_updates_agree_with_serial_ones(
    kernels: native.KernelSet, inputs: Any, n: int
) -> None:
    updates = [inputs.compressed(n) for _ in range(THREADS)]

    def folded(update: Any) -> bytes:
        acc = np.zeros(n, np.int64)
        for _ in range(REPETITIONS):
            kernels.fold_quantised(acc, *update, (-0.5, 0.01, 9.0, 2.0**20))
        return acc.tobytes()

    expected = [folded(update) for update in updates]
    with ThreadPoolExecutor(THREADS) as pool:
        actual = list(pool.map(folded, updates))

    assert expected == actual
