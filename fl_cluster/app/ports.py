"""Which ports new servers get.

The rule: N servers take the first N ports from the given one upward.  A port that a server
of the same configuration file holds is passed over, so that starting more servers beside
running ones just works; a port that anybody else holds is an error that names the holder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import psutil

from fl_cluster.config.addresses import Address
from fl_cluster.errors import StartupError
from fl_cluster.telemetry.processes import describe_listener, find_listener

MAX_PORT = 65_535
SCRIPTS = ("run_server.py", "run_cloud.py")


def next_free_ports(
    first: Address, count: int, yaml_config: str, tell: Callable[[str], None]
) -> list[int]:
    """The ports for `count` more servers of this file, from `first` upward."""
    if count < 1:
        raise StartupError(f"--local_server_num: expected 1 or more, found {count}")
    found: list[int] = []
    for port in range(first.port, MAX_PORT + 1):
        pid = find_listener(first.host, port)
        if pid is None:
            found.append(port)
        elif is_server_of(pid, yaml_config):
            tell(f"port {port} has a server of this job already (pid {pid}); taking a higher one")
        else:
            holder = describe_listener(first.host, port)
            raise StartupError(
                f"{first.host}:{port} is already in use by {holder}; "
                "choose another --http_server_address"
            )
        if len(found) == count:
            return found
    raise StartupError(f"there are not {count} free ports from {first.port} upward")


def require_free(address: Address) -> None:
    """`StartupError` that names the holder when somebody listens on the address."""
    if find_listener(address.host, address.port) is not None:
        holder = describe_listener(address.host, address.port)
        raise StartupError(f"{address} is already in use by {holder}")


def is_server_of(pid: int, yaml_config: str) -> bool:
    """Whether the process is a server that was started with this configuration file."""
    try:
        process = psutil.Process(pid)
        arguments, folder = process.cmdline(), Path(process.cwd())
    except (psutil.Error, ValueError):
        return False
    is_server = "server" in arguments or any(a.endswith(SCRIPTS) for a in arguments)
    file = _value_of("yaml_config", arguments)
    return is_server and file is not None and _same(folder / file, Path(yaml_config))


def _value_of(name: str, arguments: Sequence[str]) -> str | None:
    """The value of `--name=value` or `--name value`."""
    for argument, following in pairwise((*arguments, "")):
        flag, has_value, value = argument.partition("=")
        if flag.replace("-", "_") == f"__{name}":
            return value if has_value else following
    return None


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
