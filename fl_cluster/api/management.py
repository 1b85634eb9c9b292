"""The management plane: what operators and their tools ask the scheduler.

The plain answers are byte for byte what old tools know: compact, keys sorted, `code` a
string.  What is new stands in `detail` and comes only when asked for (`?detail=1`), because
old tools compare whole answers.  Nothing here changes the job.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from fl_cluster.api.plain_http import Answer, Plane, json_answer, json_refusal
from fl_cluster.errors import FlClusterError, StoreCorrupt, StoreUnavailable
from fl_cluster.lifecycle.membership import Member, Role
from fl_cluster.store.durability import DurabilityReader
from fl_cluster.store.member_port import MemberStore
from fl_cluster.store.ports import JobRecord, Snapshot

logger = logging.getLogger(__name__)

NO_STORE = "Failed to access the cache server. Please retry later."
BAD_STATE = "Failed to get cluster state because of some inner error."
BAD_NODES = "Failed to get nodes because of some inner error. Please retry later."

CLUSTER_STATES: Mapping[str, str | None] = {
    "running": "CLUSTER_READY",
    "disabled": "CLUSTER_DISABLE",
    "finished": "CLUSTER_FINISH",
    "stopped": None,
}
"""Instance state -> what old tools call it; a stopped one has no name there."""


class InstanceReader(Protocol):
    """Reads the current training run."""

    async def cluster_state(self) -> str | None:
        """The run's state word; None when no run is known."""

    async def job(self) -> JobRecord | None:
        """The run's record; None when there is none."""


class RoundReader(Protocol):
    """Reads the current round."""

    async def snapshot(self) -> Snapshot | None:
        """The current round; None when the store has no job."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the answers come from."""

    instances: InstanceReader
    rounds: RoundReader
    members: MemberStore
    durability: DurabilityReader


class _InnerError(Exception):
    """An answer cannot be made; its text is the refusal."""


class ManagementPlane:
    """Handlers for one job; `me` is the process that answers."""

    def __init__(self, job_name: str, sources: Sources, me: Member) -> None:
        self._job_name = job_name
        self._sources = sources
        self._me = me

    def plane(self) -> Plane:
        """What the management address serves."""
        routes = {"/state": self.state, "/healthz": self.healthz}
        return Plane(routes, self._answer_fault, self._answer_bug)

    async def state(self, request: web.BaseRequest) -> web.StreamResponse:
        """The job's state and its live members."""
        try:
            body = await self._state()
            if request.rel_url.query.get("detail", "0") != "0":
                body["detail"] = await self._detail()
        except _InnerError as exc:
            return json_refusal(str(exc))
        return _dump(body)

    async def _state(self) -> dict[str, Any]:
        try:
            word = await self._sources.instances.cluster_state()
        except StoreCorrupt as exc:
            logger.error("the job's state cannot be read: %s", exc)
            raise _InnerError(BAD_STATE) from exc
        if word is None:
            raise _InnerError(f"Cannot find cluster info for {self._job_name}")
        if word not in CLUSTER_STATES:
            logger.error("the job's state is %r, which is none", word)
            raise _InnerError(BAD_STATE)
        body: dict[str, Any] = {"code": "0", "message": "Get cluster state successful."}
        if CLUSTER_STATES[word] is not None:
            body["cluster_state"] = CLUSTER_STATES[word]
        nodes = _nodes(await self._members())
        if nodes:
            body["nodes"] = nodes
        return body

    async def _members(self) -> Sequence[Member]:
        try:
            return await self._sources.members.live()
        except StoreCorrupt as exc:
            logger.error("the members cannot be read: %s", exc)
            raise _InnerError(BAD_NODES) from exc

    async def _detail(self) -> dict[str, Any]:
        durability = await self._sources.durability.durability()
        job = await self._sources.instances.job()
        snapshot = await self._sources.rounds.snapshot()
        return {
            "durability": {"level": durability.level.value, "meaning": durability.sentence},
            "job": None if job is None else _job_detail(self._job_name, job, snapshot),
            "members": [_member_detail(member) for member in await self._members()],
            "round": None if snapshot is None else _round_detail(snapshot),
            "scheduler": {"kernel": self._me.kernel, "version": self._me.version},
        }

    async def healthz(self, request: web.BaseRequest) -> web.StreamResponse:
        """Whether this process lives, always 200; with `?ready=1` also whether it can serve."""
        try:
            await self._sources.instances.cluster_state()
            store = "ok"
        except FlClusterError as exc:
            store = f"unreachable: {exc}"
            if request.rel_url.query.get("ready", "0") != "0":
                return json_refusal(store, status=503)
        return _dump({"code": "0", "message": "alive", "store": store})

    @staticmethod
    def _answer_fault(request: web.BaseRequest, fault: FlClusterError) -> Answer:
        logger.warning("%s: %s", request.path, fault)
        if isinstance(fault, StoreUnavailable):
            return json_refusal(NO_STORE)
        return json_refusal(BAD_STATE)

    @staticmethod
    def _answer_bug(_request: web.BaseRequest) -> Answer:
        return json_refusal(BAD_STATE, status=500)


def _dump(body: Mapping[str, Any]) -> Answer:
    text = json.dumps(body, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return json_answer(text.encode("utf-8", "surrogateescape"))


def _nodes(members: Sequence[Member]) -> list[dict[str, str]]:
    """Servers by id, then workers by id; schedulers are not part of training."""
    shown = {Role.SERVER: "SERVER", Role.WORKER: "WORKER"}
    return [
        {"node_id": member.id, "role": name, "tcp_address": member.tcp_address}
        for role, name in shown.items()
        for member in members
        if member.role is role
    ]


def _job_detail(name: str, job: JobRecord, snapshot: Snapshot | None) -> dict[str, Any]:
    return {
        "instance": job.instance,
        "name": name,
        "rounds_total": job.rounds_total,
        "state": None if snapshot is None else snapshot.job_state,
    }


def _round_detail(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "attempt": snapshot.ref.attempt,
        "cohort_size": snapshot.plan.cohort_size,
        "deadline_ms": snapshot.deadline,
        "number": snapshot.ref.number,
        "opened_at_ms": snapshot.opened_at,
        "phase": snapshot.phase,
        "report_goal": snapshot.plan.report_goal,
    }


def _member_detail(member: Member) -> dict[str, Any]:
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
