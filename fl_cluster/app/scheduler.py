"""The scheduler: the management plane of one job, until it is asked to stop.

It holds nothing that its restart does not read again, and training goes on without it.
To each server it keeps a link, over which it hears of loads and of deaths.
Several may run.  It is a member like any other, so that whoever ends the cluster finds it;
it is not shown among the nodes, because it takes no part in training.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fl_cluster.api.management import ManagementPlane, Services, Sources
from fl_cluster.api.plain_http import Listener, Plane, listen
from fl_cluster.app.access import Access
from fl_cluster.app.identity import new_id, this_process
from fl_cluster.app.launch import SCHEDULER_FAILED
from fl_cluster.app.network import is_loopback
from fl_cluster.app.scale_out import CommandLines, is_local
from fl_cluster.app.store_access import announce_durability, open_store
from fl_cluster.app.tls import SCHEDULER, CertificateWatch, open_tls, url_of
from fl_cluster.config.addresses import Address, scheduler_http_address
from fl_cluster.config.schema import JobSettings
from fl_cluster.errors import StartupError
from fl_cluster.lifecycle.instance import instance_name
from fl_cluster.lifecycle.membership import Role
from fl_cluster.security.passwords import Passwords
from fl_cluster.security.tls import Tls
from fl_cluster.security.tokens import TokenRole
from fl_cluster.service.inquiry import Inquiry, Witnesses
from fl_cluster.service.link_keeper import LinkKeeper, LinkState, Registry, Surroundings, connect
from fl_cluster.service.membership import Membership
from fl_cluster.service.spending import Spending
from fl_cluster.service.steering import Steering
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.durability import RedisDurability
from fl_cluster.store.redis.jobs import RedisEvents, RedisJobStore
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.leases import RedisLeases
from fl_cluster.store.redis.members import RedisMemberStore
from fl_cluster.store.redis.privacy import RedisPrivacyStore
from fl_cluster.store.redis.rounds import RedisRoundStore

logger = logging.getLogger(__name__)

DRAIN_S = 0.5

OPEN_TO_ALL = (
    "whoever reaches %s can stop and restart this job: listen on 127.0.0.1, or make an operator"
    " token (fl-cluster token create --label NAME --role operator)"
)


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """What a scheduler is told beside its configuration file."""

    manage_address: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Configuration keys that the command line laid over the file."""
    passwords: Passwords = field(default_factory=Passwords)


class Scheduler:
    """One scheduler's parts, built around one connection to the store."""

    def __init__(
        self,
        settings: JobSettings,
        options: SchedulerOptions,
        connection: Connection,
        tls: Tls | None = None,
    ) -> None:
        keys, lease_ms = JobKeys(settings.name), settings.cluster.lease_ms
        address = options.manage_address
        rounds, jobs = RedisRoundStore(connection, keys), RedisJobStore(connection, keys)
        members, leases = RedisMemberStore(connection, keys), RedisLeases(connection, keys)
        me = this_process(Role.SCHEDULER, new_id(address), manage_address=address)
        self.membership = Membership(members, me, lease_ms=lease_ms, new_id=lambda: new_id(address))
        events = RedisEvents(connection, keys)
        self.links = LinkKeeper(
            Registry(members, leases, rounds.member_lost, events),
            me=lambda: self.membership.member.id,
            lease_ms=lease_ms,
            surroundings=_surroundings(tls),
        )
        self.certificates = (
            CertificateWatch(tls, settings.tls.expiry_warning_days) if tls is not None else None
        )
        spending = Spending(RedisPrivacyStore(connection, keys))
        witnesses = Witnesses(
            rounds=rounds,
            jobs=jobs,
            members=members,
            leases=leases,
            now_ms=connection.now_ms,
            write=lambda: members.renew(self.membership.member.id, lease_ms),
            unreachable=self._unreachable,
            exchange=rounds,
            spending=spending,
        )
        services = Services(
            Steering(rounds, jobs, self.links, _name_of_now, spending),
            Inquiry(settings.name, witnesses),
            CommandLines(
                yaml_config=str(Path(settings.file).resolve()),
                overrides=options.overrides,
                here=me.host,
                is_store_local=is_local(settings.cache.address),
            ),
        )
        sources = Sources(
            jobs,
            rounds,
            members,
            RedisDurability(connection),
            self.links,
            self.certificates.first_end_s if self.certificates is not None else None,
            spending,
        )
        self.access = Access(settings, connection)
        self.plane = ManagementPlane(
            settings.name, sources, services, me, self.access.gatekeeper
        ).plane()

    def _unreachable(self) -> Mapping[str, str]:
        return {
            name: link.reason
            for name, link in self.links.links().items()
            if link.state is LinkState.UNREACHABLE
        }


def _name_of_now() -> str:
    """How a run is called that begins now."""
    return instance_name(time.time_ns() // 1000)


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
    tls = await open_tls(settings, options.passwords, SCHEDULER)
    async with open_store(settings) as connection:
        await announce_durability(connection)
        options = replace(options, manage_address=str(address))
        scheduler = Scheduler(settings, options, connection, tls)
        await scheduler.access.start()
        if not (is_loopback(address.host) or scheduler.access.book.is_required(TokenRole.OPERATOR)):
            logger.warning(OPEN_TO_ALL, address)
        listener = await _listen(scheduler.plane, address, tls)
        membership = scheduler.membership
        try:
            await membership.join()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(membership.run())]
                tasks.append(group.create_task(scheduler.links.run()))
                tasks.append(group.create_task(scheduler.access.run()))
                if scheduler.certificates is not None:
                    scheduler.certificates.warn()
                    tasks.append(group.create_task(scheduler.certificates.run()))
                url = url_of(listener.address, tls)
                logger.info("answering operators on %s", url)
                ready({"address": listener.address, "member": membership.member.id, "url": url})
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await listener.close(drain_s=DRAIN_S)
            await membership.leave()


def _surroundings(tls: Tls | None) -> Surroundings:
    if tls is None:
        return Surroundings()
    return Surroundings(connect=functools.partial(connect, tls=tls.outgoing))


async def _listen(plane: Plane, address: Address, tls: Tls | None) -> Listener:
    context = tls.public_server() if tls is not None else None
    try:
        return await listen(plane, address.host, address.port, tls=context)
    except StartupError as exc:
        raise StartupError(f"{SCHEDULER_FAILED} {address} ({exc})") from exc
