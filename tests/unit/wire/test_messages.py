"""The messages are those of the schema file, and the generator refuses what it cannot read."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest

from fl_cluster.wire import messages
from fl_cluster.wire.schema import Kind

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = ROOT / "tools" / "generate_messages.py"
    spec = importlib.util.spec_from_file_location("generate_messages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_module_is_what_the_generator_writes(generator: Any) -> None:
    assert generator.main(["--check"]) == 0


def test_an_outdated_module_is_noticed_and_rewritten(
    generator: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "messages.py"
    target.write_text("outdated", encoding="utf-8")
    monkeypatch.setattr(generator, "TARGET", target)
    monkeypatch.setattr(generator, "ROOT", tmp_path)

    assert generator.main(["--check"]) == 1
    assert "messages.py is out of date" in capsys.readouterr().out
    assert generator.main([]) == 0
    assert target.read_text("utf-8") == (ROOT / "fl_cluster/wire/messages.py").read_text("utf-8")


def test_an_unknown_option_is_answered_with_the_usage(
    generator: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generator.main(["--help"]) == 2
    assert "--check" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("table A {\n  b:long;\n}", "line 2: unknown, or used before it is declared: long"),
        ("table A {\n  b:B;\n}\ntable B {\n}", "line 2: unknown, or used before it is"),
        ("table A {\n  b:[bool];\n}", "line 2: unknown, or used before it is declared: bool"),
        ("table A {\n  b:[int;\n}", "line 2: unbalanced brackets"),
        ("table A {\n  b int;\n}", "line 2: not a field"),
        ("table A {\n  b:int = 5;\n}", "line 2: a default other than null in msgpack: 5"),
        ("table A {\n  b:int = null;\n}", "line 2: a default other than null in msgpack: null"),
        ("table A {\n  //+ b:int;\n  c:int;\n}", "line 3: a field with a slot after one without"),
        ("table A {\n  b:int;", "table A is not closed"),
        ("struct A {\n}", "line 1: not understood"),
    ],
)
def test_a_schema_that_is_not_understood_is_an_error_and_not_a_guess(
    generator: Any, line: str, sentence: str
) -> None:
    with pytest.raises(generator.SchemaError) as error:
        generator.parse(line)

    assert str(error.value).startswith(sentence)


def test_fields_without_a_slot_stand_last() -> None:
    for fields in messages.SCHEMA.values():
        slots = [field.slot for field in fields]
        with_slot = [slot for slot in slots if slot is not None]

        assert slots == [*range(len(with_slot)), *[None] * (len(slots) - len(with_slot))]


def test_the_schema_describes_every_message_field_by_field() -> None:
    classes = {
        cls
        for _, cls in inspect.getmembers(messages, inspect.isclass)
        if issubclass(cls, tuple) and cls.__module__ == messages.__name__
    }

    assert classes == set(messages.SCHEMA)
    for cls, fields in messages.SCHEMA.items():
        assert tuple(field.name for field in fields) == cls._fields  # type: ignore[attr-defined]
        assert tuple(field.default for field in fields) == cls()


def test_annotations_name_the_types_that_decoding_gives() -> None:
    hints = get_type_hints(messages.RequestUpdateModel)

    assert hints["fl_id"] == str | None
    assert hints["iteration"] is int
    assert hints["upload_loss"] is float
    assert hints["plain_weights"] is bool
    assert hints["index_array"] == tuple[int, ...] | None
    assert hints["signature"] == bytes | None
    assert hints["feature_map"] == tuple[messages.FeatureMap, ...] | None


def test_the_appended_fields_have_the_slots_of_the_published_schema() -> None:
    slots = {
        (cls.__name__, field.name): field.slot
        for cls, fields in messages.SCHEMA.items()
        for field in fields
    }

    assert slots["ResponseFLJob", "unsupervised_eval_flg"] == 12
    assert slots["RequestUpdateModel", "unsupervised_eval_items"] == 14
    assert slots["Aggregation", "iid_rate"] == 2
    assert slots["Aggregation", "total_client_num"] == 3
    assert slots["RequestFLJob", "eval_data_size"] == 11
    assert slots["RequestExchangeKeys", "certificate_chain"] == 9


def test_every_answer_can_carry_a_verdict_and_when_to_come_back() -> None:
    answers = {
        cls.__name__
        for cls, fields in messages.SCHEMA.items()
        if fields[0].name == "retcode" and "Async" not in cls.__name__
    }
    with_verdict = {
        cls.__name__
        for cls, fields in messages.SCHEMA.items()
        if {"verdict", "retry_after_ms"} <= {field.name for field in fields}
    }

    assert answers == with_verdict


def test_enums_have_the_published_numbers() -> None:
    assert {member.name: int(member) for member in messages.ResponseCode} == {
        "SUCCEED": 200,
        "SucNotReady": 201,
        "OutOfTime": 300,
        "RequestError": 400,
        "SystemError": 500,
    }
    assert list(messages.CompressType.__members__) == ["NO_COMPRESS", "DIFF_SPARSE_QUANT", "QUANT"]
    enums = [cls for _, cls in inspect.getmembers(messages, inspect.isclass)]
    for enum in enums:
        if issubclass(enum, IntEnum) and enum not in {IntEnum, messages.ResponseCode}:
            assert [int(member) for member in enum] == list(range(len(enum)))


def test_every_kind_is_used_by_some_field() -> None:
    used = {field.kind for fields in messages.SCHEMA.values() for field in fields}

    assert used == set(Kind)
