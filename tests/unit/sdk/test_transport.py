"""One request and its answer: what is read from HTTP, and where the bounds are."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fl_cluster.sdk.retry import Servers
from fl_cluster.sdk.transport import Answer, Limits, NoAnswer, Transport, open_session
from fl_cluster.wire import packed
from fl_cluster.wire.messages import ResponseGetModel, ResponseUpdateModel

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def transport_to(handler: Handler, limits: Limits | None = None) -> AsyncIterator[Transport]:
    application = web.Application()
    application.router.add_post("/updateModel", handler)
    async with TestServer(application) as server, open_session(devices=1) as session:
        servers = Servers(str(server.make_url("")), "", random.Random(0))
        yield Transport(session, servers, limits or Limits())


async def asked(
    message: ResponseUpdateModel, status: int = 503, **headers: str
) -> Answer[ResponseUpdateModel]:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(
            status=status,
            body=packed.encode(message),
            content_type="application/msgpack",
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    async with transport_to(handler) as transport:
        return await transport.ask("updateModel", b"\x80", ResponseUpdateModel)


async def test_milliseconds_in_the_body_are_believed_before_the_header() -> None:
    answer = await asked(ResponseUpdateModel(verdict="enough", retry_after_ms=7), Retry_After="9")

    assert (answer.status, answer.verdict, answer.retry_after_ms) == (503, "enough", 7)


async def test_a_negative_time_to_wait_is_none_at_all() -> None:
    answer = await asked(ResponseUpdateModel(verdict="enough", retry_after_ms=-5))

    assert answer.retry_after_ms == 0


async def test_seconds_in_the_header_count_when_the_body_says_nothing() -> None:
    answer = await asked(ResponseUpdateModel(verdict="enough"), Retry_After="9")

    assert answer.retry_after_ms == 9_000


async def test_a_date_in_the_header_is_taken_by_the_clock_of_the_server() -> None:
    server_now = 1_000_000_000

    answer = await asked(
        ResponseUpdateModel(verdict="enough"),
        Retry_After=formatdate(server_now + 30, usegmt=True),
        Date=formatdate(server_now, usegmt=True),
    )

    assert answer.retry_after_ms == 30_000


async def test_the_time_of_next_request_is_taken_by_the_clock_of_the_server() -> None:
    answer = await asked(
        ResponseUpdateModel(retcode=300, verdict="enough", next_req_time="1000000012345"),
        Date=formatdate(1_000_000_000, usegmt=True),
    )

    assert answer.retry_after_ms == 12_345


@pytest.mark.parametrize("text", ["", "soon", "1" * 5_000, "2020/11/16/19/18"])
async def test_a_time_that_is_none_is_not_believed(text: str) -> None:
    answer = await asked(
        ResponseUpdateModel(retcode=300, verdict="enough", next_req_time=text), Retry_After=text
    )

    assert answer.retry_after_ms is None


async def test_a_refusal_that_invites_nobody_back_has_no_time() -> None:
    answer = await asked(
        ResponseUpdateModel(retcode=400, verdict="invalid", next_req_time="99999999999999"), 400
    )

    assert answer.retry_after_ms is None


async def test_a_status_that_contradicts_the_verdict_is_no_answer() -> None:
    with pytest.raises(NoAnswer, match="contradict"):
        await asked(ResponseUpdateModel(verdict="enough"), 200)
    with pytest.raises(NoAnswer, match="contradict"):
        await asked(ResponseUpdateModel(verdict="accepted"), 409)


async def test_a_plain_refusal_quotes_what_was_said() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=403, text="ask your administrator")

    async with transport_to(handler) as transport:
        answer = await transport.ask("updateModel", b"\x80", ResponseUpdateModel)

    assert answer.verdict == "http_403"
    assert answer.reason.endswith("ask your administrator")
    assert answer.retry_after_ms is None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_plain_answer_that_may_change_is_none_and_keeps_its_header(status: int) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, text="busy", headers={"Retry-After": "3"})

    async with transport_to(handler) as transport:
        with pytest.raises(NoAnswer, match=f"HTTP {status}") as caught:
            await transport.ask("updateModel", b"\x80", ResponseUpdateModel)

    assert caught.value.retry_after_ms == 3_000


@pytest.mark.parametrize("declared", [True, False])
async def test_an_answer_beyond_the_limit_is_not_read(declared: bool) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        body = bytes(70_000)
        response = web.StreamResponse()
        response.content_type = "application/msgpack"
        if declared:
            response.content_length = len(body)
        await response.prepare(request)
        await response.write(body)
        return response

    async with transport_to(handler, Limits(answer_bytes=65_536)) as transport:
        with pytest.raises(NoAnswer, match=r"70000 bytes, limit 65536|more than 65536 bytes"):
            await transport.ask("updateModel", b"\x80", ResponseUpdateModel)


async def test_an_answer_without_a_length_is_read_whole() -> None:
    message = ResponseGetModel(retcode=200, verdict="accepted", reason="x" * 40_000)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/msgpack"
        await response.prepare(request)
        await response.write(packed.encode(message))
        return response

    async with transport_to(handler) as transport:
        answer = await transport.ask("updateModel", b"\x80", ResponseGetModel)

    assert answer.message == message


async def test_a_server_that_falls_silent_is_no_answer_in_time() -> None:
    release = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async with transport_to(handler, Limits(read_s=0.05)) as transport:
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="no answer in time"):
            await transport.ask("updateModel", b"\x80", ResponseUpdateModel)
        assert time.monotonic() - began < 5
        release.set()


async def test_a_redirect_is_not_followed() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"})

    async with transport_to(handler) as transport:
        with pytest.raises(NoAnswer, match="HTTP 307"):
            await transport.ask("updateModel", b"\x80", ResponseUpdateModel)


async def test_a_body_arrives_whole_whatever_its_size() -> None:
    received: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        received.append(await request.content.read())
        assert request.headers["Content-Length"] == str(len(received[-1]))
        body = packed.encode(ResponseUpdateModel(verdict="accepted"))
        return web.Response(body=body, content_type="application/msgpack")

    bodies = [bytes(1), bytes(range(256)) * 1024, bytes(range(256)) * 4096 + b"end"]
    async with transport_to(handler) as transport:
        for body in bodies:
            await transport.ask("updateModel", body, ResponseUpdateModel)

    assert received == bodies
