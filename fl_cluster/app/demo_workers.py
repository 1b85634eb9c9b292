"""A whole job on this machine whose workers are processes: cluster, workers, progress, result.

What the workers are and learn is the caller's business: it names their commands.  The first
of them tells how it goes, in lines of its standard output that begin with `round`; these are
the lines that a user sees.  Everything else goes to logs.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

from fl_cluster.app import demo_cluster
from fl_cluster.app.demo import INTERRUPTED, Judge, Weights
from fl_cluster.app.demo_cluster import DemoCluster, RunningCluster
from fl_cluster.app.launch import child_environment, keep_last_log, last_lines
from fl_cluster.app.survivors import no_survivors
from fl_cluster.config.overrides import variable_of
from fl_cluster.errors import ExitCode, FlClusterError, StartupError
from fl_cluster.store.checkpoints import CheckpointFolder
from fl_cluster.store.model_files import write_model

LOOK_S = 0.5
PATIENCE_S = 60.0
"""How long the other processes may take after the first one is done."""


class WorkerEnded(FlClusterError):
    """A process of the job ended before the job did."""

    exit_code = ExitCode.REFUSED


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """One process: its name for the user and its log, and its command."""

    name: str
    command: Sequence[str]


@dataclass(frozen=True, slots=True)
class WorkerDemo:
    """A job, and who takes part in it."""

    yaml_config: Path
    job: str
    initial: Weights
    servers: int
    folder: Path
    """Where model, metrics and logs are left; those of the last time are replaced."""
    processes: Callable[[RunningCluster], Sequence[WorkerProcess]]
    judge: Judge
    least_accuracy: float
    """What the job has to reach on data that nobody trained on."""
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_file(self) -> Path:
        """The result."""
        return self.folder / "model.npz"


def run(demo: WorkerDemo, out: TextIO = sys.stdout) -> int:
    """Run it from start to result: 0; 1 when it did not learn enough or a process failed; 130
    after Ctrl-C; or a fault's exit code.  No process is left, however it ends."""
    try:
        with tempfile.TemporaryDirectory(prefix="fl-cluster-demo-") as work, no_survivors(work):
            accuracy = _run(demo, Path(work), out)
    except KeyboardInterrupt:
        out.write("stopped; no process is left\n")
        return INTERRUPTED
    except FlClusterError as fault:
        out.flush()
        sys.stderr.write(f"{fault}\n")
        return fault.exit_code
    if accuracy < demo.least_accuracy:
        out.write(f"that is less than the {demo.least_accuracy} it should reach\n")
        return ExitCode.REFUSED
    return ExitCode.DONE


def _run(demo: WorkerDemo, work: Path, out: TextIO) -> float:
    began_s = time.monotonic()
    demo.folder.mkdir(parents=True, exist_ok=True)
    cluster = DemoCluster(
        demo.yaml_config, demo.initial, demo.servers, demo.folder, work, demo.overrides
    )
    cluster.checkpoint_dir.mkdir()
    for file in (demo.model_file, cluster.metrics_file):
        file.unlink(missing_ok=True)
    running = demo_cluster.start(cluster, lambda line: _say(out, line))
    _train(demo, cluster, demo.processes(running), out)
    found = CheckpointFolder(cluster.checkpoint_dir, demo.job).newest()
    if found is None:
        raise StartupError(f"no server left a model in {cluster.checkpoint_dir}")
    info, weights = found
    write_model(demo.model_file, weights)
    accuracy = demo.judge(weights)
    _say(out, f"accuracy on held-out data: {accuracy:.4f}")
    _say(out, f"model of round {info.number}: {demo.model_file}")
    _say(out, f"a line per round: {cluster.metrics_file}; logs: {demo.folder / 'logs'}")
    _say(out, f"all in all {time.monotonic() - began_s:.1f} s")
    return accuracy


def _train(
    demo: WorkerDemo, cluster: DemoCluster, processes: Sequence[WorkerProcess], out: TextIO
) -> None:
    settings = {variable_of(key): value for key, value in cluster.settings().items()}
    environment = {**child_environment(), **settings, "PYTHONUNBUFFERED": "1"}
    with ExitStack() as files:
        started = [
            _spawn(process, _log_of(demo, process, files), environment, speaks=index == 0)
            for index, process in enumerate(processes)
        ]
        for line in _lines(started[0], started[1:]):
            _say(out, line)
        deadline = time.monotonic() + PATIENCE_S
        pairs = list(zip(processes, started, strict=True))
        # What failed comes first: the others may wait for it.
        for process, child in sorted(pairs, key=lambda pair: not _has_failed(pair[1])):
            _check_end(demo, process, child, deadline)


def _log_path(demo: WorkerDemo, process: WorkerProcess) -> Path:
    return demo.folder / "logs" / f"{process.name}.log"


def _log_of(demo: WorkerDemo, process: WorkerProcess, files: ExitStack) -> IO[bytes]:
    log = _log_path(demo, process)
    keep_last_log(log)
    return files.enter_context(log.open("wb"))


def _spawn(
    process: WorkerProcess, log: IO[bytes], environment: Mapping[str, str], *, speaks: bool
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - commands of our caller, as lists
        process.command,
        stdin=subprocess.DEVNULL,
        bufsize=0,  # a line that is in a buffer of ours would not be selected
        stdout=subprocess.PIPE if speaks else log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )


def _has_failed(child: subprocess.Popen[bytes]) -> bool:
    return child.poll() not in (None, 0)


def _lines(
    child: subprocess.Popen[bytes], others: Sequence[subprocess.Popen[bytes]]
) -> Iterator[str]:
    """What a process says, until it ends or one of the others fails."""
    assert child.stdout is not None
    with child.stdout as stdout, selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while not any(map(_has_failed, others)):
            if not selector.select(LOOK_S):
                continue
            line = stdout.readline()
            if not line:
                return
            yield line.decode("utf-8", "replace").rstrip()


def _check_end(
    demo: WorkerDemo, process: WorkerProcess, child: subprocess.Popen[bytes], deadline: float
) -> None:
    """Return when the process has ended well."""
    try:
        code = child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.kill(child.pid, signal.SIGTERM)
        how = f"did not end {PATIENCE_S:g} s after the others"
    else:
        if code == 0:
            return
        how = f"ended with exit code {code}"
    raise WorkerEnded(f"{process.name} {how}{last_lines(_log_path(demo, process))}")


def _say(out: TextIO, line: str) -> None:
    out.write(f"{line}\n")
    out.flush()
