"""The boundary of fl_cluster._wire: its arguments, its memory, its references.

What it makes of bytes is tested where the decoders are compared, in tests/protocol.
"""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import flat, messages
from fl_cluster.wire.schema import Field, Kind

_wire = pytest.importorskip("fl_cluster._wire", reason="the extension was not built")

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
UPDATE = (GOLDEN / "ne__c1__01_updateModel_req.bin").read_bytes()
COMPRESSED = (GOLDEN / "dsq__c1__01_updateModel_req.bin").read_bytes()
KEYS = (GOLDEN / "pki_pw__c1__01_exchangeKeys_req.bin").read_bytes()
ANSWER = (GOLDEN / "det__c1__00_startFLJob_res.bin").read_bytes()
LIMITS = {"least_bytes": 12, "most_bytes": 2**31 - 1, "most_depth": 64, "most_tables": 10**6}
CALLS = 5_000
SLACK_BLOCKS = CALLS // 50

BODIES = {
    "update": (messages.RequestUpdateModel, UPDATE),
    "compressed": (messages.RequestUpdateModel, COMPRESSED),
    "keys": (messages.RequestExchangeKeys, KEYS),
    "answer": (messages.ResponseFLJob, ANSWER),
}


def a_decoder(schema: Any = None, **limits: Any) -> Any:
    given = tuple(messages.SCHEMA.items()) if schema is None else schema
    return _wire.Decoder(given, **LIMITS | limits)


class Pair(NamedTuple):
    left: int = 0
    right: str | None = None


LEFT: Any = Field("left", Kind.INT, 0, 0)
RIGHT: Any = Field("right", Kind.STRING, 1)


# Arguments


def test_a_decoder_reads_the_messages_of_its_schema() -> None:
    decoder = a_decoder(((Pair, (LEFT, RIGHT)),))
    body = flat.encode(messages.RequestAsyncGetModel("text", 7))

    swapped = (LEFT._replace(slot=1), RIGHT._replace(slot=0))

    assert decoder.decode(Pair, b"\x0c\0\0\0\4\0\4\0\0\0\0\0\x08\0\0\0") == Pair()
    assert a_decoder(((Pair, swapped),)).decode(Pair, body) == Pair(7, "text")


@pytest.mark.parametrize(
    "schema",
    [
        [(Pair, (LEFT, RIGHT))],
        (Pair,),
        ((Pair,),),
        (("Pair", (LEFT, RIGHT)),),
        ((int, (LEFT, RIGHT)),),
        ((Pair, [LEFT, RIGHT]),),
        ((Pair, ("left", "right")),),
        ((Pair, (LEFT[:4],)),),
        ((Pair, (LEFT._replace(name=7),)),),
        ((Pair, (LEFT._replace(kind="long"),)),),
        ((Pair, (LEFT._replace(kind=7),)),),
        ((Pair, (LEFT._replace(slot=-1),)),),
        ((Pair, (LEFT._replace(slot=40_000),)),),
        ((Pair, (LEFT._replace(slot="0"),)),),
        ((Pair, (LEFT._replace(table=Pair),)),),
        ((Pair, (LEFT._replace(kind=Kind.TABLE),)),),
        ((Pair, (LEFT._replace(kind=Kind.TABLES, table=messages.FLPlan),)),),
    ],
)
def test_what_is_no_schema_is_a_type_error(schema: Any) -> None:
    with pytest.raises(TypeError):
        a_decoder(schema)


def test_a_slot_that_no_integer_holds_is_an_error() -> None:
    with pytest.raises(OverflowError):
        a_decoder(((Pair, (LEFT._replace(slot=2**70),)),))


@pytest.mark.parametrize(
    "limits",
    [
        {"least_bytes": 3},
        {"most_bytes": 11},
        {"most_bytes": 2**31},
        {"most_depth": 0},
        {"most_tables": 0},
    ],
)
def test_limits_that_would_let_it_read_outside_are_refused(limits: Any) -> None:
    with pytest.raises(ValueError, match="expected 4 <= least_bytes"):
        a_decoder(**limits)


def test_a_missing_limit_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        _wire.Decoder((), least_bytes=12)


def test_decode_wants_a_class_of_the_schema_and_a_buffer() -> None:
    decoder = a_decoder(((Pair, (LEFT, RIGHT)),))

    with pytest.raises(TypeError, match="expected 2 arguments, got 1"):
        decoder.decode(Pair)
    with pytest.raises(TypeError, match="is not in the schema"):
        decoder.decode(messages.FLPlan, ANSWER)
    with pytest.raises(TypeError, match="bytes-like"):
        decoder.decode(Pair, "text")
    with pytest.raises(BufferError):
        decoder.decode(Pair, memoryview(ANSWER)[::2])


def test_nothing_of_it_can_be_changed() -> None:
    with pytest.raises(TypeError):
        _wire.Decoder.decode = None
    with pytest.raises(AttributeError):
        a_decoder().schema = ()


# Memory


@pytest.mark.parametrize("name", BODIES)
def test_nothing_is_read_outside_the_body(name: str, guarded: Any) -> None:
    cls, body = BODIES[name]
    decoder = a_decoder()
    for size in range(0, len(body) + 1, 4):
        for place in (guarded[0].at_end, guarded[0].at_start):
            memory = place(size, np.uint8)
            memory[:] = np.frombuffer(body, np.uint8)[:size]

            with suppress(PeerProtocolError):
                decoder.decode(cls, memory)


@pytest.mark.parametrize("name", BODIES)
def test_nothing_is_read_outside_a_damaged_body(name: str, guarded: Any) -> None:
    cls, body = BODIES[name]
    decoder = a_decoder()
    rng = random.Random(name)
    memory = guarded[0].at_end(len(body), np.uint8)
    for _ in range(3000):
        memory[:] = np.frombuffer(body, np.uint8)
        at = rng.randrange(len(body) // 4) * 4
        memory[at : at + 4] = np.frombuffer(
            rng.choice((rng.randrange(len(body)), rng.randrange(2**32))).to_bytes(4, "little"),
            np.uint8,
        )

        with suppress(PeerProtocolError):
            decoder.decode(cls, memory)


# References


def refused(cls: type[Any], body: bytes) -> Callable[[Any], object]:
    def call(decoder: Any) -> object:
        with suppress(PeerProtocolError):
            return decoder.decode(cls, body)
        return None

    return call


def decodes(*arguments: Any) -> Callable[[Any], object]:
    def call(decoder: Any) -> object:
        with suppress(TypeError, BufferError, ValueError):
            return decoder.decode(*arguments)
        return None

    return call


def schema_fails(*fields: Any) -> Callable[[Any], object]:
    def call(_: Any) -> object:
        with suppress(TypeError):
            return a_decoder(((Pair, fields),))
        return None

    return call


def limits_fail(_: Any) -> object:
    with suppress(ValueError):
        return a_decoder(most_depth=0)
    return None


CALLED: dict[str, Callable[[Any], object]] = {
    **{
        f"{name} as {kind.__name__}": decodes(cls, kind(body))
        for name, (cls, body) in BODIES.items()
        for kind in (bytes, bytearray)
    },
    "misaligned": lambda d: d.decode(messages.ResponseFLJob, memoryview(b"x" + ANSWER)[1:]),
    "cut": refused(messages.ResponseFLJob, ANSWER[:-8]),
    "cut keys": refused(messages.RequestExchangeKeys, KEYS[:-1200]),
    "too small": refused(messages.ResponseFLJob, b""),
    "another class": refused(messages.RequestUpdateModel, ANSWER),
    "no class": decodes(Pair, ANSWER),
    "no buffer": decodes(messages.ResponseFLJob, None),
    "not contiguous": decodes(messages.ResponseFLJob, memoryview(ANSWER)[::2]),
    "too few arguments": decodes(messages.ResponseFLJob),
    "a new decoder": lambda _: a_decoder(),
    "a schema with an unknown kind": schema_fails(LEFT, LEFT._replace(kind="long")),
    "a schema with a strange field": schema_fails(LEFT, None),
    "limits out of range": lambda _: decodes()(a_decoder(most_depth=1)),
}


@pytest.mark.parametrize("name", CALLED)
def test_a_call_leaves_nothing_behind(name: str) -> None:
    call, decoder = CALLED[name], a_decoder()
    calls = CALLS // 10 if name in {"a new decoder", "limits out of range"} else CALLS
    for _ in range(100):
        call(decoder)
    gc.collect()
    before = sys.getallocatedblocks()

    for _ in range(calls):
        call(decoder)

    gc.collect()
    assert sys.getallocatedblocks() - before < SLACK_BLOCKS


def test_many_threads_decode_the_same_body_at_once() -> None:
    decoder = a_decoder()
    expected = decoder.decode(messages.ResponseFLJob, ANSWER).fl_plan_config

    def decode_often(_: int) -> bool:
        answers = [decoder.decode(messages.ResponseFLJob, ANSWER) for _ in range(300)]
        return all(answer.fl_plan_config == expected for answer in answers)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(decode_often, range(8)))


def test_a_decoder_and_its_module_can_be_collected() -> None:
    decoder = a_decoder()
    referents = gc.get_referents(decoder)

    assert _wire.Decoder in referents
    assert tuple(messages.SCHEMA.items()) in referents
