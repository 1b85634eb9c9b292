"""A cluster of real processes on this machine, for a program that shows something with it.

It gets ports and a data folder of its own, so that it neither disturbs nor finds another one.
Whoever starts it ends it as well (`survivors.no_survivors`).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_cluster.app import launch
from fl_cluster.store.model_files import write_model

SCHEDULER_PORT = 11202
FIRST_SERVER_PORT = 6666


@dataclass(frozen=True, slots=True)
class DemoCluster:
    """What the cluster is made of; `folder` keeps metrics and logs, `work` everything else."""

    yaml_config: Path
    initial: Mapping[str, NDArray[np.float32]]
    servers: int
    folder: Path
    work: Path
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def metrics_file(self) -> Path:
        """One line of JSON per round."""
        return self.folder / "metrics.json"

    @property
    def checkpoint_dir(self) -> Path:
        """Where servers leave the model of each round, if somebody makes the folder."""
        return self.work / "checkpoints"

    def settings(self) -> dict[str, str]:
        """What is laid over the file's settings, for all processes of the job."""
        return {
            "distributed_cache.address": "embedded",
            "cluster.data_dir": str(self.work),
            "summary.metrics_file": str(self.metrics_file.resolve()),
            "summary.failure_event_file": str((self.folder / "event.txt").resolve()),
            **self.overrides,
        }


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """Its processes."""

    scheduler: launch.Started
    servers: Sequence[launch.Started]

    @property
    def manage_address(self) -> str:
        """Where operators are answered: `host:port`."""
        return self.scheduler.address

    @property
    def server_addresses(self) -> list[str]:
        """Where devices and workers are answered: `host:port` each."""
        return [server.address for server in self.servers]


def start(cluster: DemoCluster, tell: launch.Tell) -> RunningCluster:
    """Start scheduler and servers side by side, and return when all answer."""
    initial = cluster.work / "initial.npz"
    write_model(initial, cluster.initial)
    options = launch.LaunchOptions(
        str(cluster.yaml_config), log_dir=cluster.folder / "logs", overrides=cluster.settings()
    )
    manage_port, *server_ports = free_ports(
        [SCHEDULER_PORT, *(FIRST_SERVER_PORT + index for index in range(cluster.servers))]
    )
    manage_address = f"127.0.0.1:{manage_port}"
    commands = [launch.scheduler_command(options, manage_address)]
    for port in server_ports:
        servers = launch.ServerLaunch(
            http_address=f"127.0.0.1:{port}",
            checkpoint_dir=str(cluster.checkpoint_dir),
            model=str(initial),
        )
        commands += launch.server_commands(options, servers, tell)
    scheduler, *started = launch.start(commands, patience_s=options.patience_s, tell=tell)
    has_tls = cluster.overrides.get("enable_ssl") == "true"
    scheme = "-k https" if has_tls else "http"
    tell(f"watch it: curl {scheme}://{manage_address}/state")
    return RunningCluster(scheduler, started)


def free_ports(preferred: Sequence[int]) -> list[int]:
    """A port of the loopback interface for each of these: itself if free, else any."""
    with ExitStack() as held:
        return [_bind(held.enter_context(socket.socket()), port) for port in preferred]


def _bind(probe: socket.socket, preferred: int) -> int:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", preferred))
    except OSError:
        probe.bind(("127.0.0.1", 0))
    found: int = probe.getsockname()[1]
    return found
