"""Invariant: whatever bytes a device's connection brings, it gets well-formed answers or an end.

No answer is a 500, nothing is logged as an error, and when the sender is done the connection
ends.  Behind it is the device plane of a server on stores in memory, made anew for each input.
The first byte of an input says in how many pieces the others come.  `engine.campaign` has the
command line.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from engine.campaign import main
from engine.target import GOLDEN, ROOT, Broken, Target

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.scale import exponents
from fl_cluster.api.bodies import BodyReader, ByteBudget
from fl_cluster.api.contents import ContentReader
from fl_cluster.api.device import DevicePlane, Services
from fl_cluster.api.downloads import Downloads
from fl_cluster.api.gatekeeper import Gatekeeper
from fl_cluster.api.plain_http import PlainServer, Plane
from fl_cluster.api.replies import Replies
from fl_cluster.config.load import load
from fl_cluster.config.shared import SharedParameters
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.checkin import CheckInDesk
from fl_cluster.service.collect import Collector
from fl_cluster.service.deliveries import Deliveries
from fl_cluster.service.job import plan_of
from fl_cluster.service.view import JobView, Stores
from fl_cluster.service.visits import Visits
from fl_cluster.store.memory import MemoryBlobStore, MemoryJobStore
from fl_cluster.store.ports import JobRecord, ModelRecord
from fl_cluster.wire import flat, packed
from fl_cluster.wire.messages import RequestFLJob, RequestGetModel, RequestUpdateModel

SETTINGS = load(ROOT / "yamls" / "minimal.yaml", "server", environ={})
PARAMETERS = SharedParameters.of(SETTINGS)
LAYOUT = Layout([Tensor("fc.weight", (5,)), Tensor("fc.bias", (3,))])
MODEL = Model(LAYOUT, np.arange(8, dtype=np.float32))
CLASSES: dict[str, Any] = {
    "startFLJob": RequestFLJob,
    "updateModel": RequestUpdateModel,
    "getModel": RequestGetModel,
}
LONGEST_BODY = 4096
TURNS = 60
"""Turns of the event loop in which everything that can be answered is."""

END_S = 5.0
STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d) [ -~]*\r\n")
LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")


class Errors(logging.Handler):
    """What was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(logging.Formatter().format(record))


ERRORS = Errors()
logging.getLogger().addHandler(ERRORS)
logging.getLogger("fl_cluster").setLevel(logging.ERROR)


async def make_server() -> PlainServer:
    """The device plane of a server whose job has just begun."""
    jobs, blobs = MemoryJobStore(), MemoryBlobStore()
    jobs.use_clock(lambda: 1_795_000_000_000)
    scales = exponents(MODEL, PARAMETERS.cohort_size)
    record = ModelRecord(0, "model-0", MODEL.values.nbytes, MODEL.digest, scales)
    job = JobRecord("run-1", PARAMETERS.rounds_total, PARAMETERS.text, LAYOUT.to_json())
    await blobs.put(record.blob, MODEL.values.data, None)
    await jobs.open(job, RoundRef("run-1", 1), plan_of(PARAMETERS), record)
    rounds = jobs.rounds
    assert rounds is not None
    stores = Stores(rounds, jobs, blobs)
    view = JobView(stores)
    await view.refresh()
    services = Services(
        view,
        rounds,
        CheckInDesk(view, rounds),
        Collector(view, stores, "member-1", patience_ms=10_000),
        Visits(rounds),
        Deliveries(rounds),
        Replies(SETTINGS, view),
        ContentReader(SETTINGS, view),
    )
    reader = BodyReader(LONGEST_BODY, ByteBudget(4 * LONGEST_BODY), timeout_s=0.05)
    devices = DevicePlane(services, reader, hold_ms=0)
    plane = Plane(
        devices.routes(""),
        devices.broken,
        lambda request: devices.broken(request, None),
        folders=Downloads(view, Gatekeeper()).folders(""),
    )
    return PlainServer(plane)


async def converse(pieces: list[bytes]) -> bytes:
    """All that comes back for these bytes; Broken when the connection does not end."""
    loop = asyncio.get_running_loop()
    trouble: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: trouble.append(context))
    server = await make_server()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    await loop.connect_accepted_socket(server, theirs)
    try:
        answer = await _exchange(ours, pieces)
    finally:
        ours.close()
        await server.drain(timeout_s=0)
    if trouble:
        raise Broken(f"the event loop complains: {trouble[0]}")
    return answer


async def _exchange(ours: socket.socket, pieces: list[bytes]) -> bytes:
    loop = asyncio.get_running_loop()
    answer = b""
    try:
        for piece in pieces:
            await loop.sock_sendall(ours, piece)
            await asyncio.sleep(0)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        ours.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(END_S):
            while chunk := await loop.sock_recv(ours, 65_536):
                answer += chunk
    except TimeoutError as exc:
        raise Broken("the sender is done, and the connection does not end") from exc
    except ConnectionError:
        pass  # it was closed on us, with or without an answer
    return answer


def judge(answer: bytes) -> None:
    """Broken when there is a 500 among the answers, or what is none."""
    at = 0
    while at < len(answer):
        found = STATUS.match(answer, at)
        end = answer.find(b"\r\n\r\n", at)
        if found is None or end < 0:
            raise Broken(f"no answer at byte {at}: {answer[at : at + 80]!r}")
        if found[1] == b"500":
            raise Broken(f"a 500: {answer[at:end]!r}")
        length = LENGTH.search(answer, at, end + 4)
        if found[1] != b"100" and length is None:
            return
        at = end + 4 + (int(length[1]) if length else 0)


def check(data: bytes) -> None:
    ERRORS.texts.clear()
    content, count = data[1:], data[0] % 4 + 1 if data else 1
    size = -(-len(content) // count) or 1
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    judge(asyncio.run(converse(pieces)))
    if ERRORS.texts:
        raise Broken(f"logged as an error: {ERRORS.texts[0]}")


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def seeds() -> Iterator[bytes]:
    """The first requests of published devices, the same in msgpack, downloads, and oddities."""
    for path in sorted(GOLDEN.glob("ne__*_req.bin")):
        name = path.stem.split("_")[-2]
        body = path.read_bytes()
        yield b"\0" + post(f"/{name}", body)
        native = packed.encode(flat.decode(CLASSES[name], body))
        yield b"\3" + post(f"/{name}", native, "Content-Type: application/msgpack")
    whole = b"".join(
        post(f"/{name}", (GOLDEN / f"ne__c1__{at:02}_{name}_req.bin").read_bytes())
        for at, name in enumerate(CLASSES)
    )
    yield b"\0" + whole
    for request in (
        "GET /model/0?sha256=ab HTTP/1.1\r\nHost: h\r\nRange: bytes=1-9\r\nIf-Range: x\r\n\r\n",
        'HEAD /model/0 HTTP/1.0\r\nIf-None-Match: W/"a", *\r\n\r\n',
        "GET http://h/getModel?x=%ff HTTP/1.1\r\nConnection: keep-alive\r\n\r\n",
        "POST /startFLJob HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        "POST /startFLJob HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        "POST /getModel HTTP/1.1\r\nContent-Length: 99999\r\nAuthorization: Bearer x\r\n\r\nabc",
        "DELETE /%2e%2e//getModel HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "POST /startFLJob HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x08a",
    ):
        yield b"\1" + request.encode("latin-1")


TARGET = Target(
    name="http_requests",
    check=check,
    seeds=seeds,
    longest=2048,
    dictionary=(
        *(f"{word} /".encode() for word in ("GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT")),
        *(f"\r\n{name}: ".encode() for name in ("Content-Length", "Transfer-Encoding", "Host")),
        *(f"\r\n{name}: ".encode() for name in ("Expect", "Connection", "Content-Type", "Range")),
        b"chunked",
        b"application/msgpack",
        b"100-continue",
        b"keep-alive",
        b"HTTP/1.0",
        b"HTTP/1.1\r\n",
        b"\r\n\r\n",
        b"bytes=-0",
        b"/model/",
        b"\xff",
        b"%00",
    ),
)

if __name__ == "__main__":
    sys.exit(main(TARGET))
