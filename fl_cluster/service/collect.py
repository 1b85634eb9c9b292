"""One update: is it fit, is it wanted, add it, and answer when it is stored.

    check -> claim -> fold -> commit -> receipt

The claim is the decision; it is one atomic store call shared by all that ask meanwhile.
Every accepted claim ends in a report or in a release.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fl_cluster.aggregate.admission import find_unfit
from fl_cluster.aggregate.partial import Unfit, Update
from fl_cluster.errors import FlClusterError, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.batching import Batcher
from fl_cluster.service.ledger import INLINE_ELEMENTS, RETRY_S, Entry, Ledger
from fl_cluster.service.view import JobView, Stores
from fl_cluster.store.ports import ClaimAnswer, ClaimRequest, Receipt, Snapshot, UpdateRecord

logger = logging.getLogger(__name__)

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
        content: Update | Unfit,
        on_let_go: Callable[[], None] = lambda: None,
    ) -> None:
        self.record = record
        self.number = number
        self.content: Update | Unfit | None = content
        self._on_let_go = on_let_go

    def let_go(self) -> None:
        """Forget the content."""
        self.content = None
        self._on_let_go()


@dataclass(frozen=True, slots=True)
class CollectAnswer:
    """The verdict, the round it is about, and what belongs to it.

    `receipt` is there when the update is counted, now or earlier (`duplicate`); `unfit` when
    it cannot be added, whatever the verdict on the rest.
    """

    verdict: Verdict
    snapshot: Snapshot
    receipt: Receipt | None = None
    unfit: Unfit | None = None


class Collector:
    """Counts updates on behalf of one member."""

    def __init__(self, view: JobView, stores: Stores, member: str, patience_ms: int) -> None:
        self._view = view
        self._stores = stores
        self._member = member
        self._patience_s = patience_ms / 1000
        self._ledger: Ledger | None = None
        self._claims: Batcher[tuple[RoundRef, ClaimRequest], ClaimAnswer] = Batcher(self._send)
        self._tasks: set[asyncio.Task[CollectAnswer]] = set()
        self._releases: set[asyncio.Task[None]] = set()

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

    async def collect(self, arrival: Arrival) -> CollectAnswer:
        """Count the update, or say why not; `StoreUnavailable` when that is not known in time.

        The work goes on when the caller stops waiting: an accepted claim has to end.
        """
        task = asyncio.create_task(self._collect(arrival))
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        done, _ = await asyncio.wait((task,), timeout=self._patience_s)
        if not done:
            raise StoreUnavailable("report", f"not confirmed within {self._patience_s:g} s")
        return task.result()

    def _finish(self, task: asyncio.Task[CollectAnswer]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            logger.info("an update was not counted: %s", fault)

    async def drain(self) -> None:
        """Return when every update in hand is answered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _collect(self, arrival: Arrival) -> CollectAnswer:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            snapshot = self._view.snapshot
            answer, unfit = await self._judge(arrival, snapshot)
            verdict = answer.verdict
            if verdict is Verdict.PENDING and unfit is None:
                await asyncio.sleep(PENDING_PAUSE_S)
            elif verdict is Verdict.LATE:
                await self._stores.rounds.tick(snapshot.ref)
                await self._view.refresh()
            elif verdict in (Verdict.MOVED_ON, Verdict.FENCED):
                await self._wait_for_news(verdict)
            elif unfit is not None:
                return CollectAnswer(verdict, snapshot, unfit=unfit)
            elif verdict is Verdict.DUPLICATE:
                receipt = await self._stores.rounds.receipt(snapshot.ref, arrival.record.device)
                return CollectAnswer(verdict, snapshot, receipt)
            elif verdict is not Verdict.ACCEPTED:
                return CollectAnswer(verdict, snapshot)
            elif (result := await self._fold(arrival, snapshot, answer.data_size)) is not None:
                return result
            if loop.time() >= deadline:
                raise StoreUnavailable("report", f"undecided for {self._patience_s:g} s")

    async def _judge(
        self, arrival: Arrival, snapshot: Snapshot
    ) -> tuple[ClaimAnswer, Unfit | None]:
        """Whether the round wants it and whether it is fit; an unfit one holds no claim.

        Plain weights are checked when the claim has told the data size to multiply by.
        """
        content, device = arrival.content, arrival.record.device
        unfit = content if isinstance(content, Unfit) else None
        if isinstance(content, Update) and not content.is_plain:
            unfit = await self._check(content, 1)
        answer = await self._claims.ask((snapshot.ref, ClaimRequest(device, arrival.number)))
        if answer.verdict is Verdict.ACCEPTED:
            if isinstance(content, Update) and content.is_plain:
                unfit = await self._check(content, answer.data_size)
            if unfit is not None:
                await self._release_until_known(snapshot.ref, self._member, [device])
        return answer, unfit

    async def _wait_for_news(self, verdict: Verdict) -> None:
        if verdict is Verdict.FENCED:
            # Membership finds out at its next renewal and gives us a new name.
            await asyncio.sleep(PENDING_PAUSE_S)
        await self._view.refresh()

    async def _check(self, update: Update, data_size: int) -> Unfit | None:
        scaling = self._view.scaling
        if sum(values.size for _, values in update.arrays) <= INLINE_ELEMENTS:
            return find_unfit(update, scaling, data_size)
        return await asyncio.to_thread(find_unfit, update, scaling, data_size)

    async def _fold(
        self, arrival: Arrival, snapshot: Snapshot, data_size: int
    ) -> CollectAnswer | None:
        """Add a claimed update that fits; None when it has to be judged again."""
        if not isinstance(arrival.content, Update):
            # It was added, the commit was refused, and the round wants it after all; but what
            # was in it is gone.  Whoever sent it can send it again.
            ref, device = snapshot.ref, arrival.record.device
            await self._release_until_known(ref, self._member, [device])
            raise StoreUnavailable("report", "the commit was refused; send the update again")
        ledger = self._open_ledger(snapshot)
        if ledger is None:
            # The round moved on between the claim and now, and its claims with it.
            await self._view.refresh()
            return None
        added = await ledger.add(arrival.record, arrival.content, data_size)
        arrival.let_go()
        return await self._conclude(arrival, snapshot, await asyncio.shield(added))

    async def _conclude(
        self, arrival: Arrival, snapshot: Snapshot, entry: Entry
    ) -> CollectAnswer | None:
        if entry.verdict is Verdict.ACCEPTED:
            if entry.position >= snapshot.plan.report_goal:
                await self._view.refresh()
            digest = arrival.record.digest
            receipt = Receipt(snapshot.ref.number, digest, entry.position)
            return CollectAnswer(Verdict.ACCEPTED, snapshot, receipt)
        if entry.verdict is Verdict.UNCLAIMED:
            await self._stores.rounds.release(snapshot.ref, self._member, [arrival.record.device])
        if entry.verdict is Verdict.LATE:
            await self._stores.rounds.tick(snapshot.ref)
        await self._wait_for_news(entry.verdict)
        return None

    def _open_ledger(self, snapshot: Snapshot) -> Ledger | None:
        known = self._ledger
        if known is not None and known.ref == snapshot.ref and known.refused is None:
            return known
        is_used_up = known is not None and known.ref == snapshot.ref
        if is_used_up or self._view.snapshot.ref != snapshot.ref:
            return None
        self._ledger = Ledger(
            snapshot.ref, self._member, self._view.layout, self._view.scaling, self._stores
        )
        return self._ledger

    async def _send(
        self, questions: Sequence[tuple[RoundRef, ClaimRequest]]
    ) -> Sequence[ClaimAnswer]:
        ref, member = questions[0][0], self._member
        asked = [request for asked_ref, request in questions if asked_ref == ref]
        try:
            answers = iter(await self._stores.rounds.claim(ref, member, asked))
        except StoreUnavailable:
            # The claims may have been taken all the same, and nobody here will use them.
            devices = [request.device for request in asked]
            task = asyncio.create_task(self._release_until_known(ref, member, devices))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)
            raise
        moved_on = ClaimAnswer(Verdict.MOVED_ON)
        return [next(answers) if asked_ref == ref else moved_on for asked_ref, _ in questions]

    async def _release_until_known(
        self, ref: RoundRef, member: str, devices: Sequence[str]
    ) -> None:
        for attempt in range(10_000):
            try:
                await self._stores.rounds.release(ref, member, devices)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            except FlClusterError:
                logger.exception("round %s: claims of %d devices stay", ref, len(devices))
                return
            else:
                return
