"""Noise for the sums of rounds, paid for before it is added.

Invariants:
- a round attempt is charged before anything that its devices' data went into is made readable,
  and once, whoever finishes it and however often: the charge and the seed of the noise are one
  step in the store;
- a round that would exceed the budget is not charged and not aggregated;
- the noise is a function of the seed: whoever takes over comes to the same model.
A round of a job whose devices add the noise is charged even if it came to nothing: the
servers have seen what they sent.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from fl_cluster.aggregate.partial import Partial
from fl_cluster.errors import StoreCorrupt
from fl_cluster.privacy.central_dp import SEED_BYTES, SeededStream, add_noise
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason
from fl_cluster.service.spending import CENTRAL, Spending, Spent, Terms
from fl_cluster.service.view import JobView
from fl_cluster.store.ports import JobRecord, RoundStore, Snapshot
from fl_cluster.store.privacy_port import PrivacyStore

logger = logging.getLogger(__name__)


class NoiseDesk:
    """Pays for rounds, and adds their noise, on behalf of one member."""

    def __init__(self, store: PrivacyStore, spending: Spending) -> None:
        self._store = store
        self._spending = spending

    async def settle(
        self, snapshot: Snapshot, job: JobRecord, member: str
    ) -> bytes | Verdict | Reason | None:
        """Pay for the round that this member is about to finish.

        The seed of its noise; None when there is nothing to pay; a reason when it must come to
        nothing; a verdict when it is not this member's any more.
        """
        terms = self._spending.terms(job.hyper_parameters)
        if terms is None or not _is_release(terms, snapshot):
            return None
        if not await self._store.is_charged(snapshot.ref):
            spent = await self._spending.spent(job.hyper_parameters)
            if spent is not None and spent.is_over and terms.kind == CENTRAL:
                logger.error("round %s is not aggregated: %s", snapshot.ref, _overspent(spent))
                return Reason.BUDGET_SPENT
        seed = secrets.token_bytes(SEED_BYTES)
        return await self._store.charge(snapshot.ref, member, terms.name, seed)

    async def add_noise(self, job: JobRecord, total: Partial, seed: bytes | None) -> None:
        """Add the noise that servers owe to the merged sums, in place."""
        terms = self._spending.terms(job.hyper_parameters)
        if terms is None or terms.noise is None:
            return
        assert seed is not None, "a sum without noise would be published"
        await asyncio.to_thread(_add, terms, total, seed)

    async def spent(self, job: JobRecord) -> Spent | None:
        """What the job has spent so far; None when nobody adds noise."""
        return await self._spending.spent(job.hyper_parameters)

    async def watch(self, view: JobView, rounds: RoundStore) -> None:
        """Remember the charges, and end a round that has opened although nothing is left for it.

        So it is when an operator begins a new run, or a job is brought back.
        """
        job, snapshot = view.job, view.snapshot
        spent = await self.spent(job)
        if spent is not None and spent.is_over and snapshot.is_collecting:
            logger.error("round %s is given up: %s", snapshot.ref, _overspent(spent))
            await rounds.abort(snapshot.ref, Reason.BUDGET_SPENT)


def _is_release(terms: Terms, snapshot: Snapshot) -> bool:
    """Whether finishing the round shows somebody what its devices' data went into."""
    if terms.kind == CENTRAL:
        return snapshot.phase == "aggregating"
    return snapshot.opened_at is not None


def may_go_on(spent: Spent | None) -> bool:
    """Whether another round stays within the budget; when not, that is logged."""
    if spent is None or not spent.is_over:
        return True
    logger.warning("the job ends here: %s", _overspent(spent))
    return False


def _overspent(spent: Spent) -> str:
    return f"another round would exceed the privacy budget ({spent} is spent)"


def _add(terms: Terms, total: Partial, seed: bytes) -> None:
    """Every aggregated tensor gets noise, whether anybody sent it or not."""
    assert terms.noise is not None
    stream, exponents = SeededStream(seed), total.scaling.exponents
    for place in total.layout.summed:
        exponent = exponents[place.sum_index]
        try:
            add_noise(total.sums_of(place), terms.noise.sigma, exponent, stream)
        except ValueError as exc:
            raise StoreCorrupt(f"tensor {place.tensor.name!r}: {exc}") from exc
