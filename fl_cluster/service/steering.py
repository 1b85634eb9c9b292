"""What operators do to a job: stop it, let it go on, begin a new run, send servers away.

The round's store decides each of the first three in one step, whatever the servers are doing;
here is what comes before it.  Nothing waits for a server: what was asked is true at once, and
whoever serves obeys.
Not here: how operators ask, and in which words they are answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from fl_cluster.config.shared import SharedParameters
from fl_cluster.rounds.events import Verdict
from fl_cluster.service.spending import Spending, Spent
from fl_cluster.store.ports import JobRecord, JobStore, RoundStore

logger = logging.getLogger(__name__)

DRAIN = "drain"
"""The command by which a server is told to finish what it holds and end."""


class Commander(Protocol):
    """Tells servers to do something."""

    async def command(self, member_id: str, name: str) -> str | None:
        """Why the server did not do it; None when it did."""


class Steering:
    """Steers one job; `new_name` names a run that begins now."""

    def __init__(
        self,
        rounds: RoundStore,
        jobs: JobStore,
        commander: Commander,
        new_name: Callable[[], str],
        spending: Spending | None = None,
    ) -> None:
        """`spending` knows what noise has cost; None where nobody adds any."""
        self._rounds = rounds
        self._jobs = jobs
        self._commander = commander
        self._new_name = new_name
        self._spending = spending
        self._is_restarting = asyncio.Lock()

    async def disable(self) -> Verdict:
        """Stop the job; `moved_on` when there is none."""
        return self._tell("disable", await self._rounds.disable())

    async def enable(self) -> Verdict:
        """Let the job go on; `moved_on` when there is none."""
        return self._tell("enable", await self._rounds.enable())

    async def job(self) -> JobRecord | None:
        """The run that is about to begin when one is, else the current one.

        Looked up in this order: a successor that begins in between is the current run then.
        """
        return await self._jobs.successor() or await self._jobs.job()

    @asynccontextmanager
    async def one_restart(self) -> AsyncIterator[None]:
        """Have restarts to oneself inside the block: each is laid over the one before it."""
        async with self._is_restarting:
            yield

    async def overspent(self, parameters: SharedParameters) -> Spent | None:
        """What was spent, if it leaves nothing for a round under these parameters."""
        if self._spending is None:
            return None
        spent = await self._spending.spent(parameters.text)
        return spent if spent is not None and spent.is_over else None

    async def restart(self, base: JobRecord, parameters: SharedParameters) -> Verdict:
        """Begin a run of `base`'s model under other parameters, from the newest weights."""
        run = JobRecord(self._new_name(), parameters.rounds_total, parameters.text, base.layout)
        return self._tell(f"begin run {run.instance}", await self._rounds.restart(run))

    async def drain(self, member_ids: Sequence[str]) -> Mapping[str, str | None]:
        """Tell servers to end once they have finished what they hold.

        Member id -> why it was not told so; None when it was.
        """
        answers = await asyncio.gather(
            *(self._commander.command(member_id, DRAIN) for member_id in member_ids)
        )
        for member_id, error in zip(member_ids, answers, strict=True):
            logger.info("operator: drain %s: %s", member_id, error or "it was told")
        return dict(zip(member_ids, answers, strict=True))

    @staticmethod
    def _tell(what: str, verdict: Verdict) -> Verdict:
        logger.info("operator: %s: %s", what, verdict)
        return verdict
