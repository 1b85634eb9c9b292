"""Small files that security rests on: read whole, read again on change, refused when open.

A file counts as changed when its inode, size, time of change or mode does, so that replacing
one by renaming is seen, writing into it, and opening it to everybody.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from fl_cluster.errors import StartupError

LARGEST = 16 * 1024 * 1024
"""Bytes; a revocation list of 100,000 entries has some 4 MB."""

Mark = tuple[int, int, int, int] | None


def read_whole(path: str, what: str) -> bytes:
    """The file's bytes; StartupError says what is wrong with it, calling it `what`."""
    try:
        with Path(path).open("rb") as file:
            found = file.read(LARGEST + 1)
    except OSError as exc:
        raise StartupError(f"{what} {path}: {exc.strerror or exc}") from exc
    if len(found) > LARGEST:
        raise StartupError(f"{what} {path}: expected at most {LARGEST} bytes")
    return found


def refuse_when_readable_by_all(path: str, what: str) -> None:
    """StartupError when others than owner and group may read the file."""
    complaint = why_open_to_all(path, what)
    if complaint:
        raise StartupError(complaint)


def why_open_to_all(path: str, what: str) -> str:
    """A sentence when others than owner and group may read the file; empty when they may not."""
    try:
        mode = stat.S_IMODE(Path(path).stat().st_mode)
    except OSError as exc:
        raise StartupError(f"{what} {path}: {exc.strerror or exc}") from exc
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        return ""
    return (
        f"{what} {path} holds secrets and every user of this host may read or write it"
        f" (mode {mode:04o}): chmod 600 {path}"
    )


@dataclass(slots=True)
class WatchedFile:
    """One file, and how it was when it was last looked at."""

    path: str
    _mark: Mark = field(default=None, init=False)
    _is_new: bool = field(default=True, init=False)

    def has_changed(self) -> bool:
        """Whether it is another file than at the last look; True at the first one."""
        mark = _mark_of(self.path)
        changed = self._is_new or mark != self._mark
        self._mark, self._is_new = mark, False
        return changed

    def exists(self) -> bool:
        """Whether it was there at the last look."""
        return self._mark is not None


def _mark_of(path: str) -> Mark:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode
