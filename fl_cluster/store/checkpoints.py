"""The folder of a job's recovery checkpoints: one file per finished round, three kept.

Names are the original's, `{job}_recovery_iteration_{n}_{YYYYmmdd}_{HHMMSS}.ckpt`, in local
time as there, and the files are MindSpore checkpoints, so either system can go on from the
other's.  Newest means latest in the name, not the highest round: round numbers start again
with every instance.
The name is a function of the round and of the instant at which the round ended, so a second
member that finishes the same round replaces the file by an equal one.
Only files with this job's names are ever deleted.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from fl_cluster.errors import StartupError
from fl_cluster.rounds.plan import Millis
from fl_cluster.store.charges_file import ChargesFile
from fl_cluster.store.model_files import Arrays, Floats, read_model, write_model

KEPT = 3
MODE = 0o400
"""As MindSpore writes them: a checkpoint is only ever replaced, and weights are private."""
ABANDONED_AFTER_SECONDS = 3600
"""A half-written file this old was left by a process that died."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What the name of a checkpoint says."""

    path: Path
    number: int
    """The round that ended with these weights."""
    stamp: str
    """When that was: YYYYmmdd_HHMMSS, local time."""


class CheckpointFolder:
    """The checkpoints of one job.  Not its own: other jobs may share the folder."""

    def __init__(
        self, path: Path, job_name: str, zone: tzinfo | None = None, *, is_made: bool = True
    ) -> None:
        """`zone` is the one of the names; None is the machine's.

        Where the folder is not made when it is missing, it decides by being there whether the
        job keeps checkpoints.
        """
        if "/" in job_name or "\0" in job_name:
            raise StartupError(
                f"fl_name {job_name!r} cannot be part of a file name, so its checkpoints have"
                " none: expected a name without slash and NUL"
            )
        self._path = path
        self._job_name = job_name
        self._zone = zone
        self._is_made = is_made
        name = rf"{re.escape(job_name)}_recovery_iteration_(\d{{1,18}})_(\d{{8}}_\d{{6}})\.ckpt"
        self._name = re.compile(name, re.ASCII)
        self._abandoned = re.compile(rf"\.{name}\.[0-9a-f]+\.tmp", re.ASCII)

    @property
    def is_used(self) -> bool:
        """Whether checkpoints are to be written."""
        return self._is_made or self._path.is_dir()

    def prepare(self) -> None:
        """Create the folder where it is missing; StartupError when nothing can be written there."""
        if not self._is_made:
            return
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StartupError(
                f"checkpoint folder {self._path} cannot be made: {exc.strerror}"
            ) from exc
        if not os.access(self._path, os.R_OK | os.W_OK | os.X_OK):
            raise StartupError(
                f"checkpoint folder {self._path}: expected one that this user may read and write"
            )

    def files(self) -> list[CheckpointInfo]:
        """The job's checkpoints, newest first; none when there is no such folder."""
        found = [
            CheckpointInfo(path, int(match[1]), match[2])
            for path in self._entries()
            if (match := self._name.fullmatch(path.name))
        ]
        return sorted(found, key=lambda info: (info.stamp, info.number), reverse=True)

    def charges(self) -> ChargesFile:
        """What the job's noise has cost, kept beside the weights that it is in."""
        return ChargesFile(self._path, self._job_name)

    def newest(self) -> tuple[CheckpointInfo, Arrays] | None:
        """The newest checkpoint that can be read; each newer one that cannot leaves a warning."""
        for info in self.files():
            try:
                return info, read_model(info.path)
            except ValueError as exc:
                log.warning("checkpoint skipped: %s", exc)
        return None

    def write(self, number: int, arrays: Mapping[str, Floats], at: Millis) -> Path:
        """Keep the weights that round `number` ended with at the instant `at`, and drop old ones.

        Whoever calls it with the same round and instant writes the same file.  OSError when
        that is impossible; the other checkpoints are then as they were.
        """
        when = datetime.fromtimestamp(at / 1000, UTC).astimezone(self._zone)
        name = f"{self._job_name}_recovery_iteration_{number}_{when:%Y%m%d_%H%M%S}.ckpt"
        if self._is_made:
            self._path.mkdir(parents=True, exist_ok=True)
        written = self._path / name
        write_model(written, arrays, MODE)
        for info in self.files()[KEPT:]:
            # A clock that was set back, or the hour that autumn repeats, ranks the newest last.
            if info.path != written:
                _delete(info.path)
        self._sweep()
        return written

    def _entries(self) -> list[Path]:
        try:
            return list(self._path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _sweep(self) -> None:
        """Remove what processes that died while writing have left."""
        for path in self._entries():
            if self._abandoned.fullmatch(path.name) and _age(path) > ABANDONED_AFTER_SECONDS:
                _delete(path)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _delete(path: Path) -> None:
    """Another member may have deleted it; being forbidden to costs space, not the round."""
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        log.warning("%s: cannot be deleted: %s", path, exc.strerror)
