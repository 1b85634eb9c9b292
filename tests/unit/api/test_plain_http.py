"""What leaves the socket, byte for byte, and what happens to requests that are not as expected."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from fl_cluster.api import plain_http
from fl_cluster.errors import FlClusterError, StartupError, StoreUnavailable


class Gate:
    """Lets a test hold a handler inside its request."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.released = asyncio.Event()


def a_plane(gate: Gate | None = None, **limits: float) -> plain_http.Plane:
    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        return plain_http.Answer(await request.read())

    async def state(request: web.BaseRequest) -> web.StreamResponse:
        return plain_http.json_answer(b'{"code":"0"}')

    async def store_is_away(request: web.BaseRequest) -> web.StreamResponse:
        raise StoreUnavailable("claim", "connection refused")

    async def bug(request: web.BaseRequest) -> web.StreamResponse:
        raise ZeroDivisionError("the handler is wrong")

    async def held(request: web.BaseRequest) -> web.StreamResponse:
        assert gate is not None
        gate.entered.set()
        body = await request.read()
        await gate.released.wait()
        return plain_http.Answer(body)

    async def unread(request: web.BaseRequest) -> web.StreamResponse:
        return plain_http.Answer(b"no")

    def on_fault(request: web.BaseRequest, fault: FlClusterError) -> web.StreamResponse:
        return plain_http.Answer(f"fault: {fault}".encode())

    def on_bug(request: web.BaseRequest) -> web.StreamResponse:
        return plain_http.Answer(b"An inner error occurred")

    routes = {
        "/echo": echo,
        "/state": state,
        "/away": store_is_away,
        "/bug": bug,
        "/held": held,
        "/unread": unread,
    }
    return plain_http.Plane(routes, on_fault, on_bug, plain_http.Limits(**limits))


@contextlib.asynccontextmanager
async def serving(plane: plain_http.Plane) -> AsyncIterator[plain_http.Listener]:
    listener = await plain_http.listen(plane, "127.0.0.1", 0)
    try:
        yield listener
    finally:
        await listener.close(drain_s=0.1)


@contextlib.asynccontextmanager
async def connected(
    listener: plain_http.Listener,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(listener.host, listener.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """One answer, and after `Connection: close` or without a length proof that it was the last."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    body = await (reader.readexactly(int(length[1])) if length else reader.read())
    if b"Connection: close" in head:
        assert await reader.read() == b""
    return head + body


async def ask(listener: plain_http.Listener, request: bytes) -> bytes:
    async with connected(listener) as (reader, writer):
        writer.write(request)
        return await read_answer(reader)


async def test_a_connection_need_not_be_tcp() -> None:
    """A proxy on the same host may come through a socket in the file system."""
    loop = asyncio.get_running_loop()
    server = plain_http.PlainServer(a_plane())
    ours, theirs = socket.socketpair()
    await loop.connect_accepted_socket(server, theirs)
    reader, writer = await asyncio.open_connection(sock=ours)

    writer.write(b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\n")
    await asyncio.sleep(0)
    writer.write(b"abc")
    answer = await read_answer(reader)

    assert answer.startswith(b"HTTP/1.1 200 OK")
    writer.close()
    await server.drain(timeout_s=0.1)


def undated(answer: bytes) -> bytes:
    return re.sub(
        rb"Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} [\d:]{8} GMT", b"Date: D", answer
    )


async def test_a_device_answer_has_date_length_and_type_in_this_order_and_nothing_else() -> None:
    async with serving(a_plane()) as listener, connected(listener) as (reader, writer):
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        answer = await read_answer(reader)

    expected = (
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 5\r\n"
        b"Content-Type: text/html; charset=ISO-8859-1\r\n\r\nhello"
    )
    assert undated(answer) == expected


async def test_a_management_answer_names_its_type_first_and_says_client() -> None:
    async with serving(a_plane()) as listener:
        answer = await ask(listener, b"GET /state HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    expected = (
        b"HTTP/1.1 200 Client\r\nContent-Type: application/json\r\nDate: D\r\n"
        b'Content-Length: 12\r\nConnection: close\r\n\r\n{"code":"0"}'
    )
    assert undated(answer) == expected


async def test_a_refusal_is_json_typed_as_html() -> None:
    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        return plain_http.json_refusal("The post message size is invalid.")

    plane = a_plane()
    async with serving(plain_http.Plane({"/x": refuse}, plane.on_fault, plane.on_bug)) as listener:
        answer = await ask(listener, b"POST /x HTTP/1.1\r\nHost: x\r\n\r\n")

    expected = (
        b"HTTP/1.1 400 Client\r\nDate: D\r\nContent-Length: 64\r\n"
        b"Content-Type: text/html; charset=ISO-8859-1\r\n\r\n"
        b'{"code":"1","error_message":"The post message size is invalid."}'
    )
    assert undated(answer) == expected


@pytest.mark.parametrize("path", ["/", "/nosuch", "/state/", "/STATE", "//state"])
async def test_an_unknown_path_gets_the_page_and_the_connection_ends(path: str) -> None:
    async with serving(a_plane()) as listener:
        answer = await ask(listener, f"POST {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    page = (
        "<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1>"
        f"<p>The requested URL {path} was not found on this server.</p></body></html>\n"
    ).encode()
    expected = (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nConnection: close\r\nDate: D\r\n"
        b"Content-Length: " + str(len(page)).encode() + b"\r\n\r\n" + page
    )
    assert undated(answer) == expected


async def test_the_page_for_an_unknown_path_carries_no_markup_from_the_request() -> None:
    async with serving(a_plane()) as listener:
        answer = await ask(listener, b"GET /<b>'x'</b> HTTP/1.1\r\nHost: x\r\n\r\n")

    assert b"URL /&lt;b&gt;&#039;x&#039;&lt;/b&gt; was" in answer


@pytest.mark.parametrize("target", ["/state?x=1", "/st%61te", "http://some.host/state"])
async def test_query_escapes_and_absolute_targets_reach_the_same_handler(target: str) -> None:
    async with serving(a_plane()) as listener:
        answer = await ask(listener, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    assert answer.endswith(b'{"code":"0"}')


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_the_method_is_not_looked_at(method: str) -> None:
    async with serving(a_plane()) as listener:
        answer = await ask(listener, f"{method} /state HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 200 Client\r\n")


async def test_head_is_answered_with_the_body_and_the_connection_closes() -> None:
    async with serving(a_plane()) as listener, connected(listener) as (reader, writer):
        writer.write(b"HEAD /state HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()

    expected = (
        b"HTTP/1.1 200 Client\r\nContent-Type: application/json\r\nDate: D\r\n"
        b'Connection: close\r\n\r\n{"code":"0"}'
    )
    assert undated(answer) == expected


async def test_another_method_is_not_implemented() -> None:
    async with serving(a_plane()) as listener:
        answer = await ask(listener, b"OPTIONS /state HTTP/1.1\r\nHost: x\r\n\r\n")

    expected = (
        b"HTTP/1.1 501 Not Implemented\r\nContent-Type: text/html\r\nConnection: close\r\n"
        b"Date: D\r\nContent-Length: 102\r\n\r\n<HTML><HEAD>\n<TITLE>501 Not Implemented</TITLE>\n"
        b"</HEAD><BODY>\n<H1>Not Implemented</H1>\n</BODY></HTML>\n"
    )
    assert undated(answer) == expected


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"this is not http\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_400_and_no_traceback(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(a_plane()) as listener:
        answer = await ask(listener, request_bytes)

    expected = (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\nDate: D\r\n"
        b"Content-Length: 94\r\n\r\n<HTML><HEAD>\n<TITLE>400 Bad Request</TITLE>\n"
        b"</HEAD><BODY>\n<H1>Bad Request</H1>\n</BODY></HTML>\n"
    )
    assert undated(answer) == expected
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_who_speaks_tls_to_a_plain_port_is_cut_off_and_told_of_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(a_plane()) as listener, connected(listener) as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")

        assert await reader.read() == b""
    assert "it speaks TLS, and this port does not: http:// is meant" in caplog.text


async def test_http_1_0_gets_neither_date_nor_length_and_the_connection_ends() -> None:
    async with serving(a_plane()) as listener:
        answer = await ask(listener, b"POST /state HTTP/1.0\r\n\r\n")

    assert answer == b'HTTP/1.0 200 Client\r\nContent-Type: application/json\r\n\r\n{"code":"0"}'


async def test_http_1_0_may_ask_to_keep_the_connection() -> None:
    async with serving(a_plane()) as listener, connected(listener) as (reader, writer):
        for _ in range(2):
            writer.write(b"POST /state HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            answer = await read_answer(reader)
            assert b"\r\nConnection: keep-alive\r\nContent-Length: 12\r\n\r\n" in answer


async def test_a_header_of_128_kib_is_accepted_and_a_longer_one_is_refused() -> None:
    async with serving(a_plane()) as listener:
        fits = await ask(
            listener,
            b"GET /state HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 128 * 1024 + b"\r\n\r\n",
        )
        too_long = await ask(
            listener,
            b"GET /state HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 140 * 1024 + b"\r\n\r\n",
        )

    assert fits.startswith(b"HTTP/1.1 200 ")
    assert too_long.startswith(b"HTTP/1.1 400 ")


async def test_headers_that_add_up_without_end_are_cut_off() -> None:
    async def flood(listener: plain_http.Listener) -> None:
        async with connected(listener) as (reader, writer):
            writer.write(b"GET /state HTTP/1.1\r\nHost: x\r\n")
            for n in range(100):
                writer.write(f"X-{n}: ".encode() + b"a" * 64 * 1024 + b"\r\n")
                await writer.drain()
            writer.write(b"\r\n")
            await reader.readuntil(b"\r\n\r\n")

    async with serving(a_plane()) as listener:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await flood(listener)


async def test_a_head_that_comes_too_slowly_is_cut_off_and_a_held_request_is_not() -> None:
    gate = Gate()
    plane = a_plane(gate, header_s=0.01)
    async with (
        serving(plane) as listener,
        connected(listener) as (slow_reader, slow_writer),
        connected(listener) as (reader, writer),
    ):
        writer.write(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok")
        slow_writer.write(b"POST /held HTTP/1.1\r\nHo")

        assert await slow_reader.read() == b""
        gate.released.set()
        answer = await read_answer(reader)

    assert answer.endswith(b"\r\n\r\nok")


async def test_a_connection_that_is_kept_is_no_head_that_comes_too_slowly() -> None:
    async with (
        serving(a_plane(header_s=0.01)) as listener,
        connected(listener) as (reader, writer),
        connected(listener) as (slow_reader, slow_writer),
    ):
        for _ in range(2):
            writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
            writer.write(b"ok")
            assert (await read_answer(reader)).endswith(b"\r\n\r\nok")
            slow_writer.write(b"POST /echo HTTP/1.1\r\nHo")
            assert await slow_reader.read() == b""  # by now all connections were looked over


async def test_an_idle_connection_is_closed() -> None:
    async with serving(a_plane(idle_s=0.05)) as listener, connected(listener) as (reader, writer):
        writer.write(b"GET /state HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_answer(reader)
        rest = await reader.read()

    assert rest == b""


async def test_pipelined_requests_are_answered_in_order() -> None:
    one = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    async with serving(a_plane()) as listener, connected(listener) as (reader, writer):
        writer.write(one + b"1" + one + b"2" + one + b"3")
        bodies = [(await read_answer(reader))[-1:] for _ in range(3)]

    assert bodies == [b"1", b"2", b"3"]


HOSTLESS = b"POST /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"
HOSTLESS_CHUNKS = (
    b"POST /echo HTTP/1.1\r\nX-Long: " + b"a" * 300 + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1;note=2\r\nh\r\n1\r\ni\r\n0\r\nTrailer: x\r\n\r\n"
)


@pytest.mark.parametrize("asked", [HOSTLESS, HOSTLESS_CHUNKS], ids=["a length", "chunks"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
async def test_requests_without_a_host_are_taken_wherever_they_are_cut(
    asked: bytes, size: int
) -> None:
    sent = asked * 2 + b"\r\n" + HOSTLESS.replace(b"hi", b"ho")
    async with serving(a_plane()) as listener, connected(listener) as (reader, writer):
        for at in range(0, len(sent), size):
            writer.write(sent[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)
        answers = [await read_answer(reader) for _ in range(3)]

    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    assert [answer[-2:] for answer in answers] == [b"hi", b"hi", b"ho"]


async def test_a_long_head_without_a_host_is_taken() -> None:
    longs = b"".join(b"X-%d: %s\r\n" % (n, b"a" * 100_000) for n in range(5))
    async with serving(a_plane()) as listener:
        answer = await ask(listener, b"GET /state HTTP/1.1\r\n" + longs + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 200 Client")


async def test_a_body_that_looks_like_a_request_without_a_host_is_a_body() -> None:
    body = b"GET /state HTTP/1.1\r\n\r\n" * 20
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serving(a_plane()) as listener, connected(listener) as (reader, writer):
        for _ in range(2):
            writer.write(head + body)
            assert (await read_answer(reader)).endswith(b"\r\n\r\n" + body)


@pytest.mark.parametrize(
    "lines", [b"Host: x\r\nHost: y", b"Host: x\r\n Host: y", b"Host : x", b"Host\r\n"]
)
async def test_a_host_that_is_there_and_wrong_is_malformed(lines: bytes) -> None:
    async with serving(a_plane()) as listener:
        answer = await ask(listener, b"GET /state HTTP/1.1\r\n" + lines + b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 Bad Request")


async def test_a_chunked_body_is_accepted_and_a_broken_chunk_is_malformed() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(a_plane()) as listener, connected(listener) as (reader, writer):
        writer.write(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        answer = await read_answer(reader)
        writer.write(head + b"3\r\nabc\r\nzz\r\n")
        broken = await reader.read()

    assert answer.endswith(b"\r\n\r\nabcde")
    assert b"400 Bad Request" in broken


async def test_a_compressed_body_is_handed_on_as_it_came() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n"
    async with serving(a_plane()) as listener:
        answer = await ask(listener, head + b"\x1f\x8b\0\0")

    assert answer.endswith(b"\r\n\r\n\x1f\x8b\0\0")


async def test_a_client_that_waits_for_100_continue_is_invited_to_send() -> None:
    async with serving(a_plane()) as listener, connected(listener) as (reader, writer):
        writer.write(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        invitation = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"ok")
        answer = await read_answer(reader)

    assert invitation == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.endswith(b"\r\n\r\nok")


async def test_a_body_the_handler_did_not_read_does_not_become_the_next_request() -> None:
    async with serving(a_plane()) as listener, connected(listener) as (reader, writer):
        writer.write(
            b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + b"z" * 300_000
        )
        first = await read_answer(reader)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\ny")
        second = await read_answer(reader)

    assert first.endswith(b"\r\n\r\nno")
    assert second.endswith(b"\r\n\r\ny")


async def test_a_fault_is_answered_by_its_meaning_and_a_bug_by_the_general_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(a_plane()) as listener:
        fault = await ask(listener, b"POST /away HTTP/1.1\r\nHost: x\r\n\r\n")
        assert caplog.records == []
        bug = await ask(listener, b"POST /bug HTTP/1.1\r\nHost: x\r\n\r\n")

    assert fault.endswith(b"fault: claim: connection refused")
    assert bug.endswith(b"An inner error occurred")
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.exc_info is not None


async def test_a_peer_that_vanishes_in_its_body_leaves_no_noise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()
    async with serving(a_plane(gate)) as listener, connected(listener) as (_, writer):
        writer.write(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        await gate.entered.wait()
        writer.transport.abort()
        answer = await ask(listener, b"GET /state HTTP/1.1\r\nHost: x\r\n\r\n")

    assert answer.endswith(b'{"code":"0"}')
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("size", [0, 10, plain_http.JOINED_BODY_BYTES])
async def test_head_and_body_leave_in_one_write(size: int) -> None:
    """Two writes with Nagle off would be two segments, and two wake-ups of the device."""
    written: list[bytes] = []

    class Outlet:
        transport = None

        async def write(self, chunk: bytes) -> None:
            written.append(chunk)

        async def write_eof(self, chunk: bytes = b"") -> None:
            written.append(chunk)

    class Request:
        version = (1, 1)
        method = "POST"
        keep_alive = True
        writer = Outlet()

    answer = plain_http.Answer(b"x" * size)
    await answer.prepare(Request())  # type: ignore[arg-type]
    await answer.write_eof()

    [segment] = written
    assert segment.startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(segment.partition(b"\r\n\r\n")[2]) == size


async def test_a_large_body_arrives_whole_from_memory_that_is_shared() -> None:
    model = memoryview(bytes(range(256)) * 8192)

    async def get_model(request: web.BaseRequest) -> web.StreamResponse:
        return plain_http.Answer(model)

    plane = a_plane()
    routes = {"/getModel": get_model}
    async with serving(plain_http.Plane(routes, plane.on_fault, plane.on_bug)) as listener:
        answers = [
            await ask(listener, b"POST /getModel HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(2)
        ]

    assert [answer.partition(b"\r\n\r\n")[2] == model for answer in answers] == [True, True]


async def test_nagle_is_off_on_accepted_connections() -> None:
    seen: list[int] = []

    async def look(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        accepted = request.transport.get_extra_info("socket")
        seen.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return plain_http.Answer(b"")

    plane = a_plane()
    async with serving(plain_http.Plane({"/x": look}, plane.on_fault, plane.on_bug)) as listener:
        await ask(listener, b"POST /x HTTP/1.1\r\nHost: x\r\n\r\n")

    assert seen == [1]


async def test_one_connection_too_many_takes_the_place_of_the_oldest_idle_one() -> None:
    question = b"GET /state HTTP/1.1\r\nHost: x\r\n\r\n"
    async with (
        serving(a_plane(connections=2)) as listener,
        connected(listener) as (first, first_writer),
        connected(listener) as (second, second_writer),
    ):
        for reader, writer in ((first, first_writer), (second, second_writer)):
            writer.write(question)
            await read_answer(reader)
        async with connected(listener) as (third, third_writer):
            third_writer.write(question)
            answers = [await read_answer(third)]
            second_writer.write(question)
            answers.append(await read_answer(second))

            assert await first.read() == b""
        assert [answer.endswith(b'{"code":"0"}') for answer in answers] == [True, True]


async def test_one_connection_too_many_is_told_so_when_all_are_busy() -> None:
    gate = Gate()
    async with (
        serving(a_plane(gate, connections=1)) as listener,
        connected(listener) as (reader, writer),
    ):
        writer.write(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await gate.entered.wait()
        async with connected(listener) as (refused_reader, _):
            refused = await refused_reader.read()
        gate.released.set()
        await read_answer(reader)

    assert refused == plain_http.FULL


def test_it_is_told_so_by_the_event_loop_of_servers_too() -> None:
    """Its transports are no subclasses of asyncio's."""
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_one_connection_too_many_is_told_so_when_all_are_busy())


async def test_an_answer_that_nobody_takes_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plain_http, "READER_GRACE_S", 0.05)
    monkeypatch.setattr(plain_http, "SLOWEST_READER_BYTES_PER_S", 10**12)
    model = bytes(64 * 1024 * 1024)
    over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def serve(_: web.BaseRequest) -> web.StreamResponse:
        answer = plain_http.Answer(model)
        answer.when_over(over.set_result)
        return answer

    plane = a_plane()
    async with (
        serving(plain_http.Plane({"/getModel": serve}, plane.on_fault, plane.on_bug)) as listener,
        connected(listener) as (reader, writer),
    ):
        writer.write(b"POST /getModel HTTP/1.1\r\nHost: x\r\n\r\n")

        assert await over is False
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read()) < len(model)


async def test_draining_closes_idle_connections_and_lets_a_body_arrive() -> None:
    gate = Gate()
    async with (
        serving(a_plane(gate)) as listener,
        connected(listener) as (idle_reader, idle_writer),
        connected(listener) as (reader, writer),
    ):
        idle_writer.write(b"GET /state HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_answer(idle_reader)
        writer.write(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nha")
        await gate.entered.wait()

        closing = asyncio.create_task(listener.close(drain_s=10))
        assert await idle_reader.read() == b""
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(listener.host, listener.port)
        writer.write(b"lf")
        gate.released.set()
        answer = await read_answer(reader)
        await closing

    assert answer.endswith(b"Connection: close\r\n\r\nhalf")


async def test_draining_ends_on_time_although_a_handler_does_not() -> None:
    gate = Gate()
    async with serving(a_plane(gate)) as listener, connected(listener) as (reader, writer):
        writer.write(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await gate.entered.wait()

        began = asyncio.get_running_loop().time()
        await listener.close(drain_s=0.05)
        took = asyncio.get_running_loop().time() - began
        received = await reader.read()

    assert received == b""
    assert took < 2


async def test_a_taken_port_is_named_with_its_holder() -> None:
    async with serving(a_plane()) as listener:
        with pytest.raises(
            StartupError, match=rf"127\.0\.0\.1:{listener.port} is already in use by pid \d+"
        ):
            await plain_http.listen(a_plane(), "127.0.0.1", listener.port)


async def test_an_address_that_is_not_ours_is_a_clear_error() -> None:
    with pytest.raises(StartupError, match=r"cannot listen on 203\.0\.113\.7:0: "):
        await plain_http.listen(a_plane(), "203.0.113.7", 0)


async def test_an_address_with_colons_is_shown_in_brackets() -> None:
    page = plain_http.malformed
    plane = plain_http.Plane({}, lambda *_: page(), lambda _: page())
    listener = await plain_http.listen(plane, "::1", 0)
    try:
        assert listener.address == f"[::1]:{listener.port}"
        with pytest.raises(StartupError, match=r"\[::1\]:\d+ is already in use by"):
            await plain_http.listen(plane, "::1", listener.port)
    finally:
        await listener.close()
