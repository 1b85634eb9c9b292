"""The routes of workers: pull the mean of a hybrid round, push what was made of it, conclude.

They are there in every mode.  In one that is not hybrid there is never a mean to pull, and
what is pushed is checked and forgotten.
The order of checks is part of the protocol, as with devices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import numpy as np
from aiohttp import web

from fl_cluster.aggregate.retrained import Entries, misfit
from fl_cluster.api import refusals
from fl_cluster.api.bodies import Body
from fl_cluster.api.dialects import Dialect, Response
from fl_cluster.api.paths import ways_to_write
from fl_cluster.api.plain_http import Answer, Handler
from fl_cluster.api.refusals import Refusal
from fl_cluster.api.replies import retry_after_ms
from fl_cluster.errors import PeerProtocolError
from fl_cluster.rounds.events import Verdict
from fl_cluster.service.ledger import INLINE_ELEMENTS
from fl_cluster.service.retraining import Offered, RetrainingDesk
from fl_cluster.service.view import JobView, StoredModel
from fl_cluster.store.ports import Metrics
from fl_cluster.wire import messages
from fl_cluster.wire.messages import ResponseCode

Call = Callable[[Dialect, Body], Awaitable[web.StreamResponse]]
Refuse = Callable[[Dialect, Refusal], Response]

HAS_FINISHED = "Model of iteration of {current} has finished"


class Gate(Protocol):
    """Lets a request in and reads it, as for any device."""

    async def serve(
        self, request: web.BaseRequest, call: Call, refuse: Refuse, *, is_workers: bool
    ) -> web.StreamResponse:
        """The answer of `call` to a request that may come in; `refuse` makes any other."""


class WorkerPlane:
    """Handlers of one member."""

    def __init__(self, view: JobView, desk: RetrainingDesk, gate: Gate) -> None:
        self._view = view
        self._desk = desk
        self._gate = gate

    def routes(self, url_prefix: str) -> dict[str, Handler]:
        """Exact path -> handler."""
        handlers = {
            "pullWeight": self.pull,
            "pushWeight": self.push,
            "pushMetrics": self.push_metrics,
        }
        return {
            path: handler
            for name, handler in handlers.items()
            for path in ways_to_write(url_prefix, name)
        }

    async def pull(self, request: web.BaseRequest) -> web.StreamResponse:
        """A worker asks for the mean of the current round."""
        return await self._gate.serve(request, self._pull, self._refuse_pull, is_workers=True)

    async def push(self, request: web.BaseRequest) -> web.StreamResponse:
        """A worker hands in what it made of the mean."""
        return await self._gate.serve(request, self._push, self._refuse_push, is_workers=True)

    async def push_metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        """A worker says how good its model is, and so that it is done with the round."""
        return await self._gate.serve(
            request, self._push_metrics, self._refuse_metrics, is_workers=True
        )

    @property
    def _current(self) -> int:
        return self._view.snapshot.ref.number

    # -- pull ----------------------------------------------------------------------------

    def _refuse_pull(
        self, dialect: Dialect, refusal: Refusal, number: int = 0, name: str = ""
    ) -> messages.ResponsePullWeight:
        return messages.ResponsePullWeight(
            retcode=refusal.code,
            reason=refusal.text.format(number=number, current=self._current, name=name),
            iteration=self._current,
            feature_map=(),
            verdict=refusal.word if dialect.is_native else None,
            retry_after_ms=retry_after_ms(refusal),
        )

    async def _pull(self, dialect: Dialect, body: Body) -> web.StreamResponse:
        offered = await self._desk.offered()
        if offered is None:
            refusal = refusals.NOT_AGGREGATED
            return dialect.refuse(self._refuse_pull(dialect, refusal), refusal)
        try:
            asked = dialect.decode(messages.RequestPullWeight, body.data)
        except PeerProtocolError as exc:
            refusal = refusals.PULL_SCHEMA
            response = self._refuse_pull(dialect, refusal)
            if dialect.is_native:
                response = response._replace(reason=f"{refusal.text} {exc}")
            return dialect.refuse(response, refusal)
        return await self._hand_out(dialect, asked, offered)

    async def _hand_out(
        self, dialect: Dialect, asked: messages.RequestPullWeight, offered: Offered
    ) -> Answer:
        number, names = asked.iteration, asked.weight_names
        if number != offered.snapshot.ref.number:
            refusal = refusals.PULL_OTHER_ROUND
            return dialect.refuse(self._refuse_pull(dialect, refusal, number), refusal)
        if names is None:
            refusal = refusals.PULL_NO_NAMES
            return dialect.refuse(self._refuse_pull(dialect, refusal), refusal)
        layout = offered.mean.model.layout
        unknown = next((name for name in names if layout.find(name) is None), None)
        if unknown is not None:
            refusal = refusals.PULL_UNKNOWN_NAME
            return dialect.refuse(self._refuse_pull(dialect, refusal, number, unknown), refusal)
        response = messages.ResponsePullWeight(
            retcode=ResponseCode.SUCCEED,
            reason=f"Pulling weight by weight names for iteration {number} success.",
            iteration=number,
            feature_map=_features(offered.mean, names),
            verdict="accepted",
        )
        if layout.size <= INLINE_ELEMENTS:
            return dialect.success(dialect.encode(response))
        return dialect.success(await asyncio.to_thread(dialect.encode, response))

    # -- push ----------------------------------------------------------------------------

    def _refuse_push(
        self, dialect: Dialect, refusal: Refusal, number: int = 0
    ) -> messages.ResponsePushWeight:
        return messages.ResponsePushWeight(
            retcode=refusal.code,
            reason=refusal.text.format(number=number, current=self._current),
            iteration=self._current,
            verdict=refusal.word if dialect.is_native else None,
            retry_after_ms=retry_after_ms(refusal),
        )

    async def _push(self, dialect: Dialect, body: Body) -> web.StreamResponse:
        offered = await self._desk.offered()
        if offered is not None and offered.is_pushed:
            return self._took(dialect, HAS_FINISHED.format(current=self._current))
        try:
            sent = dialect.decode(messages.RequestPushWeight, body.data)
        except PeerProtocolError as exc:
            return self._refuse_sent(dialect, refusals.PUSH_SCHEMA, str(exc))
        if sent.iteration != self._current:
            refusal = refusals.PUSH_OTHER_ROUND
            return dialect.refuse(self._refuse_push(dialect, refusal, sent.iteration), refusal)
        entries = _entries(sent)
        if not entries:
            why = "Expected at least one tensor, each with its name and its data."
            return self._refuse_sent(dialect, refusals.PUSH_NOTHING, why)
        unfit = misfit(self._view.layout, entries)
        if unfit is not None:
            return self._refuse_sent(dialect, refusals.PUSH_MISFIT, f"The {unfit.reason}.")
        if not self._view.snapshot.plan.is_hybrid:
            return self._took(dialect, "PushWeight succeed.")
        return await self._hand_in(dialect, offered, entries, sent.iteration)

    async def _hand_in(
        self, dialect: Dialect, offered: Offered | None, entries: Entries, number: int
    ) -> Answer:
        verdict = Verdict.NOT_AGGREGATED
        if offered is not None and offered.snapshot.ref.number == number:
            verdict = await self._desk.push(offered, entries)
        if verdict is Verdict.ACCEPTED:
            return self._took(dialect, "PushWeight succeed.")
        if verdict is Verdict.DUPLICATE:
            return self._took(dialect, HAS_FINISHED.format(current=number))
        is_over = verdict is not Verdict.NOT_AGGREGATED
        refusal = refusals.PUSH_OTHER_ROUND if is_over else refusals.NOT_AGGREGATED
        return dialect.refuse(self._refuse_push(dialect, refusal, number), refusal)

    def _took(self, dialect: Dialect, reason: str) -> Answer:
        response = messages.ResponsePushWeight(
            retcode=ResponseCode.SUCCEED,
            reason=reason,
            iteration=self._current,
            verdict="accepted",
        )
        return dialect.success(dialect.encode(response))

    def _refuse_sent(self, dialect: Dialect, refusal: Refusal, why: str) -> Answer:
        response = self._refuse_push(dialect, refusal)
        if dialect.is_native:
            response = response._replace(reason=f"{refusal.text} {why}")
        return dialect.refuse(response, refusal)

    # -- metrics -------------------------------------------------------------------------

    def _refuse_metrics(self, dialect: Dialect, refusal: Refusal) -> messages.ResponsePushMetrics:
        return messages.ResponsePushMetrics(
            retcode=refusal.code,
            verdict=refusal.word if dialect.is_native else None,
            retry_after_ms=retry_after_ms(refusal),
        )

    async def _push_metrics(self, dialect: Dialect, body: Body) -> web.StreamResponse:
        try:
            sent = dialect.decode(messages.RequestPushMetrics, body.data)
        except PeerProtocolError:
            refusal = refusals.METRICS_SCHEMA
            return dialect.refuse(self._refuse_metrics(dialect, refusal), refusal)
        verdict = await self._desk.conclude(Metrics(_single(sent.loss), _single(sent.accuracy)))
        if verdict is not Verdict.ACCEPTED:
            refusal = refusals.NOT_AGGREGATED
            return dialect.refuse(self._refuse_metrics(dialect, refusal), refusal)
        response = messages.ResponsePushMetrics(ResponseCode.SUCCEED, verdict="accepted")
        return dialect.success(dialect.encode(response))


def _features(mean: StoredModel, names: tuple[str, ...]) -> tuple[messages.FeatureMap, ...]:
    """The tensors in the order in which they were asked for, each once."""
    return tuple(
        messages.FeatureMap(name, mean.model.tensor(name).reshape(-1))
        for name in dict.fromkeys(names)
    )


def _entries(sent: messages.RequestPushWeight) -> Entries:
    """What was sent, by name; nothing when an entry lacks its name or its data."""
    found = {}
    for entry in sent.feature_map or ():
        if entry.weight_fullname is None or entry.data is None:
            return {}
        found[entry.weight_fullname] = entry.data
    return found


def _single(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))
