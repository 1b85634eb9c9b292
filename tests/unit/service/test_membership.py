from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from fl_cluster.errors import StoreUnavailable
from fl_cluster.lifecycle.membership import Member, MemberState, Role
from fl_cluster.service.membership import Membership, Undertaker
from fl_cluster.service.store_watch import StoreWatch
from fl_cluster.store.member_port import Renewal

LEASE_MS = 1_000


class MemberBook:
    """The membership port over plain objects, with a clock and a lever to take it away."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.is_away = False
        self.records: dict[str, Member] = {}
        self.leases: dict[str, int] = {}
        self.fenced: dict[str, int] = {}

    def _reach(self) -> None:
        if self.is_away:
            raise StoreUnavailable("renew", "connection refused")

    async def register(self, member: Member, lease_ms: int) -> Renewal:
        self._reach()
        if member.id in self.fenced:
            return Renewal.FENCED
        self.records[member.id] = member
        self.leases[member.id] = self.now_ms + lease_ms
        return Renewal.RENEWED

    async def renew(self, member_id: str, lease_ms: int) -> Renewal:
        self._reach()
        if member_id in self.fenced:
            return Renewal.FENCED
        if member_id not in self.records:
            return Renewal.UNKNOWN
        self.leases[member_id] = self.now_ms + lease_ms
        return Renewal.RENEWED

    async def deregister(self, member_id: str) -> None:
        self._reach()
        self.records.pop(member_id, None)
        self.leases.pop(member_id, None)

    async def live(self) -> Sequence[Member]:
        self._reach()
        return [self.records[name] for name, end in self.leases.items() if end > self.now_ms]

    async def overdue(self) -> Sequence[str]:
        self._reach()
        return [
            name
            for name, end in self.leases.items()
            if end <= self.now_ms and name not in self.fenced
        ]

    async def everyone(self) -> Sequence[Member]:
        self._reach()
        return list(self.records.values())

    async def forget_dead(self, after_ms: int) -> int:
        self._reach()
        old = [name for name, at in self.fenced.items() if at <= self.now_ms - after_ms]
        for name in old:
            del self.fenced[name], self.records[name], self.leases[name]
        return len(old)

    async def fence(self, member_id: str) -> None:
        self._reach()
        self.fenced[member_id] = self.now_ms


def a_member(name: str) -> Member:
    return Member(
        id=name,
        role=Role.SERVER,
        tcp_address="127.0.0.1:1",
        http_address="127.0.0.1:2",
        manage_address="",
        pid=1,
        host="h",
        process_started_s=0.0,
        version="0.1.0",
        kernel="reference",
        started_ms=0,
    )


@pytest.fixture
def book() -> MemberBook:
    return MemberBook()


def a_membership(book: MemberBook, name: str = "first") -> Membership:
    serial = iter(range(2, 100))
    return Membership(
        book,
        a_member(name),
        lease_ms=LEASE_MS,
        new_id=lambda: f"{name}-{next(serial)}",
        undertaker=Undertaker(book, book.fence),
        clock=lambda: book.now_ms / 1000,
    )


def advance(book: MemberBook, ms: int) -> None:
    book.now_ms += ms


async def test_joining_makes_a_member_serve(book: MemberBook) -> None:
    membership = a_membership(book)

    await membership.join()

    assert membership.member == a_member_serving("first")
    assert await book.live() == [membership.member]


def a_member_serving(name: str) -> Member:
    return replace(a_member(name), state=MemberState.SERVING)


async def test_renewing_keeps_a_member_alive(book: MemberBook) -> None:
    membership = a_membership(book)
    await membership.join()

    for _ in range(30):
        advance(book, 100)
        await membership.look()

    assert await book.live() == [membership.member]


async def test_a_member_that_was_declared_dead_goes_on_under_a_new_name(book: MemberBook) -> None:
    membership = a_membership(book)
    names: list[str] = []
    membership.on_new_name(names.append)
    await membership.join()
    await book.fence("first")

    await membership.look()

    assert names == ["first-2"]
    assert membership.member == a_member_serving("first-2")
    assert "first-2" in book.records


async def test_a_member_that_the_store_forgot_registers_again_under_its_name(
    book: MemberBook,
) -> None:
    membership = a_membership(book)
    names: list[str] = []
    membership.on_new_name(names.append)
    await membership.join()
    book.records.clear()
    book.leases.clear()

    await membership.look()

    assert names == []
    assert await book.live() == [a_member_serving("first")]


async def test_a_silent_member_is_declared_dead_by_another(book: MemberBook) -> None:
    alive, silent = a_membership(book, "alive"), a_membership(book, "silent")
    await silent.join()
    await alive.join()

    for _ in range(11):
        advance(book, 100)
        await alive.look()

    assert list(book.fenced) == ["silent"]


async def test_after_the_store_was_away_everyone_gets_a_lease_s_time_to_come_back(
    book: MemberBook, caplog: pytest.LogCaptureFixture
) -> None:
    quick, slow = a_membership(book, "quick"), a_membership(book, "slow")
    await quick.join()
    await slow.join()
    book.is_away = True
    advance(book, 5_000)
    with pytest.raises(StoreUnavailable):
        await quick.look()

    book.is_away = False
    await quick.look()
    assert book.fenced == {}
    advance(book, 100)
    await slow.look()
    for _ in range(20):
        advance(book, 100)
        await quick.look()
        await slow.look()

    assert book.fenced == {}


async def test_after_the_store_was_away_the_dead_are_found_in_the_end(book: MemberBook) -> None:
    quick, dead = a_membership(book, "quick"), a_membership(book, "dead")
    await quick.join()
    await dead.join()
    book.is_away = True
    advance(book, 5_000)
    with pytest.raises(StoreUnavailable):
        await quick.look()
    book.is_away = False

    for _ in range(12):
        await quick.look()
        advance(book, 100)

    assert list(book.fenced) == ["dead"]


async def test_a_member_that_was_itself_stopped_declares_nobody_dead_at_once(
    book: MemberBook,
) -> None:
    stopped, other = a_membership(book, "stopped"), a_membership(book, "other")
    await stopped.join()
    await other.join()
    advance(book, 5_000)

    await stopped.look()

    assert book.fenced == {}


async def test_leaving_frees_what_was_claimed_and_removes_the_record(book: MemberBook) -> None:
    membership = a_membership(book)
    await membership.join()

    await membership.drain()
    assert (await book.live())[0].state is MemberState.DRAINING
    await membership.leave()

    assert list(book.fenced) == ["first"]
    assert book.records == {}
    assert membership.member.state is MemberState.GONE


async def test_a_member_ends_in_order_although_the_store_is_away(
    book: MemberBook, caplog: pytest.LogCaptureFixture
) -> None:
    membership = a_membership(book)
    await membership.join()
    book.is_away = True

    await membership.drain()
    await membership.leave()

    assert membership.member.state is MemberState.GONE
    assert "could not sign off" in caplog.text


async def test_the_loop_outlives_a_store_that_is_away_and_says_so_once(
    book: MemberBook, caplog: pytest.LogCaptureFixture
) -> None:
    membership = Membership(
        book, a_member("first"), lease_ms=10, new_id=lambda: "unused", undertaker=None
    )
    await membership.join()
    book.is_away = True
    loop = asyncio.create_task(membership.run())
    await until(lambda: bool(caplog.records))
    for _ in range(5):
        await asyncio.sleep(0.002)

    book.is_away = False
    book.now_ms = 1_000
    await until(lambda: book.leases["first"] > 1_000)
    loop.cancel()
    await asyncio.wait([loop])

    [told] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert told.startswith("Redis does not answer (renew: connection refused). Start Redis")


async def test_renewals_speak_of_the_store_and_hurry_while_it_is_not_well(
    book: MemberBook, caplog: pytest.LogCaptureFixture
) -> None:
    """With a long lease they are rare, and whoever waits for the store should not wait for them."""
    membership, watch = (
        Membership(book, a_member("first"), lease_ms=600_000, new_id=lambda: "unused"),
        StoreWatch(),
    )
    membership.report_to(watch)
    await membership.join()
    book.is_away = True
    loop = asyncio.create_task(membership.run())
    await asyncio.sleep(20)
    assert str(watch.trouble) == "renew: connection refused"

    book.is_away = False
    await asyncio.sleep(0.6)

    assert watch.trouble is None
    loop.cancel()
    await asyncio.wait([loop])
    assert [r.levelno for r in caplog.records if r.levelno > logging.INFO] == [
        logging.ERROR,
        logging.WARNING,
    ]


async def test_a_renewal_without_an_answer_is_a_store_that_is_not_well(
    book: MemberBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    membership, watch = a_membership(book, "first"), StoreWatch()
    membership.report_to(watch)
    await membership.join()
    answer = asyncio.Event()
    renew = book.renew

    async def hang(member_id: str, lease_ms: int) -> Renewal:
        await answer.wait()
        return await renew(member_id, lease_ms)

    monkeypatch.setattr(book, "renew", hang)
    loop = asyncio.create_task(membership.run())
    await asyncio.sleep(2.9)
    assert watch.trouble is None
    await asyncio.sleep(0.2)
    assert str(watch.trouble) == "renew: no answer for 3 s"

    answer.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert watch.trouble is None
    loop.cancel()
    await asyncio.wait([loop])


async def test_a_process_that_stood_still_does_not_complain_of_the_store(
    book: MemberBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    membership, watch = a_membership(book, "first"), StoreWatch()
    membership.report_to(watch)
    await membership.join()
    answer = asyncio.Event()

    async def hang(member_id: str, lease_ms: int) -> Renewal:
        await answer.wait()
        return Renewal.RENEWED

    monkeypatch.setattr(book, "renew", hang)
    loop = asyncio.create_task(membership.run())
    await asyncio.sleep(0.1)
    asyncio.get_running_loop().now += 30.0  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)

    assert watch.trouble is None
    answer.set()
    loop.cancel()
    await asyncio.wait([loop])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


async def test_a_member_without_an_undertaker_buries_nobody(book: MemberBook) -> None:
    scheduler = Membership(
        book, a_member("scheduler"), lease_ms=LEASE_MS, new_id=lambda: "unused", undertaker=None
    )
    await a_membership(book, "silent").join()
    await scheduler.join()
    for _ in range(30):
        advance(book, 100)
        await scheduler.look()

    await scheduler.leave()

    assert book.fenced == {}
    assert "scheduler" not in book.records
