"""Frames come back as they went however the bytes are cut, and any bytes are judged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import frames
from fl_cluster.wire.frames import Answer, Beat, Bye, Command, Frame, FrameReader, Hello, Ping

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
SERIALS = st.integers(0, frames.MAX_SERIAL)
NUMBERS = st.integers(-frames.MAX_SERIAL, frames.MAX_SERIAL) | st.floats(
    allow_nan=False, allow_infinity=False
)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Hello, NAMES, NAMES),
    st.builds(Beat, st.dictionaries(NAMES, NUMBERS, max_size=8)),
    st.builds(Ping),
    st.builds(Command, SERIALS, NAMES),
    st.builds(Answer, SERIALS, TEXTS),
    st.builds(Bye, TEXTS),
)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The bytes in pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def outcome(chunks: list[bytes]) -> tuple[list[Frame], str]:
    """The frames in the chunks, and the complaint that ends them."""
    reader, found = FrameReader(), []
    for chunk in chunks:
        reader.feed(chunk)
        try:
            while (frame := reader.next_frame()) is not None:
                found.append(frame)
        except PeerProtocolError as exc:
            return found, str(exc)
        assert reader.held_bytes <= frames.MAX_PAYLOAD_BYTES + 7
    return found, ""


@given(sent=st.lists(FRAMES, max_size=4), data=st.data())
def test_frames_come_back_as_they_went_wherever_the_bytes_are_cut(
    sent: list[Frame], data: st.DataObject
) -> None:
    stream = b"".join(map(frames.encode, sent))

    assert outcome(data.draw(cut(stream))) == (sent, "")


@given(stream=st.binary(max_size=200), start=st.lists(FRAMES, max_size=2), data=st.data())
def test_what_any_bytes_mean_does_not_depend_on_where_they_are_cut(
    stream: bytes, start: list[Frame], data: st.DataObject
) -> None:
    stream = b"".join(map(frames.encode, start)) + stream

    found, complaint = outcome(data.draw(cut(stream)))

    whole, whole_complaint = outcome([stream])
    assert found == whole
    assert bool(complaint) == bool(whole_complaint)


@given(frame=FRAMES, at=st.integers(7, 10_000), byte=st.binary(min_size=1, max_size=1))
def test_a_damaged_payload_is_another_frame_or_refused(frame: Frame, at: int, byte: bytes) -> None:
    data = bytearray(frames.encode(frame))
    data[7 + (at - 7) % (len(data) - 7)] = byte[0]

    found, complaint = outcome([bytes(data)])

    assert bool(found) != bool(complaint)
    assert [frames.encode(each)[:3] for each in found] in ([], [b"FL\x01"])


@given(text=st.text(max_size=3000))
def test_a_clipped_text_is_the_longest_beginning_that_fits(text: str) -> None:
    text = text.encode("utf-8", "replace").decode() * 3

    clipped = frames.clip(text)

    assert text.startswith(clipped)
    longer = text[: len(clipped) + 1]
    assert clipped == text or len(longer.encode()) > frames.MAX_TEXT_BYTES
