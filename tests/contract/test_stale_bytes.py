"""What is sent to Redis is what memory held when the command was given, or is never finished."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fl_cluster.app.process import new_loop
from fl_cluster.errors import StoreUnavailable
from fl_cluster.store.redis.connection import Connection

OLD, NEW = 0x11, 0xEE
SIZE = 32 * 1024 * 1024
"""More than sockets hold, so that the rest waits in this process."""


class Sluggish:
    """Something that takes connections and reads nothing until it is told to."""

    def __init__(self) -> None:
        self.awake = asyncio.Event()
        self.read = bytearray()
        self.over: list[asyncio.Future[None]] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over.append(over)
        try:
            await self.awake.wait()
            while chunk := await reader.read(1 << 20):
                self.read += chunk
        except ConnectionError:
            pass
        finally:
            writer.close()
            over.set_result(None)


async def _a_write_that_times_out_and_is_overwritten() -> bytes:
    sluggish = Sluggish()
    server = await asyncio.start_server(sluggish.take, "127.0.0.1", 0, limit=1 << 16)
    port = server.sockets[0].getsockname()[1]
    connection = Connection(f"redis://127.0.0.1:{port}/0", timeout_ms=300, pool_size=1)
    sums = np.full(SIZE, OLD, np.uint8)
    with pytest.raises(StoreUnavailable):
        await connection.command("SET", "blob", sums.data)
    sums[:] = NEW
    sluggish.awake.set()
    async with asyncio.timeout(20):
        while not sluggish.over or not all(over.done() for over in sluggish.over):
            await asyncio.sleep(0.01)
    await connection.close()
    server.close()
    await server.wait_closed()
    return bytes(sluggish.read)


def test_a_command_that_was_given_up_is_not_finished_from_memory_that_has_changed() -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        read = runner.run(_a_write_that_times_out_and_is_overwritten())

    assert NEW not in read
    assert read.count(OLD) < SIZE
