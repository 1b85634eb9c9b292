"""What the noise of a job costs: what its rounds release, what that adds up to, what is left.

Charges are counts by the name of a release, such as `central 1.1`; the ledger is made from
them anew each time, so nothing that rounds differently can creep into it.  A member remembers
the largest counts it ever saw and gives them back to a store that went back in time.
Not here: when a round is charged, and the noise itself (service.noising).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fl_cluster.config.protection import Protection
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import StoreCorrupt
from fl_cluster.privacy.accountant import Budget, GaussianRelease, Ledger
from fl_cluster.privacy.central_dp import CentralNoise
from fl_cluster.privacy.local_dp import FIRST_CLIP, Noise
from fl_cluster.store.privacy_port import PrivacyStore

logger = logging.getLogger(__name__)

CENTRAL, LOCAL = "central", "local"
NAMES_PARSED = 256


@dataclass(frozen=True, slots=True)
class Terms:
    """What each round of a job releases, and what all of them may cost."""

    kind: str
    """central | local: who adds the noise."""
    release: GaussianRelease
    delta: float
    budget: Budget | None
    noise: CentralNoise | None
    """What servers add; None when devices do."""

    @classmethod
    def of(cls, protection: Protection) -> Terms | None:
        """The terms of these settings; None when nobody adds noise."""
        delta, epsilon = protection.delta, protection.epsilon_budget
        budget = Budget(epsilon, delta) if epsilon > 0 else None
        if protection.is_central:
            noise = CentralNoise(protection.clip_norm, protection.noise_multiplier)
            return cls(CENTRAL, GaussianRelease(noise.noise_multiplier), delta, budget, noise)
        if protection.is_local:
            multiplier = _local_multiplier(protection.local_epsilon, protection.local_delta)
            return cls(LOCAL, GaussianRelease(multiplier), delta, budget, None)
        return None

    @property
    def name(self) -> str:
        """The name under which one round is charged."""
        return f"{self.kind} {self.release.noise_multiplier!r}"

    def allows(self, ledger: Ledger) -> bool:
        """Whether one more round stays within the budget."""
        return self.budget is None or self.budget.allows(ledger, self.release)

    def rounds_left(self, ledger: Ledger, most: int) -> int:
        """How many more rounds stay within it, of `most` that are wanted."""
        if self.budget is None:
            return most
        return self.budget.rounds_left(ledger, self.release, most)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a job has spent so far."""

    terms: Terms
    charges: Mapping[str, int]
    epsilon: float
    rounds: int
    """How many releases that is, in all runs of the job."""
    is_over: bool
    """Whether one more would exceed the budget."""

    def as_data(self) -> dict[str, Any]:
        """For answers and files."""
        terms = self.terms
        return {
            "clip_norm": None if terms.noise is None else terms.noise.clip,
            "delta": terms.delta,
            "epsilon": self.epsilon if math.isfinite(self.epsilon) else None,
            "epsilon_budget": None if terms.budget is None else terms.budget.epsilon,
            "is_over": self.is_over,
            "noise": terms.kind,
            "noise_multiplier": terms.release.noise_multiplier,
            "rounds": self.rounds,
        }

    def __str__(self) -> str:
        terms = self.terms
        of = "" if terms.budget is None else f" of {terms.budget.epsilon:g}"
        rounds = f"{self.rounds} round{'' if self.rounds == 1 else 's'}"
        return f"epsilon {self.epsilon:.4g}{of} at delta {terms.delta:g} after {rounds}"


def ledger_of(charges: Mapping[str, int]) -> Ledger:
    """The ledger of these charges; StoreCorrupt when one is of no known release."""
    ledger = Ledger()
    for name, count in sorted(charges.items()):
        ledger = ledger.after(_release_named(name), count)
    return ledger


def spent_of(terms: Terms, charges: Mapping[str, int]) -> Spent:
    """What these charges come to."""
    ledger = ledger_of(charges)
    is_over = not terms.allows(ledger)
    return Spent(terms, dict(charges), ledger.epsilon(terms.delta), ledger.rounds, is_over)


class Spending:
    """What one process knows of the charges of a job."""

    def __init__(self, store: PrivacyStore) -> None:
        self._store = store
        self._known: dict[str, int] = {}
        self._terms = lru_cache(maxsize=2)(_terms_in)

    def terms(self, hyper_parameters: str) -> Terms | None:
        """The terms of a run with these settings."""
        return self._terms(hyper_parameters)

    async def recall(self, charges: Mapping[str, int]) -> None:
        """Remember charges that are known from elsewhere, such as a file."""
        self._raise(charges)
        await self.charges()

    async def charges(self) -> Mapping[str, int]:
        """All charges as of now; the store is told of those that it has forgotten."""
        stored = await self._store.charges()
        self._raise(stored)
        lost = {name: n for name, n in self._known.items() if n > stored.get(name, 0)}
        if lost:
            logger.warning("privacy: the store had forgotten charges, and is told: %s", lost)
            await self._store.learn(lost)
        return dict(self._known)

    async def spent(self, hyper_parameters: str) -> Spent | None:
        """What a job with these settings has spent; None when nobody adds noise."""
        terms = self.terms(hyper_parameters)
        return None if terms is None else spent_of(terms, await self.charges())

    def _raise(self, charges: Mapping[str, int]) -> None:
        for name, count in charges.items():
            self._known[name] = max(count, self._known.get(name, 0))


@lru_cache(maxsize=8)
def _local_multiplier(epsilon: float, delta: float) -> float:
    """What the ledger counts a round of devices' noise as; the clip norm cancels out."""
    return Noise(epsilon, delta, FIRST_CLIP).noise_multiplier


@lru_cache(maxsize=NAMES_PARSED)
def _release_named(name: str) -> GaussianRelease:
    kind, _, multiplier = name.partition(" ")
    try:
        if kind in (CENTRAL, LOCAL):
            return GaussianRelease(float(multiplier))
    except ValueError as exc:
        raise StoreCorrupt(f"a privacy charge is of no known release: {name!r}") from exc
    raise StoreCorrupt(f"a privacy charge is of no known release: {name!r}")


def _terms_in(hyper_parameters: str) -> Terms | None:
    return Terms.of(SharedParameters.parse(hyper_parameters).protection)
