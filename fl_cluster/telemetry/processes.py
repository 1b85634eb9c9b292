"""What this machine knows of processes: whether one is still the same, and who holds a port.

A pid is used again after its process ended, so a process is named by its pid and its start
time together.  A process that has ended and waits for its parent to notice has ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil

START_TIME_TOLERANCE_S = 0.5
"""The kernel counts start times in ticks since boot; converted twice they may differ by some."""

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound
POLL_S = 0.01


def start_time_s(pid: int) -> float:
    """When the running process `pid` started, in seconds since the epoch."""
    return psutil.Process(pid).create_time()


def has_ended(process: psutil.Process) -> bool:
    """Whether the process does nothing any more."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def find_process(pid: int, started_s: float) -> psutil.Process | None:
    """The process with this pid that started then; None when it has ended."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started_s) > START_TIME_TOLERANCE_S:
            return None
    except (psutil.Error, ValueError):
        return None
    return None if has_ended(process) else process


def wait_for_end(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those of `processes` that have not ended after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = [process for process in processes if not has_ended(process)]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(POLL_S)


def find_listener(host: str, port: int) -> int | None:
    """The pid that listens on `host:port`; 0 when somebody does whose pid we may not see."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return None
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or not connection.laddr:
            continue
        local = connection.laddr
        if local.port == port and (host in WILDCARDS or local.ip in (host, *WILDCARDS)):
            return connection.pid or 0
    return None


def describe_listener(host: str, port: int) -> str:
    """`pid 4711 (redis-server)`, or `another process` when we may not know more."""
    pid = find_listener(host, port)
    if not pid:
        return "another process"
    try:
        return f"pid {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:
        return f"pid {pid}"
