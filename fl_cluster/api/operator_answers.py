"""Answers to operators: how they are written, and the sentences that old tools know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fl_cluster.api.plain_http import Answer, json_answer
from fl_cluster.lifecycle.membership import Member, Role

NO_STORE = "Failed to access the cache server. Please retry later."
BAD_STATE = "Failed to get cluster state because of some inner error."
BAD_NODES = "Failed to get nodes because of some inner error. Please retry later."


def no_job(name: str) -> str:
    """The sentence about a job that this store does not know."""
    return f"Cannot find cluster info for {name}"


def inner_error(what: str) -> str:
    """The sentence about something that could not be done because a record is damaged."""
    return f"Failed to {what} because of some inner error. Please retry later."


def success(message: str, **fields: Any) -> Answer:
    """`code` 0, a message, and what else there is."""
    return dump({"code": "0", "message": message, **fields})


def dump(body: Mapping[str, Any]) -> Answer:
    """Compact JSON with sorted keys."""
    text = json.dumps(body, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return json_answer(text.encode("utf-8", "surrogateescape"))


def nodes(members: Sequence[Member]) -> dict[str, list[dict[str, str]]]:
    """`nodes`: servers by id, then workers by id; without any the key is left out.

    Schedulers take no part in training and are not shown.
    """
    shown = {Role.SERVER: "SERVER", Role.WORKER: "WORKER"}
    found = [
        {"node_id": member.id, "role": name, "tcp_address": member.tcp_address}
        for role, name in shown.items()
        for member in members
        if member.role is role
    ]
    return {"nodes": found} if found else {}


def member_detail(member: Member) -> dict[str, Any]:
    """All that a member says of itself."""
    return {
        "host": member.host,
        "http_address": member.http_address,
        "id": member.id,
        "kernel": member.kernel,
        "manage_address": member.manage_address,
        "pid": member.pid,
        "role": member.role.value,
        "started_ms": member.started_ms,
        "state": member.state.value,
        "tcp_address": member.tcp_address,
        "version": member.version,
    }
