"""The two encodings of the device protocol, and how an answer looks in each.

FlatBuffers is for existing devices: HTTP 200 whatever the outcome, some refusals as plain
text that they search for.  msgpack is for everybody else: the status tells the truth, and
when to come back stands in a header.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TypeVar

from aiohttp import web

from fl_cluster.api.plain_http import Answer
from fl_cluster.api.refusals import Refusal
from fl_cluster.wire import flat, messages, packed

PACKED_TYPE = "application/msgpack"

Message = TypeVar(
    "Message",
    messages.RequestFLJob,
    messages.RequestUpdateModel,
    messages.RequestGetModel,
    messages.RequestPullWeight,
    messages.RequestPushWeight,
    messages.RequestPushMetrics,
    messages.RequestExchangeKeys,
    messages.GetExchangeKeys,
    messages.RequestShareSecrets,
    messages.GetShareSecrets,
    messages.GetClientList,
    messages.SendClientListSign,
    messages.RequestAllClientListSign,
    messages.SendReconstructSecret,
)
Response = (
    messages.ResponseFLJob
    | messages.ResponseUpdateModel
    | messages.ResponseGetModel
    | messages.ResponsePullWeight
    | messages.ResponsePushWeight
    | messages.ResponsePushMetrics
    | messages.ResponseExchangeKeys
    | messages.ReturnExchangeKeys
    | messages.ResponseShareSecrets
    | messages.ReturnShareSecrets
    | messages.ReturnClientList
    | messages.ResponseClientListSign
    | messages.ReturnAllClientListSign
    | messages.ReconstructSecret
    | messages.ResponseSecureStep
    | messages.ResponseSecureRoster
    | messages.ResponseSecureDelivery
    | messages.ResponseSecureSurvivors
    | messages.ResponseSecureTags
)


class Dialect(ABC):
    """How requests are read and answers written."""

    is_native: bool

    @abstractmethod
    def decode(self, kind: type[Message], body: bytes | memoryview) -> Message:
        """The message in `body`; PeerProtocolError when there is none."""

    @abstractmethod
    def encode(self, response: Response) -> bytes:
        """The body of an answer."""

    @abstractmethod
    def success(self, body: bytes) -> Answer:
        """An answer that is not a refusal."""

    @abstractmethod
    def refuse(self, response: Response, refusal: Refusal) -> Answer:
        """A refusal, as a message or as the text that devices know it by."""


class FlatDialect(Dialect):
    """FlatBuffers."""

    is_native = False

    def decode(self, kind: type[Message], body: bytes | memoryview) -> Message:
        return flat.decode(kind, body)

    def encode(self, response: Response) -> bytes:
        return flat.encode(response)

    def success(self, body: bytes) -> Answer:
        return Answer(body)

    def refuse(self, response: Response, refusal: Refusal) -> Answer:
        return Answer(refusal.text.encode() if refusal.is_plain else flat.encode(response))


class PackedDialect(Dialect):
    """msgpack."""

    is_native = True

    def decode(self, kind: type[Message], body: bytes | memoryview) -> Message:
        return packed.decode(kind, body)

    def encode(self, response: Response) -> bytes:
        return packed.encode(response)

    def success(self, body: bytes) -> Answer:
        return Answer(body, content_type=PACKED_TYPE)

    def refuse(self, response: Response, refusal: Refusal) -> Answer:
        headers = {}
        if response.retry_after_ms is not None:
            headers["Retry-After"] = str(math.ceil(response.retry_after_ms / 1000))
        if refusal.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        body = packed.encode(response)
        return Answer(body, status=refusal.status, headers=headers, content_type=PACKED_TYPE)


FLAT = FlatDialect()
PACKED = PackedDialect()


def dialect_of(request: web.BaseRequest) -> Dialect:
    """msgpack when the request says so, FlatBuffers whatever else it says."""
    declared = request.headers.get("Content-Type", "")
    return PACKED if declared.partition(";")[0].strip().lower() == PACKED_TYPE else FLAT
