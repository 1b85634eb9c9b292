"""Main coroutines in real processes: signals, exit codes, and what is said about faults."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fl_cluster.app.process import guarded
from fl_cluster.app.ready_pipe import VARIABLE, Failed, Ready, parse
from fl_cluster.errors import (
    ConfigError,
    ExitCode,
    Problem,
    StartupError,
    StoreUnavailable,
    find_fault,
)

FRAME = """
import asyncio, os, sys, time
from fl_cluster.app import process
from fl_cluster.app.ready_pipe import ReadyPipe
from fl_cluster.errors import *
from fl_cluster.telemetry import logs
logs.configure("INFO", "text")

async def main(stop, ready):
{body}

sys.exit(process.run(main, pipe=ReadyPipe.inherited(os.environ)))
"""

SERVE = """
    ready({"address": "here"})
    await stop.wait()
    print("drained")
"""


@contextmanager
def running(body: str) -> Iterator[tuple[subprocess.Popen[str], io.BufferedReader]]:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", FRAME.format(body=body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, VARIABLE: str(writing)},
        pass_fds=(writing,),
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        try:
            yield process, said
        finally:
            process.kill()
            process.communicate()


def outcome(body: str) -> tuple[int, str, list[object]]:
    """Exit code, log, and what was said to the launcher."""
    with running(body) as (process, said):
        messages: list[object] = [parse(line) for line in said]
        _, log = process.communicate(timeout=30)
    return process.returncode, log, messages


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_process_drain_and_it_ends_with_0(number: signal.Signals) -> None:
    with running(SERVE) as (process, said):
        ready = parse(said.readline())
        assert ready == Ready({"address": "here", "pid": process.pid})

        process.send_signal(number)
        output, log = process.communicate(timeout=30)

    assert (process.returncode, output) == (0, "drained\n")
    assert f"{number.name}: draining" in log
    assert "Traceback" not in log


def test_a_second_signal_ends_it_at_once() -> None:
    body = """
    ready({})
    await stop.wait()
    print("draining", flush=True)
    await asyncio.sleep(60)
"""
    with running(body) as (process, said):
        said.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "draining\n"
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM again: ending at once" in log


def test_a_signal_during_a_drain_that_a_command_began_does_not_cut_it_short() -> None:
    body = """
    ready({})
    stop.set()
    print("draining", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print("drained")
"""
    with running(body) as (process, said):
        said.readline()
        assert process.stdout is not None
        assert process.stdout.readline() == "draining\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert "SIGTERM: draining" in process.stderr.readline()
        output, _ = process.communicate("\n", timeout=30)

    assert (process.returncode, output) == (0, "drained\n")


def test_a_signal_before_it_serves_gives_the_start_up_cleanly() -> None:
    body = """
    print("starting", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)
"""
    with running(body) as (process, _):
        assert process.stdout is not None
        assert process.stdout.readline() == "starting\n"
        process.send_signal(signal.SIGINT)
        output, log = process.communicate(timeout=30)

    assert (process.returncode, output) == (0, "cleaned up\n")
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        ('StartupError("port 1 is taken")', 2, "port 1 is taken"),
        ('ConfigError((Problem("a", "a is wrong"),))', 2, "a is wrong"),
        ('StoreUnavailable("PING", "refused")', 3, "PING: refused"),
        ('ExceptionGroup("g", [ValueError(), StartupError("deep")])', 2, "deep"),
    ],
)
def test_a_fault_is_one_sentence_and_its_exit_code(raised: str, code: int, sentence: str) -> None:
    returncode, log, messages = outcome(f"    raise {raised}")

    assert returncode == code
    assert messages == [Failed(sentence, code)]
    assert sentence in log
    assert "Traceback" not in log


def test_a_bug_has_its_traceback_in_the_log_and_a_sentence_for_the_launcher() -> None:
    returncode, log, messages = outcome("    raise ZeroDivisionError('oops')")

    assert returncode == ExitCode.BUG
    assert messages == [Failed("a bug ended it: ZeroDivisionError: oops", 70)]
    assert "Traceback (most recent call last)" in log


def test_a_main_coroutine_that_just_returns_is_done() -> None:
    returncode, log, messages = outcome("    ready({})")

    assert returncode == 0
    assert len(messages) == 1
    assert log == ""


def test_the_event_loop_is_uvloop_where_there_is_one() -> None:
    pytest.importorskip("uvloop")

    _, log, _ = outcome("    raise StartupError(type(asyncio.get_running_loop()).__module__)")

    assert "uvloop" in log


def test_a_fault_is_found_however_deep_it_lies_and_a_bug_is_none() -> None:
    fault = StartupError("here")
    groups = ExceptionGroup("outer", [OSError(), ExceptionGroup("inner", [fault])])

    assert find_fault(groups) is fault
    assert find_fault(ExceptionGroup("outer", [OSError()])) is None
    assert find_fault(ZeroDivisionError()) is None


def raise_it(exc: BaseException) -> int:
    raise exc


@pytest.mark.parametrize(
    ("exc", "code", "words"),
    [
        (
            ConfigError((Problem("a", "a is wrong"), Problem("b", "so is b"))),
            2,
            "a is wrong\nso is b\n",
        ),
        (StoreUnavailable("PING", "refused"), 3, "PING: refused\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_a_short_command_turns_faults_into_a_sentence(
    exc: BaseException, code: int, words: str
) -> None:
    stream = io.StringIO()

    assert guarded(lambda: raise_it(exc), stream) == code
    assert stream.getvalue() == words


def test_a_short_command_does_not_hide_bugs() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: raise_it(ZeroDivisionError()), io.StringIO())
