"""What all three requests share: the gate, bodies and their limits, both encodings, the socket."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import KernelMismatch, StoreCorrupt
from fl_cluster.wire import flat, messages, packed

GOLDEN = Path(__file__).resolve().parents[2] / "data" / "golden"

SAFEMODE = "The cluster is in safemode."
OVER = "The server's training job is disabled or finished."
EMPTY = b'{"code":"1","error_message":"Get post message failed"}'
PACKED = "Content-Type: application/msgpack"
NAMES = ["startFLJob", "updateModel", "getModel"]
OTHER_PATHS = [
    *("exchangeKeys", "getKeys", "shareSecrets", "getSecrets", "getClientList", "pushListSign"),
    *("getListSign", "reconstructSecrets", "getResult", "state", "queryInstance", ""),
]

MALFORMED = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\nDate: D\r\n"
    b"Content-Length: 94\r\n\r\n<HTML><HEAD>\n<TITLE>400 Bad Request</TITLE>\n"
    b"</HEAD><BODY>\n<H1>Bad Request</H1>\n</BODY></HTML>\n"
)


def undated(reply: Any) -> bytes:
    return re.sub(rb"Date: [^\r]*", b"Date: D", reply.head) + reply.body


# -- the captured device -----------------------------------------------------------------


async def test_a_genuine_device_is_served_a_whole_round(bench: Any) -> None:
    """Requests as a genuine device wrote them; the answers have all that it reads of them."""
    bench.weights = {"fc.weight": [1.0, -1.0, 0.5, 2.0, -0.75], "fc.bias": [0.5, -0.25, 0.125]}
    await bench.open(round__start_fl_job_threshold=1, fl_iteration_num=1)
    member = await bench.member()

    async def send(number: int, name: str) -> Any:
        body = (GOLDEN / f"ne__c1__{number:02}_{name}_req.bin").read_bytes()
        kind = "Content-Type: applicatiom/json;charset=utf-8"
        return body, kind, await member.flat.send_raw(name, body)

    _, _, checked_in = await send(0, "startFLJob")
    plan = checked_in.message.fl_plan_config
    assert (checked_in.message.retcode, checked_in.message.iteration) == (200, 1)
    assert checked_in.tensors == dict(sorted(bench.weights.items()))
    assert plan.server_mode in ("FEDERATED_LEARNING", "HYBRID_TRAINING")
    assert plan.lr > 0
    assert min(plan.mini_batch, plan.epochs, plan.iterations) >= 1
    assert plan.cipher.encrypt_type == "NOT_ENCRYPT"
    assert None not in (plan.cipher.pw_params, plan.cipher.dp_params, plan.cipher.ds_params)
    assert bench.cohort == {"client1": 32}

    body, _, reported = await send(1, "updateModel")
    assert (reported.message.retcode, reported.message.reason) == (200, "success not ready")

    await bench.finish_round()
    _, _, got = await send(2, "getModel")
    sent = flat.decode(messages.RequestUpdateModel, body)
    mean = {each.weight_fullname: each.data / np.float32(32) for each in sent.feature_map}
    assert got.message.retcode == 200
    assert list(got.tensors) == ["fc.bias", "fc.weight"]
    for name, values in got.tensors.items():
        np.testing.assert_allclose(values, mean[name], rtol=1e-6)
    captured = (GOLDEN / "ne__c1__02_getModel_res.bin").read_bytes()
    accepted = flat.decode(messages.ResponseGetModel, captured)
    for ours, theirs in zip(got.message.feature_map, accepted.feature_map, strict=True):
        np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-6)


async def test_no_answer_but_those_meant_to_contains_what_devices_search_for(bench: Any) -> None:
    """Existing devices search every body for these sentences, a model's bytes included."""
    await bench.open()
    member = await bench.member()
    caller = member.flat
    replies = [
        await caller.check_in("d1"),
        await caller.check_in("d1"),
        await caller.check_in("d2", data_size=0),
        await caller.check_in("d2"),
        await caller.check_in("d3"),
        await caller.report("zz"),
        await caller.report("d1", 9),
        await caller.report("d1", tensors={}),
        await caller.report("d1"),
        await caller.report("d1"),
        await caller.get_model(1),
        await caller.get_model(0),
        await caller.send_raw("getModel", b"\x05" * 64),
    ]

    for reply in replies:
        for phrase in (SAFEMODE, OVER, "The server's training job is not ready."):
            assert phrase.encode() not in reply.body


# -- heads -------------------------------------------------------------------------------


async def test_a_flatbuffers_answer_has_three_headers_in_their_order(member: Any) -> None:
    for reply in (await member.flat.check_in("d1"), await member.flat.check_in(None)):
        assert reply.status_line == "HTTP/1.1 200 OK"
        assert [name for name, _ in reply.headers] == ["Date", "Content-Length", "Content-Type"]
        assert reply.header("Content-Type") == "text/html; charset=ISO-8859-1"


async def test_a_msgpack_answer_names_its_type_and_says_first_when_to_come_back(
    member: Any,
) -> None:
    accepted = await member.packed.check_in("d1")
    refused = await member.packed.get_model(1)

    assert [name for name, _ in accepted.headers] == ["Date", "Content-Length", "Content-Type"]
    assert refused.status_line == "HTTP/1.1 202 Accepted"
    assert refused.headers[0] == ("Retry-After", "1")
    assert refused.header("Content-Type") == "application/msgpack"


async def test_a_connection_that_is_to_be_closed_is_named_so_last(
    member: Any, http_post: Any
) -> None:
    body = flat.encode(messages.RequestGetModel(iteration=0))
    async with member.line() as line:
        line.send(http_post("/getModel", body, "Connection: close"))
        reply = await line.receive(cls=messages.ResponseGetModel)
        assert await line.is_over()

    assert reply.headers[-1] == ("Connection", "close")
    assert len(reply.headers) == 4
    assert reply.message.retcode == 200


async def test_headers_that_other_peers_send_have_no_effect_and_no_echo(
    member: Any, http_post: Any
) -> None:
    body = flat.encode(messages.RequestGetModel(iteration=0))
    names = ("Message-Type", "Message-Id", "Message-Source", "Message-Offset")

    reply = await member.ask(http_post("/getModel", body, *(f"{name}: 7" for name in names)))

    assert [name for name, _ in reply.headers] == ["Date", "Content-Length", "Content-Type"]


@pytest.mark.parametrize(
    ("kind", "is_native"),
    [
        (None, False),
        ("applicatiom/json;charset=utf-8", False),
        ("text/plain", False),
        ("application/msgpack-not", False),
        ("application/msgpack", True),
        ("Application/MsgPack; charset=x", True),
    ],
)
async def test_the_type_of_the_body_chooses_the_encoding_and_nothing_else_does(
    member: Any, http_post: Any, kind: str | None, is_native: bool
) -> None:
    codec: Any = packed if is_native else flat
    body = codec.encode(messages.RequestGetModel(iteration=0))

    headers = [f"Content-Type: {kind}"] if kind else []

    reply = await member.ask(http_post("/getModel", body, *headers))

    answer = codec.decode(messages.ResponseGetModel, reply.body)
    assert (reply.status, answer.retcode) == (200, 200)


# -- paths and methods -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "path", "is_served"),
    [
        ("", "/getModel", True),
        ("/x/", "/x/getModel", True),
        ("/x/", "/getModel", False),
        ("/x/", "/x//getModel", True),
        ("/x", "/xgetModel", True),
        ("/x", "/x/getModel", True),
        ("x/", "/x/getModel", False),
    ],
)
async def test_the_prefix_is_used_as_it_is_written(
    bench: Any, http_post: Any, prefix: str, path: str, is_served: bool
) -> None:
    await bench.open(client__http_url_prefix=prefix)
    member = await bench.member()

    reply = await member.ask(http_post(path, flat.encode(messages.RequestGetModel())))

    assert reply.status == (200 if is_served else 404)


@pytest.mark.parametrize("name", NAMES)
async def test_a_trailing_slash_is_another_path_and_a_query_is_none(
    member: Any, http_post: Any, name: str
) -> None:
    with_slash = await member.ask(http_post(f"/{name}/", b"x"))
    with_query = await member.ask(http_post(f"/{name}?x=1&y", b"x"))

    page = (
        "<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1>"
        f"<p>The requested URL /{name}/ was not found on this server.</p></body></html>\n"
    ).encode()
    assert undated(with_slash) == (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nConnection: close\r\nDate: D\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(page), page)
    )
    assert with_query.status == 200


@pytest.mark.parametrize("name", OTHER_PATHS)
async def test_paths_that_this_job_does_not_need_do_not_exist(
    member: Any, http_post: Any, name: str
) -> None:
    reply = await member.ask(http_post(f"/{name}", b"\x05" * 32))

    assert (reply.status, reply.header("Connection")) == (404, "close")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_the_method_is_not_looked_at(member: Any, http_post: Any, method: str) -> None:
    body = flat.encode(member.flat.check_in_message("d1", data_size=0))

    reply = await member.ask(http_post("/startFLJob", body, method=method))

    assert reply.message.reason == "FL job data size is not enough."


@pytest.mark.parametrize("method", ["OPTIONS", "PATCH", "TRACE"])
async def test_other_methods_are_not_implemented(member: Any, http_post: Any, method: str) -> None:
    async with member.line() as line:
        line.send(http_post("/startFLJob", b"", method=method))
        reply = await line.receive()
        assert await line.is_over()

    assert (reply.status, reply.header("Connection")) == (501, "close")


# -- bodies ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("headers", [(), ("Content-Length: 0",), (PACKED,)])
async def test_a_request_without_a_body_is_told_so_in_json(
    member: Any, name: str, method: str, headers: tuple[str, ...]
) -> None:
    """The original calls this its own fault, 500, which makes proxies take a server out."""
    request = "\r\n".join([f"{method} /{name} HTTP/1.1", "Host: x", *headers, "", ""]).encode()
    async with member.line() as line:
        line.send(request)
        reply = await line.receive()
        line.send(member.flat.request(messages.RequestGetModel(iteration=0)))
        after = await line.receive(cls=messages.ResponseGetModel)

    assert undated(reply) == (
        b"HTTP/1.1 400 Client\r\nDate: D\r\nContent-Length: 54\r\n"
        b"Content-Type: text/html; charset=ISO-8859-1\r\n\r\n" + EMPTY
    )
    assert after.message.retcode == 200


async def test_head_is_answered_with_a_body_and_the_connection_ends(member: Any) -> None:
    async with member.line() as line:
        line.send(b"HEAD /getModel HTTP/1.1\r\nHost: x\r\n\r\n")
        reply = await line.receive()

    assert undated(reply) == (
        b"HTTP/1.1 400 Client\r\nDate: D\r\n"
        b"Content-Type: text/html; charset=ISO-8859-1\r\nConnection: close\r\n\r\n" + EMPTY
    )


async def test_a_chunked_body_is_a_body(member: Any) -> None:
    body = flat.encode(member.flat.check_in_message("d1"))
    head = b"POST /startFLJob HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [body[:7], body[7:50], body[50:]]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)

    reply = await member.ask(head + chunks + b"0\r\n\r\n")
    nothing = await member.ask(head + b"0\r\n\r\n")

    assert reply.message.reason == "success"
    assert (nothing.status, nothing.body) == (400, EMPTY)


async def test_a_peer_that_waits_for_leave_to_send_gets_it(member: Any, http_post: Any) -> None:
    request = http_post(
        "/startFLJob",
        flat.encode(member.flat.check_in_message("d1")),
        "Expect: 100-continue",
    )
    head, _, body = request.partition(b"\r\n\r\n")
    async with member.line() as line:
        line.send(head + b"\r\n\r\n")
        assert await line.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.send(body)
        reply = await line.receive()

    assert reply.message.reason == "success"


async def test_a_header_of_128_kib_is_no_hindrance(member: Any, http_post: Any) -> None:
    body = flat.encode(member.flat.check_in_message("d1"))

    reply = await member.ask(http_post("/startFLJob", body, "X-Long: " + "a" * 128 * 1024))

    assert reply.message.reason == "success"


@pytest.mark.parametrize("length", ["-1", "five", "1e3", "0x10", "+5"])
async def test_a_length_that_is_no_number_is_malformed(member: Any, length: str) -> None:
    async with member.line() as line:
        line.send(
            f"POST /getModel HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        reply = await line.receive()
        assert await line.is_over()

    assert undated(reply) == MALFORMED


async def test_requests_sent_together_are_answered_in_their_order(member: Any) -> None:
    caller = member.flat
    requests = [messages.RequestGetModel(iteration=n) for n in (0, 1, 0)]
    requests.insert(2, caller.check_in_message("d1"))
    async with member.line() as line:
        line.send(b"".join(map(caller.request, requests)))
        answers = [
            (await line.receive(cls=cls)).message
            for cls in (messages.ResponseGetModel, messages.ResponseGetModel)
        ]
        checked_in = (await line.receive()).message
        last = (await line.receive(cls=messages.ResponseGetModel)).message

    assert [answer.retcode for answer in answers] == [200, 201]
    assert checked_in.reason == "success"
    assert last.retcode == 200


async def test_one_connection_carries_many_requests_of_both_encodings(member: Any) -> None:
    async with member.line() as line:
        for n in range(20):
            caller = member.packed if n % 2 else member.flat
            line.send(caller.request(messages.RequestGetModel(iteration=0)))
            reply = await line.receive(caller.codec, messages.ResponseGetModel)
            assert (reply.status, reply.message.retcode) == (200, 200)


async def test_http_1_0_is_answered_and_the_connection_ends(member: Any) -> None:
    body = flat.encode(messages.RequestGetModel(iteration=0))
    head = f"POST /getModel HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with member.line() as line:
        line.send(head + body)
        reply = await line.receive(cls=messages.ResponseGetModel)

    assert reply.head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert reply.message.retcode == 200


async def test_a_body_that_ends_early_is_no_request_and_no_noise(
    bench: Any, member: Any, caplog: pytest.LogCaptureFixture, until: Any
) -> None:
    for device in ("d1", "d2"):
        await member.flat.check_in(device)
    whole = member.flat.request(member.flat.report_message("d1"))
    async with member.line() as line:
        line.send(whole[:-10])
        await until(lambda: member.busy)
    await until(lambda: not member.busy)

    assert bench.counted == []
    assert member.budget.used == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert (await member.flat.report("d1")).message.retcode == 200


async def test_a_body_in_small_pieces_is_a_body(bench: Any, member: Any, until: Any) -> None:
    await member.flat.check_in("d1")
    whole = member.flat.request(member.flat.report_message("d1"))
    async with member.line() as line:
        for start in range(0, len(whole), 50):
            line.send(whole[start : start + 50])
            await line.writer.drain()
            await asyncio.sleep(0)
        reply = await line.receive(cls=messages.ResponseUpdateModel)

    assert reply.message.reason == "success not ready"


# -- limits ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
async def test_a_body_over_the_limit_is_refused_before_it_is_sent(bench: Any, name: str) -> None:
    await bench.open()
    member = await bench.member(limit=10_000)
    async with member.line() as line:
        line.send(f"POST /{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 10001\r\n\r\n".encode())
        reply = await line.receive()

    assert reply.status_line == "HTTP/1.1 413 Client"
    assert reply.body == (
        b'{"code":"1","error_message":'
        b'"Get post message failed: the body is longer than 10000 bytes"}'
    )
    assert reply.headers[-1] == ("Connection", "close")


async def test_a_body_at_the_limit_is_read(bench: Any) -> None:
    await bench.open()
    member = await bench.member(limit=10_000)

    reply = await member.flat.send_raw("updateModel", bytes(10_000))

    assert reply.message.reason == "The schema of RequestUpdateModel is invalid."


async def test_the_limit_counts_for_chunks_too(bench: Any) -> None:
    await bench.open()
    member = await bench.member(limit=10_000)
    head = b"POST /updateModel HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with member.line() as line:
        line.send(head + b"2710\r\n" + bytes(10_000) + b"\r\n1\r\nx\r\n")
        reply = await line.receive()

    assert reply.status == 413
    assert member.budget.used == 0


@pytest.mark.parametrize("name", NAMES)
async def test_in_msgpack_a_body_over_the_limit_is_too_large(bench: Any, name: str) -> None:
    await bench.open()
    member = await bench.member(limit=10_000)

    reply = await member.packed.send_raw(name, bytes(10_001))

    answer = reply.message
    assert (reply.status, answer.verdict, answer.retcode) == (413, "too_large", 400)
    assert answer.reason == "the body is longer than 10000 bytes"
    assert answer.retry_after_ms is None
    assert reply.headers[-1] == ("Connection", "close")


async def test_when_too_much_is_in_flight_a_device_is_told_to_wait(bench: Any, until: Any) -> None:
    await bench.open()
    size = 2**20
    member = await bench.member(limit=size, in_flight=size)
    head = f"POST /updateModel HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n"
    packed_type = "Content-Type: application/msgpack\r\n"
    async with member.line() as line:
        line.send(f"{head}\r\n".encode() + bytes(2**16))
        await until(lambda: member.budget.used)

        refused = await member.ask(f"{head}\r\n".encode() + bytes(size))
        native = await member.ask(f"{head}{packed_type}\r\n".encode() + bytes(size))
        small = await member.packed.check_in("d1")
        line.send(bytes(size - 2**16))
        await line.receive()

    message = packed.decode(messages.ResponseUpdateModel, native.body)
    assert refused.text == SAFEMODE
    assert (native.status, message.verdict) == (503, "unavailable")
    assert (message.retry_after_ms, native.header("Retry-After")) == (200, "1")
    assert small.message.verdict == "accepted", "what is there already waits for nobody"
    assert member.budget.used == 0


async def test_a_body_is_let_go_while_its_update_is_being_stored(bench: Any, member: Any) -> None:
    await member.flat.check_in("d1")
    held = member.links[0].hold("report")
    reporting = asyncio.create_task(member.flat.report("d1"))

    await held.reached.wait()
    assert member.budget.used == 0
    held.go.set()

    assert (await reporting).message.reason == "success not ready"


async def test_no_answer_leaves_a_body_behind(bench: Any, member: Any) -> None:
    caller = member.flat
    for name in NAMES:
        await caller.send_raw(name, b"\x05" * 64)
    for reply in (
        caller.check_in("d1"),
        caller.report("zz"),
        caller.report("d1", tensors={}),
        caller.report("d1"),
        caller.get_model(0),
        caller.get_model(1),
    ):
        await reply

    assert member.budget.used == 0


# -- faults ------------------------------------------------------------------------------


async def test_a_damaged_store_is_told_like_one_that_is_away(member: Any) -> None:
    member.links[0].fault = StoreCorrupt("the record cannot be")

    assert (await member.flat.check_in("d1")).text == SAFEMODE
    native = await member.packed.check_in("d1")
    assert (native.status, native.message.verdict) == (503, "unavailable")


@pytest.mark.parametrize("fault", [ZeroDivisionError("a bug"), KernelMismatch("a fault")])
async def test_what_nobody_foresaw_is_told_in_general_and_logged(
    member: Any, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    member.links[0].fault = fault

    assert (await member.flat.check_in("d1")).text == "An inner error occurred"
    native = await member.packed.check_in("d1")

    assert (native.status, native.message.verdict) == (503, "unavailable")
    assert native.message.retry_after_ms == 200
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == 2
    assert all(str(fault) in (record.exc_text or record.getMessage()) for record in logged)


# -- who came ----------------------------------------------------------------------------


async def test_what_a_handler_answered_is_counted_and_what_the_gate_said_is_not(
    bench: Any, member: Any
) -> None:
    caller = member.flat
    admitted = [await caller.check_in("d1")]
    await caller.check_in("d1")
    await caller.check_in(None)
    admitted.append(await member.packed.check_in("d2"))
    sent = caller.report_message("d1")
    await caller.send(sent)
    await caller.send(sent)
    model = await caller.get_model(0)
    await caller.get_model(1)
    await caller.send_raw("getModel", b"x")
    for name in NAMES:
        await caller.send_raw(name, b"")
    await bench.rounds.disable()
    await bench.look()
    for reply in (caller.check_in("d3"), caller.report("d2"), caller.get_model(0)):
        await reply

    await member.visits.flush(bench.ref)

    assert await bench.rounds.visits(bench.ref) == {
        "check_in": 4,
        "check_in_accepted": 2,
        "check_in_bytes": sum(len(reply.body) for reply in admitted),
        "report": 2,
        "report_accepted": 1,
        "report_bytes": len(flat.encode(sent)),
        "get_model": 3,
        "get_model_accepted": 1,
        "get_model_bytes": len(model.body),
    }


# -- segments ----------------------------------------------------------------------------


def data_segments(line: Any) -> int:
    """How many segments with data the system has received on this connection."""
    sock = line.writer.get_extra_info("socket")
    if not hasattr(socket, "TCP_INFO"):
        pytest.skip("this system does not count segments")
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < 156:
        pytest.skip("this system does not count segments")
    return int(struct.unpack_from("I", info, 152)[0])


async def test_head_and_body_of_an_answer_arrive_in_one_segment(member: Any) -> None:
    requests = {
        messages.ResponseGetModel: messages.RequestGetModel(iteration=0),
        messages.ResponseFLJob: member.flat.check_in_message("d1"),
        messages.ResponseUpdateModel: member.flat.report_message("d1"),
    }
    async with member.line() as line:
        for count, (cls, request) in enumerate(requests.items(), start=1):
            line.send(member.flat.request(request))
            await line.receive(cls=cls)
            assert data_segments(line) == count


async def test_a_peer_that_writes_head_and_body_by_turns_is_not_kept_waiting(
    member: Any, until: Any
) -> None:
    """It may hold the body back until it knows that the head has come."""
    request = member.flat.request(messages.RequestGetModel(iteration=0))
    head, _, body = request.partition(b"\r\n\r\n")
    if not hasattr(socket, "TCP_QUICKACK"):
        pytest.skip("this system does not say how it acknowledges")
    async with member.line() as line:
        line.send(request)
        await line.receive()
        [link] = member.listener.server.connections
        accepted = link.transport.get_extra_info("socket")

        line.send(head + b"\r\n\r\n")
        await until(lambda: member.busy)
        is_quick = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)
        line.send(body)
        reply = await line.receive(cls=messages.ResponseGetModel)

    assert is_quick
    assert reply.message.retcode == 200
