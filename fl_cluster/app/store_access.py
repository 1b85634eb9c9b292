"""Reaching the store a process was configured for, and saying what it is like.

`distributed_cache.address: embedded` starts a private Redis, or finds the one that another
process of this job has started; when it dies, whichever of its users notices first starts it
again, with all that it had written.  Anything else is somebody's Redis: one that refuses the
connection or still reads its data is starting, so it is waited for; any other answer is final.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fl_cluster.app import clear_text
from fl_cluster.app.tls import store_tls
from fl_cluster.config.addresses import CacheKind
from fl_cluster.config.schema import JobSettings
from fl_cluster.errors import FlClusterError, StartupError, StoreCorrupt, StoreUnavailable
from fl_cluster.security.tls import StoreTls
from fl_cluster.service.explanation import Cause
from fl_cluster.service.store_trouble import explain_fault
from fl_cluster.store.redis import embedded
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.durability import RedisDurability
from fl_cluster.store.redis.embedded import EmbeddedRedis

logger = logging.getLogger(__name__)

WAIT_S = 900
"""As long as the original waits for a Redis that refuses connections."""

PAUSE_S = 0.25
REMIND_S = 10.0
HEARTBEAT_S = 0.5
"""How often a user of the embedded Redis looks whether it lives."""

REFUSED = ("refused", "Error 111 ", "Connect call failed")
"""What different event loops say when nobody listens on a port or a socket."""

NO_SOCKET = "No such file"
"""What is said when nobody has ever listened on a socket of this host."""

HUNG_UP = ("reset by peer", "closed by server", "Connection lost")
"""What becomes of plain text on a port that speaks TLS, among other reasons."""

CONNECTING = " connecting to "
"""What is said of a connection that did not even come to be."""

NO_TLS = "no TLS with"
"""How what TLS minds begins, other than that nobody listens."""

UNKNOWN_SERVICE = "it knows no service"
"""What a Sentinel that is well says of a name that was misspelt."""


@asynccontextmanager
async def open_store(settings: JobSettings) -> AsyncIterator[Connection]:
    """A connection to the configured Redis once it answers.

    StoreUnavailable says why not, also of what the block met.
    """
    address = settings.cache.address
    if (clear := clear_text.complaint(address, is_tls=settings.tls.enabled)) is not None:
        logger.warning("%s", clear)
    if address.kind is not CacheKind.EMBEDDED:
        async with _connected(settings, address.secret_url()) as connection:
            yield connection
        return
    private = await asyncio.to_thread(embedded.ensure, settings.cluster.data_dir)
    try:
        async with _connected(settings, private.url) as connection, _kept_alive(private):
            yield connection
    finally:
        await asyncio.to_thread(private.release)


@asynccontextmanager
async def _connected(settings: JobSettings, url: str) -> AsyncIterator[Connection]:
    cluster, tls = settings.cluster, store_tls(settings)
    if tls is not None:
        await _check_files(settings, tls)
    connection = Connection(
        url,
        timeout_ms=cluster.redis_timeout_ms,
        pool_size=cluster.redis_pool,
        tls=tls,
    )
    try:
        await _wait(settings, connection)
        yield connection
    except StoreUnavailable as exc:
        raise _explained(settings, exc) from exc
    finally:
        await connection.close()


async def _check_files(settings: JobSettings, tls: StoreTls) -> None:
    """StoreUnavailable when no connection could be made for want of a file."""
    try:
        await asyncio.to_thread(tls.context)
    except StartupError as exc:
        raise _link_failed(settings, StoreUnavailable("connect", str(exc))) from exc


class _LinkFailed(StoreUnavailable):
    """Redis was never reached; says so in the original's words."""


async def _wait(settings: JobSettings, connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    told, reminder = "", started
    while True:
        try:
            await connection.ping()
        except (StoreUnavailable, StoreCorrupt) as exc:
            waited = loop.time() - started
            if not _may_be_starting(settings, exc) or waited > WAIT_S:
                raise _link_failed(settings, exc) from exc
            cause = explain_fault(exc).cause
            if loop.time() >= reminder or cause != told:
                told, reminder = cause, loop.time() + REMIND_S
                logger.warning("%s", await waiting_sentence(settings, connection, exc))
            await asyncio.sleep(PAUSE_S)
        else:
            return


def _may_be_starting(settings: JobSettings, fault: FlClusterError) -> bool:
    if _is_loading(fault):
        return True
    if not isinstance(fault, StoreUnavailable) or UNKNOWN_SERVICE in fault.reason:
        return False
    if NO_TLS in fault.reason:
        return False
    if settings.cache.address.kind is CacheKind.UNIX and NO_SOCKET in fault.reason:
        return True
    return any(word in fault.reason for word in REFUSED)


def _is_loading(fault: FlClusterError) -> bool:
    return explain_fault(fault).cause is Cause.STORE_LOADING


async def waiting_sentence(
    settings: JobSettings, connection: Connection, fault: FlClusterError
) -> str:
    """What is missing, and the command that starts it."""
    address = settings.cache.address
    if _is_loading(fault):
        progress = await _loading_progress(connection)
        return f"waiting for Redis at {address}, which still reads its data{progress}"
    if address.kind is CacheKind.SENTINEL:
        return f"waiting for Redis at {address}: {fault}"
    how = "--port 0 --tls-port" if address.kind is CacheKind.TLS else "--port"
    hint = f"; start it with: redis-server {how} {address.port}" if address.port else ""
    return f"waiting for Redis at {address}, which does not accept connections{hint}"


async def _loading_progress(connection: Connection) -> str:
    """How far Redis has come, in brackets; empty when it does not say or has finished."""
    try:
        found = await connection.command("INFO", "persistence")
        percent, left_s = found["loading_loaded_perc"], found["loading_eta_seconds"]
    except (StoreUnavailable, StoreCorrupt, KeyError):
        return ""
    return f" ({float(percent):.0f} % read, about {left_s} s left)"


def _link_failed(settings: JobSettings, fault: FlClusterError) -> StoreUnavailable:
    sentence = (
        f"Link to distributed cache failed, distributed cache address: {settings.cache.address},"
        f" enable ssl: {int(settings.tls.enabled)}"
    )
    if not isinstance(fault, StoreUnavailable):
        return _LinkFailed(sentence, str(fault))
    change = explain_fault(fault).change
    if _was_hung_up(settings, fault):
        sentence = (
            "Sync instance info with distributed cache failed, distributed_cache_address:"
            f" {settings.cache.address}"
        )
        change = f"{change}; if it speaks TLS there, begin its address with rediss://"
    return _LinkFailed(sentence, f"{fault.reason.rstrip('.')}; {change}")


def _was_hung_up(settings: JobSettings, fault: StoreUnavailable) -> bool:
    """Whether the connection came to be in the clear, and ended with the first command."""
    if settings.cache.address.kind is not CacheKind.TCP or CONNECTING in fault.reason:
        return False
    return any(word in fault.reason for word in HUNG_UP)


def _explained(settings: JobSettings, fault: StoreUnavailable) -> StoreUnavailable:
    """The fault with its address, and with what to do about it."""
    if isinstance(fault, _LinkFailed):
        return fault
    found = explain_fault(fault)
    reason = f"{found.sentence} To do: {found.change}" if found.change else found.sentence
    return StoreUnavailable(f"Redis at {settings.cache.address} cannot be used", reason)


@asynccontextmanager
async def _kept_alive(private: EmbeddedRedis) -> AsyncIterator[None]:
    """Start the embedded Redis again whenever it dies inside the block."""
    is_over = asyncio.Event()
    task = asyncio.create_task(_revive(private, is_over))
    try:
        yield
    finally:
        # Told, not cancelled: a start that is under way in its thread is waited for.
        is_over.set()
        await asyncio.wait((task,))


async def _revive(private: EmbeddedRedis, is_over: asyncio.Event) -> None:
    complaint = ""
    while not await _happens(is_over, HEARTBEAT_S):
        if await asyncio.to_thread(lambda: private.pid) is not None:
            continue
        try:
            if await asyncio.to_thread(private.revive):
                logger.warning("the embedded Redis had died and was started again")
            complaint = ""
        except (StartupError, OSError) as exc:
            if str(exc) != complaint:
                logger.error("the embedded Redis has died and cannot be started again: %s", exc)
            complaint = str(exc)


async def _happens(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False


async def announce_durability(connection: Connection) -> None:
    """Log how much of what is acknowledged survives the end of Redis, or its want of memory."""
    reader = RedisDurability(connection)
    found = await reader.durability()
    level = logging.WARNING if found.is_weak else logging.INFO
    logger.log(level, "%s", found.sentence)
    policy = await reader.evicting_policy()
    if policy:
        logger.warning(
            "Redis drops keys when its memory is full (maxmemory-policy %s), records of this job"
            " among them: set it to noeviction",
            policy,
        )
