"""Which answers have reached their devices: that they are admitted, that an update is counted.

Existing devices' HTTP clients silently send a request again when its connection broke.  A
repeat of a request whose answer never left must get that answer: a refusal would cost the
device its round.  A repeat of one that was answered gets the refusal that existing devices
expect.  This member knows at once what it has told; the others are told of it soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Sequence

from fl_cluster.errors import FlClusterError
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.store.ports import RoundStore

logger = logging.getLogger(__name__)

GATHER_S = 0.02
"""How long deliveries gather before the store hears of them."""

OTHERS_S = 0.15
"""How long a delivery by another member may take to be known here."""

WRITING_S = 1.0
"""How long an answer may take to leave before a repeat no longer waits for it."""

KEPT_ROUNDS = 2


class Deliveries:
    """The deliveries of one member, and what the store knows of the others'."""

    def __init__(self, rounds: RoundStore) -> None:
        self._rounds = rounds
        self._told: dict[RoundRef, set[str]] = defaultdict(set)
        self._under_way: dict[tuple[RoundRef, str], asyncio.Event] = {}
        self._untold: dict[RoundRef, list[str]] = defaultdict(list)
        self._worker: asyncio.Task[None] | None = None

    def begin(self, ref: RoundRef, answer: str) -> None:
        """The answer is on its way; a repeat of its request waits for what becomes of it."""
        self._under_way[ref, answer] = asyncio.Event()

    def end(self, ref: RoundRef, answer: str, *, is_delivered: bool) -> None:
        """The answer has left, or could not."""
        if is_delivered:
            self._told[ref].add(answer)
            self._untold[ref].append(answer)
            while len(self._told) > KEPT_ROUNDS:
                del self._told[next(iter(self._told))]
            if self._worker is None:
                self._worker = asyncio.create_task(self._tell_store())
        ended = self._under_way.pop((ref, answer), None)
        if ended is not None:
            ended.set()

    async def was_told(self, ref: RoundRef, answer: str) -> bool:
        """Whether the answer has left, from this member or from another one.

        When no other member has said so within the time that takes, it was lost.
        """
        ended = self._under_way.get((ref, answer))
        if ended is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WRITING_S):
                    await ended.wait()
        if answer in self._told.get(ref, ()):
            return True
        if await self._rounds.was_answered(ref, answer):
            return True
        await asyncio.sleep(OTHERS_S)
        return await self._rounds.was_answered(ref, answer)

    async def flush(self) -> None:
        """Return when the store knows all that has been told so far, or cannot be reached."""
        while self._worker is not None:
            await asyncio.wait((self._worker,))

    async def _tell_store(self) -> None:
        try:
            while self._untold:
                await asyncio.sleep(GATHER_S)
                untold, self._untold = self._untold, defaultdict(list)
                for ref, answers in untold.items():
                    await self._tell_of(ref, answers)
        finally:
            self._worker = None

    async def _tell_of(self, ref: RoundRef, answers: Sequence[str]) -> None:
        try:
            await self._rounds.note_answered(ref, answers)
        except FlClusterError as exc:
            # A repeat that reaches another member gets its answer twice, and nothing is lost.
            logger.info("the store was not told of %d answers: %s", len(answers), exc)
