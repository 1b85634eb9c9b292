"""How a worker waits between two requests, so that whoever stops it need not wait with it."""

from __future__ import annotations

import threading
import time


class Pauses:
    """Time as one worker sees it; `stop` ends every pause, now and later."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    @property
    def is_stopped(self) -> bool:
        """Whether the worker was told to stop."""
        return self._stopped.is_set()

    def now_s(self) -> float:
        """A clock for intervals."""
        return time.monotonic()

    def rest(self, seconds: float) -> None:
        """Return after so long, or when the worker is stopped."""
        self._stopped.wait(seconds)

    def stop(self) -> None:
        """Let nobody wait any more."""
        self._stopped.set()
