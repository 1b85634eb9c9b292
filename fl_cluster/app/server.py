"""A server: settings in, a member of the cluster out, until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fl_cluster.aggregate.layout import Layout
from fl_cluster.aggregate.model import Model
from fl_cluster.api.bodies import BodyReader, ByteBudget
from fl_cluster.api.device import DevicePlane, Services
from fl_cluster.api.plain_http import Limits, Listener, Plane, listen
from fl_cluster.api.replies import Replies
from fl_cluster.app.recorder import FileRecorder
from fl_cluster.config.schema import Settings
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import StartupError
from fl_cluster.service.checkin import CheckInDesk
from fl_cluster.service.clock import Clock
from fl_cluster.service.collect import Collector
from fl_cluster.service.finish import Finisher
from fl_cluster.service.job import StartingPoint, open_job, rebuild_job
from fl_cluster.service.view import JobView, Stores
from fl_cluster.service.visits import Visits
from fl_cluster.store.checkpoints import CheckpointFolder
from fl_cluster.store.initial_models import lenet
from fl_cluster.store.model_files import read_model
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.jobs import RedisBlobStore, RedisEvents, RedisJobStore
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.rounds import RedisRoundStore

logger = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024

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


def starting_point(settings: Settings, options: ServerOptions) -> tuple[StartingPoint, str]:
    """The weights to start from when the job is new, and a sentence that says which they are."""
    if options.model_file is not None:
        try:
            model = Model.from_arrays(read_model(options.model_file))
        except ValueError as exc:
            raise StartupError(f"--model {options.model_file}: {exc}") from exc
        return StartingPoint(model, 0), f"the weights in {options.model_file}"
    newest = CheckpointFolder(options.checkpoint_dir, settings.name).newest()
    if newest is not None:
        info, arrays = newest
        return (
            StartingPoint(Model.from_arrays(arrays), info.number),
            f"the checkpoint of round {info.number}, {info.path}",
        )
    model = Model.from_arrays(lenet())
    return StartingPoint(
        model, 0, is_given=False
    ), "a freshly seeded LeNet (give --model FILE.npz for another)"


def instance_name(at_us: int) -> str:
    """The name of a training run that starts now: `i_YYYY-mm-dd-HH:MM:SS.mmm.uuu`, local time."""
    seconds, micros = divmod(at_us, 1_000_000)
    text = time.strftime("%Y-%m-%d-%H:%M:%S", time.localtime(seconds))
    return f"i_{text}.{micros // 1000:03d}.{micros % 1000:03d}"


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
        if not URL_PATTERN.match(url):
            raise StartupError(
                f"The http url:{url} is illegal! (client.http_url_prefix is"
                f" {settings.device.url_prefix!r}; expected a path such as /prefix/)"
            )


class Server:
    """One member's parts, built around one connection to the store."""

    def __init__(self, settings: Settings, options: ServerOptions, connection: Connection) -> None:
        self._settings = settings
        self._options = options
        keys = JobKeys(settings.name)
        self._stores = Stores(
            RedisRoundStore(connection, keys),
            RedisJobStore(connection, keys),
            RedisBlobStore(connection, keys),
        )
        self._events = RedisEvents(connection, keys)
        self.view = JobView(self._stores)

    async def join_job(self) -> None:
        """Create the job's records, or find that they fit this server's settings."""
        start, which = starting_point(self._settings, self._options)
        parameters = SharedParameters.of(self._settings)
        instance = instance_name(time.time_ns() // 1000)
        job = await open_job(self._stores, parameters, start, instance)
        await self.view.refresh()
        base = self.view.base
        if job.instance == instance:
            logger.info("initial weights: %s (SHA-256 %s)", which, base.model.digest)
        else:
            logger.info(
                "weights: those of the running job, round %d (SHA-256 %s)",
                base.record.number,
                base.model.digest,
            )

    def assemble(self, member: str, recorder: FileRecorder) -> tuple[Collector, Clock, Plane]:
        """The services of a member with this id, and the plane that calls them."""
        view, rounds, settings = self.view, self._stores.rounds, self._settings
        collector = Collector(view, self._stores, member, settings.cluster.redis_timeout_ms * 2)
        visits = Visits(rounds)
        finisher = Finisher(
            view,
            self._stores,
            collector,
            recorder,
            lease_ms=settings.cluster.lease_ms,
            failures_told_at=settings.summary.failures_in_a_row,
        )
        clock = Clock(view, rounds, self._events, finisher, self._rebuild)
        clock.each_second(lambda: visits.flush(view.snapshot.ref))
        services = Services(
            view,
            rounds,
            CheckInDesk(view, rounds),
            collector,
            visits,
            Replies(settings, view),
        )
        return collector, clock, self._plane(services)

    def _plane(self, services: Services) -> Plane:
        settings = self._settings
        limit = body_limit(settings, self.view.layout)
        budget = ByteBudget(settings.cluster.bytes_in_flight_mb * MEGABYTE)
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

    async def _rebuild(self) -> None:
        view = self.view
        held = StartingPoint(view.base.model, view.base.record.number)
        await rebuild_job(self._stores, view.job, held, view.snapshot.ref)
