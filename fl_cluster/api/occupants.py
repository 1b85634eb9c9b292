"""Who already listens on a port: the second half of the sentence "the port is taken".

Reads the machine's socket table, so it is asked only after a bind has failed or before
processes are started.  Another user's process is seen without its name.
"""

from __future__ import annotations

import psutil

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound


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
