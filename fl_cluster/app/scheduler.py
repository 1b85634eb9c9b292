"""The scheduler: the management plane of one job, until it is asked to stop.

It holds nothing that its restart does not read again, and training goes on without it.
Several may run.  It is a member like any other, so that whoever ends the cluster finds it;
it is not shown among the nodes, because it takes no part in training.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fl_cluster.api.management import ManagementPlane, Sources
from fl_cluster.api.plain_http import listen
from fl_cluster.app.store_access import announce_durability, open_store
from fl_cluster.config.addresses import Address, scheduler_http_address
from fl_cluster.config.schema import JobSettings
from fl_cluster.errors import StartupError
from fl_cluster.kernels.native import kernel
from fl_cluster.lifecycle.membership import RANDOM_MAX, RANDOM_MIN, Member, Role, member_id
from fl_cluster.service.membership import Membership
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.durability import RedisDurability
from fl_cluster.store.redis.jobs import RedisJobStore
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.members import RedisMemberStore
from fl_cluster.store.redis.rounds import RedisRoundStore
from fl_cluster.telemetry.processes import start_time_s
from fl_cluster.version import VERSION

logger = logging.getLogger(__name__)

DRAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """What a scheduler is told beside its configuration file."""

    manage_address: str


def _new_id(address: Address) -> str:
    number = secrets.randbelow(RANDOM_MAX - RANDOM_MIN + 1) + RANDOM_MIN
    return member_id(str(address), time.time_ns() // 1000, number)


def _this_process(address: Address) -> Member:
    pid = os.getpid()
    return Member(
        id=_new_id(address),
        role=Role.SCHEDULER,
        tcp_address="",
        http_address="",
        manage_address=str(address),
        pid=pid,
        host=platform.node(),
        process_started_s=start_time_s(pid),
        version=VERSION,
        kernel=kernel(),
        started_ms=time.time_ns() // 1_000_000,
    )


def _sources(connection: Connection, keys: JobKeys) -> Sources:
    return Sources(
        instances=RedisJobStore(connection, keys),
        rounds=RedisRoundStore(connection, keys),
        members=RedisMemberStore(connection, keys),
        durability=RedisDurability(connection),
    )


async def serve(
    settings: JobSettings,
    options: SchedulerOptions,
    *,
    stop: asyncio.Event,
    ready: Callable[[Mapping[str, object]], None],
) -> None:
    """Be a scheduler until `stop` is set; `ready` is called once operators are answered."""
    address = scheduler_http_address(options.manage_address)
    for warning in settings.warnings:
        logger.warning("%s", warning)
    async with open_store(settings) as connection:
        await announce_durability(connection)
        sources = _sources(connection, JobKeys(settings.name))
        me = _this_process(address)
        plane = ManagementPlane(settings.name, sources, me).plane()
        try:
            listener = await listen(plane, address.host, address.port)
        except StartupError as exc:
            raise StartupError(
                f"The scheduler start http server failed, server address: {address} ({exc})"
            ) from exc
        membership = Membership(
            sources.members,
            me,
            lease_ms=settings.cluster.lease_ms,
            new_id=lambda: _new_id(address),
        )
        await membership.join()
        renewals = asyncio.create_task(membership.run())
        try:
            logger.info("answering operators on http://%s", listener.address)
            ready({"address": listener.address, "member": membership.member.id})
            await stop.wait()
        finally:
            renewals.cancel()
            await listener.close(drain_s=DRAIN_S)
            await membership.leave()
