"""One request to one server over HTTP, and what can be learned from the answer.

Bodies are msgpack.  Everything is bounded: connecting, reading, the whole exchange, and the
size of an answer.  Nothing is repeated here: whether and when to ask again is decided by
participation.py, and a request that failed half-way may have been heard.
An answer is returned whatever its verdict; only the lack of one is raised, as `NoAnswer`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar

import aiohttp

from fl_cluster.errors import FlClusterError, PeerProtocolError
from fl_cluster.sdk.retry import Servers
from fl_cluster.security.tls_trouble import explain_outgoing
from fl_cluster.wire import packed
from fl_cluster.wire.messages import (
    ReconstructSecret,
    ResponseClientListSign,
    ResponseCode,
    ResponseExchangeKeys,
    ResponseFLJob,
    ResponseGetModel,
    ResponseSecureDelivery,
    ResponseSecureRoster,
    ResponseSecureStep,
    ResponseSecureSurvivors,
    ResponseSecureTags,
    ResponseShareSecrets,
    ResponseUpdateModel,
    ReturnAllClientListSign,
    ReturnClientList,
    ReturnExchangeKeys,
    ReturnShareSecrets,
)

Reply = TypeVar(
    "Reply",
    ResponseFLJob,
    ResponseUpdateModel,
    ResponseGetModel,
    ResponseExchangeKeys,
    ReturnExchangeKeys,
    ResponseShareSecrets,
    ReturnShareSecrets,
    ReturnClientList,
    ResponseClientListSign,
    ReturnAllClientListSign,
    ReconstructSecret,
    ResponseSecureStep,
    ResponseSecureRoster,
    ResponseSecureDelivery,
    ResponseSecureSurvivors,
    ResponseSecureTags,
)

CONTENT_TYPE = "application/msgpack"
SLICE_BYTES = 256 * 1024
"""Larger bodies go out in slices, so that one upload does not hold up the event loop."""


class NoAnswer(FlClusterError):
    """The server could not be reached, or what came back is no answer of this protocol."""

    def __init__(self, reason: str, retry_after_ms: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_ms = retry_after_ms


@dataclass(frozen=True, slots=True)
class Limits:
    """How long, and how much, one exchange with a server may take."""

    connect_s: float = 10.0
    read_s: float = 60.0
    """Silence of the server; longer than the 25 s for which it may hold a request."""
    total_s: float = 600.0
    answer_bytes: int = 2**31 - 1

    def timeout(self) -> aiohttp.ClientTimeout:
        """The same for the HTTP library."""
        return aiohttp.ClientTimeout(
            total=self.total_s, connect=None, sock_connect=self.connect_s, sock_read=self.read_s
        )


@dataclass(frozen=True, slots=True)
class Answer(Generic[Reply]):
    """What a server said."""

    status: int
    """HTTP status: 200 accepted, 202 not ready, all others are refusals."""
    message: Reply
    verdict: str
    reason: str
    retry_after_ms: int | None
    """When to ask again; None when the server did not invite to."""


def open_session(devices: int) -> aiohttp.ClientSession:
    """A session that this many devices of one process can share; close it when they are done.

    It allows as many connections: a device has one request at a time, but a server may hold
    that one open for long, so that devices short of connections would wait for each other.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=devices, keepalive_timeout=15.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "fl_cluster"},
    )


@dataclass(frozen=True, slots=True)
class Access:
    """What a device shows to servers, and how they prove who they are."""

    token: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    """None: a server of an https URL is known by the roots of the system."""

    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


OPEN = Access()


class Transport:
    """Asks the servers of one cluster on behalf of one device."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        servers: Servers,
        limits: Limits,
        access: Access = OPEN,
    ) -> None:
        self._access = access
        self._session = session
        self._servers = servers
        self._limits = limits

    async def ask(self, endpoint: str, body: bytes, reply: type[Reply]) -> Answer[Reply]:
        """What the current server answers; NoAnswer when it does not."""
        url = f"{self._servers.current}/{endpoint}"
        try:
            async with self._session.post(
                url,
                data=body if len(body) <= SLICE_BYTES else _slices(body),
                headers={
                    "Content-Type": CONTENT_TYPE,
                    "Content-Length": str(len(body)),
                    **self._access.headers(),
                },
                ssl=True if self._access.tls is None else self._access.tls,
                timeout=self._limits.timeout(),
                allow_redirects=False,
            ) as response:
                received = await self._read(response)
        except TimeoutError as exc:
            raise NoAnswer(f"{url}: no answer in time") from exc
        except (aiohttp.ClientError, OSError) as exc:
            problem = explain_outgoing(exc)
            raise NoAnswer(f"{url}: {problem or exc or type(exc).__name__}") from exc
        try:
            return _understood(response, received, reply)
        except PeerProtocolError as exc:
            retry_after_ms = _retry_after_header_ms(response.headers)
            raise NoAnswer(f"{url}: HTTP {response.status}: {exc}", retry_after_ms) from exc

    def try_another(self) -> None:
        """Ask another server from now on, if there is one."""
        self._servers.move_on()

    async def _read(self, response: aiohttp.ClientResponse) -> bytearray:
        """The body, copied once into a buffer of its size; ClientPayloadError beyond the limit."""
        most = self._limits.answer_bytes
        expected = response.content_length or 0
        if expected > most:
            raise aiohttp.ClientPayloadError(f"answer of {expected} bytes, limit {most}")
        received = bytearray(expected)
        end = 0
        async for piece in response.content.iter_any():
            if end + len(piece) > most:
                raise aiohttp.ClientPayloadError(f"answer of more than {most} bytes")
            received[end : end + len(piece)] = piece
            end += len(piece)
        del received[end:]
        return received


async def _slices(body: bytes) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(view), SLICE_BYTES):
        yield view[start : start + SLICE_BYTES]


def _understood(
    response: aiohttp.ClientResponse, received: bytearray, reply: type[Reply]
) -> Answer[Reply]:
    """The answer in these bytes; PeerProtocolError when there is none.

    A refusal that is plain HTTP, such as 404 for a wrong path, is an answer as well: asking
    the same again will not change it.
    """
    status = response.status
    if response.content_type != CONTENT_TYPE:
        if 400 <= status < 500 and status not in {408, 429}:
            text = bytes(received[:200]).decode("utf-8", "replace").strip()
            reason = f"HTTP {status} {response.reason} from {response.url}: {text}"
            return Answer(status, reply(), f"http_{status}", reason, None)
        raise PeerProtocolError(f"expected {CONTENT_TYPE}, found {response.content_type!r}")
    message = packed.decode(reply, received)
    verdict = message.verdict or f"http_{status}"
    if (status == 200) != (verdict == "accepted"):
        raise PeerProtocolError(f"HTTP status {status} and verdict {verdict} contradict each other")
    return Answer(
        status,
        message,
        verdict,
        getattr(message, "reason", None) or "",
        _retry_after_ms(response.headers, message),
    )


def _retry_after_ms(headers: Mapping[str, str], message: Reply) -> int | None:
    """The first that is there: `retry_after_ms`, Retry-After, `next_req_time` of a late answer."""
    if message.retry_after_ms is not None:
        return max(0, message.retry_after_ms)
    header_ms = _retry_after_header_ms(headers)
    if header_ms is not None or message.retcode != ResponseCode.OutOfTime:
        return header_ms
    field = "timestamp" if isinstance(message, ResponseGetModel) else "next_req_time"
    at_ms = _whole_number(getattr(message, field, None) or "")
    return None if at_ms is None else max(0, at_ms - _server_now_ms(headers))


def _retry_after_header_ms(headers: Mapping[str, str]) -> int | None:
    """Retry-After in either of its forms, RFC 9110 section 10.2.3."""
    value = headers.get("Retry-After", "").strip()
    seconds = _whole_number(value)
    if seconds is not None:
        return 1000 * seconds
    at_ms = _date_ms(value)
    return None if at_ms is None else max(0, at_ms - _server_now_ms(headers))


def _server_now_ms(headers: Mapping[str, str]) -> int:
    """Now by the server's clock if it told, since its absolute times are by that clock."""
    at_ms = _date_ms(headers.get("Date", ""))
    return int(time.time() * 1000) if at_ms is None else at_ms


def _whole_number(text: str) -> int | None:
    """The number, if it is one of at most 19 digits: enough for milliseconds in 64 bits."""
    return int(text) if len(text) <= 19 and text.isascii() and text.isdecimal() else None


def _date_ms(value: str) -> int | None:
    try:
        return int(parsedate_to_datetime(value).timestamp() * 1000)
    except ValueError:
        return None
