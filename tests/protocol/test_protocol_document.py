"""docs/protocol.md says what the schema, the limits and the codecs say."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from fl_cluster.wire import limits, messages, packed
from fl_cluster.wire.schema import Kind

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text("utf-8")


def section(text: str, title: str) -> str:
    start = text.index(f"\n## {title}")
    end = text.find("\n## ", start + 4)
    return text[start : end if end != -1 else len(text)]


@pytest.mark.parametrize(
    ("title", "request_class", "answer_class"),
    [
        ("startFLJob", messages.RequestFLJob, messages.ResponseFLJob),
        ("updateModel", messages.RequestUpdateModel, messages.ResponseUpdateModel),
        ("getModel", messages.RequestGetModel, messages.ResponseGetModel),
        ("pullWeight", messages.RequestPullWeight, messages.ResponsePullWeight),
        ("pushWeight", messages.RequestPushWeight, messages.ResponsePushWeight),
        ("pushMetrics", messages.RequestPushMetrics, messages.ResponsePushMetrics),
    ],
)
def test_every_field_of_a_call_is_explained(
    text: str, title: str, request_class: Any, answer_class: Any
) -> None:
    asked, _, answered = section(text, title).partition("| answer field |")

    for part, cls in ((asked, request_class), (answered, answer_class)):
        cells = re.findall(r"^\| (.*?) \|", part, re.MULTILINE)
        explained = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
        missing = {field.name for field in messages.SCHEMA[cls]} - explained

        assert missing == set()


def test_fields_of_msgpack_are_marked_as_such(text: str) -> None:
    for title, classes in {
        "startFLJob": (messages.RequestFLJob, messages.ResponseFLJob),
        "updateModel": (messages.RequestUpdateModel, messages.ResponseUpdateModel),
        "getModel": (messages.RequestGetModel, messages.ResponseGetModel),
        "pullWeight": (messages.RequestPullWeight, messages.ResponsePullWeight),
        "pushWeight": (messages.RequestPushWeight, messages.ResponsePushWeight),
        "pushMetrics": (messages.RequestPushMetrics, messages.ResponsePushMetrics),
    }.items():
        marked = set(re.findall(r"^\| `(\w+)` \| msgpack only", section(text, title), re.MULTILINE))
        native = {
            field.name for cls in classes for field in messages.SCHEMA[cls] if field.slot is None
        }

        assert native - {"verdict"} == marked


def test_every_limit_that_a_peer_can_meet_is_named(text: str) -> None:
    named = section(text, "Limits").replace(",", "")

    for number in (
        limits.MAX_FLAT_DEPTH,
        limits.MAX_FLAT_TABLES,
        limits.MAX_LIST_ITEMS,
        limits.MAX_TEXT_BYTES,
        limits.MAX_DATA_SIZE,
        limits.MAX_EVALUATION_NUMBERS,
        limits.MAX_HOLD_MS,
    ):
        assert str(number) in named


def test_every_kind_has_its_msgpack_family(text: str) -> None:
    table = section(text, "msgpack, byte by byte")
    others = {"enum": "enums", "table": "table", "[enum]": "vectors of enums"}
    others["[table]"] = "vector of tables"

    for kind in Kind:
        assert others.get(kind, f"`{kind}`") in table


def test_the_refusal_that_is_quoted_is_the_one_that_is_given(text: str) -> None:
    quoted = re.search(r"`(RequestGetModel\.iteration: expected[^`]*)`", text)
    body = msgpack.packb({"iteration": 7.0})
    assert body is not None
    assert quoted is not None

    with pytest.raises(Exception, match="found the float") as refusal:
        packed.decode(messages.RequestGetModel, body)

    assert quoted[1] == str(refusal.value)


def test_the_example_takes_part_in_a_round(text: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(ast.parse(code), str(DOCUMENT), "exec"), names)
    heard: list[tuple[str, Any]] = []

    def server(_: str, call: str, request: Any) -> tuple[int, Any]:
        """Admits the device once, counts its update, and then the job is over."""
        body = msgpack.packb(request)
        assert body is not None
        cls = {"startFLJob": messages.RequestFLJob, "updateModel": messages.RequestUpdateModel}
        heard.append((call, packed.decode(cls.get(call, messages.RequestGetModel), body)))
        if call == "startFLJob" and len(heard) > 1:
            return 410, unpacked(messages.ResponseFLJob(300, verdict="job_finished"))
        tensor = messages.FeatureMap("w", np.ones(2, np.float32), (2,))
        answer = messages.ResponseFLJob(200, iteration=7, feature_map=(tensor,))
        return 200, unpacked(answer)

    names["call"] = server

    ending = names["take_part"]("http://server", "phone-7", 32, lambda weights: weights)

    assert ending == "job_finished"
    assert [call for call, _ in heard] == ["startFLJob", "updateModel", "getModel", "startFLJob"]
    assert heard[0][1] == messages.RequestFLJob(fl_id="phone-7", data_size=32)
    assert (heard[1][1].iteration, heard[1][1].plain_weights) == (7, True)
    assert heard[1][1].feature_map[0].data.tolist() == [1, 1]
    assert heard[2][1] == messages.RequestGetModel(iteration=7, hold_ms=10_000)


def unpacked(answer: Any) -> Any:
    return msgpack.unpackb(packed.encode(answer))
