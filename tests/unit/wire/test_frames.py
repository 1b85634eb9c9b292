"""The control link's frames: what each looks like, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest

from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.wire import frames
from fl_cluster.wire.frames import (
    Answer,
    Beat,
    Bye,
    Command,
    Frame,
    FrameReader,
    Hello,
    Ping,
    clip,
    encode,
)

ID = "127.0.0.1:35001::2026-11-25-10:00:00.000.000::54321"
EACH: list[Frame] = [
    Hello("127.0.0.1:11202::scheduler", ID),
    Beat({"cpu_percent": 12.5, "resident_bytes": 2**40}),
    Beat({}),
    Ping(),
    Command(1, "drain"),
    Answer(frames.MAX_SERIAL),
    Answer(0, "unknown command 'dance'; this server knows drain, stop"),
    Bye(""),
]


def framed(payload: bytes, *, magic: bytes = b"FL", version: int = 1) -> bytes:
    return struct.pack(">2sBI", magic, version, len(payload)) + payload


def packed(**content: Any) -> bytes:
    return framed(msgpack.packb(content))


def read_all(data: bytes) -> list[Frame]:
    reader = FrameReader()
    reader.feed(data)
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append(frame)
    return found


@pytest.mark.parametrize("frame", EACH, ids=frames.kind_of)
def test_every_frame_comes_back_as_it_went(frame: Frame) -> None:
    assert read_all(encode(frame)) == [frame]


def test_the_bytes_of_a_frame_are_magic_version_length_and_one_map() -> None:
    assert encode(Command(7, "stop")) == (
        b"FL\x01\x00\x00\x00\x20\x83\xa4kind\xa7command\xa6serial\x07\xa4name\xa4stop"
    )


def test_frames_are_found_one_after_the_other_and_a_byte_at_a_time() -> None:
    stream = b"".join(map(encode, EACH))
    reader, found = FrameReader(), []

    for byte in stream:
        reader.feed(bytes([byte]))
        while (frame := reader.next_frame()) is not None:
            found.append(frame)

    assert found == EACH
    assert read_all(stream) == EACH
    assert reader.held_bytes == 0


def test_the_type_of_a_figure_is_kept() -> None:
    [beat] = read_all(encode(Beat({"whole": 3, "part": 3.0})))

    assert isinstance(beat, Beat)
    assert [type(value) for value in beat.figures.values()] == [int, float]


def test_keys_of_a_later_release_are_passed_over() -> None:
    assert read_all(packed(kind="ping", colour="red", sizes=[1, [2], {"a": None}])) == [Ping()]


def test_the_largest_frames_that_the_limits_of_their_fields_allow_fit() -> None:
    name, text = "n" * frames.MAX_NAME_BYTES, "t" * frames.MAX_TEXT_BYTES
    numbers = range(frames.MAX_FIGURES)
    figures = {f"{n:02}" + name[2:]: (frames.MAX_SERIAL, 0.1)[n % 2] for n in numbers}
    largest: list[Frame] = [Hello(name, name), Beat(figures), Answer(1, text), Bye(text)]

    for frame in largest:
        data = encode(frame)
        assert len(data) <= frames.MAX_PAYLOAD_BYTES
        assert read_all(data) == [frame]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"GET / HTTP/1.1\r\n", "starts b'FL'; found b'GE'"),
        (b"G", "found b'G'"),
        (b"FX", "found b'FX'"),
        (b"FL\x02", "speaks version 2 of the control link, this one speaks version 1"),
        (b"FL\x01\x00\x01\x00\x01", "a frame of 65537 bytes is announced, at most 65536"),
        (framed(b""), "not one msgpack map"),
        (framed(b"\xc1"), "not one msgpack map"),
        (framed(b"\x80\x80"), "not one msgpack map"),
        (framed(b"\x81\xa4kind"), "not one msgpack map"),
        (framed(b"\x81\x01\x02"), "not one msgpack map"),
        (framed(b"\x81\xa4kind\xa1\xff"), "not one msgpack map"),
        (framed(b"\x91" * 2000), "not one msgpack map"),
        (framed(b"\xdf\xff\xff\xff\xff"), "not one msgpack map"),
        (framed(b"\xa4ping"), "the payload is str, expected a map"),
        (framed(b"\x80"), "a frame of kind None"),
        (packed(kind=1), "a frame of kind 1"),
        (packed(kind="dance"), "a frame of kind 'dance'"),
        (packed(kind="hello", sender="a"), "hello: receiver is missing"),
        (packed(kind="hello", sender="", receiver="b"), "hello: sender is empty"),
        (packed(kind="hello", sender=b"a", receiver="b"), "sender is bytes, expected text"),
        (packed(kind="hello", sender="a" * 513, receiver="b"), "sender is 513 bytes long"),
        (packed(kind="beat", figures=[]), "figures is list, expected a map"),
        (packed(kind="beat", figures={"a": float("nan")}), "expected a finite number"),
        (packed(kind="beat", figures={"a": float("inf")}), "expected a finite number"),
        (packed(kind="beat", figures={"a": True}), "holds True"),
        (packed(kind="beat", figures={"a": "1"}), "holds '1'"),
        (packed(kind="beat", figures={"a": 2**64 - 1}), "expected a finite number"),
        (packed(kind="beat", figures={str(n): 0 for n in range(65)}), "not one msgpack map"),
        (packed(kind="command", serial=-1, name="stop"), "serial is -1, expected an integer"),
        (packed(kind="command", serial=1.0, name="stop"), "serial is 1.0"),
        (packed(kind="command", serial=True, name="stop"), "serial is True"),
        (packed(kind="command", serial=1, name=None), "name is NoneType, expected text"),
        (packed(kind="answer", serial=1, error="e" * 4097), "error is 4097 bytes long"),
        (packed(kind="bye"), "bye: reason is missing"),
    ],
)
def test_what_is_no_frame_is_refused_with_the_reason(data: bytes, complaint: str) -> None:
    with pytest.raises(PeerProtocolError) as refusal:
        read_all(data)

    assert complaint in str(refusal.value)


def test_a_length_that_is_not_allowed_is_refused_before_the_bytes_come() -> None:
    reader = FrameReader()
    reader.feed(b"FL\x01\xff\xff\xff\xff")

    with pytest.raises(PeerProtocolError, match="4294967295 bytes"):
        reader.next_frame()


def test_after_a_violation_nothing_is_read_or_kept_any_more() -> None:
    reader = FrameReader()
    reader.feed(encode(Ping()) + b"nonsense" + encode(Ping()))

    assert reader.next_frame() == Ping()
    for _ in range(2):
        with pytest.raises(PeerProtocolError, match="found b'no'"):
            reader.next_frame()
    reader.feed(encode(Ping()))

    assert reader.held_bytes == 0
    with pytest.raises(PeerProtocolError):
        reader.next_frame()


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (Hello("", "b"), "hello: sender is empty"),
        (Hello("\udc80", "b"), "hello: sender holds what UTF-8 cannot say"),
        (Command(-1, "stop"), "command: serial is -1"),
        (Beat({"a": float("nan")}), "beat: figures holds nan"),
        (Beat({str(n): n for n in range(65)}), "figures has 65 entries, at most 64"),
        (Answer(1, "e" * 4097), "error is 4097 bytes long, at most 4096"),
        (Bye(None), "reason is NoneType, expected text"),  # type: ignore[arg-type]
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_other_end_would_refuse_is_not_sent(frame: Frame, complaint: str) -> None:
    with pytest.raises(CallerProtocolError) as refusal:
        encode(frame)

    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "short", "\udc80", "e" * 5000, "é" * 3000, "a" + "é" * 3000, "\U0001f600" * 2000]
)
def test_a_clipped_text_always_fits(text: str) -> None:
    clipped = clip(text)

    assert read_all(encode(Bye(clipped))) == [Bye(clipped)]
    assert text.startswith(clipped) or "\udc80" in text
