"""One update: is it fit, is it wanted, add it, and answer when it is stored.

    check -> claim -> fold -> commit -> receipt

The claim is the decision (see `claims`); every accepted one ends in a report or a release.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fl_cluster.aggregate.partial import Contribution, Unfit
from fl_cluster.errors import FlClusterError, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.claims import Claims
from fl_cluster.service.clipping import clipped
from fl_cluster.service.ledger import INLINE_ELEMENTS, Entry, Ledger
from fl_cluster.service.view import JobView, Stores
from fl_cluster.store.ports import ClaimRequest, Receipt, Snapshot, UpdateRecord
from fl_cluster.telemetry.points import Point, reach

logger = logging.getLogger(__name__)

GATHER_S = 0.05
"""How long commits gather when nobody waits for them."""

PENDING_PAUSE_S = 0.02
"""How long to wait before asking again about what another member is committing."""


class Arrival:
    """An update as it came: who sends it, for which round, and what is in it.

    `content` is `Unfit` when the caller has found already that it cannot be added.  Once it
    is added it is let go, so that the memory of a body is free while its commit is under
    way: `on_let_go` is then called.
    """

    def __init__(
        self,
        record: UpdateRecord,
        number: int,
        content: Contribution | Unfit,
        on_let_go: Callable[[], None] = lambda: None,
    ) -> None:
        self.record = record
        self.number = number
        self.content: Contribution | Unfit | None = content
        self._on_let_go = on_let_go

    def let_go(self) -> None:
        """Forget the content."""
        self.content = None
        self._on_let_go()


@dataclass(frozen=True, slots=True)
class CollectAnswer:
    """The verdict, the round it is about, and what belongs to it.

    `receipt` is there when the update is counted, now or earlier (`duplicate`); its position
    is 0 while only this member's memory knows of it.  `unfit` is there when the update cannot
    be added, whatever the verdict on the rest.
    """

    verdict: Verdict
    snapshot: Snapshot
    receipt: Receipt | None = None
    unfit: Unfit | None = None


class Collector:
    """Counts updates on behalf of one member."""

    def __init__(
        self,
        view: JobView,
        stores: Stores,
        member: str,
        patience_ms: int,
        *,
        is_durable: bool = True,
    ) -> None:
        """When not `is_durable`, an update is acknowledged once it is added, not once stored."""
        self._is_durable = is_durable
        self._view = view
        self._stores = stores
        self._member = member
        self._patience_s = patience_ms / 1000
        self._ledger: Ledger | None = None
        self._claims = Claims(stores.rounds, lambda: self._member)
        self._tasks: set[asyncio.Task[CollectAnswer]] = set()
        self._unstored: set[asyncio.Future[Entry]] = set()
        """Acknowledged from memory and not committed yet."""

    @property
    def member(self) -> str:
        """The name under which this member counts."""
        return self._member

    def become(self, member: str) -> None:
        """Go on as a new member, after the old name was declared dead."""
        self._member = member
        self._ledger = None

    def ledger(self, ref: RoundRef) -> Ledger | None:
        """This member's ledger of that round, if it has one."""
        known = self._ledger
        return known if known is not None and known.ref == ref else None

    def let_go(self, ref: RoundRef) -> None:
        """Give back the memory of that round's sums: it is over."""
        if self.ledger(ref) is not None:
            self._ledger = None

    async def collect(self, arrival: Arrival) -> CollectAnswer:
        """Count the update, or say why not; `StoreUnavailable` when that is not known in time.

        The work goes on when the caller stops waiting: an accepted claim has to end.
        """
        task = asyncio.create_task(self._take_turn(arrival))
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        done, _ = await asyncio.wait((task,), timeout=self._patience_s)
        if not done:
            raise StoreUnavailable("report", f"not confirmed within {self._patience_s:g} s")
        return task.result()

    def _finish(self, task: asyncio.Task[CollectAnswer]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            level = logging.INFO if isinstance(fault, FlClusterError) else logging.ERROR
            logger.log(level, "an update was not counted: %r", fault)

    async def drain(self) -> None:
        """Return when every update in hand is answered and stored."""
        while self._tasks or self._unstored:
            awaited: set[asyncio.Future[Any]] = {*self._tasks, *self._unstored}
            await asyncio.wait(awaited)

    async def _take_turn(self, arrival: Arrival) -> CollectAnswer:
        """A repeat waits for the outcome of the first, and then hears it from the store."""
        deadline = asyncio.get_running_loop().time() + self._patience_s
        async with self._claims.turn(arrival.record.device, deadline):
            return await self._collect(arrival, deadline)

    async def _collect(self, arrival: Arrival, deadline: float) -> CollectAnswer:
        unfit: Unfit | None = None
        checked_for: RoundRef | None = None
        while True:
            snapshot = self._view.snapshot
            if checked_for != snapshot.ref:
                unfit, checked_for = await self._check_sent(arrival.content), snapshot.ref
            request = ClaimRequest(arrival.record.device, arrival.number)
            claim = await self._claims.ask(snapshot.ref, request)
            if claim.verdict is Verdict.ACCEPTED:
                answer = await self._use_claim(arrival, snapshot, claim.data_size, unfit)
            else:
                answer = await self._turn_down(arrival, snapshot, claim.verdict, unfit)
            if answer is not None:
                return answer
            if asyncio.get_running_loop().time() >= deadline:
                raise StoreUnavailable("report", f"undecided for {self._patience_s:g} s")

    async def _turn_down(
        self, arrival: Arrival, snapshot: Snapshot, verdict: Verdict, unfit: Unfit | None
    ) -> CollectAnswer | None:
        """What to answer without a claim; None when it has to be judged again."""
        if verdict is Verdict.PENDING and unfit is None:
            await asyncio.sleep(PENDING_PAUSE_S)
            return None
        if verdict is Verdict.LATE:
            await self._stores.rounds.tick(snapshot.ref)
            await self._view.refresh()
            return None
        if verdict in (Verdict.MOVED_ON, Verdict.FENCED):
            await self._wait_for_news(verdict)
            return None
        receipt = None
        if verdict is Verdict.DUPLICATE and unfit is None:
            receipt = await self._stores.rounds.receipt(snapshot.ref, arrival.record.device)
        return CollectAnswer(verdict, snapshot, receipt, unfit)

    async def _use_claim(
        self, arrival: Arrival, snapshot: Snapshot, data_size: int, unfit: Unfit | None
    ) -> CollectAnswer | None:
        """Add a claimed update, or give the claim up; None when it has to be judged again."""
        reach(Point.AFTER_CLAIM_BEFORE_FOLD)
        device, member, was_sent = arrival.record.device, self._member, arrival.content is not None
        try:
            entry = unfit or await self._add(arrival, snapshot, data_size)
        except Exception:
            self._claims.give_up_later(snapshot.ref, member, [device])
            raise
        if isinstance(entry, Entry):
            return await self._conclude(arrival, snapshot, entry)
        await self._claims.give_up(snapshot.ref, member, [device])
        if entry is not None:
            return CollectAnswer(Verdict.ACCEPTED, snapshot, unfit=entry)
        if not was_sent:
            # It was added, the commit was refused, and the round wants it after all; but what
            # was in it is gone.  Whoever sent it can send it again.
            raise StoreUnavailable("report", "the commit was refused; send the update again")
        await self._view.refresh()
        return None

    async def _add(
        self, arrival: Arrival, snapshot: Snapshot, data_size: int
    ) -> Entry | Unfit | None:
        """What became of a claimed update; None when it was not added and may be fit.

        What waits for the data size is checked only now that it is known.
        """
        content = arrival.content
        if content is None or isinstance(content, Unfit):
            return None
        if self._view.snapshot.ref != snapshot.ref:
            return None
        base = self._view.base.model
        content = clipped(content.bound_to(base), base, self._view.parameters.protection)
        if content.waits_for_size and (unfit := await self._check(content, data_size)) is not None:
            return unfit
        ledger = self._open_ledger(snapshot)
        if ledger is None:
            return None
        added = await ledger.add(arrival.record, content, data_size)
        del content
        arrival.let_go()
        if self._is_durable:
            return await asyncio.shield(added)
        self._see_to_it(snapshot.ref, arrival.record.device, added)
        return Entry(Verdict.ACCEPTED)

    def _see_to_it(self, ref: RoundRef, device: str, added: asyncio.Future[Entry]) -> None:
        """What else has to happen to an update that is acknowledged before it is stored."""
        self._claims.extend_turn(device, added)
        self._unstored.add(added)
        added.add_done_callback(partial(self._regret, ref, self._member, device))

    def _regret(
        self, ref: RoundRef, member: str, device: str, added: asyncio.Future[Entry]
    ) -> None:
        """Say of an update that was acknowledged from memory that it is not counted after all."""
        self._unstored.discard(added)
        if added.cancelled():
            return
        fault = added.exception()
        if fault is None and added.result().verdict is Verdict.ACCEPTED:
            return
        logger.warning("an acknowledged update is not counted: %s", fault or added.result().verdict)
        if fault is not None:
            self._claims.give_up_later(ref, member, [device])

    async def _check_sent(self, content: Contribution | Unfit | None) -> Unfit | None:
        """Why what was sent cannot be added, as far as that is known without a claim."""
        if content is None or isinstance(content, Unfit):
            return content
        return None if content.waits_for_size else await self._check(content, 1)

    async def _wait_for_news(self, verdict: Verdict) -> None:
        if verdict is Verdict.FENCED:
            # Membership finds out at its next renewal and gives us a new name.
            await asyncio.sleep(PENDING_PAUSE_S)
        await self._view.refresh()

    async def _check(self, update: Contribution, data_size: int) -> Unfit | None:
        scaling = self._view.scaling
        if update.element_count <= INLINE_ELEMENTS:
            return update.find_unfit(scaling, data_size)
        return await asyncio.to_thread(update.find_unfit, scaling, data_size)

    async def _conclude(
        self, arrival: Arrival, snapshot: Snapshot, entry: Entry
    ) -> CollectAnswer | None:
        if entry.verdict is Verdict.ACCEPTED:
            if entry.position >= snapshot.plan.report_goal:
                await self._see_the_end()
            digest = arrival.record.digest
            receipt = Receipt(snapshot.ref.number, digest, entry.position)
            return CollectAnswer(Verdict.ACCEPTED, snapshot, receipt)
        if entry.verdict is Verdict.LATE:
            await self._stores.rounds.tick(snapshot.ref)
        await self._wait_for_news(entry.verdict)
        return None

    async def _see_the_end(self) -> None:
        try:
            await self._view.refresh()
        except FlClusterError as exc:
            # The update is counted all the same; the clock will look again.
            logger.info("the end of the round was not seen: %s", exc)

    def _open_ledger(self, snapshot: Snapshot) -> Ledger | None:
        known = self._ledger
        if known is not None and known.ref == snapshot.ref and known.refused is None:
            return known
        is_used_up = known is not None and known.ref == snapshot.ref
        if is_used_up or self._view.snapshot.ref != snapshot.ref:
            return None
        self._ledger = Ledger(
            snapshot.ref,
            self._member,
            self._view.layout,
            self._view.scaling,
            self._stores,
            gather_s=0.0 if self._is_durable else GATHER_S,
        )
        return self._ledger
