"""Starting a cluster on Redis of every kind, and what users read when that cannot work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis as redis_client

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

RIGHTS = "~fl:* &fl:* +@read +@write +@scripting +@pubsub +@connection +@transaction +time +info"
"""What docs/operations.md says a user needs."""

WORKER = ("--user", "worker", "on", ">s3cret", *RIGHTS.split())


def test_a_socket_a_database_and_a_user_with_a_password(
    make_job: Callable[..., Any],
    start_redis: Callable[..., Any],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "redis.sock"
    redis = start_redis("--unixsocket", str(path), *WORKER)
    job = make_job(f"unix://worker@{path}?db=3")
    monkeypatch.setenv("FL_CLUSTER_REDIS_PASSWORD", "s3cret")

    for script in ("run_sched.py", "run_server.py"):
        started = job.run(script)
        assert (started.returncode, started.stderr) == (0, "")
    assert len(job.nodes()) == 2
    with redis_client.Redis(port=redis.port, db=3) as client:
        assert client.exists("fl:{Manual}:round")

    finished = job.finish()
    assert finished.returncode == 0, finished.stderr
    assert job.processes() == []


@pytest.mark.parametrize(
    ("script", "password", "words"),
    [
        ("run_sched.py", "", "Authentication required"),
        ("run_server.py", "wr0ng", "invalid username-password pair or user is disabled"),
        ("finish_cloud.py", "wr0ng", "invalid username-password pair or user is disabled"),
    ],
)
def test_a_wrong_password_is_one_sentence(
    make_job: Callable[..., Any],
    start_redis: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    password: str,
    words: str,
) -> None:
    redis = start_redis("--requirepass", "s3cret")
    job = make_job(redis.address)
    monkeypatch.setenv("FL_CLUSTER_REDIS_PASSWORD", password)

    refused = job.finish() if script == "finish_cloud.py" else job.run(script)

    assert refused.returncode == 3
    assert len(refused.stderr.splitlines()) == 1
    assert words in refused.stderr
    assert redis.address in refused.stderr
    assert "wr0ng" not in refused.stderr + refused.stdout
    assert job.processes() == []


def test_a_password_on_the_command_line_is_told_and_not_passed_on_in_arguments(
    make_job: Callable[..., Any], start_redis: Callable[..., Any]
) -> None:
    redis = start_redis("--requirepass", "s3cret")
    job = make_job(redis.address)
    secret = "--set=distributed_cache.password=s3cret"

    started = [
        job.run("run_sched.py", secret),
        job.run("run_server.py", "--local_server_num=2", secret),
    ]

    for each in started:
        assert each.returncode == 0, each.stderr
        assert "set the environment variable FL_CLUSTER_REDIS_PASSWORD instead" in each.stderr
        assert "s3cret" not in each.stdout + each.stderr
    running = job.processes()
    assert len(running) == 3
    assert not [each for each in running if "s3cret" in " ".join(each.cmdline())]
    assert len(job.nodes()) == 2


@pytest.mark.parametrize(
    ("rights", "words"),
    [
        (("~*", "&*", "+@all", "-@scripting"), "the user may not do this"),
        (("~other:*", "&*", "+@all"), "the user may not do this"),
    ],
    ids=["no-scripts", "other-keys"],
)
def test_rights_that_are_missing_are_one_sentence(
    make_job: Callable[..., Any],
    start_redis: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    rights: tuple[str, ...],
    words: str,
) -> None:
    redis = start_redis("--user", "worker", "on", ">s3cret", *rights)
    job = make_job(f"redis://worker@{redis.address}/0")
    monkeypatch.setenv("FL_CLUSTER_REDIS_PASSWORD", "s3cret")

    refused = job.run("run_server.py")

    assert refused.returncode == 3
    assert len(refused.stderr.splitlines()) == 1
    assert words in refused.stderr
    assert f"Redis at {redis.address} cannot be used" in refused.stderr


def test_a_redis_that_reads_much_data_is_waited_for(
    make_job: Callable[..., Any], start_redis: Callable[..., Any]
) -> None:
    redis = start_redis("--appendonly", "yes", "--key-load-delay", "50")
    with redis_client.Redis(port=redis.port) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(30_000):
            pipeline.set(f"key-{number}", number)
        pipeline.execute()
    redis.kill()
    redis.start(answers=redis.is_listening)
    job = make_job(redis.address)

    started = job.run("run_server.py")

    assert started.returncode == 0, started.stderr
    assert f"waiting for Redis at {redis.address}, which still reads its data" in started.stdout
    assert "% read" in started.stdout
    assert "is ready" in started.stdout
