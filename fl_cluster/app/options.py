"""The arguments of every command, once: the scripts and `fl-cluster` share them.

Names are the original's; each may be written with hyphens as well.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fl_cluster.config.changes import NAMES as CHANGEABLE_NAMES
from fl_cluster.config.overrides import PASSWORD_VARIABLE

DEFAULT_YAML = "default_yaml_config.yaml"
MANAGE_ADDRESS = "127.0.0.1:11202"
HTTP_ADDRESS = "127.0.0.1:6666"


def _flag(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    names = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    parser.add_argument(*names, dest=name, **options)


def _key_and_value(text: str) -> tuple[str, str]:
    key, has_value, value = text.partition("=")
    if not has_value or not key:
        raise argparse.ArgumentTypeError(f"expected key=value, found {text!r}")
    return key, value


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds above 0, found {text!r}")
    return seconds


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1_000:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 1000, found {text!r}")
    return int(text)


def _add_launch(parser: argparse.ArgumentParser) -> None:
    _flag(
        parser,
        "yaml_config",
        default=DEFAULT_YAML,
        metavar="FILE",
        help=f"the job's configuration ({DEFAULT_YAML})",
    )
    parser.add_argument(
        "--set",
        action="append",
        type=_key_and_value,
        default=[],
        metavar="KEY=VALUE",
        help="a configuration key, as in round.start_fl_job_threshold=4; may be repeated",
    )
    _flag(
        parser,
        "foreground",
        action="store_true",
        help="stay in the foreground and log to standard error, as containers want it",
    )
    _flag(
        parser,
        "wait",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait in the background case until it serves (30)",
    )
    _flag(
        parser,
        "log_dir",
        type=Path,
        default=Path("logs"),
        metavar="FOLDER",
        help="where logs of background processes are written (logs)",
    )


def add_sched(parser: argparse.ArgumentParser) -> None:
    """Arguments of a scheduler."""
    _add_launch(parser)
    _flag(
        parser,
        "scheduler_manage_address",
        default=MANAGE_ADDRESS,
        metavar="IP:PORT",
        help=f"where operators are answered ({MANAGE_ADDRESS})",
    )


def add_server(parser: argparse.ArgumentParser) -> None:
    """Arguments of servers."""
    _add_launch(parser)
    _flag(
        parser,
        "http_server_address",
        default=HTTP_ADDRESS,
        metavar="IP:PORT",
        help=f"where devices are answered; further servers take the ports above ({HTTP_ADDRESS})",
    )
    _flag(
        parser,
        "tcp_server_ip",
        default="127.0.0.1",
        metavar="IP",
        help="the address on the cluster's own network; auto picks one and says which (127.0.0.1)",
    )
    _flag(
        parser,
        "checkpoint_dir",
        default="./fl_ckpt/",
        metavar="FOLDER",
        help="where checkpoints are written, and found when a job starts anew (./fl_ckpt/)",
    )
    _flag(
        parser,
        "local_server_num",
        type=_count,
        default=2,
        metavar="N",
        help="how many servers to start; ports with servers of this job are passed over (2)",
    )
    _flag(
        parser,
        "model",
        default="",
        metavar="FILE",
        help="initial weights, an .npz or .ckpt; without it the newest checkpoint, else a LeNet",
    )


def add_finish(parser: argparse.ArgumentParser) -> None:
    """Arguments of ending a cluster."""
    _flag(
        parser,
        "redis_port",
        type=int,
        default=8113,
        metavar="PORT",
        help="of the Redis the cluster uses (8113)",
    )
    _flag(
        parser,
        "redis_address",
        default="127.0.0.1",
        metavar="HOST",
        help="its host, or a redis:// or unix: address; a password is taken from "
        f"{PASSWORD_VARIABLE} (127.0.0.1)",
    )
    _flag(
        parser,
        "yaml_config",
        default="",
        metavar="FILE",
        help="take address and job from the job's configuration instead",
    )
    _flag(
        parser,
        "fl_name",
        default="",
        metavar="NAME",
        help="the job to end; needed when several have processes on this host",
    )
    _flag(parser, "stop_redis", action="store_true", help="stop Redis too")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("function", metavar="MODULE:FUNCTION", help="the training function")
    parser.add_argument(
        "--server",
        action="append",
        required=True,
        metavar="URL",
        help="a server of the cluster; may be repeated",
    )
    _flag(parser, "data_size", type=int, required=True, help="samples the function trains on")
    _flag(parser, "device_id", default="", metavar="ID", help="who this is (random)")
    _flag(parser, "url_prefix", default="", metavar="/PATH/", help="the job's http_url_prefix")
    _flag(
        parser,
        "patience",
        type=_seconds,
        default=300.0,
        metavar="SECONDS",
        help="how long to bear with servers that do not answer (300)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the last model as .npz")


def _add_manage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manage",
        default=MANAGE_ADDRESS,
        metavar="IP:PORT",
        help=f"the scheduler's address ({MANAGE_ADDRESS})",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="for people or programs (text)"
    )


def _add_scalein(parser: argparse.ArgumentParser) -> None:
    _add_manage(parser)
    parser.add_argument(
        "node_ids", nargs="+", metavar="NODE_ID", help="servers to drain, as `state` names them"
    )


def _add_scaleout(parser: argparse.ArgumentParser) -> None:
    _add_manage(parser)
    parser.add_argument(
        "server_num",
        nargs="?",
        type=_count,
        default=1,
        metavar="N",
        help="how many more servers are wanted (1)",
    )


def _change(text: str) -> tuple[str, Any]:
    name, value = _key_and_value(text)
    if name not in CHANGEABLE_NAMES:
        known = ", ".join(CHANGEABLE_NAMES)
        raise argparse.ArgumentTypeError(f"{name!r} cannot be changed; these can: {known}")
    try:
        return name, json.loads(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{name}: expected a number, found {value!r}") from None


def _add_new_instance(parser: argparse.ArgumentParser) -> None:
    _add_manage(parser)
    parser.add_argument(
        "changes",
        nargs="*",
        type=_change,
        default=[],
        metavar="KEY=VALUE",
        help="settings of the new run that differ from those of the one before: "
        + ", ".join(CHANGEABLE_NAMES),
    )


def _add_nothing(_parser: argparse.ArgumentParser) -> None:
    """The command has a parser of its own."""


MANAGE_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "state": ("show what a cluster is doing", _add_manage),
    "nodes": ("show its processes and how busy they are", _add_manage),
    "explain": ("say why the round is not moving", _add_manage),
    "scaleout": ("show the commands that add servers", _add_scaleout),
    "scalein": ("let servers finish what they hold and end", _add_scalein),
    "new-instance": ("begin a new run, from the newest weights", _add_new_instance),
    "query-instance": ("show the run's settings", _add_manage),
    "disable": ("stop the job until it is enabled", _add_manage),
    "enable": ("let a disabled job go on", _add_manage),
}
"""Commands that ask a scheduler, or tell it something."""

COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "sched": ("start a scheduler", add_sched),
    "server": ("start servers", add_server),
    "device": ("be a device that trains with a function of yours", _add_device),
    "demo": ("train on real data, from start to result", _add_nothing),
    **MANAGE_COMMANDS,
    "finish": ("end a cluster's processes on this host", add_finish),
    "model": ("show, and convert, a model file", _add_nothing),
}


HANDED_ON = ("demo", "model")
"""Commands whose arguments are handed on as they are."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments of `fl-cluster`; exits with 2 and a sentence when they are wrong."""
    if arguments and arguments[0] in HANDED_ON:
        name, *rest = arguments
        return argparse.Namespace(version=False, command=name, rest=rest)
    return command_parser().parse_args(arguments)


def command_parser() -> argparse.ArgumentParser:
    """The parser of `fl-cluster`."""
    parser = argparse.ArgumentParser(
        prog="fl-cluster", description="Run, watch and end a federated-learning cluster."
    )
    parser.add_argument(
        "--version", action="store_true", help="show versions, the kernel in use, what is missing"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (summary, add) in COMMANDS.items():
        add(commands.add_parser(name, help=summary, description=summary))
    return parser


def script_parser(
    summary: str, add: Callable[[argparse.ArgumentParser], None]
) -> argparse.ArgumentParser:
    """The parser of a script that is one command."""
    parser = argparse.ArgumentParser(description=summary)
    add(parser)
    return parser
