"""Reaching the store a process was configured for, and saying what it is like.

`distributed_cache.address: embedded` starts a private Redis, or finds the one that another
process of this job has started.  Anything else is somebody's Redis: one that refuses the
connection may still be starting, so it is waited for; any other answer is final.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fl_cluster.config.addresses import CacheKind
from fl_cluster.config.schema import JobSettings
from fl_cluster.errors import StoreUnavailable
from fl_cluster.store.redis import embedded
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.durability import RedisDurability

logger = logging.getLogger(__name__)

WAIT_S = 900
"""As long as the original waits for a Redis that refuses connections."""

PAUSE_S = 0.25
REMIND_S = 10.0


@asynccontextmanager
async def open_store(settings: JobSettings) -> AsyncIterator[Connection]:
    """A connection to the configured Redis once it answers; StoreUnavailable says why not."""
    address = settings.cache.address
    if address.kind is not CacheKind.EMBEDDED:
        async with _connected(settings, address.secret_url()) as connection:
            yield connection
        return
    private = await asyncio.to_thread(embedded.ensure, settings.cluster.data_dir)
    try:
        async with _connected(settings, private.url) as connection:
            yield connection
    finally:
        await asyncio.to_thread(private.release)


@asynccontextmanager
async def _connected(settings: JobSettings, url: str) -> AsyncIterator[Connection]:
    cluster = settings.cluster
    connection = Connection(url, timeout_ms=cluster.redis_timeout_ms, pool_size=cluster.redis_pool)
    try:
        await _wait(settings, connection)
        yield connection
    finally:
        await connection.close()


async def _wait(settings: JobSettings, connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    reminder = started
    while True:
        try:
            await connection.ping()
        except StoreUnavailable as exc:
            waited = loop.time() - started
            if not _may_be_starting(exc) or waited > WAIT_S:
                raise _linked_failed(settings, exc) from exc
            if loop.time() >= reminder:
                reminder = loop.time() + REMIND_S
                logger.warning("%s", waiting_sentence(settings))
            await asyncio.sleep(PAUSE_S)
        else:
            return


def _may_be_starting(fault: StoreUnavailable) -> bool:
    words = ("refused", "No such file", "loading", "LOADING")
    return any(word in fault.reason for word in words)


def waiting_sentence(settings: JobSettings) -> str:
    """What is missing, and the command that starts it."""
    address = settings.cache.address
    hint = f"; start it with: redis-server --port {address.port}" if address.port else ""
    return f"waiting for Redis at {address}, which does not accept connections{hint}"


def _linked_failed(settings: JobSettings, fault: StoreUnavailable) -> StoreUnavailable:
    sentence = (
        f"Link to distributed cache failed, distributed cache address: {settings.cache.address},"
        f" enable ssl: {int(settings.tls.enabled)}"
    )
    return StoreUnavailable(sentence, fault.reason)


async def announce_durability(connection: Connection) -> None:
    """Log how much of what is acknowledged survives the end of Redis."""
    found = await RedisDurability(connection).durability()
    level = logging.WARNING if found.is_weak else logging.INFO
    logger.log(level, "%s", found.sentence)
