"""How a process introduces itself to the cluster."""

from __future__ import annotations

import os
import platform
import secrets
import time

from fl_cluster.kernels.native import kernel
from fl_cluster.lifecycle.membership import RANDOM_MAX, RANDOM_MIN, Member, Role, member_id
from fl_cluster.telemetry.processes import start_time_s
from fl_cluster.version import VERSION


def new_id(address: str) -> str:
    """A name that no member ever had; it begins with `address`, which is `ip:port`."""
    number = secrets.randbelow(RANDOM_MAX - RANDOM_MIN + 1) + RANDOM_MIN
    return member_id(address, time.time_ns() // 1000, number)


def this_process(
    role: Role,
    member: str,
    *,
    tcp_address: str = "",
    http_address: str = "",
    manage_address: str = "",
) -> Member:
    """This process as the member with the id `member`."""
    pid = os.getpid()
    return Member(
        id=member,
        role=role,
        tcp_address=tcp_address,
        http_address=http_address,
        manage_address=manage_address,
        pid=pid,
        host=platform.node(),
        process_started_s=start_time_s(pid),
        version=VERSION,
        kernel=kernel(),
        started_ms=time.time_ns() // 1_000_000,
    )
