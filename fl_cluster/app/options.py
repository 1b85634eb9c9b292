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


def flag(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """Add an argument under the original's name, and with hyphens."""
    names = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    parser.add_argument(*names, dest=name, **options)


def key_and_value(text: str) -> tuple[str, str]:
    """The two sides of `key=value`."""
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


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    flag(
        parser,
        "yaml_config",
        default=DEFAULT_YAML,
        metavar="FILE",
        help=f"the job's configuration ({DEFAULT_YAML})",
    )
    parser.add_argument(
        "--set",
        action="append",
        type=key_and_value,
        default=[],
        metavar="KEY=VALUE",
        help="a configuration key, as in round.start_fl_job_threshold=4; may be repeated",
    )


def _add_launch(parser: argparse.ArgumentParser) -> None:
    _add_configuration(parser)
    for side in ("server", "client"):
        flag(
            parser,
            f"{side}_password_file",
            default="",
            metavar="FILE",
            help=f"password of ssl.{side}_cert_path; without it"
            f" FL_CLUSTER_{side.upper()}_PASSWORD, else the terminal is asked",
        )
    flag(
        parser,
        "foreground",
        action="store_true",
        help="stay in the foreground and log to standard error, as containers want it",
    )
    flag(
        parser,
        "wait",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait in the background case until it serves (30)",
    )
    flag(
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
    flag(
        parser,
        "scheduler_manage_address",
        default=MANAGE_ADDRESS,
        metavar="IP:PORT",
        help=f"where operators are answered ({MANAGE_ADDRESS})",
    )


def add_server(parser: argparse.ArgumentParser) -> None:
    """Arguments of servers."""
    _add_launch(parser)
    flag(
        parser,
        "http_server_address",
        default=HTTP_ADDRESS,
        metavar="IP:PORT",
        help=f"where devices are answered; further servers take the ports above ({HTTP_ADDRESS})",
    )
    flag(
        parser,
        "tcp_server_ip",
        default="127.0.0.1",
        metavar="IP",
        help="the address on the cluster's own network; auto picks one and says which (127.0.0.1)",
    )
    flag(
        parser,
        "checkpoint_dir",
        default="./fl_ckpt/",
        metavar="FOLDER",
        help="where checkpoints are written, and found when a job starts anew (./fl_ckpt/)",
    )
    flag(
        parser,
        "local_server_num",
        type=_count,
        default=2,
        metavar="N",
        help="how many servers to start; ports with servers of this job are passed over (2)",
    )
    flag(
        parser,
        "model",
        default="",
        metavar="FILE",
        help="initial weights, an .npz or .ckpt; without it the newest checkpoint, else a LeNet",
    )


def add_finish(parser: argparse.ArgumentParser) -> None:
    """Arguments of ending a cluster."""
    flag(
        parser,
        "redis_port",
        type=int,
        default=8113,
        metavar="PORT",
        help="of the Redis the cluster uses (8113)",
    )
    flag(
        parser,
        "redis_address",
        default="127.0.0.1",
        metavar="HOST",
        help="its host, or a redis:// or unix: address; a password is taken from "
        f"{PASSWORD_VARIABLE} (127.0.0.1)",
    )
    flag(
        parser,
        "yaml_config",
        default="",
        metavar="FILE",
        help="take address and job from the job's configuration instead",
    )
    flag(
        parser,
        "fl_name",
        default="",
        metavar="NAME",
        help="the job to end; needed when several have processes on this host",
    )
    flag(parser, "stop_redis", action="store_true", help="stop Redis too")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("function", metavar="MODULE:FUNCTION", help="the training function")
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="URL",
        help="a server of the cluster; may be repeated",
    )
    parser.add_argument(
        "--join-file", metavar="FILE", help="a join line, in place of servers, prefix and token"
    )
    parser.add_argument(
        "--ca", default="", metavar="FILE", help="the authority of the servers' certificates"
    )
    parser.add_argument("--token-file", metavar="FILE", help="the device's token")
    parser.add_argument(
        "--token-over-http", action="store_true", help="send it also where anyone can read it"
    )
    parser.add_argument(
        "--identity",
        nargs=2,
        metavar=("KEY", "CHAIN"),
        help="key and certificates in PEM, for servers that verify devices",
    )
    parser.add_argument(
        "--protection",
        default="",
        metavar="KIND",
        help="refuse a job that announces less: SECURE_AGGREGATION, PW_ENCRYPT, or"
        " DP_ENCRYPT,epsilon=1,delta=1e-05 (what the join line says, else whatever is announced)",
    )
    flag(parser, "data_size", type=int, required=True, help="samples the function trains on")
    flag(parser, "device_id", default="", metavar="ID", help="who this is (random)")
    flag(parser, "url_prefix", default="", metavar="/PATH/", help="the job's http_url_prefix")
    flag(
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
        help=f"the scheduler's address, with https:// when it has TLS ({MANAGE_ADDRESS})",
    )
    parser.add_argument(
        "--ca", default="", metavar="FILE", help="the authority of its certificate (the system's)"
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="for people or programs (text)"
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="the operator's token; without it FL_CLUSTER_OPERATOR_TOKEN is looked at",
    )
    parser.add_argument(
        "--token-over-http", action="store_true", help="send it also where anyone can read it"
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
    name, value = key_and_value(text)
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


def _add_token(parser: argparse.ArgumentParser) -> None:
    calls = parser.add_subparsers(dest="what", metavar="COMMAND", required=True)
    create = calls.add_parser("create", help="make a token and show it, once")
    _add_new_token(create)
    create.add_argument(
        "--role",
        choices=("device", "operator"),
        default="device",
        help="whether its bearer takes part or manages the job (device)",
    )
    listed = calls.add_parser("list", help="show labels, when they were made, last used, end")
    _add_configuration(listed)
    listed.add_argument(
        "--format", choices=("text", "json"), default="text", help="for people or programs (text)"
    )
    revoke = calls.add_parser("revoke", help="refuse tokens from now on, on all servers")
    _add_configuration(revoke)
    revoke.add_argument("name", metavar="LABEL|ID", help="all tokens of a label, or the one")


def _add_new_token(parser: argparse.ArgumentParser) -> None:
    _add_configuration(parser)
    parser.add_argument(
        "--label", required=True, help="who it is for; several tokens may have the same"
    )
    parser.add_argument("--expires", default="", metavar="TIME", help="30d, 12h or 2027-01-31")
    parser.add_argument(
        "--overlap",
        default="",
        metavar="TIME",
        help="end the label's other tokens after this time, such as 7d: a change of tokens",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write it to a new file of mode 0600 instead"
    )


def _add_join_line(parser: argparse.ArgumentParser) -> None:
    _add_new_token(parser)
    parser.set_defaults(role="device")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="a token that was made before"
    )
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="a server as devices reach it; may be repeated (those that run)",
    )
    flag(parser, "url_prefix", default="", metavar="/PATH/", help="the job's http_url_prefix")
    parser.add_argument(
        "--protection",
        default="",
        metavar="KIND",
        help="what devices that use the line insist on from then on, such as SECURE_AGGREGATION;"
        " NOT_ENCRYPT for nothing (the encrypt_type of the job's file)",
    )
    parser.add_argument(
        "--https", action="store_true", help="devices use https although the servers do not"
    )
    parser.add_argument(
        "--ca", default="", metavar="FILE", help="the authority of the servers' certificates"
    )
    flag(parser, "public_ca", action="store_true", help="it is one that every system knows")


def _add_migrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("step", choices=("check",), help="say what a file means here, key by key")
    parser.add_argument("file", metavar="FILE", help="a configuration written for the original")
    parser.add_argument(
        "--role",
        choices=("server", "scheduler"),
        default="server",
        help="whose it is; a scheduler's may lack what only servers look at (server)",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="for people or programs (text)"
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
    "token": ("make, list and revoke tokens of devices and operators", _add_token),
    "join-line": ("show all that a participant needs, as one line", _add_join_line),
    "certs": ("make, renew, revoke and show certificates of the cluster", _add_nothing),
    "finish": ("end a cluster's processes on this host", add_finish),
    "migrate": ("say what a configuration of the original means here", _add_migrate),
    "model": ("show, and convert, a model file", _add_nothing),
    "privacy": ("say what the noise of a run costs, before it runs", _add_nothing),
}


HANDED_ON = ("certs", "demo", "model", "privacy")
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
