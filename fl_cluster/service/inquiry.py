"""Finds out why the round is not moving: reads what is stored, and tries whether it takes writes.

A store that answers may all the same refuse to write: a replica, a full memory, a full disk.
Only a write tells, so one is made that means nothing: the asking process renews its lease.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from fl_cluster.config.schema import EncryptType
from fl_cluster.config.shared import visible
from fl_cluster.errors import FlClusterError
from fl_cluster.lifecycle.membership import Role
from fl_cluster.rounds.exchange import COMPLETED, Step
from fl_cluster.rounds.plan import Millis
from fl_cluster.service.explain import explain
from fl_cluster.service.explanation import NOBODY, Explanation, Facts
from fl_cluster.service.spending import Spending
from fl_cluster.service.store_trouble import explain_fault
from fl_cluster.store.exchange_port import ExchangeStore
from fl_cluster.store.member_port import MemberStore
from fl_cluster.store.ports import JobStore, RoundStore, Snapshot


class LeaseReader(Protocol):
    """Reads when leases end."""

    async def lease_end(self, member_id: str) -> int | None:
        """When the member's lease ends, in cluster ms; None when it has none."""


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Who knows what."""

    rounds: RoundStore
    jobs: JobStore
    members: MemberStore
    leases: LeaseReader
    now_ms: Callable[[], Awaitable[int]]
    """The store's clock."""
    write: Callable[[], Awaitable[object]]
    """Changes something in the store that nobody minds."""
    unreachable: Callable[[], Mapping[str, str]]
    """Member id -> why this process has no link to it."""
    exchange: ExchangeStore | None = None
    """Knows what devices of masked rounds have told; None where that is not to be told of."""
    spending: Spending | None = None
    """Knows what noise has cost; None where nobody adds any."""


class Inquiry:
    """Asks on behalf of whoever wants to know about one job."""

    def __init__(self, job_name: str, witnesses: Witnesses) -> None:
        self._job_name = job_name
        self._witnesses = witnesses

    async def look(self) -> Explanation:
        """The cause as of now.  A store that is away is a cause, not a fault."""
        try:
            facts = await self._facts()
        except FlClusterError as fault:
            return explain_fault(fault)
        found = explain(facts)
        if facts.snapshot is not None and facts.snapshot.is_closed:
            return found
        try:
            await self._witnesses.write()
        except FlClusterError as fault:
            return replace(explain_fault(fault), notes=(found.sentence, *found.notes))
        return found

    async def _facts(self) -> Facts:
        known = self._witnesses
        snapshot, job = await known.rounds.snapshot(), await known.jobs.job()
        counts = NOBODY if snapshot is None else await known.rounds.counts(snapshot.ref)
        spent = None
        if job is not None and known.spending is not None:
            spent = await known.spending.spent(job.hyper_parameters)
        members = await known.members.live()
        overdue = {name: await self._lease_end(name) for name in await known.members.overdue()}
        names = {member.id for member in members if member.role is Role.SERVER}
        return Facts(
            at=Millis(await known.now_ms()),
            job_name=self._job_name,
            snapshot=snapshot,
            counts=counts,
            rounds_total=job.rounds_total if job is not None else 0,
            spent=spent,
            is_secure=job is not None and _is_secure(job.hyper_parameters),
            told=await self._told(snapshot),
            members=members,
            overdue=overdue,
            unreachable={n: why for n, why in known.unreachable().items() if n in names},
        )

    async def _told(self, snapshot: Snapshot | None) -> Mapping[Step, int]:
        exchange = self._witnesses.exchange
        if exchange is None or snapshot is None or snapshot.plan.exchange is None:
            return {}
        awaited = [step for step in COMPLETED if step not in snapshot.complete]
        return {step: await exchange.takers(snapshot.ref, step) for step in awaited}

    async def _lease_end(self, member_id: str) -> Millis | None:
        end = await self._witnesses.leases.lease_end(member_id)
        return None if end is None else Millis(end)


def _is_secure(hyper_parameters: str) -> bool:
    return visible(hyper_parameters).get("encrypt_type") == EncryptType.SECURE_AGGREGATION
