"""A whole job on this machine: a cluster of real processes, and devices that train in it.

The cluster gets ports and a data folder of its own, so that it neither disturbs nor finds
another one; what is left of it is the model, the metrics and the logs.
What the devices learn is the caller's business.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from fl_cluster.aggregate.model import Model
from fl_cluster.app import demo_cluster, launch
from fl_cluster.app.certs_command import settings_of
from fl_cluster.app.demo_board import RoundBoard
from fl_cluster.app.demo_cluster import DemoCluster
from fl_cluster.app.survivors import no_survivors
from fl_cluster.errors import FlClusterError
from fl_cluster.sdk import (
    FederatedDevice,
    JobResult,
    RoundPlan,
    TrainResult,
    open_session,
    tls_context,
)
from fl_cluster.security.tokens import new_token
from fl_cluster.store.model_files import write_model

Weights = Mapping[str, NDArray[np.float32]]
Judge = Callable[[Weights], float]
"""The accuracy of a model on data that no device has, from 0 to 1."""

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
    has_tokens: bool = False
    """Whether each device has a token, and nobody else can take part."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of the job beside those of the file, by their paths."""
    certs: Path | None = None
    """The folder of `fl-cluster certs init`: then every connection is encrypted."""
    protection: str | None = None
    """What each device requires its updates to be protected with, whatever servers announce."""

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
    tokens = [new_token() for _ in demo.devices] if demo.has_tokens else []
    urls = _start_cluster(demo, work, tokens, lambda line: _say(out, line))
    knowing = ", each with a token of its own" if tokens else ""
    hidden = ", over TLS" if demo.certs else ""
    _say(out, f"{len(demo.devices)} devices train for {demo.rounds} rounds{knowing}{hidden}")
    board = RoundBoard(out, demo.rounds, len(demo.devices), demo.judge)
    trained_s = time.monotonic()
    [result, *_] = asyncio.run(_train(demo, urls, tokens, board))
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


def _token_settings(demo: Demo, work: Path, tokens: Sequence[str]) -> dict[str, str]:
    """The file of the devices' tokens, and what makes servers take them on this host."""
    if not tokens:
        return {}
    file = work / "tokens"
    file.touch(mode=0o600)
    lines = (f"{token} {device.id}\n" for token, device in zip(tokens, demo.devices, strict=True))
    file.write_text("".join(lines))
    in_the_clear = "false" if demo.certs else "true"
    return {"cluster.token_file": str(file), "cluster.allow_tokens_over_http": in_the_clear}


def _tls_settings(demo: Demo) -> dict[str, str]:
    if demo.certs is None:
        return {}
    paths = settings_of(demo.certs.resolve())
    return {"enable_ssl": "true", **{f"ssl.{name}": value for name, value in paths.items()}}


def _start_cluster(demo: Demo, work: Path, tokens: Sequence[str], tell: launch.Tell) -> list[str]:
    """Start the cluster; the addresses that devices may ask."""
    cluster = DemoCluster(
        demo.yaml_config,
        demo.initial,
        demo.servers,
        demo.folder,
        work,
        {
            "fl_iteration_num": str(demo.rounds),
            "round.start_fl_job_threshold": str(len(demo.devices)),
            **_token_settings(demo, work, tokens),
            **_tls_settings(demo),
            **demo.settings,
        },
    )
    running = demo_cluster.start(cluster, tell)
    scheme = "http" if demo.certs is None else "https"
    return [f"{scheme}://{address}" for address in running.server_addresses]


async def _train(
    demo: Demo, urls: Sequence[str], tokens: Sequence[str], board: RoundBoard
) -> list[JobResult]:
    tls = tls_context(demo.certs / "ca.crt") if demo.certs else None
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
                    token=token,
                    token_over_http=demo.certs is None,
                    tls=tls,
                    protection=demo.protection,
                ).run()
                for device, token in zip(demo.devices, tokens or repeat(""), strict=False)
            )
        )


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
