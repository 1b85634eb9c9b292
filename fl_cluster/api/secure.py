"""The routes of secure aggregation: what devices of this project tell each other around updates.

msgpack only; whoever speaks FlatBuffers is told here, as at the check-in, what to do instead.
Each handler is gate, read, decode, call, encode, and all steps share one way through it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from aiohttp import web

from fl_cluster.api import refusals
from fl_cluster.api.bodies import Body
from fl_cluster.api.dialects import Dialect, Response, dialect_of
from fl_cluster.api.paths import ways_to_write
from fl_cluster.api.plain_http import Answer, Handler, json_refusal
from fl_cluster.api.refusals import Refusal, Retry, Word
from fl_cluster.api.replies import retry_after_ms
from fl_cluster.errors import PeerProtocolError
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.exchange import ExchangeDesk
from fl_cluster.service.ring import RingDesk, StepAnswer
from fl_cluster.service.view import JobView
from fl_cluster.wire import messages, packed
from fl_cluster.wire.limits import MAX_HOLD_MS
from fl_cluster.wire.messages import ResponseCode

Call = Callable[[Dialect, Body], Awaitable[web.StreamResponse]]
Refuse = Callable[[Dialect, Refusal], Response]
Handle = Callable[[RoundRef, Any], Awaitable[StepAnswer]]

_INVALID: Final = Refusal(
    Word.INVALID, ResponseCode.RequestError, 400, Retry.NEVER, "The request is no message."
)
_NOT_READY: Final = Refusal(
    Word.NOT_READY,
    ResponseCode.SucNotReady,
    202,
    Retry.SOON,
    "The other devices are not that far yet.",
)
_OTHER_ROUND: Final = Refusal(
    Verdict.STALE_ROUND,
    ResponseCode.OutOfTime,
    409,
    Retry.NEXT_ROUND,
    "The request is for another round, or another attempt at it, than the current one.",
)
_STEP: Final[Mapping[Verdict, Refusal]] = {
    Verdict.TOO_EARLY: _NOT_READY,
    Verdict.STALE_ROUND: _OTHER_ROUND,
    Verdict.MOVED_ON: _OTHER_ROUND,
    Verdict.ENOUGH: Refusal(
        Verdict.ENOUGH,
        ResponseCode.OutOfTime,
        429,
        Retry.NEXT_ROUND,
        "Enough devices have taken this step; the round goes on without this one, if it was not"
        " among them.",
    ),
    Verdict.UNPREPARED: Refusal(
        Verdict.UNPREPARED,
        ResponseCode.OutOfTime,
        409,
        Retry.NEXT_ROUND,
        "The device has not taken the step before this one, so it has no part in this round.",
    ),
    Verdict.DUPLICATE: Refusal(
        Verdict.DUPLICATE,
        ResponseCode.OutOfTime,
        409,
        Retry.NEXT_ROUND,
        "The device has taken this step already, with another message; the first one counts.",
    ),
    Verdict.LATE: Refusal(
        Verdict.STALE_ROUND,
        ResponseCode.OutOfTime,
        409,
        Retry.NEXT_ROUND,
        "The time for this step is over, and the round is given up.",
    ),
    Verdict.JOB_DISABLED: refusals.JOB_DISABLED,
    Verdict.JOB_FINISHED: refusals.JOB_FINISHED,
}
"""Any other verdict is between members, and tells a device to come back."""


class Gate(Protocol):
    """Lets a request in and reads it, as for any device."""

    async def serve(
        self, request: web.BaseRequest, call: Call, refuse: Refuse
    ) -> web.StreamResponse:
        """The answer of `call` to a request that may come in; `refuse` makes any other."""


@dataclass(frozen=True, slots=True)
class Route:
    """What the routes differ in."""

    request: type[Any]
    response: type[Any]
    handle: Handle


class SecurePlane:
    """Handlers of one member."""

    def __init__(self, view: JobView, exchange: ExchangeDesk, desk: RingDesk, gate: Gate) -> None:
        self._view = view
        self._exchange = exchange
        self._desk = desk
        self._gate = gate

    def routes(self, url_prefix: str) -> dict[str, Handler]:
        """Exact path -> handler."""
        desk, step, read = self._desk, messages.ResponseSecureStep, messages.RequestSecureRead
        found = {
            "offer": Route(messages.RequestSecureOffer, step, desk.offer),
            "roster": Route(read, messages.ResponseSecureRoster, desk.roster),
            "share": Route(messages.RequestSecureShare, step, desk.share),
            "delivery": Route(read, messages.ResponseSecureDelivery, desk.deliver),
            "survivors": Route(read, messages.ResponseSecureSurvivors, desk.survivors),
            "confirm": Route(messages.RequestSecureConfirm, step, desk.confirm),
            "tags": Route(read, messages.ResponseSecureTags, desk.tags),
            "reveal": Route(messages.RequestSecureReveal, step, desk.reveal),
        }
        return {
            path: partial(self._enter, route)
            for name, route in found.items()
            for path in ways_to_write(url_prefix, f"secure/{name}")
        }

    async def _enter(self, route: Route, request: web.BaseRequest) -> web.StreamResponse:
        if not dialect_of(request).is_native:
            return json_refusal(refusals.NATIVE_ONLY.text, status=415)
        return await self._gate.serve(
            request, partial(self._serve, route), lambda _, refusal: self._refusal(route, refusal)
        )

    async def _serve(self, route: Route, dialect: Dialect, body: Body) -> Answer:
        try:
            asked = packed.decode(route.request, body.data)
            _check_sender(asked.fl_id)
            refusal, content = await self._take(route, asked)
        except PeerProtocolError as exc:
            response = self._refusal(route, _INVALID)._replace(reason=str(exc))
            return dialect.refuse(response, _INVALID)
        if refusal is not None:
            return dialect.refuse(self._refusal(route, refusal), refusal)
        response = (content or route.response())._replace(
            retcode=ResponseCode.SUCCEED,
            reason="success",
            iteration=asked.iteration,
            verdict=Verdict.ACCEPTED.value,
        )
        return dialect.success(dialect.encode(response))

    async def _take(self, route: Route, asked: Any) -> tuple[Refusal | None, Any]:
        """Why the step is refused, or what the device is told."""
        snapshot = await self._exchange.see(asked.iteration)
        if snapshot.is_closed:
            return refusals.JOB_FINISHED, None
        ref = snapshot.ref
        if (asked.iteration, asked.attempt) != (ref.number, ref.attempt):
            return _OTHER_ROUND, None
        if isinstance(asked, messages.RequestSecureRead):
            asked = asked._replace(hold_ms=max(0, min(asked.hold_ms or 0, MAX_HOLD_MS)))
        answer = await route.handle(ref, asked)
        if answer.verdict is Verdict.ACCEPTED:
            return None, answer.content
        return _STEP.get(answer.verdict, refusals.NOT_NOW), None

    def _refusal(self, route: Route, refusal: Refusal) -> Any:
        return route.response(
            retcode=refusal.code,
            reason=refusal.text,
            iteration=self._view.snapshot.ref.number,
            verdict=str(refusal.word),
            retry_after_ms=retry_after_ms(refusal),
        )


def _check_sender(device: str | None) -> None:
    """PeerProtocolError when others could not read the name, which is under their digests."""
    if not device:
        raise PeerProtocolError("fl_id is missing")
    try:
        device.encode()
    except UnicodeEncodeError:
        raise PeerProtocolError("fl_id: expected UTF-8") from None
