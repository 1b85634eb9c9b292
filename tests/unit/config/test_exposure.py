"""A configuration file that holds a password is for its owner, as files of keys are."""

from __future__ import annotations

import pytest

from fl_cluster.config.exposure import is_secret
from fl_cluster.config.load import load

SECRETS = {
    "distributed_cache.password": "hunter2",
    "distributed_cache.address": "redis://worker:hunter2@127.0.0.1:6379",
}


@pytest.mark.parametrize("key", SECRETS)
@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602])
@pytest.mark.parametrize("role", ["server", "scheduler"])
def test_a_file_with_a_password_that_all_may_read_is_refused_with_what_to_do(
    bench, key, mode, role
):
    file = bench.write_changed({key: SECRETS[key]})
    bench.path.chmod(mode)

    [said] = bench.problems(load, file, role, environ={})

    assert said == (
        f"The parameter '{key}' holds a password, and every user of this host may read or write"
        f" yaml config file {file} (mode 0{mode:o}): chmod 600 {file}, or take the password out"
        " and set FL_CLUSTER_REDIS_PASSWORD"
    )


@pytest.mark.parametrize("key", SECRETS)
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_file_with_a_password_that_is_for_few_is_taken(bench, key, mode):
    file = bench.write_changed({key: SECRETS[key]})
    bench.path.chmod(mode)

    settings = load(file, "server", environ={})

    assert settings.cache.address.password == "hunter2"
    assert not any("hunter2" in warning for warning in settings.warnings)


def test_a_password_that_another_takes_the_place_of_is_no_less_open(bench):
    file = bench.write_changed({"distributed_cache.password": "hunter2"})
    bench.path.chmod(0o644)

    [said] = bench.problems(load, file, "server", environ={"FL_CLUSTER_REDIS_PASSWORD": "other"})

    assert "'distributed_cache.password' holds a password" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distributed_cache.password": ""},
        {"distributed_cache.address": "redis://worker@127.0.0.1:6379"},
        {"distributed_cache.address": "embedded"},
        {"ssl.server_key_path": "server.key"},
    ],
)
def test_a_file_without_a_secret_may_be_read_by_all(bench, changes):
    file = bench.write_changed(changes)
    bench.path.chmod(0o644)

    assert load(file, "server", environ={"FL_CLUSTER_REDIS_PASSWORD": "hunter2"})


@pytest.mark.parametrize(
    ("key", "text", "verdict"),
    [
        ("distributed_cache.password", "x", True),
        ("distributed_cache.password", "", False),
        ("distributed_cache.username", "worker", False),
        ("distributed_cache.address", "rediss://:x@cache", True),
        ("distributed_cache.address", "sentinel://:x@a,b/main", True),
        ("distributed_cache.address", "user:x@cache:80", True),
        ("distributed_cache.address", "redis://worker@cache", False),
        ("distributed_cache.address", "127.0.0.1:6379", False),
        ("fl_name", "a@b", False),
        ("unknown.key", "x", False),
    ],
)
def test_what_nobody_else_shall_see(key, text, verdict):
    assert is_secret(key, text) is verdict
