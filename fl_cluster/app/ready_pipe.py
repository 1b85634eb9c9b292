"""How a background process tells the one that started it how its start goes.

A pipe whose writing end the child inherits; its number stands in FL_CLUSTER_READY_FD.  Lines
of JSON, one object with one key each: `note` (a sentence, any number of times), then `ready`
(facts) or `error` (a sentence) with `code`.  Then the pipe closes; a child that ends without
either has died.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

VARIABLE = "FL_CLUSTER_READY_FD"


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know while waiting."""

    text: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The process serves; facts about it."""

    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Failed:
    """The process cannot start, and with which exit code it ends."""

    text: str
    code: int


Message = Note | Ready | Failed


def parse(line: bytes) -> Message:
    """The message in one line; `ValueError` when there is none."""
    match json.loads(line):
        case {"note": str(text)}:
            return Note(text)
        case {"ready": dict(facts)}:
            return Ready(facts)
        case {"error": str(text), "code": int(code)}:
            return Failed(text, code)
        case other:
            raise ValueError(f"not a message of a starting process: {other!r}")


class ReadyPipe:
    """The child's end; without a pipe, or once closed, everything said goes nowhere."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    @classmethod
    def inherited(cls, environ: MutableMapping[str, str]) -> ReadyPipe:
        """The pipe this process was started with; children of its own do not see it."""
        number = environ.pop(VARIABLE, "")
        return cls(int(number) if number.isdigit() else None)

    @property
    def is_open(self) -> bool:
        """Whether somebody may still be waiting."""
        return self._descriptor is not None

    def note(self, text: str) -> None:
        """Tell the user something."""
        self._say({"note": text})

    def ready(self, facts: Mapping[str, object]) -> None:
        """Say that this process serves."""
        self._say({"ready": dict(facts)})
        self.close()

    def error(self, text: str, code: int) -> None:
        """Say why this process does not start."""
        self._say({"error": text, "code": code})
        self.close()

    def close(self) -> None:
        """Say nothing more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _say(self, message: Mapping[str, object]) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps(message).encode() + b"\n")
        except OSError:  # whoever waited has gone
            self.close()


class NoteHandler(logging.Handler):
    """Warnings of a starting process are notes to whoever waits for it."""

    def __init__(self, pipe: ReadyPipe) -> None:
        super().__init__(logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the sentence on."""
        if record.levelno == logging.WARNING:
            self._pipe.note(record.getMessage())
