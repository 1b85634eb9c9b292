"""A job in a thread of its own, while the program's thread waits for its callbacks.

Callbacks therefore run where `run` was called, one at a time, as programs expect, and one that
takes its time holds up neither the heartbeat nor the devices.
The first SIGTERM or SIGINT asks the job to end (`signals.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from queue import Empty, SimpleQueue
from typing import Any

from fl_cluster.app.process import new_loop
from fl_cluster.errors import find_fault
from fl_cluster.program.faults import as_runtime_error
from fl_cluster.program.signals import JobSignals

logger = logging.getLogger(__name__)

Ready = Callable[[Mapping[str, object]], None]
Main = Callable[[asyncio.Event, Ready], Coroutine[Any, Any, None]]
"""Serves until the event is set; calls the second argument once it serves."""


class _Call:
    """A function that one thread wants to be called in another."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._is_done = threading.Event()
        self._raised: BaseException | None = None

    def make(self) -> None:
        """Call it; for the thread that takes calls."""
        try:
            self._function()
        except BaseException as exc:  # noqa: BLE001 - goes to the thread that asked
            self._raised = exc
        self._is_done.set()

    def refuse(self) -> None:
        """Let whoever asked know that nobody takes calls any more."""
        self._raised = RuntimeError("the program has left run(): its callback is not called")
        self._is_done.set()

    def result(self) -> None:
        """Return when it was called; what it raised is raised here, as an Exception."""
        self._is_done.wait()
        if isinstance(self._raised, Exception):
            raise self._raised
        if self._raised is not None:
            name = type(self._raised).__name__
            raise RuntimeError(f"the callback raised {name}") from self._raised


class MainThread:
    """The thread that called `run`, as the place where callbacks are called."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._is_open = True
        self._lock = threading.Lock()

    def call(self, function: Callable[[], None]) -> None:
        """Have `function` called there, and return when it has returned.  For other threads."""
        wanted = _Call(function)
        with self._lock:
            if self._is_open:
                self._calls.put(wanted)
            else:
                wanted.refuse()
        wanted.result()

    def take_calls(self) -> None:
        """Make the calls that come, until `close`."""
        try:
            while (wanted := self._calls.get()) is not None:
                wanted.make()
        finally:
            self.refuse_calls()

    def close(self) -> None:
        """Let `take_calls` return."""
        self._calls.put(None)

    def refuse_calls(self) -> None:
        """Make no call any more: nobody who waits for one is left waiting."""
        with self._lock:
            self._is_open = False
        with contextlib.suppress(Empty):
            while True:
                late = self._calls.get_nowait()
                if late is not None:
                    late.refuse()


class _Job:
    """One run of a main coroutine in a thread of its own."""

    def __init__(self, main: Main, here: MainThread) -> None:
        self._main = main
        self._here = here
        self._stop = asyncio.Event()
        self._is_ready = False
        self._is_asked_to_end = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self.ended_by: BaseException | None = None

    def run(self) -> None:
        """Run it to its end; what it raised is in `ended_by`."""
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(self._run())
        except BaseException as exc:  # noqa: BLE001 - the thread that called `run` raises it
            self.ended_by = exc
        finally:
            self._here.close()

    async def _run(self) -> None:
        self._task = asyncio.create_task(self._main(self._stop, self._ready))
        self._loop = asyncio.get_running_loop()
        if self._is_asked_to_end:
            self._end()
        try:
            await self._task
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        finally:
            self._loop = None

    def _ready(self, _: Mapping[str, object]) -> None:
        self._is_ready = True

    def ask_to_end(self) -> None:
        """Let it drain, or give up its start.  For other threads, and for signal handlers."""
        self._is_asked_to_end = True
        loop = self._loop
        if loop is not None:
            # It may end by itself at this very moment, and its loop be closed.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._stop.is_set():
            return
        self._stop.set()
        if self._is_ready:
            logger.info("asked to end: draining")
        elif self._task is not None:
            logger.info("asked to end: the start is given up")
            self._task.cancel()


def run_job(main: Main, here: MainThread) -> None:
    """Return when `main` has ended; RuntimeError says by what, unless it was asked to."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "run() is called in a thread, where no signal can end it: call it in the main thread"
            " of a process, for instance of a multiprocessing.Process"
        )
    job = _Job(main, here)
    signals = JobSignals(job.ask_to_end)
    signals.take()
    thread = threading.Thread(target=job.run, name="fl_cluster")
    try:
        thread.start()
        here.take_calls()
    finally:
        # What a handler of the program's own raises here, even before the first call was
        # waited for, must not leave the job running.
        job.ask_to_end()
        here.refuse_calls()
        if thread.is_alive():
            thread.join()
        signals.leave()
    _raise(job.ended_by)


def _raise(ended_by: BaseException | None) -> None:
    if ended_by is None:
        return
    error = as_runtime_error(ended_by)
    if find_fault(ended_by) is None:
        raise error from ended_by
    raise error from None
