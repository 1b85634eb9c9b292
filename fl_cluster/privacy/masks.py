"""The masks of genuine devices: AES keystream as float32 from -1 to 1, one per pair and one own.

Float32 throughout, summed in the order in which a device sums.  The published device starts
the mask anew in every tensor (`Layout.RESTART`), although its server ran on; whoever shares a
cohort must do the same, or pairwise masks do not cancel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fl_cluster.kernels.native import Floats

_Number = TypeVar("_Number", bound=np.floating)

_BLOCK = 2**18
_ZEROS = bytes(4 * _BLOCK)
_UNIT = np.float32(2.0**-31)


class Layout(StrEnum):
    """Which element of the mask goes to which element of the update."""

    RESTART = "restart"
    """Element j of every tensor gets element j of the mask."""
    RUNNING = "running"
    """The tensors share one mask, one after the other."""


def keystream_floats(key: bytes, vector: bytes, count: int) -> Floats:
    """`count` masks from -1 to 1; the counter of the cipher starts at `vector` and wraps."""
    out = np.empty(count, np.float32)
    buffer = bytearray(4 * min(count, _BLOCK) + 15)
    encryptor = Cipher(algorithms.AES(key), modes.CTR(vector)).encryptor()
    for start in range(0, count, _BLOCK):
        part = out[start : start + _BLOCK]
        encryptor.update_into(memoryview(_ZEROS)[: 4 * part.size], buffer)
        words = np.frombuffer(buffer, "<i4", part.size)
        np.multiply(words.astype(np.float32), _UNIT, out=part)
    return out


def sign_between(mine: str, theirs: str) -> int:
    """+1 when the mask between two devices is added by the first, -1 when it is taken away.

    By UTF-16 code units, as published devices compare; for ASCII that is the order of bytes.
    """
    return 1 if mine.encode("utf-16-be") > theirs.encode("utf-16-be") else -1


def add_masks(count: int, masks: Iterable[tuple[int, Floats]]) -> Floats:
    """The sum of signed masks in the order given, each step rounded to float32."""
    total = np.zeros(count, np.float32)
    for sign, mask in masks:
        if sign > 0:
            total += mask
        else:
            total -= mask
    return total


def mask_count(sizes: Sequence[int], layout: Layout) -> int:
    """How much of a mask an update of tensors of these sizes uses."""
    return max(sizes, default=0) if layout is Layout.RESTART else sum(sizes)


def parts(
    mask: npt.NDArray[_Number], sizes: Sequence[int], layout: Layout
) -> tuple[npt.NDArray[_Number], ...]:
    """The part of a mask, or of noise, that belongs to each tensor: views, which overlap under
    `RESTART`."""
    if mask.size < mask_count(sizes, layout):
        raise ValueError(f"expected a mask of {mask_count(sizes, layout)}, found {mask.size}")
    if layout is Layout.RESTART:
        return tuple(mask[:size] for size in sizes)
    ends = np.cumsum([0, *sizes]).tolist()
    return tuple(mask[start:stop] for start, stop in pairwise(ends))
