"""Any message comes back as it went; any bytes are a message or refused, by all alike.

Messages are drawn from the schema itself, so a new table or kind is covered when it appears.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import flat, flat_reference, packed
from fl_cluster.wire.messages import SCHEMA
from fl_cluster.wire.schema import Field, Kind

REFERENCE = flat.make_decoder(flat_reference.Decoder)
GOLDEN = sorted((Path(__file__).resolve().parents[1] / "data" / "golden").glob("*.bin"))
FLAT_CLASSES = [cls for cls, fields in SCHEMA.items() if any(f.slot is not None for f in fields)]

# How long an example takes says nothing here, and sanitizers make all of them slow.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

INTS = st.integers(-(2**31), 2**31 - 1)
ENUMS = st.integers(-128, 127)
TEXTS = st.binary(max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
KINDS: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.BOOL: st.booleans(),
    Kind.ENUM: ENUMS,
    Kind.INT: INTS,
    # Zero has one sign: FlatBuffers leaves out what equals the default.
    Kind.FLOAT: st.floats(width=32).map(lambda number: number or 0.0),
    Kind.STRING: TEXTS,
    Kind.FLOATS: arrays.arrays(np.float32, st.integers(0, 9)),
    Kind.INTS: st.lists(INTS, max_size=5).map(tuple),
    Kind.BYTES: st.binary(max_size=40),
    Kind.INT8S: arrays.arrays(np.int8, st.integers(0, 9)),
    Kind.ENUMS: st.lists(ENUMS, max_size=5).map(tuple),
    Kind.STRINGS: st.lists(TEXTS, max_size=4).map(tuple),
}


def values_of(field: Field, native: bool) -> st.SearchStrategy[Any]:
    if field.slot is None and not native:
        return st.just(field.default)
    if field.table is None:
        value = KINDS[field.kind]
    else:
        value = messages_of(field.table, native)
        if field.kind is Kind.TABLES:
            value = st.lists(value, max_size=3).map(tuple)
    return value if field.default is not None else st.none() | value


def messages_of(cls: type[Any], native: bool) -> st.SearchStrategy[Any]:
    return st.builds(cls, *[values_of(field, native) for field in SCHEMA[cls]])


FLAT = st.sampled_from(FLAT_CLASSES).flatmap(lambda cls: messages_of(cls, native=False))
NATIVE = st.sampled_from(list(SCHEMA)).flatmap(lambda cls: messages_of(cls, native=True))


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return bool(left.dtype == right.dtype) and left.tobytes() == right.tobytes()
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right) or (isinstance(left, float) and math.isnan(left))


def outcome(decode: Any, cls: type[Any], body: bytes) -> Any:
    """The message, or the sentence of the refusal; nothing else may come out."""
    try:
        return decode(cls, body)
    except PeerProtocolError as fault:
        return str(fault)


@st.composite
def damaged(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    """A body with a few bytes changed, cut out or put in."""
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        length = draw(st.sampled_from([0, 1, 2, 4]))
        piece = draw(
            st.sampled_from([b"", b"\0" * 4, b"\xff" * 4, b"\4\0\0\0", b"\0\0\0\x80", b"\x7f"])
            | st.binary(max_size=4)
        )
        body[at : at + length] = piece
    return bytes(body)


@RELAXED
@given(FLAT)
def test_a_message_comes_back_from_flatbuffers_as_it_went(message: Any) -> None:
    body = flat.encode(message)

    assert same(message, flat.decode(type(message), body))
    assert same(message, REFERENCE.decode(type(message), body))


@RELAXED
@given(NATIVE)
def test_a_message_comes_back_from_msgpack_as_it_went(message: Any) -> None:
    assert same(message, packed.decode(type(message), packed.encode(message)))


@RELAXED
@given(NATIVE)
def test_the_msgpack_library_finds_every_value_under_its_name(message: Any) -> None:
    body = msgpack.unpackb(packed.encode(message), unicode_errors="surrogateescape")

    expected = {
        field.name
        for field, value in zip(SCHEMA[type(message)], message, strict=True)
        if value is not None
    }
    assert expected == set(body)


@RELAXED
@given(FLAT.flatmap(lambda m: st.tuples(st.just(type(m)), damaged(st.just(flat.encode(m))))))
def test_damaged_flatbuffers_are_judged_alike_by_both_decoders(case: Any) -> None:
    cls, body = case

    assert same(outcome(REFERENCE.decode, cls, body), outcome(flat.decode, cls, body))


@RELAXED
@given(
    st.sampled_from(FLAT_CLASSES),
    damaged(st.sampled_from(GOLDEN).map(lambda path: path.read_bytes())),
)
def test_captured_bytes_read_as_any_message_are_judged_alike(cls: type[Any], body: bytes) -> None:
    assert same(outcome(REFERENCE.decode, cls, body), outcome(flat.decode, cls, body))


@RELAXED
@given(st.sampled_from(FLAT_CLASSES), st.binary(max_size=200))
def test_random_bytes_are_judged_alike_by_both_decoders(cls: type[Any], body: bytes) -> None:
    assert same(outcome(REFERENCE.decode, cls, body), outcome(flat.decode, cls, body))


@RELAXED
@given(NATIVE.flatmap(lambda m: st.tuples(st.just(type(m)), damaged(st.just(packed.encode(m))))))
def test_damaged_msgpack_is_a_message_or_refused(case: Any) -> None:
    cls, body = case

    result = outcome(packed.decode, cls, body)

    assert isinstance(result, cls | str)
    if isinstance(result, cls):
        assert same(result, packed.decode(cls, packed.encode(result)))


@RELAXED
@given(st.sampled_from(list(SCHEMA)), st.binary(max_size=200))
def test_random_bytes_are_a_message_or_refused(cls: type[Any], body: bytes) -> None:
    assert isinstance(outcome(packed.decode, cls, body), cls | str)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@RELAXED
@given(st.sampled_from(list(SCHEMA)), st.data())
def test_any_msgpack_under_known_names_is_a_message_or_refused_by_name(
    cls: type[Any], data: st.DataObject
) -> None:
    names = [field.name for field in SCHEMA[cls]]
    value = data.draw(st.dictionaries(st.sampled_from([*names, "later"]), JSON, max_size=4))
    body = msgpack.packb(value)
    assert body is not None

    result = outcome(packed.decode, cls, body)

    assert isinstance(result, cls) or any(f".{name}" in result for name in names)
