"""A worker as a member of the cluster: shown while it lives, and told where the servers are.

A thread of its own renews the lease and reads the list of servers once a second, so that
training that takes long never looks like death, and a Redis that is away for a while costs
the worker nothing: it goes on with the servers it knew last.
The thread is started by `join` and belongs to the process that did so; in a forked child
this object only remembers what it had seen.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from fl_cluster.errors import FlClusterError
from fl_cluster.lifecycle.membership import Member, Role
from fl_cluster.service.membership import Membership
from fl_cluster.store.member_port import MemberStore
from fl_cluster.store.ports import JobStore
from fl_cluster.worker.faults import Refused

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
LEAVE_S: Final = 5.0
NO_INSTANCE = "Get instance name failed."


@dataclass(frozen=True, slots=True)
class Stores:
    """The parts of the store that a worker looks at."""

    members: MemberStore
    jobs: JobStore


OpenStores = Callable[[], AbstractAsyncContextManager[Stores]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who joins, and for how long a lease lasts; `new_id` makes a name never used before."""

    member: Member
    lease_ms: int
    new_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the thread saw last; replaced as a whole, so that reading it needs no lock."""

    servers: tuple[str, ...] = ()
    instance: str = ""


class Registration:
    """The membership of this process, and the directory of the job's servers."""

    def __init__(self, open_stores: OpenStores, candidate: Candidate) -> None:
        self._open_stores = open_stores
        self._candidate = candidate
        self._seen = _Seen()
        self._owner = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Event | None = None
        self._joined = threading.Event()
        self._fault: BaseException | None = None

    def join(self) -> None:
        """Return once the cluster counts this process among its members.

        Refused: no server has started the job yet; or the fault that kept it from joining.
        """
        self._owner = os.getpid()
        self._thread = threading.Thread(target=self._run, name="fl-worker-lease", daemon=True)
        self._thread.start()
        self._joined.wait()
        if self._fault is not None:
            self._thread.join()
            raise self._fault

    def servers(self) -> Sequence[str]:
        """HTTP addresses of the servers that live, in the order of their ids."""
        return self._seen.servers

    def instance(self) -> str:
        """The name of the training run."""
        return self._seen.instance

    def leave(self) -> None:
        """Leave the cluster at once; a store that is away finds out by the lease."""
        thread, loop, leaving = self._thread, self._loop, self._leaving
        if thread is None or self._owner != os.getpid():
            return
        if loop is not None and leaving is not None and thread.is_alive():
            loop.call_soon_threadsafe(leaving.set)
            thread.join(LEAVE_S)
        self._thread = None

    def _run(self) -> None:
        try:
            asyncio.run(self._be_member())
        except BaseException as exc:
            self._fault = exc
            if self._joined.is_set():
                logger.exception("the worker's place in the cluster is lost")
        finally:
            self._joined.set()

    async def _be_member(self) -> None:
        self._loop, self._leaving = asyncio.get_running_loop(), asyncio.Event()
        async with self._open_stores() as stores:
            await self._look(stores)
            if not self._seen.instance:
                raise Refused(f"{NO_INSTANCE} No server has started this job yet.")
            candidate = self._candidate
            membership = Membership(
                stores.members,
                candidate.member,
                lease_ms=candidate.lease_ms,
                new_id=candidate.new_id,
            )
            await membership.join()
            self._joined.set()
            tasks = (
                asyncio.create_task(membership.run()),
                asyncio.create_task(self._look_each_second(stores)),
            )
            await self._leaving.wait()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await membership.leave()

    async def _look_each_second(self, stores: Stores) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look(stores)
            except FlClusterError as exc:
                # The lease's own loop says what ails the store, once.
                logger.debug("the servers of the job could not be read: %s", exc)

    async def _look(self, stores: Stores) -> None:
        job = await stores.jobs.job()
        live = await stores.members.live()
        servers = tuple(m.http_address for m in live if m.role is Role.SERVER and m.http_address)
        # A Redis that came back empty is filled again by its servers: until then the old holds.
        instance = self._seen.instance if job is None else job.instance
        self._seen = _Seen(servers or self._seen.servers, instance)
