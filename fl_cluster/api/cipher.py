"""The routes of masked rounds: what devices tell each other before and after their updates.

Here is what is the same for all of them: whether a request is a message, comes from the device
that it names, and is about a round that it can be about; and how it is answered.  What becomes
of it then is in `cipher_steps`.
The order of checks is part of the protocol, as in `api.device`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from aiohttp import web

from fl_cluster.api import cipher_refusals as words
from fl_cluster.api import refusals
from fl_cluster.api.bodies import Body
from fl_cluster.api.cipher_steps import (
    Asked,
    CipherSteps,
    LookBack,
    Outcome,
    Took,
    say_to_straggler,
)
from fl_cluster.api.device_clocks import ahead_ms
from fl_cluster.api.dialects import Dialect, Response
from fl_cluster.api.paths import ways_to_write
from fl_cluster.api.plain_http import Handler
from fl_cluster.api.proofs import ProofDesk
from fl_cluster.api.refusals import Refusal
from fl_cluster.api.replies import ReadyBytes, Replies, retry_after_ms
from fl_cluster.errors import PeerProtocolError
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.exchange import ExchangeDesk
from fl_cluster.service.view import JobView
from fl_cluster.store.ports import Snapshot
from fl_cluster.wire import messages
from fl_cluster.wire.messages import ResponseCode

Call = Callable[[Dialect, Body], Awaitable[web.StreamResponse]]
Refuse = Callable[[Dialect, Refusal], Response]
ENTRY_FLOATS = 64
"""About how much room an entry of a list takes in an answer, in elements of a tensor."""


class Gate(Protocol):
    """Lets a request in and reads it, as for any device."""

    async def serve(
        self, request: web.BaseRequest, call: Call, refuse: Refuse, *, is_read: bool = False
    ) -> web.StreamResponse:
        """The answer of `call` to a request that may come in; `refuse` makes any other."""


@dataclass(frozen=True, slots=True)
class Route:
    """What the routes differ in beside what they do."""

    request: type[Any]
    response: type[Any]
    schema: Refusal
    other_round: Refusal
    handle: Callable[[Asked, Snapshot], Awaitable[Outcome]]
    step: Step | None = None
    """The step that, once it is complete, is told before anything is looked at."""
    enough: Refusal = refusals.NOT_NOW
    look_back: LookBack | None = None
    """What a counted device is told of the round before this one."""
    signature: str = "signature"
    refused: Mapping[str, Any] = field(default_factory=dict)
    """What a refusal has beside its words."""
    untimed: Refusal | None = None
    """What existing devices are told who leave the time out; None where nobody misses it."""


@dataclass(frozen=True, slots=True)
class CipherServices:
    """What the routes of masked rounds call."""

    view: JobView
    desk: ExchangeDesk
    replies: Replies
    proofs: ProofDesk


class CipherPlane:
    """Handlers of one member; `shares_secrets` is false where masks cancel by themselves."""

    def __init__(self, services: CipherServices, gate: Gate, *, shares_secrets: bool) -> None:
        self._view = services.view
        self._desk = services.desk
        self._told = services.desk.told
        self._replies = services.replies
        self._proofs = services.proofs
        self._gate = gate
        self._shares_secrets = shares_secrets
        self._steps = CipherSteps(
            services.view, services.desk, services.proofs, shares_secrets=shares_secrets
        )
        self._ready = ReadyBytes(slots=4)

    def routes(self, url_prefix: str) -> dict[str, Handler]:
        """Exact path -> handler, of the routes that a job of this kind has."""
        found = self._before_reports()
        if self._shares_secrets:
            found |= self._sharing() | self._after_reports()
            if self._proofs.is_asked:
                found |= self._signing()
        return {
            path: partial(self._enter, name, route)
            for name, route in found.items()
            for path in ways_to_write(url_prefix, name)
        }

    def _before_reports(self) -> dict[str, Route]:
        return {
            "exchangeKeys": Route(
                messages.RequestExchangeKeys,
                messages.ResponseExchangeKeys,
                words.KEYS_SCHEMA,
                words.KEYS_OTHER_ROUND,
                self._steps.take_keys,
                Step.KEYS,
                words.KEYS_ENOUGH,
                untimed=words.KEYS_UNTIMED if self._shares_secrets else None,
            ),
            "getKeys": Route(
                messages.GetExchangeKeys,
                messages.ReturnExchangeKeys,
                words.READ_SCHEMA,
                words.READ_OTHER_ROUND,
                self._steps.hand_out_keys,
            ),
        }

    def _sharing(self) -> dict[str, Route]:
        return {
            "shareSecrets": Route(
                messages.RequestShareSecrets,
                messages.ResponseShareSecrets,
                words.SHARES_SCHEMA,
                words.SHARES_OTHER_ROUND,
                self._steps.take_shares,
                Step.SHARES,
                words.SHARES_ENOUGH,
            ),
            "getSecrets": Route(
                messages.GetShareSecrets,
                messages.ReturnShareSecrets,
                words.READ_SCHEMA,
                words.READ_OTHER_ROUND,
                self._steps.hand_out_shares,
            ),
        }

    def _after_reports(self) -> dict[str, Route]:
        return {
            "getClientList": Route(
                messages.GetClientList,
                messages.ReturnClientList,
                words.LIST_SCHEMA,
                words.LIST_OTHER_ROUND,
                self._steps.hand_out_list,
                look_back=self._steps.list_of,
                refused={"clients": ()},
            ),
            "reconstructSecrets": Route(
                messages.SendReconstructSecret,
                messages.ReconstructSecret,
                words.REVEAL_SCHEMA,
                words.REVEAL_OTHER_ROUND,
                self._steps.take_reveal,
                look_back=partial(say_to_straggler, words.REVEAL_ENOUGH.text),
            ),
        }

    def _signing(self) -> dict[str, Route]:
        return {
            "pushListSign": Route(
                messages.SendClientListSign,
                messages.ResponseClientListSign,
                words.SIGN_SCHEMA,
                words.SIGN_OTHER_ROUND,
                self._steps.take_signature,
                look_back=partial(say_to_straggler, words.SIGN_ENOUGH.text),
                signature="req_signature",
            ),
            "getListSign": Route(
                messages.RequestAllClientListSign,
                messages.ReturnAllClientListSign,
                words.SIGNATURES_SCHEMA,
                words.SIGNATURES_OTHER_ROUND,
                self._steps.hand_out_signatures,
                look_back=self._steps.signatures_of,
            ),
        }

    # -- what all have in common ---------------------------------------------------------

    async def _enter(self, name: str, route: Route, request: web.BaseRequest) -> web.StreamResponse:
        return await self._gate.serve(
            request,
            partial(self._serve, name, route),
            partial(self._refusal, route),
            # The last round's stragglers come when the job is finished.
            is_read=route.look_back is not None,
        )

    async def _serve(
        self, name: str, route: Route, dialect: Dialect, body: Body
    ) -> web.StreamResponse:
        try:
            asked = dialect.decode(route.request, body.data)
        except PeerProtocolError:
            asked = None
        if asked is None or asked.fl_id is None:
            if route.step is not None:
                await self._view.refresh()
            refusal = route.enough if self._is_full(route) else route.schema
            return dialect.refuse(self._refusal(route, dialect, refusal), refusal)
        if dialect.is_native:
            route = replace(route, untimed=None)
        outcome = await self._judge(name, route, asked, body)
        if isinstance(outcome, Refusal):
            response = self._refusal(route, dialect, outcome, asked)
            return dialect.refuse(response, outcome)
        return dialect.success(await self._answer(route, dialect, outcome))

    async def _judge(self, name: str, route: Route, asked: Asked, body: Body) -> Outcome:
        snapshot = await self._desk.see(asked.iteration)
        if self._is_full(route) and not await self._is_repeat(route, asked, snapshot):
            return route.enough
        current, past = snapshot.ref, RoundRef(snapshot.ref.instance, asked.iteration)
        is_past = route.look_back is not None and past.next().number == current.number
        doubt = await self._proofs.doubt_step(
            name, asked, getattr(asked, route.signature), body.data, past if is_past else current
        )
        if doubt is not None:
            return doubt.refusal
        if asked.iteration == current.number and not snapshot.is_closed:
            if route.untimed is not None and asked.timestamp is None:
                return route.untimed
            return await route.handle(asked, snapshot)
        if is_past and route.look_back is not None:
            counted = await self._told.counted(past)
            if asked.fl_id in counted and len(counted) >= snapshot.plan.report_goal:
                return await route.look_back(asked, past, counted)
        return refusals.JOB_FINISHED if snapshot.is_closed else route.other_round

    def _is_full(self, route: Route) -> bool:
        return route.step is not None and self._desk.is_complete(route.step)

    async def _is_repeat(self, route: Route, asked: Asked, snapshot: Snapshot) -> bool:
        """Whether a device that is in a complete step already says so again."""
        assert route.step is not None
        if asked.iteration != snapshot.ref.number or route.step not in snapshot.complete:
            return False
        if route.step is Step.KEYS:
            return asked.fl_id in await self._told.keys(snapshot.ref)
        return asked.fl_id in await self._told.sharers(snapshot.ref)

    async def _answer(self, route: Route, dialect: Dialect, took: Took) -> bytes:
        ref = self._view.snapshot.ref
        response = self._response(route, dialect, ResponseCode.SUCCEED, took.reason)._replace(
            **took.content
        )
        if dialect.is_native:
            response = response._replace(verdict=Verdict.ACCEPTED.value)
        if not took.name:
            return dialect.encode(response)
        self._ready.keep_only(ref)
        size = ENTRY_FLOATS * sum(map(len, took.content.values()))
        key = (took.name, dialect.is_native, ref)
        return await self._ready.get(key, size, lambda: dialect.encode(response))

    def _refusal(
        self, route: Route, dialect: Dialect, refusal: Refusal, asked: Asked = None
    ) -> Any:
        text = refusal.text.format(device=asked.fl_id if asked is not None else "")
        response = self._response(route, dialect, refusal.code, text, asked)
        response = response._replace(**route.refused)
        if not dialect.is_native:
            return response
        if refusal.code is ResponseCode.SUCCEED:
            response = response._replace(retcode=ResponseCode.OutOfTime)
        wait_ms = retry_after_ms(refusal)
        return response._replace(verdict=str(refusal.word), retry_after_ms=wait_ms)

    def _response(
        self, route: Route, dialect: Dialect, code: ResponseCode, text: str, asked: Asked = None
    ) -> Any:
        snapshot = self._view.snapshot
        come_back = int(self._replies.come_back_at(snapshot))
        if not dialect.is_native and asked is not None:
            come_back += ahead_ms(asked.timestamp, time.time_ns() // 1_000_000)
        response = route.response(
            retcode=code, iteration=snapshot.ref.number, next_req_time=str(come_back)
        )
        return response._replace(reason=text) if "reason" in response._fields else response
