"""A worker's membership over a store in memory, with a lever to take the store away."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fl_cluster.errors import StoreUnavailable
from fl_cluster.lifecycle.membership import Member, Role
from fl_cluster.store.member_port import Renewal
from fl_cluster.store.ports import JobRecord
from fl_cluster.worker.registration import Candidate, Registration, Stores


def a_member(name: str, role: Role, http_address: str = "") -> Member:
    return Member(
        id=name,
        role=role,
        tcp_address="",
        http_address=http_address,
        manage_address="",
        pid=1,
        host="here",
        process_started_s=0.0,
        version="0",
        kernel="none",
        started_ms=0,
    )


class Store:
    """Members and job, both ports in one."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.fenced: set[str] = set()
        self.instance = "run-1"
        self.is_away = False
        self.renewals = 0
        self.asked = 0

    def _reach(self) -> None:
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable("call", "connection refused")

    async def register(self, member: Member, lease_ms: int) -> Renewal:
        self._reach()
        if member.id in self.fenced:
            return Renewal.FENCED
        self.members[member.id] = member
        return Renewal.RENEWED

    async def renew(self, member_id: str, lease_ms: int) -> Renewal:
        self._reach()
        self.renewals += 1
        return Renewal.FENCED if member_id in self.fenced else Renewal.RENEWED

    async def deregister(self, member_id: str) -> None:
        self._reach()
        self.members.pop(member_id, None)

    async def live(self) -> Sequence[Member]:
        self._reach()
        return [self.members[name] for name in sorted(self.members)]

    async def job(self) -> JobRecord | None:
        self._reach()
        return JobRecord(self.instance, 1, "{}", "[]") if self.instance else None

    def workers(self) -> list[str]:
        return [m.id for m in self.members.values() if m.role is Role.WORKER]


@pytest.fixture
def store() -> Store:
    made = Store()
    for name, address in (("b", "10.0.0.2:1"), ("a", "10.0.0.1:1")):
        made.members[name] = a_member(name, Role.SERVER, address)
    made.members["s"] = a_member("s", Role.SCHEDULER)
    return made


@pytest.fixture
def registration(store: Store) -> Iterator[Registration]:
    @asynccontextmanager
    async def open_stores() -> AsyncIterator[Stores]:
        both: Any = store
        yield Stores(both, both)

    names = iter(f"worker-{n}" for n in range(2, 10))
    candidate = Candidate(a_member("worker-1", Role.WORKER), 100, lambda: next(names))
    made = Registration(open_stores, candidate)
    yield made
    made.leave()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_that_joined_is_a_member_and_knows_the_servers_by_id(
    store: Store, registration: Registration
) -> None:
    registration.join()

    assert store.workers() == ["worker-1"]
    assert registration.servers() == ("10.0.0.1:1", "10.0.0.2:1")
    assert registration.instance() == "run-1"


def test_its_lease_is_renewed_while_the_program_does_something_else(
    store: Store, registration: Registration
) -> None:
    registration.join()

    until(lambda: store.renewals >= 3)


def test_a_worker_that_left_is_no_member_any_more(store: Store, registration: Registration) -> None:
    registration.join()

    registration.leave()
    registration.leave()

    assert store.workers() == []


def test_without_a_job_nobody_joins(store: Store, registration: Registration) -> None:
    store.instance = ""

    with pytest.raises(RuntimeError, match=r"^Get instance name failed\."):
        registration.join()
    assert store.workers() == []


def test_a_store_that_cannot_be_reached_is_told_to_whoever_joins(
    store: Store, registration: Registration
) -> None:
    store.is_away = True

    with pytest.raises(StoreUnavailable, match="connection refused"):
        registration.join()


def test_servers_that_come_and_go_are_noticed(store: Store, registration: Registration) -> None:
    registration.join()

    del store.members["a"]
    store.members["c"] = a_member("c", Role.SERVER, "10.0.0.3:1")
    store.instance = "run-2"

    until(lambda: registration.servers() == ("10.0.0.2:1", "10.0.0.3:1"))
    assert registration.instance() == "run-2"


def test_what_was_known_stays_known_while_the_store_is_away_or_came_back_empty(
    store: Store, registration: Registration
) -> None:
    registration.join()

    store.is_away = True
    seen = store.asked
    until(lambda: store.asked >= seen + 3)
    store.members.clear()
    store.instance = ""
    store.is_away = False
    renewed = store.renewals
    until(lambda: store.renewals >= renewed + 12)  # more than a second at 100 ms a lease

    assert registration.servers() == ("10.0.0.1:1", "10.0.0.2:1")
    assert registration.instance() == "run-1"


def test_a_worker_that_was_declared_dead_goes_on_under_a_new_name(
    store: Store, registration: Registration
) -> None:
    registration.join()

    store.members.pop("worker-1")
    store.fenced.add("worker-1")

    until(lambda: store.workers() == ["worker-2"])


def test_a_forked_copy_leaves_nothing_behind_and_takes_nothing_away(
    store: Store, registration: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    registration.join()

    with monkeypatch.context() as child:
        child.setattr("fl_cluster.worker.registration.os.getpid", lambda: -1)
        registration.leave()

    assert store.workers() == ["worker-1"]
