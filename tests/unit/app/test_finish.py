"""Ending processes that a real Redis knows as members."""

from __future__ import annotations

import asyncio
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fl_cluster.app import finish as finish_module
from fl_cluster.app.finish import FinishOptions, finish, redis_at
from fl_cluster.app.identity import new_id
from fl_cluster.config.addresses import CacheKind, parse_cache_address
from fl_cluster.errors import ExitCode, StartupError, StoreUnavailable
from fl_cluster.lifecycle.membership import Member, MemberState, Role
from fl_cluster.store.redis import embedded
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.members import RedisMemberStore

pytestmark = pytest.mark.redis

POLITE = "import sys; print('up', flush=True); sys.stdin.read()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {POLITE}"


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a process that stays until it is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str = POLITE) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def member_of(process: subprocess.Popen[bytes], **changes: Any) -> Member:
    values: dict[str, Any] = {
        "id": new_id("127.0.0.1:1"),
        "role": Role.SERVER,
        "tcp_address": "127.0.0.1:1",
        "http_address": "127.0.0.1:2",
        "manage_address": "",
        "pid": process.pid,
        "host": platform.node(),
        "process_started_s": psutil.Process(process.pid).create_time(),
        "version": "0.1.0",
        "kernel": "reference",
        "started_ms": 0,
        "state": MemberState.SERVING,
    }
    return Member(**(values | changes))


def register(url: str, job: str, *members: Member, lease_ms: int = 60_000) -> None:
    async def write() -> None:
        connection = Connection(url)
        for member in members:
            await RedisMemberStore(connection, JobKeys(job)).register(member, lease_ms)
        await connection.close()

    asyncio.run(write())


def options_for(redis: Any, **changes: Any) -> FinishOptions:
    values = {
        "address": parse_cache_address(redis.address),
        "data_dir": "",
        "job": "",
        "stop_redis": False,
    }
    return FinishOptions(**(values | changes))


def test_every_process_of_the_job_is_ended_and_redis_is_left_alone(
    redis_server: Any, start_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    one, other = start_process(), start_process()
    register(redis_server.url, "A", member_of(one), member_of(other, role=Role.SCHEDULER))
    lines: list[str] = []

    code = finish(options_for(redis_server), lines.append)

    assert code == 0
    assert sorted(lines) == sorted([f"killed {one.pid}", f"killed {other.pid}"])
    assert (one.wait(5), other.wait(5)) == (-signal.SIGTERM, -signal.SIGTERM)
    assert redis_server.is_running()


def test_a_process_that_does_not_listen_is_killed(
    redis_server: Any,
    start_process: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finish_module, "GRACE_S", 0.2)
    process = start_process(STUBBORN)
    register(redis_server.url, "A", member_of(process))
    lines: list[str] = []

    finish(options_for(redis_server), lines.append)

    assert lines == [f"killed {process.pid}"]
    assert process.wait(5) == -signal.SIGKILL


def test_a_process_whose_lease_has_ended_is_found_too(
    redis_server: Any, start_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start_process()
    register(redis_server.url, "A", member_of(process), lease_ms=1)
    lines: list[str] = []

    finish(options_for(redis_server), lines.append)

    assert lines == [f"killed {process.pid}"]


def test_a_pid_that_now_belongs_to_somebody_else_is_left_alone(
    redis_server: Any, start_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    stranger = start_process()
    register(redis_server.url, "A", member_of(stranger, process_started_s=1_000.0))
    lines: list[str] = []

    assert finish(options_for(redis_server), lines.append) == 0

    assert lines == ["no process of this cluster runs on this host"]
    assert stranger.poll() is None


def test_a_member_on_another_host_is_named_and_left_alone(
    redis_server: Any, start_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    here, namesake = start_process(), start_process()
    far = member_of(namesake, host="elsewhere")
    register(redis_server.url, "A", member_of(here), far)
    lines: list[str] = []

    finish(options_for(redis_server), lines.append)

    assert lines == [
        f"killed {here.pid}",
        f"left alone: server {far.id} runs on elsewhere (pid {far.pid})",
    ]
    assert namesake.poll() is None


def test_with_several_jobs_the_one_to_end_must_be_named_and_only_that_is_ended(
    redis_server: Any, start_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    ours, theirs = start_process(), start_process()
    register(redis_server.url, "ours", member_of(ours))
    register(redis_server.url, "theirs", member_of(theirs))
    lines: list[str] = []

    with pytest.raises(StartupError, match="several jobs with processes here: ours, theirs"):
        finish(options_for(redis_server), lines.append)
    assert lines == []
    finish(options_for(redis_server, job="ours"), lines.append)

    assert lines == [f"killed {ours.pid}"]
    assert theirs.poll() is None


def test_a_job_without_processes_does_not_stand_in_the_way(
    redis_server: Any, start_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process, over = start_process(), start_process()
    register(redis_server.url, "over", member_of(over))
    over.kill()
    over.wait()
    register(redis_server.url, "running", member_of(process))
    lines: list[str] = []

    finish(options_for(redis_server), lines.append)

    assert lines == [f"killed {process.pid}"]


def test_a_job_that_redis_does_not_know_is_an_error_that_names_those_it_knows(
    redis_server: Any, start_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    register(redis_server.url, "A", member_of(start_process()))

    with pytest.raises(StartupError, match="knows no job 'B'; it knows: A"):
        finish(options_for(redis_server, job="B"), print)


def test_redis_is_stopped_when_asked_for(
    redis_server: Any, wait_until: Callable[..., None]
) -> None:
    lines: list[str] = []

    finish(options_for(redis_server, stop_redis=True), lines.append)

    assert lines[-1] == f"stopped Redis at {redis_server.address}"
    wait_until(lambda: not redis_server.is_running(), "Redis ended")


def test_a_redis_that_may_not_be_stopped_is_an_error(start_redis: Callable[..., Any]) -> None:
    redis = start_redis("--rename-command", "SHUTDOWN", "")

    with pytest.raises(StoreUnavailable, match=f"Redis at {redis.address} does not stop: "):
        finish(options_for(redis, stop_redis=True), print)

    assert redis.is_running()


def test_a_redis_that_is_away_is_one_sentence_and_exit_code_3(
    free_port: Callable[..., int],
) -> None:
    address = f"127.0.0.1:{free_port()}"
    options = FinishOptions(parse_cache_address(address), "", "", stop_redis=False)

    with pytest.raises(StoreUnavailable, match=f"Redis at {address} cannot be asked") as caught:
        finish(options, print)

    assert caught.value.exit_code is ExitCode.STORE_UNREACHABLE


def test_an_embedded_redis_that_nobody_uses_any_more_is_stopped_with_the_cluster(
    tmp_path: Path, redis_program: str, start_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    redis = embedded.ensure(tmp_path)
    process = start_process()
    register(redis.url, "A", member_of(process))
    address = parse_cache_address("embedded")
    options = FinishOptions(address, str(tmp_path), "A", stop_redis=False)
    lines: list[str] = []

    finish(options, lines.append)
    assert lines == [f"killed {process.pid}"]
    assert redis.pid is not None
    redis._use_lock.close()
    finish(options, lines.append)

    assert lines[-1] == f"stopped the embedded Redis in {tmp_path}"
    assert redis.pid is None
    with pytest.raises(StoreUnavailable, match="no embedded Redis runs"):
        finish(options, lines.append)


def test_redis_may_be_named_by_host_and_port_or_by_a_whole_address() -> None:
    assert str(redis_at("127.0.0.1", 23456, "")) == "127.0.0.1:23456"
    unix = redis_at("unix:/run/redis.sock", 23456, "secret")
    assert (unix.kind, unix.password) == (CacheKind.UNIX, "secret")
    assert redis_at("redis://h:1", 2, "p", "u").secret_url() == "redis://u:p@h:1/0"
    with pytest.raises(StartupError, match=r"--redis_address 1\.2\.3: "):
        redis_at("1.2.3", 1, "")
    with pytest.raises(StartupError, match="--redis_address redis://") as caught:
        redis_at("redis://u:hunter2@h:x", 1, "")
    assert "hunter2" not in str(caught.value)
