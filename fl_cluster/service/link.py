"""The control link, and a server's end of it: the port on which schedulers find this member.

    scheduler                          server
    Hello(me, you)        ->
                          <-           Hello(me, you), or Bye when it is somebody else
    Ping, each 250 ms     ->
                          <-           Beat(load), each 250 ms
    Command(serial, name) ->
                          <-           Answer(serial, error)
    Bye                  <->           Bye

Invariants: every wait has a deadline; whatever comes, this process goes on; a link that ends
leaves no task behind.  A server that nobody dials works all the same.
Not here: who dials, and what a broken link says about the other end (service.link_keeper).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from fl_cluster.errors import FlClusterError, PeerProtocolError, StartupError
from fl_cluster.security.tls_door import TlsDoor
from fl_cluster.security.tls_trouble import explain_outgoing, is_cut_off
from fl_cluster.telemetry.load import Load
from fl_cluster.wire.frames import (
    Answer,
    Beat,
    Bye,
    Command,
    Frame,
    FrameReader,
    Hello,
    Ping,
    clip,
    encode,
    kind_of,
)

logger = logging.getLogger(__name__)

BEAT_S = 0.25
IDLE_S = 5.0
"""A scheduler that says nothing for so long is gone, whatever TCP believes."""

HELLO_S = 2.0
SEND_S = 1.0
CLOSE_S = 0.5
COMMAND_S = 5.0
CHUNK_BYTES = 64 * 1024

CLOSED = "the other end closed the connection"

UNKNOWN = 64
"""Connections that have not yet shown who they are."""

MAX_LINKS = 16
"""Schedulers at a time; each costs two tasks and a few buffers."""

PROOFS_S = (0.15, 0.2)
"""Pauses before this member renews its lease after a link broke, which proves that it lives.
The first is long enough for the scheduler to have noted the lease as it was."""


class How(StrEnum):
    """How a link ended."""

    BYE = "bye"
    """The other end closed it in order."""
    BROKEN = "broken"
    """TCP says so: it was closed without a word, or reset."""
    SILENT = "silent"
    """Nothing came, or nothing was taken, for too long."""
    FORBIDDEN = "forbidden"
    """The other end sent what the protocol does not have."""


class Ended(Exception):
    """The link is over; never leaves this package."""

    def __init__(self, how: How, reason: str) -> None:
        super().__init__(reason)
        self.how = how
        self.reason = reason


class Channel:
    """Frames over one connection; everything ends with `Ended` sooner or later."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()

    async def receive(self, within_s: float) -> Frame:
        """The next frame, when all of it comes within `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                frame = await self._next()
        except TimeoutError:
            raise Ended(How.SILENT, f"nothing was heard for {within_s:g} s") from None
        if isinstance(frame, Bye):
            raise Ended(How.BYE, frame.reason)
        return frame

    async def _next(self) -> Frame:
        try:
            while (frame := self._frames.next_frame()) is None:
                chunk = await self._reader.read(CHUNK_BYTES)
                if not chunk:
                    raise Ended(How.BROKEN, CLOSED)
                self._frames.feed(chunk)
        except PeerProtocolError as exc:
            raise Ended(How.FORBIDDEN, str(exc)) from exc
        except OSError as exc:
            raise _broken(exc) from exc
        return frame

    async def send(self, frame: Frame) -> None:
        """Hand the frame to the operating system, which may keep it for a while."""
        try:
            self._writer.write(encode(frame))
            async with asyncio.timeout(SEND_S):
                await self._writer.drain()
        except TimeoutError:
            raise Ended(How.SILENT, f"nothing was taken for {SEND_S:g} s") from None
        except OSError as exc:
            raise _broken(exc) from exc

    async def close(self, farewell: str) -> None:
        """Say goodbye, as far as the other end still listens, and close."""
        try:
            with contextlib.suppress(Ended):
                if not self._writer.is_closing():
                    await self.send(Bye(clip(farewell)))
            if not self._writer.is_closing():
                # Early versions of Python 3.11 cannot abort TLS that was closed twice.
                self._writer.close()
            with contextlib.suppress(OSError):  # a timeout is one
                async with asyncio.timeout(CLOSE_S):
                    await self._writer.wait_closed()
        finally:
            self._writer.transport.abort()


def _broken(fault: OSError) -> Ended:
    """How a connection ended: by TLS, which is a statement, or by TCP."""
    if not is_cut_off(fault):
        return Ended(How.FORBIDDEN, explain_outgoing(fault))
    return Ended(How.BROKEN, in_words(fault))


def in_words(fault: OSError) -> str:
    """What happened to a connection; event loops raise some errors without a word."""
    if said := fault.strerror or str(fault):
        return said
    is_cut = isinstance(fault, ConnectionError)
    return CLOSED if is_cut else f"the system says {type(fault).__name__} and no more"


async def until_ended(*parts: Coroutine[Any, Any, NoReturn]) -> Ended:
    """Do all that is to be done on a link until one part finds that it ended: why it did.

    Not a TaskGroup: Python 3.11's forgets that its caller was cancelled when a part fails at
    the same moment, and the loop around this would never end.
    """
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        faults = [task.exception() for task in tasks if not task.cancelled()]
    for fault in faults:
        if not isinstance(fault, Ended):
            assert fault is not None, "no part ends by itself"
            raise fault
    ended = faults[0]
    assert isinstance(ended, Ended)
    return ended


def not_expected(sender: str, frame: Frame) -> NoReturn:
    """End the link: the other end sent what it may not."""
    raise Ended(How.FORBIDDEN, f"a {sender} sends no {kind_of(frame)} here")


@dataclass(frozen=True, slots=True)
class Duties:
    """What a member does for schedulers.

    `commands` maps a command's name to what carries it out; a fault that it raises is the
    answer.  `prove_alive` renews the member's lease.
    """

    load: Callable[[], Load]
    commands: Mapping[str, Callable[[], Awaitable[None]]]
    prove_alive: Callable[[], Awaitable[object]]


class LinkServer:
    """Answers schedulers on behalf of one member; before `serve`, and under another name, nobody.

    `address` is the host and port it listens on.
    """

    def __init__(self, address: tuple[str, int] = ("", 0)) -> None:
        self.address = address
        self._member: str | None = None
        self._duties: Duties | None = None
        self._farewell = "this server stops"
        self._links: set[asyncio.Task[None]] = set()
        self._proofs: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @classmethod
    @asynccontextmanager
    async def listening(
        cls, ip: str, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[LinkServer]:
        """A link server on a free port of `ip`, closed at the end; `StartupError` when it cannot.

        The address names the member, so it is there before the member is.  With `tls` only
        those are let in who show a certificate that it accepts.
        """
        link = cls()
        server: asyncio.Server | TlsDoor
        try:
            if tls is None:
                server = await asyncio.start_server(link.accept, ip, 0)
            else:
                server = await TlsDoor.open(link.protocol, (ip, 0), tls, most_unfinished=UNKNOWN)
        except OSError as exc:
            raise StartupError(f"tcp_server_ip {ip}: cannot listen there: {exc.strerror}") from exc
        try:
            host, port = server.sockets[0].getsockname()[:2]
            link.address = (host, port)
            yield link
        finally:
            server.close()
            await link.close()

    def serve(self, member: str, duties: Duties) -> None:
        """From now on, be `member` to whoever asks for it."""
        self._member = member
        self._duties = duties

    def become(self, member: str) -> None:
        """Go on under a new name; links to the old one end."""
        self._member = member
        self._farewell = f"this server goes on as {member}"
        for task in self._links:
            task.cancel()

    async def close(self) -> None:
        """End every link, in order."""
        self._is_closed = True
        self._farewell = "this server stops"
        tasks = self._links | self._proofs
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def protocol(self) -> asyncio.StreamReaderProtocol:
        """Makes streams of a connection, and has it taken up."""
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self.accept)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take up a connection that somebody opened."""
        if self._is_closed:
            writer.transport.abort()
            return
        self._start(self._links, self._hold(Channel(reader, writer)))

    def _start(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        def finish(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (bug := task.exception()) is not None:
                logger.error("bug on a link, which ended by it", exc_info=bug)

        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(finish)

    async def _hold(self, channel: Channel) -> None:
        farewell = ""
        try:
            farewell = await self._converse(channel)
        finally:
            await channel.close(farewell or self._farewell)

    async def _converse(self, channel: Channel) -> str:
        """Serve one scheduler until the link ends; what to tell it then."""
        if len(self._links) > MAX_LINKS:
            return f"{MAX_LINKS} schedulers are linked already"
        try:
            scheduler = await self._greet(channel)
        except Ended as refusal:
            logger.debug("somebody who connected was not linked: %s", refusal)
            return str(refusal)
        logger.info("scheduler %s is linked", scheduler)
        ended = await until_ended(self._beat(channel), self._obey(channel))
        logger.info("the link to scheduler %s ended: %s", scheduler, ended)
        if ended.how in (How.BROKEN, How.SILENT):
            self._start(self._proofs, self._prove_alive())
        return str(ended)

    async def _greet(self, channel: Channel) -> str:
        """The id of the scheduler, once both ends know who the other is."""
        hello = await channel.receive(HELLO_S)
        if not isinstance(hello, Hello):
            not_expected("stranger", hello)
        if self._member is None or hello.receiver != self._member:
            me = "no member yet" if self._member is None else self._member
            raise Ended(How.BYE, f"this is {me}, not {hello.receiver}")
        await channel.send(Hello(self._member, hello.sender))
        return hello.sender

    async def _beat(self, channel: Channel) -> NoReturn:
        assert self._duties is not None
        while True:
            await channel.send(Beat(self._duties.load().figures()))
            await asyncio.sleep(BEAT_S)

    async def _obey(self, channel: Channel) -> NoReturn:
        while True:
            frame = await channel.receive(IDLE_S)
            if isinstance(frame, Command):
                error = await self._carry_out(frame.name)
                await channel.send(Answer(frame.serial, clip(error)))
            elif not isinstance(frame, Ping):
                not_expected("scheduler", frame)

    async def _carry_out(self, name: str) -> str:
        """Why the command was not done; empty when it was."""
        assert self._duties is not None
        command = self._duties.commands.get(name)
        if command is None:
            known = ", ".join(sorted(self._duties.commands))
            return f"unknown command {name!r}; this server knows {known or 'none'}"
        logger.info("a scheduler says: %s", name)
        try:
            async with asyncio.timeout(COMMAND_S):
                await command()
        except TimeoutError:
            return f"{name} was not done within {COMMAND_S:g} s"
        except FlClusterError as fault:
            return f"{name} was not done: {fault}"
        except Exception as exc:
            # The link must outlive a bug in what it only carries.
            logger.exception("bug in the command %s", name)
            return f"{name} was not done: a bug, {type(exc).__name__}"
        return ""

    async def _prove_alive(self) -> None:
        assert self._duties is not None
        try:
            for pause_s in PROOFS_S:
                await asyncio.sleep(pause_s)
                await self._duties.prove_alive()
        except FlClusterError as fault:
            logger.debug("the lease could not be renewed out of turn: %s", fault)
