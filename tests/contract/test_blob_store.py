"""Large immutable byte strings, whole or in chunks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from redis.crc import key_slot

from fl_cluster.errors import StoreCorrupt
from fl_cluster.store.ports import BlobStore
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.jobs import CHUNK_BYTES, RedisBlobStore
from fl_cluster.store.redis.keys import JobKeys

if TYPE_CHECKING:
    from conftest import Stores

CHUNK = 8
KEYS = JobKeys("job")

SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK - 1, 3 * CHUNK)


def some_bytes(size: int) -> bytes:
    return bytes(i % 251 for i in range(size))


async def fetch(blobs: BlobStore, name: str, size: int) -> bytes:
    into = bytearray(size)
    await blobs.get(name, memoryview(into))
    return bytes(into)


@pytest.fixture(params=["memory", "redis", "redis in chunks"])
def blobs(request: pytest.FixtureRequest, make_memory_stores: Callable[[], Stores]) -> BlobStore:
    if request.param == "memory":
        return make_memory_stores().blobs
    connection = request.getfixturevalue("connection")
    chunk_bytes = CHUNK_BYTES if request.param == "redis" else CHUNK
    return RedisBlobStore(connection, KEYS, chunk_bytes=chunk_bytes)


@pytest.fixture
def chunked(connection: Connection) -> RedisBlobStore:
    return RedisBlobStore(connection, KEYS, chunk_bytes=CHUNK)


@pytest.mark.parametrize("size", SIZES)
async def test_a_blob_comes_back_as_it_went(blobs: BlobStore, size: int) -> None:
    await blobs.put("x", some_bytes(size), None)

    assert await fetch(blobs, "x", size) == some_bytes(size)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (size, size + off_by)
        for size in SIZES
        for off_by in (-CHUNK, -1, 1, CHUNK)
        if size + off_by >= 0
    ],
)
async def test_a_blob_of_another_size_is_corruption(
    blobs: BlobStore, size: int, wanted: int
) -> None:
    await blobs.put("x", some_bytes(size), None)

    with pytest.raises(StoreCorrupt, match=f"blob x.*expected {wanted} bytes"):
        await fetch(blobs, "x", wanted)


@pytest.mark.parametrize("size", [0, 4, 2 * CHUNK])
async def test_a_missing_blob_is_corruption(blobs: BlobStore, size: int) -> None:
    with pytest.raises(StoreCorrupt, match="blob x is missing"):
        await fetch(blobs, "x", size)


async def test_blobs_are_told_apart_by_their_names(blobs: BlobStore) -> None:
    names = ["x", "x+8", "x y", "model-7.1@run{}", "", "\n"]
    for i, name in enumerate(names):
        await blobs.put(name, bytes([i]), None)

    assert [await fetch(blobs, name, 1) for name in names] == [bytes([i]) for i in range(6)]


@pytest.mark.parametrize("size", SIZES)
async def test_a_dropped_blob_is_gone(blobs: BlobStore, size: int) -> None:
    await blobs.put("x", some_bytes(size), None)
    await blobs.put("y", b"y", None)

    await blobs.drop(["never there", "x"])
    await blobs.drop([])

    with pytest.raises(StoreCorrupt, match="missing"):
        await fetch(blobs, "x", size)
    assert await fetch(blobs, "y", 1) == b"y"


async def test_storing_the_same_again_is_harmless(blobs: BlobStore) -> None:
    """A member repeats what it does not know the outcome of."""
    await blobs.put("x", some_bytes(20), None)
    await blobs.put("x", some_bytes(20), None)

    assert await fetch(blobs, "x", 20) == some_bytes(20)


async def test_arrays_go_in_and_out_without_a_detour(blobs: BlobStore) -> None:
    sums = np.arange(6, dtype=np.int64).reshape(2, 3)
    back = np.zeros_like(sums)

    await blobs.put("x", sums.data, None)
    await blobs.get("x", back.data)

    assert np.array_equal(back, sums)


async def test_what_is_stored_does_not_change_with_its_source(blobs: BlobStore) -> None:
    source = bytearray(b"before")
    await blobs.put("x", source, None)
    source[:] = b"after!"

    assert await fetch(blobs, "x", 6) == b"before"


@pytest.mark.redis
async def test_every_chunk_outlives_its_use_and_not_more(
    chunked: RedisBlobStore, connection: Connection
) -> None:
    await chunked.put("mortal", some_bytes(20), 60_000)
    await chunked.put("immortal", some_bytes(20), None)

    lifetimes = {
        name: [
            await connection.command("PTTL", KEYS.blob(f"{name}{part}"))
            for part in ("", "+8", "+16")
        ]
        for name in ("mortal", "immortal")
    }

    assert lifetimes["immortal"] == [-1, -1, -1]
    assert all(50_000 < left <= 60_000 for left in lifetimes["mortal"])


@pytest.mark.redis
async def test_a_blob_without_one_of_its_chunks_is_corruption(
    chunked: RedisBlobStore, connection: Connection
) -> None:
    await chunked.put("x", some_bytes(20), None)
    await connection.command("DEL", KEYS.blob("x+8"))

    with pytest.raises(StoreCorrupt, match="missing at byte 8"):
        await fetch(chunked, "x", 20)


@pytest.mark.redis
async def test_a_blob_with_a_short_chunk_is_corruption(
    chunked: RedisBlobStore, connection: Connection
) -> None:
    await chunked.put("x", some_bytes(20), None)
    await connection.command("SET", KEYS.blob("x+8"), b"")

    with pytest.raises(StoreCorrupt, match="8 bytes long"):
        await fetch(chunked, "x", 20)


@pytest.mark.redis
async def test_dropping_leaves_nothing_behind(
    chunked: RedisBlobStore, connection: Connection
) -> None:
    for size in SIZES:
        await chunked.put(f"x{size}", some_bytes(size), None)

    await chunked.drop([f"x{size}" for size in SIZES])

    assert await connection.command("DBSIZE") == 0


@pytest.mark.redis
async def test_chunks_of_one_blob_spread_over_a_redis_cluster(
    chunked: RedisBlobStore, connection: Connection
) -> None:
    await chunked.put("x", some_bytes(20), None)
    keys = sorted(await connection.command("KEYS", "*"))

    slots = {key_slot(key) for key in keys}

    assert keys == [b"fl:blob:{job:x+16}", b"fl:blob:{job:x+8}", b"fl:blob:{job:x}"]
    assert len(slots) == 3


@pytest.mark.redis
async def test_a_hundred_megabytes_come_and_go_in_seconds(connection: Connection) -> None:
    blobs = RedisBlobStore(connection, KEYS)
    numbers = np.random.default_rng(7).integers(0, 2**63, 100_000_000 // 8, np.int64)
    back = np.zeros_like(numbers)
    started = time.monotonic()

    await blobs.put("x", numbers.data, 60_000)
    await blobs.get("x", back.data)
    await blobs.drop(["x"])

    assert time.monotonic() - started < 10
    assert np.array_equal(back, numbers)
    assert await connection.command("DBSIZE") == 0


@pytest.mark.redis
async def test_blobs_of_many_members_do_not_mix(connection: Connection) -> None:
    blobs = RedisBlobStore(connection, KEYS, chunk_bytes=1000)
    data = {f"m{i}": bytes([i]) * 10_000 for i in range(20)}

    await asyncio.gather(*(blobs.put(name, value, None) for name, value in data.items()))
    found = await asyncio.gather(*(fetch(blobs, name, 10_000) for name in data))

    assert found == list(data.values())
