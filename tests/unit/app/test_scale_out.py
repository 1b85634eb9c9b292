"""The command lines that add servers."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from fl_cluster.app import options
from fl_cluster.app.scale_out import ANOTHER_HOST, CommandLines, is_local
from fl_cluster.config.addresses import parse_cache_address
from fl_cluster.lifecycle.membership import Member, Role

LINES = CommandLines(
    yaml_config="/etc/fl cluster/job.yaml", overrides={}, here="host-a", is_store_local=True
)


def a_server(host: str, port: int, **changes: Any) -> Member:
    member = Member(
        id=f"{host}:{port}",
        role=Role.SERVER,
        tcp_address="10.0.0.7:35001",
        http_address=f"10.0.0.8:{port}",
        manage_address="",
        pid=1,
        host=host,
        process_started_s=1.0,
        version="0.1.0",
        kernel="avx2",
        started_ms=0,
    )
    return replace(member, **changes)


def read(line: dict[str, str]) -> Any:
    """The arguments of a command line, as the command reads them."""
    program, *arguments = shlex.split(line["command"])
    assert program == "fl-cluster"
    return options.parse(arguments)


def test_without_servers_this_host_gets_the_usual_addresses() -> None:
    [line] = LINES([], 2)

    parsed = read(line)
    assert line["host"] == "host-a"
    assert (parsed.command, parsed.yaml_config) == ("server", "/etc/fl cluster/job.yaml")
    assert (parsed.http_server_address, parsed.tcp_server_ip) == ("127.0.0.1:6666", "127.0.0.1")
    assert parsed.local_server_num == 2


def test_a_host_with_servers_gets_the_addresses_of_its_first() -> None:
    scheduler = a_server("host-c", 1, role=Role.SCHEDULER, http_address="", tcp_address="")
    servers = [a_server("host-a", 7003), a_server("host-a", 7001), a_server("host-b", 7002)]

    lines = {line["host"]: read(line) for line in LINES([*servers, scheduler], 1)}

    assert set(lines) == {"host-a", "host-b"}
    assert lines["host-a"].http_server_address == "10.0.0.8:7001"
    assert lines["host-b"].http_server_address == "10.0.0.8:7002"
    assert lines["host-b"].tcp_server_ip == "10.0.0.7"


def test_a_store_that_others_reach_may_have_servers_on_any_host() -> None:
    *_, line = replace(LINES, is_store_local=False)([], 1)

    parsed = read(line)
    assert line["host"] == ANOTHER_HOST
    assert (parsed.http_server_address, parsed.tcp_server_ip) == ("0.0.0.0:6666", "auto")


def test_what_was_laid_over_the_file_is_laid_over_it_again_but_for_secrets() -> None:
    overrides = {
        "cluster.lease_ms": "2000",
        "fl_name": "A b",
        "distributed_cache.password": "secret",
        "distributed_cache.address": "redis://user:secret@10.0.0.1:6379",
    }

    [line] = replace(LINES, overrides=overrides)([], 1)

    assert read(line).set == [("cluster.lease_ms", "2000"), ("fl_name", "A b")]
    assert "secret" not in line["command"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("embedded", True),
        ("unix:/run/redis.sock", True),
        ("127.0.0.1:6379", True),
        ("localhost:6379", True),
        ("[::1]:6379", True),
        ("10.0.0.1:6379", False),
        ("redis.example.com:6379", False),
        ("rediss://10.0.0.1:6379", False),
        ("sentinel://127.0.0.1:26379,127.0.0.1:26380/main", True),
        ("sentinel://10.0.0.5,10.0.0.6/main", False),
    ],
)
def test_a_store_is_local_when_only_this_host_reaches_it(address: str, expected: bool) -> None:
    assert is_local(parse_cache_address(address)) is expected
