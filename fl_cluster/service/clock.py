"""What makes a member look: events at once, and time each second.

Three loops for one member.  Hearing an event only makes it look sooner; without events the
look each second comes to the same.  A store that does not answer makes the member
unavailable, never stops it: all loops go on, and go back to work by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from fl_cluster.errors import FlClusterError, JobLost, StoreUnavailable
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.finish import Finisher
from fl_cluster.service.view import JobView
from fl_cluster.store.ports import Events, RoundStore

logger = logging.getLogger(__name__)

PERIOD_S = 1.0


class Clock:
    """Keeps one member's view true and its share of the work done."""

    def __init__(
        self,
        view: JobView,
        rounds: RoundStore,
        events: Events,
        finisher: Finisher,
        rebuild: Callable[[], Awaitable[None]],
    ) -> None:
        """`rebuild` creates the job's records again when the store has lost them."""
        self._rebuild = rebuild
        self._view = view
        self._rounds = rounds
        self._events = events
        self._finisher = finisher
        self._duties: list[Callable[[], Awaitable[None]]] = []
        self._store_was_away = False
        self._is_deaf = False

    def each_second(self, duty: Callable[[], Awaitable[None]]) -> None:
        """Do this too at every look."""
        self._duties.append(duty)

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forever(self._listen))
            group.create_task(self._forever(self._tick))
            group.create_task(self._forever(self._finish))

    async def _forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await loop()
            except StoreUnavailable as exc:
                self._note_store(exc)
            except FlClusterError:
                logger.exception("the %s loop starts again", loop.__name__.strip("_"))
            except Exception:
                # A bug in one look must not leave the cluster without anyone who looks.
                logger.exception("bug in the %s loop, which starts again", loop.__name__)
            await asyncio.sleep(PERIOD_S)

    def _note_store(self, fault: StoreUnavailable | None) -> None:
        self._view.is_available = fault is None
        if fault is not None and not self._store_was_away:
            logger.error("the store does not answer; waiting for it: %s", fault)
        elif fault is None and self._store_was_away:
            logger.warning("the store answers again")
        self._store_was_away = fault is not None

    async def _listen(self) -> None:
        try:
            async with contextlib.aclosing(self._events.listen()) as words:  # type: ignore[type-var]
                async for _ in words:
                    self._is_deaf = False
                    await self._view.refresh()
                    if self._view.snapshot.needs_finishing:
                        # Whoever finishes the round wants everybody's share of its figures.
                        await self._do_duties()
        except StoreUnavailable as exc:
            # Whether more than the events is missing, a look will tell.
            await self._view.refresh()
            if not self._is_deaf:
                logger.warning("no events from the store, looking each second instead: %s", exc)
            self._is_deaf = True

    async def _tick(self) -> None:
        while True:
            await self._look()
            self._note_store(None)
            snapshot = self._view.snapshot
            if snapshot.deadline is not None:
                await self._rounds.tick(snapshot.ref)
            await self._do_duties()
            await asyncio.sleep(PERIOD_S)

    async def _do_duties(self) -> None:
        for duty in self._duties:
            await duty()

    async def _look(self) -> None:
        try:
            await self._view.refresh()
        except JobLost as exc:
            logger.error("%s; building it again from what this server holds", exc)
            await self._rebuild()
            try:
                await self._view.refresh()
            except JobLost:
                raise StoreUnavailable("look", "another server builds the job again") from exc

    async def _finish(self) -> None:
        period_ms = int(PERIOD_S * 1000)
        while True:
            await self._view.wait_for(lambda seen: seen.needs_finishing, period_ms)
            ref = self._view.snapshot.ref
            if self._view.snapshot.needs_finishing and not await self._finisher.finish():
                await self._wait_for_other(ref)

    async def _wait_for_other(self, ref: RoundRef) -> None:
        """Somebody else is finishing the round: look again when it has, or may have died."""
        await self._view.wait_for(lambda seen: seen.ref != ref, int(PERIOD_S * 1000))
