"""The job in numbers, as Prometheus reads them, taken at the moment somebody asks.

What the store knows is read for each answer, so schedulers need not agree on anything and a
new one starts with the truth.  While the store is away its figures are `NaN`: no figure is
better than an old one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from fl_cluster.api.explain import Fleet
from fl_cluster.api.plain_http import Answer
from fl_cluster.errors import FlClusterError
from fl_cluster.lifecycle.membership import Member, MemberState, Role
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.spending import Spending, Spent
from fl_cluster.service.visits import Visit, volume
from fl_cluster.store.member_port import MemberStore
from fl_cluster.store.ports import Counts, JobRecord, Snapshot

PHASES = (
    *("waiting", "selecting", "reporting", "unmasking", "aggregating"),
    *("retraining", "concluding", "abandoning", "closed"),
)
JOB_STATES = ("running", "disabled", "finished")
ROLES = tuple(role.value for role in Role)
STATES = tuple(state.value for state in MemberState)
UNKNOWN = math.nan
CARRIERS: Mapping[str, Sequence[Visit]] = {
    "up": (Visit.REPORT,),
    "down": (Visit.CHECK_IN, Visit.GET_MODEL),
}


class RoundFigures(Protocol):
    """Reads the current round."""

    async def snapshot(self) -> Snapshot | None:
        """The current round; None when the store has no job."""

    async def counts(self, ref: RoundRef) -> Counts:
        """How many devices are in the round, being folded, and counted."""

    async def visits(self, ref: RoundRef) -> Mapping[str, int]:
        """The round's counters of requests and bytes so far."""


class JobFigures(Protocol):
    """Reads the current run."""

    async def job(self) -> JobRecord | None:
        """The run's record; None when there is none."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the store knew when it was asked."""

    snapshot: Snapshot | None
    counts: Counts
    visits: Mapping[str, int]
    rounds_total: int
    members: Sequence[Member]
    spent: Spent | None


class Figures:
    """The figures of one job."""

    def __init__(
        self,
        rounds: RoundFigures,
        jobs: JobFigures,
        members: MemberStore,
        fleet: Fleet,
        certificate_end_s: Callable[[], float] | None = None,
    ) -> None:
        """`certificate_end_s` tells when the first certificate ends; None: there are none."""
        self._certificate_end_s = certificate_end_s
        self._rounds = rounds
        self._jobs = jobs
        self._members_known = members
        self._fleet = fleet
        self._registry = CollectorRegistry()
        gauge = partial(Gauge, registry=self._registry)
        self._store = gauge("fl_cluster_store_up", "Whether Redis answers.")
        self._number = gauge("fl_cluster_round_number", "The current round.")
        self._total = gauge("fl_cluster_rounds_planned", "How many rounds the run has.")
        self._phase = gauge(
            "fl_cluster_round_phase", "1 for the phase of the current round.", ["phase"]
        )
        self._state = gauge("fl_cluster_job_state", "1 for the state of the job.", ["state"])
        self._cohort = gauge("fl_cluster_cohort_devices", "Devices admitted to the round.")
        self._size = gauge("fl_cluster_cohort_size", "How many devices the round admits.")
        self._claims = gauge("fl_cluster_claimed_updates", "Updates that are being stored.")
        self._reports = gauge("fl_cluster_counted_updates", "Updates counted in the round.")
        self._bytes = gauge(
            "fl_cluster_round_bytes",
            "Bodies of counted updates, and of answers with models, in the current round.",
            ["direction"],
        )
        self._goal = gauge("fl_cluster_report_goal", "How many updates end the round.")
        self._deadline = gauge(
            "fl_cluster_round_deadline_seconds",
            "When time ends the round, in seconds since the epoch; NaN while no window runs.",
        )
        self._failures = gauge(
            "fl_cluster_rounds_abandoned_in_a_row",
            "Rounds abandoned one after the other, since that was last told as an event.",
        )
        self._members = gauge("fl_cluster_members", "Live processes.", ["role", "state"])
        self._linked = gauge("fl_cluster_linked_servers", "Servers this scheduler has a link to.")
        self._certificate_end = gauge(
            "fl_cluster_certificate_end_seconds",
            "When the first of the scheduler's certificates and revocation lists ends, in seconds"
            " since the epoch; NaN without TLS.",
        )
        self._name_loads(gauge)
        self._spending: Spending | None = None
        self._name_costs(gauge)

    def _name_costs(self, gauge: Callable[..., Gauge]) -> None:
        self._epsilon = gauge(
            "fl_cluster_privacy_epsilon", "What noise has cost; NaN in a job without any."
        )
        self._budget = gauge(
            "fl_cluster_privacy_epsilon_budget", "What it may cost in all; NaN without a limit."
        )
        self._delta = gauge("fl_cluster_privacy_delta", "The delta at which that holds.")
        self._noisy_rounds = gauge(
            "fl_cluster_privacy_rounds", "How many rounds were charged, in all runs of the job."
        )

    def show_spending(self, spending: Spending) -> None:
        """Tell what noise has cost, too."""
        self._spending = spending

    def _name_loads(self, gauge: Callable[..., Gauge]) -> None:
        self._requests = gauge(
            "fl_cluster_requests_per_second", "Requests of devices, over all linked servers."
        )
        self._uploads = gauge(
            "fl_cluster_accepted_updates_per_second", "Counted updates, over all linked servers."
        )
        self._in_flight = gauge(
            "fl_cluster_bytes_in_flight", "Bodies in memory, over all linked servers."
        )
        self._resident = gauge(
            "fl_cluster_resident_bytes", "Memory of the processes, over all linked servers."
        )

    async def answer(self, _request: web.BaseRequest) -> web.StreamResponse:
        """The figures as of now; `fl_cluster_store_up` is 0 when only those of the links are."""
        try:
            seen = await self._look()
        except FlClusterError:
            seen = None
        self._store.set(0 if seen is None else 1)
        self._show_round(seen)
        self._show_job(seen)
        self._show_spent(seen.spent if seen is not None else None)
        self._show_loads()
        text = generate_latest(self._registry)
        return Answer(text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _look(self) -> _Seen:
        snapshot, job = await self._rounds.snapshot(), await self._jobs.job()
        counts, visits = Counts(0, 0, 0), dict[str, int]()
        if snapshot is not None:
            counts = await self._rounds.counts(snapshot.ref)
            visits = dict(await self._rounds.visits(snapshot.ref))
        total, spent = 0, None
        if job is not None:
            total = job.rounds_total
            if self._spending is not None:
                spent = await self._spending.spent(job.hyper_parameters)
        return _Seen(snapshot, counts, visits, total, await self._members_known.live(), spent)

    def _show_round(self, seen: _Seen | None) -> None:
        snapshot = seen.snapshot if seen is not None else None
        counts = seen.counts if seen is not None and snapshot is not None else None
        for phase in PHASES:
            is_it = float(snapshot.phase == phase) if snapshot is not None else UNKNOWN
            self._phase.labels(phase=phase).set(is_it)
        deadline = snapshot.deadline if snapshot is not None else None
        self._deadline.set(UNKNOWN if deadline is None else deadline / 1000)
        self._number.set(UNKNOWN if snapshot is None else snapshot.ref.number)
        self._size.set(UNKNOWN if snapshot is None else snapshot.plan.cohort_size)
        self._goal.set(UNKNOWN if snapshot is None else snapshot.plan.report_goal)
        self._failures.set(UNKNOWN if snapshot is None else snapshot.failures_in_a_row)
        self._cohort.set(UNKNOWN if counts is None else counts.cohort)
        self._claims.set(UNKNOWN if counts is None else counts.claims)
        self._reports.set(UNKNOWN if counts is None else counts.reports)
        for direction, visits in CARRIERS.items():
            total = UNKNOWN
            if seen is not None and snapshot is not None:
                total = sum(seen.visits.get(volume(visit), 0) for visit in visits)
            self._bytes.labels(direction=direction).set(total)

    def _show_job(self, seen: _Seen | None) -> None:
        snapshot = seen.snapshot if seen is not None else None
        for state in JOB_STATES:
            is_it = float(snapshot.job_state == state) if snapshot is not None else UNKNOWN
            self._state.labels(state=state).set(is_it)
        self._total.set(UNKNOWN if seen is None or snapshot is None else seen.rounds_total)
        for role in ROLES:
            for state in STATES:
                count = UNKNOWN
                if seen is not None:
                    count = sum(m.role == role and m.state == state for m in seen.members)
                self._members.labels(role=role, state=state).set(count)

    def _show_spent(self, spent: Spent | None) -> None:
        budget = None if spent is None else spent.terms.budget
        self._epsilon.set(UNKNOWN if spent is None else spent.epsilon)
        self._delta.set(UNKNOWN if spent is None else spent.terms.delta)
        self._noisy_rounds.set(UNKNOWN if spent is None else spent.rounds)
        self._budget.set(UNKNOWN if budget is None else budget.epsilon)

    def _show_loads(self) -> None:
        loads = self._fleet.loads().values()
        self._linked.set(len(loads))
        end_s = self._certificate_end_s
        self._certificate_end.set(UNKNOWN if end_s is None else end_s())
        self._requests.set(sum(load.requests_per_s for load in loads))
        self._uploads.set(sum(load.uploads_per_s for load in loads))
        self._in_flight.set(sum(load.bytes_in_flight for load in loads))
        self._resident.set(sum(load.resident_bytes for load in loads))
