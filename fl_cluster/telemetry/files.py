"""The files in which a job is accounted for: appended to, never rewritten, safe to share.

A line is on disk when `append` returns.  All servers of one machine may write one file: a
line is one write, and a lock covers the look at what is there already.
These calls block for as long as the disk takes; an event loop runs them in a thread.
`OSError` from an append is the caller's to log: a full disk must not stop a job.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from fl_cluster.errors import StartupError
from fl_cluster.telemetry.summary import line_identity

TAIL_BYTES = 65_536
"""How far back a line is looked for: about a hundred rounds."""

FOLDER_MODE = 0o775


def make_folders(path: Path) -> None:
    """Create the folders above `path` that are missing."""
    for folder in reversed(path.parents):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(FOLDER_MODE)


class LineFile:
    """A file that only ever grows, by whole lines."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, *lines: str) -> None:
        """Write the lines, each with its newline; they are on disk when this returns."""
        with self._locked() as descriptor:
            self._write(descriptor, *lines)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        make_folders(self.path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o664)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, *lines: str) -> None:
        assert not any("\n" in line for line in lines), "each a line"
        data = "".join(f"{line}\n" for line in lines).encode()
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # Someone's last line was cut short; ours shall not become part of it.
            data = b"\n" + data
        written = os.write(descriptor, data)
        if written != len(data):
            raise OSError(f"{self.path}: only {written} of {len(data)} bytes could be written")
        os.fsync(descriptor)


class EventFile(LineFile):
    """One line per event.  It exists, if empty, from the start of the process on."""

    def create(self) -> None:
        """Make the file, or `StartupError`: events that cannot be told are worth knowing of."""
        try:
            make_folders(self.path)
        except OSError as exc:
            message = f"Failed to create directory for event file {self.path}: {exc.strerror}"
            raise StartupError(message) from exc
        try:
            with self._locked():
                pass
        except OSError as exc:
            message = f"Failed to open event txt file {self.path}: {exc.strerror}"
            raise StartupError(message) from exc


class MetricsFile(LineFile):
    """One line per round, whoever writes it and however often they try."""

    def append_once(self, line: str) -> bool:
        """Write the metrics `line` of a round unless the file has one; True when it is new.

        Whoever aggregates a round writes its line before the round is seen to be over, so a
        server that takes over from a dead one would write it a second time.
        """
        identity = line_identity(line)
        assert identity is not None, line
        with self._locked() as descriptor:
            if any(line_identity(earlier) == identity for earlier in self._tail(descriptor)):
                return False
            self._write(descriptor, line)
            return True

    @staticmethod
    def _tail(descriptor: int) -> list[str]:
        size = os.fstat(descriptor).st_size
        start = max(0, size - TAIL_BYTES)
        lines = os.pread(descriptor, size - start, start).decode(errors="replace").splitlines()
        return lines[1:] if start else lines
