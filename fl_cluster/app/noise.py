"""One server's share of a job's differential privacy: put together here, and checked at start."""

from __future__ import annotations

import asyncio
import logging

from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import StartupError
from fl_cluster.privacy.accountant import Ledger
from fl_cluster.service.noising import NoiseDesk
from fl_cluster.service.spending import Spending, Terms
from fl_cluster.service.view import JobView
from fl_cluster.store.checkpoints import CheckpointFolder
from fl_cluster.store.ports import RoundStore
from fl_cluster.store.privacy_port import PrivacyStore

logger = logging.getLogger(__name__)


class ServerNoise:
    """What a server has to do with noise; nothing in a job without any."""

    def __init__(
        self, store: PrivacyStore, checkpoints: CheckpointFolder, view: JobView, rounds: RoundStore
    ) -> None:
        self._spending = Spending(store)
        self.desk = NoiseDesk(store, self._spending)
        self._checkpoints = checkpoints
        self._view = view
        self._rounds = rounds

    def check(self, parameters: SharedParameters) -> None:
        """StartupError when the budget does not allow a single round of a new job.

        Or when there is no noise at all: devices calibrate it to none where dp_eps is too small
        for their arithmetic.
        """
        try:
            terms = Terms.of(parameters.protection)
        except ValueError as exc:
            raise StartupError(f"what the noise of this job costs cannot be told: {exc}") from exc
        if terms is None or terms.allows(Ledger()):
            return
        assert terms.budget is not None
        cost = Ledger().after(terms.release).epsilon(terms.delta)
        raise StartupError(
            f"privacy.epsilon_budget is {terms.budget.epsilon:g}, and a single round costs"
            f" {cost:.4g} at delta {terms.delta:g}: expected a larger budget or more noise;"
            " `fl-cluster privacy plan` says what a run costs"
        )

    async def recall(self) -> None:
        """Once the job is joined: remember what it had spent, also as its checkpoints know it.

        StartupError when the file beside them is damaged.
        """
        charges = await asyncio.to_thread(self._checkpoints.charges().read)
        if charges:
            await self._spending.recall(charges)
        spent = await self.desk.spent(self._view.job)
        if spent is not None:
            logger.info("privacy: %s (%s noise)", spent, spent.terms.kind)

    async def watch(self) -> None:
        """What is to be seen to each second."""
        await self.desk.watch(self._view, self._rounds)
