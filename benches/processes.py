"""A cluster of real processes for one measurement: Redis, a scheduler, servers.

They are started by the scripts that users start them with, in a folder of their own, and
everything that was started is stopped again, whatever happens.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import yaml
from bodies import Device, Floats, retcode
from load import Load

from fl_cluster.store.model_files import write_model

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
START_SECONDS = 30.0
STOP_SECONDS = 20.0
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Setup:
    """What one measurement needs."""

    weights: Mapping[str, Floats]
    devices: int
    rounds: int
    servers: int = 1
    settings: Mapping[str, object] = field(default_factory=dict)
    """Sections of the configuration file beside those that every measurement has."""


class Cluster:
    """Running processes; use it as a context manager."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.addresses = [("127.0.0.1", _free_port()) for _ in range(setup.servers)]
        self.processes: dict[str, psutil.Process] = {}
        self.seconds_to_serve: list[float] = []
        """Per server, from its start until it answered a device."""
        self._question = Device({}).get_model.request(0)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._folder = Path(
                self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fl-bench-"))
            )
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def servers(self) -> list[psutil.Process]:
        """The server processes."""
        return [process for name, process in self.processes.items() if name.startswith("server")]

    def processor_seconds(self) -> dict[str, float]:
        """Processor time used so far: by the servers together, Redis, the scheduler, this process,
        and, in steps of 10 ms, by whatever else runs on the machine."""
        used = {"generator": time.process_time(), "servers": 0.0, "Redis": 0.0, "scheduler": 0.0}
        for name, process in self.processes.items():
            group = "servers" if name.startswith("server ") else name
            used[group] += _processor_seconds(process.pid)
        machine = psutil.cpu_times()
        busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)
        return {**used, "others": busy - sum(used.values())}

    def resident_bytes(self) -> int:
        """What the largest server has in memory now, shared pages divided by their sharers."""
        return max(int(process.memory_full_info().pss) for process in self.servers())

    def peak_bytes(self) -> int:
        """The most that any server has had in memory since `forget_peaks`."""
        return max(_peak(process.pid) for process in self.servers())

    def forget_peaks(self) -> None:
        """Start to look for the next peak."""
        for process in self.servers():
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def _start(self) -> None:
        redis = self._folder / "redis.sock"
        self._spawn(
            "Redis",
            ["redis-server", "--port", "0", "--unixsocket", str(redis), "--save", "", "--dir", "."],
        )
        self._wait_for("Redis", redis.exists)
        (self._folder / "job.yaml").write_text(yaml.safe_dump(self._settings(redis)))
        write_model(self._folder / "initial.npz", self.setup.weights)
        manage = ("127.0.0.1", _free_port())
        address = f"--scheduler_manage_address={manage[0]}:{manage[1]}"
        config = "--yaml_config=job.yaml"
        self._spawn("scheduler", [*_script("run_sched.py"), config, address, "--foreground"])
        self._wait_for("scheduler", partial(_listens, manage))
        for i, server in enumerate(self.addresses):
            started = time.perf_counter()
            self._spawn(
                f"server {i + 1}",
                [
                    *_script("run_server.py"),
                    config,
                    f"--http_server_address={server[0]}:{server[1]}",
                    "--tcp_server_ip=127.0.0.1",
                    "--checkpoint_dir=checkpoints",
                    "--local_server_num=1",
                    "--model=initial.npz",
                    "--foreground",
                ],
            )
            self._wait_for(f"server {i + 1}", partial(self._serves, server))
            self.seconds_to_serve.append(time.perf_counter() - started)

    def log(self, name: str) -> str:
        """What the process has written so far."""
        return (self._folder / f"{name}.log").read_text()

    def _settings(self, redis: Path) -> dict[str, object]:
        setup = self.setup
        return {
            "fl_name": "bench",
            "fl_iteration_num": setup.rounds,
            "server_mode": "FEDERATED_LEARNING",
            "enable_ssl": False,
            "distributed_cache": {"type": "redis", "address": f"unix:{redis}"},
            "round": {
                "start_fl_job_threshold": setup.devices,
                "start_fl_job_time_window": HOUR_MS,
                "update_model_ratio": 1.0,
                "update_model_time_window": HOUR_MS,
                "global_iteration_time_window": HOUR_MS,
            },
            "summary": {"metrics_file": "metrics.json", "failure_event_file": "event.txt"},
            **setup.settings,
        }

    def _spawn(self, name: str, command: list[str]) -> None:
        log = self._stack.enter_context((self._folder / f"{name}.log").open("wb"))
        popen = subprocess.Popen(
            command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self.processes[name] = psutil.Process(popen.pid)
        self._stack.callback(_stop, popen)

    def _serves(self, address: tuple[str, int]) -> bool:
        """Whether the server there answers a device."""
        try:
            load = Load([address], 1, retcode)
        except OSError:
            return False
        try:
            return load.run([self._question]).answers[0].code in (200, 201)
        finally:
            load.close()

    def _wait_for(self, name: str, is_so: Callable[[], bool]) -> None:
        """Return when it is so; show the process's log when it ends instead, or takes too long."""
        end = time.monotonic() + START_SECONDS
        while not is_so():
            has_ended = self.processes[name].status() == psutil.STATUS_ZOMBIE
            if has_ended or time.monotonic() > end:
                log = self.log(name)
                how = "ended" if has_ended else f"did not answer within {START_SECONDS:.0f} s"
                raise SystemExit(f"{name} {how}:\n{log}")
            time.sleep(0.005)


def _script(name: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / name)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _processor_seconds(pid: int) -> float:
    """Of all its threads, to the nanosecond: a round may be shorter than a clock tick."""
    nanoseconds = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address).close()
    except OSError:
        return False
    return True


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not tell the peak memory of a process")


def _stop(popen: subprocess.Popen[bytes]) -> None:
    popen.terminate()
    try:
        popen.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()
