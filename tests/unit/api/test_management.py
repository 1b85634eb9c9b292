from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from fl_cluster.api import plain_http
from fl_cluster.api.management import ManagementPlane, Sources
from fl_cluster.errors import FlClusterError, StoreCorrupt, StoreUnavailable
from fl_cluster.lifecycle.membership import Member, MemberState, Role
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.rounds.plan import Millis, RoundPlan
from fl_cluster.store.durability import SENTENCES, Level, StoreDurability
from fl_cluster.store.ports import JobRecord, Snapshot


def a_member(number: int, **changes: Any) -> Member:
    member = Member(
        id=f"127.0.0.1:3500{number}::2026-11-25-10:00:00.000.000::54321",
        role=Role.SERVER,
        tcp_address=f"127.0.0.1:3500{number}",
        http_address=f"127.0.0.1:666{number}",
        manage_address="",
        pid=4711,
        host="host-a",
        process_started_s=1.0,
        version="0.1.0",
        kernel="avx2",
        started_ms=1_795_000_000_500,
        state=MemberState.SERVING,
    )
    return replace(member, **changes)


class Facts:
    """All sources in one: what a test sets is what they answer, a fault is raised."""

    def __init__(self) -> None:
        self.state_word: str | FlClusterError | None = "running"
        self.members: Sequence[Member] | FlClusterError = ()
        self.record: JobRecord | None = JobRecord("i_1", 25, "{}", "[]")
        self.round: Snapshot | None = Snapshot(
            ref=RoundRef("i_1", 7, 2),
            phase="selecting",
            plan=RoundPlan(4, 3, 100, 200, 300),
            opened_at=Millis(1_000),
            deadline=Millis(1_100),
            ended_at=None,
            reason=None,
            lease_member=None,
            lease_until=None,
            served=False,
            failures_in_a_row=0,
            is_disabled=False,
            successor=None,
            first_report_at=None,
            last_outcome="",
            last_reason=None,
            last_ended_at=None,
        )

    async def cluster_state(self) -> str | None:
        if isinstance(self.state_word, FlClusterError):
            raise self.state_word
        return self.state_word

    async def job(self) -> JobRecord | None:
        return self.record

    async def snapshot(self) -> Snapshot | None:
        return self.round

    async def live(self) -> Sequence[Member]:
        if isinstance(self.members, FlClusterError):
            raise self.members
        return self.members

    async def durability(self) -> StoreDurability:
        return StoreDurability(Level.ALWAYS, SENTENCES[Level.ALWAYS])


@contextlib.asynccontextmanager
async def asking(facts: Facts) -> AsyncIterator[Callable[[str], Any]]:
    me = a_member(9, role=Role.SCHEDULER)
    sources = Sources(facts, facts, facts, facts)  # type: ignore[arg-type]
    plane = ManagementPlane("Lenet", sources, me).plane()
    listener = await plain_http.listen(plane, "127.0.0.1", 0)

    async def ask(target: str) -> str:
        reader, writer = await asyncio.open_connection(listener.host, listener.port)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return re.sub("Date: [^\r]+", "Date: D", answer.decode())

    try:
        yield ask
    finally:
        await listener.close()


async def body_of(facts: Facts, target: str = "/state") -> Any:
    async with asking(facts) as ask:
        return json.loads((await ask(target)).partition("\r\n\r\n")[2])


async def refusal(facts: Facts) -> str:
    async with asking(facts) as ask:
        answer = await ask("/state")
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 Client\r\nDate: D\r\nContent-Length: ")
    assert "\r\nContent-Type: text/html; charset=ISO-8859-1" in head
    decoded = json.loads(body)
    assert body == json.dumps(decoded, sort_keys=True, separators=(",", ":"))
    assert decoded["code"] == "1"
    text: str = decoded["error_message"]
    return text


async def test_the_state_is_byte_for_byte_what_old_tools_know() -> None:
    facts = Facts()
    facts.members = [a_member(1), a_member(2)]
    async with asking(facts) as ask:
        answer = await ask("/state")

    body = (
        '{"cluster_state":"CLUSTER_READY","code":"0","message":"Get cluster state successful.",'
        '"nodes":[{"node_id":"127.0.0.1:35001::2026-11-25-10:00:00.000.000::54321",'
        '"role":"SERVER","tcp_address":"127.0.0.1:35001"},'
        '{"node_id":"127.0.0.1:35002::2026-11-25-10:00:00.000.000::54321",'
        '"role":"SERVER","tcp_address":"127.0.0.1:35002"}]}'
    )
    assert answer == (
        "HTTP/1.1 200 Client\r\nContent-Type: application/json\r\nDate: D\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )


async def test_without_members_the_nodes_are_left_out() -> None:
    assert await body_of(Facts()) == {
        "cluster_state": "CLUSTER_READY",
        "code": "0",
        "message": "Get cluster state successful.",
    }


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("running", "CLUSTER_READY"),
        ("disabled", "CLUSTER_DISABLE"),
        ("finished", "CLUSTER_FINISH"),
        ("stopped", None),
    ],
)
async def test_each_state_has_its_old_name_and_a_stopped_job_has_none(
    word: str, shown: str | None
) -> None:
    facts = Facts()
    facts.state_word = word

    assert (await body_of(facts)).get("cluster_state") == shown


async def test_workers_come_after_servers_and_schedulers_are_not_shown() -> None:
    facts = Facts()
    worker = a_member(1, id="worker_fl_1", role=Role.WORKER, tcp_address="")
    facts.members = [a_member(0, role=Role.SCHEDULER), worker, a_member(2)]

    nodes = (await body_of(facts))["nodes"]

    assert [node["role"] for node in nodes] == ["SERVER", "WORKER"]
    assert nodes[1] == {"node_id": "worker_fl_1", "role": "WORKER", "tcp_address": ""}


async def test_a_job_that_never_ran_is_not_found() -> None:
    facts = Facts()
    facts.state_word = None

    assert await refusal(facts) == "Cannot find cluster info for Lenet"


async def test_a_store_that_is_away_is_said_to_be() -> None:
    facts = Facts()
    facts.state_word = StoreUnavailable("HGET", "connection refused")

    assert await refusal(facts) == "Failed to access the cache server. Please retry later."


@pytest.mark.parametrize("word", ["sideways", StoreCorrupt("HGET: WRONGTYPE")])
async def test_a_state_that_cannot_be_read_is_an_inner_error(word: str | StoreCorrupt) -> None:
    facts = Facts()
    facts.state_word = word

    assert await refusal(facts) == "Failed to get cluster state because of some inner error."


async def test_the_state_is_looked_at_before_the_members() -> None:
    facts = Facts()
    facts.members = StoreCorrupt("a record cannot be read")
    assert await refusal(facts) == (
        "Failed to get nodes because of some inner error. Please retry later."
    )

    facts.state_word = None
    assert await refusal(facts) == "Cannot find cluster info for Lenet"


async def test_what_is_new_comes_only_when_asked_for() -> None:
    facts = Facts()
    facts.members = [a_member(1)]

    plain = await body_of(facts, "/state?x=1&detail=0")
    detailed = await body_of(facts, "/state?detail=1")

    assert set(detailed) - set(plain) == {"detail"}
    assert {key: detailed[key] for key in plain} == plain
    detail = detailed["detail"]
    assert detail["durability"] == {"level": "always", "meaning": SENTENCES[Level.ALWAYS]}
    assert detail["job"] == {
        "instance": "i_1",
        "name": "Lenet",
        "rounds_total": 25,
        "state": "running",
    }
    assert detail["round"] == {
        "attempt": 2,
        "cohort_size": 4,
        "deadline_ms": 1_100,
        "number": 7,
        "opened_at_ms": 1_000,
        "phase": "selecting",
        "report_goal": 3,
    }
    assert detail["members"][0]["http_address"] == "127.0.0.1:6661"


async def test_detail_of_a_job_without_rounds_says_null() -> None:
    facts = Facts()
    facts.record, facts.round = None, None

    detail = (await body_of(facts, "/state?detail=1"))["detail"]

    assert (detail["job"], detail["round"], detail["members"]) == (None, None, [])


async def test_a_process_that_lives_is_healthy_although_its_store_is_away() -> None:
    facts = Facts()
    assert await body_of(facts, "/healthz") == {"code": "0", "message": "alive", "store": "ok"}

    facts.state_word = StoreUnavailable("HGET", "connection refused")
    away = await body_of(facts, "/healthz")
    async with asking(facts) as ask:
        not_ready = await ask("/healthz?ready=1")

    assert away["store"] == "unreachable: HGET: connection refused"
    assert not_ready.startswith("HTTP/1.1 503 Client\r\n")


async def test_a_bug_is_an_inner_error_with_status_500() -> None:
    facts = Facts()
    facts.members = 42  # type: ignore[assignment]
    async with asking(facts) as ask:
        answer = await ask("/state")

    assert answer.startswith("HTTP/1.1 500 Client\r\n")
    assert "Failed to get cluster state because of some inner error." in answer


@pytest.mark.parametrize("path", ["/newInstance", "/metrics", "/"])
async def test_what_is_not_served_is_the_page_for_unknown_paths(path: str) -> None:
    async with asking(Facts()) as ask:
        answer = await ask(path)

    assert answer.startswith("HTTP/1.1 404 Not Found\r\n")
    assert f"The requested URL {path} was not found" in answer
