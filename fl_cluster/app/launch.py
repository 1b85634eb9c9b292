"""Starting schedulers and servers as background processes, and stopping them again.

Each gets a session of its own, so that it outlives the terminal, and a log file under
`logs/` where the original has it; the log of the run before is kept as `.1`.  Their working
folder is the caller's, so paths in the configuration mean what they mean to the user.
Whoever starts them waits until they serve; when one cannot, those started with it are
stopped, so that the cluster is as it was.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import psutil

import fl_cluster
from fl_cluster.app import ready_pipe
from fl_cluster.app.ports import next_free_ports, require_free
from fl_cluster.app.ready_pipe import Failed, Note, Ready
from fl_cluster.config.addresses import Address, scheduler_http_address, server_http_address
from fl_cluster.config.exposure import is_secret
from fl_cluster.config.overrides import variable_of
from fl_cluster.errors import ExitCode, FlClusterError, StartupError
from fl_cluster.security.passwords import Passwords
from fl_cluster.telemetry.processes import start_time_s, wait_for_end

PATIENCE_S = 30.0
REMIND_S = 5.0
STOP_S = 10.0
SUPERVISION_S = 0.1
LAST_LINES = 12
LINE_BYTES = 64 * 1024

SCHEDULER_FAILED = "The scheduler start http server failed, server address:"
"""The original's words, followed by the address."""

Tell = Callable[[str], None]
"""Shows one line to the user."""


class LaunchFailed(FlClusterError):
    """A background process did not come to serve; the sentence says why, with its log's end."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.exit_code = ExitCode(code) if code in list(ExitCode) else ExitCode.BUG

    def __reduce__(self) -> tuple[type[LaunchFailed], tuple[str, int]]:
        return type(self), (str(self), int(self.exit_code))


@dataclass(frozen=True, slots=True)
class Command:
    """One process to start: its name for the user, its arguments, and its log."""

    label: str
    arguments: Sequence[str]
    log: Path | None
    """None: our own standard output and error."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables of its environment that nobody else shall see."""


@dataclass(slots=True)
class Started:
    """A process that serves."""

    label: str
    address: str
    pid: int
    process_started_s: float
    log: Path | None
    facts: Mapping[str, object]
    _child: subprocess.Popen[bytes] = field(repr=False)

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    @property
    def exit_code(self) -> int:
        """What it ended with, 128 and the signal when one ended it; 0 while it runs."""
        code = self._child.poll() or 0
        return 128 - code if code < 0 else code


@dataclass(slots=True)
class _Starting:
    """A process that was started and has not said yet how it goes."""

    command: Command
    child: subprocess.Popen[bytes]
    descriptor: int
    received: bytes = b""
    last_note: str = ""
    facts: Mapping[str, object] | None = None


def keep_last_log(log: Path) -> None:
    """Make room for a new log; the one of the run before stays as `.1`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))


def last_lines(log: Path | None) -> str:
    """`; the end of FILE:` and the end of a log, for a message; empty when there is no log."""
    if log is None:
        return ""
    lines = log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
    shown = "\n".join(f"    {line}" for line in lines) or "    (empty)"
    return f"; the end of {log}:\n{shown}"


def child_environment() -> dict[str, str]:
    """Our environment, in which a child imports the same package as we do."""
    root = str(Path(fl_cluster.__file__).parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@contextmanager
def _open_log(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
        return
    try:
        keep_last_log(log)
        opened = log.open("wb")
    except OSError as exc:
        raise StartupError(f"the log {log} cannot be written: {exc.strerror}") from exc
    with opened:
        yield opened


def _spawn(command: Command) -> _Starting:
    with _open_log(command.log) as log:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        try:
            child = subprocess.Popen(  # noqa: S603 - our own module, arguments as a list
                [sys.executable, "-m", "fl_cluster.app.cli", *command.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**child_environment(), **command.secrets, ready_pipe.VARIABLE: str(writing)},
                pass_fds=(writing,),
                start_new_session=True,
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
    return _Starting(command, child, reading)


def start(commands: Sequence[Command], *, patience_s: float, tell: Tell) -> list[Started]:
    """Start all, and return when all serve; `LaunchFailed` when one does not in time."""
    starting: list[_Starting] = []
    try:
        for command in commands:
            starting.append(_spawn(command))  # noqa: PERF401 - a failure must not lose the others
        _wait(starting, patience_s, tell)
        return [_started(each) for each in starting]
    except BaseException:
        _end([psutil.Process(each.child.pid) for each in starting if each.child.poll() is None])
        for each in starting:
            each.child.wait()
        raise
    finally:
        for each in starting:
            os.close(each.descriptor)


def _started(each: _Starting) -> Started:
    assert each.facts is not None
    pid = each.child.pid
    address = str(each.facts.get("address") or each.facts.get("http_address") or "")
    return Started(
        each.command.label,
        address,
        pid,
        start_time_s(pid),
        each.command.log,
        each.facts,
        each.child,
    )


def _wait(starting: Sequence[_Starting], patience_s: float, tell: Tell) -> None:
    """Return when all are ready; show their notes meanwhile, each sentence once."""
    deadline = time.monotonic() + patience_s
    told: set[str] = set()
    with selectors.DefaultSelector() as selector:
        for each in starting:
            selector.register(each.descriptor, selectors.EVENT_READ, each)
        while selector.get_map():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise _too_late([key.data for key in selector.get_map().values()], patience_s)
            heard = selector.select(min(left_s, REMIND_S))
            if not heard:
                waiting = ", ".join(k.data.command.label for k in selector.get_map().values())
                tell(f"still waiting for {waiting}")
            for key, _ in heard:
                if _listen(key.data, told, tell):
                    selector.unregister(key.fd)


def _listen(each: _Starting, told: set[str], tell: Tell) -> bool:
    """Take in what a process says; whether it is ready."""
    received = os.read(each.descriptor, LINE_BYTES)
    if not received:
        raise _died(each)
    *lines, each.received = (each.received + received).split(b"\n")
    for line in lines:
        match ready_pipe.parse(line):
            case Note(text):
                each.last_note = text
                _tell_once(text, each, told, tell)
            case Failed(text, code):
                raise LaunchFailed(f"{each.command.label} does not start: {text}", code)
            case Ready(facts):
                each.facts = facts
                weights = facts.get("initial_weights")
                if weights:
                    _tell_once(f"initial weights: {weights}", each, told, tell)
                tell(f"{each.command.label} (pid {each.child.pid}) is ready")
                return True
    return False


def _tell_once(text: str, each: _Starting, told: set[str], tell: Tell) -> None:
    """Show a sentence; processes that start together say the same things."""
    if text not in told:
        told.add(text)
        tell(f"{each.command.label}: {text}")


def _died(each: _Starting) -> LaunchFailed:
    code = each.child.wait()
    return LaunchFailed(
        f"{each.command.label} ended with exit code {code} before it served"
        f"{last_lines(each.command.log)}",
        code,
    )


def _too_late(waiting: Sequence[_Starting], patience_s: float) -> LaunchFailed:
    first = waiting[0]
    sentence = f"{first.command.label} does not serve after {patience_s:g} s and was stopped"
    if first.last_note:
        return LaunchFailed(f"{sentence}; it was {first.last_note}", ExitCode.STORE_UNREACHABLE)
    return LaunchFailed(f"{sentence}{last_lines(first.command.log)}", ExitCode.CONFIGURATION)


def _end(processes: Sequence[psutil.Process]) -> None:
    """SIGTERM, time to drain, then SIGKILL."""
    for process in processes:
        _signal(process.terminate)
    for process in wait_for_end(processes, STOP_S):
        _signal(process.kill)


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return  # it ended by itself meanwhile


def stop(started: Iterable[Started]) -> None:
    """Let all drain at the same time; whoever takes longer than 10 s is killed."""
    processes = list(started)
    _end([psutil.Process(each.pid) for each in processes if each.is_running()])
    for each in processes:
        each._child.wait()  # noqa: SLF001 - reaping is this module's part of `Started`


def supervise(commands: Sequence[Command], *, patience_s: float, tell: Tell) -> int:
    """Start all, logging to our own output, and stay until they end; the worst exit code.

    SIGTERM and SIGINT let them drain; when one ends by itself, the others are stopped, so
    that whoever watches over this process starts all again.
    """
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: asked.append(received))
    started = start(
        [replace(command, log=None) for command in commands], patience_s=patience_s, tell=tell
    )
    while not asked and all(each.is_running() for each in started):
        time.sleep(SUPERVISION_S)
    for each in started:
        if not asked and not each.is_running():
            tell(f"{each.label} ended; stopping the others")
    stop(started)
    return max(each.exit_code for each in started)


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What schedulers and servers have in common when they are started."""

    yaml_config: str
    log_dir: Path = Path("logs")
    patience_s: float = PATIENCE_S
    overrides: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Dotted configuration keys and what they are set to, over the file's values."""
    passwords: Passwords = field(default_factory=Passwords)
    """Of key files."""

    def arguments(self) -> list[str]:
        """The arguments that say so, without what nobody else shall read in a process table."""
        shown = {key: text for key, text in self.overrides.items() if not is_secret(key, text)}
        sets = [f"--set={key}={value}" for key, value in shown.items()]
        return [f"--yaml_config={self.yaml_config}", *sets]

    def secrets(self) -> dict[str, str]:
        """The variables of the environment that say the rest."""
        hidden = {key: text for key, text in self.overrides.items() if is_secret(key, text)}
        named = {variable_of(key): text for key, text in hidden.items()}
        return {**self.passwords.environment(), **named}


@dataclass(frozen=True, slots=True)
class ServerLaunch:
    """What servers are started with beside that."""

    http_address: str = "127.0.0.1:6666"
    """Of the first; the others take the ports above it."""
    count: int = 1
    tcp_ip: str = "127.0.0.1"
    checkpoint_dir: str = "./fl_ckpt/"
    model: str = ""


def scheduler_command(options: LaunchOptions, manage_address: str) -> Command:
    """How a scheduler is started."""
    address = scheduler_http_address(manage_address)
    try:
        require_free(address)
    except StartupError as exc:
        raise StartupError(f"{SCHEDULER_FAILED} {address} ({exc})") from exc
    return Command(
        f"scheduler {address}",
        ["sched", "--foreground", f"--scheduler_manage_address={address}", *options.arguments()],
        options.log_dir / "scheduler" / "scheduler.log",
        options.secrets(),
    )


def server_commands(options: LaunchOptions, servers: ServerLaunch, tell: Tell) -> list[Command]:
    """How the servers are started, each on a port of its own."""
    first = server_http_address(servers.http_address)
    ports = next_free_ports(first, servers.count, options.yaml_config, tell)
    return [_server_command(options, servers, Address(first.host, port)) for port in ports]


def _server_command(options: LaunchOptions, servers: ServerLaunch, address: Address) -> Command:
    arguments = [
        "server",
        "--foreground",
        "--local_server_num=1",
        f"--http_server_address={address}",
        f"--tcp_server_ip={servers.tcp_ip}",
        f"--checkpoint_dir={servers.checkpoint_dir}",
        *options.arguments(),
    ]
    if servers.model:
        arguments.append(f"--model={servers.model}")
    return Command(
        f"server {address}",
        arguments,
        options.log_dir / f"server_{address.port}" / "server.log",
        options.secrets(),
    )


def start_scheduler(
    options: LaunchOptions, manage_address: str = "127.0.0.1:11202", *, tell: Tell = print
) -> Started:
    """Start a scheduler in the background and return when it answers."""
    command = scheduler_command(options, manage_address)
    [started] = start([command], patience_s=options.patience_s, tell=tell)
    return started


def start_servers(
    options: LaunchOptions, servers: ServerLaunch, *, tell: Tell = print
) -> list[Started]:
    """Start servers in the background and return when all answer devices."""
    commands = server_commands(options, servers, tell)
    return start(commands, patience_s=options.patience_s, tell=tell)
