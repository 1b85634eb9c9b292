"""Lines for whoever runs a command, who may leave before the last one, as `head -1` does.

What a command has begun it finishes, unread: processes that were to be started are started.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

UNREAD = 128 + signal.SIGPIPE
"""The exit code of Unix tools whose reader has left."""


def tell(line: str) -> None:
    """Show one line at once."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)


def ending_quietly(command: Callable[[], int]) -> int:
    """The command's exit code; `UNREAD`, without a word, when nobody reads what it says."""
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        unread = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
        if not unread:
            raise
        for stream in unread:
            _discard(stream)
        return UNREAD


def _is_unread(stream: TextIO) -> bool:
    """Whether it is a pipe without a reader, or a connection that the other end has closed."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return False  # something in memory
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


def _discard(stream: TextIO) -> None:
    """Let what is, and will be, written to it go nowhere; it is flushed once more at exit."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
