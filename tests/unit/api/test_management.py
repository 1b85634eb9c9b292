"""The management plane over real sockets, on stores in memory that can be made to fail.

Answers are compared byte for byte where old tools read them.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from fl_cluster.api import plain_http
from fl_cluster.api.gatekeeper import Gatekeeper
from fl_cluster.api.json_bodies import KEPT_BYTES, LONGEST_BYTES
from fl_cluster.api.management import ManagementPlane, Services, Sources
from fl_cluster.config.changes import NAMES
from fl_cluster.errors import FlClusterError, StoreCorrupt, StoreUnavailable
from fl_cluster.lifecycle.membership import Member, MemberState, Role
from fl_cluster.privacy.accountant import GaussianRelease, Ledger
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import Millis, RoundPlan
from fl_cluster.security.tokens import TokenRole
from fl_cluster.service import token_changes
from fl_cluster.service.inquiry import Inquiry, Witnesses
from fl_cluster.service.link_keeper import LinkState, LinkStatus
from fl_cluster.service.spending import Spending
from fl_cluster.service.steering import Steering
from fl_cluster.service.token_book import TokenBook
from fl_cluster.service.token_changes import TokenWish
from fl_cluster.store.durability import SENTENCES, Level, StoreDurability
from fl_cluster.store.memory import MemoryJobStore
from fl_cluster.store.memory_identity import MemoryTokenStore
from fl_cluster.store.memory_privacy import MemoryPrivacyStore
from fl_cluster.store.ports import ClaimRequest, JobRecord, ModelRecord, Offer, Outcome
from fl_cluster.telemetry.load import Load

T0 = 1_700_000_000_000
REF = RoundRef("i_1", 7, 2)
PLAN = RoundPlan(4, 3, 100_000, 200_000, 300_000)
SETTINGS: dict[str, Any] = {
    "aggregation_type": "FedAvg",
    "client_batch_size": 32,
    "client_epoch_num": 20,
    "client_learning_rate": 0.009999999776482582,
    "fl_iteration_num": 25,
    "global_iteration_time_window": 300_000,
    "start_fl_job_threshold": 4,
    "start_fl_job_time_window": 100_000,
    "update_model_ratio": 0.75,
    "update_model_time_window": 200_000,
    "upload_sparse_rate": 0.4000000059604645,
}
NO_STORE = "Failed to access the cache server. Please retry later."
NO_JOB = "Cannot find cluster info for Lenet"
AWAY = StoreUnavailable("HGET", "connection refused")
DAMAGED = StoreCorrupt("a record cannot be read")


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


SCHEDULER = a_member(9, role=Role.SCHEDULER, http_address="", tcp_address="")


class Failing:
    """A store of which single calls can be made to raise."""

    def __init__(self, store: object) -> None:
        self.store = store
        self.faults: dict[str, FlClusterError] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            fault = self.faults.get(name) or self.faults.get("*")
            if fault is not None:
                raise fault
            return await real(*args, **kwargs)

        return call


class Members:
    """Members who are what a test says."""

    def __init__(self) -> None:
        self.found: list[Member] = [a_member(1), a_member(2)]
        self.ended: dict[str, int] = {}

    async def live(self) -> Sequence[Member]:
        return self.found

    async def overdue(self) -> Sequence[str]:
        return list(self.ended)

    async def lease_end(self, member_id: str) -> int | None:
        return self.ended.get(member_id)


class Fleet:
    """Links as a test says they are."""

    def __init__(self) -> None:
        self.known_loads: dict[str, Load] = {}
        self.known_links: dict[str, LinkStatus] = {}
        self.reasons: dict[str, str] = {}
        self.told: list[str] = []

    def loads(self) -> Mapping[str, Load]:
        return self.known_loads

    def links(self) -> Mapping[str, LinkStatus]:
        return self.known_links

    async def command(self, member_id: str, name: str) -> str | None:
        assert name == "drain"
        self.told.append(member_id)
        return self.reasons.get(member_id)


class MemoryJobs(MemoryJobStore):
    """The memory store with the one word that only the management plane asks for."""

    async def cluster_state(self) -> str | None:
        snapshot = await self.rounds.snapshot() if self.rounds is not None else None
        return None if snapshot is None else snapshot.job_state


class Cluster:
    """What a scheduler knows, and its answers."""

    def __init__(self) -> None:
        self.memory = MemoryJobs()
        self.memory.use_clock(lambda: T0)
        self.jobs = Failing(self.memory)
        self.member_facts = Members()
        self.members = Failing(self.member_facts)
        self.fleet = Fleet()
        self.write_fault: FlClusterError | None = None
        self.gatekeeper = Gatekeeper()
        self.privacy = MemoryPrivacyStore(self.memory)
        self.port = 0

    async def open(self, **settings: object) -> None:
        text = json.dumps(SETTINGS | settings, sort_keys=True, separators=(",", ":"))
        model = ModelRecord(REF.number - 1, "model-6", 4, "00" * 32, (1,))
        assert await self.memory.open(JobRecord("i_1", 25, text, "[]"), REF, PLAN, model)
        self.rounds = Failing(self.memory.rounds)

    def plane(self) -> plain_http.Plane:
        jobs, rounds, members = (cast("Any", s) for s in (self.jobs, self.rounds, self.members))
        names = (f"i_{number}" for number in range(2, 100))
        spending = Spending(self.privacy)
        steering = Steering(rounds, jobs, self.fleet, lambda: next(names), spending)
        witnesses = Witnesses(
            rounds, jobs, members, members, self.now_ms, self.write, self.unreachable, spending
        )
        sources = Sources(jobs, rounds, members, cast("Any", self), self.fleet, None, spending)
        services = Services(steering, Inquiry("Lenet", witnesses), self.command_lines)
        return ManagementPlane("Lenet", sources, services, SCHEDULER, self.gatekeeper).plane()

    async def now_ms(self) -> int:
        return T0 + 5_000

    async def write(self) -> None:
        if self.write_fault is not None:
            raise self.write_fault

    def unreachable(self) -> Mapping[str, str]:
        return {n: s.reason for n, s in self.fleet.known_links.items() if s.reason}

    async def durability(self) -> StoreDurability:
        return StoreDurability(Level.ALWAYS, SENTENCES[Level.ALWAYS])

    @staticmethod
    def command_lines(members: Sequence[Member], count: int) -> Sequence[Mapping[str, str]]:
        return [{"host": member.host, "command": f"start {count}"} for member in members]

    async def ask(self, path: str, body: bytes = b"", method: str = "POST", token: str = "") -> str:
        """The whole answer; its date is D."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        head += f"Authorization: Bearer {token}\r\n" if token else ""
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return re.sub("Date: [^\r]+", "Date: D", answer.decode())

    async def body(self, path: str, body: object = None) -> dict[str, Any]:
        """The decoded body of an answer."""
        sent = b"" if body is None else json.dumps(body).encode()
        decoded: dict[str, Any] = json.loads((await self.ask(path, sent)).partition("\r\n\r\n")[2])
        return decoded

    async def refusal(self, path: str, body: bytes = b"") -> str:
        """The sentence of a refusal, which is exactly like the original's."""
        answer = await self.ask(path, body)
        head, _, text = answer.partition("\r\n\r\n")
        assert head == (
            f"HTTP/1.1 400 Client\r\nDate: D\r\nContent-Length: {len(text.encode())}\r\n"
            "Content-Type: text/html; charset=ISO-8859-1\r\nConnection: close"
        )
        decoded = json.loads(text)
        assert text == json.dumps(decoded, sort_keys=True, separators=(",", ":"))
        assert decoded["code"] == "1"
        sentence: str = decoded["error_message"]
        return sentence

    async def publish(self, *, closes: bool = False) -> None:
        """End the round that is being finished."""
        rounds, run = self.memory.rounds, self.memory.next
        assert rounds is not None
        assert run is None
        ref = (await rounds.load()).phase.ref
        await rounds.take_lease(ref, "m1", 1_000)
        model = ModelRecord(ref.number, "model", 4, "00" * 32, (1,))
        assert await rounds.publish(ref, "m1", Outcome(model, closes)) == "accepted"


@pytest.fixture
async def empty() -> AsyncIterator[Cluster]:
    """A store without a job."""
    cluster = Cluster()
    await cluster.open()
    cluster.memory.record, cluster.memory.rounds = None, None

    async def no_round(*_: object) -> str:
        return "moved_on"

    async def nothing() -> None:
        return None

    store = type("Empty", (), {"disable": no_round, "enable": no_round})()
    store.snapshot = nothing
    cluster.rounds = Failing(store)
    async for served in serve(cluster):
        yield served


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A job in round 7 of 25, for four devices, of which three have to report; two servers."""
    cluster = Cluster()
    await cluster.open()
    async for served in serve(cluster):
        yield served


async def serve(cluster: Cluster) -> AsyncIterator[Cluster]:
    listener = await plain_http.listen(cluster.plane(), "127.0.0.1", 0)
    cluster.port = listener.port
    yield cluster
    await listener.close()


NODES = [
    {
        "node_id": f"127.0.0.1:3500{n}::2026-11-25-10:00:00.000.000::54321",
        "role": "SERVER",
        "tcp_address": f"127.0.0.1:3500{n}",
    }
    for n in (1, 2)
]


class TestState:
    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
    async def test_it_is_byte_for_byte_what_old_tools_know(self, cluster, method):
        answer = await cluster.ask("/state?x=1&detail=0", method=method)

        body = (
            '{"cluster_state":"CLUSTER_READY","code":"0",'
            '"message":"Get cluster state successful.",'
            '"nodes":[{"node_id":"127.0.0.1:35001::2026-11-25-10:00:00.000.000::54321",'
            '"role":"SERVER","tcp_address":"127.0.0.1:35001"},'
            '{"node_id":"127.0.0.1:35002::2026-11-25-10:00:00.000.000::54321",'
            '"role":"SERVER","tcp_address":"127.0.0.1:35002"}]}'
        )
        assert answer == (
            "HTTP/1.1 200 Client\r\nContent-Type: application/json\r\nDate: D\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        )

    async def test_without_members_the_nodes_are_left_out(self, cluster):
        cluster.member_facts.found = [SCHEDULER]

        assert await cluster.body("/state") == {
            "cluster_state": "CLUSTER_READY",
            "code": "0",
            "message": "Get cluster state successful.",
        }

    async def test_each_state_has_its_old_name(self, cluster):
        states = [(await cluster.body("/state"))["cluster_state"]]
        await cluster.body("/disableFLS")
        states.append((await cluster.body("/state"))["cluster_state"])
        await cluster.publish(closes=True)
        states.append((await cluster.body("/state"))["cluster_state"])
        await cluster.body("/newInstance", {})
        states.append((await cluster.body("/state"))["cluster_state"])

        assert states == ["CLUSTER_READY", "CLUSTER_DISABLE", "CLUSTER_FINISH", "CLUSTER_READY"]

    async def test_a_stopped_job_has_no_state(self, cluster, monkeypatch):
        async def stopped() -> str:
            return "stopped"

        monkeypatch.setattr(cluster.memory, "cluster_state", stopped)

        assert "cluster_state" not in await cluster.body("/state")

    async def test_workers_come_after_servers_and_schedulers_are_not_shown(self, cluster):
        worker = a_member(1, id="worker_fl_1", role=Role.WORKER, tcp_address="")
        cluster.member_facts.found = [SCHEDULER, worker, a_member(2)]

        nodes = (await cluster.body("/state"))["nodes"]

        assert [node["role"] for node in nodes] == ["SERVER", "WORKER"]
        assert nodes[1] == {"node_id": "worker_fl_1", "role": "WORKER", "tcp_address": ""}

    async def test_a_job_that_never_ran_is_not_found(self, empty):
        assert await empty.refusal("/state") == NO_JOB

    async def test_a_store_that_is_away_is_said_to_be(self, cluster):
        cluster.jobs.faults["*"] = AWAY

        assert await cluster.refusal("/state") == NO_STORE

    async def test_what_cannot_be_read_is_an_inner_error_the_state_first(self, cluster):
        cluster.members.faults["live"] = DAMAGED
        nodes = await cluster.refusal("/state")
        cluster.jobs.faults["cluster_state"] = DAMAGED
        state = await cluster.refusal("/state")

        assert nodes == "Failed to get nodes because of some inner error. Please retry later."
        assert state == "Failed to get cluster state because of some inner error."

    async def test_a_state_that_is_none_is_an_inner_error(self, cluster, monkeypatch):
        async def sideways() -> str:
            return "sideways"

        monkeypatch.setattr(cluster.memory, "cluster_state", sideways)

        sentence = await cluster.refusal("/state")
        assert sentence == "Failed to get cluster state because of some inner error."

    async def test_what_is_new_comes_only_when_asked_for(self, cluster):
        await cluster.memory.rounds.check_in(REF, [Offer("a", 1, 1)])

        plain = await cluster.body("/state")
        detailed = await cluster.body("/state?detail=1")

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
            "claims": 0,
            "cohort": 1,
            "cohort_size": 4,
            "deadline_ms": T0 + 100_000,
            "number": 7,
            "opened_at_ms": T0,
            "phase": "selecting",
            "report_goal": 3,
            "reports": 0,
        }
        assert detail["members"][0]["http_address"] == "127.0.0.1:6661"
        assert detail["scheduler"] == {"kernel": "avx2", "version": "0.1.0"}


class TestEnableAndDisable:
    async def test_a_running_job_is_disabled_at_once(self, cluster):
        answer = await cluster.ask("/disableFLS")

        body = '{"code":"0","message":"start disabling FL-Server successful."}'
        assert answer == (
            "HTTP/1.1 200 Client\r\nContent-Type: application/json\r\nDate: D\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        )
        snapshot = await cluster.memory.rounds.snapshot()
        assert (snapshot.is_disabled, snapshot.reason) == (True, Reason.JOB_DISABLED)

    async def test_a_disabled_job_is_enabled_at_once(self, cluster):
        await cluster.ask("/disableFLS")

        assert await cluster.body("/enableFLS") == {
            "code": "0",
            "message": "start enabling FL-Server successful.",
        }
        assert (await cluster.body("/state"))["cluster_state"] == "CLUSTER_READY"

    async def test_what_is_so_already_is_refused(self, cluster):
        assert await cluster.refusal("/enableFLS") == "The instance has already been enabled."
        await cluster.ask("/disableFLS")
        assert await cluster.refusal("/disableFLS") == "The instance has already been disabled."

    async def test_a_finished_job_is_neither_enabled_nor_disabled(self, cluster):
        await cluster.memory.rounds.abort(REF, Reason.ROUND_WINDOW)
        await cluster.publish(closes=True)

        assert await cluster.refusal("/enableFLS") == (
            "The instance is completed and cannot be enabled."
        )
        assert await cluster.refusal("/disableFLS") == (
            "The instance is completed and cannot be disabled."
        )

    @pytest.mark.parametrize("word", ["enable", "disable"])
    async def test_what_goes_wrong_is_said(self, cluster, empty, word):
        path = f"/{word}FLS"
        assert await empty.refusal(path) == NO_JOB
        cluster.rounds.faults[word] = AWAY
        assert await cluster.refusal(path) == NO_STORE
        cluster.rounds.faults[word] = DAMAGED
        assert await cluster.refusal(path) == (
            f"Failed to {word} cluster because of some inner error. Please retry later."
        )


class TestQueryInstance:
    async def test_it_shows_all_settings_and_the_nodes(self, cluster):
        answer = await cluster.ask("/queryInstance", method="GET")

        settings = json.dumps(SETTINGS, sort_keys=True, separators=(",", ":"))
        nodes = json.dumps(NODES, separators=(",", ":"))
        assert answer.endswith(
            '\r\n\r\n{"code":"0","message":"Query Instance successful.",'
            f'"nodes":{nodes},"result":{settings}}}'
        )

    async def test_without_members_the_nodes_are_left_out(self, cluster):
        cluster.member_facts.found = []

        assert set(await cluster.body("/queryInstance")) == {"code", "message", "result"}

    async def test_what_goes_wrong_is_said(self, cluster, empty):
        assert await empty.refusal("/queryInstance") == NO_JOB
        cluster.members.faults["live"] = DAMAGED
        assert await cluster.refusal("/queryInstance") == (
            "Failed to get nodes because of some inner error. Please retry later."
        )
        cluster.memory.record = replace(cluster.memory.record, hyper_parameters="{")
        inner = "Failed to query instance because of some inner error. Please retry later."
        assert await cluster.refusal("/queryInstance") == inner
        cluster.jobs.faults["job"] = DAMAGED
        assert await cluster.refusal("/queryInstance") == inner
        cluster.jobs.faults["job"] = AWAY
        assert await cluster.refusal("/queryInstance") == NO_STORE


class TestNewInstance:
    async def test_it_begins_when_the_round_is_over_and_is_shown_at_once(self, cluster):
        answer = await cluster.ask("/newInstance", b'{"start_fl_job_threshold":2}')

        body = '{"code":"0","message":"Start new instance successful."}'
        assert answer == (
            "HTTP/1.1 200 Client\r\nContent-Type: application/json\r\nDate: D\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        )
        result = (await cluster.body("/queryInstance"))["result"]
        assert result == SETTINGS | {"start_fl_job_threshold": 2}
        run = cluster.memory.next
        assert (run.instance, run.rounds_total, run.layout) == ("i_2", 25, "[]")
        assert (await cluster.memory.rounds.snapshot()).successor == "i_2"

    async def test_the_second_of_two_is_laid_over_the_first(self, cluster):
        await asyncio.gather(
            cluster.body("/newInstance", {"start_fl_job_threshold": 2, "client_epoch_num": 1}),
            cluster.body("/newInstance", {"fl_iteration_num": 9}),
            cluster.body("/newInstance", {"client_learning_rate": 0.03}),
        )

        result = (await cluster.body("/queryInstance"))["result"]
        assert result == SETTINGS | {
            "client_epoch_num": 1,
            "client_learning_rate": 0.03,
            "fl_iteration_num": 9,
            "start_fl_job_threshold": 2,
        }
        assert cluster.memory.next.rounds_total == 9

    async def test_all_nine_may_be_changed_and_others_are_passed_over(self, cluster):
        asked = dict.fromkeys(NAMES, 7) | {"update_model_ratio": 1, "client_learning_rate": 0.5}

        await cluster.body("/newInstance", asked | {"aggregation_type": "FedProx", "x": [None]})

        result = (await cluster.body("/queryInstance"))["result"]
        assert result == SETTINGS | asked

    async def test_a_run_of_which_no_round_could_end_well_is_not_begun(self, cluster):
        masked = json.dumps(SETTINGS | {"encrypt_type": "SECURE_AGGREGATION"})
        cluster.memory.record = replace(cluster.memory.record, hyper_parameters=masked)
        asked = {"start_fl_job_threshold": 10, "update_model_ratio": 0.3}

        sentence = await cluster.refusal("/newInstance", json.dumps(asked).encode())

        assert sentence.startswith("New instance failed: no round could end well: with 8 devices")
        assert (await cluster.memory.rounds.snapshot()).successor == ""

    async def test_nothing_need_be_changed_and_the_state_does_not_matter(self, cluster):
        await cluster.ask("/disableFLS")
        assert (await cluster.body("/newInstance", {}))["code"] == "0"

        snapshot = await cluster.memory.rounds.snapshot()
        assert (snapshot.is_disabled, snapshot.successor) == (False, "i_2")

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (b"", "The post message size is invalid."),
            (
                b"no",
                (
                    "Illegal JSON format:[json.exception.parse_error.101] parse error at line 1, "
                    "column 2: syntax error while parsing value - invalid literal; last read: 'no'"
                ),
            ),
            (
                b'{"client_learning_rate":1e999}',
                (
                    "Illegal JSON format:[json.exception.out_of_range.406] number overflow parsing "
                    "'1e999'"
                ),
            ),
            (b"[]", "New instance failed: Expect hyper param config to be json object"),
            (b"7", "New instance failed: Expect hyper param config to be json object"),
            (
                b'{"start_fl_job_threshold": "2"}',
                (
                    "New instance failed: Field start_fl_job_threshold in hyper param config "
                    "should be unsigned integer number"
                ),
            ),
            (
                b'{"start_fl_job_threshold": 0}',
                (
                    "New instance failed: Field start_fl_job_threshold in hyper param config "
                    "should be larger than 0"
                ),
            ),
            (
                b'{"update_model_ratio": 1.5}',
                (
                    "New instance failed: Field update_model_ratio in hyper param config should be "
                    "in range of (0,1.0]"
                ),
            ),
        ],
    )
    async def test_what_is_wrong_is_said_and_nothing_is_changed(self, cluster, body, sentence):
        assert await cluster.refusal("/newInstance", body) == sentence

        assert (await cluster.memory.rounds.snapshot()).successor == ""

    @pytest.mark.parametrize(
        ("body", "start"),
        [
            (b"\xff", "Illegal JSON format:[json.exception.parse_error.101] "),
            (b'{"a":NaN}', "Illegal JSON format:[json.exception.parse_error.101] "),
            (b"[" * 300_000, "Illegal JSON format:"),
            (b"9" * 5_000, "Illegal JSON format:"),
        ],
        ids=lambda value: value[:12],
    )
    async def test_whatever_comes_is_answered(self, cluster, body, start):
        assert (await cluster.refusal("/newInstance", body)).startswith(start)

    async def test_a_long_body_is_read_to_its_end_and_refused(self, cluster):
        long = await cluster.refusal("/newInstance", b" " * (KEPT_BYTES + 1))
        too_long = await cluster.refusal("/newInstance", b" " * (LONGEST_BYTES + 1))

        assert long == "The post message is bigger than 1mb, and no request needs as much."
        assert too_long == "The post message is bigger than 100mb."

    async def test_the_checks_have_their_order(self, cluster, empty):
        """The body first, then the job, then its settings, then what was asked."""
        asked = b'{"start_fl_job_threshold": 0}'
        no_job = f"New instance failed: {NO_JOB}"
        assert (await empty.refusal("/newInstance", b"no")).startswith("Illegal JSON format:")
        assert await empty.refusal("/newInstance", b"[]") == no_job
        cluster.jobs.faults["successor"] = AWAY
        assert await cluster.refusal("/newInstance", asked) == no_job
        cluster.jobs.faults["successor"] = DAMAGED
        assert await cluster.refusal("/newInstance", asked) == (
            "New instance failed: Failed to get current hyper params config"
        )
        cluster.jobs.faults.clear()
        cluster.memory.record = replace(cluster.memory.record, hyper_parameters="{}")
        assert await cluster.refusal("/newInstance", b"[]") == (
            "New instance failed: Failed to parse current hyper params config"
        )

    async def test_a_write_that_fails_is_said(self, cluster):
        cluster.rounds.faults["restart"] = AWAY
        assert await cluster.refusal("/newInstance", b"{}") == NO_STORE
        cluster.rounds.faults["restart"] = DAMAGED
        assert await cluster.refusal("/newInstance", b"{}") == (
            "Failed to new instance because of some inner error. Please retry later."
        )


class TestScaling:
    async def test_servers_are_drained(self, cluster):
        ids = [node["node_id"] for node in NODES]

        answer = await cluster.body("/scalein", {"node_ids": [*ids, ids[0]]})

        assert answer == {
            "code": "0",
            "message": "The servers finish what they hold and end.",
            "node_ids": ids,
        }
        assert cluster.fleet.told == ids

    async def test_with_one_unknown_id_nobody_is_drained(self, cluster):
        known = NODES[0]["node_id"]
        cluster.member_facts.found.append(SCHEDULER)
        body = json.dumps({"node_ids": [known, "nobody", SCHEDULER.id]}).encode()

        sentence = await cluster.refusal("/scalein", body)

        assert sentence.startswith(
            f"No server was told to drain. Unknown node_ids: nobody, {SCHEDULER.id}; "
        )
        assert known in sentence
        assert cluster.fleet.told == []

    async def test_a_server_that_cannot_be_told_is_named(self, cluster):
        first, second = (node["node_id"] for node in NODES)
        cluster.fleet.reasons[second] = "there is no link to it: it does not answer"
        body = json.dumps({"node_ids": [first, second]}).encode()

        assert await cluster.refusal("/scalein", body) == (
            f"Not every server was told to drain. {second}: there is no link to it: it does not "
            f"answer. These were: {first}."
        )

    @pytest.mark.parametrize("body", [b"[]", b"{}", b'{"node_ids":[]}', b'{"node_ids":[1]}', b"7"])
    async def test_the_ids_are_a_list(self, cluster, body):
        assert await cluster.refusal("/scalein", body) == (
            "node_ids should be a list of the ids of servers, as in /state"
        )

    async def test_a_body_is_needed_and_the_store_too(self, cluster):
        assert await cluster.refusal("/scalein") == "The post message size is invalid."
        cluster.members.faults["live"] = DAMAGED
        assert "Failed to get nodes" in await cluster.refusal("/scalein", b'{"node_ids":["a"]}')

    @pytest.mark.parametrize(
        ("body", "count"), [(None, 1), ({}, 1), ({"server_num": 3}, 3), ({"worker_num": 2}, 1)]
    )
    async def test_scaling_out_is_a_command_line_for_each_host(self, cluster, body, count):
        answer = await cluster.body("/scaleout", body)

        assert answer["commands"] == [{"command": f"start {count}", "host": "host-a"}] * 2

    @pytest.mark.parametrize("count", [0, -1, 1001, True, "2", None, 1.0])
    async def test_a_number_of_servers_is_from_1_to_1000(self, cluster, count):
        body = json.dumps({"server_num": count}).encode()

        sentence = await cluster.refusal("/scaleout", body)
        assert sentence == "server_num should be a number from 1 to 1000"

    async def test_the_number_may_stand_in_the_query(self, cluster):
        answer = await cluster.body("/scaleout?n=3")

        assert answer["commands"][0]["command"] == "start 3"
        for number in ("0", "x", "-1", "9" * 400):
            sentence = await cluster.refusal(f"/scaleout?n={number}")
            assert sentence == "server_num should be a number from 1 to 1000"

    async def test_what_is_no_json_is_refused(self, cluster):
        assert (await cluster.refusal("/scaleout", b"3x")).startswith("Illegal JSON format:")
        assert (await cluster.refusal("/scaleout", b"[3]")).startswith("server_num should be")


class TestExplaining:
    async def test_the_nodes_come_with_load_and_link(self, cluster):
        one, two = (node["node_id"] for node in NODES)
        cluster.member_facts.found.append(SCHEDULER)
        cluster.fleet.known_loads[one] = Load(requests_per_s=12.5, resident_bytes=1024)
        cluster.fleet.known_links = {
            one: LinkStatus(LinkState.LINKED),
            two: LinkStatus(LinkState.UNREACHABLE, "it refuses connections"),
        }

        nodes = (await cluster.body("/nodes"))["nodes"]

        assert [node["role"] for node in nodes] == ["server", "server", "scheduler"]
        assert nodes[0]["load"]["requests_per_s"] == 12.5
        assert nodes[0]["link"] == {"reason": "", "state": "linked"}
        assert nodes[1]["load"] is None
        assert nodes[1]["link"] == {"reason": "it refuses connections", "state": "unreachable"}
        assert (nodes[2]["load"], nodes[2]["link"]) == (None, None)
        assert nodes[0]["http_address"] == "127.0.0.1:6661"

    async def test_nodes_that_cannot_be_read_are_an_inner_error(self, cluster):
        cluster.members.faults["live"] = DAMAGED
        assert "Failed to get nodes" in await cluster.refusal("/nodes")
        cluster.members.faults["live"] = AWAY
        assert await cluster.refusal("/nodes") == NO_STORE

    async def test_a_stall_is_explained_to_programs(self, cluster):
        await cluster.memory.rounds.check_in(REF, [Offer("a", 1, 1), Offer("b", 1, 1)])
        cluster.fleet.known_links[NODES[1]["node_id"]] = LinkStatus(
            LinkState.UNREACHABLE, "it refuses connections"
        )
        cluster.fleet.known_links["gone"] = LinkStatus(LinkState.UNREACHABLE, "it is gone")

        answer = await cluster.body("/explain")

        assert answer == {
            "cause": "waiting_for_devices",
            "change": "start more devices, or begin a run with a smaller cohort: "
            "fl-cluster new-instance start_fl_job_threshold=2",
            "code": "0",
            "eta": T0 + 15_000,
            "have": 2,
            "message": "Round 7 of 25 waits for devices: 2 of 4 have checked in, "
            "0 of 3 updates are counted.",
            "need": 4,
            "notes": [
                (
                    f"this scheduler has no link to server {NODES[1]['node_id']}: "
                    "it refuses connections"
                )
            ],
            "since": T0,
            "then": "the round is abandoned (start_fl_job_time_window: the cohort did not fill in "
            "time) and the next one opens with the old weights",
            "until": T0 + 100_000,
            "waiting_for": "devices",
        }

    async def test_a_store_that_is_away_is_a_cause(self, cluster):
        cluster.rounds.faults["snapshot"] = AWAY

        answer = await cluster.body("/explain")

        assert (answer["code"], answer["cause"]) == ("0", "store_unreachable")

    async def test_a_store_that_takes_no_writes_is_a_cause(self, cluster):
        cluster.write_fault = StoreUnavailable("renew", "READONLY You can't write")

        answer = await cluster.body("/explain")

        assert answer["cause"] == "store_read_only"
        assert answer["notes"][0] == "Round 7 of 25 is open and no device has checked in."

    async def test_a_finished_job_needs_no_writes(self, cluster):
        cluster.write_fault = StoreUnavailable("renew", "READONLY You can't write")
        await cluster.memory.rounds.abort(REF, Reason.ROUND_WINDOW)
        await cluster.publish(closes=True)

        assert (await cluster.body("/explain"))["cause"] == "job_finished"

    async def test_servers_whose_leases_ended_are_explained(self, cluster):
        cluster.member_facts.found = []
        cluster.member_facts.ended = {"server-1": T0 - 5}

        answer = await cluster.body("/explain")

        assert (answer["cause"], answer["since"]) == ("leases_expired", T0 - 5)


def figures(answer: str) -> dict[str, float]:
    """Series -> value, of an answer in Prometheus's text format."""
    head, _, body = answer.partition("\r\n\r\n")
    assert "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in head
    pairs = [line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, value in pairs}


NOISE = {
    "privacy.noise": "central",
    "privacy.clip_norm": 0.5,
    "privacy.noise_multiplier": 2.0,
    "privacy.epsilon_budget": 4.5,
    "privacy.delta": 1e-5,
}


class TestPrivacy:
    @pytest.fixture
    async def noisy(self):
        cluster = Cluster()
        await cluster.open(cluster=NOISE)
        await cluster.privacy.learn({"central 2.0": 2})
        async for served in serve(cluster):
            yield served

    def epsilon(self, rounds):
        return Ledger().after(GaussianRelease(2.0), rounds).epsilon(1e-5)

    async def test_state_and_query_say_what_noise_has_cost(self, noisy):
        spent = {
            "clip_norm": 0.5,
            "delta": 1e-5,
            "epsilon": self.epsilon(2),
            "epsilon_budget": 4.5,
            "is_over": False,
            "noise": "central",
            "noise_multiplier": 2.0,
            "rounds": 2,
        }

        assert (await noisy.body("/state"))["privacy"] == spent
        answer = await noisy.body("/queryInstance")
        assert answer["privacy"] == spent
        assert not any("privacy" in name for name in answer["result"])

    async def test_without_noise_the_answers_are_as_ever(self, cluster):
        await cluster.privacy.learn({"central 2.0": 2})

        assert "privacy" not in await cluster.body("/state?detail=1")
        assert "privacy" not in await cluster.body("/queryInstance")

    async def test_the_figures_have_it(self, noisy, cluster):
        found = figures(await noisy.ask("/metrics", method="GET"))

        assert found["fl_cluster_privacy_epsilon"] == self.epsilon(2)
        assert found["fl_cluster_privacy_epsilon_budget"] == 4.5
        assert found["fl_cluster_privacy_rounds"] == 2
        plain = figures(await cluster.ask("/metrics", method="GET"))
        assert math.isnan(plain["fl_cluster_privacy_epsilon"])

    async def test_no_run_begins_when_nothing_is_left(self, noisy):
        await noisy.privacy.learn({"central 2.0": 3})

        sentence = await noisy.refusal("/newInstance", b"{}")

        assert sentence == (
            "New instance failed: another round would exceed the privacy budget of the job; spent:"
            f" epsilon {self.epsilon(3):.4g} of 4.5 at delta 1e-05 after 3 rounds"
        )

    async def test_a_damaged_charge_is_told_as_a_damaged_record(self, noisy):
        noisy.privacy._charges["laplace 3"] = 1

        assert await noisy.refusal("/state") == (
            "Failed to get cluster state because of some inner error."
        )


class TestFigures:
    async def test_the_round_is_counted(self, cluster):
        rounds = cluster.memory.rounds
        await rounds.check_in(REF, [Offer(name, 1, 1) for name in "abcd"])
        await rounds.claim(REF, "m1", [ClaimRequest("a", 7)])
        sizes = {"check_in_bytes": 700, "get_model_bytes": 1_000, "report_bytes": 300}
        await rounds.count_visits(REF, {"check_in": 2, **sizes})
        cluster.member_facts.found.append(SCHEDULER)
        cluster.fleet.known_loads = {
            "a": Load(requests_per_s=2.5, bytes_in_flight=10),
            "b": Load(requests_per_s=1.0, uploads_per_s=0.5, resident_bytes=7),
        }

        found = figures(await cluster.ask("/metrics", method="GET"))

        assert found["fl_cluster_store_up"] == 1
        assert found["fl_cluster_round_number"] == 7
        assert found["fl_cluster_rounds_planned"] == 25
        assert found['fl_cluster_round_phase{phase="reporting"}'] == 1
        assert found['fl_cluster_round_phase{phase="selecting"}'] == 0
        assert found['fl_cluster_job_state{state="running"}'] == 1
        assert found["fl_cluster_cohort_devices"] == 4
        assert found["fl_cluster_cohort_size"] == 4
        assert found["fl_cluster_claimed_updates"] == 1
        assert found["fl_cluster_counted_updates"] == 0
        assert found['fl_cluster_round_bytes{direction="up"}'] == 300
        assert found['fl_cluster_round_bytes{direction="down"}'] == 1700
        assert found["fl_cluster_report_goal"] == 3
        assert found["fl_cluster_round_deadline_seconds"] == (T0 + 300_000) / 1000
        assert found['fl_cluster_members{role="server",state="serving"}'] == 2
        assert found['fl_cluster_members{role="scheduler",state="serving"}'] == 1
        assert found["fl_cluster_linked_servers"] == 2
        assert found["fl_cluster_requests_per_second"] == 3.5
        assert found["fl_cluster_accepted_updates_per_second"] == 0.5
        assert found["fl_cluster_bytes_in_flight"] == 10
        assert found["fl_cluster_resident_bytes"] == 7

    async def test_the_round_changes_between_two_looks(self, cluster):
        before = figures(await cluster.ask("/metrics"))
        await cluster.memory.rounds.disable(Millis(T0))
        await cluster.publish()
        after = figures(await cluster.ask("/metrics"))

        assert before["fl_cluster_round_number"] == 7
        assert after["fl_cluster_round_number"] == 8
        assert after['fl_cluster_job_state{state="running"}'] == 0
        assert after['fl_cluster_job_state{state="disabled"}'] == 1
        assert math.isnan(after["fl_cluster_round_deadline_seconds"])

    async def test_of_a_store_that_is_away_nothing_is_known(self, cluster):
        cluster.fleet.known_loads = {"a": Load(requests_per_s=2.5)}
        await cluster.ask("/metrics")
        cluster.rounds.faults["*"] = AWAY

        found = figures(await cluster.ask("/metrics"))

        assert found.pop("fl_cluster_store_up") == 0
        assert found.pop("fl_cluster_linked_servers") == 1
        assert found.pop("fl_cluster_requests_per_second") == 2.5
        assert {value for value in found.values() if not math.isnan(value)} == {0}
        assert math.isnan(found["fl_cluster_round_number"])
        assert math.isnan(found['fl_cluster_members{role="server",state="serving"}'])

    async def test_without_a_job_the_members_are_known(self, empty):
        found = figures(await empty.ask("/metrics"))

        assert found["fl_cluster_store_up"] == 1
        assert math.isnan(found["fl_cluster_round_number"])
        assert found['fl_cluster_members{role="server",state="serving"}'] == 2


class TestHealth:
    async def test_a_process_that_lives_is_healthy_although_its_store_is_away(self, cluster):
        ok = {"code": "0", "message": "alive", "store": "ok"}
        assert await cluster.body("/healthz") == ok

        cluster.jobs.faults["*"] = AWAY
        away = await cluster.body("/healthz")
        not_ready = await cluster.ask("/healthz?ready=1")

        assert away["store"] == "unreachable: HGET: connection refused"
        assert not_ready.startswith("HTTP/1.1 503 Client\r\n")

    async def test_a_bug_is_an_inner_error_with_status_500(self, cluster):
        cluster.member_facts.found = 42

        answer = await cluster.ask("/state")

        assert answer.startswith("HTTP/1.1 500 Client\r\n")
        assert "Failed to get cluster state because of some inner error." in answer

    @pytest.mark.parametrize("path", ["/", "/state/", "/newinstance", "/getModel"])
    async def test_what_is_not_served_is_the_page_for_unknown_paths(self, cluster, path):
        answer = await cluster.ask(path)

        assert answer.startswith("HTTP/1.1 404 Not Found\r\n")
        assert f"The requested URL {path} was not found" in answer


async def test_once_an_operator_token_exists_every_call_but_the_health_asks_for_one(
    cluster: Cluster,
) -> None:
    store = MemoryTokenStore()
    book = TokenBook(store, lambda: T0)
    cluster.gatekeeper._book = book
    cluster.gatekeeper._allows_http = True
    assert (await cluster.ask("/state")).startswith("HTTP/1.1 200")
    wish = TokenWish(label="ops", role=TokenRole.OPERATOR, now_ms=T0)
    secret, _ = await token_changes.create(store, wish)
    device, _ = await token_changes.create(store, TokenWish(label="site-a", now_ms=T0))
    await book.look()

    for path in ("/state", "/disableFLS", "/newInstance", "/scalein", "/explain", "/metrics"):
        answer = await cluster.ask(path)
        assert answer.startswith("HTTP/1.1 401 Unauthorized"), path
        assert "WWW-Authenticate: Bearer\r\n" in answer
        sentence = "The request has no token, and this cluster asks for one."
        assert answer.endswith(f'{{"code":"1","error_message":"{sentence}"}}')
        wrong = await cluster.ask(path, token=device)
        assert wrong.startswith("HTTP/1.1 403 Forbidden")
        assert "The token site-a is for role device, and this is for operator." in wrong
        assert device not in wrong
    assert (await cluster.ask("/healthz")).startswith("HTTP/1.1 200")
    assert (await cluster.ask("/state", token=secret)).startswith("HTTP/1.1 200")
    state = await cluster.memory.cluster_state()
    assert state == "running"
