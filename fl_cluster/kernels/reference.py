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
Quants: TypeAlias = npt.NDArray[np.int8]
Bytes: TypeAlias = npt.NDArray[np.uint8]

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


def fold_quantised(
    acc: Integers,
    base: Floats,
    kept: Bytes,
    quants: Quants,
    numbers: tuple[float, float, float, float],
    /,
) -> None:
    """Fold one tensor of a compressed update, straight from its 8-bit elements.

    acc[i] += round_half_even(float64(x) * multiplier) where, each step rounded to float32,
    x = base[i] * data_size, plus (q + 128) * scale + minimum where bit i % 8 of kept[i // 8]
    is set and q is the next of `quants`.  `numbers` is (minimum, scale, data_size,
    multiplier).  `acc` has as many elements as `base`, `kept` as many bits, rounded up with
    zeros, and `quants` as many elements as bits are set.  As with `fold`, what does not fit
    the multiplier was refused before.
    """
    minimum, scale, data_size, multiplier = _check_numbers(numbers)
    _check_array("fold_quantised", "acc", acc, np.int64, writable=True)
    _check_array("fold_quantised", "base", base, np.float32)
    _check_array("fold_quantised", "kept", kept, np.uint8)
    _check_array("fold_quantised", "quants", quants, np.int8)
    _check_pair("fold_quantised", ("acc", acc), ("base", base))
    _check_kept(acc, kept, quants)
    done = 0
    with np.errstate(all="ignore"):
        for start in range(0, base.size, BLOCK):
            part = slice(start, min(start + BLOCK, base.size))
            flags = np.unpackbits(
                kept[start // 8 : -(-part.stop // 8)], count=part.stop - start, bitorder="little"
            ).view(np.bool_)
            x = base[part] * np.float32(data_size)
            taken = quants[done : done + int(np.count_nonzero(flags))]
            steps = (taken.astype(np.int16) + 128).astype(np.float32)
            x[flags] += steps * np.float32(scale) + np.float32(minimum)
            acc[part] += np.rint(x.astype(np.float64) * multiplier).astype(np.int64)
            done += taken.size


_WORD = 2**32
_MODULUS = 2**31 - 1
_FACTOR = 48_271
_RANGE = 4_294_967_294.0


def choose_kept(flags: Bytes, seed: int, kept: int, /) -> None:
    """flags[i] = 1 for the `kept` elements that a seed picks, and 0 for the others.

    The published generator and shuffle: 32-bit integers with a sign that wrap around, a
    remainder with the sign of the dividend.  `seed` is an int32.
    """
    if not -(2**31) <= index(seed) < 2**31:
        raise ValueError(f"choose_kept: seed must be from {-(2**31)} to {2**31 - 1}, got {seed}")
    _check_array("choose_kept", "flags", flags, np.uint8, writable=True)
    n = flags.size
    if not 0 <= index(kept) <= n:
        raise ValueError(f"choose_kept: kept must be from 0 to {n}, got {kept}")
    order = bytearray(b"\1" * kept + b"\0" * (n - kept))
    state = _next_state(seed + _MODULUS)
    for i in range(n):
        j = int((state / _RANGE + 0.5) * (n - i)) + i
        state = _next_state(state)
        order[i], order[j] = order[j], order[i]
    flags[:] = np.frombuffer(order, np.uint8)


def _next_state(state: int) -> int:
    wrapped = _wrapped(_wrapped(state) * _FACTOR)
    return wrapped % _MODULUS if wrapped >= 0 else -(-wrapped % _MODULUS)


def _wrapped(number: int) -> int:
    low = number % _WORD
    return low - _WORD if low >= _WORD // 2 else low


def _check_numbers(
    numbers: tuple[float, float, float, float],
) -> tuple[float, float, float, float]:
    if not isinstance(numbers, tuple) or len(numbers) != 4:
        raise TypeError("fold_quantised: numbers must be a tuple of 4")
    for name, number in zip(("minimum", "scale"), numbers, strict=False):
        if not _is_finite(number):
            raise ValueError(f"fold_quantised: {name} must be a finite number, got {number!r}")
    _check_positive("fold_quantised", "data_size", numbers[2])
    _check_positive("fold_quantised", "multiplier", numbers[3])
    return numbers


def _check_kept(acc: Integers, kept: Bytes, quants: Quants) -> None:
    n = acc.size
    if kept.size != -(-n // 8):
        raise KernelMismatch(f"fold_quantised: acc has {n} elements, kept has {kept.size} bytes")
    bits = np.unpackbits(kept, bitorder="little")
    if bits[n:].any() or int(np.count_nonzero(bits)) != quants.size:
        raise KernelMismatch(
            f"fold_quantised: quants has {quants.size} elements, "
            f"which is not how many of the {n} elements are kept"
        )
    for name, source in (("kept", kept), ("quants", quants)):
        if np.may_share_memory(acc, source):
            raise KernelMismatch(f"fold_quantised: acc and {name} overlap in memory")


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _check_positive(function: str, name: str, number: float) -> None:
    if not (_is_finite(number) and number > 0):
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
