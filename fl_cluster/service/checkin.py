"""A device offers to take part; the store decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.batching import Batcher
from fl_cluster.service.view import JobView
from fl_cluster.store.ports import Offer, RoundStore, Snapshot

TURNOVER_MS = 2_000
"""How long an offer waits when it meets a round that is being finished: the next one opens
within milliseconds, and a refusal would cost the device far more."""

LOOKS = 8
"""How often a decision is taken anew because the round moved on meanwhile."""


@dataclass(frozen=True, slots=True)
class CheckInAnswer:
    """The verdict, and the round it is about."""

    verdict: Verdict
    snapshot: Snapshot


class CheckInDesk:
    """Checks devices in on behalf of one member."""

    def __init__(self, view: JobView, rounds: RoundStore) -> None:
        self._view = view
        self._rounds = rounds
        self._offers: Batcher[tuple[RoundRef, Offer], Verdict] = Batcher(self._send)

    async def check_in(self, offer: Offer) -> CheckInAnswer:
        """Admit the device to the current round, or say why not."""
        verdict = Verdict.COHORT_FULL
        for _ in range(LOOKS):
            if self._view.snapshot.needs_finishing:
                await self._view.hold(lambda seen: not seen.needs_finishing, TURNOVER_MS)
            snapshot = self._view.snapshot
            verdict = await self._offers.ask((snapshot.ref, offer))
            if verdict is Verdict.LATE:
                await self._rounds.tick(snapshot.ref)
            elif verdict is not Verdict.MOVED_ON:
                return CheckInAnswer(verdict, snapshot)
            await self._view.refresh()
        return CheckInAnswer(Verdict.COHORT_FULL, self._view.snapshot)

    async def _send(self, questions: Sequence[tuple[RoundRef, Offer]]) -> Sequence[Verdict]:
        ref = questions[0][0]
        offers = [offer for asked, offer in questions if asked == ref]
        verdicts = iter(await self._rounds.check_in(ref, offers))
        return [next(verdicts) if asked == ref else Verdict.MOVED_ON for asked, _ in questions]
