"""A cluster whose Redis has a replica and Sentinels: what a fail-over does to a round.

Real processes: a primary, a replica, three Sentinels, and a cluster that is told of two of
them and of one that does not exist.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from fl_cluster.errors import StoreUnavailable
from fl_cluster.store.redis.connection import Connection

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

CONF = """
port {port}
bind 127.0.0.1
sentinel monitor main 127.0.0.1 {primary} 2
sentinel down-after-milliseconds main 400
sentinel failover-timeout main 1000
"""
FAILED_OVER_S = 15.0
"""Sentinels that vote for each other at the same time try again after a while."""


class Watched:
    """A primary with a replica, and three Sentinels that watch over them."""

    def __init__(self, program: str, run_redis: Callable[..., Any], folder: Path) -> None:
        self._program = program
        self._folder = folder
        fast = ("--appendonly", "yes", "--repl-diskless-sync-delay", "0")
        first = run_redis(*fast)
        second = run_redis(*fast, "--replicaof", f"127.0.0.1 {first.port}")
        self._redis = {first.port: first, second.port: second}
        self._primary_port = first.port
        self._sentinels: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []

    def watch(self, first_port: int) -> None:
        self.ports = [first_port + n for n in range(3)]
        for port in self.ports:
            path = self._folder / f"sentinel-{port}.conf"
            path.write_text(CONF.format(port=port, primary=self._primary_port))
            command = [self._program, str(path), "--sentinel"]
            self._sentinels.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))

    @property
    def address(self) -> str:
        nobody, (first, second, _) = "127.0.0.1:1", self.ports
        return f"sentinel://{nobody},127.0.0.1:{first},127.0.0.1:{second}/main"

    def ask(self, *words: str) -> Any:
        with redis_client.Redis(port=self.ports[0], decode_responses=True, protocol=2) as sentinel:
            return sentinel.execute_command(*words)

    @property
    def primary(self) -> Any:
        """The process that is the primary now."""
        _, port = self.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", "main")
        return self._redis[int(port)]

    def is_whole(self) -> bool:
        """Whether the replica has all that the primary has, and the Sentinels know it as such."""
        try:
            [replica] = self.ask("SENTINEL", "REPLICAS", "main")
            flags = replica[replica.index("flags") + 1]
            with redis_client.Redis(port=self.primary.port) as primary:
                return flags == "slave" and primary.execute_command("WAIT", 1, 200) == 1
        except redis_client.RedisError:
            return False

    def is_well_known(self) -> bool:
        """Whether every Sentinel has found the others."""
        try:
            return all(self._peers(port) == 2 for port in self.ports)
        except redis_client.RedisError:
            return False

    @staticmethod
    def _peers(port: int) -> int:
        with redis_client.Redis(port=port, decode_responses=True, protocol=2) as sentinel:
            return len(sentinel.execute_command("SENTINEL SENTINELS", "main"))

    def end(self) -> None:
        for sentinel in self._sentinels:
            sentinel.kill()
            sentinel.wait()
        for process in self._redis.values():
            process.remove()


@pytest.fixture(scope="module")
def watched(
    redis_program: str,
    run_redis: Callable[..., Any],
    free_port: Callable[..., int],
    wait_until: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Watched]:
    watched = Watched(redis_program, run_redis, tmp_path_factory.mktemp("sentinels"))
    watched.watch(free_port(3))
    wait_until(watched.is_well_known, "the Sentinels know each other")
    yield watched
    watched.end()


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Any], watched: Watched) -> Any:
    return start_cluster(watched.address)


async def test_a_round_goes_on_after_its_primary_was_killed(
    devices: Any, watched: Watched, wait_until: Callable[..., None]
) -> None:
    """With every update that the replica had, and under its number."""
    await asyncio.to_thread(wait_until, watched.is_whole, "the replica has everything")
    number, old = devices.number, watched.primary
    old.kill()
    await devices.until_refused()

    await devices.uploaded("second", 1, position=2, timeout_s=FAILED_OVER_S)
    await devices.see_model()
    await devices.cluster.told("Redis does not answer")
    assert watched.primary is not old

    # It comes back as a replica of the other, which goes on being written to.
    await asyncio.to_thread(old.start)
    await devices.open_round()
    await devices.close_round()
    assert devices.number == number + 1


async def test_a_fail_over_that_somebody_asks_for_costs_nobody_a_round(
    devices: Any, watched: Watched, wait_until: Callable[..., None]
) -> None:
    await asyncio.to_thread(wait_until, watched.is_whole, "the replica has everything")
    number, old = devices.number, watched.primary
    watched.ask("SENTINEL FAILOVER", "main")
    await asyncio.to_thread(wait_until, lambda: watched.primary is not old, "it is replaced")

    await devices.close_round()
    assert devices.number == number
    for log in devices.cluster.logs:
        devices.cluster.sentences(log)


async def test_a_name_that_the_sentinels_do_not_know_is_said_at_once(watched: Watched) -> None:
    connection = Connection(watched.address.replace("/main", "/mian"), timeout_ms=1_000)
    began = time.monotonic()

    with pytest.raises(StoreUnavailable, match="it knows no service 'mian'"):
        await connection.ping()

    assert time.monotonic() - began < 2.0
    await connection.close()


async def test_without_any_sentinel_each_is_named(free_port: Callable[..., int]) -> None:
    nobody = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    connection = Connection(f"sentinel://{','.join(nobody)}/main", timeout_ms=1_000)

    with pytest.raises(StoreUnavailable, match="no Sentinel names a primary") as caught:
        await connection.ping()

    assert all(place in str(caught.value) for place in nobody)
    await connection.close()


@pytest.fixture
def secured_sentinel(
    redis_program: str,
    start_redis: Callable[..., Any],
    free_port: Callable[..., int],
    wait_until: Callable[..., None],
    tmp_path: Path,
) -> Iterator[tuple[Any, int]]:
    """A Redis with a password, and the port of a Sentinel with the same."""
    primary, port = start_redis("--requirepass", "secret"), free_port()
    path = tmp_path / "sentinel.conf"
    secured = "requirepass secret\nsentinel auth-pass main secret\n"
    path.write_text(CONF.format(port=port, primary=primary.port) + secured)
    sentinel = subprocess.Popen([redis_program, str(path), "--sentinel"], stdout=subprocess.DEVNULL)
    wait_until(lambda: _listens(port), "the Sentinel listens")
    yield primary, port
    sentinel.kill()
    sentinel.wait()


async def test_a_sentinel_that_asks_for_a_password_is_given_that_of_redis(
    secured_sentinel: tuple[Any, int],
) -> None:
    primary, port = secured_sentinel
    connection = Connection(f"sentinel://:secret@127.0.0.1:{port}/main/1", timeout_ms=1_000)

    assert await connection.command("SET", "key", "value")

    await connection.close()
    with redis_client.Redis(port=primary.port, password="secret", db=1) as client:
        assert client.get("key") == b"value"


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
