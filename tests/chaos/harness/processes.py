"""Processes under the harness's control: started, killed, stopped, continued, watched.

Each dies with the harness, whatever becomes of it (the kernel sees to that), and writes to a
log of its own that its later lives append to.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import fl_cluster

PR_SET_PDEATHSIG = 1
KILL_S = 10.0
_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Runs in the child, before its program."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def environment() -> dict[str, str]:
    """Ours, in which children import the same packages as we do."""
    roots = [str(Path(fl_cluster.__file__).parents[1]), str(Path(__file__).parents[1])]
    paths = [*roots, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a Python module."""
    return [sys.executable, "-m", name, *arguments]


@dataclass(frozen=True, slots=True)
class Sample:
    """The memory of one process at one instant."""

    at_s: float
    resident: int


@dataclass
class Process:
    """One named process and all its lives."""

    name: str
    command: Sequence[str]
    folder: Path
    uses_pipes: bool = False
    """Standard input and output are for talking with the harness; only errors are logged."""
    child: subprocess.Popen[bytes] | None = None
    lives: int = 0
    is_stopped: bool = False
    samples: dict[int, list[Sample]] = field(default_factory=dict)
    """Per life."""

    @property
    def log(self) -> Path:
        """Where it writes what it has to say."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Of the current life."""
        assert self.child is not None, f"{self.name} was never started"
        return self.child.pid

    def start(self, extra: Mapping[str, str] | None = None) -> None:
        """Start it, with `extra` in its environment; it may take a while to serve."""
        assert not self.is_running(), f"{self.name} runs already"
        self.lives += 1
        with self.log.open("ab") as log:
            log.write(f"---- life {self.lives} {dict(extra or {})}\n".encode())
            log.flush()
            self.child = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env={**environment(), **(extra or {})},
                stdin=subprocess.PIPE if self.uses_pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if self.uses_pipes else log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, no locks
            )
        self.is_stopped = False

    def is_running(self) -> bool:
        """Whether it has not ended; a stopped process runs."""
        return self.child is not None and self.child.poll() is None

    def seems_stopped(self) -> bool:
        """Whether it has stopped itself."""
        if not self.is_running():
            return False
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if there is somebody to hear it."""
        if self.is_running():
            os.kill(self.pid, number)
            if number in (signal.SIGSTOP, signal.SIGCONT):
                self.is_stopped = number == signal.SIGSTOP

    def kill(self) -> None:
        """End it without warning, and return when it has ended."""
        self.signal(signal.SIGKILL)
        if self.child is not None:
            self.child.wait(KILL_S)
            for pipe in (self.child.stdin, self.child.stdout):
                if pipe is not None:
                    pipe.close()

    def sample(self) -> None:
        """Look at its memory."""
        if self.is_running() and not self.is_stopped:
            try:
                resident = psutil.Process(self.pid).memory_info().rss
            except psutil.NoSuchProcess:
                return
            sample = Sample(time.monotonic(), resident)
            self.samples.setdefault(self.lives, []).append(sample)

    def open_files(self) -> int:
        """How many files and sockets it has open."""
        return psutil.Process(self.pid).num_fds() if self.is_running() else 0

    def last_lines(self, count: int = 25) -> str:
        """The end of its log."""
        if not self.log.exists():
            return f"==== {self.name}: no log\n"
        lines = self.log.read_text("utf-8", "replace").splitlines()[-count:]
        state = "running" if self.is_running() else "ended"
        return f"==== {self.name} ({state}, life {self.lives})\n" + "\n".join(lines) + "\n"
