"""What a number of a benchmark depends on: the machine, the versions, the kernel set."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime

import numpy as np
import psutil
from kernels import processor

from fl_cluster.kernels import native
from fl_cluster.version import VERSION


def machine_facts() -> dict[str, str]:
    """Name of the fact -> its value, in the order in which they are printed."""
    redis = subprocess.run(
        ["redis-server", "--version"], capture_output=True, text=True, check=True
    ).stdout
    memory = psutil.virtual_memory().total
    return {
        "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "fl_cluster": VERSION,
        "processor": processor(),
        "cores": f"{len(os.sched_getaffinity(0))}, shared by servers, Redis and load generator",
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "kernel set": native.kernel(),
        "Python, NumPy": f"{platform.python_version()}, {np.__version__}",
        "Redis": redis.split("v=")[1].split()[0] + " on a Unix socket, without persistence",
    }
