from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from fl_cluster.app.launch import child_environment
from fl_cluster.app.worker import server_address
from fl_cluster.config.addresses import Address
from fl_cluster.errors import StartupError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:5555", Address("127.0.0.1", 5555)),
        ("silo-1.example:80", Address("silo-1.example", 80)),
        ("[::1]:80", Address("::1", 80)),
    ],
)
def test_a_workers_server_may_have_any_kind_of_address(text: str, found: Address) -> None:
    assert server_address(text, is_encrypted=False) == found


@pytest.mark.parametrize(
    ("text", "is_encrypted", "sentence"),
    [
        ("", False, "The http client address:http:// is illegal!"),
        ("", True, "The http client address:https:// is illegal!"),
        ("nothing at all:5", False, "The http client address:http://nothing at all:5 is illegal!"),
        ("127.0.0.1", False, "Http uri port is invalid."),
        ("127.0.0.1:x", False, "Http uri port is invalid."),
    ],
)
def test_what_is_no_address_is_told_in_known_words(
    text: str, is_encrypted: bool, sentence: str
) -> None:
    with pytest.raises(StartupError) as fault:
        server_address(text, is_encrypted=is_encrypted)

    assert str(fault.value).startswith(sentence)


PROGRAM = """
import os, signal, sys, time
from fl_cluster.app.worker import before_sigterm
if sys.argv[1] == "own":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("its own handler"))
def leave():
    # Not `print`: the signal may come while it is at work, and it cannot be entered twice.
    os.write(1, b"left\\n")
    if sys.argv[1] == "failing":
        raise OSError("the store is away")
before_sigterm(leave)
print("ready", flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize(
    ("kind", "said", "code"),
    [
        ("default", "left\n", -signal.SIGTERM),
        ("failing", "left\n", -signal.SIGTERM),
        ("own", "", 1),
    ],
)
def test_sigterm_lets_a_worker_leave_and_ends_the_program_as_ever(
    kind: str, said: str, code: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=child_environment(),
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.terminate()

        assert program.stdout.read() == said
        assert program.wait(10) == code
