"""`fl-cluster join-line`: the servers it names, and what it says of a line that would not do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_cluster.app import options, token_command
from fl_cluster.lifecycle.membership import Member, MemberState, Role
from fl_cluster.sdk.join_line import JoinLine, parse_join_line
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.members import RedisMemberStore

YAML = """
fl_name: Lenet
fl_iteration_num: 1
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {{type: redis, address: "{address}"}}
round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 30000
  update_model_ratio: 1.0
  update_model_time_window: 30000
  global_iteration_time_window: 60000
summary: {{metrics_file: metrics.json, failure_event_file: event.txt}}
cluster: {{allow_tokens_over_http: {allows_http}}}
"""

Join = Callable[..., JoinLine]


@pytest.fixture
def join(tmp_path: Path, redis_server: Any) -> Join:
    """What the line says that the command prints with these arguments."""

    def run(*arguments: str, allows_http: str = "false") -> JoinLine:
        file = tmp_path / "job.yaml"
        file.write_text(YAML.format(address=redis_server.address, allows_http=allows_http))
        parsed = options.parse(
            ["join-line", "--label=a", f"--yaml_config={file}", *arguments],
        )
        said: list[str] = []
        assert token_command.join_line(parsed, said.append) == 0
        [line] = said
        return parse_join_line(line)

    return run


def register(redis_server: Any, *addresses: str) -> None:
    async def run() -> None:
        connection = Connection(f"redis://{redis_server.address}")
        store = RedisMemberStore(connection, JobKeys("Lenet"))
        for number, address in enumerate(addresses):
            member = Member(
                id=f"10.0.0.{number}:1::2026-11-25-10:00:00.000.000::1000{number}",
                role=Role.SERVER,
                tcp_address=f"10.0.0.{number}:1",
                http_address=address,
                manage_address="",
                pid=number,
                host="h",
                process_started_s=0.0,
                version="1",
                kernel="k",
                started_ms=0,
                state=MemberState.SERVING,
            )
            await store.register(member, 60_000)
        await connection.close()

    asyncio.run(run())


def test_an_address_that_servers_share_is_named_once(join: Join, redis_server: Any) -> None:
    register(redis_server, "fl.example.org:443", "10.0.0.9:6666", "fl.example.org:443")

    assert sorted(join().servers) == ["10.0.0.9:6666", "fl.example.org:443"]
    assert join("--server=h:1", "--server=g:1", "--server=h:1").servers == ("h:1", "g:1")


def test_a_token_that_servers_would_refuse_over_plain_http_is_warned_of(
    join: Join, capsys: pytest.CaptureFixture[str]
) -> None:
    line = join("--server=h:1")

    assert not line.is_tls
    assert (
        capsys.readouterr()
        .err.splitlines()
        .count(
            "the line says plain HTTP, over which servers refuse its token: set enable_ssl, give"
            " --https when a proxy in front of them has TLS, or set cluster.allow_tokens_over_http"
        )
        == 1
    )


def test_a_token_that_servers_take_is_not_warned_of(
    join: Join, capsys: pytest.CaptureFixture[str]
) -> None:
    assert join("--server=h:1", "--https").is_tls
    assert join("--server=h:1", allows_http="true").is_token_over_http
    assert "plain HTTP" not in capsys.readouterr().err
