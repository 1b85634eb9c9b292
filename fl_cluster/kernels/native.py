"""The kernels in use: the extension's best set for this machine, or the NumPy reference.

    FL_CLUSTER_KERNEL=portable|avx2|avx512|reference

forces one.  A name that is unknown or cannot run here is an ImportError: a forced set is
never silently replaced.  Unforced and without the extension, the reference takes over and
says so once; results are identical, bit for bit, because that is what a kernel set is.

The choice is made when this module is imported and never changes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from fl_cluster.kernels import reference
from fl_cluster.kernels.reference import Bytes, Floats, Integers, Quants

__all__ = [
    "MAX_BOUND",
    "Bytes",
    "Floats",
    "Integers",
    "KernelSet",
    "Quants",
    "available",
    "choose_kept",
    "finalise",
    "find_unfit",
    "fold",
    "fold_quantised",
    "kernel",
    "kernel_set",
    "merge",
]

MAX_BOUND = reference.MAX_BOUND

_VARIABLE = "FL_CLUSTER_KERNEL"
_EXTENSION = "fl_cluster._native"


@dataclass(frozen=True, slots=True)
class KernelSet:
    """The operations of `reference`, written for one instruction set.

    `block` is the number of elements per step of the longest loop.
    """

    name: str
    block: int
    find_unfit: Callable[[Floats, float, int], int]
    fold: Callable[[Integers, Floats, float], None]
    merge: Callable[[Integers, Integers], None]
    finalise: Callable[[Floats, Integers, float], None]
    fold_quantised: Callable[
        [Integers, Floats, Bytes, Quants, tuple[float, float, float, float]], None
    ]
    choose_kept: Callable[[Bytes, int, int], None]


_REFERENCE = KernelSet(
    name="reference",
    block=reference.BLOCK,
    find_unfit=reference.find_unfit,
    fold=reference.fold,
    merge=reference.merge,
    finalise=reference.finalise,
    fold_quantised=reference.fold_quantised,
    choose_kept=reference.choose_kept,
)


def _load() -> tuple[str, tuple[KernelSet, ...]]:
    """The name of the chosen set, and every set that could have been, best first."""
    forced = os.environ.get(_VARIABLE, "")
    if forced == _REFERENCE.name:
        return forced, (_REFERENCE,)
    try:
        import fl_cluster._native as extension
    except ModuleNotFoundError as fault:
        if fault.name != _EXTENSION:
            raise
        if forced:
            raise ImportError(
                f"{_VARIABLE} '{forced}' needs the extension {_EXTENSION}, which was not "
                f"built; without it there is only '{_REFERENCE.name}'"
            ) from fault
        logging.getLogger(__name__).warning(
            "the extension %s was not built: using the NumPy kernels, "
            "whose results are identical but slower",
            _EXTENSION,
        )
        return _REFERENCE.name, (_REFERENCE,)
    sets = tuple(
        KernelSet(
            name=native.name,
            block=native.block,
            find_unfit=native.find_unfit,
            fold=native.fold,
            merge=native.merge,
            finalise=native.finalise,
            fold_quantised=native.fold_quantised,
            choose_kept=native.choose_kept,
        )
        for native in map(extension.kernel_set, extension.available())
    )
    return extension.kernel(), (*sets, _REFERENCE)


_CHOSEN_NAME, _SETS = _load()


def kernel() -> str:
    """The name of the kernel set in use."""
    return _CHOSEN_NAME


def available() -> tuple[str, ...]:
    """The names of the kernel sets this process can use, best first."""
    return tuple(candidate.name for candidate in _SETS)


def kernel_set(name: str) -> KernelSet:
    """The named set, whichever one is in use; ValueError when it is not available."""
    for candidate in _SETS:
        if candidate.name == name:
            return candidate
    raise ValueError(f"kernel set {name!r} is not one of {available()}")


_CHOSEN = kernel_set(_CHOSEN_NAME)

find_unfit = _CHOSEN.find_unfit
fold = _CHOSEN.fold
merge = _CHOSEN.merge
finalise = _CHOSEN.finalise
fold_quantised = _CHOSEN.fold_quantised
choose_kept = _CHOSEN.choose_kept
