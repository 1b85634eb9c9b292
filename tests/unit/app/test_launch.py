"""Starting background processes, with real ones; those that serve are in tests/cluster."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fl_cluster.app import launch
from fl_cluster.app.launch import Command, LaunchFailed, LaunchOptions, ServerLaunch
from fl_cluster.errors import ConfigError, ExitCode, StartupError
from fl_cluster.security.passwords import Passwords

CONFIG = """
fl_name: Launched
fl_iteration_num: 2
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {{type: redis, address: "{address}"}}
round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 30000
  update_model_ratio: 1.0
  update_model_time_window: 30000
  global_iteration_time_window: 60000
summary: {{metrics_file: metrics.json, failure_event_file: event.txt}}
"""


@pytest.fixture
def lines() -> list[str]:
    """What the user was told."""
    return []


def write_config(folder: Path, address: str) -> str:
    file = folder / "job.yaml"
    file.write_text(CONFIG.format(address=address))
    return str(file)


def own_children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_a_process_that_ends_before_it_serves_is_quoted(tmp_path: Path, lines: list[str]) -> None:
    log = tmp_path / "logs" / "x.log"

    with pytest.raises(LaunchFailed) as caught:
        launch.start([Command("it", ["--version"], log)], patience_s=30, tell=lines.append)

    assert str(caught.value).startswith(
        f"it ended with exit code 0 before it served; the end of {log}:\n    fl_cluster 0."
    )


def test_a_process_that_says_why_it_cannot_start_is_quoted_with_its_exit_code(
    tmp_path: Path, lines: list[str]
) -> None:
    options = LaunchOptions(str(tmp_path / "missing.yaml"), log_dir=tmp_path)

    with pytest.raises(
        LaunchFailed, match=r"does not start: yaml config file .*missing\.yaml"
    ) as caught:
        launch.start_scheduler(options, "127.0.0.1:11202", tell=lines.append)

    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert "missing.yaml" in (tmp_path / "scheduler" / "scheduler.log").read_text()


@pytest.mark.cluster
def test_a_process_that_waits_for_redis_too_long_is_stopped_with_all_started_beside_it(
    tmp_path: Path, lines: list[str], free_port: Callable[..., int]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    options = LaunchOptions(
        write_config(tmp_path, address), log_dir=tmp_path / "logs", patience_s=5
    )
    before = own_children()

    with pytest.raises(LaunchFailed) as caught:
        launch.start_servers(
            options,
            ServerLaunch(f"127.0.0.1:{free_port(2)}", 2, checkpoint_dir=str(tmp_path)),
            tell=lines.append,
        )

    port = address.rpartition(":")[2]
    assert "does not serve after 5 s and was stopped; it was waiting for Redis" in str(caught.value)
    assert f"start it with: redis-server --port {port}" in str(caught.value)
    assert caught.value.exit_code is ExitCode.STORE_UNREACHABLE
    assert len([line for line in lines if "waiting for Redis" in line]) == 1
    assert own_children() == before


def test_the_log_of_the_run_before_is_kept_once(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "server.log"
    for text in ("first", "second"):
        launch.keep_last_log(log)
        log.write_text(text)

    launch.keep_last_log(log)

    assert not log.exists()
    assert log.with_name("server.log.1").read_text() == "second"


def test_a_log_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder should be")

    with pytest.raises(StartupError, match=r"the log .*/logs/x\.log cannot be written: "):
        launch.start([Command("it", [], tmp_path / "logs" / "x.log")], patience_s=1, tell=print)


def test_servers_get_their_own_ports_logs_and_everything_they_need_to_know(
    tmp_path: Path, free_port: Callable[..., int], lines: list[str]
) -> None:
    port = free_port(2)
    options = LaunchOptions("job.yaml", tmp_path, overrides={"fl_iteration_num": "3"})
    servers = ServerLaunch(f"127.0.0.1:{port}", 2, "10.0.0.1", "ckpt", "start.npz")

    commands = launch.server_commands(options, servers, lines.append)

    assert [command.label for command in commands] == [
        f"server 127.0.0.1:{port}",
        f"server 127.0.0.1:{port + 1}",
    ]
    assert commands[1].log == tmp_path / f"server_{port + 1}" / "server.log"
    assert list(commands[0].arguments) == [
        "server",
        "--foreground",
        "--local_server_num=1",
        f"--http_server_address=127.0.0.1:{port}",
        "--tcp_server_ip=10.0.0.1",
        "--checkpoint_dir=ckpt",
        "--yaml_config=job.yaml",
        "--set=fl_iteration_num=3",
        "--model=start.npz",
    ]


def test_secrets_reach_processes_by_their_environment_and_never_by_their_arguments(
    tmp_path: Path, free_port: Callable[..., int], lines: list[str]
) -> None:
    given = {
        "distributed_cache.password": "hunter2",
        "distributed_cache.address": "redis://worker:hunter3@127.0.0.1:1",
        "fl_name": "Job",
    }
    options = LaunchOptions("job.yaml", tmp_path, overrides=given, passwords=Passwords("hunter4"))

    commands = [
        launch.scheduler_command(options, f"127.0.0.1:{free_port()}"),
        *launch.server_commands(options, ServerLaunch(f"127.0.0.1:{free_port()}", 1), lines.append),
    ]

    for command in commands:
        assert "hunter" not in " ".join(command.arguments)
        assert "--set=fl_name=Job" in command.arguments
        assert command.secrets == {
            "FL_CLUSTER__DISTRIBUTED_CACHE__PASSWORD": "hunter2",
            "FL_CLUSTER__DISTRIBUTED_CACHE__ADDRESS": "redis://worker:hunter3@127.0.0.1:1",
            "FL_CLUSTER_SERVER_PASSWORD": "hunter4",
        }
        assert "hunter" not in repr(command)
    assert "hunter" not in repr(options)


def test_an_address_without_a_password_is_an_argument_as_others(tmp_path: Path) -> None:
    given = {"distributed_cache.address": "redis://worker@127.0.0.1:1"}
    options = LaunchOptions("job.yaml", tmp_path, overrides=given)

    assert options.arguments()[1:] == [f"--set={key}={value}" for key, value in given.items()]
    assert options.secrets() == {}


@pytest.mark.parametrize("address", ["127.0.0.1:70000", "127.0.0.1", "256.0.0.1:1"])
def test_an_address_that_cannot_be_is_refused_before_anything_starts(
    address: str, lines: list[str]
) -> None:
    options = LaunchOptions("job.yaml")

    with pytest.raises(ConfigError, match="Failed to start scheduler http server, invalid"):
        launch.start_scheduler(options, address, tell=lines.append)
    with pytest.raises(ConfigError, match="The format of http server address"):
        launch.start_servers(options, ServerLaunch(address), tell=lines.append)


def test_a_failure_survives_pickling() -> None:
    fault = LaunchFailed("it does not start", ExitCode.STORE_UNREACHABLE)

    copied = pickle.loads(pickle.dumps(fault))

    assert (str(copied), copied.exit_code) == (str(fault), fault.exit_code)


def test_an_exit_code_that_nobody_defined_counts_as_a_bug() -> None:
    assert LaunchFailed("it died", 137).exit_code is ExitCode.BUG


def test_a_launcher_that_is_interrupted_takes_what_it_started_with_it(
    tmp_path: Path, free_port: Callable[..., int], wait_until: Callable[..., None]
) -> None:
    config = write_config(tmp_path, f"127.0.0.1:{free_port()}")
    launcher = subprocess.Popen(
        [sys.executable, "-m", "fl_cluster", "sched", f"--yaml_config={config}", "--wait=30"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    assert "waiting for Redis" in launcher.stdout.readline()
    [child] = psutil.Process(launcher.pid).children()

    launcher.send_signal(signal.SIGINT)
    _, errors = launcher.communicate(timeout=30)

    assert launcher.returncode == 130
    assert errors == "stopped\n"
    wait_until(lambda: not child.is_running(), "the scheduler ended")
