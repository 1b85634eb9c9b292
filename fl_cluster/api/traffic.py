"""Counts the bytes of the requests that carry updates, models and keys, for the data-rate files."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from fl_cluster.api.plain_http import Answer, Handler
from fl_cluster.telemetry.traffic import TrafficMeter

COUNTED = (
    "startFLJob",
    "updateModel",
    "getModel",
    "exchangeKeys",
    "getKeys",
    "shareSecrets",
    "getSecrets",
    "getClientList",
    "reconstructSecrets",
    "pushListSign",
)
"""The original counts these, and no others."""


def metered(routes: Mapping[str, Handler], meter: TrafficMeter) -> dict[str, Handler]:
    """The same routes; whoever asks for one that counts is counted."""
    return {
        path: _metered(handler, meter) if path.endswith(COUNTED) else handler
        for path, handler in routes.items()
    }


def _metered(handler: Handler, meter: TrafficMeter) -> Handler:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        given = await handler(request)
        sent = len(given.payload) if isinstance(given, Answer) else 0
        meter.add(request.content.total_bytes, sent)
        return given

    return answer
