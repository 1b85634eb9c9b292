"""The scripts that are programs over the Python API."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / script), "--yaml_config=job.yaml", *arguments]


def test_run_cloud_is_a_scheduler_or_a_server(job: Any, wait_until: Callable[..., None]) -> None:
    roles = [
        ["--ms_role=MS_SCHED", f"--scheduler_manage_address={job.manage}"],
        ["--ms_role=MS_SERVER", f"--http_server_address=127.0.0.1:{job.http_port}"],
    ]
    for role in roles:
        with (job.folder / "log").open("a") as log:
            process = subprocess.Popen(
                command("run_cloud.py", *role, "--unknown=1"),
                cwd=job.folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        job.foreground.append(process)
    wait_until(
        lambda: job.answers() and len(job.nodes()) == 1, "the server is a node", timeout_s=30
    )

    for process in reversed(job.foreground):
        process.send_signal(signal.SIGTERM)
        process.wait(20)

    assert [process.returncode for process in job.foreground] == [0, 0]


def test_run_cloud_says_in_a_sentence_what_it_cannot_do(job: Any) -> None:
    done = subprocess.run(
        command("run_cloud.py", "--http_server_address=nowhere"),
        cwd=job.folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    last = done.stderr.splitlines()[-1]
    assert last.startswith("The format of http server address 'nowhere' is invalid")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


def test_a_server_that_was_killed_is_back_with_its_job(
    job: Any, wait_until: Callable[..., None]
) -> None:
    assert job.run("run_sched.py").returncode == 0
    assert job.run("run_server.py", "--local_server_num=1").returncode == 0
    before = job.nodes()

    done = subprocess.run(
        command("run_server_disaster_recovery.py", f"--fl_server_port={job.http_port}"),
        cwd=job.folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"killed the server at 127.0.0.1:{job.http_port}, pid ")
    wait_until(lambda: len(job.nodes()) == 1, "only the new server is listed")
    assert job.nodes() != before
    assert json.dumps(job.state()).count("SERVER") == 1


def test_nothing_but_a_server_of_the_job_is_killed(job: Any) -> None:
    port = job.redis.rpartition(":")[2]

    done = subprocess.run(
        command("run_server_disaster_recovery.py", f"--fl_server_port={port}"),
        cwd=job.folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 2
    assert "expected a server of job.yaml, found pid" in done.stderr
