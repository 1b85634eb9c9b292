"""A folder with a job's configuration, and the scripts that users start it with."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from fl_cluster.store.redis import embedded

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

CONFIG = """
fl_name: {job}
fl_iteration_num: 3
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {{type: redis, address: "{redis}"}}
round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 30000
  update_model_ratio: 1.0
  update_model_time_window: 30000
  global_iteration_time_window: 60000
summary: {{metrics_file: metrics.json, failure_event_file: event.txt}}
cluster: {{lease_ms: 1000}}
"""


@dataclass
class Job:
    """One job as its user sees it: a folder, a few commands, and their addresses."""

    folder: Path
    redis: str
    manage_port: int
    http_port: int
    name: str = "Manual"
    foreground: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "job.yaml").write_text(CONFIG.format(job=self.name, redis=self.redis))

    @property
    def manage(self) -> str:
        return f"127.0.0.1:{self.manage_port}"

    def command(self, script: str, *arguments: str) -> list[str]:
        shown = {
            "run_sched.py": [f"--scheduler_manage_address={self.manage}"],
            "run_server.py": [
                "--tcp_server_ip=127.0.0.1",
                "--checkpoint_dir=fl_ckpt",
                f"--http_server_address=127.0.0.1:{self.http_port}",
            ],
            "finish_cloud.py": [],
        }[script]
        config = [] if script == "finish_cloud.py" else ["--yaml_config=job.yaml"]
        return [sys.executable, str(SCRIPTS / script), *config, *shown, *arguments]

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script, *arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start_here(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a script with --foreground."""
        process = subprocess.Popen(
            self.command(script, "--foreground", *arguments),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.foreground.append(process)
        return process

    def finish(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("finish_cloud.py", "--yaml_config=job.yaml", *arguments)

    def state(self, query: str = "") -> dict[str, Any]:
        """The scheduler's answer, a refusal too."""
        try:
            with urllib.request.urlopen(f"http://{self.manage}/state{query}", timeout=10) as reply:
                body = reply.read()
        except urllib.error.HTTPError as exc:
            with exc:
                body = exc.read()
        decoded: dict[str, Any] = json.loads(body)
        return decoded

    def nodes(self) -> list[dict[str, str]]:
        nodes: list[dict[str, str]] = self.state().get("nodes", [])
        return nodes

    def answers(self) -> bool:
        try:
            self.state()
        except OSError:
            return False
        return True

    def log(self, name: str) -> str:
        return (self.folder / "logs" / name).read_text()

    def processes(self) -> list[psutil.Process]:
        """Every process that works in this job's folder."""
        found = []
        for process in psutil.process_iter(["cwd", "status"]):
            is_ours = process.info["cwd"] == str(self.folder)
            if is_ours and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found


@pytest.fixture
def make_job(tmp_path: Path, free_port: Callable[..., int]) -> Iterator[Callable[..., Job]]:
    """Makes jobs; whatever they left running is ended after the test."""
    made: list[Job] = []

    def make(redis: str, name: str = "Manual") -> Job:
        folder = (tmp_path / f"job{len(made)}").resolve()
        folder.mkdir()
        made.append(Job(folder, redis, free_port(), free_port(4), name))
        return made[-1]

    yield make
    for job in made:
        for process in job.processes():
            process.kill()
        embedded.stop(job.folder / "fl_data")
        for started in job.foreground:
            started.kill()
            started.communicate()


@pytest.fixture
def job(make_job: Callable[..., Job], redis_server: Any) -> Job:
    """A job on a Redis of its own."""
    return make_job(redis_server.address)
