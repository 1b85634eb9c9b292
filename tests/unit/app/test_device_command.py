"""`fl-cluster device`: secrets come from files, and what does not fit together is one sentence."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from fl_cluster.app import options
from fl_cluster.app.device_command import device_of
from fl_cluster.errors import CallerProtocolError, StartupError
from fl_cluster.sdk import Protection
from fl_cluster.sdk.join_line import JoinLine

TOKEN = "flt_0123456789abcdefghij"


def parsed(*arguments: str) -> argparse.Namespace:
    return options.parse(["device", "m:f", "--data_size=3", *arguments])


def train(weights: Any, _: Any) -> Any:
    return weights


def secret_file(folder: Path, text: str) -> str:
    path = folder / "secret"
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


def test_servers_prefix_and_patience_are_those_of_the_arguments() -> None:
    made = device_of(
        parsed("--server=http://h:1", "--url_prefix=/x/", "--patience=7", "--device_id=d"), train
    )

    assert (made.servers, made.url_prefix, made.patience_s, made.device_id) == (
        ["http://h:1"],
        "/x/",
        7.0,
        "d",
    )
    assert made.token == ""


def test_a_token_comes_from_a_file_and_goes_over_plain_http_only_when_that_is_said(
    tmp_path: Path,
) -> None:
    file = f"--token-file={secret_file(tmp_path, TOKEN)}"

    with pytest.raises(CallerProtocolError, match="over plain HTTP"):
        device_of(parsed("--server=http://h:1", file), train)

    assert device_of(parsed("--server=https://h:1", file), train).token == TOKEN
    said = parsed("--server=http://h:1", file, "--token-over-http")
    assert device_of(said, train).token == TOKEN


def test_a_join_line_names_everything(tmp_path: Path) -> None:
    line = JoinLine(
        servers=("h:1",), job="Lenet", is_tls=True, url_prefix="/x/", token=TOKEN
    ).text()
    file = f"--join-file={secret_file(tmp_path, line)}"

    made = device_of(parsed(file), train)

    assert (made.servers, made.job, made.url_prefix) == (["https://h:1"], "Lenet", "/x/")
    assert made.token == TOKEN
    with pytest.raises(StartupError, match="leave --server out"):
        device_of(parsed(file, "--server=http://h:1"), train)


def test_what_is_required_of_the_servers_comes_from_the_line_or_from_the_arguments(
    tmp_path: Path,
) -> None:
    line = JoinLine(servers=("h:1",), job="a", is_tls=True, protection="SECURE_AGGREGATION").text()
    file = f"--join-file={secret_file(tmp_path, line)}"

    assert device_of(parsed("--server=http://h:1"), train).protection is None
    assert device_of(parsed(file), train).protection == Protection("SECURE_AGGREGATION")
    said = device_of(parsed(file, "--protection=DP_ENCRYPT,epsilon=1,delta=1e-5"), train)
    assert said.protection == Protection("DP_ENCRYPT", 1.0, 1e-5)
    with pytest.raises(CallerProtocolError, match="protection: expected NOT_ENCRYPT"):
        device_of(parsed(file, "--protection=masks"), train)


def test_without_any_server_there_is_nobody_to_ask() -> None:
    with pytest.raises(StartupError, match="expected --server URL, or --join-file FILE"):
        device_of(parsed(), train)


def test_an_identity_is_read_from_its_files(tmp_path: Path, device_authority: Any) -> None:
    key, chain = device_authority.device("phone").write(tmp_path, "phone")

    made = device_of(parsed("--server=http://h:1", "--identity", str(key), str(chain)), train)

    assert made.identity is not None
    assert made.device_id == made.identity.device_id
