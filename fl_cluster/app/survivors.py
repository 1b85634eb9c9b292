"""No process outlives a block of code, however the block ends.

Processes are found by asking the system and not by remembering them, because an interrupt may
come between starting one and remembering it.  On Linux this process adopts what its children
leave behind, so that an embedded Redis is found as well and, where no init process collects
the dead, collected.
Only for programs that own their process: signal handlers change meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from fl_cluster.store.redis import embedded
from fl_cluster.telemetry.processes import wait_for_end

STOP_S = 10.0
PR_SET_CHILD_SUBREAPER = 36
"""From linux/prctl.h; see prctl(2)."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def no_survivors(data_dir: str | Path) -> Iterator[None]:
    """End every process that was started inside, and the embedded Redis of `data_dir`.

    Inside, SIGTERM interrupts like Ctrl-C.  Once the end has begun nothing interrupts it; it
    takes seconds at most.
    """
    before = psutil.Process().children()
    _adopt_orphans()
    handlers = [signal.getsignal(number) for number in SIGNALS]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        try:
            yield
        finally:
            _end_all(before, data_dir)
    except KeyboardInterrupt:
        # It may have come just before the end that it asks for.
        _end_all(before, data_dir)
        raise
    finally:
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_all(spared: Sequence[psutil.Process], data_dir: str | Path) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Members first: they drain into their Redis, and the last of them stops it.
    _end([child for child in _children(spared) if child.name() != "redis-server"])
    embedded.stop_if_unused(data_dir)
    _end(_children(spared))


def _children(spared: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child not in spared]


def _end(children: Sequence[psutil.Process]) -> None:
    for child in children:
        child.terminate()
    for child in wait_for_end(children, STOP_S):
        child.kill()
    wait_for_end(children, STOP_S)
    for child in children:
        os.waitpid(child.pid, 0)
