"""SIGTERM and SIGINT of a process that runs a job, until the program has ended.

The first asks the job to end, and whatever comes while it does so is ignored.
Who asks for an end often asks twice, and the program still has to say how its job went: so
after a job that was asked to end both stay ignored for a while.  The program's own handlers
are in place again after that, and at once after a job that ended by itself.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

logger = logging.getLogger(__name__)

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
QUIET_S = 10.0
"""How long after its job a program is left in peace; one that hangs can be ended afterwards."""

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers


class JobSignals:
    """The handler of both while a job runs, and after one that was asked to end.

    For the main thread.
    """

    def __init__(self, ask_to_end: Callable[[], None]) -> None:
        self._ask_to_end = ask_to_end
        self._process = os.getpid()
        self._was_asked = False
        self._quiet_until: float | None = None
        self.before: dict[signal.Signals, Handler] = {}
        """The program's own handlers."""

    def take(self) -> None:
        """Put the handler in place of the program's own."""
        for number in SIGNALS:
            before = signal.signal(number, self)
            if isinstance(before, JobSignals):  # of the job before
                before = before.before[number]
            self.before[number] = signal.SIG_DFL if before is None else before

    def leave(self) -> None:
        """The job is over."""
        was_asked = self._was_asked
        # First, so that a signal that comes right now is passed on, and not lost.
        self._quiet_until = time.monotonic() + (QUIET_S if was_asked else 0.0)
        if not was_asked:
            self._give_back()
            return
        atexit.register(self._ignore_to_the_end)
        logger.info("the job has ended; for %g s more, signals are ignored", QUIET_S)

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._pass_on(number)  # in a child that was forked meanwhile, which has no job
        elif self._quiet_until is None:
            self._was_asked = True
            self._ask_to_end()
        elif time.monotonic() >= self._quiet_until:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        self._give_back()
        signal.raise_signal(number)

    def _give_back(self) -> None:
        self._replace(self.before)

    def _ignore_to_the_end(self) -> None:
        """Leave it to the system: Python lets go of its handlers before it has ended."""
        parallel = sys.modules.get("multiprocessing")
        if parallel is not None and parallel.active_children():
            return  # which Python waits for, maybe in vain
        if os.getpid() == self._process and time.monotonic() < (self._quiet_until or 0.0):
            self._replace(dict.fromkeys(SIGNALS, signal.SIG_IGN))

    def _replace(self, handlers: dict[signal.Signals, Handler]) -> None:
        for number, handler in handlers.items():
            # What the program itself has put there meanwhile is its business.
            if signal.getsignal(number) is self:
                signal.signal(number, handler)
