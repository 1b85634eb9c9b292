"""A device that speaks FlatBuffers over plain sockets, as devices in the field do.

    check in -> train -> report -> ask for the model until it is there -> check in -> ...

As their HTTP client does, it keeps connections, and when one breaks while a request is on its
way it silently sends the same bytes once more on a new connection; behind a load balancer that
may be one to another server.  A refusal makes it come back later; it does not wait quite as
long as it is told, because rounds here are short.  A request that fails twice ends its run, and
it starts again as its user would.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import flat
from fl_cluster.wire.messages import (
    FeatureMap,
    RequestFLJob,
    RequestGetModel,
    RequestUpdateModel,
    ResponseFLJob,
    ResponseGetModel,
    ResponseUpdateModel,
)
from harness import job
from harness.diary import Diary, Line, Word

Response = TypeVar("Response", ResponseFLJob, ResponseUpdateModel, ResponseGetModel)
Address = tuple[str, int]

SUCCEED, NOT_READY, OUT_OF_TIME = 200, 201, 300
CONNECT_S, READ_S = 3.0, 12.0
COME_BACK_S = 0.5
POLL_S = 0.15
STUMBLE_S = 0.3
NEW_CONNECTION_SHARE = 0.3
"""How often a kept connection has been idle for too long."""
SAFE_MODE = b"The cluster is in safemode."
FINISHED = b"The server's training job is disabled or finished."


class Broken(Exception):
    """No answer."""


class Refused(Exception):
    """The server said to come back later."""


class JobOver(Exception):
    """The server said that there is nothing more to do."""


class Connection:
    """HTTP/1.1 to one server over one kept connection."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        """Give the connection up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def post(self, endpoint: str, body: bytes) -> bytes:
        """The body of a 200 answer; Broken when there is another, OSError or EOFError when none."""
        try:
            head, answer = await self._exchange(endpoint, body)
        except BaseException:
            self.close()
            raise
        if b"connection: close" in head.lower():
            self.close()
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Broken(f"{endpoint}: {head.splitlines()[0]!r}")
        return answer

    async def _exchange(self, endpoint: str, body: bytes) -> tuple[bytes, bytes]:
        if self._streams is None:
            async with asyncio.timeout(CONNECT_S):
                self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(
            f"POST /{endpoint} HTTP/1.1\r\n"
            "Content-Type: applicatiom/json;charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Host: {self._address[0]}:{self._address[1]}\r\n"
            "Connection: Keep-Alive\r\nAccept-Encoding: gzip\r\n"
            "User-Agent: okhttp/3.14.9\r\n\r\n".encode()
            + body
        )
        async with asyncio.timeout(READ_S):
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            return head, await reader.readexactly(content_length(head))


def content_length(head: bytes) -> int:
    """How long the body behind this head is."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


@dataclass
class RawDevice:
    """One such device."""

    device: str
    server: Address
    """A load balancer's."""
    diary: Diary
    source: random.Random
    training_s: float
    number: int = 0
    was_repeat: bool = False
    """Whether the last answer is to bytes that had been sent before."""
    base: job.Floats = field(default_factory=lambda: job.initial_weights(0))
    _connection: Connection = field(init=False)

    async def run(self) -> None:
        """Take part until the job is over."""
        self._connection = Connection(self.server)
        try:
            while await self._take_part():
                pass
        finally:
            self._connection.close()

    async def _take_part(self) -> bool:
        """One round, or the attempt; whether there may be another."""
        try:
            await self._check_in()
            await asyncio.sleep(self.training_s)
            await self._report()
            await self._get_model()
        except Refused:
            await asyncio.sleep(COME_BACK_S * self.source.uniform(0.6, 1.4))
        except (Broken, PeerProtocolError) as exc:
            self.diary.note(Line(Word.STUMBLED, self.device, self.number, str(exc)))
            await asyncio.sleep(STUMBLE_S * self.source.uniform(0.5, 2.0))
        except JobOver:
            await self._go_home()
            return False
        return True

    async def _check_in(self) -> None:
        request = RequestFLJob(
            fl_name="com.example.Chaos",
            fl_id=self.device,
            iteration=self.number,
            data_size=job.data_size(self.device),
            timestamp="0",
        )
        answer = await self._ask("startFLJob", flat.encode(request), ResponseFLJob)
        self._expect_success(answer.retcode, answer.reason)
        self.number = answer.iteration
        self.base = self._model(answer.feature_map)

    async def _report(self) -> None:
        weights = job.trained(self.device, self.number, self.base)
        sent = job.multiplied(self.device, weights)
        request = RequestUpdateModel(
            fl_name="com.example.Chaos",
            fl_id=self.device,
            iteration=self.number,
            timestamp="0",
            upload_loss=0.5,
            feature_map=tuple(
                FeatureMap(name, sent[place])
                for name, place in job.PLACES.items()
                if job.sends(self.device, name)
            ),
        )
        answer = await self._ask("updateModel", flat.encode(request), ResponseUpdateModel)
        if answer.retcode == SUCCEED:
            self.diary.note(Line(Word.ACKNOWLEDGED, self.device, self.number))
        elif self.was_repeat and "UpdateModelClientList" in (answer.reason or ""):
            self.diary.note(Line(Word.REPEAT_REFUSED, self.device, self.number))
        self._expect_success(answer.retcode, answer.reason)

    async def _get_model(self) -> None:
        request = RequestGetModel(fl_name="com.example.Chaos", iteration=self.number, timestamp="0")
        while True:
            answer = await self._ask("getModel", flat.encode(request), ResponseGetModel)
            if answer.retcode != NOT_READY:
                break
            await asyncio.sleep(POLL_S * self.source.uniform(0.6, 1.4))
        self._expect_success(answer.retcode, answer.reason)

    async def _go_home(self) -> None:
        request = RequestGetModel(fl_name="com.example.Chaos", iteration=self.number, timestamp="0")
        while True:
            try:
                answer = await self._ask("getModel", flat.encode(request), ResponseGetModel)
                self._expect_success(answer.retcode, answer.reason)
            except (Broken, Refused):
                await asyncio.sleep(STUMBLE_S)
            else:
                model = job.digest(self._model(answer.feature_map))
                self.diary.note(Line(Word.WENT_HOME, self.device, self.number, model))
                return

    async def _ask(self, endpoint: str, body: bytes, kind: type[Response]) -> Response:
        answer = await self._post(endpoint, body)
        if SAFE_MODE in answer:
            raise Refused("safe mode")
        if FINISHED in answer:
            raise JobOver
        return flat.decode(kind, answer)

    async def _post(self, endpoint: str, body: bytes) -> bytes:
        self.was_repeat = False
        if self.source.random() < NEW_CONNECTION_SHARE:
            self._connection.close()
        try:
            return await self._connection.post(endpoint, body)
        except TimeoutError as exc:
            raise Broken(f"{endpoint}: no answer in time") from exc
        except (OSError, EOFError):
            self.was_repeat = True
        try:
            return await self._connection.post(endpoint, body)
        except (OSError, EOFError) as exc:
            raise Broken(f"{endpoint}: {exc!r}") from exc

    def _expect_success(self, code: int, reason: str | None) -> None:
        if code == OUT_OF_TIME:
            raise Refused(reason)
        if code != SUCCEED:
            self.diary.note(Line(Word.FAILED, self.device, self.number, f"{code}: {reason}"))
            raise Broken(f"{code}: {reason}")

    def _model(self, features: Sequence[FeatureMap] | None) -> job.Floats:
        """The model that an answer carries; tensors that it leaves out stay as they are held."""
        values = self.base.copy()
        for feature in features or ():
            values[job.PLACES[str(feature.weight_fullname)]] = feature.data
        return values
