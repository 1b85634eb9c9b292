"""The scheduler's end of the control link: one link to each server, and what its end means.

Silence never kills, statements do, unless the lease contradicts.  A server is declared dead
when a connection to it was closed or refused, when it cannot be linked again in two tries,
and when it does not renew its lease, which a server that lives does at once after its link
broke.  A process of this host that has ended renews nothing, so it is not waited for; one
that is there is not dead.  Whatever merely does not answer is left to its lease.
docs/decisions/0012-control-link.md has the reasons.
Invariants: a store that is away makes nobody dead; a server that was never reached is dialled
for as long as it is listed; nothing here is needed for training to go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import platform
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn, Protocol

from fl_cluster.config.addresses import parse_address
from fl_cluster.errors import FlClusterError, StoreUnavailable
from fl_cluster.lifecycle.membership import Member, Role
from fl_cluster.security.tls_trouble import explain_outgoing, is_cut_off
from fl_cluster.service.link import (
    BEAT_S,
    COMMAND_S,
    SEND_S,
    Channel,
    Ended,
    How,
    in_words,
    not_expected,
    until_ended,
)
from fl_cluster.service.membership import RENEWALS_PER_LEASE
from fl_cluster.store.member_port import MemberStore
from fl_cluster.store.ports import Events
from fl_cluster.telemetry.load import Load
from fl_cluster.telemetry.processes import find_process
from fl_cluster.wire.frames import Answer, Beat, Command, Hello, Ping

logger = logging.getLogger(__name__)

FAREWELL = "this scheduler lets go of the link"

LOOK_S = 0.5
"""How often the list of members is read: a server that dies within its first second is found
dead as quickly as any other."""

PING_S = 0.25
SILENCE_S = 4 * BEAT_S
DIAL_S = 0.3
TRIES = 2
BETWEEN_TRIES_S = 0.1
REDIAL_S = 1.0

PROOF_S = 0.6
"""How long after its link broke a living server may take to renew its lease: it does so
twice meanwhile, on purpose."""

RENEWALS_MISSED = 2
"""Whoever has no link that could have broken is given so many of its usual renewals."""

WATCH_S = 0.1
"""How often a lease is looked at meanwhile."""

HEARD = frozenset({"subscribed", "member_lost"})
"""Words that are about members; the others are about rounds."""


class LinkState(StrEnum):
    """How the scheduler stands with one server."""

    DIALLING = "dialling"
    LINKED = "linked"
    UNREACHABLE = "unreachable"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """The state of one link and, unless it is linked, the reason."""

    state: LinkState
    reason: str = ""


class Leases(Protocol):
    """Reads when leases end."""

    async def lease_end(self, member_id: str) -> int | None:
        """When the member's lease ends; None when it has none.  A renewal changes the value."""


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(address: str, tls: Callable[[], ssl.SSLContext] | None = None) -> Connection:
    """Open a connection to `host:port`; an `OSError` says why there is none.

    `tls` gives the context that is newest at the time.
    """
    try:
        place = parse_address(address)
    except ValueError as exc:
        raise OSError(f"{address!r} is no address: {exc}") from exc
    context = tls() if tls is not None else None
    return await asyncio.open_connection(place.host, place.port, ssl=context)


def has_process(member: Member) -> bool | None:
    """Whether the member's process runs on this host; None when it belongs to another."""
    if member.host != platform.node():
        return None
    return find_process(member.pid, member.process_started_s) is not None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a keeper reaches for outside the cluster's store."""

    connect: Callable[[str], Awaitable[Connection]] = connect
    has_process: Callable[[Member], bool | None] = has_process


@dataclass(frozen=True, slots=True)
class Registry:
    """Where the members are: their list, their leases, and what declares one dead."""

    members: MemberStore
    leases: Leases
    declare_dead: Callable[[str], Awaitable[object]]
    events: Events


@dataclass(frozen=True, slots=True)
class _Unlinked:
    """Why a server could not be linked, and whether its host said so."""

    reason: str
    is_refused: bool = False
    is_there: bool = False
    """It accepts connections: somebody is at home."""


@dataclass(frozen=True, slots=True)
class _Break:
    """A link that TCP says is closed: when, and the lease at that time."""

    at: float
    lease_end: int | None


class _Line:
    """The scheduler's side of the link to one server, for as long as the server is listed."""

    def __init__(self, member: Member, keeper: LinkKeeper) -> None:
        self.member = member
        self.status = LinkStatus(LinkState.DIALLING)
        self.load: Load | None = None
        self._keeper = keeper
        self._channel: Channel | None = None
        self._serials = itertools.count(1)
        self._pending: dict[int, asyncio.Future[str]] = {}

    async def run(self) -> None:
        """Dial, hold, and find out what the end of the link means; until cancelled."""
        while True:
            try:
                await self._live()
            except StoreUnavailable as exc:
                self._note(LinkState.UNREACHABLE, f"the store does not answer: {exc}")
            except FlClusterError:
                logger.exception("member %s is dialled again after a fault", self.member.id)
            except Exception:
                # A bug about one server must not leave the others without links.
                logger.exception("bug on the link to member %s, dialled again", self.member.id)
            await asyncio.sleep(REDIAL_S)

    async def _live(self) -> None:
        """Dial and hold until the server cannot be had, and judge what that means."""
        broken: _Break | None = None
        while True:
            reached = await self._dial()
            if isinstance(reached, _Unlinked):
                await self._judge(reached, broken)
                return
            ended = await self._hold(reached)
            if ended.how in (How.BYE, How.FORBIDDEN):
                is_bye = ended.how is How.BYE
                self._note(LinkState.LEAVING if is_bye else LinkState.UNREACHABLE, ended.reason)
                self._keeper.look_soon()
                return
            self._note(LinkState.DIALLING, ended.reason)
            broken = await self._note_break() if ended.how is How.BROKEN else None
            await asyncio.sleep(BETWEEN_TRIES_S)

    async def _note_break(self) -> _Break:
        at = asyncio.get_running_loop().time()
        return _Break(at, await self._keeper.registry.leases.lease_end(self.member.id))

    async def _dial(self) -> Channel | _Unlinked:
        reached = await self._try()
        for _ in range(TRIES - 1):
            if isinstance(reached, Channel) or reached.is_there:
                break
            await asyncio.sleep(BETWEEN_TRIES_S)
            reached = await self._try()
        return reached

    async def _try(self) -> Channel | _Unlinked:
        address = self.member.tcp_address
        try:
            async with asyncio.timeout(DIAL_S):
                channel = Channel(*await self._keeper.surroundings.connect(address))
        except TimeoutError:
            return _Unlinked(f"{address} does not answer")
        except ConnectionRefusedError:
            return _Unlinked(f"{address} refuses connections", is_refused=True)
        except OSError as exc:
            refusal = explain_outgoing(exc)
            if refusal:
                is_cut = is_cut_off(exc)
                sentence = f"{address} accepts connections, but {refusal}"
                return _Unlinked(sentence, is_refused=is_cut, is_there=not is_cut)
            return _Unlinked(f"{address} cannot be reached: {in_words(exc)}")
        try:
            return await self._greet(channel)
        except Ended as ended:
            await channel.close(str(ended))
            return _Unlinked(
                f"{address} accepts connections, but {ended}",
                is_refused=ended.how is How.BROKEN,
                is_there=ended.how is not How.BROKEN,
            )
        except asyncio.CancelledError:
            await channel.close(FAREWELL)
            raise

    async def _greet(self, channel: Channel) -> Channel:
        await channel.send(Hello(self._keeper.me(), self.member.id))
        hello = await channel.receive(DIAL_S)
        if not isinstance(hello, Hello) or hello.sender != self.member.id:
            not_expected("server", hello)
        return channel

    async def _hold(self, channel: Channel) -> Ended:
        self._channel = channel
        self._note(LinkState.LINKED)
        try:
            return await until_ended(self._ping(channel), self._hear(channel))
        finally:
            self._channel = self.load = None
            for waiting in self._pending.values():
                if not waiting.done():
                    waiting.set_result("the link ended before the answer came")
            await channel.close(FAREWELL)

    async def _ping(self, channel: Channel) -> NoReturn:
        while True:
            await channel.send(Ping())
            await asyncio.sleep(PING_S)

    async def _hear(self, channel: Channel) -> NoReturn:
        while True:
            frame = await channel.receive(SILENCE_S)
            if isinstance(frame, Beat):
                self.load = Load.of(frame.figures)
            elif isinstance(frame, Answer):
                waiting = self._pending.get(frame.serial)
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame.error)
            else:
                not_expected("server", frame)

    async def command(self, name: str) -> str | None:
        """Why the server did not do it; None when it did."""
        channel = self._channel
        if channel is None:
            return f"there is no link to it: {self.status.reason or self.status.state}"
        serial = next(self._serials)
        waiting = self._pending[serial] = asyncio.get_running_loop().create_future()
        try:
            await channel.send(Command(serial, name))
            async with asyncio.timeout(COMMAND_S + SEND_S):
                return await waiting or None
        except Ended as ended:
            return f"the link ended: {ended}"
        except TimeoutError:
            return f"no answer within {COMMAND_S + SEND_S:g} s"
        finally:
            del self._pending[serial]

    async def _judge(self, found: _Unlinked, broken: _Break | None) -> None:
        """Declare the server dead if it said so and its lease does not contradict."""
        self._note(LinkState.UNREACHABLE, found.reason)
        if found.is_there or not (found.is_refused or broken):
            return
        proof = await self._find_proof(broken)
        if proof is not None:
            logger.warning(
                "member %s is declared dead: %s, and %s", self.member.id, found.reason, proof
            )
            await self._keeper.registry.declare_dead(self.member.id)
            self._keeper.look_soon()

    async def _find_proof(self, broken: _Break | None) -> str | None:
        """A clause that says why this server is dead; None when it may be alive, or left."""
        loop = asyncio.get_running_loop()
        leases = self._keeper.registry.leases
        noted = broken or _Break(loop.time(), await leases.lease_end(self.member.id))
        deadline = noted.at + (PROOF_S if broken else self._keeper.renewals_s)
        if noted.lease_end is None:
            return None
        while True:
            runs = self._keeper.surroundings.has_process(self.member)
            if runs is False:
                return f"its process {self.member.pid} has ended"
            if await leases.lease_end(self.member.id) != noted.lease_end:
                return None
            now = loop.time()
            if now >= deadline:
                return None if runs else f"its lease was not renewed for {now - noted.at:.1f} s"
            await asyncio.sleep(WATCH_S)

    def _note(self, state: LinkState, reason: str = "") -> None:
        if state is not self.status.state:
            level = logging.WARNING if state is LinkState.UNREACHABLE else logging.INFO
            because = f": {reason}" if reason else ""
            logger.log(level, "the link to member %s is now %s%s", self.member.id, state, because)
        self.status = LinkStatus(state, reason)


class LinkKeeper:
    """Keeps a link to each server of the job; `me` gives the id under which it dials."""

    def __init__(
        self,
        registry: Registry,
        *,
        me: Callable[[], str],
        lease_ms: int,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.registry = registry
        self.surroundings = surroundings or Surroundings()
        self.me = me
        self.renewals_s = RENEWALS_MISSED * lease_ms / 1000 / RENEWALS_PER_LEASE
        self._lines: dict[str, _Line] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._store_was_away = False

    def loads(self) -> Mapping[str, Load]:
        """Member id -> load as last heard, of the servers that are linked now."""
        return {name: line.load for name, line in self._lines.items() if line.load is not None}

    def links(self) -> Mapping[str, LinkStatus]:
        """Member id -> how the link to it stands, of the servers that are listed."""
        return {name: line.status for name, line in self._lines.items()}

    async def command(self, member_id: str, name: str) -> str | None:
        """Tell a server to do something: why it was not done, or None when it was."""
        line = self._lines.get(member_id)
        if line is None:
            return f"no server {member_id} is known"
        return await line.command(name)

    def look_soon(self) -> None:
        """Look at the list of members now instead of within half a second."""
        self._woken.set()

    async def run(self) -> None:
        """Go on until cancelled; every link is closed then."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._look_on())
                group.create_task(self._listen())
        finally:
            for name in list(self._lines):
                self._let_go(name)
            if self._ending:
                await asyncio.wait(self._ending)

    async def _look_on(self) -> NoReturn:
        while True:
            self._woken.clear()
            try:
                await self._look()
                self._note_store(None)
            except StoreUnavailable as exc:
                self._note_store(exc)
            except FlClusterError:
                logger.exception("the members could not be looked at; trying again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._woken.wait()

    async def _look(self) -> None:
        members = await self.registry.members.live()
        listed = {m.id: m for m in members if m.role is Role.SERVER and m.tcp_address}
        for name in self._lines.keys() - listed.keys():
            self._let_go(name)
        for name in listed.keys() - self._lines.keys():
            line = self._lines[name] = _Line(listed[name], self)
            self._tasks[name] = asyncio.create_task(line.run())

    def _let_go(self, name: str) -> None:
        del self._lines[name]
        task = self._tasks.pop(name)
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _listen(self) -> NoReturn:
        while True:
            try:
                words = self.registry.events.listen()
                async with contextlib.aclosing(words):  # type: ignore[type-var]
                    async for word in words:
                        if word in HEARD:
                            self.look_soon()
            except FlClusterError as fault:
                # The look twice a second comes to the same, and says what is wrong.
                logger.debug("no events from the store: %s", fault)
            await asyncio.sleep(LOOK_S)

    def _note_store(self, fault: StoreUnavailable | None) -> None:
        if fault is not None and not self._store_was_away:
            logger.warning("no member is judged while the store does not answer: %s", fault)
        self._store_was_away = fault is not None
