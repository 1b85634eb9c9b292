"""A `Host` is added where it lacks and nothing else changes, however the bytes are cut."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from fl_cluster.api.host_filler import HOST_LINE, HostFiller

MOST_BYTES = 4096


def filled(*pieces: bytes) -> bytes:
    filler = HostFiller(MOST_BYTES)
    return b"".join(map(filler.fill, pieces))


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The bytes in pieces, which are often one byte long."""
    if draw(st.booleans()):
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]


TRAPS = (b"", b"x", b"\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"0\r\n\r\n", b"\r", b"\n\r\n")
bodies = st.lists(st.sampled_from(TRAPS) | st.binary(max_size=9), max_size=4).map(b"".join)
headers = st.lists(
    st.sampled_from(
        [b"X-Host: a", b"Accept: */*", b"X:", b"X-Long: " + b"a" * 300, b"Y: host: content-length"]
    ),
    max_size=3,
)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """The body in chunks of at least one byte."""
    sent = b""
    while body:
        size = draw(st.integers(1, len(body)))
        note = draw(st.sampled_from([b"", b";a=b", b' ; q="x"']))
        sent += b"%x%s\r\n%s\r\n" % (size, note, body[:size])
        body = body[size:]
    return sent + b"0\r\n" + draw(st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC:\r\n"])) + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A request, and what has to reach the parser."""
    lines, body = draw(headers), draw(bodies)
    form = draw(st.sampled_from(["length", "chunks", "no body"]))
    name = draw(st.sampled_from([b"%s", b"%s ", b"%s\t"]))
    if form == "length":
        lines.append(b"content-LENGTH: " + name % b"%d" % len(body))
    elif form == "chunks":
        lines.append(b"Transfer-Encoding:\t" + name % b"Chunked")
        body = draw(chunked(body))
    else:
        body = b""
    has_host = draw(st.booleans())
    if has_host:
        lines.append(draw(st.sampled_from([b"Host: x", b"hOST:", b"HOST:y:80"])))
    lines = draw(st.permutations(lines))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 3 + [b"HTTP/1.0"]))
    before = draw(st.sampled_from([b"", b"", b"\r\n", b"\r\n\r\n", b"\n", b"\r"]))
    head = b"".join(line + b"\r\n" for line in (b"POST /a " + version, *lines))
    lacks = not has_host and version == b"HTTP/1.1"
    return (
        before + head + b"\r\n" + body,
        before + head + HOST_LINE * lacks + b"\r\n" + body,
    )


@given(st.lists(requests(), min_size=1, max_size=4), st.data())
def test_each_head_that_names_no_host_gains_one_and_nothing_else_changes(
    asked: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    sent = b"".join(one for one, _ in asked)

    assert filled(*data.draw(cuts(sent))) == b"".join(other for _, other in asked)


PARTS = (
    *(b"GET / HTTP/1.1\r\n", b"\r\n", b"\r", b"\n", b" ", b"\t", b"0", b"5", b"a", b"CONNECT "),
    *(b"Host: x\r\n", b"Content-Length: 3\r\n", b"Content-Length: x\r\n", b"Upgrade: h2c\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"3\r\nabc\r\n", b"\0"),
)


@given(st.lists(st.sampled_from(PARTS), max_size=24).map(b"".join), st.data())
def test_where_bytes_are_cut_makes_no_difference(sent: bytes, data: st.DataObject) -> None:
    assert filled(*data.draw(cuts(sent))) == filled(sent)


@given(st.lists(st.sampled_from(PARTS), max_size=24).map(b"".join))
def test_no_more_is_held_up_than_a_byte_of_the_end(sent: bytes) -> None:
    found = filled(sent).replace(HOST_LINE, b"")

    assert sent.startswith(found)
    assert sent[len(found) :] in (b"", b"\r")


Parsed = list[tuple[str, str, list[tuple[str, str]], bytes, bool]]


def parsed(sent: bytes) -> Parsed:
    """What the parser makes of the bytes until it refuses some: heads, bodies, which are whole."""
    loop = asyncio.new_event_loop()
    protocol = BaseProtocol(loop)
    parser = HttpRequestParser(protocol, loop, 2**16, auto_decompress=False)
    protocol._parser = parser
    found = []
    try:
        for at in range(len(sent)):
            messages, is_upgraded, _ = parser.feed_data(sent[at : at + 1])
            found += messages
            if is_upgraded:
                break
    except HttpProcessingError:
        pass  # as intended: what comes before was taken
    finally:
        loop.close()
    return [
        (
            message.method,
            message.path,
            [pair for pair in message.headers.items() if pair != ("Host", "none")],
            b"".join(getattr(body, "_buffer", ())),
            body.is_eof(),
        )
        for message, body in found
    ]


@given(st.lists(st.sampled_from(PARTS), max_size=24).map(b"".join))
def test_what_the_parser_would_take_without_us_it_takes_unchanged(sent: bytes) -> None:
    expected = parsed(sent)

    assert parsed(filled(sent))[: len(expected)] == expected


DOUBTFUL = (
    b"Content-Length: 3\r\nContent-Length: 3\r\n",
    b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
    b"Content-Length: -3\r\n",
    b"Content-Length: 3, 3\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: 1\r\n 0\r\n",
    b"Content-Length: 9999999999999999999\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Upgrade: websocket\r\n",
    b"X: a\nContent-Length: 3\r\n",
    b"X: a\rContent-Length: 3\r\n",
)


@pytest.mark.parametrize("lines", DOUBTFUL)
def test_behind_a_head_that_leaves_a_doubt_nothing_is_added(lines: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n"
    sent = head + b"GET / HTTP/1.1\r\n\r\n" * 2

    assert filled(sent) == filled(*(sent[at : at + 1] for at in range(len(sent)))) == sent


@pytest.mark.parametrize(
    "line", [b"zz\r\n", b"\r\n", b"-1\r\n", b"3\n", b"f" * 16 + b"\r\n", b"3;" + b"a" * 5000]
)
def test_behind_a_line_that_is_no_chunks_nothing_is_added(line: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = head + line + b"GET / HTTP/1.1\r\n\r\n" * 2

    assert filled(sent) == sent


def test_a_head_without_end_is_let_go() -> None:
    filler = HostFiller(MOST_BYTES)
    sent = [b"GET / HTTP/1.1\r\n", *(b"X: " + b"a" * 60 + b"\r\n" for _ in range(100)), b"\r\n"]

    assert b"".join(map(filler.fill, sent)) == b"".join(sent)
    assert len(filler._begun) == 0


def test_many_small_requests_at_once_cost_no_more_than_their_bytes() -> None:
    sent = b"GET / HTTP/1.1\r\n\r\n" * 14_000

    assert filled(sent) == (b"GET / HTTP/1.1\r\n" + HOST_LINE + b"\r\n") * 14_000
