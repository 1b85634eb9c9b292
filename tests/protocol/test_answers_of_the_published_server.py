"""Bytes that the published server wrote: we read them, and fill the same fields when we write."""

from __future__ import annotations

import csv
import struct
from pathlib import Path
from typing import Any

import pytest

from fl_cluster.wire import flat, messages

ANSWERS = Path(__file__).resolve().parents[1] / "data" / "answers" / "answers.tsv"

CLASSES = {
    "exchangeKeys": messages.ResponseExchangeKeys,
    "getKeys": messages.ReturnExchangeKeys,
    "shareSecrets": messages.ResponseShareSecrets,
    "getSecrets": messages.ReturnShareSecrets,
    "getClientList": messages.ReturnClientList,
    "reconstructSecrets": messages.ReconstructSecret,
}

NO_FLATBUFFER = "no FlatBuffer"
UNKNOWN = "an unknown device in iteration 1"
OTHER_ROUND = "a known device in iteration 9"

EXPECTED = {
    ("exchangeKeys", NO_FLATBUFFER): (400, "The schema of RequestExchangeKeys is invalid."),
    ("exchangeKeys", UNKNOWN): (300, "devices_meta for zz is not set. Please retry later."),
    ("exchangeKeys", OTHER_ROUND): (300, "iter num is error."),
    ("getKeys", NO_FLATBUFFER): (400, None),
    ("getKeys", UNKNOWN): (201, None),
    ("getKeys", OTHER_ROUND): (300, None),
    ("shareSecrets", OTHER_ROUND): (300, "ShareSecretsKernel iteration invalid"),
    ("getSecrets", UNKNOWN): (201, None),
    ("getClientList", UNKNOWN): (201, "The server is not ready."),
    ("reconstructSecrets", UNKNOWN): (
        200,
        "Success, but the server is not ready to reconstruct secret yet.",
    ),
}


def load() -> dict[tuple[str, str], bytes]:
    with ANSWERS.open(encoding="ascii") as lines:
        rows = list(csv.reader(lines, "excel-tab"))
    return {(call, case): bytes.fromhex(body) for call, case, body in rows}


BODIES = load()


@pytest.fixture(params=BODIES, ids=[": ".join(key) for key in BODIES])
def answer(request: pytest.FixtureRequest) -> Any:
    """The class and the bytes of one answer."""
    return CLASSES[request.param[0]], BODIES[request.param]


def filled(body: bytes) -> list[tuple[int, bool]]:
    """The slots of the root table, and which of them are filled."""
    (root,) = struct.unpack_from("<I", body, 0)
    vtable = root - struct.unpack_from("<i", body, root)[0]
    (size,) = struct.unpack_from("<H", body, vtable)
    return [
        (slot, struct.unpack_from("<H", body, vtable + 4 + 2 * slot)[0] != 0)
        for slot in range(size // 2 - 2)
    ]


def test_both_decoders_read_the_answer_alike(answer: Any, reference: Any, same: Any) -> None:
    cls, body = answer

    assert same(reference.decode(cls, body), flat.decode(cls, body))


def test_the_same_answer_of_ours_has_the_same_fields(answer: Any, same: Any) -> None:
    cls, body = answer
    message = flat.decode(cls, body)

    written = flat.encode(message)

    assert same(message, flat.decode(cls, written))
    assert filled(body) == filled(written)


@pytest.mark.parametrize("key", EXPECTED, ids=[": ".join(key) for key in EXPECTED])
def test_the_answer_says_what_devices_are_known_to_be_told(key: Any) -> None:
    message: Any = flat.decode(CLASSES[key[0]], BODIES[key])

    assert (message.retcode, getattr(message, "reason", None)) == EXPECTED[key]
    assert message.iteration == 1
    assert str(message.next_req_time).isdecimal()


def test_an_empty_list_of_devices_is_written_as_a_list() -> None:
    message = flat.decode(messages.ReturnClientList, BODIES["getClientList", UNKNOWN])

    assert message.clients == ()


def test_a_second_answer_behind_the_first_is_not_read() -> None:
    body = BODIES["reconstructSecrets", UNKNOWN]

    message = flat.decode(messages.ReconstructSecret, body)

    assert b"The client is no" in body
    assert message.reason == "Success, but the server is not ready to reconstruct secret yet."
