"""Which requests are counted for the data-rate files, and how many bytes of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from fl_cluster.api import plain_http
from fl_cluster.api.traffic import COUNTED, metered
from fl_cluster.telemetry.traffic import Second, TrafficMeter


async def echo_twice(request: web.BaseRequest) -> plain_http.Answer:
    body = await request.content.read()
    return plain_http.Answer(body * 2)


async def no_answer(request: web.BaseRequest) -> Any:
    raise ConnectionResetError


@pytest.fixture
def meter() -> TrafficMeter:
    return TrafficMeter(lambda: 7.0)


@pytest.fixture
async def ask(
    meter: TrafficMeter, http_post: Callable[..., bytes]
) -> AsyncIterator[Callable[..., Any]]:
    """Posts a body to a path of a server that is metered."""
    names = (*COUNTED, "pullWeight", "pushWeight", "pushMetrics", "getListSign")
    routes: dict[str, plain_http.Handler] = {f"/fl/{name}": echo_twice for name in names}
    routes["/getModel"] = echo_twice
    routes["/updateModel"] = no_answer
    plane = plain_http.Plane(
        metered(routes, meter), lambda *_: plain_http.Answer(b""), lambda _: plain_http.Answer(b"")
    )
    listener = await plain_http.listen(plane, "127.0.0.1", 0)

    async def post(path: str, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(http_post(path, body, "Connection: close"))
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.partition(b"\r\n\r\n")[2]

    yield post
    await listener.close(drain_s=0.1)


@pytest.mark.parametrize("name", sorted(COUNTED))
async def test_bodies_of_these_requests_and_answers_count(
    ask: Callable[..., Any], meter: TrafficMeter, name: str
) -> None:
    assert await ask(f"/fl/{name}", b"abc") == b"abcabc"

    assert meter.take(is_last=True) == [Second(7, received=3, sent=6)]


@pytest.mark.parametrize("name", ["pullWeight", "pushWeight", "pushMetrics", "getListSign"])
async def test_others_are_answered_and_do_not_count(
    ask: Callable[..., Any], meter: TrafficMeter, name: str
) -> None:
    assert await ask(f"/fl/{name}", b"abc") == b"abcabc"

    assert meter.take(is_last=True) == []


async def test_without_a_prefix_they_count_too_and_a_body_may_be_empty(
    ask: Callable[..., Any], meter: TrafficMeter
) -> None:
    await ask("/getModel", b"")
    await ask("/getModel", b"12345")

    assert meter.take(is_last=True) == [Second(7, received=5, sent=10)]


async def test_what_was_not_answered_does_not_count(
    ask: Callable[..., Any], meter: TrafficMeter
) -> None:
    await ask("/updateModel", b"abc")

    assert meter.take(is_last=True) == []
