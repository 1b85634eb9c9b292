"""One member's place in the cluster: its lease, its name, and the burial of those who died.

The lease is renewed by a loop of its own, so that work which takes long never looks like
death.  A member that hears it was declared dead goes on under a new name; what it had
committed stays counted, what it had not is free for others.
A member that could not reach the store for a while cannot tell whether the others could:
before it declares anyone dead, it gives everybody one lease's time to come back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from fl_cluster.errors import FlClusterError, StoreUnavailable
from fl_cluster.lifecycle.membership import Member, MemberEvent, reborn, step
from fl_cluster.service.store_watch import StoreWatch
from fl_cluster.store.member_port import MemberStore, Renewal

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 10
HURRY_S = 0.5
"""Longest pause between renewals while the store is not well: that it is again shows here."""

SILENCE_S, SILENCE_STEPS = 3.0, 6
"""A renewal that is not answered for so long: the store is not well, whatever it says later."""

LEASE = "lease"
"""The name under which renewals speak of the store.  They write, so they see what reading
does not: a replica, a full memory, a full disk."""

FORGET_AFTER_MS = 7 * 24 * 3600 * 1000
"""Records of the dead are kept for so long: whoever ends a cluster by hand looks there."""

LooseEnds = Callable[[str], Awaitable[object]]
"""Declares a member dead and frees what it had claimed."""


class Undertaker:
    """Declares members dead whose lease has ended."""

    def __init__(self, members: MemberStore, tie_up: LooseEnds) -> None:
        self._members = members
        self._tie_up = tie_up

    async def look(self) -> None:
        """Bury who is overdue; any number of members may do this at the same time."""
        for member_id in await self._members.overdue():
            logger.warning("member %s did not renew its lease and is declared dead", member_id)
            await self._tie_up(member_id)

    async def forget(self) -> None:
        """Drop records of those who died long ago."""
        await self._members.forget_dead(FORGET_AFTER_MS)

    async def bury(self, member_id: str) -> None:
        """Free what a member that leaves had claimed; nothing happens without any."""
        await self._tie_up(member_id)


class Membership:
    """One process as a member; `new_id` makes a name that was never used."""

    def __init__(
        self,
        members: MemberStore,
        member: Member,
        *,
        lease_ms: int,
        new_id: Callable[[], str],
        undertaker: Undertaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._members = members
        self._member = member
        self._lease_ms = lease_ms
        self._new_id = new_id
        self._undertaker = undertaker
        self._clock = clock
        self._listeners: list[Callable[[str], None]] = []
        self._renewed_at: float | None = None
        self._doubtful_until = 0.0
        self._watch = StoreWatch()

    @property
    def member(self) -> Member:
        """This process as the cluster knows it now."""
        return self._member

    def on_new_name(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the new id whenever this process has to change its name."""
        self._listeners.append(listener)

    def report_to(self, watch: StoreWatch) -> None:
        """Let `watch` hear how renewals are answered."""
        self._watch = watch

    async def join(self) -> None:
        """Register; afterwards the cluster counts on this member until its lease ends."""
        while await self._members.register(self._serving(), self._lease_ms) is Renewal.FENCED:
            self._take_new_name()
        self._member = self._serving()
        self._renewed_at = self._clock()
        logger.info("member %s joined", self._member.id)

    def _serving(self) -> Member:
        return step(self._member, MemberEvent.REGISTERED)

    async def run(self) -> None:
        """Renew until cancelled.  A store that is away only makes it try again."""
        period_s = self._lease_ms / 1000 / RENEWALS_PER_LEASE
        while True:
            try:
                await self._look_impatiently()
                self._watch.note(LEASE, None)
            except FlClusterError as exc:
                self._watch.note(LEASE, exc)
            is_well = self._watch.trouble is None
            await asyncio.sleep(period_s if is_well else min(period_s, HURRY_S))

    async def _look_impatiently(self) -> None:
        """Look, and say so when that takes too long."""
        complaint = asyncio.create_task(self._complain_of_silence())
        try:
            await self.look()
        finally:
            complaint.cancel()

    async def _complain_of_silence(self) -> None:
        # In steps: a process that stood still itself has not waited for anybody.
        for _ in range(SILENCE_STEPS):
            await asyncio.sleep(SILENCE_S / SILENCE_STEPS)
        silence = StoreUnavailable("renew", f"no answer for {SILENCE_S:g} s")
        self._watch.note(LEASE, silence)

    async def look(self) -> None:
        """Renew once, and bury who is overdue."""
        try:
            await self._renew()
        except StoreUnavailable:
            self._renewed_at = None
            raise
        now, lease_s = self._clock(), self._lease_ms / 1000
        if self._renewed_at is None or now - self._renewed_at > lease_s / 2:
            self._doubtful_until = now + lease_s
        self._renewed_at = now
        if self._undertaker is not None and now >= self._doubtful_until:
            await self._undertaker.look()
            await self._undertaker.forget()

    async def _renew(self) -> None:
        answer = await self._members.renew(self._member.id, self._lease_ms)
        if answer is Renewal.FENCED:
            logger.warning("member %s was declared dead while it lived", self._member.id)
            self._take_new_name()
            await self.join()
        elif answer is Renewal.UNKNOWN:
            logger.warning("the store forgot member %s, which registers again", self._member.id)
            await self._members.register(self._member, self._lease_ms)

    def _take_new_name(self) -> None:
        self._member = reborn(step(self._member, MemberEvent.DECLARED_DEAD), self._new_id())
        for listener in self._listeners:
            listener(self._member.id)

    async def drain(self) -> None:
        """Let the cluster know that this member takes nothing new."""
        self._member = step(self._member, MemberEvent.STOP_ASKED)
        try:
            await self._members.register(self._member, self._lease_ms)
        except StoreUnavailable as exc:
            logger.warning("the cluster was not told that this member drains: %s", exc)

    async def leave(self) -> None:
        """Go at once; what this member had still claimed is free for others.

        When the store is away, the others find out by the lease.
        """
        try:
            if self._undertaker is not None:
                await self._undertaker.bury(self._member.id)
            await self._members.deregister(self._member.id)
            logger.info("member %s left", self._member.id)
        except StoreUnavailable as exc:
            logger.warning("member %s could not sign off: %s", self._member.id, exc)
        self._member = step(self._member, MemberEvent.LEFT)
