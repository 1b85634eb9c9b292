"""`fl-cluster state`, `explain`, `enable`, ...: ask a scheduler, and show what it says.

Exit codes: 0 when it did what was asked, 1 when it refused, with its sentence on standard
error, 3 when it, or its Redis, does not answer.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fl_cluster.app import manage_text
from fl_cluster.app.network import is_loopback
from fl_cluster.app.token_files import operator_token
from fl_cluster.config.addresses import Address, parse_address
from fl_cluster.errors import (
    ExitCode,
    FlClusterError,
    PeerProtocolError,
    StartupError,
    StoreUnavailable,
)
from fl_cluster.security.tls_door import PLAIN_TEXT
from fl_cluster.security.tls_trouble import explain_outgoing

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
    token = operator_token(options.token_file, os.environ)
    scheduler = Scheduler.at(options.manage, options.ca)
    if token and not options.token_over_http:
        _refuse_plain_http(scheduler)
    answer = ask(scheduler, call.path, call.body(options), token)
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


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Where a scheduler answers, and how it is known when it has TLS."""

    address: Address
    tls: ssl.SSLContext | None = None

    @classmethod
    def at(cls, text: str, authority: str = "") -> Scheduler:
        """The one at `[https://]host:port`; StartupError says what cannot be used."""
        scheme, has_scheme, place = text.rpartition("://")
        if has_scheme and scheme not in {"http", "https"}:
            raise StartupError(f"--manage {text}: expected host:port or https://host:port")
        try:
            address = parse_address(place.rstrip("/"))
        except ValueError as exc:
            raise StartupError(f"--manage {text}: {exc}") from exc
        if scheme != "https":
            return cls(address)
        try:
            return cls(address, ssl.create_default_context(cafile=authority or None))
        except OSError as exc:
            reason = exc.strerror or "expected certificates in PEM"
            raise StartupError(f"--ca {authority}: {reason}") from exc

    def __str__(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://{self.address}"


def ask(scheduler: Scheduler, path: str, body: object = None, token: str = "") -> Answer:
    """The scheduler's answer, a refusal too; a fault says why there is none."""
    url = f"{scheduler}{path}"
    data = None if body is None else json.dumps(body).encode()
    # A proxy that the environment names is for the world outside, not for the cluster.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=scheduler.tls)
    )
    try:
        with opener.open(_request(url, data, token), timeout=TIMEOUT_S) as answer:
            received = answer.read(ANSWER_BYTES)
    except urllib.error.HTTPError as exc:
        with exc:
            received = exc.read(ANSWER_BYTES)
    except OSError as exc:
        reason = getattr(exc, "reason", exc)
        problem = explain_outgoing(reason) if isinstance(reason, OSError) else ""
        sentence = f"no scheduler answers at {scheduler.address}"
        raise StoreUnavailable(sentence, problem or str(reason)) from exc
    if PLAIN_TEXT in received and scheduler.tls is None:
        address = scheduler.address
        raise StartupError(f"the scheduler at {address} speaks TLS: --manage https://{address}")
    try:
        decoded = json.loads(received)
    except ValueError as exc:
        raise PeerProtocolError(f"{url}: the answer is not JSON: {received[:80]!r}") from exc
    if not isinstance(decoded, dict):
        raise PeerProtocolError(f"{url}: expected a JSON object, found {received[:80]!r}")
    return decoded


def _refuse_plain_http(scheduler: Scheduler) -> None:
    """A fault when what is sent there could be read on its way."""
    if scheduler.tls is None and not is_loopback(scheduler.address.host):
        raise StartupError(
            f"the operator's token would go to {scheduler.address} over plain HTTP, where anyone"
            " can read it: use https://, ask on the scheduler's own host, or say --token-over-http"
        )


def _request(url: str, data: bytes | None, token: str) -> urllib.request.Request:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return urllib.request.Request(url, data, headers)  # noqa: S310 - the scheme is ours
