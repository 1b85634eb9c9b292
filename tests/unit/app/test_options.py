from __future__ import annotations

from pathlib import Path

import pytest

from fl_cluster.app import options


def parse_script(name: str, *arguments: str) -> dict[str, object]:
    summary, add = options.COMMANDS[name]
    parsed, unknown = options.script_parser(summary, add).parse_known_args(arguments)
    assert unknown == []
    return vars(parsed)


def test_the_defaults_are_the_original_s() -> None:
    server = parse_script("server")

    assert server["yaml_config"] == "default_yaml_config.yaml"
    assert server["tcp_server_ip"] == "127.0.0.1"
    assert server["checkpoint_dir"] == "./fl_ckpt/"
    assert server["local_server_num"] == 2
    assert server["http_server_address"] == "127.0.0.1:6666"
    assert parse_script("sched")["scheduler_manage_address"] == "127.0.0.1:11202"
    assert parse_script("finish")["redis_port"] == 8113


@pytest.mark.parametrize("spelling", ["--http_server_address", "--http-server-address"])
def test_names_may_be_written_with_hyphens(spelling: str) -> None:
    parsed = parse_script("server", f"{spelling}=127.0.0.1:7777")

    assert parsed["http_server_address"] == "127.0.0.1:7777"


def test_configuration_keys_may_be_set_several_times() -> None:
    parsed = parse_script("sched", "--set=fl_name=A=B", "--set", "cluster.lease_ms=2000")

    assert parsed["set"] == [("fl_name", "A=B"), ("cluster.lease_ms", "2000")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set=fl_name",),
        ("--set==x",),
        ("--wait=0",),
        ("--wait=inf",),
        ("--wait=soon",),
        ("--local_server_num=0",),
        ("--local_server_num=-1",),
        ("--local_server_num=two",),
    ],
)
def test_values_that_cannot_be_are_refused_with_exit_code_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_script("server", *arguments)

    assert caught.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_a_script_hands_back_what_it_does_not_know() -> None:
    summary, add = options.COMMANDS["sched"]

    parsed, unknown = options.script_parser(summary, add).parse_known_args(["--ms_role=X", "y"])

    assert parsed.yaml_config == "default_yaml_config.yaml"
    assert unknown == ["--ms_role=X", "y"]


def test_every_command_is_parsed_and_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in options.COMMANDS:
        needed = {
            "device": ["m:f", "--server=http://x", "--data_size=1"],
            "scalein": ["a"],
            "migrate": ["check", "old.yaml"],
            "token": ["list"],
            "join-line": ["--label=site-a"],
        }
        extra = needed.get(name, [])
        assert options.parse([name, *extra]).command == name

    with pytest.raises(SystemExit):
        options.parse(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in options.COMMANDS)


def test_what_follows_demo_and_model_is_handed_on() -> None:
    assert options.parse(["model", "--help"]).rest == ["--help"]
    assert options.parse(["demo", "--rounds", "3"]).rest == ["--rounds", "3"]


def test_log_folder_is_a_path() -> None:
    assert parse_script("sched", "--log-dir=/tmp/x")["log_dir"] == Path("/tmp/x")
