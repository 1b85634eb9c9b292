from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fl_cluster.app.ports import next_free_ports
from fl_cluster.config.addresses import Address
from fl_cluster.errors import StartupError

LISTEN = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def first_of_five(free_port: Callable[..., int]) -> int:
    """A port that is free with the four above it."""
    return free_port(5)


@contextmanager
def a_listener(port: int, folder: Path, *arguments: str) -> Iterator[int]:
    """A process that listens and whose command line ends with `arguments`; its pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(port), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"listening\n"
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_free_ports_are_taken_from_the_given_one_upward(first_of_five: int) -> None:
    lines: list[str] = []

    ports = next_free_ports(Address("127.0.0.1", first_of_five), 3, "job.yaml", lines.append)

    assert ports == [first_of_five, first_of_five + 1, first_of_five + 2]
    assert lines == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("server", "--yaml_config=job.yaml"),
        ("server", "--yaml-config", "job.yaml"),
        ("scripts/run_server.py", "--yaml_config={folder}/job.yaml"),
    ],
)
def test_ports_with_servers_of_the_same_file_are_passed_over(
    first_of_five: int, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    lines: list[str] = []
    shown = [argument.format(folder=tmp_path) for argument in arguments]

    with a_listener(first_of_five, tmp_path, *shown) as pid:
        ports = next_free_ports(
            Address("127.0.0.1", first_of_five), 2, str(tmp_path / "job.yaml"), lines.append
        )

    assert ports == [first_of_five + 1, first_of_five + 2]
    assert lines == [
        f"port {first_of_five} has a server of this job already (pid {pid}); taking a higher one"
    ]


@pytest.mark.parametrize(
    "arguments",
    [(), ("server", "--yaml_config=other.yaml"), ("sched", "--yaml_config=job.yaml"), ("server",)],
)
def test_a_port_that_anybody_else_holds_is_an_error_that_names_the_holder(
    first_of_five: int, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    taken, file = first_of_five + 1, str(tmp_path / "job.yaml")

    with a_listener(taken, tmp_path, *arguments) as pid, pytest.raises(StartupError) as caught:
        next_free_ports(Address("127.0.0.1", first_of_five), 2, file, print)

    assert f"127.0.0.1:{taken} is already in use by pid {pid} (" in str(caught.value)


def test_the_end_of_the_port_range_is_an_error() -> None:
    with pytest.raises(StartupError, match="not 9 free ports from 65530 upward"):
        next_free_ports(Address("127.0.0.1", 65_530), 9, "job.yaml", print)


def test_fewer_than_one_server_is_an_error() -> None:
    with pytest.raises(StartupError, match="--local_server_num: expected 1 or more, found 0"):
        next_free_ports(Address("127.0.0.1", 1), 0, "job.yaml", print)
