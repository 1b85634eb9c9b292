"""What a process gives back of the memory it used; in one of its own, which starts small."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, ctypes
from fl_cluster.app import malloc

async def main():
    malloc.keep_memory_flat()
    malloc.LOOK_S = 0.01
    giving = asyncio.create_task(malloc.give_memory_back())
    await asyncio.sleep(0)
    before = malloc.resident_bytes()
    blocks = [bytearray(b"x" * 200_000) for _ in range(1_000)]
    full = malloc.resident_bytes()
    del blocks[:-1]  # the last one keeps the heap from ending any earlier
    async with asyncio.timeout(20):
        while malloc.resident_bytes() > before + 40_000_000:
            await asyncio.sleep(0.01)
    assert not giving.done()
    giving.cancel()
    print(full - before > 150_000_000, malloc.resident_bytes() - before < 40_000_000)

asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is asked")
def test_holes_in_the_heap_are_given_back() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.split() == ["True", "True"]
