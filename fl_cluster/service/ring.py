"""A device's steps in a round of secure aggregation, and the end of it, on behalf of one member.

    offer -> roster -> share -> delivery -> update -> survivors -> confirm -> tags -> reveal

What a device says is held against the roster before the store takes it, so that no device can
spoil a step for its neighbours; what it hides under its masks nobody can check.
The unmasking needs as many reveals as there are updates only in the worst case: as soon as
the shares that are there suffice, a member lets the round go on.  Each looks for itself, so
that a member that dies right then costs a second.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fl_cluster.aggregate.partial import Partial
from fl_cluster.errors import FlClusterError
from fl_cluster.privacy.ring import packing
from fl_cluster.privacy.ring.messages import Confirmation, Reveal
from fl_cluster.privacy.ring.server import CannotUnmask, Unmasking, check_report_tags
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.exchange import ExchangeDesk
from fl_cluster.service.ring_records import RingRecords, alive_beside, indices_of
from fl_cluster.service.told import kept
from fl_cluster.service.unmasking import StaysMasked, check_same_devices
from fl_cluster.service.view import JobView
from fl_cluster.store.exchange_port import ExchangeStore
from fl_cluster.store.ports import Snapshot
from fl_cluster.wire.messages import (
    RequestSecureConfirm,
    RequestSecureOffer,
    RequestSecureRead,
    RequestSecureReveal,
    RequestSecureShare,
)

logger = logging.getLogger(__name__)

LOOK_S = 0.2
"""How long a look at what is growing counts for everybody who asks."""

GRACE_S = 1.0
"""How much longer than necessary reveals are taken: one more than needed betrays a wrong one."""


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """What became of a device's request; `content` is the answer's when it was accepted."""

    verdict: Verdict
    content: Any = None


class RingDesk:
    """Takes devices' steps.  A PeerProtocolError says what of a request does not fit.

    Every method is given the round that the request names, which was the current one.
    """

    def __init__(
        self, view: JobView, desk: ExchangeDesk, records: RingRecords, watch: RingWatch
    ) -> None:
        self._view = view
        self._desk = desk
        self._records = records
        self._watch = watch

    async def offer(self, ref: RoundRef, sent: RequestSecureOffer) -> StepAnswer:
        """A device offers its keys."""
        self._records.check_offer(ref, packing.unpack_offer(sent))
        return await self._tell(ref, Step.KEYS, sent)

    async def roster(self, ref: RoundRef, asked: RequestSecureRead) -> StepAnswer:
        """A device gets to see its neighbours."""
        is_ready = _complete(Step.KEYS)
        verdict = await self._take_note(ref, Step.KEYS_READ, asked, is_ready)
        if verdict is not Verdict.ACCEPTED:
            return StepAnswer(verdict)
        roster = await self._records.roster(ref)
        return StepAnswer(verdict, packing.pack_roster(roster.view(asked.fl_id or "")))

    async def share(self, ref: RoundRef, sent: RequestSecureShare) -> StepAnswer:
        """A device hands out its shares."""
        if (verdict := await self._unless(ref, _complete(Step.KEYS))) is not None:
            return StepAnswer(verdict)
        roster = await self._records.roster(ref)
        index = roster.find(sent.fl_id or "")
        if index is None:
            return StepAnswer(Verdict.UNPREPARED)
        roster.check_sharing(packing.unpack_sharing(sent, roster.leaves.graph[index]))
        return await self._tell(ref, Step.SHARES, sent)

    async def deliver(self, ref: RoundRef, asked: RequestSecureRead) -> StepAnswer:
        """A device gets the shares that are meant for it."""

        def is_ready(seen: Snapshot) -> bool:
            return seen.is_collecting and Step.SHARES in seen.complete

        await self._hold(ref, asked, is_ready)
        if (verdict := await self._unless(ref, is_ready)) is not None:
            return StepAnswer(verdict)
        roster, sharings = await self._records.roster(ref), await self._records.sharings(ref)
        if roster.find(asked.fl_id or "") not in sharings:
            return StepAnswer(Verdict.UNPREPARED)
        delivery = packing.pack_delivery(
            roster.deliver(asked.fl_id or "", sharings), len(roster.offers)
        )
        return StepAnswer(Verdict.ACCEPTED, delivery)

    async def report(self, number: int, device: str, tags: bytes) -> bool:
        """Keep what a device tells its neighbours with its update for round `number`.

        This comes before the update is claimed, and only a device that has told it gets the
        claim: whoever is counted has.  Whether the update is wanted is not asked here.
        False when the device has told something else before, which counts; PeerProtocolError
        when these cannot be its tags.
        """
        is_ready = _complete(Step.SHARES)
        seen = await self._desk.see(number, is_ready)
        ref = seen.ref
        if ref.number != number or not is_ready(seen):
            return True
        roster, sharings = await self._records.roster(ref), await self._records.sharings(ref)
        index = roster.find(device)
        if index is None or index not in sharings:
            return True
        check_report_tags(tags, len(roster.peers(index, frozenset(sharings))))
        told = await self._desk.tell(Step.SHARES_READ, device, number, tags)
        if told.verdict is not Verdict.DUPLICATE:
            return True
        first = await self._records.first_message(told.snapshot.ref, Step.SHARES_READ, device)
        return first == tags

    async def survivors(self, ref: RoundRef, asked: RequestSecureRead) -> StepAnswer:
        """A device learns whose updates are in the sum."""
        verdict = await self._take_note(ref, Step.LIST_READ, asked, _is_unmasking)
        if verdict is not Verdict.ACCEPTED:
            return StepAnswer(verdict)
        roster, counted = await self._records.roster(ref), await self._records.counted(ref)
        tags = await self._records.report_tags(ref)
        survivors = roster.survivors(asked.fl_id or "", counted, tags)
        return StepAnswer(verdict, packing.pack_survivors(survivors, len(roster.offers)))

    async def confirm(self, ref: RoundRef, sent: RequestSecureConfirm) -> StepAnswer:
        """A device confirms the list to its neighbours."""
        if (verdict := await self._unless(ref, _is_unmasking)) is not None:
            return StepAnswer(verdict)
        roster, sharings = await self._records.roster(ref), await self._records.sharings(ref)
        counted, sharers = await self._records.counted(ref), frozenset(sharings)
        index = roster.find(sent.fl_id or "")
        if index is None:
            return StepAnswer(Verdict.UNPREPARED)
        alive = alive_beside(roster, index, counted & sharers)
        confirmation = packing.unpack_confirmation(sent, alive)
        roster.check_confirmation(confirmation, sharers, counted)
        return await self._tell(ref, Step.SIGNATURES, sent)

    async def tags(self, ref: RoundRef, asked: RequestSecureRead) -> StepAnswer:
        """A device gets its neighbours' confirmations, once they are enough for it to go on.

        A moment later than that while some are missing: those that are there may be wrong, which
        only the device can tell.
        """
        if (verdict := await self._unless(ref, _is_unmasking)) is not None:
            return StepAnswer(verdict)
        roster = await self._records.roster(ref)
        index = roster.find(asked.fl_id or "")
        if index is None:
            return StepAnswer(Verdict.UNPREPARED)
        counted = await self._records.counted(ref)
        expected = len(alive_beside(roster, index, counted))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (asked.hold_ms or 0) / 1000
        grace_ends = math.inf
        while True:
            confirmations = await self._watch.confirmations(ref)
            tags = roster.tags_for(asked.fl_id or "", confirmations)
            suffices = len(tags) >= roster.leaves.degree.needed
            if suffices:
                grace_ends = min(grace_ends, loop.time() + GRACE_S)
            left_s = min(deadline, grace_ends) - loop.time()
            is_held = left_s > 0 and self._view.holds
            if suffices and (len(tags) >= expected or not is_held):
                return StepAnswer(Verdict.ACCEPTED, packing.pack_tags(tags, len(roster.offers)))
            is_current = self._view.snapshot.ref == ref and _is_unmasking(self._view.snapshot)
            if not (suffices or is_current):
                return StepAnswer(Verdict.ENOUGH)
            if not is_held:
                return StepAnswer(Verdict.TOO_EARLY)
            await asyncio.sleep(min(LOOK_S, left_s))

    async def reveal(self, ref: RoundRef, sent: RequestSecureReveal) -> StepAnswer:
        """A device gives the shares that take the masks off."""
        if (verdict := await self._unless(ref, _is_unmasking)) is not None:
            return StepAnswer(verdict)
        roster, sharings = await self._records.roster(ref), await self._records.sharings(ref)
        index = roster.find(sent.fl_id or "")
        if index is None:
            return StepAnswer(Verdict.UNPREPARED)
        reveal = packing.unpack_reveal(sent, len(roster.offers))
        roster.check_reveal(reveal, frozenset(sharings))
        answer = await self._tell(ref, Step.REVEALS, sent)
        if answer.verdict is Verdict.ACCEPTED:
            self._watch.look_soon(ref)
        return answer

    # -- what the steps have in common ---------------------------------------------------

    async def _tell(self, ref: RoundRef, step: Step, sent: Any) -> StepAnswer:
        """Let the store take a step; the same message again is as good as the first time."""
        message = kept(sent)
        told = await self._desk.tell(step, sent.fl_id, ref.number, message)
        verdict = told.verdict
        if told.snapshot.ref != ref:
            return StepAnswer(Verdict.STALE_ROUND)
        if verdict is Verdict.DUPLICATE:
            first = await self._records.first_message(ref, step, sent.fl_id)
            verdict = Verdict.ACCEPTED if first == message else verdict
        return StepAnswer(verdict)

    async def _take_note(
        self,
        ref: RoundRef,
        step: Step,
        asked: RequestSecureRead,
        is_ready: Callable[[Snapshot], bool],
    ) -> Verdict:
        """Let a device read on as soon as there is something to read."""
        await self._hold(ref, asked, is_ready)
        told = await self._desk.tell(step, asked.fl_id or "", ref.number)
        if told.snapshot.ref != ref:
            return Verdict.STALE_ROUND
        return Verdict.ACCEPTED if told.verdict is Verdict.DUPLICATE else told.verdict

    async def _hold(
        self, ref: RoundRef, asked: RequestSecureRead, is_ready: Callable[[Snapshot], bool]
    ) -> None:
        """Keep a device waiting for what it wants to read, while that may come."""

        def is_over(seen: Snapshot) -> bool:
            is_under_way = seen.is_collecting or seen.is_unmasking
            return seen.ref != ref or not is_under_way or is_ready(seen)

        await self._desk.wait(ref.number, is_over, asked.hold_ms or 0)

    async def _unless(self, ref: RoundRef, is_ready: Callable[[Snapshot], bool]) -> Verdict | None:
        """What a device hears that comes before the round is that far, or after."""
        seen = await self._desk.see(ref.number, is_ready)
        if seen.ref != ref:
            return Verdict.STALE_ROUND
        if is_ready(seen):
            return None
        return Verdict.TOO_EARLY if seen.is_collecting else Verdict.ENOUGH


class RingWatch:
    """Sees when what was revealed suffices, and lets the round go on.

    Looks at what is growing take a fifth of the time at most, however large the cohort is.
    """

    def __init__(self, view: JobView, store: ExchangeStore, records: RingRecords) -> None:
        self._view = view
        self._store = store
        self._records = records
        self._looks: set[asyncio.Task[None]] = set()
        self._at_work = asyncio.Lock()
        self._pause_s = LOOK_S
        self._sufficed: tuple[RoundRef, float] | None = None
        """The round whose reveals suffice, and since when."""
        self._confirmed: tuple[RoundRef, float, Mapping[int, Confirmation]] | None = None
        """What was confirmed in a round, and until when that is news."""

    async def confirmations(self, ref: RoundRef) -> Mapping[int, Confirmation]:
        """What is confirmed, as of a moment ago: devices that wait share one look."""
        async with self._at_work:
            known, began = self._confirmed, asyncio.get_running_loop().time()
            if known is None or known[0] != ref or began > known[1]:
                found = await self._records.confirmations(ref)
                now = asyncio.get_running_loop().time()
                is_whole = len(found) == len(await self._records.counted(ref))
                fresh_s = math.inf if is_whole else max(LOOK_S / 2, 4 * (now - began))
                known = self._confirmed = (ref, now + fresh_s, found)
        return known[2]

    def look_soon(self, ref: RoundRef) -> None:
        """Look once the reveals that come together are there."""
        if not self._looks:
            task = asyncio.create_task(self._look_after(self._pause_s, ref))
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def _look_after(self, seconds: float, ref: RoundRef) -> None:
        await asyncio.sleep(seconds)
        began = asyncio.get_running_loop().time()
        try:
            await self._look(ref)
        except FlClusterError as exc:
            logger.info("round %s: whether reveals suffice is seen later: %s", ref, exc)
        self._pause_s = max(LOOK_S, 4 * (asyncio.get_running_loop().time() - began))

    async def look(self) -> None:
        """Let the current round go on if nothing is missing; done each second."""
        if _is_unmasking(self._view.snapshot):
            await self._look(self._view.snapshot.ref)

    async def _look(self, ref: RoundRef) -> None:
        reveals = await self._records.reveals(ref)
        if not await self._suffices(ref, reveals):
            return
        now = asyncio.get_running_loop().time()
        if self._sufficed is None or self._sufficed[0] != ref:
            self._sufficed = (ref, now)
        awaited = await self._store.takers(ref, Step.LIST_READ) > len(reveals)
        if awaited and now - self._sufficed[1] < GRACE_S:
            return
        await self._store.proceed(ref)
        await self._view.refresh()

    async def _suffices(self, ref: RoundRef, reveals: dict[int, Reveal]) -> bool:
        roster, sharings = await self._records.roster(ref), await self._records.sharings(ref)
        counted = await self._records.counted(ref)
        if len(reveals) < roster.leaves.degree.needed:
            return False
        commitments = {index: sharing.commitment for index, sharing in sharings.items()}
        unmasking = Unmasking(roster, commitments, counted)
        return await asyncio.to_thread(unmasking.can_finish, reveals)


class RingUnmasker:
    """Takes the masks off a sum of secure aggregation."""

    def __init__(self, records: RingRecords) -> None:
        self._records = records

    async def unmask(self, ref: RoundRef, counted: Sequence[str], total: Partial) -> None:
        """Rebuild seeds and keys, check them, and take away the masks that they make."""
        check_same_devices(total)
        roster, sharings = await self._records.roster(ref), await self._records.sharings(ref)
        reveals = await self._records.reveals(ref)
        commitments = {index: sharing.commitment for index, sharing in sharings.items()}
        unmasking = Unmasking(roster, commitments, indices_of(roster, counted))
        try:
            await asyncio.to_thread(unmasking.apply, total.sums, reveals)
        except CannotUnmask as exc:
            raise StaysMasked(f"round {ref}: {exc}") from exc


def _complete(step: Step) -> Callable[[Snapshot], bool]:
    """Whether the step waits for nobody any more."""
    return lambda seen: step in seen.complete


def _is_unmasking(seen: Snapshot) -> bool:
    return seen.is_unmasking
