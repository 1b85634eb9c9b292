"""`fl-cluster migrate check`: what it prints, and what it returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl_cluster.app.cli import main

YAMLS = Path(__file__).parents[3] / "yamls"

Capture = pytest.CaptureFixture[str]


def check(*arguments: str) -> int:
    return main(["migrate", "check", *arguments])


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    file = tmp_path / "old.yaml"
    file.write_text((YAMLS / "minimal.yaml").read_text("utf-8"), "utf-8")
    return file


def change(file: Path, old: str, new: str) -> str:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")
    return str(file)


def test_a_file_that_can_be_used_as_it_is(capsys: Capture) -> None:
    assert check(str(YAMLS / "lenet.yaml")) == 0

    shown = capsys.readouterr().out
    assert "a job can run with this file as it is" in shown.splitlines()[0]
    assert "supported, and different:" in shown
    assert "client.connection_num: 10000" in shown


def test_a_file_that_is_refused(minimal: Path, capsys: Capture) -> None:
    file = change(minimal, "fl_iteration_num:", "fl_iteration_num: 0 # was")

    assert check(file) == 2

    lines = capsys.readouterr().out.splitlines()
    assert "this file is refused (1 refused, " in lines[0]
    assert lines[2] == "refused, as nothing can be run like this:"
    assert "value is expected to be range of [1,4294967295], but got 0" in lines[4]


def test_what_devices_of_the_sdk_refuse_is_said(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "weak.yaml"
    file.write_text((YAMLS / "secure_aggregation.yaml").read_text("utf-8"), "utf-8")

    assert check(str(file)) == 0
    assert "refuse to take part" not in capsys.readouterr().out
    assert check(change(file, "least_devices: 3", "least_devices: 2")) == 0

    lines = capsys.readouterr().out.splitlines()
    (at,) = (n for n, line in enumerate(lines) if "secure_aggregation.least_devices: 2" in line)
    assert "devices of the SDK refuse to take part with less than 3, " in lines[at + 1]


def test_for_programs_it_is_json(minimal: Path, capsys: Capture) -> None:
    assert check(str(minimal), "--format", "json") == 0

    shown = json.loads(capsys.readouterr().out)
    assert (shown["file"], shown["runs"], shown["problems"]) == (str(minimal), True, [])
    assert {"key", "line", "value", "standing", "why"} == set(shown["keys"][0])
    assert {key["key"] for key in shown["keys"]} >= {"fl_name", "round.update_model_ratio"}


def test_a_schedulers_file_may_lack_what_servers_look_at(tmp_path: Path) -> None:
    file = tmp_path / "sched.yaml"
    file.write_text(
        "fl_name: A\nfl_iteration_num: 1\nserver_mode: FEDERATED_LEARNING\nenable_ssl: false\n"
        "distributed_cache: {address: '127.0.0.1:6379'}\n",
        "utf-8",
    )

    assert check(str(file), "--role", "scheduler") == 0
    assert check(str(file)) == 2


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, capsys: Capture) -> None:
    assert check(str(tmp_path / "none.yaml")) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "not exist" in captured.err
    assert "Traceback" not in captured.err
