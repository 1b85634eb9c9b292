"""`fl-cluster state`, `explain`, `enable`, ...: ask a scheduler, and show what it says.

Exit codes: 0 when it did what was asked, 1 when it refused, with its sentence on standard
error, 3 when it, or its Redis, does not answer.
"""

from __future__ import annotations

import argparse
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fl_cluster.app import manage_text
from fl_cluster.config.addresses import parse_address
from fl_cluster.errors import (
    ExitCode,
    FlClusterError,
    PeerProtocolError,
    StartupError,
    StoreUnavailable,
)

TIMEOUT_S = 15.0
"""Longer than a scheduler waits for a server that it tells to do something."""

ANSWER_BYTES = 16 * 1024 * 1024
STORE_AWAY = "Failed to access the cache server"

Options = argparse.Namespace
Answer = Mapping[str, Any]


class Refused(FlClusterError):
    """The scheduler did not do what was asked; the message is its sentence."""

    exit_code = ExitCode.REFUSED


@dataclass(frozen=True, slots=True)
class Call:
    """One command: the path it asks for, what it sends, and how the answer is put in words."""

    path: str
    describe: Callable[[Answer], str]
    body: Callable[[Options], object] = lambda _: None
    """None: nothing is sent."""


def _message(answer: Answer) -> str:
    return str(answer.get("message", ""))


CALLS: Mapping[str, Call] = {
    "state": Call("/state?detail=1", manage_text.state),
    "nodes": Call("/nodes", manage_text.nodes),
    "explain": Call("/explain", manage_text.explanation),
    "scalein": Call("/scalein", _message, lambda options: {"node_ids": options.node_ids}),
    "scaleout": Call(
        "/scaleout", manage_text.command_lines, lambda options: {"server_num": options.server_num}
    ),
    "new-instance": Call("/newInstance", _message, lambda options: dict(options.changes)),
    "query-instance": Call("/queryInstance", manage_text.settings),
    "enable": Call("/enableFLS", _message),
    "disable": Call("/disableFLS", _message),
}


def run(options: Options, tell: Callable[[str], None]) -> int:
    """Carry out the command that `options` names; a fault says why it was not."""
    call = CALLS[options.command]
    answer = ask(options.manage, call.path, call.body(options))
    if options.format == "json":
        tell(json.dumps(answer, indent=2, sort_keys=True, ensure_ascii=False))
    if answer.get("code") != "0":
        sentence = str(answer.get("error_message", "the scheduler gave no reason"))
        if sentence.startswith(STORE_AWAY):
            raise StoreUnavailable(f"the scheduler at {options.manage}", sentence)
        raise Refused(sentence)
    if options.format == "text":
        tell(call.describe(answer))
    return ExitCode.DONE


def ask(manage_address: str, path: str, body: object = None) -> Answer:
    """The scheduler's answer, a refusal too; a fault says why there is none."""
    try:
        address = parse_address(manage_address)
    except ValueError as exc:
        raise StartupError(f"--manage {manage_address}: {exc}") from exc
    url = f"http://{address}{path}"
    data = None if body is None else json.dumps(body).encode()
    # A proxy that the environment names is for the world outside, not for the cluster.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, data, timeout=TIMEOUT_S) as answer:
            received = answer.read(ANSWER_BYTES)
    except urllib.error.HTTPError as exc:
        with exc:
            received = exc.read(ANSWER_BYTES)
    except OSError as exc:
        reason = getattr(exc, "reason", exc)
        raise StoreUnavailable(f"no scheduler answers at {address}", str(reason)) from exc
    try:
        decoded = json.loads(received)
    except ValueError as exc:
        raise PeerProtocolError(f"{url}: the answer is not JSON: {received[:80]!r}") from exc
    if not isinstance(decoded, dict):
        raise PeerProtocolError(f"{url}: expected a JSON object, found {received[:80]!r}")
    return decoded
