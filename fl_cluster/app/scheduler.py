"""The scheduler: the management plane of one job, until it is asked to stop.

It holds nothing that its restart does not read again, and training goes on without it.
Several may run.  It is a member like any other, so that whoever ends the cluster finds it;
it is not shown among the nodes, because it takes no part in training.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fl_cluster.api.management import ManagementPlane, Sources
from fl_cluster.api.plain_http import Listener, Plane, listen
from fl_cluster.app.identity import new_id, this_process
from fl_cluster.app.launch import SCHEDULER_FAILED
from fl_cluster.app.store_access import announce_durability, open_store
from fl_cluster.config.addresses import Address, scheduler_http_address
from fl_cluster.config.schema import JobSettings
from fl_cluster.errors import StartupError
from fl_cluster.lifecycle.membership import Role
from fl_cluster.service.membership import Membership
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.durability import RedisDurability
from fl_cluster.store.redis.jobs import RedisJobStore
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.members import RedisMemberStore
from fl_cluster.store.redis.rounds import RedisRoundStore

logger = logging.getLogger(__name__)

DRAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """What a scheduler is told beside its configuration file."""

    manage_address: str


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
        me = this_process(Role.SCHEDULER, new_id(str(address)), manage_address=str(address))
        plane = ManagementPlane(settings.name, sources, me).plane()
        listener = await _listen(plane, address)
        membership = Membership(
            sources.members,
            me,
            lease_ms=settings.cluster.lease_ms,
            new_id=lambda: new_id(str(address)),
        )
        try:
            await membership.join()
            async with asyncio.TaskGroup() as group:
                renewals = group.create_task(membership.run())
                logger.info("answering operators on http://%s", listener.address)
                ready({"address": listener.address, "member": membership.member.id})
                await stop.wait()
                renewals.cancel()
        finally:
            await listener.close(drain_s=DRAIN_S)
            await membership.leave()


async def _listen(plane: Plane, address: Address) -> Listener:
    try:
        return await listen(plane, address.host, address.port)
    except StartupError as exc:
        raise StartupError(f"{SCHEDULER_FAILED} {address} ({exc})") from exc
