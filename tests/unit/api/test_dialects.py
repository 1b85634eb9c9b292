"""The same answer in both encodings: as a message, as text, as status and headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from fl_cluster.api import refusals
from fl_cluster.api.dialects import FLAT, PACKED, Dialect, dialect_of
from fl_cluster.api.refusals import Refusal, Retry
from fl_cluster.errors import PeerProtocolError
from fl_cluster.rounds.events import Verdict
from fl_cluster.wire import flat, messages, packed
from fl_cluster.wire.messages import ResponseCode


def a_refusal(**changes: Any) -> Refusal:
    given: dict[str, Any] = {
        "word": "enough",
        "code": ResponseCode.OutOfTime,
        "status": 429,
        "retry": Retry.SOON,
        "text": "it is enough",
    }
    return Refusal(**(given | changes))


def headers_of(answer: Any) -> Mapping[str, str]:
    lines = answer._head.decode().split("\r\n")[1:-2]
    return dict(line.split(": ", 1) for line in lines)


async def rendered(answer: Any) -> Any:
    """The answer with its head made, as for a request that is kept alive."""
    await answer.prepare(make_mocked_request("POST", "/getModel"))
    return answer


MESSAGE = messages.ResponseGetModel(
    retcode=ResponseCode.OutOfTime, reason="it is enough", verdict="enough", retry_after_ms=200
)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, FLAT),
        ({"Content-Type": ""}, FLAT),
        ({"Content-Type": "applicatiom/json;charset=utf-8"}, FLAT),
        ({"Content-Type": "application/x-msgpack"}, FLAT),
        ({"Content-Type": "application/msgpack"}, PACKED),
        ({"content-type": " APPLICATION/msgpack ;q=1"}, PACKED),
    ],
)
def test_msgpack_is_chosen_by_name_and_flatbuffers_by_anything_else(
    headers: dict[str, str], expected: Dialect
) -> None:
    assert dialect_of(make_mocked_request("POST", "/getModel", headers=headers)) is expected


@pytest.mark.parametrize(("dialect", "codec"), [(FLAT, flat), (PACKED, packed)])
def test_a_dialect_reads_and_writes_its_own_encoding(dialect: Dialect, codec: Any) -> None:
    request = messages.RequestGetModel(fl_name="x", iteration=7)
    answer = messages.ResponseGetModel(retcode=200, reason="r")

    assert dialect.decode(messages.RequestGetModel, codec.encode(request)) == request
    assert dialect.encode(answer) == codec.encode(answer)
    with pytest.raises(PeerProtocolError):
        dialect.decode(messages.RequestGetModel, b"\xc1")


async def test_in_flatbuffers_a_refusal_is_part_of_a_200_answer() -> None:
    answer = await rendered(FLAT.refuse(MESSAGE, a_refusal()))

    assert answer.status == 200
    assert list(headers_of(answer)) == ["Date", "Content-Length", "Content-Type"]
    told = flat.decode(messages.ResponseGetModel, answer.payload)
    assert (told.retcode, told.reason, told.verdict) == (300, "it is enough", None)


def test_in_flatbuffers_some_refusals_are_text_and_nothing_else() -> None:
    answer = FLAT.refuse(MESSAGE, refusals.UNAVAILABLE)

    assert (answer.status, answer.payload) == (200, b"The cluster is in safemode.")


async def test_in_msgpack_a_refusal_has_its_status_and_is_always_a_message() -> None:
    for refusal in (a_refusal(), refusals.UNAVAILABLE):
        answer = await rendered(PACKED.refuse(MESSAGE, refusal))

        assert answer.status == refusal.status
        assert headers_of(answer)["Content-Type"] == "application/msgpack"
        assert packed.decode(messages.ResponseGetModel, answer.payload) == MESSAGE


@pytest.mark.parametrize(
    ("retry_after_ms", "header"), [(None, None), (1, "1"), (999, "1"), (1_000, "1"), (1_001, "2")]
)
async def test_in_msgpack_the_header_is_never_sooner_than_the_message(
    retry_after_ms: int | None, header: str | None
) -> None:
    message = MESSAGE._replace(retry_after_ms=retry_after_ms)

    answer = await rendered(PACKED.refuse(message, a_refusal()))

    assert headers_of(answer).get("Retry-After") == header


async def test_a_success_sends_the_bytes_it_was_given() -> None:
    body = b"ready bytes"
    for dialect, kind in ((FLAT, "text/html; charset=ISO-8859-1"), (PACKED, "application/msgpack")):
        answer = await rendered(dialect.success(body))

        assert (answer.status, answer.payload) == (200, body)
        assert answer.payload is body
        assert headers_of(answer)["Content-Type"] == kind


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.ACCEPTED])
@pytest.mark.parametrize("table", [refusals.CHECK_IN, refusals.REPORT], ids=["check_in", "report"])
def test_every_refusal_can_be_written_in_both(table: Any, verdict: Verdict) -> None:
    refusal = table[verdict]
    message = messages.ResponseUpdateModel(retcode=refusal.code, reason=refusal.text)

    assert FLAT.refuse(message, refusal).payload
    assert PACKED.refuse(message, refusal).payload
