"""What a real Redis is found to promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fl_cluster.errors import StoreUnavailable
from fl_cluster.store.durability import Level, StoreDurability, judge
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.durability import RedisDurability

AOF = ("--appendonly", "yes", "--appendfsync")


@pytest.mark.redis
@pytest.mark.parametrize(
    ("options", "level", "words"),
    [
        (("--save", ""), Level.NONE, "keeps nothing when it ends"),
        (("--save", "60", "1"), Level.NONE, "since the last one die with it"),
        ((*AOF, "no"), Level.NONE, "appendfsync no"),
        ((*AOF, "everysec"), Level.EVERYSEC, "up to one second"),
        ((*AOF, "always"), Level.ALWAYS, "no acknowledged update is lost"),
    ],
)
async def test_the_level_follows_the_settings_redis_was_started_with(
    private_redis: Callable[..., Any],
    connect: Callable[..., Connection],
    options: tuple[str, ...],
    level: Level,
    words: str,
) -> None:
    found = await RedisDurability(connect(private_redis(*options))).durability()

    assert found.level is level
    assert words in found.sentence
    assert found.is_weak is (level is Level.NONE)


@pytest.mark.redis
async def test_a_user_who_may_not_read_the_configuration_gets_unknown(
    private_redis: Callable[..., Any], connect: Callable[..., Connection]
) -> None:
    connection = connect(private_redis())
    await connection.command("ACL", "SETUSER", "default", "-config")

    found = await RedisDurability(connection).durability()

    assert found.level is Level.UNKNOWN
    assert not found.is_weak


@pytest.mark.redis
async def test_a_redis_whose_config_command_was_removed_gets_unknown(
    private_redis: Callable[..., Any], connect: Callable[..., Connection]
) -> None:
    connection = connect(private_redis("--rename-command", "CONFIG", ""))

    assert (await RedisDurability(connection).durability()).level is Level.UNKNOWN


@pytest.mark.redis
async def test_a_redis_that_is_away_is_a_fault_and_not_unknown(
    private_redis: Callable[..., Any], connect: Callable[..., Connection]
) -> None:
    redis = private_redis()
    connection = connect(redis)
    redis.kill()

    with pytest.raises(StoreUnavailable):
        await RedisDurability(connection).durability()


def test_snapshots_beside_an_append_only_file_do_not_weaken_it() -> None:
    with_both = judge(append_only="yes", append_fsync="always", save="3600 1")

    assert with_both == judge(append_only="yes", append_fsync="always", save="")
    assert isinstance(with_both, StoreDurability)
