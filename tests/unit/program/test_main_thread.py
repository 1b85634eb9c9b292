from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fl_cluster.errors import StartupError
from fl_cluster.program.main_thread import MainThread, Ready, run_job

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[list[Any]]:
    """Those from before, which the next test has again."""
    before: list[Any] = [signal.getsignal(number) for number in SIGNALS]
    yield before
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def _same_handlers(_handlers: list[Any]) -> Iterator[None]:
    """A run that no signal ended puts those from before in place again."""
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == _handlers


no_signal = pytest.mark.usefixtures("_same_handlers")


@no_signal
def test_callbacks_run_in_the_thread_that_called_run_while_the_job_goes_on() -> None:
    here, threads, beats = MainThread(), [], []

    async def main(_stop: asyncio.Event, _ready: Ready) -> None:
        beat = asyncio.Event()

        def callback() -> None:
            threads.append(threading.current_thread())
            loop.call_soon_threadsafe(beat.set)
            assert beaten.wait(10)

        loop, beaten = asyncio.get_running_loop(), threading.Event()
        called = loop.create_task(asyncio.to_thread(here.call, callback))
        await beat.wait()
        beats.append(called.done())
        beaten.set()
        await called

    run_job(main, here)

    assert threads == [threading.main_thread()]
    assert beats == [False]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_job_and_a_second_one_is_ignored(number: signal.Signals) -> None:
    seen = []

    async def main(stop: asyncio.Event, ready: Ready) -> None:
        ready({})
        os.kill(os.getpid(), number)
        await stop.wait()
        os.kill(os.getpid(), number)
        await asyncio.sleep(0)
        seen.append("drained")

    run_job(main, MainThread())

    assert seen == ["drained"]


def test_a_signal_gives_up_a_start() -> None:
    async def main(_stop: asyncio.Event, _ready: Ready) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    run_job(main, MainThread())


@no_signal
def test_what_ends_a_job_is_a_runtime_error() -> None:
    async def fail(_stop: asyncio.Event, _ready: Ready) -> None:
        raise StartupError("the port is taken")

    async def stumble(_stop: asyncio.Event, _ready: Ready) -> None:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(RuntimeError, match=r"^the port is taken$"):
        run_job(fail, MainThread())
    with pytest.raises(RuntimeError, match="a bug ended this job") as caught:
        run_job(stumble, MainThread())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@no_signal
def test_what_a_callback_raises_goes_to_whoever_asked_for_it() -> None:
    here, caught = MainThread(), []

    def fail(exc: BaseException) -> None:
        raise exc

    async def main(_stop: asyncio.Event, _ready: Ready) -> None:
        for exc in (KeyError("x"), SystemExit(3)):
            try:
                await asyncio.to_thread(here.call, lambda exc=exc: fail(exc))
            except Exception as raised:  # noqa: BLE001 - whatever it is
                caught.append(raised)

    run_job(main, here)

    assert isinstance(caught[0], KeyError)
    assert str(caught[1]) == "the callback raised SystemExit"


class Alarm(BaseException):
    """What a handler of the program's own raises."""


@no_signal
def test_a_handler_of_the_programs_own_that_raises_takes_the_job_with_it() -> None:
    here, refused = MainThread(), []

    def ring(*_: Any) -> None:
        raise Alarm

    async def main(stop: asyncio.Event, ready: Ready) -> None:
        ready({})
        os.kill(os.getpid(), signal.SIGUSR1)
        await stop.wait()
        try:
            await asyncio.to_thread(here.call, lambda: None)
        except RuntimeError as exc:
            refused.append(str(exc))

    before = signal.signal(signal.SIGUSR1, ring)
    try:
        with pytest.raises(Alarm):
            run_job(main, here)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert refused == ["the program has left run(): its callback is not called"]


@no_signal
def test_a_job_is_not_run_in_a_thread() -> None:
    caught = []

    async def main(_stop: asyncio.Event, _ready: Ready) -> None:
        return

    def run() -> None:
        try:
            run_job(main, MainThread())
        except RuntimeError as exc:
            caught.append(str(exc))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "call it in the main thread" in caught[0]
