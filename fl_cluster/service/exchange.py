"""A device's steps in a masked round, on behalf of one member.

The store decides about each step; here is what comes around that: a decision is taken anew
when the round has moved on meanwhile, a round that is too late is ended, and reads wait until
there is something to read.
Not here: what the messages say (service.told), and in which words devices are answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.checkin import LOOKS
from fl_cluster.service.told import ToldSteps
from fl_cluster.service.view import JobView
from fl_cluster.store.exchange_port import ExchangeStore
from fl_cluster.store.ports import ClaimRequest, RoundStore, Snapshot


@dataclass(frozen=True, slots=True)
class Told:
    """The verdict on a step, and the round it is about."""

    verdict: Verdict
    snapshot: Snapshot


class ExchangeDesk:
    """Takes devices' steps; `hold_ms` is how long they may be kept waiting for each other."""

    def __init__(
        self, view: JobView, rounds: RoundStore, store: ExchangeStore, *, hold_ms: int
    ) -> None:
        self._view = view
        self._rounds = rounds
        self._store = store
        self._hold_ms = hold_ms
        self.told = ToldSteps(rounds, store)
        """What devices have told."""

    async def tell(self, step: Step, device: str, number: int, message: bytes = b"") -> Told:
        """Take a step of round `number`; `stale_round` when that is not the current one."""
        return await self._decide(number, lambda ref: self._store.tell(ref, step, device, message))

    async def offer(
        self, device: str, number: int, message: bytes, former: bytes | None = None
    ) -> Told:
        """Take a device's keys, in place of `former` ones while keys of others are awaited."""
        if former is None:
            return await self.tell(Step.KEYS, device, number, message)
        return await self._decide(
            number, lambda ref: self._store.replace_keys(ref, device, message, former)
        )

    async def _decide(self, number: int, put: Callable[[RoundRef], Awaitable[Verdict]]) -> Told:
        verdict = Verdict.ENOUGH
        for _ in range(LOOKS):
            snapshot = await self.see(number)
            if snapshot.ref.number != number:
                return Told(Verdict.STALE_ROUND, snapshot)
            verdict = await put(snapshot.ref)
            if verdict is Verdict.LATE:
                await self._rounds.tick(snapshot.ref)
            elif verdict is not Verdict.MOVED_ON:
                return Told(verdict, snapshot)
            await self._view.refresh()
        return Told(verdict, self._view.snapshot)

    async def see(
        self, number: int, is_ready: Callable[[Snapshot], bool] = lambda _: True
    ) -> Snapshot:
        """The current round; looked up unless it is `number` and ready as far as is known here."""
        seen = self._view.snapshot
        if seen.ref.number != number or not is_ready(seen):
            await self._view.refresh()
        return self._view.snapshot

    async def wait(
        self, number: int, is_ready: Callable[[Snapshot], bool], hold_ms: int | None = None
    ) -> Snapshot:
        """The current round once it is ready, is not `number` any more, or waiting is over.

        `hold_ms` is what a device asks for that says so.
        """

        def is_over(seen: Snapshot) -> bool:
            given_up = seen.phase in ("abandoning", "closed")
            return seen.ref.number != number or given_up or is_ready(seen)

        if not is_over(self._view.snapshot):
            await self._view.refresh()
        await self._view.hold(is_over, self._hold_ms if hold_ms is None else hold_ms)
        return self._view.snapshot

    def is_complete(self, step: Step) -> bool:
        """Whether the step takes nobody any more, or the time for it is over."""
        snapshot = self._view.snapshot
        return step in snapshot.complete or not (snapshot.is_collecting or snapshot.is_unmasking)

    async def is_in_cohort(self, ref: RoundRef, device: str) -> bool:
        """Whether the device has checked in.

        A claim for another round is never granted, and its answer tells strangers first.
        """
        question = ClaimRequest(device, ref.number + 1)
        (answer,) = await self._rounds.claim(ref, "", [question])
        return answer.verdict is not Verdict.NOT_IN_COHORT
