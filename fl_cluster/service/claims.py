"""The claims of one member: who may be added, decided by the store, one device at a time.

Invariants:
- a device's updates take turns here: two of them in one commit would count as one and
  weigh two;
- a claim that was accepted is used or given up, and one whose answer was lost is given up;
  until that is known the device's turn is not over;
- asking costs one store call for all that ask meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fl_cluster.errors import FlClusterError, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.batching import Batcher
from fl_cluster.service.retrying import until_known
from fl_cluster.store.ports import ClaimAnswer, ClaimRequest, RoundStore

logger = logging.getLogger(__name__)

STRAGGLERS_S = (1.0, 2.0, 4.0, 8.0)
"""When to look again, each after the one before, for a claim that was given up before it had
reached the store: a network that loses packets delivers what was sent first seconds later."""


class Claims:
    """Claims on behalf of the member that `member` names at the time."""

    def __init__(self, rounds: RoundStore, member: Callable[[], str]) -> None:
        self._rounds = rounds
        self._member = member
        self._asked: Batcher[tuple[RoundRef, ClaimRequest], ClaimAnswer] = Batcher(self._send)
        self._turns: dict[str, asyncio.Event] = {}
        """Device -> what is set when its turn is over."""
        self._background: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def turn(self, device: str, deadline: float) -> AsyncIterator[None]:
        """Have the device's updates to oneself inside the block.

        `StoreUnavailable` when that is not possible before the loop's time is `deadline`.
        """
        while (over := self._turns.get(device)) is not None:
            try:
                async with asyncio.timeout_at(deadline):
                    await over.wait()
            except TimeoutError:
                reason = "an earlier update of this device is not decided yet"
                raise StoreUnavailable("claim", reason) from None
        mine = self._turns[device] = asyncio.Event()
        try:
            yield
        finally:
            self._end_turns([device], mine)

    def extend_turn(self, device: str, until: asyncio.Future[Any]) -> None:
        """Let the turn that the device has now last until this is done."""
        over = self._turns[device] = asyncio.Event()
        until.add_done_callback(lambda _: self._end_turns([device], over))

    def _end_turns(self, devices: Sequence[str], over: asyncio.Event) -> None:
        for device in devices:
            if self._turns.get(device) is over:
                del self._turns[device]
        over.set()

    async def ask(self, ref: RoundRef, request: ClaimRequest) -> ClaimAnswer:
        """The store's answer; to be asked only during the device's turn."""
        return await self._asked.ask((ref, request))

    async def _send(
        self, questions: Sequence[tuple[RoundRef, ClaimRequest]]
    ) -> Sequence[ClaimAnswer]:
        ref, member = questions[0][0], self._member()
        asked = [request for asked_ref, request in questions if asked_ref == ref]
        try:
            answers = iter(await self._rounds.claim(ref, member, asked))
        except FlClusterError:
            # The claims may have been taken all the same, and nobody here will use them.
            self.give_up_later(ref, member, [request.device for request in asked])
            raise
        moved_on = ClaimAnswer(Verdict.MOVED_ON)
        return [next(answers) if asked_ref == ref else moved_on for asked_ref, _ in questions]

    async def give_up(self, ref: RoundRef, member: str, devices: Sequence[str]) -> None:
        """Release claims; returns when the store has heard of it, however long that takes."""

        def note(fault: StoreUnavailable) -> None:
            logger.info(
                "round %s: claims of %d devices are not given up yet, asking until they are: %s",
                ref,
                len(devices),
                fault,
            )

        try:
            await until_known(lambda _: self._rounds.release(ref, member, devices), note)
        except FlClusterError:
            logger.exception("round %s: claims of %d devices stay", ref, len(devices))

    def give_up_later(self, ref: RoundRef, member: str, devices: Sequence[str]) -> None:
        """Release in the background; the turn of these devices lasts until that is known."""
        over = asyncio.Event()
        self._turns.update(dict.fromkeys(devices, over))
        self._keep(self._give_up_for_good(ref, member, devices, over))

    async def _give_up_for_good(
        self, ref: RoundRef, member: str, devices: Sequence[str], over: asyncio.Event
    ) -> None:
        try:
            await self.give_up(ref, member, devices)
        finally:
            self._end_turns(devices, over)
        for pause in STRAGGLERS_S:
            await asyncio.sleep(pause)
            idle = [device for device in devices if device not in self._turns]
            if idle:
                await self.give_up(ref, member, idle)

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
