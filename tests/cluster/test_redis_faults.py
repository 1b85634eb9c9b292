"""Every way Redis can misbehave, under one running cluster that survives all of them.

Each test brings a round to the point where one device's update is acknowledged and the
other's is not, lets Redis misbehave, watches what devices are told meanwhile, and lets it be
well again: the round then ends by itself with both updates in it, once each, under the number
it had, and the logs say in one sentence what it was.
docs/redis-faults.md has the same as a table.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis as redis_client

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

OPTIONS = ("--appendonly", "yes", "--lua-time-limit", "50", "--key-load-delay", "50")

WELL = (
    ("CONFIG", "SET", "requirepass", ""),
    ("CONFIG", "SET", "maxmemory", 0),
    ("CONFIG", "SET", "maxclients", 10_000),
    ("CONFIG", "SET", "save", ""),
    ("REPLICAOF", "NO", "ONE"),
)

UNREACHABLE = "Redis does not answer"
LOADING = "Redis is starting and still reads its data"
FULL = "Redis has reached its maxmemory and takes no writes"
REPLICA = "Redis is a read-only replica: it answers and takes no writes"
DISK = "Redis cannot write to its disk and therefore takes no writes"
FORBIDDEN = "Redis does not accept this user or its password"
BUSY = "Redis is busy with a script that does not end"
CROWDED = "Redis takes no more connections"
LOST = "Redis has lost what it held of this job"


class Patient:
    """The Redis that is made to misbehave."""

    def __init__(self, process: Any) -> None:
        self.process = process

    def admin(self, **options: Any) -> redis_client.Redis:
        """A client of our own; the caller closes it."""
        return redis_client.Redis(port=self.process.port, socket_timeout=5, protocol=2, **options)

    def command(self, *words: str | int) -> Any:
        with self.admin() as admin:
            return admin.execute_command(*words)

    def fill(self, count: int) -> None:
        """Give it something to read when it starts."""
        with self.admin(db=9) as admin:
            pipeline = admin.pipeline(transaction=False)
            for number in range(count):
                pipeline.set(f"key-{number}", number)
            pipeline.execute()

    def unfill(self) -> None:
        """Give it less to read again."""
        with self.admin(db=9) as admin:
            admin.flushdb()
            admin.execute_command("BGREWRITEAOF")
            self.process.wait_until(lambda: not self._is_rewriting(admin))

    @staticmethod
    def _is_rewriting(admin: redis_client.Redis) -> bool:
        found = admin.info("persistence")
        return bool(found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"])

    @property
    def _files(self) -> list[Path]:
        """The append-only file: one until Redis 7, a folder since."""
        return list(self.process.folder.glob("appendonly*"))

    def save_file(self) -> None:
        """Keep what it has written so far."""
        saved = self.process.folder / "saved"
        saved.mkdir()
        for path in self._files:
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, saved / path.name)

    def lose_file(self) -> None:
        """Forget all it has written."""
        for path in self._files:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def restore_file(self) -> None:
        """Put back what was kept."""
        self.lose_file()
        saved = self.process.folder / "saved"
        for path in saved.iterdir():
            path.rename(self.process.folder / path.name)
        saved.rmdir()

    def heal(self) -> None:
        """Undo what a test that failed has left behind."""
        if not self.process.is_running():
            self.process.start()
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.wait_until(self.process.answers)
        try:
            self._heal(None)
        except redis_client.AuthenticationError:
            self._heal("another")

    def _heal(self, password: str | None) -> None:
        with self.admin(password=password) as admin:
            for words in WELL:
                admin.execute_command(*words)


@pytest.fixture(scope="module")
def redis_process(run_redis: Callable[..., Any]) -> Iterator[Any]:
    process = run_redis(*OPTIONS)
    yield process
    process.remove()


@pytest.fixture
def patient(redis_process: Any) -> Iterator[Patient]:
    patient = Patient(redis_process)
    yield patient
    patient.heal()


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Any], redis_process: Any) -> Any:
    return start_cluster(redis_process.address)


async def test_one_that_is_stopped_for_five_seconds(patient: Patient, devices: Any) -> None:
    os.kill(patient.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        early = asyncio.create_task(devices.upload("second", 1))
        await devices.until_refused()
        await asyncio.sleep(5.0 - (time.monotonic() - began))
        await devices.refused_everywhere()
    finally:
        os.kill(patient.process.pid, signal.SIGCONT)

    await devices.resume()
    assert (await early).status in (200, 503)
    await devices.cluster.told(UNREACHABLE)


async def test_one_that_is_killed_and_comes_back_with_its_file(
    patient: Patient, devices: Any
) -> None:
    patient.process.kill()
    await devices.until_refused("store_unreachable")
    await asyncio.to_thread(patient.process.start)

    await devices.resume()
    await devices.cluster.told(UNREACHABLE)


async def test_one_that_reads_much_data_when_it_comes_back(patient: Patient, devices: Any) -> None:
    await asyncio.to_thread(patient.fill, 24_000)
    patient.process.kill()
    await devices.until_refused()
    patient.process.start(answers=patient.process.is_listening)
    await devices.refused_everywhere()
    await asyncio.to_thread(patient.process.wait_until, patient.process.answers)

    await devices.resume()
    await devices.cluster.told(UNREACHABLE, LOADING)
    await asyncio.to_thread(patient.unfill)


async def test_one_that_is_killed_when_the_last_update_is_acknowledged(
    patient: Patient, devices: Any
) -> None:
    said = await devices.upload("second", 1)
    assert said.status == 200
    patient.process.kill()
    await asyncio.to_thread(patient.process.start)

    await devices.see_model()
    for log in devices.cluster.logs:
        devices.cluster.sentences(log)


async def test_one_that_comes_back_without_what_it_had_acknowledged(
    patient: Patient, devices: Any
) -> None:
    """An update that is lost with Redis's file counts nowhere, and once when it is sent again."""
    await devices.close_round()
    await devices.be_admitted()
    devices.cluster.mark()
    patient.save_file()
    assert (await devices.upload("first", 0)).status == 200
    patient.process.kill()
    await devices.until_refused()
    patient.restore_file()
    await asyncio.to_thread(patient.process.start)

    await devices.uploaded("second", 0, position=1)
    await devices.uploaded("first", 0, position=2)
    await devices.see_model()
    await devices.cluster.told(UNREACHABLE)


async def test_one_that_comes_back_with_a_round_that_had_ended(
    patient: Patient, devices: Any
) -> None:
    """Servers hold its model, and bring it back: a round that has ended stays ended."""
    patient.save_file()
    await devices.close_round()
    await devices.open_round()
    number, base = devices.number, devices.base
    patient.process.kill()
    await devices.until_refused()
    patient.restore_file()
    await asyncio.to_thread(patient.process.start)

    await devices.open_round()
    assert devices.number == number + 1
    np.testing.assert_array_equal(devices.base, base)
    await devices.close_round()
    await devices.cluster.told(UNREACHABLE, LOST)


async def test_one_that_comes_back_empty(patient: Patient, devices: Any) -> None:
    """The round is given up; who was in it can be in the next, which has the same model."""
    number, base = devices.number, devices.base
    patient.process.kill()
    patient.lose_file()
    await devices.until_refused()
    await asyncio.to_thread(patient.process.start)

    began = time.monotonic()
    await devices.open_round()
    assert time.monotonic() - began < 5.0
    assert devices.number == number + 1
    np.testing.assert_array_equal(devices.base, base)
    given_up = await devices.get_model(number, 0)
    np.testing.assert_array_equal(given_up.message.feature_map[0].data, base)
    await devices.close_round()
    await devices.cluster.told(UNREACHABLE, LOST)
    assert (await devices.get_model(number - 1, 0)).message.model_round == number - 1


async def test_one_that_is_emptied_while_it_runs(patient: Patient, devices: Any) -> None:
    number = devices.number
    patient.command("FLUSHALL")

    assert (await devices.get_model(number - 1, 0)).status == 200
    await devices.open_round()
    assert devices.number == number + 1
    await devices.close_round()
    await devices.cluster.told(LOST)
    text = (devices.cluster.folder / "metrics.json").read_text()
    starts = {
        line["currentIteration"]: line["startTime"] for line in map(json.loads, text.splitlines())
    }
    began = starts.pop(number)
    assert began
    assert began not in starts.values()


async def test_one_that_has_no_memory_left(patient: Patient, devices: Any) -> None:
    patient.command("CONFIG", "SET", "maxmemory", 1)
    await devices.until_refused("store_out_of_memory")
    patient.command("CONFIG", "SET", "maxmemory", 0)

    await devices.resume()
    await devices.cluster.told(FULL)


async def test_one_that_was_made_a_replica(patient: Patient, devices: Any) -> None:
    patient.command("REPLICAOF", "127.0.0.1", 1)
    await devices.until_refused("store_read_only")
    patient.command("REPLICAOF", "NO", "ONE")

    await devices.resume()
    await devices.cluster.told(REPLICA)


async def test_one_that_cannot_write_to_its_disk(patient: Patient, devices: Any) -> None:
    # A folder by the name of the snapshot cannot be replaced by it, not even by root.
    obstacle = patient.process.folder / "dump.rdb"
    obstacle.mkdir()
    patient.command("CONFIG", "SET", "save", "3600 1000000")
    patient.command("BGSAVE")
    await devices.until_refused("store_disk")
    obstacle.rmdir()
    patient.command("BGSAVE")

    await devices.resume()
    await devices.cluster.told(DISK)
    patient.command("CONFIG", "SET", "save", "")


async def test_one_whose_password_was_changed(patient: Patient, devices: Any) -> None:
    with patient.admin() as admin:
        admin.execute_command("CONFIG", "SET", "requirepass", "another")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await devices.until_refused("store_forbidden")
        admin.execute_command("CONFIG", "SET", "requirepass", "")

    await devices.resume()
    await devices.cluster.told(FORBIDDEN)


async def test_one_that_takes_no_more_connections(patient: Patient, devices: Any) -> None:
    with patient.admin() as admin:
        admin.execute_command("CONFIG", "SET", "maxclients", 1)
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await devices.until_refused()
        admin.execute_command("CONFIG", "SET", "maxclients", 10_000)

    await devices.resume()
    # Redis says why and hangs up; whoever was just about to write does not hear it.
    await devices.cluster.told((CROWDED, UNREACHABLE))


async def test_one_that_is_busy_with_somebody_s_script(patient: Patient, devices: Any) -> None:
    with patient.admin() as other:
        endless = asyncio.create_task(
            asyncio.to_thread(_ends_badly, other, "EVAL", "while true do end", 0)
        )
        await devices.until_refused("store_busy")
        patient.command("SCRIPT", "KILL")
        await endless

    await devices.resume()
    await devices.cluster.told(BUSY)


def _ends_badly(client: redis_client.Redis, *words: str | int) -> None:
    with pytest.raises(redis_client.RedisError):
        client.execute_command(*words)


@pytest.mark.parametrize(
    "commands",
    [
        [("SCRIPT", "FLUSH")],
        [
            ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
            ("CLIENT", "KILL", "TYPE", "pubsub"),
        ],
        [("CLIENT", "PAUSE", 800)],
    ],
    ids=["scripts-flushed", "connections-killed", "paused-briefly"],
)
async def test_what_nobody_should_notice(
    patient: Patient, devices: Any, commands: list[tuple[str | int, ...]]
) -> None:
    with patient.admin() as admin:
        for command in commands:
            admin.execute_command(*command)

    said = await devices.upload("second", 1)

    assert (said.status, said.message.receipt.position) == (200, 2)
    await devices.see_model()
    for log in devices.cluster.logs:
        assert devices.cluster.sentences(log) == []
