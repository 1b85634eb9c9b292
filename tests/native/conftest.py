"""What the kernel tests share: every set that runs here, and inputs with awkward edges."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fl_cluster.kernels import native

PROT_NONE = 0
NATIVE_SETS = [name for name in native.available() if name != "reference"]


@pytest.fixture(scope="session", params=NATIVE_SETS)
def kernels(request: pytest.FixtureRequest) -> native.KernelSet:
    """Each kernel set of the extension that this machine can run."""
    return native.kernel_set(request.param)


@pytest.fixture(scope="session", params=[*NATIVE_SETS, "reference"])
def any_kernels(request: pytest.FixtureRequest) -> native.KernelSet:
    """The same, and the reference: for what all of them promise."""
    return native.kernel_set(request.param)


@pytest.fixture(scope="session")
def lengths(kernels: native.KernelSet) -> list[int]:
    """Every length where a loop or its tail could go wrong, and a large one."""
    block = kernels.block
    edges = {k * block + d for k in (1, 2, 3, 8) for d in (-1, 0, 1)}
    return sorted({*range(131), *edges, 100_003})


class Inputs:
    """Builders of arrays; the same seed gives the same arrays."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(20_240_229)

    def periodic_floats(self, n: int) -> npt.NDArray[np.float32]:
        """Period 251, the largest prime below 256: swapped blocks cannot look alike."""
        return ((np.arange(n) % 251 - 125) * 0.3125).astype(np.float32)

    def random_floats(self, n: int) -> npt.NDArray[np.float32]:
        return self._random.standard_normal(n, dtype=np.float32)

    def random_integers(self, n: int) -> npt.NDArray[np.int64]:
        """Every magnitude and both signs, not only the huge ones that uniform bits give."""
        bits = self._random.integers(-(2**63), 2**63, n, dtype=np.int64)
        return bits >> self._random.integers(0, 64, n)

    def compressed(self, n: int, rate: float = 0.4) -> tuple[Any, Any, Any]:
        """A base, the bits of what is kept, and as many quants."""
        flags = self._random.random(n) < rate
        quants = self._random.integers(-128, 128, int(np.count_nonzero(flags)), dtype=np.int8)
        return self.random_floats(n), np.packbits(flags, bitorder="little"), quants

    def odd_floats(self) -> npt.NDArray[np.float32]:
        """Subnormals, signed zeros, ties of both parities, and the edges of 2**51."""
        ties = np.arange(-40, 41) + 0.5
        small = np.array([0.0, 1e-45, 1e-40, 1.1754944e-38, 1e-30])
        limits = 2.0**51 - np.array([0, 2**27, 2**28])
        values = np.concatenate([ties, 2.0**22 + ties[:8], small, -small, limits, -limits])
        return values.astype(np.float32)

    def odd_integers(self) -> npt.NDArray[np.int64]:
        """Around every power of two, where conversions to double begin to round."""
        powers = [2**k + d for k in range(63) for d in (-3, -2, -1, 0, 1, 2, 3)]
        halves = [2**k + 2 ** (k - 53) + d for k in range(54, 63) for d in (-1, 0, 1)]
        edges = [2**63 - 1, 2**63 - 512, 2**63 - 513, -(2**63)]
        positive = np.array([*powers, *halves], np.int64)
        return np.concatenate([positive, -positive, np.array(edges, np.int64)])


@pytest.fixture
def inputs() -> Inputs:
    return Inputs()


class GuardedMemory:
    """Writable memory right between two pages that nobody may touch."""

    def __init__(self, usable_bytes: int) -> None:
        page = mmap.PAGESIZE
        self._usable = -(-usable_bytes // page) * page
        self._map = mmap.mmap(-1, self._usable + 2 * page)
        self._pages = (ctypes.c_char * len(self._map)).from_buffer(self._map)
        self._first = page
        start = ctypes.addressof(self._pages)
        self._guards = [(start, page), (start + page + self._usable, page)]
        for address, size in self._guards:
            self._protect(address, size, PROT_NONE)

    def at_start(self, n: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """n elements beginning right after the first guard."""
        return np.ndarray(n, dtype, self._map, self._first)

    def at_end(self, n: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """n elements ending right before the last guard."""
        size = n * np.dtype(dtype).itemsize
        return np.ndarray(n, dtype, self._map, self._first + self._usable - size)

    def unprotect(self) -> None:
        """Makes the guards ordinary memory again, so that it can be given back."""
        for address, size in self._guards:
            self._protect(address, size, mmap.PROT_READ | mmap.PROT_WRITE)

    @staticmethod
    def _protect(address: int, size: int, protection: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")


@pytest.fixture
def guarded() -> Iterator[tuple[GuardedMemory, GuardedMemory]]:
    """Two such memories, one per array of an operation."""
    memories = GuardedMemory(2**16), GuardedMemory(2**16)
    yield memories
    for memory in memories:
        memory.unprotect()


@pytest.fixture
def guarded_four() -> Iterator[tuple[GuardedMemory, ...]]:
    """Four of them."""
    memories = tuple(GuardedMemory(2**14) for _ in range(4))
    yield memories
    for memory in memories:
        memory.unprotect()
