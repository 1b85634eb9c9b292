"""Signals of a process whose job was asked to end, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

PROGRAM = """
import asyncio, atexit, multiprocessing, os, signal, sys, time
from fl_cluster.program import signals
from fl_cluster.program.main_thread import MainThread, run_job

def say(word):
    print(word, flush=True)

async def main(stop, ready):
    ready({{}})
    say("serves")
    await stop.wait()

async def end(stop, ready):
    ready({{}})

def hear(word):
    assert sys.stdin.readline() == word + "\\n"

{body}
"""


class Program:
    """One that was started, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def expect(self, *words: str) -> None:
        assert self._process.stdout is not None
        for word in words:
            assert self._process.stdout.readline() == word + "\n"

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def wait(self) -> int:
        """Its exit code; children may go on."""
        return self._process.wait(20)

    def end(self) -> tuple[int, str]:
        """Its exit code, and what else it said."""
        out, err = self._process.communicate(timeout=20)
        return self._process.returncode, out + err


@contextmanager
def running(body: str) -> Iterator[Program]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )
    try:
        yield Program(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


both = pytest.mark.parametrize("number", [15, 2], ids=["SIGTERM", "SIGINT"])


@both
def test_what_follows_a_run_that_a_signal_ended_is_not_cut_off_by_another(number: int) -> None:
    body = "run_job(main, MainThread()); say('returned'); hear('go on'); say('finished')"
    with running(body) as program:
        program.expect("serves")
        program.send(number)
        program.expect("returned")
        program.send(15)
        program.send(2)
        program.tell("go on")

        assert program.end() == (0, "finished\n")


@both
def test_a_program_that_a_signal_ended_is_not_killed_by_another_on_its_way_out(
    number: int,
) -> None:
    """Where Python has given up its handlers: while modules are torn down."""
    body = """
class Last:
    def __del__(self):
        os.kill(os.getpid(), 15)
        os.kill(os.getpid(), 2)
        os.write(1, b"torn down\\n")

last = Last()
run_job(main, MainThread())
"""
    with running(body) as program:
        program.expect("serves")
        program.send(number)

        assert program.end() == (0, "torn down\n")


@both
def test_a_program_that_goes_on_for_long_after_its_job_can_be_ended_again(number: int) -> None:
    body = """
signals.QUIET_S = 0.05
run_job(main, MainThread())
quiet = time.monotonic() + 0.05
while time.monotonic() < quiet:
    pass
say("goes on")
time.sleep(60)
"""
    with running(body) as program:
        program.expect("serves")
        program.send(15)
        program.expect("goes on")
        program.send(number)

        code, err = program.end()
        assert code == -number
        assert ("KeyboardInterrupt" in err) == (number == 2)


@both
def test_a_program_whose_job_ended_by_itself_is_ended_by_a_signal_at_once(number: int) -> None:
    body = "run_job(end, MainThread()); say('goes on'); time.sleep(60)"
    with running(body) as program:
        program.expect("goes on")
        program.send(number)

        assert program.end()[0] == -number


def test_a_programs_own_handler_is_called_again_once_it_is_quiet_no_more() -> None:
    body = """
signal.signal(15, lambda *_: say("mine"))
signals.QUIET_S = 0.0
run_job(main, MainThread())
os.kill(os.getpid(), 15)
run_job(main, MainThread())
say("returned")
os.kill(os.getpid(), 15)
"""
    with running(body) as program:
        program.expect("serves")
        program.send(15)
        program.expect("mine", "serves")
        program.send(15)
        program.expect("returned", "mine")

        assert program.end() == (0, "")


def test_a_second_job_of_the_process_is_ended_by_a_signal_like_the_first() -> None:
    body = """
before = signal.getsignal(2)
run_job(main, MainThread())
run_job(main, MainThread())
run_job(end, MainThread())
assert signal.getsignal(15) is signal.SIG_DFL and signal.getsignal(2) is before
say("finished")
"""
    with running(body) as program:
        for _ in range(2):
            program.expect("serves")
            program.send(15)

        assert program.end() == (0, "finished\n")


@pytest.mark.parametrize("when", ["while it serves", "afterwards"])
def test_a_child_that_is_forked_meanwhile_is_ended_by_its_first_signal(when: str) -> None:
    body = f"""
here = MainThread()

def sleep(pipe):
    pipe.send("running")
    time.sleep(60)

def fork():
    context = multiprocessing.get_context("fork")
    mine, its = context.Pipe()
    child = context.Process(target=sleep, args=(its,))
    child.start()
    mine.recv()
    child.terminate()
    child.join()
    say(str(child.exitcode))

async def call(stop, ready):
    await asyncio.to_thread(here.call, fork)

if {when == "while it serves"}:
    run_job(call, here)
else:
    run_job(main, here)
    fork()
"""
    with running(body.replace("{", "{{").replace("}", "}}")) as program:
        if when == "afterwards":
            program.expect("serves")
            program.send(15)

        code, out = program.end()
        assert (code, out.splitlines()[0]) == (0, "-15")


def test_a_program_that_waits_for_a_child_at_its_end_can_be_ended() -> None:
    body = """
signals.QUIET_S = 0.05
run_job(main, MainThread())
multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()

def late():
    quiet = time.monotonic() + 0.1
    while time.monotonic() < quiet:
        pass
    say("exits")
atexit.register(late)
"""
    with running(body) as program:
        program.expect("serves")
        program.send(15)
        program.expect("exits")
        program.send(15)

        assert program.wait() == -15
