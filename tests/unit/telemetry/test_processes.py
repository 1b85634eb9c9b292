from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from fl_cluster.telemetry import processes


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_a_process_is_found_by_its_pid_and_its_start(child: subprocess.Popen[bytes]) -> None:
    started_s = processes.start_time_s(child.pid)

    found = processes.find_process(child.pid, started_s)

    assert found is not None
    assert found.pid == child.pid


@pytest.mark.parametrize("difference_s", [-10.0, 10.0])
def test_a_pid_that_is_used_again_is_not_the_process(
    child: subprocess.Popen[bytes], difference_s: float
) -> None:
    started_s = processes.start_time_s(child.pid)

    assert processes.find_process(child.pid, started_s + difference_s) is None


@pytest.mark.parametrize("pid", [-1, 2**22 + 1])
def test_a_pid_that_cannot_be_is_no_process(pid: int) -> None:
    assert processes.find_process(pid, 0.0) is None


def test_a_process_that_ended_and_was_not_waited_for_has_ended(
    child: subprocess.Popen[bytes],
) -> None:
    process = psutil.Process(child.pid)
    started_s = process.create_time()
    assert processes.wait_for_end([process], 0) == [process]

    child.kill()

    assert processes.wait_for_end([process], 10) == []
    assert process.status() == psutil.STATUS_ZOMBIE
    assert processes.find_process(child.pid, started_s) is None


def test_who_listens_on_a_port_is_found_and_described() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert processes.find_listener("127.0.0.1", port) is None
        listener.listen()

        assert processes.find_listener("127.0.0.1", port) == os.getpid()
        assert processes.find_listener("0.0.0.0", port) == os.getpid()
        assert processes.find_listener("127.0.0.2", port) is None
        name = psutil.Process().name()
        assert processes.describe_listener("127.0.0.1", port) == f"pid {os.getpid()} ({name})"


def test_nobody_known_on_a_port_is_described_as_another_process() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))

        assert processes.describe_listener(*listener.getsockname()) == "another process"
