"""The frame around a process's main coroutine: loop, signals, exit code, words for the user.

The first SIGTERM or SIGINT asks the main coroutine to drain (one that still starts is
cancelled), as an operator's command may have done already; the second ends the process at
once.
A fault becomes one sentence and its exit code; only a bug leaves a traceback, in the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TextIO

from fl_cluster.app.ready_pipe import NoteHandler, ReadyPipe
from fl_cluster.errors import ExitCode, FlClusterError, find_fault
from fl_cluster.telemetry.logs import PACKAGE

logger = logging.getLogger(__name__)

Ready = Callable[[Mapping[str, object]], None]
Main = Callable[[asyncio.Event, Ready], Coroutine[Any, Any, None]]
"""Serves until the event is set; calls the second argument, with facts, once it serves."""

DRAIN_LIMIT_S = 30.0
"""A drain that takes longer is given up; the cluster then finds out by the lease."""


def new_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop there is here."""
    try:
        import uvloop
    except ModuleNotFoundError:  # not on every platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _Frame:
    """One run of a main coroutine."""

    def __init__(self, main: Main, pipe: ReadyPipe) -> None:
        self._main = main
        self._pipe = pipe
        self._stop = asyncio.Event()
        self._is_ready = False
        self._was_signalled = False
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._main(self._stop, self._ready))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        limit = loop.create_task(self._limit_drain())
        try:
            await self._task
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        finally:
            limit.cancel()

    async def _limit_drain(self) -> None:
        await self._stop.wait()
        await asyncio.sleep(DRAIN_LIMIT_S)
        logger.error("the drain took longer than %.0f s and is given up", DRAIN_LIMIT_S)
        if self._task is not None:
            self._task.cancel()

    def _ready(self, facts: Mapping[str, object]) -> None:
        self._is_ready = True
        self._pipe.ready({"pid": os.getpid(), **facts})

    def _on_signal(self, number: signal.Signals) -> None:
        if self._was_signalled:
            logger.warning("%s again: ending at once", number.name)
            logging.shutdown()
            os._exit(128 + number)
        self._was_signalled = True
        self._stop.set()
        assert self._task is not None
        if self._is_ready:
            logger.info("%s: draining; the same again ends at once", number.name)
        else:
            logger.info("%s: the start is given up", number.name)
            self._task.cancel()


def run(main: Main, *, pipe: ReadyPipe | None = None) -> ExitCode:
    """Run `main` until it returns; how it ended, already told to whom it concerns."""
    pipe = ReadyPipe(None) if pipe is None else pipe
    notes = NoteHandler(pipe)
    logging.getLogger(PACKAGE).addHandler(notes)

    async def framed() -> None:
        await _Frame(main, pipe).run()

    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(framed())
    except Exception as exc:  # noqa: BLE001 - the last place that can turn it into words
        return report(exc, pipe)
    finally:
        logging.getLogger(PACKAGE).removeHandler(notes)
        pipe.close()
    return ExitCode.DONE


def report(exc: Exception, pipe: ReadyPipe) -> ExitCode:
    """Log why a process ends, tell whoever waits for it, and return its exit code."""
    fault = find_fault(exc)
    if fault is None:
        logger.critical("a bug ended this process", exc_info=exc)
        pipe.error(f"a bug ended it: {type(exc).__name__}: {exc}", ExitCode.BUG)
        return ExitCode.BUG
    logger.error("%s", fault)
    logger.debug("where it came from", exc_info=exc)
    pipe.error(str(fault), fault.exit_code)
    return fault.exit_code


def guarded(command: Callable[[], int], stream: TextIO | None = None) -> int:
    """The exit code of a short command; a fault becomes one sentence on standard error."""
    stream = sys.stderr if stream is None else stream
    try:
        return command()
    except FlClusterError as fault:
        stream.write(f"{fault}\n")
        return fault.exit_code
    except KeyboardInterrupt:
        stream.write("stopped\n")
        return 128 + signal.SIGINT
