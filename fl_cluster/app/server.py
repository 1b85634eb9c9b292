"""A server: settings in, a member of the cluster out, until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fl_cluster.aggregate.layout import Layout
from fl_cluster.api.bodies import BodyReader, ByteBudget
from fl_cluster.api.device import DevicePlane, Services
from fl_cluster.api.plain_http import Limits, Listener, Plane, listen
from fl_cluster.api.replies import Replies
from fl_cluster.app.hooks import NoHooks, ServerHooks, call
from fl_cluster.app.identity import new_id, this_process
from fl_cluster.app.malloc import keep_memory_flat
from fl_cluster.app.recorder import FileRecorder
from fl_cluster.app.store_access import announce_durability, open_store
from fl_cluster.app.weights import starting_point
from fl_cluster.config.addresses import Address, server_http_address
from fl_cluster.config.schema import Durability, Settings
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import StartupError, StoreUnavailable
from fl_cluster.lifecycle.instance import instance_name
from fl_cluster.lifecycle.membership import Role
from fl_cluster.service.checkin import CheckInDesk
from fl_cluster.service.clock import Clock
from fl_cluster.service.collect import Collector
from fl_cluster.service.deliveries import Deliveries
from fl_cluster.service.finish import Finisher, FinishRules
from fl_cluster.service.job import StartingPoint, open_job, rebuild_job
from fl_cluster.service.link import Duties, LinkServer
from fl_cluster.service.membership import Membership, Undertaker
from fl_cluster.service.steering import DRAIN
from fl_cluster.service.view import JobView, Stores
from fl_cluster.service.visits import Visits
from fl_cluster.store.checkpoints import CheckpointFolder
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.jobs import RedisBlobStore, RedisEvents, RedisJobStore
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.members import RedisMemberStore
from fl_cluster.store.redis.rounds import RedisRoundStore
from fl_cluster.telemetry.load import Counts, LoadMeter

logger = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024
DRAIN_S = 5.0
STOP = "stop"
"""Another word for `drain`: a server that is told to end finishes what it holds."""

URL_PATTERN = re.compile(
    r"https?://(www\.)?[-a-zA-Z0-9@:%._+~#=]{1,256}\.[a-zA-Z0-9()]{1,6}\b"
    r"([-a-zA-Z0-9()@:%_+.~#?&//=]*)"
)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a server is told beside its configuration file."""

    http_address: str
    tcp_ip: str
    checkpoint_dir: Path
    model_file: Path | None
    link_address: tuple[str, int] = ("", 0)
    """Host and port of this member's own on the cluster's side; known once it is open."""


def body_limit(settings: Settings, layout: Layout) -> int:
    """The longest body a device has a reason to send, in bytes."""
    if settings.cluster.body_limit_mb:
        return settings.cluster.body_limit_mb * MEGABYTE
    names = sum(len(tensor.name.encode()) for tensor in layout)
    return 4 * layout.size + 2 * names + 512 * len(layout) + MEGABYTE


def check_urls(settings: Settings, address: str) -> None:
    """StartupError when the device URLs that the prefix makes are not URLs."""
    for name in ("startFLJob", "updateModel", "getModel"):
        url = f"http://{address}{settings.device.url_prefix or '/'}{name}"
        if not URL_PATTERN.fullmatch(url):
            raise StartupError(
                f"The http url:{url} is illegal! (client.http_url_prefix is"
                f" {settings.device.url_prefix!r}; expected a path such as /prefix/)"
            )


class Server:
    """One member's parts, built around one connection to the store."""

    def __init__(
        self,
        settings: Settings,
        options: ServerOptions,
        connection: Connection,
        hooks: ServerHooks,
    ) -> None:
        self._settings = settings
        self._options = options
        keys = JobKeys(settings.name)
        rounds = RedisRoundStore(connection, keys)
        blobs = RedisBlobStore(connection, keys)
        self._stores = Stores(rounds, RedisJobStore(connection, keys), blobs)
        self._members = RedisMemberStore(connection, keys)
        self._view = JobView(self._stores)
        events = RedisEvents(connection, keys)
        host, port = options.link_address
        self._link_address = str(Address(host, port))
        self._undertaker = Undertaker(self._members, rounds.member_lost)
        member = this_process(
            Role.SERVER,
            self._new_id(),
            tcp_address=settings.cluster.advertise_tcp_address or self._link_address,
            http_address=settings.cluster.advertise_http_address or options.http_address,
        )
        self.membership = Membership(
            self._members,
            member,
            lease_ms=settings.cluster.lease_ms,
            new_id=self._new_id,
            undertaker=self._undertaker,
        )
        self.membership.report_to(self._view.watch)
        self._checkpoints = CheckpointFolder(options.checkpoint_dir, settings.name)
        self._recorder = FileRecorder(settings, self._checkpoints, self._link_address, hooks)
        patience_ms = 2 * settings.cluster.redis_timeout_ms
        self._collector = Collector(
            self._view,
            self._stores,
            member.id,
            patience_ms,
            is_durable=settings.cluster.durability is Durability.DURABLE,
        )
        self.membership.on_new_name(self._collector.become)
        self._visits = Visits(rounds)
        self._deliveries = Deliveries(rounds)
        self._budget = ByteBudget(0)
        self._finisher = Finisher(
            self._view,
            self._stores,
            self._collector,
            self._recorder,
            self._visits,
            FinishRules(settings.cluster.lease_ms, settings.summary.failures_in_a_row),
        )
        self.clock = Clock(self._view, rounds, events, self._finisher, self._rebuild)
        self.clock.each_second(lambda: self._visits.flush(self._view.snapshot.ref))

    async def join_job(self) -> str:
        """Create the job's records, or find that they fit; which weights the job has."""
        self._recorder.prepare()
        model_file = self._options.model_file
        start, which = await asyncio.to_thread(starting_point, self._checkpoints, model_file)
        parameters = SharedParameters.of(self._settings)
        instance = instance_name(time.time_ns() // 1000)
        job = await open_job(self._stores, parameters, start, instance)
        await self._view.refresh()
        base = self._view.base
        if job.instance != instance:
            which = f"those of the running job after round {base.record.number}"
        logger.info("initial weights: %s (SHA-256 %s)", which, base.model.digest)
        return which

    def plane(self) -> Plane:
        """What devices are served."""
        settings, view, rounds = self._settings, self._view, self._stores.rounds
        limit = body_limit(settings, view.layout)
        in_flight = settings.cluster.bytes_in_flight_mb * MEGABYTE
        self._budget = budget = ByteBudget(in_flight or max(32 * MEGABYTE, 2 * limit))
        services = Services(
            view,
            rounds,
            CheckInDesk(view, rounds),
            self._collector,
            self._visits,
            self._deliveries,
            Replies(settings, view),
        )
        devices = DevicePlane(services, BodyReader(limit, budget), hold_ms=settings.cluster.hold_ms)
        return Plane(
            routes=devices.routes(settings.device.url_prefix),
            on_fault=devices.broken,
            on_bug=lambda request: devices.broken(request, None),
            limits=Limits(
                settings.device.connection_limit,
                settings.cluster.header_timeout_s,
                settings.cluster.idle_timeout_s,
            ),
        )

    async def drain(self, listener: Listener) -> None:
        """Finish what is held: requests, commits, a round that is being finished here."""
        await self.membership.drain()
        self._view.stop_holding()
        await listener.close(drain_s=DRAIN_S)
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._collector.drain()
                await self._deliveries.flush()
                await self._finisher.settle()
                await self._visits.flush(self._view.snapshot.ref)
        except TimeoutError:
            logger.warning("not everything in hand could be finished within %g s", DRAIN_S)

    def answer_schedulers(self, link: LinkServer, listener: Listener, stop: asyncio.Event) -> None:
        """Tell schedulers how busy this member is, and let them end it, always in order."""

        async def end() -> None:
            stop.set()

        async def renew() -> None:
            # Not `membership.look`, which runs already: two that hear of a death at the same
            # time would take two new names.
            lease_ms = self._settings.cluster.lease_ms
            await self._members.renew(self.membership.member.id, lease_ms)

        meter = LoadMeter(lambda: self._count(listener))
        duties = Duties(meter.read, {DRAIN: end, STOP: end}, renew)
        link.serve(self.membership.member.id, duties)
        self.membership.on_new_name(link.become)

    def _count(self, listener: Listener) -> Counts:
        return Counts(
            requests=self._visits.requests,
            uploads=self._visits.reports,
            bytes_in_flight=self._budget.used,
            open_connections=len(listener.server.connections),
            round_number=self._view.snapshot.ref.number,
        )

    async def leave(self) -> None:
        """Take this member off the list; a store that is away will find out by its lease."""
        try:
            await self.membership.leave()
        except StoreUnavailable as exc:
            logger.warning("left without telling the store: %s", exc)

    async def _rebuild(self) -> None:
        base = self._view.base
        held = StartingPoint(base.model, base.record.number)
        seen = self._view.snapshot
        await rebuild_job(
            self._stores, self._view.job, held, seen.ref, is_disabled=seen.is_disabled
        )

    def _new_id(self) -> str:
        return new_id(self._link_address)


async def serve(
    settings: Settings,
    options: ServerOptions,
    *,
    stop: asyncio.Event,
    ready: Callable[[Mapping[str, object]], None],
    hooks: ServerHooks | None = None,
) -> None:
    """Be a server until `stop` is set; `ready` is called once devices are served."""
    hooks = hooks or NoHooks()
    keep_memory_flat()
    try:
        address = server_http_address(options.http_address)
        check_urls(settings, options.http_address)
        for warning in settings.warnings:
            logger.warning("%s", warning)
        async with open_store(settings) as connection, LinkServer.listening(options.tcp_ip) as link:
            await announce_durability(connection)
            options = replace(options, link_address=link.address)
            server = Server(settings, options, connection, hooks)
            weights = await server.join_job()
            listener = await listen(server.plane(), address.host, address.port)
            server.answer_schedulers(link, listener, stop)
            await server.membership.join()
            member = server.membership.member.id
            logger.info("serving devices on %s as %s", listener.address, member)
            ready({"http_address": listener.address, "member": member, "initial_weights": weights})
            call(hooks.started)
            await _serve_until(stop, server, listener)
    finally:
        call(hooks.stopping)


async def _serve_until(stop: asyncio.Event, server: Server, listener: Listener) -> None:
    tasks = [
        asyncio.create_task(server.clock.run()),
        asyncio.create_task(server.membership.run()),
    ]
    try:
        await _until(stop, tasks)
        await server.drain(listener)
    finally:
        await listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await server.leave()


async def _until(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Return when `stop` is set; raise what ends a task that should never end."""
    waiting = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((waiting, *tasks), return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        waiting.cancel()
