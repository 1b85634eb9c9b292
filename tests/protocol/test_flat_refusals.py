"""Each way in which bytes are not a FlatBuffer, with the sentence that says so.

Both decoders are asked: `any_decode` is the one in use, then the reference.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import pytest
from flatbuffers import Builder

from fl_cluster import errors
from fl_cluster.wire import flat, flat_reference, messages
from fl_cluster.wire.schema import Field, Kind

ROOT, VTABLE, TABLE, ID, SIGNATURE, TEXT, VECTOR = 0, 4, 12, 16, 20, 24, 32

# ClientListSign(fl_id="abc", signature=b"\1\2"), with every part at a known place.
BODY = struct.pack(
    "<I 4H i2I I3sB I4B",
    *(TABLE,),
    *(8, 12, ID - TABLE, SIGNATURE - TABLE),
    *(TABLE - VTABLE, TEXT - ID, VECTOR - SIGNATURE),
    *(3, b"abc", 0),
    *(2, 1, 2, 0, 0),
)

WORD, HALF = "<I", "<H"

# What is changed (place, format, value), and what is said about it.
FLAWS = {
    "root leads to itself": ((ROOT, WORD, 0), "an offset leads to itself, at byte 0 of 40"),
    "root is negative": ((ROOT, WORD, 2**31), "an offset is negative, at byte 0 of 40"),
    "root is outside": ((ROOT, WORD, 400), "reaches outside the body, at byte 400 of 40"),
    "root is at the end": ((ROOT, WORD, 40), "reaches outside the body, at byte 40 of 40"),
    "table is cut": ((ROOT, WORD, 37), "not at a multiple of 4 bytes, at byte 37 of 40"),
    "table is misaligned": ((ROOT, WORD, 14), "not at a multiple of 4 bytes, at byte 14 of 40"),
    "vtable before": ((TABLE, WORD, 100), "reaches outside the body, at byte 12 of 40"),
    "vtable behind": ((TABLE, "<i", -400), "reaches outside the body, at byte 412 of 40"),
    "vtable misaligned": ((TABLE, WORD, 7), "not at a multiple of 2 bytes, at byte 5 of 40"),
    "vtable is odd": ((VTABLE, HALF, 7), "a vtable has an odd size, at byte 4 of 40"),
    "vtable is long": ((VTABLE, HALF, 38), "reaches outside the body, at byte 4 of 40"),
}
FIELD_FLAWS = {
    "field is misaligned": (
        (VTABLE + 4, HALF, 6),
        "fl_id: not at a multiple of 4 bytes, at byte 18 of 40",
    ),
    "field is outside": (
        (VTABLE + 6, HALF, 4000),
        "signature: reaches outside the body, at byte 4012 of 40",
    ),
    "text leads to itself": ((ID, WORD, 0), "fl_id: an offset leads to itself, at byte 16 of 40"),
    "text is negative": ((ID, WORD, 2**32 - 4), "fl_id: an offset is negative, at byte 16 of 40"),
    "text is misaligned": (
        (ID, WORD, 9),
        "fl_id: not at a multiple of 4 bytes, at byte 25 of 40",
    ),
    "text is outside": ((ID, WORD, 24), "fl_id: reaches outside the body, at byte 40 of 40"),
    "text has no end": (
        (TEXT, WORD, 4),
        "fl_id: a string does not end in a zero byte, at byte 32 of 40",
    ),
    "text ends outside": ((TEXT, WORD, 12), "fl_id: reaches outside the body, at byte 40 of 40"),
    "text is cut": ((TEXT, WORD, 13), "fl_id: reaches outside the body, at byte 24 of 40"),
    "text is endless": ((TEXT, WORD, 2**31 - 1), "fl_id: a vector is too long, at byte 24 of 40"),
    "vector is cut": ((VECTOR, WORD, 5), "signature: reaches outside the body, at byte 32 of 40"),
    "vector is endless": (
        (VECTOR, WORD, 2**32 - 1),
        "signature: a vector is too long, at byte 32 of 40",
    ),
}


def changed(place: int, form: str, value: int) -> bytes:
    body = bytearray(BODY)
    struct.pack_into(form, body, place, value)
    return bytes(body)


def test_the_body_is_right_before_it_is_changed(any_decode: Any) -> None:
    expected = messages.ClientListSign("abc", b"\x01\x02")

    assert expected == any_decode(messages.ClientListSign, BODY)


@pytest.mark.parametrize("flaw", FLAWS.values(), ids=FLAWS)
def test_a_flaw_of_the_table_is_refused(any_decode: Any, flaw: Any) -> None:
    change, sentence = flaw

    with pytest.raises(errors.PeerProtocolError) as refusal:
        any_decode(messages.ClientListSign, changed(*change))

    assert str(refusal.value) == f"ClientListSign: {sentence}"


@pytest.mark.parametrize("flaw", FIELD_FLAWS.values(), ids=FIELD_FLAWS)
def test_a_flaw_of_a_field_is_refused_with_the_name_of_the_field(
    any_decode: Any, flaw: Any
) -> None:
    change, sentence = flaw

    with pytest.raises(errors.PeerProtocolError) as refusal:
        any_decode(messages.ClientListSign, changed(*change))

    assert str(refusal.value) == f"ClientListSign.{sentence}"


@pytest.mark.parametrize("size", range(12))
def test_a_body_that_cannot_hold_a_table_is_refused(any_decode: Any, size: int) -> None:
    with pytest.raises(errors.PeerProtocolError) as refusal:
        any_decode(messages.ClientListSign, BODY[:size])

    expected = f"ClientListSign: too small to hold a table, at byte 0 of {size}"
    assert expected == str(refusal.value)


def test_a_flaw_deep_inside_names_the_innermost_field(any_decode: Any) -> None:
    inner = messages.FLPlan(
        cipher=messages.CipherPublicParams(pw_params=messages.PWParams(p=b"\xee" * 4))
    )
    body = bytearray(flat.encode(messages.ResponseFLJob(fl_plan_config=inner)))
    at = body.index(b"\xee" * 4) - 4
    struct.pack_into(WORD, body, at, 10**6)

    with pytest.raises(errors.PeerProtocolError, match=r"^PWParams\.p: reaches outside"):
        any_decode(messages.ResponseFLJob, bytes(body))


def test_fields_that_the_schema_does_not_know_are_ignored(any_decode: Any) -> None:
    # A later version appends a field: a longer vtable and a longer table.
    later = struct.pack("<I 5H2x i3I I3sB", 16, 10, 16, 4, 0, 8, 12, 12, 77, 4, 3, b"abc", 0)

    assert any_decode(messages.ClientListSign, later) == messages.ClientListSign("abc")


def test_a_vtable_without_room_for_its_own_sizes_has_no_fields(any_decode: Any) -> None:
    assert any_decode(messages.ClientListSign, changed(VTABLE, HALF, 0)) == (None, None)


class TestSaidTwice:
    """Offsets that share a target: a small body must not become a large message."""

    @staticmethod
    def shares(text: str, times: int) -> bytes:
        """An answer with `times` references to one ClientShare that has `text` as id."""
        builder = Builder(1024)
        fl_id = builder.CreateString(text)
        builder.StartObject(3)
        builder.PrependUOffsetTRelativeSlot(0, fl_id, 0)
        share = builder.EndObject()
        builder.StartVector(4, times, 4)
        for _ in range(times):
            builder.PrependUOffsetTRelative(share)
        shares = builder.EndVector()
        builder.StartObject(4)
        builder.PrependUOffsetTRelativeSlot(2, shares, 0)
        builder.Finish(builder.EndObject())
        return bytes(builder.Output())

    def test_one_reference_is_fine(self, any_decode: Any) -> None:
        answer = any_decode(messages.ReturnShareSecrets, self.shares("device", 1))

        assert answer.encrypted_shares == (messages.ClientShare("device"),)

    def test_a_thousand_references_to_a_long_text_are_refused(self, any_decode: Any) -> None:
        body = self.shares("x" * 1000, 1000)

        with pytest.raises(errors.PeerProtocolError) as refusal:
            any_decode(messages.ReturnShareSecrets, body)

        assert "ClientShare.fl_id: the body refers to the same parts again" in str(refusal.value)

    def test_a_thousand_references_to_a_small_table_are_refused(self, any_decode: Any) -> None:
        with pytest.raises(errors.PeerProtocolError, match="the same parts again and again"):
            any_decode(messages.ReturnShareSecrets, self.shares("", 1000))


class Chain(NamedTuple):
    """A table that can hold itself, as none of the protocol's can."""

    next: tuple[object, ...] | None = None


def chain_of(length: int) -> bytes:
    """`length` tables, each in the one before."""
    builder = Builder(64)
    table = None
    for _ in range(length):
        builder.StartObject(1)
        if table is not None:
            builder.PrependUOffsetTRelativeSlot(0, table, 0)
        table = builder.EndObject()
    builder.Finish(table)
    return bytes(builder.Output())


@pytest.fixture(params=["extension", "reference"])
def make(request: pytest.FixtureRequest) -> Any:
    """The two classes Decoder."""
    if request.param == "reference":
        return flat_reference.Decoder
    return pytest.importorskip("fl_cluster._wire").Decoder


def decoder_of_chains(make: Any, **limits: int) -> Any:
    given = {"least_bytes": 12, "most_bytes": 2**31 - 1, "most_depth": 64, "most_tables": 1000}
    schema = ((Chain, (Field("next", Kind.TABLE, 0, None, Chain),)),)
    return make(schema, **given | limits)


def test_tables_may_nest_as_deep_as_the_limit(make: Any) -> None:
    message = decoder_of_chains(make).decode(Chain, chain_of(64))

    depth = 0
    while message is not None:
        message, depth = message.next, depth + 1
    assert depth == 64


def test_tables_that_nest_deeper_are_refused(make: Any) -> None:
    with pytest.raises(errors.PeerProtocolError, match=r"Chain\.next: tables nest too deep"):
        decoder_of_chains(make).decode(Chain, chain_of(65))


def test_more_tables_than_the_limit_are_refused(make: Any) -> None:
    decoder = decoder_of_chains(make, most_tables=3)

    assert decoder.decode(Chain, chain_of(3)).next.next == Chain()
    with pytest.raises(errors.PeerProtocolError, match=r"Chain\.next: too many tables"):
        decoder.decode(Chain, chain_of(4))


def test_a_body_larger_than_offsets_reach_is_refused(make: Any) -> None:
    body = chain_of(5)
    decoder = decoder_of_chains(make, most_bytes=len(body) - 1)

    with pytest.raises(errors.PeerProtocolError, match="larger than a FlatBuffer can be"):
        decoder.decode(Chain, body)
