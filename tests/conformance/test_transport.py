"""HTTP on the device plane: paths, methods, heads, bodies and connections, byte by byte."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest
from blackbox.cluster import JAVA, Cluster, check_in, get_model, report
from blackbox.line import Line, Reply, ask, request
from blackbox.wire import read

EMPTY = b'{"code":"1","error_message":"Get post message failed"}'
DEVICE_TYPE = "text/html; charset=ISO-8859-1"
NOTHING = check_in("x", data_size=0)
NAMES = ("startFLJob", "updateModel", "getModel")
FOREIGN = (
    *("exchangeKeys", "getKeys", "shareSecrets", "getSecrets", "getClientList"),
    *("pushListSign", "getListSign", "reconstructSecrets", "getResult"),
    *("asyncUpdateModel", "asyncGetModel", "queryInstance", "state", "newInstance", "metrics"),
)


def page(path: str) -> bytes:
    return (
        "<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1>"
        f"<p>The requested URL {path} was not found on this server.</p></body></html>\n"
    ).encode()


def assert_small(reply: Reply) -> None:
    """The answer to NOTHING."""
    assert reply.status == "HTTP/1.1 200 OK"
    answer = read("ResponseFLJob", reply.body)
    assert (answer.retcode, answer.reason) == (300, "FL job data size is not enough.")


# -- answers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("startFLJob", NOTHING),
        ("startFLJob", check_in(None)),
        ("updateModel", b"\x05" * 64),
        ("getModel", get_model(0)),
        ("getModel", get_model(1)),
        ("getModel", b""),
    ],
    ids=["refusal", "plain text", "400", "model", "201", "JSON"],
)
def test_an_answer_has_three_headers_in_their_order(
    cluster: Cluster, name: str, body: bytes
) -> None:
    reply = cluster.post(name, body)

    assert reply.names == ["Date", "Content-Length", "Content-Type"]
    assert reply.header("Content-Length") == str(len(reply.body))
    assert reply.header("Content-Type") == DEVICE_TYPE
    date = parsedate_to_datetime(reply.header("Date") or "")
    assert abs(date.timestamp() - time.time()) < 5
    assert (reply.header("Date") or "").endswith(" GMT")


@pytest.mark.parametrize("server", [0, 1])
def test_head_and_body_leave_in_one_piece(cluster: Cluster, server: int) -> None:
    """What is sent in two pieces waits 40 ms for the peer's acknowledgement in between."""
    asked = request("/getModel", get_model(0), JAVA)
    with Line(cluster.ports[server]) as line:
        pieces = []
        for _ in range(50):
            line.send(asked)
            pieces.append(line.receive_once())

    lengths = set()
    for piece in pieces:
        head, _, body = piece.partition(b"\r\n\r\n")
        lengths.add(len(body))
        assert f"Content-Length: {len(body)}".encode() in head
    assert len(lengths) == 1


def test_a_request_in_two_pieces_is_answered_without_a_pause(cluster: Cluster) -> None:
    asked = request("/startFLJob", NOTHING)
    with Line(cluster.ports[0]) as line:
        began = time.monotonic()
        for _ in range(25):
            line.send(asked[: -len(NOTHING)])
            line.send(NOTHING)
            assert_small(line.receive())
        # A pause of 40 ms each would add up to a second.
        assert time.monotonic() - began < 0.9


def test_one_connection_carries_many_requests(cluster: Cluster) -> None:
    with Line(cluster.ports[0]) as line:
        for number in range(200):
            line.send(request("/getModel", get_model(number % 3), JAVA))
            assert line.receive().status == "HTTP/1.1 200 OK"


def test_requests_sent_together_are_answered_in_their_order(cluster: Cluster) -> None:
    cluster.join("c1", "c2")
    asked = [
        request("/startFLJob", NOTHING),
        request("/updateModel", report("c1")),
        request("/getModel", get_model(0)),
        request("/getModel", b""),
        request("/getModel", get_model(1)),
    ]
    with Line(cluster.ports[0]) as line:
        line.send(b"".join(asked))
        replies = [line.receive() for _ in asked]

    assert read("ResponseFLJob", replies[0].body).retcode == 300
    assert read("ResponseUpdateModel", replies[1].body).retcode == 200
    assert read("ResponseGetModel", replies[2].body).retcode == 200
    assert replies[3].body == EMPTY
    assert read("ResponseGetModel", replies[4].body).retcode == 201


@pytest.mark.parametrize("header", ["Connection: close", "connection: Close", "CONNECTION:close"])
def test_a_connection_that_is_to_be_closed_is_named_so_last(cluster: Cluster, header: str) -> None:
    with Line(cluster.ports[0]) as line:
        line.send(request("/getModel", get_model(0), header))
        reply = line.receive()
        assert line.is_over()

    assert reply.names == ["Date", "Content-Length", "Content-Type", "Connection"]
    assert reply.header("Connection") == "close"


def test_http_1_0_is_answered_without_a_length_and_the_connection_ends(cluster: Cluster) -> None:
    with Line(cluster.ports[0]) as line:
        line.send(request("/startFLJob", NOTHING, version="1.0"))
        reply = line.receive()

    assert reply.status == "HTTP/1.0 200 OK"
    assert reply.names == ["Content-Type"]
    assert read("ResponseFLJob", reply.body).retcode == 300


def test_http_1_0_may_keep_its_connection(cluster: Cluster) -> None:
    with Line(cluster.ports[0]) as line:
        for _ in range(2):
            line.send(request("/startFLJob", NOTHING, "Connection: keep-alive", version="1.0"))
            reply = line.receive()
            assert reply.header("Content-Length") == str(len(reply.body))


def test_an_answer_carries_no_message_id_whatever_the_request_carries(cluster: Cluster) -> None:
    """Workers of the original ignore an answer that has one."""
    said = ("Message-Type: startFLJob", "Message-Id: 17", "Message-Source: x", "Message-Offset: 3")

    reply = cluster.post("startFLJob", NOTHING, *said)

    assert_small(reply)
    assert reply.names == ["Date", "Content-Length", "Content-Type"]


# -- paths -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FOREIGN, "", "nosuch", "startFLJob/", "STARTFLJOB", "a/b"])
@pytest.mark.parametrize("body", [b"\x05" * 32, None], ids=["POST", "GET"])
def test_other_paths_get_the_page_and_the_connection_ends(
    cluster: Cluster, name: str, body: bytes | None
) -> None:
    with Line(cluster.ports[0]) as line:
        line.send(request(f"/{name}", body, method="POST" if body else "GET"))
        reply = line.receive()
        assert line.is_over()

    assert reply.status == "HTTP/1.1 404 Not Found"
    assert reply.names == ["Content-Type", "Connection", "Date", "Content-Length"]
    assert (reply.header("Content-Type"), reply.header("Connection")) == ("text/html", "close")
    assert reply.body == page(f"/{name}")


def test_the_page_carries_no_markup_from_the_request(cluster: Cluster) -> None:
    reply = ask(cluster.ports[0], request("/<script>&'\"", None, method="GET"))

    assert b"<script>" not in reply.body


@pytest.mark.parametrize(
    "path",
    ["/startFLJob?x=1", "/startFLJob?", "//startFLJob", "//startFLJob?x=1", "http://x/startFLJob"],
)
def test_ways_to_write_a_path(cluster: Cluster, path: str) -> None:
    """A device whose address ends in a slash puts another one before the name."""
    assert_small(ask(cluster.ports[0], request(path, NOTHING)))


@pytest.fixture(scope="module")
def prefixed(started: Callable[..., Cluster]) -> dict[str, Cluster]:
    """Servers by their `client.http_url_prefix`."""
    made = {}
    for prefix in ("/fl/", "/a/b", "nowhere/"):
        path = prefix if prefix.startswith("/") else f"/{prefix}"
        made[prefix] = started(1, f"client.http_url_prefix={prefix}", prefix=path)
    return made


@pytest.mark.parametrize(
    ("prefix", "path", "is_known"),
    [
        ("/fl/", "/fl/startFLJob", True),
        ("/fl/", "/fl//startFLJob", True),
        ("/fl/", "/startFLJob", False),
        ("/fl/", "/fl/startFLJob/", False),
        ("/fl/", "/flstartFLJob", False),
        ("/fl/", "/FL/startFLJob", False),
        ("/a/b", "/a/bstartFLJob", True),
        ("/a/b", "/a/b/startFLJob", True),
        ("/a/b", "/a/b//startFLJob", True),
        ("/a/b", "/a/startFLJob", False),
        ("/a/b", "/startFLJob", False),
        ("nowhere/", "/nowhere/startFLJob", False),
        ("nowhere/", "/startFLJob", False),
    ],
)
def test_a_prefix_is_found_as_it_is_written_and_as_devices_write_it(
    prefixed: dict[str, Cluster], prefix: str, path: str, is_known: bool
) -> None:
    reply = ask(prefixed[prefix].ports[0], request(path, NOTHING))

    if is_known:
        assert_small(reply)
    else:
        assert reply.status == "HTTP/1.1 404 Not Found"


def test_a_prefix_that_no_request_can_match_is_warned_of_at_the_start(
    prefixed: dict[str, Cluster],
) -> None:
    server = prefixed["nowhere/"]

    warnings = [line for line in server.log(server.ports[0]).splitlines() if "WARNING" in line]

    [warning] = [line for line in warnings if "client.http_url_prefix is 'nowhere/'" in line]
    assert "write '/nowhere/'" in warning
    fine = prefixed["/fl/"]
    assert "http_url_prefix" not in fine.log(fine.ports[0])


# -- methods -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
def test_the_method_is_not_looked_at(cluster: Cluster, method: str) -> None:
    assert_small(ask(cluster.ports[0], request("/startFLJob", NOTHING, method=method)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
@pytest.mark.parametrize("body", [b"", None], ids=["length 0", "no length"])
def test_a_request_without_a_body_is_told_so_and_the_connection_stays(
    cluster: Cluster, name: str, method: str, body: bytes | None
) -> None:
    with Line(cluster.ports[0]) as line:
        for _ in range(2):
            line.send(request(f"/{name}", body, method=method))
            reply = line.receive()
            assert reply.status == "HTTP/1.1 400 Client"
            assert reply.names == ["Date", "Content-Length", "Content-Type"]
            assert reply.header("Content-Type") == DEVICE_TYPE
            assert reply.body == EMPTY


def test_head_gets_the_body_and_the_connection_ends(cluster: Cluster) -> None:
    with Line(cluster.ports[0]) as line:
        line.send(request("/startFLJob", None, method="HEAD"))
        reply = line.receive()

    assert reply.status == "HTTP/1.1 400 Client"
    assert reply.body == EMPTY


@pytest.mark.parametrize("method", ["OPTIONS", "PATCH", "TRACE"])
def test_another_method_is_not_implemented(cluster: Cluster, method: str) -> None:
    with Line(cluster.ports[0]) as line:
        line.send(request("/startFLJob", NOTHING, method=method))
        reply = line.receive()
        assert line.is_over()

    assert reply.status == "HTTP/1.1 501 Not Implemented"
    assert reply.names == ["Content-Type", "Connection", "Date", "Content-Length"]
    assert reply.body == (
        b"<HTML><HEAD>\n<TITLE>501 Not Implemented</TITLE>\n</HEAD><BODY>\n"
        b"<H1>Not Implemented</H1>\n</BODY></HTML>\n"
    )


# -- heads and bodies --------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "Content-Type: application/x-www-form-urlencoded",
        "content-type: application/x-www-form-urlencoded; charset=utf-8",
        "Content-Type: applicatiom/json;charset=utf-8",
        "CONTENT-TYPE: multipart/form-data; boundary=x",
        "Content-Type:",
        "Content-Type: application/octet-stream",
        "Content-Encoding: gzip",
        "Accept: application/json",
        "Accept-Encoding: gzip",
        "X-Forwarded-For: 1.2.3.4",
        "Cookie: a=b",
        "Upgrade: h2c",
    ],
)
def test_what_a_request_says_of_itself_makes_no_difference(cluster: Cluster, header: str) -> None:
    reply = ask(cluster.ports[0], request("/startFLJob", NOTHING, header))

    assert_small(reply)
    assert reply.names == ["Date", "Content-Length", "Content-Type"]


@pytest.mark.parametrize("name", ["content-length", "CONTENT-LENGTH", "Content-length"])
def test_header_names_come_in_any_case(cluster: Cluster, name: str) -> None:
    head = f"POST /startFLJob HTTP/1.1\r\nhost: x\r\n{name}: {len(NOTHING)}\r\n\r\n".encode()

    assert_small(ask(cluster.ports[0], head + NOTHING))


def test_a_request_needs_no_host(cluster: Cluster) -> None:
    head = f"POST /startFLJob HTTP/1.1\r\nContent-Length: {len(NOTHING)}\r\n\r\n".encode()

    assert_small(ask(cluster.ports[0], head + NOTHING))


@pytest.mark.parametrize("cut", [4, 5, 6, 20, 24, 25, 26, 27, 46, 47, 48, 49, 50])
def test_a_request_without_a_host_may_come_in_pieces_and_after_another(
    cluster: Cluster, cut: int
) -> None:
    asked = f"POST /startFLJob HTTP/1.1\r\nContent-Length: {len(NOTHING)}\r\n\r\n".encode()
    asked += NOTHING
    with Line(cluster.ports[0]) as line:
        line.send(asked[:cut])
        assert line.is_silent(0.02)
        line.send(asked[cut:] + asked + asked[:cut])
        for _ in range(2):
            assert_small(line.receive())
        assert line.is_silent(0.02)
        line.send(asked[cut:])
        assert_small(line.receive())


@pytest.mark.parametrize("name", NAMES)
def test_a_chunked_body_is_a_body(cluster: Cluster, name: str) -> None:
    body = {"startFLJob": NOTHING, "updateModel": report("zz"), "getModel": get_model(0)}[name]
    chunks = b"".join(b"%x;note=1\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:]))
    with Line(cluster.ports[0]) as line:
        for _ in range(2):
            line.send(request(f"/{name}", None, "Transfer-Encoding: chunked") + chunks)
            line.send(b"0\r\n\r\n")
            assert len(line.receive().body) > 60


def test_an_empty_chunked_body_is_no_body(cluster: Cluster) -> None:
    asked = request("/getModel", None, "Transfer-Encoding: chunked") + b"0\r\n\r\n"

    assert ask(cluster.ports[0], asked).body == EMPTY


def test_a_peer_that_waits_for_leave_to_send_gets_it(cluster: Cluster) -> None:
    asked = request("/startFLJob", NOTHING, "Expect: 100-continue")
    with Line(cluster.ports[0]) as line:
        line.send(asked[: -len(NOTHING)])
        assert line.receive().status == "HTTP/1.1 100 Continue"
        assert line.is_silent(0.05)
        line.send(NOTHING)
        assert_small(line.receive())


def test_a_header_of_128_kib_is_no_hindrance(cluster: Cluster) -> None:
    assert_small(
        ask(cluster.ports[0], request("/startFLJob", NOTHING, "X-Long: " + "a" * 128 * 1024))
    )


@pytest.mark.parametrize(
    "asked",
    [
        b"nonsense\r\n\r\n",
        b"POST\r\n\r\n",
        request("/startFLJob", None, "Content-Length: -5"),
        request("/startFLJob", None, "Content-Length: abc"),
        request("/startFLJob", None, "Content-Length: 5", "Content-Length: 6") + b"12345",
        request("/startFLJob", None, "Transfer-Encoding: chunked") + b"zz\r\n",
    ],
    ids=["nonsense", "one word", "negative length", "no number", "two lengths", "no chunk"],
)
def test_what_is_not_http_is_told_so_and_the_connection_ends(
    cluster: Cluster, asked: bytes
) -> None:
    with Line(cluster.ports[0]) as line:
        line.send(asked)
        reply = line.receive()
        assert line.is_over()

    assert reply.status == "HTTP/1.1 400 Bad Request"
    assert reply.names == ["Content-Type", "Connection", "Date", "Content-Length"]
    assert reply.body == (
        b"<HTML><HEAD>\n<TITLE>400 Bad Request</TITLE>\n</HEAD><BODY>\n"
        b"<H1>Bad Request</H1>\n</BODY></HTML>\n"
    )


def test_bytes_behind_a_message_do_no_harm(cluster: Cluster) -> None:
    cluster.join("c1", "c2")

    answer = cluster.say("updateModel", report("c1") + bytes(512 * 1024))

    assert (answer.retcode, answer.reason) == (200, "success not ready")


def test_a_body_over_the_limit_is_refused_and_its_sender_hears_it(cluster: Cluster) -> None:
    size = 8 * 1024 * 1024
    with Line(cluster.ports[0]) as line:
        line.send(request("/updateModel", None, f"Content-Length: {size}"))
        for _ in range(size // 65_536):
            line.send(bytes(65_536))
        reply = line.receive()

    assert reply.status == "HTTP/1.1 413 Client"
    assert reply.header("Connection") == "close"
    assert re.fullmatch(
        rb'{"code":"1","error_message":"Get post message failed: the body is longer than \d+'
        rb' bytes"}',
        reply.body,
    )


def test_a_body_without_end_is_refused_when_the_limit_is_reached(cluster: Cluster) -> None:
    with Line(cluster.ports[0]) as line:
        line.send(request("/updateModel", None, "Transfer-Encoding: chunked"))
        for _ in range(40):
            line.send(b"10000\r\n" + bytes(65_536) + b"\r\n")
        line.send(b"0\r\n\r\n")
        assert line.receive().status == "HTTP/1.1 413 Client"


def test_a_body_that_nobody_reads_does_not_become_the_next_request(cluster: Cluster) -> None:
    """A large upload to a job that is disabled is answered, and its connection goes on."""
    cluster.grant("/disableFLS")
    over = b"The server's training job is disabled or finished."
    try:
        with Line(cluster.ports[0]) as line:
            deadline = time.monotonic() + 10
            while True:
                line.send(request("/updateModel", b"GET / HTTP/1.1\r\n\r\n" * 20_000))
                if line.receive().body == over:
                    break
                assert time.monotonic() < deadline
            line.send(request("/updateModel", report("c1")))
            assert line.receive().body == over
    finally:
        cluster.grant("/enableFLS")


def test_the_oldest_idle_connection_gives_way_to_one_too_many(
    started: Callable[..., Cluster],
) -> None:
    narrow = started(1, "client.connection_num=1")
    with Line(narrow.ports[0]) as oldest:
        oldest.send(request("/startFLJob", NOTHING))
        assert_small(oldest.receive())

        with Line(narrow.ports[0]) as newest:
            newest.send(request("/startFLJob", NOTHING))
            assert_small(newest.receive())

        assert oldest.is_over()
