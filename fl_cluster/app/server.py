"""A server: settings in, a member of the cluster out, until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fl_cluster.aggregate.layout import Layout
from fl_cluster.api.bodies import BodyReader, ByteBudget
from fl_cluster.api.contents import MASKED, ContentReader
from fl_cluster.api.device import DevicePlane, Services
from fl_cluster.api.downloads import Downloads
from fl_cluster.api.paths import complaint
from fl_cluster.api.plain_http import Limits, Listener, Plane, listen
from fl_cluster.api.replies import Replies
from fl_cluster.api.traffic import metered
from fl_cluster.api.workers import WorkerPlane
from fl_cluster.app.access import Access
from fl_cluster.app.data_rates import DataRates
from fl_cluster.app.hooks import NoHooks, Occasions, ServerHooks
from fl_cluster.app.identity import new_id, this_process
from fl_cluster.app.malloc import give_memory_back, keep_memory_flat
from fl_cluster.app.masking import MaskParts
from fl_cluster.app.noise import ServerNoise
from fl_cluster.app.open_files import allow_connections
from fl_cluster.app.recorder import FileRecorder
from fl_cluster.app.secure import SecureParts
from fl_cluster.app.store_access import announce_durability, open_store
from fl_cluster.app.tls import CertificateWatch, check_names, host_of, open_tls, url_of
from fl_cluster.app.urls import URL_PATTERN
from fl_cluster.app.weights import starting_point
from fl_cluster.config.addresses import Address, server_http_address
from fl_cluster.config.schema import Durability, EncryptType, Settings
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import StartupError, StoreUnavailable
from fl_cluster.lifecycle.instance import instance_name
from fl_cluster.lifecycle.membership import Role
from fl_cluster.security.passwords import Passwords
from fl_cluster.security.tls import Tls
from fl_cluster.service.checkin import CheckInDesk
from fl_cluster.service.clock import Clock
from fl_cluster.service.collect import Collector
from fl_cluster.service.deliveries import Deliveries
from fl_cluster.service.finish import Finisher, FinishRules
from fl_cluster.service.job import StartingPoint, check_fit, open_job, rebuild_job
from fl_cluster.service.link import Duties, LinkServer
from fl_cluster.service.membership import Membership, Undertaker
from fl_cluster.service.retraining import RetrainingDesk
from fl_cluster.service.steering import DRAIN
from fl_cluster.service.unmasking import Unmasker, UnmaskerOfJob
from fl_cluster.service.view import JobView, Stores
from fl_cluster.service.visits import Visits
from fl_cluster.store.checkpoints import CheckpointFolder
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.jobs import RedisBlobStore, RedisEvents, RedisJobStore
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.members import RedisMemberStore
from fl_cluster.store.redis.privacy import RedisPrivacyStore
from fl_cluster.store.redis.rounds import RedisRoundStore
from fl_cluster.telemetry.load import Counts, LoadMeter

logger = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024
SHARE_BYTES = 1_024
MOST_PEERS = 16_384
"""More than a device of a masked round has to say about any other, and more than there are."""

DRAIN_S = 5.0
SERVER_FAILED = "Http server starting failed."
"""The original's words."""

STOP = "stop"
"""Another word for `drain`: a server that is told to end finishes what it holds."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a server is told beside its configuration file."""

    http_address: str
    tcp_ip: str
    checkpoint_dir: Path
    model_file: Path | None
    link_address: tuple[str, int] = ("", 0)
    """Host and port of this member's own on the cluster's side; known once it is open."""
    start: Callable[[], tuple[StartingPoint, str]] | None = None
    """Where a program's own weights come from, instead of `checkpoint_dir` and `model_file`."""
    makes_checkpoint_dir: bool = True
    """Whether a missing `checkpoint_dir` is made; else there are no checkpoints without it."""
    passwords: Passwords = field(default_factory=Passwords)
    """Of key files; the environment's where none is given."""

    def checkpoints(self, job: str) -> CheckpointFolder:
        """The job's checkpoints."""
        return CheckpointFolder(self.checkpoint_dir, job, is_made=self.makes_checkpoint_dir)


def body_limit(settings: Settings, layout: Layout) -> int:
    """The longest body a device has a reason to send, in bytes."""
    if settings.cluster.body_limit_mb:
        return settings.cluster.body_limit_mb * MEGABYTE
    names = sum(len(tensor.name.encode()) for tensor in layout)
    update = 4 * layout.size + 2 * names + 512 * len(layout)
    if settings.encrypt.kind is EncryptType.SECURE_AGGREGATION:
        update += 4 * layout.size
    elif settings.encrypt.kind not in MASKED:
        return update + MEGABYTE
    return max(update, SHARE_BYTES * min(settings.rounds.cohort_size, MOST_PEERS)) + MEGABYTE


def check_urls(settings: Settings, address: str) -> None:
    """StartupError when the device URLs that the prefix makes are not URLs.

    The pattern is the original's, which knows IPv4 addresses; other hosts are as good.
    A prefix that is one, and of no use, is warned of.
    """
    if (useless := complaint(settings.device.url_prefix)) is not None:
        logger.warning("%s", useless)
    for name in ("startFLJob", "updateModel", "getModel"):
        path = f"{settings.device.url_prefix or '/'}{name}"
        url = f"http://{address}{path}"
        if not URL_PATTERN.fullmatch(f"http://127.0.0.1:6666{path}"):
            raise StartupError(
                f"The http url:{url} is illegal! (client.http_url_prefix is"
                f" {settings.device.url_prefix!r}; expected a path such as /prefix/)"
            )


def reachable_address(settings: Settings, options: ServerOptions) -> str:
    """Where others find the device plane of a server that listens for devices.

    One that listens on all addresses is found, unless it is said where, on the cluster's own.
    """
    if settings.cluster.advertise_http_address:
        return settings.cluster.advertise_http_address
    listening = server_http_address(options.http_address)
    host, _ = options.link_address
    return str(replace(listening, host=host)) if listening.is_wildcard else options.http_address


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
        jobs, address = RedisJobStore(connection, keys), str(settings.cache.address)
        self._stores = Stores(rounds, jobs, blobs, connection.one_life, address)
        self._members = RedisMemberStore(connection, keys)
        self._view = JobView(self._stores)
        self.access = Access(settings, connection)
        events = RedisEvents(connection, keys)
        self._link_address = str(Address(*options.link_address))
        self._undertaker = Undertaker(self._members, rounds.member_lost)
        member = this_process(
            Role.SERVER,
            self._new_id(),
            tcp_address=settings.cluster.advertise_tcp_address or self._link_address,
            http_address=reachable_address(settings, options),
        )
        self.membership = Membership(
            self._members,
            member,
            lease_ms=settings.cluster.lease_ms,
            new_id=self._new_id,
            undertaker=self._undertaker,
        )
        self.membership.report_to(self._view.watch)
        self._checkpoints = options.checkpoints(settings.name)
        self._recorder = FileRecorder(settings, self._checkpoints, self._link_address, hooks)
        self.data_rates = DataRates.into(settings.summary.data_rate_dir, self._link_address)
        self.certificates: CertificateWatch | None = None
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
        self._secure = SecureParts(settings, self._view, rounds, rounds)
        self._masks = MaskParts(self._view, rounds, rounds)
        privacy = RedisPrivacyStore(connection, keys)
        self._noise = ServerNoise(privacy, self._checkpoints, self._view, rounds)
        self._finisher = self._make_finisher()
        self.clock = Clock(self._view, rounds, events, self._finisher, self._rebuild)
        self.clock.each_second(lambda: self._visits.flush(self._view.snapshot.ref))
        self.clock.each_second(self._noise.watch)
        self.clock.each_second(self._secure.look)

    def _make_finisher(self) -> Finisher:
        by_kind: dict[str, Unmasker] = {
            **self._masks.unmaskers,
            EncryptType.SECURE_AGGREGATION: self._secure.unmasker,
        }
        rules = FinishRules(
            self._settings.cluster.lease_ms,
            self._settings.summary.failures_in_a_row,
            UnmaskerOfJob(self._masks.parameters, by_kind),
            self._noise.desk,
        )
        return Finisher(
            self._view, self._stores, self._collector, self._recorder, self._visits, rules
        )

    async def join_job(self) -> str:
        """Create the job's records, or find that they fit; which weights the job has."""
        self._recorder.prepare()
        start, which = await asyncio.to_thread(self._options.start or self._starting_point)
        parameters = SharedParameters.of(self._settings)
        self._noise.check(parameters)
        instance = instance_name(time.time_ns() // 1000)
        job = await open_job(self._stores, parameters, start, instance)
        shared = SharedParameters.parse(job.hyper_parameters)
        self._settings = shared.adopted_by(self._settings)
        await self._view.refresh()
        await self._noise.recall()
        base = self._view.base
        if job.instance != instance:
            which = f"those of the running job after round {base.record.number}"
        logger.info("initial weights: %s (SHA-256 %s)", which, base.model.digest)
        return which

    async def check_access(self) -> None:
        """Make ready who may do what; a fault says what of it cannot be used.

        A server that could not join the job anyway is told that first.
        """
        try:
            await self.access.start()
        except StartupError:
            await check_fit(self._stores, SharedParameters.of(self._settings))
            raise
        self.clock.on_word(self.access.book.hear)

    def _starting_point(self) -> tuple[StartingPoint, str]:
        return starting_point(self._checkpoints, self._options.model_file)

    def watch_certificates(self, tls: Tls) -> None:
        """Keep the certificates fresh; what ends soon is an event as well."""
        days = self._settings.tls.expiry_warning_days
        self.certificates = CertificateWatch(tls, days, self._recorder.note)
        self.certificates.warn()

    def plane(self) -> Plane:
        """What devices are served."""
        settings, view, rounds = self._settings, self._view, self._stores.rounds
        limit = body_limit(settings, view.layout)
        in_flight = settings.cluster.bytes_in_flight_mb * MEGABYTE
        self._budget = budget = ByteBudget(in_flight or max(32 * MEGABYTE, limit + limit // 2))
        services = Services(
            view,
            rounds,
            CheckInDesk(view, rounds),
            self._collector,
            self._visits,
            self._deliveries,
            Replies(settings, view),
            ContentReader(settings, view),
            self.access.gatekeeper,
            self.access.proofs,
            self._secure.desk,
        )
        prefix, is_masked = settings.device.url_prefix, settings.encrypt.kind in MASKED
        cluster = settings.cluster
        hold_ms = cluster.masked_hold_ms if is_masked else cluster.hold_ms
        devices = DevicePlane(services, BodyReader(limit, budget), hold_ms=hold_ms)
        workers = WorkerPlane(view, RetrainingDesk(view, self._stores, hold_ms=hold_ms), devices)
        routes = devices.routes(prefix) | workers.routes(prefix)
        if is_masked:
            masks = self._masks.plane(services.replies, services.proofs, devices, hold_ms=hold_ms)
            routes |= masks.routes(prefix)
        if settings.encrypt.kind is EncryptType.SECURE_AGGREGATION:
            routes |= self._secure.plane(devices).routes(prefix)
        if self.data_rates is not None:
            routes = metered(routes, self.data_rates.meter)
        downloads = Downloads(view, self.access.gatekeeper)
        return Plane(
            routes=routes,
            folders=downloads.folders(settings.device.url_prefix),
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
        self._recorder.saw_start(seen.opened_at)
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
    occasions = Occasions(hooks)
    keep_memory_flat()
    allow_connections(settings.device.connection_limit)
    try:
        for warning in settings.warnings:
            logger.warning("%s", warning)
        tls = await open_tls(settings, options.passwords)
        mutual = tls.mutual_server() if tls else None
        address = server_http_address(options.http_address)
        check_urls(settings, options.http_address)
        async with (
            open_store(settings) as connection,
            LinkServer.listening(options.tcp_ip, mutual) as link,
        ):
            await announce_durability(connection)
            options = replace(options, link_address=link.address)
            server = Server(settings, options, connection, hooks)
            await server.check_access()
            weights = await server.join_job()
            listener = await _listen(server.plane(), address, tls)
            server.answer_schedulers(link, listener, stop)
            await server.membership.join()
            member = server.membership.member.id
            if tls is not None:
                check_names(tls, [host_of(server.membership.member.http_address)])
                server.watch_certificates(tls)
            logger.info("serving devices on %s as %s", url_of(listener.address, tls), member)
            ready({"http_address": listener.address, "member": member, "initial_weights": weights})
            await _serve_until(stop, server, listener, occasions)
    finally:
        await occasions.stopping()


async def _listen(plane: Plane, address: Address, tls: Tls | None) -> Listener:
    context = tls.public_server() if tls is not None else None
    try:
        return await listen(plane, address.host, address.port, tls=context)
    except StartupError as exc:
        raise StartupError(f"{SERVER_FAILED} ({exc})") from exc


async def _serve_until(
    stop: asyncio.Event, server: Server, listener: Listener, occasions: Occasions
) -> None:
    tasks = [
        asyncio.create_task(server.clock.run()),
        asyncio.create_task(server.membership.run()),
        asyncio.create_task(server.access.run()),
        asyncio.create_task(give_memory_back()),
    ]
    if server.data_rates is not None:
        tasks.append(asyncio.create_task(server.data_rates.run()))
    if server.certificates is not None:
        tasks.append(asyncio.create_task(server.certificates.run()))
    try:
        await occasions.started()
        await _until(stop, tasks)
        await occasions.stopping()
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
