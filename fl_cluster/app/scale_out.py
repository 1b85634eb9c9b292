"""The command lines that add servers to a running job, one for each host that may have some.

The command that the running servers of a host were started with adds servers beside them,
because ports that have a server of the same configuration file are passed over.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fl_cluster.app.options import HTTP_ADDRESS
from fl_cluster.config.addresses import CacheAddress, CacheKind, parse_address, without_login
from fl_cluster.config.keys import KEYS
from fl_cluster.lifecycle.membership import Member, Role

ANOTHER_HOST = "any other host"
LOOPBACK = ("127.", "localhost", "::1")


def is_local(store: CacheAddress) -> bool:
    """Whether only processes of this host reach the store."""
    is_private = store.kind in (CacheKind.EMBEDDED, CacheKind.UNIX)
    hosts = [place.host for place in store.sentinels] or [store.host]
    return is_private or any(host.startswith(LOOPBACK) for host in hosts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLines:
    """What all servers of the job are started with."""

    yaml_config: str
    """The path of the configuration file, as this host has it."""
    overrides: Mapping[str, str]
    """Configuration keys laid over the file; secrets are not shown, for anybody may ask."""
    here: str
    """The name of this host."""
    is_store_local: bool

    def __call__(self, members: Sequence[Member], count: int) -> list[dict[str, str]]:
        """Host and command line for `count` more servers."""
        first = {self.here: (HTTP_ADDRESS, "127.0.0.1")}
        servers = [member for member in members if member.role is Role.SERVER]
        for member in sorted(servers, key=_port, reverse=True):
            first[member.host] = (member.http_address, parse_address(member.tcp_address).host)
        if not self.is_store_local:
            port = parse_address(HTTP_ADDRESS).port
            first[ANOTHER_HOST] = (f"0.0.0.0:{port}", "auto")
        return [
            {"command": self._line(count, *addresses), "host": host}
            for host, addresses in first.items()
        ]

    def _line(self, count: int, http_address: str, tcp_ip: str) -> str:
        words = ["fl-cluster", "server", f"--yaml_config={self.yaml_config}"]
        words += [
            f"--set={key}={value}"
            for key, value in self.overrides.items()
            if not KEYS[key].is_secret and without_login(value) == value
        ]
        words += [f"--http_server_address={http_address}", f"--tcp_server_ip={tcp_ip}"]
        words += [f"--local_server_num={count}"]
        return shlex.join(words)


def _port(member: Member) -> int:
    return parse_address(member.http_address).port
