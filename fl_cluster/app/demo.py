"""A whole job on this machine: a cluster of real processes, and devices that train in it.

The cluster gets ports and a data folder of its own, so that it neither disturbs nor finds
another one; what is left of it is the model, the metrics and the logs.
What the devices learn is the caller's business.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from fl_cluster.aggregate.model import Model
from fl_cluster.app import launch
from fl_cluster.app.demo_board import RoundBoard
from fl_cluster.app.survivors import no_survivors
from fl_cluster.errors import FlClusterError
from fl_cluster.sdk import FederatedDevice, JobResult, RoundPlan, TrainResult, open_session
from fl_cluster.store.model_files import write_model

Weights = Mapping[str, NDArray[np.float32]]
Judge = Callable[[Weights], float]
"""The accuracy of a model on data that no device has, from 0 to 1."""

SCHEDULER_PORT = 11202
FIRST_SERVER_PORT = 6666
INTERRUPTED = 128 + signal.SIGINT


@dataclass(frozen=True, slots=True)
class DemoDevice:
    """One device: who it is, what it does with a model, on how many samples."""

    id: str
    evaluate: Judge
    train: Callable[[dict[str, NDArray[np.float32]], RoundPlan], TrainResult]
    data_size: int


@dataclass(frozen=True, slots=True)
class Demo:
    """A job and who takes part in it."""

    yaml_config: Path
    initial: Weights
    devices: Sequence[DemoDevice]
    judge: Judge
    rounds: int
    servers: int
    folder: Path
    """Where model, metrics and logs are left; those of the last time are replaced."""

    @property
    def model_file(self) -> Path:
        """The result."""
        return self.folder / "model.npz"

    @property
    def metrics_file(self) -> Path:
        """One line of JSON per round, written by the cluster."""
        return self.folder / "metrics.json"


def run(demo: Demo, out: TextIO = sys.stdout) -> int:
    """Run it from start to result: 0, or 130 after Ctrl-C, or a fault's exit code."""
    try:
        with tempfile.TemporaryDirectory(prefix="fl-cluster-demo-") as work, no_survivors(work):
            _run(demo, Path(work), out)
    except KeyboardInterrupt:
        out.write("stopped; no process is left\n")
        return INTERRUPTED
    except FlClusterError as fault:
        out.flush()
        sys.stderr.write(f"{fault}\n")
        return fault.exit_code
    return 0


def _run(demo: Demo, work: Path, out: TextIO) -> None:
    began_s = time.monotonic()
    _make_room(demo)
    write_model(work / "initial.npz", demo.initial)
    urls = _start_cluster(demo, work, lambda line: _say(out, line))
    _say(out, f"{len(demo.devices)} devices train for {demo.rounds} rounds")
    board = RoundBoard(out, demo.rounds, len(demo.devices), demo.judge)
    trained_s = time.monotonic()
    [result, *_] = asyncio.run(_train(demo, urls, board))
    trained_s = time.monotonic() - trained_s
    board.close()
    write_model(demo.model_file, result.weights)
    _say(
        out,
        f"accuracy on held-out data: {demo.judge(result.weights):.4f}, trained in"
        f" {trained_s:.1f} s, all in all {time.monotonic() - began_s:.1f} s",
    )
    _say(
        out,
        f"model of round {result.final_round}: {demo.model_file}"
        f" (SHA-256 {Model.from_arrays(result.weights).digest[:16]}...)",
    )
    _say(out, f"look at it: {_command()} model {demo.model_file}")
    _say(out, f"a line per round: {demo.metrics_file}; logs: {demo.folder / 'logs'}")


def _make_room(demo: Demo) -> None:
    demo.folder.mkdir(parents=True, exist_ok=True)
    for file in (demo.model_file, demo.metrics_file):
        file.unlink(missing_ok=True)


def _start_cluster(demo: Demo, work: Path, tell: launch.Tell) -> list[str]:
    """Start scheduler and servers side by side; the addresses that devices may ask."""
    options = launch.LaunchOptions(
        str(demo.yaml_config),
        log_dir=demo.folder / "logs",
        overrides={
            "fl_iteration_num": str(demo.rounds),
            "round.start_fl_job_threshold": str(len(demo.devices)),
            "distributed_cache.address": "embedded",
            "cluster.data_dir": str(work),
            "summary.metrics_file": str(demo.metrics_file.resolve()),
            "summary.failure_event_file": str((demo.folder / "event.txt").resolve()),
        },
    )
    manage_port, *server_ports = free_ports(
        [SCHEDULER_PORT, *(FIRST_SERVER_PORT + index for index in range(demo.servers))]
    )
    manage_address = f"127.0.0.1:{manage_port}"
    commands = [launch.scheduler_command(options, manage_address)]
    for port in server_ports:
        servers = launch.ServerLaunch(
            http_address=f"127.0.0.1:{port}",
            checkpoint_dir=str(work / "checkpoints"),
            model=str(work / "initial.npz"),
        )
        commands += launch.server_commands(options, servers, tell)
    _, *servers_started = launch.start(commands, patience_s=options.patience_s, tell=tell)
    tell(f"watch it: curl http://{manage_address}/state")
    return [f"http://{server.address}" for server in servers_started]


async def _train(demo: Demo, urls: Sequence[str], board: RoundBoard) -> list[JobResult]:
    async with open_session(devices=len(demo.devices)) as session:
        return await asyncio.gather(
            *(
                FederatedDevice(
                    urls,
                    device_id=device.id,
                    train=device.train,
                    data_size=device.data_size,
                    evaluate=device.evaluate,
                    eval_data_size=device.data_size,
                    on_round=board.note,
                    session=session,
                    patience_s=30.0,
                ).run()
                for device in demo.devices
            )
        )


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


def _say(out: TextIO, line: str) -> None:
    out.write(f"{line}\n")
    out.flush()


def _command() -> str:
    """How the user runs our command from here."""
    program = Path(sys.executable).parent / "fl-cluster"
    if not program.exists():
        return f"{sys.executable} -m fl_cluster.app.cli"
    here = Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)
