"""The kernels in NumPy: the definition of correct, and the stand-in for the extension.

Exact integer aggregation: a float32 element times an exact multiplier is rounded once to
int64, and from there on sums are integers, so they depend on no order and no machine.
Every other kernel set gives the same bits as this one and is tested against it.

What is checked at the boundary is the same everywhere: an array that does not fit is a
`KernelMismatch`, raised before anything is changed; a number out of range a `ValueError`.
Not here: speed, and the choice of a set (see `native`).
"""

from __future__ import annotations

import math
from operator import index
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fl_cluster.errors import KernelMismatch

Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]

MAX_BOUND = 2**51

# Elements at a time: temporaries stay in the cache however large the arrays are.
BLOCK = 2**16


def find_unfit(x: Floats, multiplier: float, bound: int, /) -> int:
    """The index of the first element that is NaN, infinite or has |x * multiplier| > bound.

    -1 when all fit.  `multiplier` is finite and above 0; `bound` is from 1 to MAX_BOUND.
    """
    _check_positive("find_unfit", "multiplier", multiplier)
    if not 1 <= index(bound) <= MAX_BOUND:
        raise ValueError(f"find_unfit: bound must be from 1 to {MAX_BOUND}, got {bound}")
    _check_array("find_unfit", "x", x, np.float32)
    with np.errstate(all="ignore"):
        for start in range(0, x.size, BLOCK):
            scaled = x[start : start + BLOCK].astype(np.float64) * multiplier
            fits = np.abs(scaled) <= bound
            if not fits.all():
                return start + int(fits.argmin())
    return -1


def fold(acc: Integers, x: Floats, multiplier: float, /) -> None:
    """acc[i] += round_half_even(float64(x[i]) * multiplier), in int64.

    `x` fits: `find_unfit` said so for this multiplier.  What is added for an element that
    does not fit is unspecified.
    """
    _check_positive("fold", "multiplier", multiplier)
    _check_array("fold", "acc", acc, np.int64, writable=True)
    _check_array("fold", "x", x, np.float32)
    _check_pair("fold", ("acc", acc), ("x", x))
    with np.errstate(all="ignore"):
        for start in range(0, x.size, BLOCK):
            scaled = x[start : start + BLOCK].astype(np.float64) * multiplier
            acc[start : start + BLOCK] += np.rint(scaled).astype(np.int64)


def merge(acc: Integers, other: Integers, /) -> None:
    """acc[i] += other[i], modulo 2**64."""
    _check_array("merge", "acc", acc, np.int64, writable=True)
    _check_array("merge", "other", other, np.int64)
    _check_pair("merge", ("acc", acc), ("other", other))
    acc += other


def finalise(out: Floats, acc: Integers, divisor: float, /) -> None:
    """out[i] = float32(float64(acc[i]) / divisor): three roundings, each to nearest even."""
    _check_positive("finalise", "divisor", divisor)
    _check_array("finalise", "out", out, np.float32, writable=True)
    _check_array("finalise", "acc", acc, np.int64)
    _check_pair("finalise", ("out", out), ("acc", acc))
    with np.errstate(all="ignore"):
        for start in range(0, acc.size, BLOCK):
            part = slice(start, start + BLOCK)
            out[part] = acc[part].astype(np.float64) / divisor


def _check_positive(function: str, name: str, number: float) -> None:
    try:
        is_finite = math.isfinite(number)
    except OverflowError:
        is_finite = False
    if not (is_finite and number > 0):
        raise ValueError(f"{function}: {name} must be a finite number above 0, got {number!r}")


def _check_array(
    function: str,
    name: str,
    array: npt.NDArray[np.generic],
    dtype: type[np.generic],
    *,
    writable: bool = False,
) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{function}: {name} must be an array, got {type(array).__name__}")
    if array.dtype != dtype or array.ndim != 1:
        raise KernelMismatch(
            f"{function}: {name} must be an array of {np.dtype(dtype)} with 1 dimension, "
            f"got {array.dtype} with shape {array.shape}"
        )
    if not array.flags.c_contiguous or (writable and not array.flags.writeable):
        raise KernelMismatch(
            f"{function}: {name} must be C-contiguous{' and writable' if writable else ''}"
        )


def _check_pair(
    function: str,
    target: tuple[str, npt.NDArray[np.generic]],
    source: tuple[str, npt.NDArray[np.generic]],
) -> None:
    if target[1].size != source[1].size:
        raise KernelMismatch(
            f"{function}: {target[0]} has {target[1].size} elements, "
            f"{source[0]} has {source[1].size}"
        )
    # Exact for contiguous arrays, although it only compares where they begin and end.
    if np.may_share_memory(target[1], source[1]):
        raise KernelMismatch(f"{function}: {target[0]} and {source[0]} overlap in memory")
