"""The control link between real processes: who is dead is known long before a lease ends."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Self

import psutil
import pytest
import redis

from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.wire.frames import Answer, Beat, Bye, Command, Frame, FrameReader, Hello, encode

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

Wait = Callable[..., None]


def set_lease(job: Any, lease_ms: int) -> None:
    file = job.folder / "job.yaml"
    text = file.read_text()
    assert "lease_ms: 1000" in text
    file.write_text(text.replace("lease_ms: 1000", f"lease_ms: {lease_ms}"))


def members(job: Any, role: str = "server") -> list[dict[str, Any]]:
    found = job.state("?detail=1")["detail"]["members"]
    return [member for member in found if member["role"] == role]


def dead(redis_server: Any) -> list[str]:
    """Ids of the members that were declared dead."""
    with redis.Redis(port=redis_server.port) as store:
        return [name.decode() for name in store.zrange(JobKeys("Manual").fenced, 0, -1)]


def links(job: Any) -> dict[str, str]:
    """Server's id -> the state of its link, as its scheduler's log has it."""
    states: dict[str, str] = {}
    for line in job.log("scheduler/scheduler.log").splitlines():
        _, _, told = line.partition("the link to member ")
        if told:
            name, _, state = told.partition(" is now ")
            states[name] = state.partition(":")[0]
    return states


def wait_for_links(job: Any, wait_until: Wait, count: int) -> None:
    wait_until(
        lambda: [*links(job).values()].count("linked") == count, f"{count} servers are linked"
    )


class Line:
    """A scheduler's end of a link, as another program would write it."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=5)
        self._frames = FrameReader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, frame: Frame) -> None:
        self._socket.sendall(encode(frame))

    def hear(self) -> Frame | None:
        """The next frame; None when the other end has closed."""
        while (frame := self._frames.next_frame()) is None:
            chunk = self._socket.recv(65536)
            if not chunk:
                return None
            self._frames.feed(chunk)
        return frame


def test_a_killed_server_is_off_the_list_long_before_its_lease_ends(
    job: Any, wait_until: Wait
) -> None:
    set_lease(job, 60_000)
    job.run("run_sched.py")
    job.run("run_server.py", "--local_server_num=3")
    wait_for_links(job, wait_until, 3)

    for left in (2, 1):
        victim = members(job)[0]
        psutil.Process(victim["pid"]).kill()
        began = time.monotonic()
        wait_until(lambda: len(job.nodes()) == left, "the dead server is off the list")  # noqa: B023
        assert time.monotonic() - began < 10.0
        assert victim["id"] not in [member["id"] for member in members(job)]

    log = job.log("scheduler/scheduler.log")
    assert f"member {victim['id']} is declared dead: {victim['tcp_address']} refuses" in log
    assert f"and its process {victim['pid']} has ended" in log
    assert "Traceback" not in log


def test_a_new_scheduler_finds_out_at_once_who_died_while_there_was_none(
    job: Any, wait_until: Wait
) -> None:
    set_lease(job, 60_000)
    job.run("run_sched.py")
    job.run("run_server.py", "--local_server_num=2")
    victim, survivor = members(job)
    [scheduler] = members(job, "scheduler")
    for member in (scheduler, victim):
        psutil.Process(member["pid"]).kill()

    job.run("run_sched.py")
    began = time.monotonic()
    wait_until(lambda: len(job.nodes()) == 1, "the dead server is off the list")

    assert time.monotonic() - began < 1.0
    assert job.nodes()[0]["node_id"] == survivor["id"]


def test_without_a_scheduler_the_lease_finds_out(
    job: Any, wait_until: Wait, redis_server: Any
) -> None:
    job.run("run_server.py", "--local_server_num=2")
    victim = next(p for p in job.processes() if "server" in p.cmdline())

    victim.kill()

    wait_until(lambda: len(dead(redis_server)) == 1, "the other server declares it dead")


def test_a_stopped_server_is_left_to_its_lease_and_comes_back_under_a_new_name(
    job: Any, wait_until: Wait, redis_server: Any
) -> None:
    set_lease(job, 5000)
    job.run("run_sched.py")
    job.run("run_server.py", "--local_server_num=2")
    wait_for_links(job, wait_until, 2)
    stopped = members(job)[0]
    process = psutil.Process(stopped["pid"])

    process.suspend()
    wait_until(lambda: links(job)[stopped["id"]] == "unreachable", "its silence is noticed")
    assert len(job.nodes()) == 2
    wait_until(lambda: len(job.nodes()) == 1, "its lease ends")
    wait_until(lambda: dead(redis_server) == [stopped["id"]], "the other server declares it dead")
    process.resume()
    wait_until(lambda: len(job.nodes()) == 2, "it is back")

    [again] = [member for member in members(job) if member["pid"] == stopped["pid"]]
    assert again["id"] != stopped["id"]
    assert again["tcp_address"] == stopped["tcp_address"]
    wait_until(lambda: links(job).get(again["id"]) == "linked", "it is linked again")
    assert "declared dead: " not in job.log("scheduler/scheduler.log")


def test_a_server_that_was_stopped_for_less_than_its_lease_keeps_its_name(
    job: Any, wait_until: Wait
) -> None:
    set_lease(job, 60_000)
    job.run("run_sched.py")
    job.run("run_server.py", "--local_server_num=1")
    wait_for_links(job, wait_until, 1)
    [stopped] = members(job)
    process = psutil.Process(stopped["pid"])

    process.suspend()
    wait_until(lambda: links(job)[stopped["id"]] == "unreachable", "its silence is noticed")
    process.resume()
    wait_for_links(job, wait_until, 1)

    assert [member["id"] for member in members(job)] == [stopped["id"]]


@pytest.mark.parametrize("command", ["drain", "stop"])
def test_a_server_that_is_told_to_end_ends_as_on_sigterm(
    job: Any, wait_until: Wait, command: str
) -> None:
    process = job.start_here("run_server.py", "--local_server_num=1")
    job.run("run_sched.py")
    wait_until(lambda: job.answers() and len(job.nodes()) == 1, "the server serves")
    [member] = members(job)

    with Line(member["tcp_address"]) as line:
        line.say(Hello("a test", member["id"]))
        assert line.hear() == Hello(member["id"], "a test")
        assert isinstance(line.hear(), Beat)
        line.say(Command(1, "dance"))
        line.say(Command(2, command))
        heard = []
        while (frame := line.hear()) is not None:
            heard.append(frame)

    answers = [frame for frame in heard if isinstance(frame, Answer)]
    assert answers == [
        Answer(1, "unknown command 'dance'; this server knows drain, stop"),
        Answer(2),
    ]
    assert heard[-1] == Bye("this server stops")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert job.nodes() == []


def test_whoever_asks_for_another_server_or_talks_nonsense_is_sent_away(job: Any) -> None:
    job.run("run_sched.py")
    job.run("run_server.py", "--local_server_num=1")
    [member] = members(job)

    with Line(member["tcp_address"]) as line:
        line.say(Hello("a test", "somebody else"))
        assert line.hear() == Bye(f"this is {member['id']}, not somebody else")
        assert line.hear() is None
    with Line(member["tcp_address"]) as line:
        line._socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert line.hear() == Bye("expected a frame, which starts b'FL'; found b'GE'")
        assert line.hear() is None

    assert psutil.Process(member["pid"]).is_running()


def test_two_schedulers_hold_links_to_the_same_server(job: Any, wait_until: Wait) -> None:
    set_lease(job, 60_000)
    job.run("run_server.py", "--local_server_num=2")
    job.run("run_sched.py")
    second = job.start_here(
        "run_sched.py", f"--scheduler_manage_address=127.0.0.1:{job.http_port + 9}"
    )
    victim = None

    def are_both_linked() -> bool:
        log = job.log("server_" + str(job.http_port) + "/server.log")
        return log.count("is linked") == 2

    wait_until(are_both_linked, "both schedulers are linked to the first server")
    victim = next(m for m in members(job) if m["http_address"].endswith(str(job.http_port)))
    psutil.Process(victim["pid"]).kill()

    wait_until(lambda: len(job.nodes()) == 1, "the dead server is off the list")
    second.send_signal(signal.SIGTERM)
    output, _ = second.communicate(timeout=30)
    assert second.returncode == 0, output
    assert "Traceback" not in output + job.log("scheduler/scheduler.log")
