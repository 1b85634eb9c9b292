"""`fl-cluster migrate check`: what it prints, and what it returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl_cluster.app.cli import main
from fl_cluster.app.migrate_command import HEADINGS
from fl_cluster.config.compatibility import Standing
from fl_cluster.config.differences import PASSED_OVER

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


CHANGED = """
fl_name: A
fl_iteration_num: 1
server_mode: FEDERATED_LEARNING
enable_ssl: {is_tls}
ssl: {{server_cert_path: a.p12, client_cert_path: b.p12, ca_cert_path: c.crt,
  cipher_list: ECDHE-RSA-AES128-GCM-SHA256}}
distributed_cache: {{address: "redis://redis.example.org:6379"}}
round: {{start_fl_job_threshold: 2, start_fl_job_time_window: 3000, update_model_ratio: 1.0,
  update_model_time_window: 3000, global_iteration_time_window: 9000}}
summary: {{metrics_file: /m, failure_event_file: /e, participation_time_level: "{levels}"}}
client: {{http_url_prefix: fl}}
encrypt: {{encrypt_type: SIGNDS, dp_encrypt: {{dp_eps: bad}}}}
compression: {{upload_compress_type: DIFF_SPARSE_QUANT}}
"""


@pytest.fixture
def changed(tmp_path: Path) -> str:
    file = tmp_path / "changed.yaml"
    file.write_text(CHANGED.format(is_tls="true", levels="9,3"), "utf-8")
    return str(file)


def test_what_a_server_would_warn_of_at_its_start_stands_at_its_key(
    changed: str, capsys: Capture
) -> None:
    assert check(changed, "--format", "json") == 0

    keys = {key["key"]: key for key in json.loads(capsys.readouterr().out)["keys"]}
    levels = keys["summary.participation_time_level"]
    assert levels["standing"] == "changed"
    assert "such as '5,15', which is used instead" in levels["why"]
    assert keys["client.http_url_prefix"]["standing"] == "warned"
    assert "no request can match" in keys["client.http_url_prefix"]["why"]
    assert "spoken to in the clear" in keys["distributed_cache.address"]["why"]


def test_levels_that_make_sense_are_supported(changed: str, capsys: Capture) -> None:
    file = change(Path(changed), "9,3", "3,9")

    assert check(file, "--format", "json") == 0

    keys = {key["key"]: key for key in json.loads(capsys.readouterr().out)["keys"]}
    assert keys["summary.participation_time_level"]["standing"] == "supported"


def test_text_and_json_say_the_same_of_every_key(changed: str, capsys: Capture) -> None:
    assert check(changed, "--format", "json") == 0
    keys = json.loads(capsys.readouterr().out)["keys"]
    assert check(changed) == 0
    shown = capsys.readouterr().out

    assert {key["standing"] for key in keys} >= {"changed", "not looked at", "warned", "different"}
    parts = {part.splitlines()[0]: part for part in shown.split("\n\n")[1:]}
    for key in keys:
        part = parts[f"{HEADINGS[Standing(key['standing'])]}:"]
        lines = [line.strip() for line in part.splitlines()]
        assert f"{key['line']}  {key['key']}: {key['value']}" in lines
        assert all(line in lines for line in key["why"].splitlines() if line != PASSED_OVER)


def test_a_scheduler_is_not_told_of_what_only_servers_warn_of(
    changed: str, capsys: Capture
) -> None:
    assert check(changed, "--role", "scheduler", "--format", "json") == 0

    keys = {key["key"]: key for key in json.loads(capsys.readouterr().out)["keys"]}
    assert keys["summary.participation_time_level"]["standing"] == "not looked at"
    assert keys["compression.upload_compress_type"]["why"] == "only servers look at it"
    assert "spoken to in the clear" in keys["distributed_cache.address"]["why"]
