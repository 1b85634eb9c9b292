"""The device plane of a cluster in one event loop: real sockets, stores in memory.

A `Bench` holds one job; each of its members has the services, the plane and the listening
socket that a server has.  Requests go through TCP and are read back byte by byte.  Rounds
are finished when a test says so, so that it sees every state in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.scale import exponents
from fl_cluster.api import plain_http
from fl_cluster.api.bodies import BodyReader, ByteBudget
from fl_cluster.api.contents import MASKED, ContentReader
from fl_cluster.api.device import DevicePlane, Services
from fl_cluster.api.dialects import PACKED_TYPE
from fl_cluster.api.gatekeeper import Gatekeeper
from fl_cluster.api.proofs import ProofDesk
from fl_cluster.api.replies import Replies
from fl_cluster.api.workers import WorkerPlane
from fl_cluster.app.masking import MaskParts
from fl_cluster.app.secure import SecureParts
from fl_cluster.config.load import load
from fl_cluster.config.schema import EncryptType, Settings
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import StoreUnavailable
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.service.checkin import CheckInDesk
from fl_cluster.service.collect import Collector
from fl_cluster.service.deliveries import Deliveries
from fl_cluster.service.finish import EndedRound, Finisher, FinishRules
from fl_cluster.service.job import plan_of
from fl_cluster.service.retraining import RetrainingDesk
from fl_cluster.service.unmasking import UnmaskerOfJob
from fl_cluster.service.view import JobView, Stores
from fl_cluster.service.visits import Visits
from fl_cluster.store.memory import MemoryBlobStore, MemoryJobStore, MemoryRoundStore
from fl_cluster.store.ports import JobRecord, ModelRecord
from fl_cluster.wire import flat, messages, packed

LEASE_MS = 3_000
MEGABYTE = 1024 * 1024
DEVICE_TYPE = "text/html; charset=ISO-8859-1"

CONFIG: dict[str, Any] = {
    "fl_name": "Bench",
    "fl_iteration_num": 4,
    "server_mode": "FEDERATED_LEARNING",
    "enable_ssl": False,
    "distributed_cache": {"address": "127.0.0.1:6379"},
    "round": {
        "start_fl_job_threshold": 2,
        "start_fl_job_time_window": 30_000,
        "update_model_ratio": 1.0,
        "update_model_time_window": 30_000,
        "global_iteration_time_window": 60_000,
    },
    "summary": {"metrics_file": "metrics.json", "failure_event_file": "event.txt"},
    "client": {"client_epoch_num": 20, "client_batch_size": 32, "client_learning_rate": 0.01},
}

WEIGHTS = {"w001": [-1.25, 0.5], "w000": [0.25, 0.5, 0.75], "steps": [7.0]}
NOT_AVERAGED = {"steps"}

ANSWERS: Mapping[type[Any], tuple[str, type[Any]]] = {
    messages.RequestFLJob: ("startFLJob", messages.ResponseFLJob),
    messages.RequestUpdateModel: ("updateModel", messages.ResponseUpdateModel),
    messages.RequestGetModel: ("getModel", messages.ResponseGetModel),
    messages.RequestPullWeight: ("pullWeight", messages.ResponsePullWeight),
    messages.RequestPushWeight: ("pushWeight", messages.ResponsePushWeight),
    messages.RequestPushMetrics: ("pushMetrics", messages.ResponsePushMetrics),
}


@dataclass(frozen=True)
class Reply:
    """One answer as it came."""

    head: bytes
    body: bytes
    codec: Any = flat
    cls: type[Any] = messages.ResponseFLJob

    @property
    def status_line(self) -> str:
        return self.head.decode("latin-1").split("\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.status_line.split()[1])

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return [cast(Any, tuple(line.split(": ", 1))) for line in lines]

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    @property
    def text(self) -> str:
        """The body of a plain-text answer."""
        assert (self.status, self.header("Content-Type")) == (200, DEVICE_TYPE)
        return self.body.decode("ascii")

    @property
    def message(self) -> Any:
        """The message in the body, which must have the type that such a body has."""
        expected = PACKED_TYPE if self.codec is packed else DEVICE_TYPE
        assert self.header("Content-Type") == expected, self.body
        if self.codec is flat:
            assert self.status == 200, self.status_line
        return self.codec.decode(self.cls, self.body)

    @property
    def tensors(self) -> dict[str, list[float]]:
        """The model in the answer, in the order it came."""
        return {each.weight_fullname: each.data.tolist() for each in self.message.feature_map}


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, request: bytes) -> None:
        self.writer.write(request)

    async def receive(self, codec: Any = flat, cls: type[Any] = messages.ResponseFLJob) -> Reply:
        """The next answer; one without a length ends with the connection."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        body = await (self.reader.readexactly(int(length[1])) if length else self.reader.read())
        return Reply(head, body, codec, cls)

    def reset(self) -> None:
        """Break the connection so that the peer hears of it at once."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def is_over(self) -> bool:
        """Whether the peer has closed, with nothing said since the last answer."""
        return await self.reader.read() == b""


def post(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """A request with a length, as devices send it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Caller:
    """Devices that speak one of the two encodings with one member."""

    def __init__(self, member: Member, codec: Any) -> None:
        self._member = member
        self.codec = codec
        self._headers: tuple[str, ...] = (
            ("Content-Type: application/msgpack",) if codec is packed else ()
        )

    def saying(self, *headers: str) -> Caller:
        """The same, with these header lines too."""
        caller = Caller(self._member, self.codec)
        caller._headers = (*self._headers, *headers)
        return caller

    def request(self, message: Any) -> bytes:
        """The bytes of the request that carries `message`."""
        return self.raw_request(ANSWERS[type(message)][0], self.codec.encode(message))

    def raw_request(self, name: str, body: bytes) -> bytes:
        return post(f"{self._member.prefix}{name}", body, *self._headers)

    async def send(self, message: Any) -> Reply:
        """The answer to `message`, on a connection of its own."""
        return await self._ask(self.request(message), ANSWERS[type(message)][1])

    async def send_to(self, name: str, message: Any, cls: type[Any]) -> Reply:
        """The answer, of that class, to `message` sent to the path of that name."""
        return await self._ask(self.raw_request(name, self.codec.encode(message)), cls)

    async def send_raw(self, name: str, body: bytes) -> Reply:
        """The answer to any bytes sent to the path of that name."""
        answer = next(answer for path, answer in ANSWERS.values() if path == name)
        return await self._ask(self.raw_request(name, body), answer)

    async def _ask(self, request: bytes, cls: type[Any]) -> Reply:
        async with self._member.line() as line:
            line.send(request)
            return await line.receive(self.codec, cls)

    def check_in_message(self, device: str | None = "d1", **fields: Any) -> Any:
        given = {"fl_name": "com.acme.Lenet", "data_size": 10, "timestamp": "1"}
        return messages.RequestFLJob(fl_id=device, **(given | fields))

    def report_message(
        self, device: str | None = "d1", number: int | None = None, **fields: Any
    ) -> Any:
        """An update; `tensors` (name -> values) says what is in it, the whole model if absent."""
        tensors = fields.pop("tensors", {"w000": [1.0, 2.0, 3.0], "w001": [4.0, 5.0]})
        given = {
            "fl_name": "com.acme.Lenet",
            "iteration": self._member.bench.number if number is None else number,
            "feature_map": tuple(
                messages.FeatureMap(name, np.array(values, np.float32))
                for name, values in tensors.items()
            ),
            "timestamp": "1",
            "upload_loss": 0.5,
            "upload_accuracy": 0.75,
        }
        return messages.RequestUpdateModel(fl_id=device, **(given | fields))

    async def check_in(self, device: str | None = "d1", **fields: Any) -> Reply:
        return await self.send(self.check_in_message(device, **fields))

    async def report(
        self, device: str | None = "d1", number: int | None = None, **fields: Any
    ) -> Reply:
        return await self.send(self.report_message(device, number, **fields))

    async def get_model(self, number: int, **fields: Any) -> Reply:
        given = {"fl_name": "com.acme.Lenet", "timestamp": "1"}
        return await self.send(messages.RequestGetModel(iteration=number, **(given | fields)))


@dataclass
class Held:
    """A call that waits on its way to the store: `reached` when it is there, `go` lets it go."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


class Link:
    """One member's way to a store: it can break, and calls can be held on it."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.fault: Exception | None = None
        """What calls raise, for as long as it stands."""
        self.calls: Counter[str] = Counter()
        self._held: dict[str, deque[Held]] = defaultdict(deque)

    def hold(self, method: str) -> Held:
        """Hold the next call of that name before it is done."""
        held = Held()
        self._held[method].append(held)
        return held

    def __getattr__(self, method: str) -> Any:
        real: Callable[..., Awaitable[Any]] = getattr(self.store, method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[method] += 1
            # A call over a link is never answered at once.
            await asyncio.sleep(0)
            if self._held[method]:
                held = self._held[method].popleft()
                held.reached.set()
                await held.go.wait()
            if self.fault is not None:
                raise self.fault
            return await real(*args, **kwargs)

        return call


class Records:
    """A recorder that only remembers."""

    def __init__(self) -> None:
        self.ended: list[EndedRound] = []

    def record(self, ended: EndedRound) -> None:
        self.ended.append(ended)


@dataclass
class Member:
    """One server: what it knows, its way to the stores, and its open address."""

    bench: Bench
    links: tuple[Link, Link, Link]
    """To the rounds, the job and the blobs."""
    view: JobView
    visits: Visits
    deliveries: Deliveries
    finisher: Finisher
    secure: SecureParts
    budget: ByteBudget
    listener: plain_http.Listener
    prefix: str

    @property
    def flat(self) -> Caller:
        return Caller(self, flat)

    @property
    def packed(self) -> Caller:
        return Caller(self, packed)

    @contextlib.asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        """An open connection."""
        reader, writer = await asyncio.open_connection(self.listener.host, self.listener.port)
        try:
            yield Line(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, request: bytes) -> Reply:
        """The answer to these bytes, on a connection of their own."""
        async with self.line() as line:
            line.send(request)
            return await line.receive()

    def lose_store(self, *, is_noticed: bool = True) -> None:
        """The store is away for this member, which knows it or will find out by asking."""
        fault = StoreUnavailable("snapshot", "the link broke")
        for link in self.links:
            link.fault = fault
        if is_noticed:
            self.view.watch.note("look", fault)

    def find_store(self) -> None:
        """The store answers again, and this member knows it."""
        for link in self.links:
            link.fault = None
        self.view.watch.note("look", None)

    @property
    def busy(self) -> int:
        """How many requests are inside a handler."""
        return len(self.listener.server._busy)


class Bench:
    """One job and the members that serve it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs = MemoryJobStore()
        self._jobs.use_clock(self.now_ms)
        self._blobs = MemoryBlobStore()
        self.members: list[Member] = []
        self.records = Records()
        self.ahead_ms = 0
        """How much later it is for the store than for everybody else."""
        self.weights: Mapping[str, Sequence[float]] = WEIGHTS
        """What the job starts from; a test may want other tensors."""
        self.settings: Settings
        self.gatekeeper = Gatekeeper()
        """Who lets devices in; a test may want one that asks for tokens."""
        self.proofs = ProofDesk()
        """Who verifies devices; a test may want one that does."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    async def open(self, **changes: Any) -> Bench:
        """Create the job; `changes` are settings, `__` for the dot between section and name."""
        content = {k: dict(v) if isinstance(v, dict) else v for k, v in CONFIG.items()}
        for path, value in changes.items():
            section, _, name = path.rpartition("__")
            (content.setdefault(section, {}) if section else content)[name] = value
        file = self._folder / "job.yaml"
        file.write_text(yaml.safe_dump(content), "utf-8")
        self.settings = load(file, "server", environ={})
        layout = Layout(
            Tensor(name, (len(values),), is_aggregated=name not in NOT_AVERAGED)
            for name, values in self.weights.items()
        )
        values = np.array([x for each in layout for x in self.weights[each.name]], np.float32)
        model, parameters = Model(layout, values), SharedParameters.of(self.settings)
        scales = exponents(model, parameters.cohort_size)
        record = ModelRecord(0, "model-0", values.nbytes, model.digest, scales)
        job = JobRecord("run-1", parameters.rounds_total, parameters.text, layout.to_json())
        await self._blobs.put(record.blob, values.data, None)
        assert await self._jobs.open(job, RoundRef("run-1", 1), plan_of(parameters), record)
        return self

    @property
    def rounds(self) -> MemoryRoundStore:
        assert self._jobs.rounds is not None
        return self._jobs.rounds

    @property
    def ref(self) -> RoundRef:
        return self.rounds._round.phase.ref

    @property
    def number(self) -> int:
        """The current round's."""
        return self.ref.number

    @property
    def counted(self) -> list[str]:
        """Whose updates the current round has counted."""
        return sorted(getattr(self.rounds._round.phase, "reports", {}))

    @property
    def cohort(self) -> dict[str, int]:
        """Device -> the data size with which it is in the current round."""
        found = getattr(self.rounds._round.phase, "cohort", {})
        return {device: admission.data_size for device, admission in found.items()}

    async def member(
        self, *, hold_ms: int = 0, limit: int = MEGABYTE, in_flight: int = 64 * MEGABYTE
    ) -> Member:
        """A server that has looked once and is open."""
        links = (Link(self.rounds), Link(self._jobs), Link(self._blobs))
        rounds, jobs, blobs = (cast(Any, link) for link in links)
        stores = Stores(rounds, jobs, blobs)
        view = JobView(stores)
        await view.refresh()
        name = f"member-{len(self.members)}"
        collector = Collector(view, stores, name, patience_ms=10_000)
        visits, deliveries = Visits(rounds), Deliveries(rounds)
        secure = SecureParts(self.settings, view, rounds, rounds)
        masks = MaskParts(view, rounds, rounds)
        unmaskers = {**masks.unmaskers, EncryptType.SECURE_AGGREGATION: secure.unmasker}
        unmasker = UnmaskerOfJob(masks.parameters, unmaskers)
        rules = FinishRules(LEASE_MS, failures_told_at=3, unmasker=unmasker)
        finisher = Finisher(view, stores, collector, self.records, visits, rules)
        replies = Replies(self.settings, view)
        services = Services(
            *(view, rounds, CheckInDesk(view, rounds), collector, visits, deliveries, replies),
            contents=ContentReader(self.settings, view),
            gatekeeper=self.gatekeeper,
            proofs=self.proofs,
            secure=secure.desk,
        )
        budget = ByteBudget(in_flight)
        reader = BodyReader(limit, budget, timeout_s=0.2)
        devices = DevicePlane(services, reader, hold_ms=hold_ms)
        prefix = self.settings.device.url_prefix
        workers = WorkerPlane(view, RetrainingDesk(view, stores, hold_ms=hold_ms), devices)
        routes = devices.routes(prefix) | workers.routes(prefix)
        if self.settings.encrypt.kind is EncryptType.SECURE_AGGREGATION:
            routes |= secure.plane(devices).routes(prefix)
        if self.settings.encrypt.kind in MASKED:
            cipher = masks.plane(replies, self.proofs, devices, hold_ms=hold_ms)
            routes |= cipher.routes(prefix)
        plane = plain_http.Plane(
            routes,
            devices.broken,
            lambda request: devices.broken(request, None),
        )
        listener = await plain_http.listen(plane, "127.0.0.1", 0)
        parts = (links, view, visits, deliveries, finisher, secure, budget, listener)
        member = Member(self, *parts, prefix or "/")
        self.members.append(member)
        return member

    async def look(self) -> None:
        """Let all members see what is."""
        for member in self.members:
            await member.view.refresh()

    async def finish_round(self) -> None:
        """Finish the round that has met its goal or was given up."""
        await self.look()
        assert await self.members[0].finisher.finish()
        await self.look()

    async def give_up_round(self) -> None:
        """End the round as when its time has run out."""
        await self.rounds.abort(self.ref, Reason.REPORT_WINDOW)
        await self.finish_round()

    async def run_rounds(self, count: int, *, devices: Sequence[str] = ("d1", "d2")) -> None:
        """Rounds that end with a model; round N's is N everywhere."""
        caller = self.members[0].flat
        for _ in range(count):
            value = 10.0 * self.number
            tensors = {"w000": [value] * 3, "w001": [value] * 2}
            for device in devices:
                assert (await caller.check_in(device)).message.retcode == 200
            for device in devices:
                assert (await caller.report(device, tensors=tensors)).message.retcode == 200
            await self.finish_round()

    async def close(self) -> None:
        for member in self.members:
            await member.listener.close(drain_s=0.1)
            await member.deliveries.flush()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A job that is yet to be opened."""
    made = Bench(tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def member(bench: Bench) -> Member:
    """The one server of a job of 4 rounds for two devices, both of which have to report."""
    await bench.open()
    return await bench.member()


async def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Returns when the condition holds; the test's own timeout is the limit."""
    return wait_until


@pytest.fixture
def vanish() -> Callable[[Member, Any, str], Awaitable[Held]]:
    """`vanish(member, message, call)` sends a message and breaks the connection before its answer.

    The member's call of that name to the store is held, until the test lets it go.
    """

    async def send_and_vanish(member: Member, message: Any, call: str) -> Held:
        held = member.links[0].hold(call)
        async with member.line() as line:
            line.send(member.flat.request(message))
            await held.reached.wait()
            line.reset()
            await wait_until(lambda: not member.listener.server._open)
        return held

    return send_and_vanish


@pytest.fixture
def http_post() -> Callable[..., bytes]:
    """Makes the bytes of a request: `http_post(path, body, *header_lines, method="POST")`."""
    return post


@pytest.fixture
def is_ahead() -> Callable[[str], bool]:
    """Whether a time on the wire lies in the future by enough for clocks that differ."""

    def judge(text: str) -> bool:
        return text.isdecimal() and int(text) >= time.time_ns() // 1_000_000 + 4_000

    return judge
