"""The management plane: what operators and their tools ask the scheduler.

The old calls answer byte for byte as old tools know them: compact, keys sorted, `code` a
string.  What is new in `/state` stands in `detail` and comes only when asked for
(`?detail=1`), because old tools compare whole answers.  The method is not looked at.
Not here: calls that change something (api.steering), that explain (api.explain), and
figures (api.figures).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from fl_cluster.api.explain import ExplainHandlers, Fleet
from fl_cluster.api.figures import Figures
from fl_cluster.api.gatekeeper import Gatekeeper
from fl_cluster.api.json_bodies import Refused
from fl_cluster.api.operator_answers import (
    BAD_NODES,
    BAD_STATE,
    NO_STORE,
    dump,
    inner_error,
    member_detail,
    no_job,
    nodes,
    success,
)
from fl_cluster.api.plain_http import Answer, Handler, Plane, json_refusal
from fl_cluster.api.steering import CommandLines, SteeringHandlers
from fl_cluster.config.shared import visible
from fl_cluster.errors import FlClusterError, StoreCorrupt, StoreUnavailable
from fl_cluster.lifecycle.membership import Member
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.inquiry import Inquiry
from fl_cluster.service.spending import Spending
from fl_cluster.service.steering import Steering
from fl_cluster.store.durability import DurabilityReader
from fl_cluster.store.member_port import MemberStore
from fl_cluster.store.ports import Counts, JobRecord, Snapshot

logger = logging.getLogger(__name__)

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

    async def counts(self, ref: RoundRef) -> Counts:
        """How many devices are in the round, being folded, and counted."""

    async def visits(self, ref: RoundRef) -> Mapping[str, int]:
        """The round's counters of requests and bytes so far."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the answers come from."""

    instances: InstanceReader
    rounds: RoundReader
    members: MemberStore
    durability: DurabilityReader
    fleet: Fleet
    certificate_end_s: Callable[[], float] | None = None
    """When the first certificate ends, in seconds since the epoch; None: there are none."""
    spending: Spending | None = None
    """Knows what noise has cost; None where nobody adds any."""


@dataclass(frozen=True, slots=True)
class Services:
    """What carries out the calls."""

    steering: Steering
    inquiry: Inquiry
    command_lines: CommandLines


class ManagementPlane:
    """Handlers for one job; `me` is the process that answers, `gatekeeper` lets operators in."""

    def __init__(
        self,
        job_name: str,
        sources: Sources,
        services: Services,
        me: Member,
        gatekeeper: Gatekeeper | None = None,
    ) -> None:
        self._gatekeeper = gatekeeper or Gatekeeper()
        self._job_name = job_name
        self._sources = sources
        self._steering = services.steering
        self._me = me
        members, fleet = sources.members, sources.fleet
        self._changes = SteeringHandlers(
            job_name, services.steering, members, services.command_lines
        )
        self._explains = ExplainHandlers(services.inquiry, members, fleet)
        self._figures = Figures(
            sources.rounds, sources.instances, members, fleet, sources.certificate_end_s
        )
        if sources.spending is not None:
            self._figures.show_spending(sources.spending)

    def plane(self) -> Plane:
        """What the management address serves."""
        handlers: dict[str, Handler] = {
            "/state": self.state,
            "/newInstance": self._changes.new_instance,
            "/queryInstance": self.query_instance,
            "/enableFLS": self._changes.enable,
            "/disableFLS": self._changes.disable,
            "/scalein": self._changes.scale_in,
            "/scaleout": self._changes.scale_out,
            "/nodes": self._explains.nodes,
            "/explain": self._explains.explain,
            "/metrics": self._figures.answer,
            "/healthz": self.healthz,
        }
        routes = {path: _refusing(handler) for path, handler in handlers.items()}
        routes = self._gatekeeper.guarding(routes)
        return Plane(routes, self._answer_fault, self._answer_bug)

    async def state(self, request: web.BaseRequest) -> web.StreamResponse:
        """The job's state and its live members."""
        try:
            word = await self._sources.instances.cluster_state()
        except StoreCorrupt as exc:
            logger.error("the job's state cannot be read: %s", exc)
            raise Refused(BAD_STATE) from exc
        if word is None:
            raise Refused(no_job(self._job_name))
        if word not in CLUSTER_STATES:
            logger.error("the job's state is %r, which is none", word)
            raise Refused(BAD_STATE)
        body: dict[str, Any] = nodes(await self._members())
        if CLUSTER_STATES[word] is not None:
            body["cluster_state"] = CLUSTER_STATES[word]
        body |= await self._privacy(await self._sources.instances.job())
        if request.rel_url.query.get("detail", "0") != "0":
            body["detail"] = await self._detail()
        return success("Get cluster state successful.", **body)

    async def _privacy(self, job: JobRecord | None) -> dict[str, Any]:
        """`privacy`: what noise has cost; without noise the key is left out."""
        if job is None or self._sources.spending is None:
            return {}
        spent = await self._sources.spending.spent(job.hyper_parameters)
        return {} if spent is None else {"privacy": spent.as_data()}

    async def _members(self) -> Sequence[Member]:
        try:
            return await self._sources.members.live()
        except StoreCorrupt as exc:
            logger.error("the members cannot be read: %s", exc)
            raise Refused(BAD_NODES) from exc

    async def _detail(self) -> dict[str, Any]:
        durability = await self._sources.durability.durability()
        job = await self._sources.instances.job()
        snapshot = await self._sources.rounds.snapshot()
        return {
            "durability": {"level": durability.level.value, "meaning": durability.sentence},
            "job": None if job is None else _job_detail(self._job_name, job, snapshot),
            "members": [member_detail(member) for member in await self._members()],
            "round": None if snapshot is None else await self._round_detail(snapshot),
            "scheduler": {"kernel": self._me.kernel, "version": self._me.version},
        }

    async def _round_detail(self, snapshot: Snapshot) -> dict[str, Any]:
        counts = await self._sources.rounds.counts(snapshot.ref)
        return {
            "attempt": snapshot.ref.attempt,
            "claims": counts.claims,
            "cohort": counts.cohort,
            "cohort_size": snapshot.plan.cohort_size,
            "deadline_ms": snapshot.deadline,
            "number": snapshot.ref.number,
            "opened_at_ms": snapshot.opened_at,
            "phase": snapshot.phase,
            "report_goal": snapshot.plan.report_goal,
            "reports": counts.reports,
        }

    async def query_instance(self, _request: web.BaseRequest) -> web.StreamResponse:
        """The settings of the run, or of the one that is about to begin, and the members."""
        try:
            job = await self._steering.job()
            result = None if job is None else visible(job.hyper_parameters)
        except (StoreCorrupt, ValueError) as exc:
            logger.error("the job's settings cannot be read: %s", exc)
            raise Refused(inner_error("query instance")) from exc
        if result is None:
            raise Refused(no_job(self._job_name))
        more = nodes(await self._members()) | await self._privacy(job)
        return success("Query Instance successful.", result=result, **more)

    async def healthz(self, request: web.BaseRequest) -> web.StreamResponse:
        """Whether this process lives, always 200; with `?ready=1` also whether it can serve."""
        try:
            await self._sources.instances.cluster_state()
            store = "ok"
        except FlClusterError as exc:
            store = f"unreachable: {exc}"
            if request.rel_url.query.get("ready", "0") != "0":
                return json_refusal(store, status=503)
        return dump({"code": "0", "message": "alive", "store": store})

    @staticmethod
    def _answer_fault(request: web.BaseRequest, fault: FlClusterError) -> Answer:
        logger.warning("%s: %s", request.path, fault)
        if isinstance(fault, StoreUnavailable):
            return json_refusal(NO_STORE)
        return json_refusal(BAD_STATE)

    @staticmethod
    def _answer_bug(_request: web.BaseRequest) -> Answer:
        return json_refusal(BAD_STATE, status=500)


def _refusing(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> Handler:
    """The handler, whose refusals become answers."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refusal:
            return json_refusal(str(refusal))

    return handle


def _job_detail(name: str, job: JobRecord, snapshot: Snapshot | None) -> dict[str, Any]:
    return {
        "instance": job.instance,
        "name": name,
        "rounds_total": job.rounds_total,
        "state": None if snapshot is None else snapshot.job_state,
    }
