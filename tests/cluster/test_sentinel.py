"""A cluster whose Redis has a replica and Sentinels: what a fail-over does to a round.

Real processes: a primary, a replica, three Sentinels, and a cluster that is told of two of
them and of one that does not exist.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

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
        second = run_redis(*fast, "--replicaof", "127.0.0.1", str(first.port))
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

    def replicate(self) -> None:
        """Return when the replica has everything that the primary has now."""
        with redis_client.Redis(port=self.primary.port) as primary:
            primary.set("probe", "1")
            assert primary.execute_command("WAIT", 1, 4_000) == 1

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


async def test_a_round_goes_on_after_its_primary_was_killed(devices: Any, watched: Watched) -> None:
    """With every update that the replica had, and under its number."""
    await asyncio.to_thread(watched.replicate)
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
