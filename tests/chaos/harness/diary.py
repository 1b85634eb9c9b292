"""What devices were told, one JSON line each, in a file that outlives whoever wrote it.

A line is in the file before the device goes on: one write to a file opened for appending,
which no death of a process takes back.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path


class Word(StrEnum):
    """What a line is about."""

    ACKNOWLEDGED = "acknowledged"
    """The device was told that its update for this round is counted."""
    CONCLUDED = "concluded"
    """A device of the SDK has the round's model; `text` says whether it was counted."""
    REPEAT_REFUSED = "repeat_refused"
    """A FlatBuffers device sent an update again after a lost connection and was refused."""
    STUMBLED = "stumbled"
    """Something ended what the device was doing, and it began again as its user would."""
    FAILED = "failed"
    """The device gave up, which none should."""
    WENT_HOME = "went_home"
    """The job is finished and the device has the last model, whose digest is `text`."""


@dataclass(frozen=True, slots=True)
class Line:
    """One event of one device."""

    word: Word
    device: str
    number: int = 0
    text: str = ""
    position: int = 0
    """In the order of counted updates, from 1, when the device was told."""
    at_s: float = field(default_factory=time.time)
    """Seconds since the epoch, for whoever reads it beside logs."""


class Diary:
    """The writing end."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)

    def note(self, line: Line) -> None:
        """Write one line; it is there for every reader when this returns."""
        os.write(self._descriptor, json.dumps(asdict(line)).encode() + b"\n")


class DiaryReader:
    """The reading end; it goes on where it was."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> Iterator[Line]:
        """Lines since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, _, _ = file.read().rpartition(b"\n")
        if not whole:
            return
        self._offset += len(whole) + 1
        for text in whole.split(b"\n"):
            fields = json.loads(text)
            yield Line(**{**fields, "word": Word(fields["word"])})
