"""What each command does with its arguments; the imports a command needs are its own."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fl_cluster.app import launch
from fl_cluster.app.arguments import overrides_of, warn_of_secret
from fl_cluster.app.launch import Command, LaunchOptions, ServerLaunch
from fl_cluster.app.options import MANAGE_COMMANDS
from fl_cluster.app.output import tell
from fl_cluster.app.process import guarded, report, run
from fl_cluster.app.ready_pipe import ReadyPipe
from fl_cluster.config.exposure import ADDRESS, is_secret
from fl_cluster.config.load import load
from fl_cluster.config.overrides import PASSWORD_VARIABLE
from fl_cluster.config.schema import JobSettings
from fl_cluster.errors import FlClusterError, StartupError
from fl_cluster.security.passwords import Passwords
from fl_cluster.telemetry import logs

Options = argparse.Namespace


def find_path(text: str, beside: Path | None) -> str:
    """A path that is there from the current folder, else from the script's, else as given."""
    if beside is None or Path(text).is_absolute() or Path(text).exists():
        return text
    return str(beside / text) if (beside / text).exists() else text


def _launch_options(options: Options, beside: Path | None) -> LaunchOptions:
    return LaunchOptions(
        yaml_config=find_path(options.yaml_config, beside),
        log_dir=options.log_dir,
        patience_s=options.wait,
        overrides=overrides_of(options),
        passwords=_passwords(options, find_path(options.yaml_config, beside)),
    )


def _passwords(options: Options, yaml_config: str) -> Passwords:
    """Of key files: from a file, the environment, or whoever sits at the terminal."""
    given = Passwords.of(os.environ, options.server_password_file, options.client_password_file)
    if not sys.stdin.isatty():
        return given
    from fl_cluster.app.tls import missing_passwords

    try:
        settings = load(yaml_config, "scheduler", overrides=dict(options.set))
    except FlClusterError:
        return given  # the process that is about to start says it better
    if not settings.tls.enabled:
        return given
    needs_server, needs_client = missing_passwords(settings.tls, given)
    return given.ask(server=needs_server, client=needs_client)


def sched(options: Options, beside: Path | None = None) -> int:
    """Start a scheduler, in the background or here."""
    return guarded(lambda: _sched(options, beside))


def _sched(options: Options, beside: Path | None) -> int:
    launch_options = _launch_options(options, beside)
    if options.foreground:
        return _be_scheduler(launch_options, options.scheduler_manage_address)
    started = launch.start_scheduler(launch_options, options.scheduler_manage_address, tell=tell)
    url = started.facts.get("url", f"http://{started.address}")
    insecure = "-k " if str(url).startswith("https") else ""
    tell(f"ask it with: curl {insecure}{url}/state; its log is {started.log}")
    return 0


def server(options: Options, beside: Path | None = None) -> int:
    """Start servers, in the background or here."""
    return guarded(lambda: _server(options, beside))


def _server(options: Options, beside: Path | None) -> int:
    launch_options = _launch_options(options, beside)
    servers = ServerLaunch(
        http_address=options.http_server_address,
        count=options.local_server_num,
        tcp_ip=_tcp_ip(options.tcp_server_ip),
        checkpoint_dir=find_path(options.checkpoint_dir, beside),
        model=options.model,
    )
    if options.foreground and servers.count == 1:
        return _be_server(launch_options, servers)
    commands = launch.server_commands(launch_options, servers, tell)
    if options.foreground:
        return launch.supervise(commands, patience_s=launch_options.patience_s, tell=tell)
    launch.start(commands, patience_s=launch_options.patience_s, tell=tell)
    _say_where_logs_are(commands)
    return 0


def _say_where_logs_are(commands: list[Command]) -> None:
    for command in commands:
        tell(f"log of {command.label}: {command.log}")


def _tcp_ip(text: str) -> str:
    from fl_cluster.app import network

    if text != network.AUTOMATIC:
        return text
    ip, interface = network.first_usable_ip()
    tell(f"--tcp_server_ip=auto: using {ip} of {interface}")
    return ip


def _prepare(pipe: ReadyPipe, read: Callable[[], JobSettings], role: str) -> JobSettings | int:
    """The settings, with logging as they want it; an exit code when they cannot be used."""
    try:
        settings = read()
        level = logs.level_in_force(settings.cluster.log_level, os.environ)
        logs.configure(level, settings.cluster.log_format)
    except FlClusterError as fault:
        sys.stderr.write(f"{role}: {fault}\n")
        pipe.error(str(fault), fault.exit_code)
        return fault.exit_code
    return settings


def _be_scheduler(options: LaunchOptions, manage_address: str) -> int:
    pipe = ReadyPipe.inherited(os.environ)
    settings = _prepare(
        pipe,
        lambda: load(options.yaml_config, "scheduler", overrides=options.overrides),
        "scheduler",
    )
    if isinstance(settings, int):
        return settings
    try:
        from fl_cluster.app.scheduler import SchedulerOptions, serve
    except ImportError as exc:
        return report(StartupError(str(exc)), pipe)
    scheduler = SchedulerOptions(manage_address, options.overrides, options.passwords)
    return run(lambda stop, ready: serve(settings, scheduler, stop=stop, ready=ready), pipe=pipe)


def _be_server(options: LaunchOptions, servers: ServerLaunch) -> int:
    from fl_cluster.config.schema import Settings

    pipe = ReadyPipe.inherited(os.environ)
    settings = _prepare(
        pipe,
        lambda: load(options.yaml_config, "server", overrides=options.overrides),
        "server",
    )
    if isinstance(settings, int):
        return settings
    assert isinstance(settings, Settings)
    try:
        from fl_cluster.app.server import ServerOptions, serve
    except ImportError as exc:
        return report(StartupError(str(exc)), pipe)
    server_options = ServerOptions(
        http_address=servers.http_address,
        tcp_ip=servers.tcp_ip,
        checkpoint_dir=Path(servers.checkpoint_dir),
        model_file=Path(servers.model) if servers.model else None,
        passwords=options.passwords,
    )
    return run(
        lambda stop, ready: serve(settings, server_options, stop=stop, ready=ready), pipe=pipe
    )


def finish(options: Options, beside: Path | None = None) -> int:
    """End a cluster."""
    return guarded(lambda: _finish(options, beside))


def _finish(options: Options, beside: Path | None) -> int:
    from fl_cluster.app.finish import FinishOptions, finish, redis_at
    from fl_cluster.app.tls import store_tls

    tls = None
    if options.yaml_config:
        settings = load(find_path(options.yaml_config, beside), "scheduler")
        address, data_dir = settings.cache.address, settings.cluster.data_dir
        job, tls = options.fl_name or settings.name, store_tls(settings)
    else:
        password = os.environ.get(PASSWORD_VARIABLE, "")
        address = redis_at(options.redis_address, options.redis_port, password)
        if is_secret(ADDRESS, options.redis_address):
            warn_of_secret("--redis_address", PASSWORD_VARIABLE)
        data_dir, job = "", options.fl_name
    return finish(FinishOptions(address, data_dir, job, options.stop_redis, tls), tell)


def manage(options: Options) -> int:
    """Ask a scheduler, or tell it something."""

    def call() -> int:
        from fl_cluster.app.manage_command import run

        return run(options, tell)

    return guarded(call)


def device(options: Options) -> int:
    """Be a device that trains with a function of the user's."""
    return guarded(lambda: _device(options))


def _device(options: Options) -> int:
    from fl_cluster.app.device_command import device_of
    from fl_cluster.store.model_files import write_model

    train = find_function(options.function)
    result = device_of(options, train).run_sync()
    tell(
        f"{result.device_id}: counted in {len(result.rounds)} rounds; "
        f"the newest model is that of round {result.final_round}"
    )
    if options.out is not None:
        write_model(options.out, result.weights)
        tell(f"written: {options.out}")
    return 0


def find_function(name: str) -> Callable[..., Any]:
    """The function that `module:function` names, looked for from the current folder too."""
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, ValueError, AttributeError) as exc:
        raise StartupError(f"{name}: expected MODULE:FUNCTION ({exc})") from exc
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise StartupError(f"{name}: expected a function, found {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def token(options: Options) -> int:
    """Make, list or revoke tokens."""

    def call() -> int:
        from fl_cluster.app import token_command

        return token_command.token(options, tell)

    return guarded(call)


def join_line(options: Options) -> int:
    """Show all that a participant needs as one line."""

    def call() -> int:
        from fl_cluster.app import token_command

        return token_command.join_line(options, tell)

    return guarded(call)


def certs(options: Options) -> int:
    """Make, renew, revoke and show certificates."""

    def call() -> int:
        from fl_cluster.app import certs_command

        parser = argparse.ArgumentParser(
            prog="fl-cluster certs", description="An authority of the cluster's own, in a folder."
        )
        certs_command.add_arguments(parser)
        return certs_command.run(parser.parse_args(options.rest), tell)

    return guarded(call)


def demo(options: Options) -> int:
    """Run the example that trains on real data; it needs the source checkout."""
    script = Path(__file__).parents[2] / "examples" / "digits" / "run.py"
    if script.exists():
        os.execv(sys.executable, [sys.executable, str(script), *options.rest])  # noqa: S606
    sys.stderr.write("the demo is part of the source checkout: clone it, then `make run`\n")
    return 2


def model(options: Options) -> int:
    """Show, and convert, a model file; `model show FILE` is the same as `model FILE`."""
    from fl_cluster.app.model_command import main

    rest = options.rest
    if rest[:1] == ["show"] and not Path("show").exists():
        rest = rest[1:]
    return main(rest)


def privacy(options: Options) -> int:
    """Say what the noise of a run costs, before it runs."""

    def call() -> int:
        from fl_cluster.app import privacy_command

        parser = argparse.ArgumentParser(
            prog="fl-cluster privacy", description="Differential privacy: what a run costs."
        )
        privacy_command.add_arguments(parser)
        return privacy_command.run(parser.parse_args(options.rest), tell)

    return guarded(call)


def migrate(options: Options) -> int:
    """Say what becomes of a configuration that was written for the original."""
    from fl_cluster.app.migrate_command import check

    return check(options.file, options.role, options.format)


COMMANDS: dict[str, Callable[[Options], int]] = {
    "sched": sched,
    "server": server,
    "device": device,
    "demo": demo,
    **dict.fromkeys(MANAGE_COMMANDS, manage),
    "token": token,
    "join-line": join_line,
    "certs": certs,
    "finish": finish,
    "migrate": migrate,
    "model": model,
    "privacy": privacy,
}
