"""The control link: both ends, over wires that a test can cut, jam and mislead.

Time is virtual (see conftest), so what takes seconds takes none.  Wires are pairs of connected
sockets, so both ends are what they are in a cluster.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from fl_cluster.app.identity import this_process
from fl_cluster.errors import StartupError, StoreCorrupt, StoreUnavailable
from fl_cluster.lifecycle.membership import Member, Role
from fl_cluster.service import link as link_module
from fl_cluster.service.link import Channel, Duties, Ended, How, LinkServer, until_ended
from fl_cluster.service.link_keeper import (
    Connection,
    LinkKeeper,
    LinkState,
    Registry,
    Surroundings,
    connect,
    has_process,
)
from fl_cluster.telemetry.load import Load
from fl_cluster.wire.frames import Answer, Beat, Bye, Command, Hello, Ping, encode

LEASE_MS = 10_000
PERIOD_S = 1.0
ME = "scheduler-1"


def a_member(name: str, **changes: Any) -> Member:
    member = Member(
        id=name,
        role=Role.SERVER,
        tcp_address=f"{name}:1",
        http_address="127.0.0.1:2",
        manage_address="",
        pid=4711,
        host="elsewhere",
        process_started_s=0.0,
        version="0.1.0",
        kernel="reference",
        started_ms=0,
    )
    return replace(member, **changes)


async def a_wire() -> tuple[Connection, Connection]:
    """Two connected ends."""
    near, far = socket.socketpair()
    ours = await asyncio.open_connection(sock=near)
    try:
        return ours, await asyncio.open_connection(sock=far)
    except asyncio.CancelledError:
        ours[1].transport.abort()
        far.close()
        raise


def other_tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
async def nothing_is_left_behind() -> AsyncIterator[None]:
    """Whatever a test did, no task outlives both ends."""
    yield
    assert other_tasks() == set()


# -- a server's end --------------------------------------------------------------------------


class Server:
    """A server's end of the link, and what it was told."""

    def __init__(self, name: str = "server-1") -> None:
        self.name = name
        self.done: list[str] = []
        self.renewals: list[float] = []
        self.load = Load(requests_per_s=2.5, round_number=3)
        self.duties = Duties(
            load=lambda: self.load,
            commands={
                "drain": self.drain,
                "enable": self.fail,
                "disable": self.break_down,
                "stop": self.hang,
            },
            prove_alive=self.prove_alive,
        )
        self.end = LinkServer()
        self.end.serve(name, self.duties)

    async def drain(self) -> None:
        self.done.append("drain")

    async def fail(self) -> None:
        raise StoreUnavailable("enable", "timed out")

    async def break_down(self) -> None:
        raise KeyError("oops")

    async def hang(self) -> None:
        await asyncio.Event().wait()

    async def prove_alive(self) -> None:
        self.renewals.append(asyncio.get_running_loop().time())

    async def dial(self) -> Channel:
        """Connect to it, and say nothing yet."""
        ours, theirs = await a_wire()
        self.end.accept(*theirs)
        return Channel(*ours)

    async def link(self) -> Channel:
        """Connect to it as a scheduler that it knows."""
        channel = await self.dial()
        await channel.send(Hello(ME, self.name))
        assert await channel.receive(1) == Hello(self.name, ME)
        return channel


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    yield made
    await made.end.close()


async def farewell(channel: Channel, within_s: float = 10.0) -> str:
    """What the other end says when it closes; pings meanwhile are not sent."""
    reason = None
    while reason is None:
        try:
            await channel.receive(within_s)
        except Ended as ended:
            reason = ended.reason if ended.how is How.BYE else f"no goodbye, but {ended}"
    await channel.close("")
    return reason


async def answer_to(channel: Channel, name: str, serial: int = 1) -> Answer:
    """The answer to a command; what is heard meanwhile are beats."""
    await channel.send(Command(serial, name))
    while True:
        frame = await channel.receive(1)
        if isinstance(frame, Answer):
            return frame
        assert isinstance(frame, Beat)


async def test_a_server_greets_who_asks_for_it_and_beats_four_times_a_second(
    server: Server,
) -> None:
    loop = asyncio.get_running_loop()
    channel = await server.link()

    began = loop.time()
    beats = [await channel.receive(1) for _ in range(9)]

    assert {type(beat) for beat in beats} == {Beat}
    assert Load.of(beats[0].figures) == server.load  # type: ignore[union-attr]
    assert loop.time() - began == pytest.approx(2.0)
    await channel.close("")


async def test_a_hello_for_another_member_is_refused(server: Server) -> None:
    channel = await server.dial()

    await channel.send(Hello(ME, "server-2"))

    assert await farewell(channel) == "this is server-1, not server-2"


async def test_a_server_that_is_no_member_yet_greets_nobody() -> None:
    server = Server()
    server.end = LinkServer()
    channel = await server.dial()

    await channel.send(Hello(ME, "server-1"))

    assert await farewell(channel) == "this is no member yet, not server-1"
    await server.end.close()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (encode(Ping()), "a stranger sends no ping here"),
        (b"GET / HTTP/1.1\r\n\r\n", "expected a frame, which starts b'FL'; found b'GE'"),
        (encode(Bye("wrong number")), "wrong number"),
        (b"", "nothing was heard for 2 s"),
        (encode(Hello(ME, "server-1"))[:9], "nothing was heard for 2 s"),
    ],
    ids=["ping first", "http", "bye", "silence", "half a hello"],
)
async def test_a_stranger_is_told_why_it_is_not_linked(
    server: Server, sent: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ours, theirs = await a_wire()
    server.end.accept(*theirs)

    ours[1].write(sent)

    assert await farewell(Channel(*ours)) == reason
    assert caplog.records == []


async def test_a_command_is_carried_out_and_answered(server: Server) -> None:
    channel = await server.link()

    assert await answer_to(channel, "drain", serial=7) == Answer(7)

    assert server.done == ["drain"]
    await channel.close("")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (
            "dance",
            "unknown command 'dance'; this server knows disable, drain, enable, stop",
        ),
        ("enable", "enable was not done: enable: timed out"),
        ("disable", "disable was not done: a bug, KeyError"),
        ("stop", "stop was not done within 5 s"),
    ],
)
async def test_a_command_that_is_not_done_is_answered_with_the_reason(
    server: Server, name: str, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await server.link()

    assert await answer_to(channel, name) == Answer(1, error)

    assert await answer_to(channel, "drain", serial=2) == Answer(2)
    assert ("Traceback" in caplog.text) == (name == "disable")
    await channel.close("")


async def test_a_scheduler_sends_nothing_that_is_a_server_s(server: Server) -> None:
    channel = await server.link()

    await channel.send(Answer(1))

    assert await farewell(channel) == "a scheduler sends no answer here"


async def test_a_scheduler_that_pings_stays_linked_and_one_that_is_silent_does_not(
    server: Server,
) -> None:
    pinging, silent = await server.link(), await server.link()
    end = asyncio.create_task(farewell(silent))

    for _ in range(100):
        await pinging.send(Ping())
        assert isinstance(await pinging.receive(1), Beat)
        await asyncio.sleep(0.2)

    assert await end == "nothing was heard for 5 s"
    await pinging.close("")


async def test_a_scheduler_that_reads_nothing_is_let_go(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ours, theirs = await a_wire()
    server.end.accept(*theirs)
    ours[1].write(encode(Hello(ME, server.name)))
    ours[1].transport.pause_reading()  # type: ignore[attr-defined]

    for _ in range(20_000):
        if not server.end._links:
            break
        ours[1].write(encode(Ping()))
        await asyncio.sleep(0.25)

    assert not server.end._links
    assert f"the link to scheduler {ME} ended: nothing was taken for 1 s" in caplog.messages
    ours[1].transport.abort()


@pytest.mark.parametrize("goodbye", [True, False])
async def test_a_server_proves_that_it_lives_when_its_link_broke_and_only_then(
    server: Server, goodbye: bool
) -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = await a_wire()
    server.end.accept(*theirs)
    channel = Channel(*ours)
    await channel.send(Hello(ME, server.name))
    await channel.receive(1)

    began = loop.time()
    if goodbye:
        await channel.close("that is all")
    else:
        ours[1].transport.abort()
    await asyncio.sleep(5)

    renewed_after = [at - began for at in server.renewals]
    assert renewed_after == ([] if goodbye else pytest.approx([0.15, 0.35]))


async def test_a_store_that_is_away_does_not_hurt_a_server_that_proves_that_it_lives(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise StoreUnavailable("renew", "timed out")

    server.end.serve(server.name, replace(server.duties, prove_alive=fail))
    ours, theirs = await a_wire()
    server.end.accept(*theirs)
    ours[1].write(encode(Hello(ME, server.name)))
    await asyncio.sleep(0.1)
    ours[1].transport.abort()

    await asyncio.sleep(1)

    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await (await server.link()).close("")


async def test_under_a_new_name_a_server_ends_the_links_of_the_old_one(server: Server) -> None:
    channel = await server.link()

    server.end.become("server-1b")

    assert await farewell(channel) == "this server goes on as server-1b"
    refused = await server.dial()
    await refused.send(Hello(ME, "server-1"))
    assert await farewell(refused) == "this is server-1b, not server-1"
    server.name = "server-1b"
    await (await server.link()).close("")


async def test_a_server_that_stops_says_so_to_every_scheduler() -> None:
    server = Server()
    channels = [await server.link() for _ in range(3)]
    greeting = await server.dial()
    await asyncio.sleep(0.01)

    await server.end.close()

    assert other_tasks() == set()
    for channel in [*channels, greeting]:
        assert await farewell(channel) == "this server stops"


async def test_a_server_that_has_stopped_takes_nobody_up() -> None:
    server = Server()
    await server.end.close()

    channel = await server.dial()

    with pytest.raises(Ended, match="closed the connection"):
        await channel.receive(1)
    await channel.close("")


async def test_many_schedulers_are_linked_and_one_more_is_refused(server: Server) -> None:
    channels = [await server.link() for _ in range(link_module.MAX_LINKS)]

    refused = await server.dial()

    assert await farewell(refused) == "16 schedulers are linked already"
    for channel in channels:
        assert isinstance(await channel.receive(1), Beat)
        await channel.close("")
    await asyncio.sleep(0.01)
    await (await server.link()).close("")


async def test_a_bug_in_the_figures_ends_the_link_and_nothing_else(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down() -> Load:
        raise ZeroDivisionError

    server.end.serve(server.name, replace(server.duties, load=break_down))
    channel = await server.link()

    assert await farewell(channel) == "this server stops"

    assert "bug on a link" in caplog.text
    server.end.serve(server.name, server.duties)
    await (await server.link()).close("")


async def test_a_link_server_listens_until_its_context_ends() -> None:
    async with LinkServer.listening("127.0.0.1") as end:
        host, port = end.address
        assert (host, port > 0) == ("127.0.0.1", True)
        reader, writer = await connect(f"{host}:{port}")
        assert await farewell(Channel(reader, writer)) == "nothing was heard for 2 s"

    with pytest.raises(ConnectionRefusedError):
        await connect(f"{host}:{port}")


async def test_an_address_that_is_not_ours_is_one_sentence() -> None:
    with pytest.raises(StartupError, match=r"^tcp_server_ip 192\.0\.2\.1: cannot listen there: "):
        async with LinkServer.listening("192.0.2.1"):
            pass


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1:0"])
async def test_what_is_no_address_is_not_connected_to(address: str) -> None:
    with pytest.raises(OSError, match="is no address"):
        await connect(address)


async def test_whoever_is_cancelled_at_the_moment_its_link_ends_is_cancelled() -> None:
    over = asyncio.Event()

    async def hear() -> NoReturn:
        await over.wait()
        raise Ended(How.BYE, "this server stops")

    async def ping() -> NoReturn:
        await asyncio.sleep(3600)
        raise Ended(How.SILENT, "nobody listened")

    task = asyncio.create_task(until_ended(hear(), ping()))
    await asyncio.sleep(0.5)
    over.set()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()


# -- the scheduler's end ---------------------------------------------------------------------


class Place:
    """What stands behind one address."""

    def __init__(self) -> None:
        self.end: LinkServer | None = None
        self.mood = "answers"
        """answers | refuses | silent | odd | cut off | speechless | accepts | hangs up |
        speaks otherwise"""
        self.prepared = b""
        """What the first who connects is told, instead of being answered."""
        self.dialled = 0
        self.far_ends: list[Connection] = []

    async def open(self) -> Connection:
        self.dialled += 1
        if self.prepared:
            ours, theirs = await a_wire()
            self.far_ends.append(theirs)
            theirs[1].write(self.prepared)
            self.prepared = b""
            return ours
        if self.mood == "refuses":
            raise ConnectionRefusedError(111, "Connection refused")
        if self.mood == "silent":
            await asyncio.Event().wait()
        if self.mood == "odd":
            raise OSError(113, "No route to host")
        if self.mood == "cut off":
            raise ConnectionResetError  # so does uvloop
        if self.mood == "speechless":
            raise OSError
        ours, theirs = await a_wire()
        self.far_ends.append(theirs)
        if self.mood == "hangs up":
            theirs[1].transport.abort()
        elif self.mood == "accepts":
            pass
        elif self.mood == "speaks otherwise":
            theirs[1].write(b"FL\x02\0\0\0\0")
        else:
            assert self.end is not None
            self.end.accept(*theirs)
        return ours

    def cut(self) -> None:
        """Close every connection without a word."""
        for _, writer in self.far_ends:
            writer.transport.abort()
        self.far_ends.clear()


class Cluster:
    """Servers, their places, the list of members with its leases, and one scheduler."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.members: dict[str, Member] = {}
        self.lease_ends: dict[str, int] = {}
        self.processes: dict[str, bool | None] = {}
        self.buried: list[tuple[float, str]] = []
        self.is_away = False
        self.fault: Exception = StoreUnavailable("members", "connection refused")
        self.words: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.looks = 0
        self._renewing: dict[str, asyncio.Task[None]] = {}
        self.keeper = LinkKeeper(
            Registry(self, self, self.member_lost, self),  # type: ignore[arg-type]
            me=lambda: ME,
            lease_ms=LEASE_MS,
            surroundings=Surroundings(self.connect, lambda m: self.processes.get(m.id)),
        )

    # what the keeper reaches

    def _reach(self) -> None:
        if self.is_away:
            raise self.fault

    async def live(self) -> Sequence[Member]:
        self._reach()
        self.looks += 1
        return list(self.members.values())

    async def lease_end(self, member_id: str) -> int | None:
        self._reach()
        return self.lease_ends.get(member_id)

    async def member_lost(self, member_id: str) -> None:
        self._reach()
        self.buried.append((self.now, member_id))
        self.members.pop(member_id, None)

    async def listen(self) -> AsyncIterator[str]:
        yield "subscribed"
        while True:
            word = await self.words.get()
            if isinstance(word, Exception):
                raise word
            yield word

    async def connect(self, address: str) -> Connection:
        return await self.places[address].open()

    # what a test does

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def place(self, name: str) -> Place:
        return self.places.setdefault(f"{name}:1", Place())

    def start(self, name: str, **changes: Any) -> Server:
        """A server that joins and renews its lease each second."""
        server = Server(name)
        member = a_member(name, **changes)
        self.place(name).end = server.end
        self.members[name] = member
        self.renew(name)
        self._renewing[name] = asyncio.create_task(self._keep_renewing(name))

        async def prove_alive() -> None:
            if name in self._renewing:
                self.renew(name)

        server.end.serve(name, replace(server.duties, prove_alive=prove_alive))
        return server

    def renew(self, name: str) -> None:
        self.lease_ends[name] = int(self.now * 1000) + LEASE_MS

    async def _keep_renewing(self, name: str) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            self.renew(name)

    def stop_renewing(self, name: str) -> None:
        self._renewing.pop(name).cancel()

    def kill(self, name: str, mood: str = "refuses") -> None:
        """End the server's process; what its place does afterwards is its `mood`."""
        self.stop_renewing(name)
        if self.processes.get(name):
            self.processes[name] = False
        self.place(name).mood = mood
        self.place(name).cut()

    def state(self, name: str) -> LinkState | None:
        status = self.keeper.links().get(name)
        return None if status is None else status.state

    def deaths(self) -> list[str]:
        return [name for _, name in self.buried]

    async def wait_for(self, condition: Callable[[], object], timeout_s: float = 60.0) -> float:
        """How long it took until the condition held."""
        began = self.now
        while not condition():
            assert self.now < began + timeout_s, "waited in vain"
            await asyncio.sleep(0.001)
        return self.now - began

    async def end(self) -> None:
        for name in list(self._renewing):
            self.stop_renewing(name)
        for place in self.places.values():
            place.cut()
            if place.end is not None:
                await place.end.close()


@asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[None]:
    task = asyncio.create_task(cluster.keeper.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert cluster.keeper.loads() == {}


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Two servers that answer, and nobody who dials."""
    made = Cluster()
    made.start("server-1")
    made.start("server-2")
    yield made
    await made.end()


@pytest.fixture
async def linked(cluster: Cluster) -> AsyncIterator[Cluster]:
    """The same with a scheduler that is linked to both."""
    async with running(cluster):
        await cluster.wait_for(lambda: len(cluster.keeper.loads()) == 2)
        yield cluster


async def test_a_scheduler_links_to_every_server_and_hears_its_load(cluster: Cluster) -> None:
    cluster.members["worker"] = a_member("worker", role=Role.WORKER)
    cluster.members["other"] = a_member("other", role=Role.SCHEDULER, tcp_address="")
    cluster.members["old"] = a_member("old", tcp_address="")

    async with running(cluster):
        took_s = await cluster.wait_for(lambda: len(cluster.keeper.loads()) == 2)

        load = Load(requests_per_s=2.5, round_number=3)
        assert cluster.keeper.loads() == {"server-1": load, "server-2": load}
        assert {*cluster.keeper.links()} == {"server-1", "server-2"}
        assert took_s < 0.1


async def test_a_link_without_trouble_stands_for_ever(linked: Cluster) -> None:
    await asyncio.sleep(600)

    assert [place.dialled for place in linked.places.values()] == [1, 1]
    assert linked.deaths() == []


async def test_a_server_that_joins_is_linked_within_half_a_second(linked: Cluster) -> None:
    linked.start("server-3")

    assert await linked.wait_for(lambda: "server-3" in linked.keeper.loads()) <= 0.6


async def test_a_server_that_is_not_listed_any_more_is_let_go(linked: Cluster) -> None:
    del linked.members["server-1"]

    await linked.wait_for(lambda: "server-1" not in linked.keeper.links(), 0.6)

    end = linked.place("server-1").end
    assert end is not None
    await linked.wait_for(lambda: not end._links)
    assert linked.deaths() == []


async def test_word_of_a_death_makes_the_scheduler_look_at_once(linked: Cluster) -> None:
    del linked.members["server-1"]
    linked.words.put_nowait("selecting")
    linked.words.put_nowait("member_lost")

    assert await linked.wait_for(lambda: "server-1" not in linked.keeper.links()) < 0.05


async def test_a_scheduler_without_events_looks_twice_a_second(linked: Cluster) -> None:
    linked.words.put_nowait(StoreUnavailable("SUBSCRIBE", "connection reset"))
    await asyncio.sleep(0.01)
    looks = linked.looks

    await asyncio.sleep(5.05)

    assert 10 <= linked.looks - looks <= 11


async def test_a_killed_process_of_this_host_is_declared_dead_at_once(linked: Cluster) -> None:
    linked.processes = {"server-1": True, "server-2": True}

    linked.kill("server-1")
    took_s = await linked.wait_for(lambda: linked.deaths() == ["server-1"])

    assert took_s < 0.3
    await linked.wait_for(lambda: {*linked.keeper.links()} == {"server-2"}, 0.05)


async def test_a_process_that_takes_its_time_to_end_is_declared_dead_when_it_has(
    linked: Cluster,
) -> None:
    linked.processes = {"server-1": True}
    linked.kill("server-1")
    linked.processes["server-1"] = True

    await asyncio.sleep(0.4)
    assert linked.deaths() == []
    linked.processes["server-1"] = False

    assert await linked.wait_for(lambda: linked.deaths() == ["server-1"]) < 0.3


@pytest.mark.parametrize("mood", ["refuses", "hangs up", "silent", "odd"])
async def test_a_server_killed_elsewhere_is_declared_dead_within_a_second(
    linked: Cluster, mood: str, caplog: pytest.LogCaptureFixture
) -> None:
    linked.kill("server-1", mood)

    took_s = await linked.wait_for(lambda: linked.deaths() == ["server-1"])

    assert 0.6 <= took_s < 0.95
    [sentence] = [m for m in caplog.messages if "declared dead" in m]
    assert sentence.startswith("member server-1 is declared dead: server-1:1 ")
    assert "its lease was not renewed for 0." in sentence
    await asyncio.sleep(10)
    assert linked.deaths() == ["server-1"]


async def test_a_server_that_lives_behind_a_broken_proxy_is_not_declared_dead(
    linked: Cluster,
) -> None:
    place = linked.place("server-1")
    place.mood = "refuses"
    place.cut()

    await asyncio.sleep(60)
    assert linked.state("server-1") is LinkState.UNREACHABLE
    assert linked.deaths() == []
    place.mood = "answers"

    assert await linked.wait_for(lambda: linked.state("server-1") is LinkState.LINKED) < 2.2


async def test_a_server_that_dies_behind_a_broken_proxy_is_found_dead_by_its_lease(
    linked: Cluster,
) -> None:
    place = linked.place("server-1")
    place.mood = "refuses"
    place.cut()
    await asyncio.sleep(10)

    linked.kill("server-1")

    assert 2.0 <= await linked.wait_for(lambda: linked.deaths() == ["server-1"]) < 6.0


@pytest.mark.parametrize("mood", ["accepts", "silent"])
async def test_a_server_that_falls_silent_is_unreachable_and_left_to_its_lease(
    cluster: Cluster, mood: str
) -> None:
    """As when its process is stopped, or the network drops everything."""
    place = cluster.place("server-1")
    place.prepared, place.mood = encode(Hello("server-1", ME)) + encode(Beat({})), mood
    cluster.stop_renewing("server-1")

    async with running(cluster):
        await cluster.wait_for(lambda: "server-1" in cluster.keeper.loads())
        took_s = await cluster.wait_for(lambda: cluster.state("server-1") is LinkState.UNREACHABLE)
        await asyncio.sleep(30)

        reason = cluster.keeper.links()["server-1"].reason
        assert 1.0 <= took_s < 2.0
        assert cluster.deaths() == []
        assert {*cluster.keeper.loads()} == {"server-2"}
        assert reason.startswith("server-1:1 accepts" if mood == "accepts" else "server-1:1 does")
        place.mood = "answers"
        await cluster.wait_for(lambda: "server-1" in cluster.keeper.loads(), 2.2)


async def test_a_silent_server_that_then_refuses_is_dead_when_it_does_not_renew(
    cluster: Cluster,
) -> None:
    place = cluster.place("server-1")
    place.prepared, place.mood = encode(Hello("server-1", ME)) + encode(Beat({})), "refuses"
    cluster.stop_renewing("server-1")

    async with running(cluster):
        await cluster.wait_for(lambda: "server-1" in cluster.keeper.loads())

        assert 3.0 <= await cluster.wait_for(lambda: cluster.deaths() == ["server-1"]) < 3.5


@pytest.mark.parametrize("runs", [None, False])
async def test_a_new_scheduler_finds_out_who_died_before_it_came(
    cluster: Cluster, runs: bool | None
) -> None:
    cluster.kill("server-1")
    cluster.processes["server-1"] = runs

    async with running(cluster):
        took_s = await cluster.wait_for(lambda: cluster.deaths() == ["server-1"])

        assert took_s < (0.3 if runs is False else 2.5)
        assert cluster.state("server-2") is LinkState.LINKED


async def test_a_server_that_was_never_reached_is_dialled_for_as_long_as_it_renews(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    place = cluster.place("server-1")
    place.mood = "refuses"

    async with running(cluster):
        await asyncio.sleep(60)

        assert cluster.deaths() == []
        assert place.dialled > 30
        [sentence] = [m for m in caplog.messages if "server-1" in m]
        assert sentence == (
            "the link to member server-1 is now unreachable: server-1:1 refuses connections"
        )


async def test_a_process_of_this_host_that_is_there_is_never_declared_dead(
    linked: Cluster,
) -> None:
    linked.processes = {"server-1": True}
    linked.stop_renewing("server-1")
    linked.place("server-1").mood = "refuses"
    linked.place("server-1").cut()

    await asyncio.sleep(30)

    assert linked.deaths() == []
    assert linked.state("server-1") is LinkState.UNREACHABLE


async def test_while_the_store_is_away_nobody_is_declared_dead(
    linked: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    linked.is_away = True
    linked.kill("server-1")

    await asyncio.sleep(20)
    assert linked.deaths() == []
    assert linked.state("server-1") is LinkState.UNREACHABLE
    assert linked.state("server-2") is LinkState.LINKED
    linked.is_away = False

    assert 2.0 <= await linked.wait_for(lambda: linked.deaths() == ["server-1"]) < 3.5
    assert len([m for m in caplog.messages if "no member is judged while" in m]) == 1


async def test_a_store_that_fails_at_the_burial_is_asked_again(linked: Cluster) -> None:
    linked.processes = {"server-1": True}
    bury = linked.keeper.registry.declare_dead
    failures = iter([StoreUnavailable("member_lost", "timed out")])

    async def fail_once(member_id: str) -> None:
        for fault in failures:
            raise fault
        await bury(member_id)

    linked.keeper.registry = replace(linked.keeper.registry, declare_dead=fail_once)
    linked.kill("server-1")

    assert 1.0 <= await linked.wait_for(lambda: linked.deaths() == ["server-1"]) < 2.0


async def test_a_server_that_leaves_in_order_is_not_declared_dead(
    linked: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    linked.stop_renewing("server-1")
    linked.place("server-1").mood = "refuses"
    linked.processes["server-1"] = False
    del linked.lease_ends["server-1"]

    await linked.place("server-1").end.close()  # type: ignore[union-attr]
    await linked.wait_for(lambda: linked.state("server-1") is LinkState.LEAVING)
    await asyncio.sleep(5)

    assert linked.deaths() == []
    assert "the link to member server-1 is now leaving: this server stops" in caplog.messages


async def test_a_server_that_goes_on_under_a_new_name_is_linked_again(linked: Cluster) -> None:
    end = linked.place("server-1").end
    assert end is not None
    del linked.members["server-1"]
    linked.members["server-1b"] = a_member("server-1b", tcp_address="server-1:1")
    linked.lease_ends["server-1b"] = 1

    end.become("server-1b")

    assert await linked.wait_for(lambda: "server-1b" in linked.keeper.loads()) < 0.5
    assert {*linked.keeper.links()} == {"server-1b", "server-2"}
    assert linked.deaths() == []


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("speaks otherwise", "the other end speaks version 2 of the control link"),
        ("accepts", "nothing was heard for 0.3 s"),
        ("odd", "server-1:1 cannot be reached: No route to host"),
        ("cut off", "server-1:1 cannot be reached: the other end closed the connection"),
        ("speechless", "server-1:1 cannot be reached: the system says OSError and no more"),
    ],
)
async def test_a_server_that_cannot_be_talked_to_is_unreachable_and_left_to_its_lease(
    cluster: Cluster, mood: str, reason: str
) -> None:
    cluster.place("server-1").mood = mood
    cluster.stop_renewing("server-1")

    async with running(cluster):
        await asyncio.sleep(10)

        status = cluster.keeper.links()["server-1"]
        assert status.state is LinkState.UNREACHABLE
        assert reason in status.reason
        assert cluster.deaths() == []


async def test_another_server_under_the_same_address_is_not_taken_for_it(
    cluster: Cluster,
) -> None:
    cluster.members["server-3"] = a_member("server-3", tcp_address="server-1:1")
    cluster.renew("server-3")

    async with running(cluster):
        await cluster.wait_for(lambda: cluster.state("server-3") is LinkState.UNREACHABLE)

        assert "this is server-1, not server-3" in cluster.keeper.links()["server-3"].reason
        assert cluster.state("server-1") is LinkState.LINKED


@pytest.mark.parametrize("forbidden", [encode(Ping()), encode(Hello("server-1", ME)), b"nonsense"])
async def test_a_server_that_sends_what_it_may_not_is_let_go_and_dialled_again(
    cluster: Cluster, forbidden: bytes
) -> None:
    place = cluster.place("server-1")
    place.prepared = encode(Hello("server-1", ME)) + encode(Beat({})) + forbidden

    async with running(cluster):
        await cluster.wait_for(lambda: cluster.state("server-1") is LinkState.UNREACHABLE)

        assert await cluster.wait_for(lambda: "server-1" in cluster.keeper.loads()) < 1.1
        assert cluster.deaths() == []


async def test_a_link_that_breaks_again_and_again_is_not_dialled_in_a_frenzy(
    cluster: Cluster,
) -> None:
    place = cluster.place("server-1")

    async with running(cluster):
        for _ in range(1000):
            place.cut()
            await asyncio.sleep(0.01)

        assert place.dialled < 110
        assert cluster.deaths() == []


async def test_a_bug_about_one_server_leaves_the_others_linked(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    del cluster.places["server-1:1"]

    async with running(cluster):
        await asyncio.sleep(5)

        assert {*cluster.keeper.loads()} == {"server-2"}
        assert "bug on the link to member server-1" in caplog.text


async def test_faults_about_the_list_of_members_are_logged_and_outlived(
    linked: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    linked.is_away, linked.fault = True, StoreCorrupt("the record of a member cannot be read")
    linked.kill("server-1")

    await asyncio.sleep(3)
    linked.is_away = False

    await linked.wait_for(lambda: linked.deaths() == ["server-1"])
    assert "the record of a member cannot be read" in caplog.text


async def test_one_line_is_logged_for_each_change_of_a_link(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = cluster.place("server-1")
    async with running(cluster):
        await cluster.wait_for(lambda: len(cluster.keeper.loads()) == 2)
        place.mood = "refuses"
        place.cut()
        await asyncio.sleep(30)
        place.mood = "answers"
        await cluster.wait_for(lambda: "server-1" in cluster.keeper.loads())

    said = [record for record in caplog.records if record.name.endswith("keeper")]
    assert [(r.levelname, r.getMessage()) for r in said if "server-1" in r.getMessage()] == [
        ("INFO", "the link to member server-1 is now linked"),
        (
            "INFO",
            "the link to member server-1 is now dialling: the other end closed the connection",
        ),
        (
            "WARNING",
            "the link to member server-1 is now unreachable: server-1:1 refuses connections",
        ),
        ("INFO", "the link to member server-1 is now linked"),
    ]


# -- commands, from end to end ---------------------------------------------------------------


async def test_a_command_reaches_the_server_and_its_answer_comes_back(cluster: Cluster) -> None:
    server = cluster.start("server-3")
    async with running(cluster):
        await cluster.wait_for(lambda: "server-3" in cluster.keeper.loads())

        assert await cluster.keeper.command("server-3", "drain") is None
        refused = await cluster.keeper.command("server-3", "dance")

    assert server.done == ["drain"]
    assert refused == "unknown command 'dance'; this server knows disable, drain, enable, stop"


async def test_commands_to_several_servers_run_side_by_side(linked: Cluster) -> None:
    began = linked.now

    answers = await asyncio.gather(
        *(linked.keeper.command(name, "stop") for name in ("server-1", "server-2"))
    )

    assert answers == ["stop was not done within 5 s"] * 2
    assert linked.now - began < 5.5


async def test_a_command_to_a_server_without_a_link_says_why(linked: Cluster) -> None:
    linked.place("server-1").mood = "refuses"
    linked.place("server-1").cut()
    await linked.wait_for(lambda: linked.state("server-1") is LinkState.UNREACHABLE)

    assert await linked.keeper.command("server-1", "drain") == (
        "there is no link to it: server-1:1 refuses connections"
    )
    assert await linked.keeper.command("server-9", "drain") == "no server server-9 is known"


async def test_a_link_that_ends_answers_the_commands_that_wait(linked: Cluster) -> None:
    waiting = asyncio.create_task(linked.keeper.command("server-1", "stop"))
    await asyncio.sleep(1)

    linked.kill("server-1")

    assert await waiting == "the link ended before the answer came"


async def test_a_server_that_never_answers_a_command_is_not_waited_for_for_ever(
    cluster: Cluster,
) -> None:
    place = cluster.place("server-1")
    beats = encode(Beat({})) + encode(Answer(99, "an answer that nobody asked for"))
    place.prepared = encode(Hello("server-1", ME)) + beats

    async with running(cluster):
        await cluster.wait_for(lambda: "server-1" in cluster.keeper.loads())
        waiting = asyncio.create_task(cluster.keeper.command("server-1", "stop"))
        for _ in range(70):
            place.far_ends[-1][1].write(beats)
            await asyncio.sleep(0.1)

        assert await waiting == "no answer within 6 s"


def test_a_process_of_another_host_is_not_looked_for() -> None:
    assert has_process(a_member("server-1")) is None


def test_a_process_of_this_host_is_looked_for_by_pid_and_start() -> None:
    here = this_process(Role.SERVER, "server-1")

    assert has_process(here) is True
    assert has_process(replace(here, process_started_s=1.0)) is False
