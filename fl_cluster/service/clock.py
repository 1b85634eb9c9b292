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

from fl_cluster.errors import FlClusterError, JobLost, StoreCorrupt, StoreUnavailable
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.finish import Finisher
from fl_cluster.service.view import JobView
from fl_cluster.store.ports import Events, RoundStore

logger = logging.getLogger(__name__)

PERIOD_S = 1.0

ENDING_WORDS = ("unmasking", "aggregating", "concluding", "abandoning")
"""What is heard when the figures of a round are about to be summed up."""

LOOKS, EVENTS, ENDINGS = "looks", "events", "endings of rounds"
"""What the loops see to, and the names under which they speak of the store."""


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
        self._hearers: list[Callable[[], None]] = []
        self._watch = view.watch
        self._is_deaf = False
        self._rebuilding = asyncio.Lock()

    def each_second(self, duty: Callable[[], Awaitable[None]]) -> None:
        """Do this too at every look."""
        self._duties.append(duty)

    def on_word(self, hear: Callable[[], None]) -> None:
        """Tell this one too whenever an event is heard."""
        self._hearers.append(hear)

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forever(EVENTS, self._listen))
            group.create_task(self._forever(LOOKS, self._tick))
            group.create_task(self._forever(ENDINGS, self._finish))

    async def _forever(self, witness: str, loop: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await loop()
            except (StoreUnavailable, StoreCorrupt) as exc:
                self._watch.note(witness, exc)
            except FlClusterError as exc:
                logger.error("the loop that sees to %s starts again: %s", witness, exc)
            except Exception:
                # A bug in one look must not leave the cluster without anyone who looks.
                logger.exception("bug in the loop that sees to %s, which starts again", witness)
            await asyncio.sleep(PERIOD_S)

    async def _listen(self) -> None:
        try:
            async with contextlib.aclosing(self._events.listen()) as words:  # type: ignore[type-var]
                async for word in words:
                    self._is_deaf = False
                    for hear in self._hearers:
                        hear()
                    await self._react(word)
        except (StoreUnavailable, StoreCorrupt) as exc:
            # Whether more than the events is missing, a look will tell.
            if await self._react() and not self._is_deaf:
                logger.warning("no events from the store, looking each second instead: %s", exc)
                self._is_deaf = True

    async def _react(self, word: str = "") -> bool:
        """Look at once; whether that was possible.  It is done again within a second."""
        is_ending = word in ENDING_WORDS
        try:
            if is_ending:
                # Whoever finishes the round wants everybody's share of its figures, and has begun.
                await self._do_duties()
            await self._look()
            if self._view.snapshot.needs_finishing and not is_ending:
                await self._do_duties()
        except (StoreUnavailable, StoreCorrupt) as exc:
            self._watch.note(LOOKS, exc)
            return False
        return True

    async def _tick(self) -> None:
        while True:
            await self._look()
            snapshot = self._view.snapshot
            if snapshot.deadline is not None:
                await self._rounds.tick(snapshot.ref)
            await self._do_duties()
            self._watch.note(LOOKS, None)
            await asyncio.sleep(PERIOD_S)

    async def _do_duties(self) -> None:
        for duty in self._duties:
            await duty()

    async def _look(self) -> None:
        try:
            await self._view.refresh()
        except JobLost:
            async with self._rebuilding:
                await self._find_again()

    async def _find_again(self) -> None:
        """Bring the job back unless another loop has done so meanwhile."""
        try:
            await self._view.refresh()
        except JobLost as exc:
            self._watch.note(LOOKS, exc)
            await self._rebuild()
            await self._view.refresh()

    async def _finish(self) -> None:
        period_ms = int(PERIOD_S * 1000)
        while True:
            if not self._view.snapshot.needs_finishing:
                self._watch.note(ENDINGS, None)
            await self._view.wait_for(lambda seen: seen.needs_finishing, period_ms)
            ref = self._view.snapshot.ref
            if not self._view.snapshot.needs_finishing:
                continue
            is_done = await self._finisher.finish()
            self._watch.note(ENDINGS, None)
            if not is_done:
                await self._wait_for_other(ref)

    async def _wait_for_other(self, ref: RoundRef) -> None:
        """Somebody else is finishing the round: look again when it has, or may have died."""
        await self._view.wait_for(lambda seen: seen.ref != ref, int(PERIOD_S * 1000))
