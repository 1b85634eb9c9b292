"""Ending a cluster: exactly the processes of one job, found through its Redis.

Members of the job that run on this host are asked to drain, and killed after 10 s; each is
known by pid and start time, so a pid that now belongs to somebody else is left alone.  The
dead and the hanging are found too: their records outlive their leases.
Redis is left alone unless asked for.  The job's state stays in it: servers started later go
on with the round that was under way.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from fl_cluster.config.addresses import (
    CacheAddress,
    CacheKind,
    parse_cache_address,
    without_login,
)
from fl_cluster.errors import StartupError, StoreCorrupt, StoreUnavailable
from fl_cluster.lifecycle.membership import Member
from fl_cluster.security.tls import StoreTls, StoreTlsFiles
from fl_cluster.store.redis import embedded
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.members import RedisJobDirectory, RedisMemberStore
from fl_cluster.telemetry.processes import find_process, wait_for_end

GRACE_S = 10.0
TIMEOUT_MS = 5_000

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FinishOptions:
    """What is ended: the job, and where its Redis is."""

    address: CacheAddress
    data_dir: str
    """The folder of the embedded Redis, when `address` says that it is one."""
    job: str
    """Empty: the only job that has processes here."""
    stop_redis: bool
    tls: StoreTls | None = None
    """How Redis is known; None: by the system's roots, where its address asks for TLS."""


@dataclass(frozen=True, slots=True)
class Found:
    """A member whose process runs on this host."""

    job: str
    member: Member
    process: psutil.Process


def redis_at(address: str, port: int, password: str, username: str = "") -> CacheAddress:
    """The Redis that the command line names: a host with `port`, or a whole address."""
    try:
        whole = "://" in address or address.startswith("unix:")
        parsed = parse_cache_address(address if whole else f"{address}:{port}")
    except ValueError as exc:
        raise StartupError(f"--redis_address {without_login(address)}: {exc}") from exc
    return parsed.with_login(username, password)


def _url_of(options: FinishOptions) -> str:
    if options.address.kind is not CacheKind.EMBEDDED:
        return options.address.secret_url()
    url = embedded.find_running(options.data_dir)
    if url is None:
        raise StoreUnavailable("finish", f"no embedded Redis runs in {options.data_dir}")
    return url


def _tls_of(options: FinishOptions) -> StoreTls | None:
    if options.tls is not None or options.address.kind is not CacheKind.TLS:
        return options.tls
    return StoreTls(StoreTlsFiles())


async def _find(connection: Connection, job: str) -> tuple[list[Found], list[Member]]:
    """Members of the job that run on this host, and live ones on other hosts."""
    store = RedisMemberStore(connection, JobKeys(job))
    live = {member.id for member in await store.live()}
    here, elsewhere = [], []
    for member in await store.everyone():
        if member.host != platform.node():
            if member.id in live:
                elsewhere.append(member)
            continue
        process = find_process(member.pid, member.process_started_s)
        if process is not None:
            here.append(Found(job, member, process))
    return here, elsewhere


async def _choose_job(connection: Connection, wanted: str) -> str | None:
    """The job to end; None when none has processes here."""
    names = await RedisJobDirectory(connection).names()
    if wanted:
        if wanted not in names:
            known = ", ".join(names) or "none"
            raise StartupError(f"this Redis knows no job {wanted!r}; it knows: {known}")
        return wanted
    running = [name for name in names if (await _find(connection, name))[0]]
    if len(running) > 1:
        raise StartupError(
            f"this Redis holds several jobs with processes here: {', '.join(running)}; "
            "say which with --fl_name"
        )
    return running[0] if running else None


def _end(found: Sequence[Found], tell: Tell) -> None:
    """SIGTERM to all, SIGKILL to whoever is left after the grace."""
    once = {each.process.pid: each.process for each in found}
    for process in once.values():
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in wait_for_end(list(once.values()), GRACE_S):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for process in wait_for_end(list(once.values()), GRACE_S):
        tell(f"could not kill {process.pid}")
        del once[process.pid]
    for pid in once:
        tell(f"killed {pid}")


async def _finish(options: FinishOptions, tell: Tell) -> None:
    connection = Connection(
        _url_of(options), timeout_ms=TIMEOUT_MS, pool_size=4, tls=_tls_of(options)
    )
    try:
        await _reach(connection, options.address)
        job = await _choose_job(connection, options.job)
        here, elsewhere = await _find(connection, job) if job is not None else ([], [])
        await asyncio.to_thread(_end, here, tell)
        for member in elsewhere:
            tell(f"left alone: {member.role} {member.id} runs on {member.host} (pid {member.pid})")
        if not here:
            tell("no process of this cluster runs on this host")
        if options.address.kind is CacheKind.EMBEDDED:
            await asyncio.to_thread(_stop_embedded, options, tell)
        elif options.stop_redis:
            await _stop_redis(connection, options, tell)
    finally:
        await connection.close()


def _stop_embedded(options: FinishOptions, tell: Tell) -> None:
    """The last process takes it along; one that was killed leaves it behind."""
    stop = embedded.stop if options.stop_redis else embedded.stop_if_unused
    if stop(options.data_dir):
        tell(f"stopped the embedded Redis in {options.data_dir}")


async def _reach(connection: Connection, address: CacheAddress) -> None:
    try:
        await connection.ping()
    except StoreUnavailable as exc:
        sentence = f"Redis at {address} cannot be asked which processes to end"
        raise StoreUnavailable(sentence, exc.reason) from exc


async def _stop_redis(connection: Connection, options: FinishOptions, tell: Tell) -> None:
    refusal = "it still answers"
    try:
        await connection.command("SHUTDOWN")
    except StoreUnavailable as exc:
        refusal = exc.reason  # also when it obeys: it closes the connection instead of answering
    except StoreCorrupt as exc:
        refusal = str(exc)
    if await _answers(connection):
        raise StoreUnavailable(f"Redis at {options.address} does not stop", refusal)
    tell(f"stopped Redis at {options.address}")


async def _answers(connection: Connection) -> bool:
    try:
        await connection.ping()
    except StoreUnavailable:
        return False
    return True


def finish(options: FinishOptions, tell: Tell = print) -> int:
    """End the job's processes on this host; 0, or a fault with its sentence."""
    asyncio.run(_finish(options, tell))
    return 0
