from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from fl_cluster.config.addresses import Address
from fl_cluster.worker.faults import NoAnswer
from fl_cluster.worker.link import HttpLink, Timeouts


def test_requests_share_one_connection(server) -> None:
    server.script("first", "second")
    link = server.link()

    replies = [link.post("/a", b"1"), link.post("/b", b"22")]

    assert [reply.body for reply in replies] == [b"first", b"second"]
    assert server.asked == [("/a", b"1"), ("/b", b"22")]
    assert server.connections == 1


def test_a_kept_connection_that_the_server_closed_is_replaced_at_once(server) -> None:
    server.script("first", None, "second")
    link = server.link()
    link.post("/a", b"")

    assert link.post("/a", b"").body == b"second"
    assert server.connections == 2


def test_a_new_connection_that_breaks_is_no_answer(server) -> None:
    server.script(None)

    with pytest.raises(NoAnswer, match=r"http://127\.0\.0\.1:\d+/a: "):
        server.link().post("/a", b"")
    assert len(server.asked) == 1


def test_nobody_listening_is_no_answer() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        link = HttpLink(Address("127.0.0.1", unused.getsockname()[1]))

        with pytest.raises(NoAnswer, match="refused"):
            link.post("/a", b"")


def test_a_server_that_is_silent_for_too_long_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = HttpLink(
            Address("127.0.0.1", silent.getsockname()[1]), timeouts=Timeouts(answer_s=0.1)
        )

        with pytest.raises(NoAnswer, match="timed out"):
            link.post("/a", b"")
        link.close()


def test_a_status_other_than_200_is_handed_over(server) -> None:
    server.script(404)

    assert server.link().post("/a", b"").status == 404


def test_a_forked_child_does_not_share_its_parents_connection(
    server, in_a_child: Callable[[Callable[[], bytes]], bytes]
) -> None:
    server.script("parent", "child", "parent again")
    link = server.link()
    link.post("/a", b"")

    assert in_a_child(lambda: link.post("/a", b"").body) == b"child"
    assert link.post("/a", b"").body == b"parent again"
    assert server.connections == 2


@pytest.fixture
def in_a_child() -> Callable[[Callable[[], bytes]], bytes]:
    """Runs something in a forked child; what it returned, or nothing when it failed."""

    def run(work: Callable[[], bytes]) -> bytes:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writing, work())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            result = pipe.read()
        os.waitpid(pid, 0)
        return result

    return run
