"""One member's sum for one round, and its group commit.

    add -> fold -> (gather) -> store the whole partial under a new name -> report -> answer

Invariants:
- what is in a stored partial and what its report counts is the same set of updates;
- an update is answered only after its report was accepted by the store;
- a commit whose outcome is unknown is repeated, with the same name, until it is known:
  going on without it would mix counted and uncounted updates in one sum;
- after a refusal nothing is committed any more: the sum holds what the store does not count.
  A refusal that a late copy of the same report might not meet is made final by giving the
  member's name up; its process goes on under a new one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fl_cluster.aggregate.layout import Layout
from fl_cluster.aggregate.partial import Contribution, Integers, Partial, Pointer, Scaling
from fl_cluster.errors import FlClusterError, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.retrying import until_known
from fl_cluster.service.view import Stores
from fl_cluster.store.ports import ReportBatch, ReportOutcome, UpdateRecord
from fl_cluster.telemetry.points import Point, reach

logger = logging.getLogger(__name__)

INLINE_ELEMENTS = 1024 * 1024
"""Below this many elements an array operation takes less time than a hop to a thread."""

PARTIAL_LIFETIME_MS = 7 * 24 * 3600 * 1000
"""A partial outlives every round; after that, a blob that a dead member left is only litter."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The outcome of one update: the verdict and, when accepted, its position."""

    verdict: Verdict
    position: int = 0


@dataclass(frozen=True, slots=True)
class Committed:
    """What the store holds of this member: the pointer, and the very numbers in its blob."""

    pointer: str
    sums: Integers
    weights: tuple[int, ...]
    scratch: Integers
    """An array of the same size that nobody needs any more."""


class Ledger:
    """The running partial of `member` for the round `ref`."""

    def __init__(
        self,
        ref: RoundRef,
        member: str,
        layout: Layout,
        scaling: Scaling,
        stores: Stores,
        *,
        gather_s: float = 0.0,
    ) -> None:
        """`gather_s` is how long a commit waits for more; 0 when devices wait for commits."""
        self._gather_s = gather_s
        self.ref = ref
        self.member = member
        self.scaling = scaling
        self._stores = stores
        self._partial = Partial(layout, scaling)
        self._snapshot = np.empty_like(self._partial.sums)
        self._committed: Committed | None = None
        self._blob = ""
        self._pointer = ""
        self._busy = asyncio.Lock()
        self._waiting: list[tuple[UpdateRecord, asyncio.Future[Entry]]] = []
        self._under_way: list[tuple[UpdateRecord, asyncio.Future[Entry]]] = []
        self._worker: asyncio.Task[None] | None = None
        self._serial = 0
        self._cause: BaseException | None = None
        self.refused: Verdict | None = None
        """Set once the round takes nothing more from this ledger."""

    async def add(
        self, record: UpdateRecord, update: Contribution, data_size: int
    ) -> asyncio.Future[Entry]:
        """Add a claimed update that fits; nobody needs its arrays when this returns.

        The future has the outcome once the store has counted it, or refused to.  Wait for it
        behind a shield: the commit goes on when whoever waits for it gives up.
        A fault, here or in the future, says that the ledger has broken off before it was told.
        """
        future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        async with self._busy:
            if self._cause is not None:
                raise self._fault(self._cause)
            if self.refused is not None:
                future.set_result(Entry(self.refused))
                return future
            try:
                work = update.element_count
                await self._run(lambda: self._partial.add(update, data_size), work)
            except BaseException as exc:
                # A part of it may be in the sum, or still be on its way there.
                self._break(exc)
                raise
            reach(Point.AFTER_FOLD_BEFORE_COMMIT)
            self._waiting.append((record, future))
            if self._worker is None:
                self._worker = asyncio.create_task(self._commit_all())
        return future

    def hand_over(self) -> Committed | None:
        """What the store holds of this ledger, and its memory, for finishing the round.

        None when the store holds nothing of it, while that changes, and while anything is
        being added to that memory.  The ledger takes nothing more once it has handed over.
        """
        if self._busy.locked() or self._waiting or self._cause is not None:
            return None
        committed, self._committed = self._committed, None
        if committed is not None:
            self.refused = self.refused or Verdict.ENOUGH
            # Whoever finishes the round decides how long this memory is needed.
            self._snapshot = self._partial.sums = np.empty(0, np.int64)
        return committed

    def _break(self, cause: BaseException) -> None:
        """Add and commit nothing more: the sum may hold what the store does not count."""
        logger.error("round %s: this member adds nothing more", self.ref, exc_info=cause)
        self._cause = cause
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(self._fault(cause))

    def _fault(self, cause: BaseException) -> StoreUnavailable:
        reason = f"this server adds nothing more to round {self.ref}: {cause!r}"
        return StoreUnavailable("report", reason)

    async def _run(self, work: Callable[[], object], elements: int = 0) -> None:
        if max(self._partial.sums.size, elements) <= INLINE_ELEMENTS:
            work()
        else:
            await asyncio.to_thread(work)

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                if self._gather_s:
                    await asyncio.sleep(self._gather_s)
                await self._commit()
        except BaseException as exc:
            # Whoever waits has to hear of it, whatever it was.
            self._waiting = self._under_way + self._waiting
            self._break(exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            self._worker = None

    async def _commit(self) -> None:
        async with self._busy:
            if self._cause is not None:
                return
            self._under_way, self._waiting = self._waiting, []
            weights = tuple(self._partial.weights)
            self._committed = None
            await self._run(lambda: np.copyto(self._snapshot, self._partial.sums))
        self._serial += 1
        name = f"partial-{self.ref}-{self._serial}-{secrets.token_hex(8)}"
        pointer = Pointer(name, weights).to_text()
        updates = [record for record, _ in self._under_way]
        report = ReportBatch(updates, pointer, self._pointer)
        outcome = await until_known(lambda _: self._store(name, report), self._note)
        if outcome.verdict is Verdict.ACCEPTED:
            self._committed = Committed(pointer, self._snapshot, weights, self._partial.sums)
            stale, self._blob, self._pointer = self._blob, name, pointer
            entries = [Entry(Verdict.ACCEPTED, position) for position in outcome.positions]
        else:
            stale = name
            await self._refuse(outcome.verdict)
            entries = [Entry(outcome.verdict)] * len(self._under_way)
        answered, self._under_way = self._under_way, []
        for (_, future), entry in zip(answered, entries, strict=True):
            if not future.done():
                future.set_result(entry)
        if stale:
            await self._forget(stale)

    async def _refuse(self, verdict: Verdict) -> None:
        """Take nothing more; whoever was added since shares the refusal."""
        async with self._busy:
            self.refused = verdict
            self._under_way += self._waiting
            self._waiting = []

    async def _store(self, name: str, report: ReportBatch) -> ReportOutcome:
        async with self._stores.one_life():
            await self._stores.blobs.put(name, self._snapshot.data, PARTIAL_LIFETIME_MS)
            reach(Point.AFTER_BLOB_BEFORE_REPORT)
            outcome = await self._stores.rounds.report(self.ref, self.member, report)
        reach(Point.AFTER_REPORT_BEFORE_ANSWER)
        if outcome.verdict is Verdict.ACCEPTED:
            return outcome
        if outcome.verdict is Verdict.UNCLAIMED:
            # A claim was given up that an answer lost on the way had taken.  Once it is taken
            # again, a copy of this report that is still on its way would be accepted.
            logger.warning("round %s: member %s gives up its name", self.ref, self.member)
            await self._stores.rounds.member_lost(self.member)
            outcome = ReportOutcome(Verdict.FENCED, ())
        return await self._find_counted(report) or outcome

    async def _find_counted(self, report: ReportBatch) -> ReportOutcome | None:
        """The outcome of this report if it was counted, whatever its last answer says.

        A round that has ended since, like a member that was declared dead, refuses the repeat
        of a report that it has counted; and any report may have been sent twice on the way.
        """
        partials = await self._stores.rounds.partials(self.ref)
        if partials.get(self.member) != report.partial:
            return None
        receipts = [
            await self._stores.rounds.receipt(self.ref, update.device) for update in report.updates
        ]
        positions = [receipt.position for receipt in receipts if receipt is not None]
        if len(positions) < len(receipts):
            return None
        return ReportOutcome(Verdict.ACCEPTED, positions)

    def _note(self, fault: StoreUnavailable) -> None:
        logger.warning(
            "round %s: commit of %d updates is not confirmed, asking until it is: %s",
            self.ref,
            len(self._under_way),
            fault,
        )

    async def _forget(self, blob: str) -> None:
        """Drop a blob unless the store, which may have gone back in time, has it counted."""
        try:
            async with self._stores.one_life():
                pointers = await self._stores.rounds.partials(self.ref)
                if not any(blob in text for text in pointers.values()):
                    await self._stores.blobs.drop([blob])
        except FlClusterError as exc:
            logger.info("blob %s stays until it expires: %s", blob, exc)
