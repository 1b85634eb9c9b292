"""Reaching Redis when a process starts, and what is said while and when that does not work."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fl_cluster.app.store_access import announce_durability, open_store
from fl_cluster.config.load import load
from fl_cluster.config.schema import JobSettings
from fl_cluster.errors import ExitCode, StoreUnavailable
from fl_cluster.store.redis import embedded
from fl_cluster.telemetry.processes import has_ended

pytestmark = pytest.mark.redis

Start = Callable[..., Any]

YAML = """
fl_name: Access
fl_iteration_num: 1
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {{type: redis, address: "{address}", username: "{username}"}}
cluster: {{data_dir: "{data_dir}", redis_timeout_ms: 2000}}
"""


class Jobs:
    """Settings of jobs whose Redis is somewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def at(
        self, address: str, *, username: str = "", password: str = "", **files: str
    ) -> JobSettings:
        path = self.folder / "job.yaml"
        data_dir = self.folder / "data"
        path.write_text(YAML.format(address=address, username=username, data_dir=data_dir))
        path.chmod(0o600)
        environ = {"FL_CLUSTER_REDIS_PASSWORD": password} if password else {}
        more = {f"distributed_cache.{name}": file for name, file in files.items()}
        return load(path, "scheduler", overrides=more, environ=environ)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    yield Jobs(tmp_path)
    embedded.stop(tmp_path / "data")


async def refusal(settings: JobSettings) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught:
        async with open_store(settings):
            pytest.fail("it was let in")
    assert caught.value.exit_code is ExitCode.STORE_UNREACHABLE
    return caught.value


async def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def is_over(pid: int) -> bool:
    return not psutil.pid_exists(pid) or has_ended(psutil.Process(pid))


class TestPlacesAndLogins:
    async def test_a_socket_a_database_and_a_user_of_the_acl(
        self, jobs: Jobs, start_redis: Start
    ) -> None:
        path = jobs.folder / "redis.sock"
        start_redis("--unixsocket", str(path), "--user", "worker", "on", ">s@cret/", "~*", "+@all")
        settings = jobs.at(f"unix:{path}?db=3", username="worker", password="s@cret/")

        async with open_store(settings) as connection:
            await connection.command("SET", "key", "value")
            who = await connection.command("ACL", "WHOAMI")
            found = await connection.command("CLIENT", "INFO")

        assert who == b"worker"
        text = found if isinstance(found, dict) else str(found)
        assert "3" in str(text["db"] if isinstance(text, dict) else text)

    async def test_the_login_may_stand_in_the_address(self, jobs: Jobs, start_redis: Start) -> None:
        redis = start_redis("--user", "worker", "on", ">secret", "~*", "+@all")
        redis_url = f"redis://worker:secret@{redis.address}/2"

        async with open_store(jobs.at(redis_url)) as connection:
            assert await connection.command("ACL", "WHOAMI") == b"worker"

    @pytest.mark.parametrize(
        ("username", "password", "words"),
        [
            ("", "", "Authentication required"),
            ("", "wrong", "invalid username-password pair or user is disabled"),
            ("nobody", "secret", "invalid username-password pair or user is disabled"),
        ],
    )
    async def test_a_wrong_login_is_one_sentence_without_the_password(
        self, jobs: Jobs, start_redis: Start, username: str, password: str, words: str
    ) -> None:
        redis = start_redis("--requirepass", "secret")

        fault = await refusal(jobs.at(redis.address, username=username, password=password))

        text = str(fault)
        assert text.startswith(
            "Link to distributed cache failed, distributed cache address: "
            f"{redis.address}, enable ssl: 0: "
        )
        assert words in text
        assert text.endswith(
            "check distributed_cache.username, FL_CLUSTER_REDIS_PASSWORD and the user's ACL"
        )
        assert "wrong" not in text
        assert "\n" not in text

    async def test_a_database_that_redis_does_not_have(
        self, jobs: Jobs, start_redis: Start
    ) -> None:
        redis = start_redis("--databases", "2")

        fault = await refusal(jobs.at(f"redis://{redis.address}/2"))

        assert "Link to distributed cache failed" in str(fault)
        assert "DB index is out of range" in str(fault)

    async def test_a_host_that_does_not_exist(self, jobs: Jobs) -> None:
        fault = await refusal(jobs.at("redis://no-such-host.invalid:6379"))

        assert "no-such-host.invalid:6379" in str(fault)
        assert str(fault).endswith("see to the network between it and this host")

    async def test_a_redis_with_tls_that_is_asked_without_is_one_sentence_with_the_remedy(
        self, jobs: Jobs, start_tls_redis: Start
    ) -> None:
        _, port = start_tls_redis()
        fault = await refusal(jobs.at(f"127.0.0.1:{port}"))

        assert str(fault).startswith(
            "Sync instance info with distributed cache failed, distributed_cache_address:"
            f" 127.0.0.1:{port}: "
        )
        assert str(fault).endswith("if it speaks TLS there, begin its address with rediss://")

    async def test_what_tls_minds_is_one_sentence_and_not_waited_for(
        self, jobs: Jobs, start_tls_redis: Start
    ) -> None:
        _, port = start_tls_redis()
        fault = await refusal(jobs.at(f"rediss://127.0.0.1:{port}"))

        assert "its certificate is refused: it does not come from the CA that is trusted here" in (
            str(fault)
        )
        assert "correct cacert_filename" in str(fault)

    async def test_something_that_is_no_redis(self, jobs: Jobs) -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server:
            fault = await refusal(jobs.at(f"{host}:{port}"))

        assert "Sync instance info with distributed cache failed" in str(fault)
        assert "onnection" in fault.reason

    @pytest.mark.parametrize(
        "name", ["cacert_filename", "cert_filename", "private_key_filename", "capath"]
    )
    async def test_a_tls_file_that_is_not_there_is_named_before_redis_is_touched(
        self, jobs: Jobs, certificates: Any, name: str
    ) -> None:
        files = {
            "cacert_filename": certificates.path("ca.crt"),
            "cert_filename": certificates.path("client.crt"),
            "private_key_filename": certificates.path("client.key"),
            "capath": str(jobs.folder),
        }
        visits: list[object] = []
        async with await asyncio.start_server(
            lambda _, writer: visits.append(writer), "127.0.0.1", 0
        ) as server:
            host, port = server.sockets[0].getsockname()
            async with asyncio.timeout(5):
                fault = await refusal(
                    jobs.at(f"rediss://{host}:{port}", **files | {name: "absent"})
                )

        assert str(fault).startswith(
            "Link to distributed cache failed, distributed cache address: "
            f"rediss://{host}:{port}, enable ssl: 0: distributed_cache.{name} absent: No such file"
        )
        assert "correct cacert_filename" in str(fault)
        assert not visits


class TestWhatTheBlockMeets:
    @pytest.mark.parametrize(
        ("trouble", "words"),
        [
            (("CONFIG", "SET", "maxmemory", "1"), "has reached its maxmemory"),
            (("REPLICAOF", "127.0.0.1", "1"), "is a read-only replica"),
        ],
    )
    async def test_a_redis_that_refuses_to_write_is_named_with_its_remedy(
        self, jobs: Jobs, start_redis: Start, trouble: tuple[str, ...], words: str
    ) -> None:
        redis = start_redis()

        async def write() -> None:
            async with open_store(jobs.at(redis.address)) as connection:
                await connection.command(*trouble)
                await connection.command("SET", "key", "value")

        with pytest.raises(StoreUnavailable) as caught:
            await write()

        assert str(caught.value).startswith(f"Redis at {redis.address} cannot be used: Redis")
        assert words in str(caught.value)
        assert "To do: " in str(caught.value)

    async def test_a_user_who_may_not_write_is_told_so(
        self, jobs: Jobs, start_redis: Start
    ) -> None:
        redis = start_redis("--user", "reader", "on", ">secret", "~*", "+@read", "+ping")
        settings = jobs.at(redis.address, username="reader", password="secret")

        async def write() -> None:
            async with open_store(settings) as connection:
                await connection.command("SET", "key", "value")

        with pytest.raises(StoreUnavailable, match="the user may not do this") as caught:
            await write()

        assert "secret" not in str(caught.value)


class TestARedisThatIsStarting:
    async def test_a_socket_that_is_not_there_yet_is_waited_for(
        self, jobs: Jobs, start_redis: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = jobs.folder / "redis.sock"

        async def open_it() -> None:
            async with open_store(jobs.at(f"unix:{path}")) as connection:
                await connection.ping()

        opening = asyncio.create_task(open_it())
        await eventually(lambda: caplog.records or opening.done())
        await asyncio.to_thread(start_redis, "--unixsocket", str(path))
        async with asyncio.timeout(10):
            await opening

    async def test_one_that_comes_later_is_waited_for(
        self, jobs: Jobs, start_redis: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        redis = start_redis()
        redis.kill()

        async def open_it() -> None:
            async with open_store(jobs.at(redis.address)) as connection:
                await connection.ping()

        opening = asyncio.create_task(open_it())
        await eventually(lambda: caplog.records)
        await asyncio.to_thread(redis.start)
        await asyncio.wait_for(opening, 10)

        [message] = caplog.messages
        assert message == (
            f"waiting for Redis at {redis.address}, which does not accept connections;"
            f" start it with: redis-server --port {redis.port}"
        )

    async def test_one_that_reads_its_data_is_waited_for_and_says_how_far_it_is(
        self, jobs: Jobs, start_redis: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        # A Redis that loads answers once in 1,024 commands.
        redis = start_redis("--appendonly", "yes", "--key-load-delay", "50")
        async with open_store(jobs.at(redis.address)) as connection:
            fill = "for i = 1, 16000 do redis.call('SET', 'k' .. i, 'value') end"
            await connection.command("EVAL", fill, 0)
        redis.kill()
        redis.start(answers=redis.is_listening)

        async with open_store(jobs.at(redis.address)) as connection:
            assert await connection.command("GET", "k16000") == b"value"

        [message] = caplog.messages
        assert message.startswith(
            f"waiting for Redis at {redis.address}, which still reads its data ("
        )
        assert "% read, about" in message


class TestTheEmbeddedRedis:
    async def test_one_that_dies_is_started_again_with_what_it_knew(
        self, jobs: Jobs, redis_program: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = jobs.at("embedded")
        async with open_store(settings) as connection:
            await connection.command("SET", "key", "value")
            first = await connection.command("INFO", "server")
            os.kill(first["process_id"], signal.SIGKILL)
            await eventually(lambda: caplog.records)

            assert await connection.command("GET", "key") == b"value"
            again = await connection.command("INFO", "server")

        assert again["process_id"] != first["process_id"]
        assert is_over(again["process_id"])
        assert caplog.messages == ["the embedded Redis had died and was started again"]

    async def test_of_two_users_one_starts_it_again(
        self, jobs: Jobs, redis_program: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = jobs.at("embedded")
        async with open_store(settings) as one, open_store(settings) as other:
            await one.command("SET", "key", "value")
            before = (await one.command("INFO", "server"))["process_id"]
            os.kill(before, signal.SIGKILL)
            await eventually(lambda: caplog.records)
            # Longer than the other one needs to notice.
            await asyncio.sleep(0.6)

            assert await other.command("GET", "key") == b"value"

        assert len(caplog.records) == 1

    async def test_one_that_cannot_be_started_again_is_complained_of_once(
        self,
        jobs: Jobs,
        redis_program: str,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        async with open_store(jobs.at("embedded")) as connection:
            pid = (await connection.command("INFO", "server"))["process_id"]
            with monkeypatch.context() as changed:
                changed.setenv("PATH", str(jobs.folder))
                changed.setattr(embedded, "find_spec", lambda _: None)
                os.kill(pid, signal.SIGKILL)
                await eventually(lambda: caplog.records)
                await asyncio.sleep(0.6)
                [complaint] = caplog.records
            await eventually(lambda: len(caplog.records) > 1)
            await connection.ping()

        assert complaint.levelno == logging.ERROR
        assert "cannot be started again: no redis-server found" in complaint.getMessage()


class TestWhatIsSaidAtStart:
    @pytest.mark.parametrize(
        ("options", "is_warned"),
        [
            (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), True),
            (("--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"), True),
            (("--maxmemory", "100mb"), False),
            (("--maxmemory-policy", "allkeys-lru"), False),
        ],
    )
    async def test_a_redis_that_drops_keys_is_warned_of(
        self,
        jobs: Jobs,
        start_redis: Start,
        caplog: pytest.LogCaptureFixture,
        options: tuple[str, ...],
        is_warned: bool,
    ) -> None:
        redis = start_redis("--appendonly", "yes", *options)

        async with open_store(jobs.at(redis.address)) as connection:
            await announce_durability(connection)

        assert [message.partition(" (")[0] for message in caplog.messages] == (
            ["Redis drops keys when its memory is full"] if is_warned else []
        )

    async def test_a_user_who_may_not_ask_is_not_warned(
        self, jobs: Jobs, start_redis: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        redis = start_redis("--user", "worker", "on", ">secret", "~*", "+@all", "-config")
        settings = jobs.at(redis.address, username="worker", password="secret")

        async with open_store(settings) as connection:
            await announce_durability(connection)

        assert caplog.messages == []
