"""The manual's commands as users type them, with real processes and a real Redis."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fl_cluster.store.redis import embedded

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

Wait = Callable[..., None]


def pids_in(text: str) -> list[int]:
    """The numbers of `killed PID` lines."""
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("killed ")]


def test_the_five_commands_of_the_manual(job: Any, redis_server: Any) -> None:
    scheduler = job.run("run_sched.py")
    assert (scheduler.returncode, scheduler.stderr) == (0, "")
    assert f"scheduler {job.manage} (pid " in scheduler.stdout
    assert "is ready" in scheduler.stdout
    assert "die with it" in scheduler.stdout

    servers = job.run("run_server.py", "--local_server_num=2")
    assert (servers.returncode, servers.stderr) == (0, "")
    for port in (job.http_port, job.http_port + 1):
        assert f"server 127.0.0.1:{port} (pid " in servers.stdout
        assert (job.folder / "logs" / f"server_{port}" / "server.log").exists()

    answer = job.state()
    assert answer["cluster_state"] == "CLUSTER_READY"
    assert answer["code"] == "0"
    assert answer["message"] == "Get cluster state successful."
    assert [node["role"] for node in answer["nodes"]] == ["SERVER", "SERVER"]
    for node in answer["nodes"]:
        assert node["node_id"].startswith(f"{node['tcp_address']}::")

    running = {process.pid for process in job.processes()}
    assert len(running) == 3
    ended = job.run("finish_cloud.py", f"--redis_port={redis_server.port}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert set(pids_in(ended.stdout)) == running
    assert job.processes() == []
    assert redis_server.is_running()


def test_servers_started_beside_running_ones_take_the_ports_above(job: Any) -> None:
    job.run("run_server.py", "--local_server_num=1")

    more = job.run("run_server.py", "--local_server_num=2")

    assert more.returncode == 0
    assert f"port {job.http_port} has a server of this job already" in more.stdout
    for port in (job.http_port + 1, job.http_port + 2):
        assert f"server 127.0.0.1:{port} (pid " in more.stdout
    assert len(job.processes()) == 3


def test_a_busy_port_is_one_sentence_and_leaves_the_cluster_as_it_was(job: Any) -> None:
    with socket.create_server(("127.0.0.1", job.http_port)):
        refused = job.run("run_server.py", "--local_server_num=2")

    assert refused.returncode == 2
    assert f"127.0.0.1:{job.http_port} is already in use by pid " in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert job.processes() == []


def test_a_second_scheduler_on_the_same_address_is_refused_in_the_original_s_words(
    job: Any,
) -> None:
    job.run("run_sched.py")

    refused = job.run("run_sched.py")

    assert refused.returncode == 2
    assert f"The scheduler start http server failed, server address: {job.manage}" in refused.stderr
    assert len(job.processes()) == 1
    assert job.answers()
    assert "answering operators" in job.log("scheduler/scheduler.log")


def test_a_killed_server_leaves_the_list_when_its_lease_ends(job: Any, wait_until: Wait) -> None:
    job.run("run_sched.py")
    job.run("run_server.py", "--local_server_num=2")
    before = {node["node_id"] for node in job.nodes()}
    detail = job.state("?detail=1")["detail"]
    victim = next(m for m in detail["members"] if m["role"] == "server")

    psutil.Process(victim["pid"]).kill()

    wait_until(lambda: len(job.nodes()) == 1, "the dead server is not listed any more")
    assert before - {node["node_id"] for node in job.nodes()} == {victim["id"]}


def test_a_new_scheduler_knows_what_the_killed_one_knew(job: Any, wait_until: Wait) -> None:
    job.run("run_sched.py")
    job.run("run_server.py", "--local_server_num=1")
    before = job.state()
    detail = job.state("?detail=1")["detail"]
    scheduler = next(m for m in detail["members"] if m["role"] == "scheduler")
    psutil.Process(scheduler["pid"]).kill()
    wait_until(lambda: not job.answers(), "the scheduler is gone")

    again = job.run("run_sched.py")

    assert again.returncode == 0
    assert job.state() == before
    assert (job.folder / "logs" / "scheduler" / "scheduler.log.1").exists()


def test_a_scheduler_asked_to_stop_ends_at_once(job: Any, wait_until: Wait) -> None:
    process = job.start_here("run_sched.py")
    job.run("run_server.py", "--local_server_num=1")
    wait_until(job.answers, "the scheduler answers")
    job.state()

    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)

    assert process.returncode == 0, output
    assert time.monotonic() - began < 10.0  # a drain that waits for devices takes longer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_several_servers_in_the_foreground_end_together(
    job: Any, wait_until: Wait, number: signal.Signals
) -> None:
    process = job.start_here("run_server.py", "--local_server_num=2")
    job.run("run_sched.py")
    wait_until(lambda: job.answers() and len(job.nodes()) == 2, "both servers serve")

    process.send_signal(number)
    output, _ = process.communicate(timeout=30)

    assert process.returncode == 0, output
    assert "draining" in output
    assert job.nodes() == []


def test_in_the_foreground_the_death_of_one_server_ends_the_others(
    job: Any, wait_until: Wait
) -> None:
    process = job.start_here("run_server.py", "--local_server_num=2")
    job.run("run_sched.py")
    wait_until(lambda: job.answers() and len(job.nodes()) == 2, "both servers serve")
    victim = psutil.Process(process.pid).children()[0]

    victim.kill()
    output, _ = process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGKILL
    assert "ended; stopping the others" in output


def test_finish_ends_exactly_one_of_two_jobs(
    make_job: Callable[..., Any], redis_server: Any
) -> None:
    ours, theirs = make_job(redis_server.address, "ours"), make_job(redis_server.address, "theirs")
    for each in (ours, theirs):
        assert each.run("run_server.py", "--local_server_num=1").returncode == 0
    port = f"--redis_port={redis_server.port}"

    undecided = ours.run("finish_cloud.py", port)
    decided = ours.run("finish_cloud.py", port, "--fl_name=ours")

    assert undecided.returncode == 2
    assert "ours, theirs; say which with --fl_name" in undecided.stderr
    assert len(pids_in(decided.stdout)) == 1
    assert (len(ours.processes()), len(theirs.processes())) == (0, 1)


@pytest.mark.usefixtures("redis_program")
def test_with_an_embedded_redis_everything_starts_ends_and_is_remembered(
    make_job: Callable[..., Any],
) -> None:
    job = make_job("embedded")
    assert job.run("run_sched.py").returncode == 0
    assert job.run("run_server.py", "--local_server_num=2").returncode == 0
    first = job.state("?detail=1")["detail"]
    assert first["durability"]["level"] == "everysec"

    ended = job.finish()
    assert len(pids_in(ended.stdout)) == 3
    assert embedded.find_running(job.folder / "fl_data") is None
    assert job.processes() == []

    assert job.run("run_sched.py").returncode == 0
    assert job.run("run_server.py", "--local_server_num=1").returncode == 0
    again = job.state("?detail=1")["detail"]
    assert again["job"] == first["job"]
    job.finish()
    assert embedded.find_running(job.folder / "fl_data") is None


def test_the_state_is_shown_to_people_and_to_programs(job: Any) -> None:
    job.run("run_sched.py")
    job.run("run_server.py", "--local_server_num=1")
    command = [sys.executable, "-m", "fl_cluster", "state", f"--manage={job.manage}"]

    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    program = subprocess.run(
        [*command, "--format=json"], capture_output=True, text=True, check=True
    ).stdout

    assert "cluster  CLUSTER_READY\njob      Manual, running" in words
    assert "\nround    1 of 3, waiting" in words
    assert json.loads(program)["detail"]["round"]["number"] == 1


def test_servers_start_although_nobody_reads_their_second_line(job: Any) -> None:
    """As with `run_server.py | head -1`."""
    starting = subprocess.Popen(
        job.command("run_server.py", "--local_server_num=2"),
        cwd=job.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert starting.stdout is not None
    assert starting.stderr is not None
    assert starting.stdout.readline().startswith("server ")
    starting.stdout.close()

    complaints = starting.stderr.read()
    starting.stderr.close()

    assert (starting.wait(60), complaints) == (0, "")
    assert len(job.processes()) == 2


@pytest.fixture
def copied_scripts(tmp_path: Path) -> Path:
    """The scripts in a checkout without the package, under a name of their own."""
    source = Path(__file__).resolve().parents[2] / "scripts"
    return Path(shutil.copytree(source, tmp_path / "checkout" / "scripts"))


def run_bare(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script with a Python that has nothing installed."""
    return subprocess.run(
        [sys.executable, "-S", str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )


def test_a_script_without_its_packages_says_what_to_do(copied_scripts: Path) -> None:
    refused = run_bare(copied_scripts / "run_sched.py")

    assert refused.returncode == 2
    assert refused.stderr.startswith("missing: aiohttp, ")
    assert f"run `make setup` in {copied_scripts.parent} first" in refused.stderr


def test_a_script_finds_the_python_that_the_checkout_was_set_up_with(
    copied_scripts: Path,
) -> None:
    python = copied_scripts.parent / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)

    started = run_bare(copied_scripts / "run_server.py", "--local_server_num=4")

    script = copied_scripts / "run_server.py"
    assert started.stdout == f"{script} --local_server_num=4\n"
