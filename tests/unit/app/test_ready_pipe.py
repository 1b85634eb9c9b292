from __future__ import annotations

import logging
import os
import signal

import pytest

from fl_cluster.app import ready_pipe
from fl_cluster.app.ready_pipe import Failed, Note, NoteHandler, Ready, ReadyPipe


def read_all(descriptor: int) -> list[bytes]:
    with os.fdopen(descriptor, "rb") as end:
        return end.read().splitlines()


def test_what_a_child_says_arrives_in_order() -> None:
    reading, writing = os.pipe()
    pipe = ReadyPipe(writing)

    pipe.note("waiting for Redis")
    pipe.ready({"address": "127.0.0.1:1", "pid": 4711})

    assert [ready_pipe.parse(line) for line in read_all(reading)] == [
        Note("waiting for Redis"),
        Ready({"address": "127.0.0.1:1", "pid": 4711}),
    ]
    assert not pipe.is_open


def test_an_error_ends_what_is_said() -> None:
    reading, writing = os.pipe()
    pipe = ReadyPipe(writing)

    pipe.error("the port is taken", 2)
    pipe.ready({})

    assert [ready_pipe.parse(line) for line in read_all(reading)] == [
        Failed("the port is taken", 2)
    ]


def test_the_pipe_is_found_in_the_environment_and_taken_out_of_it() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    environ = {ready_pipe.VARIABLE: str(writing), "HOME": "/"}

    pipe = ReadyPipe.inherited(environ)

    assert environ == {"HOME": "/"}
    assert not os.get_inheritable(writing)
    pipe.ready({})
    assert read_all(reading) == [b'{"ready": {}}']


@pytest.mark.parametrize("environ", [{}, {ready_pipe.VARIABLE: "not a number"}])
def test_without_a_pipe_everything_said_goes_nowhere(environ: dict[str, str]) -> None:
    pipe = ReadyPipe.inherited(environ)

    pipe.note("nobody hears this")
    pipe.ready({})

    assert not pipe.is_open


def test_a_launcher_that_went_away_does_not_disturb_the_child() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    pipe = ReadyPipe(writing)

    pipe.note("hello?")

    assert not pipe.is_open


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'{"ready": 1}', b'{"error": "x"}', b"\xff"])
def test_a_line_that_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ready_pipe.parse(line)


def test_warnings_are_notes_and_other_messages_are_not() -> None:
    reading, writing = os.pipe()
    pipe = ReadyPipe(writing)
    logger, handler = logging.getLogger("fl_cluster.test"), NoteHandler(pipe)
    logger.addHandler(handler)

    logger.info("an aside")
    logger.warning("waiting for %s", "Redis")
    logger.error("an error comes as one")
    pipe.close()
    logger.removeHandler(handler)

    assert read_all(reading) == [b'{"note": "waiting for Redis"}']
