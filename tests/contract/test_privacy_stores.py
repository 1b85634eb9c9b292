"""The noise's secret and what it cost: memory and Redis, held to one contract."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import Millis
from fl_cluster.store.memory import MemoryJobStore
from fl_cluster.store.memory_privacy import MemoryPrivacyStore
from fl_cluster.store.ports import Outcome, RoundStore
from fl_cluster.store.privacy_port import PrivacyStore
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.privacy import RedisPrivacyStore

T = Millis(1_795_000_000_000)
A, B = b"a" * 32, b"\x00\xff" * 16
CENTRAL, LOCAL = "central 1.1", "local 0.5"


@dataclass
class Bench:
    """A job, and what is known of its noise."""

    privacy: PrivacyStore
    rounds: RoundStore
    ref: RoundRef
    model: Any

    async def end_round(self, member: str = "m-1") -> None:
        """Let the current round need finishing, by this member."""
        assert await self.rounds.abort(self.ref, Reason.STORE_LOST, T) is Verdict.ACCEPTED
        assert await self.rounds.take_lease(self.ref, member, 1_000, T) is Verdict.ACCEPTED

    async def publish(self, member: str = "m-1") -> None:
        outcome = Outcome(self.model, finishes_job=False)
        assert await self.rounds.publish(self.ref, member, outcome) is Verdict.ACCEPTED


@pytest.fixture
async def bench(stores: Any, request: pytest.FixtureRequest) -> Bench:
    rounds = await stores.open()
    privacy: PrivacyStore
    if isinstance(stores.jobs, MemoryJobStore):
        privacy = MemoryPrivacyStore(stores.jobs)
    else:
        privacy = RedisPrivacyStore(request.getfixturevalue("connection"), JobKeys("job"))
    return Bench(privacy, rounds, stores.first, stores.model)


async def test_a_job_without_noise_has_no_charges(bench: Bench) -> None:
    assert await bench.privacy.charges() == {}


async def test_the_first_seed_of_a_round_stays_and_is_charged_once(bench: Bench) -> None:
    await bench.end_round()
    assert not await bench.privacy.is_charged(bench.ref)

    assert await bench.privacy.charge(bench.ref, "m-1", CENTRAL, B) == B
    assert await bench.privacy.is_charged(bench.ref)
    assert await bench.privacy.charge(bench.ref, "m-1", CENTRAL, A) == B

    assert await bench.privacy.charges() == {CENTRAL: 1}


async def test_who_takes_over_from_a_dead_member_gets_the_same_seed(bench: Bench) -> None:
    await bench.end_round("m-1")
    assert await bench.privacy.charge(bench.ref, "m-1", CENTRAL, A) == A
    await bench.rounds.member_lost("m-1", T)
    assert await bench.rounds.take_lease(bench.ref, "m-2", 1_000, T) is Verdict.ACCEPTED

    assert await bench.privacy.charge(bench.ref, "m-1", CENTRAL, B) is Verdict.FENCED
    assert await bench.privacy.charge(bench.ref, "m-2", CENTRAL, B) == A
    assert await bench.privacy.charges() == {CENTRAL: 1}


async def test_of_many_at_once_one_decides(bench: Bench) -> None:
    await bench.end_round()
    seeds = [bytes([n]) * 32 for n in range(8)]

    found = await asyncio.gather(
        *(bench.privacy.charge(bench.ref, "m-1", CENTRAL, seed) for seed in seeds)
    )

    assert len(set(found)) == 1
    assert found[0] in seeds
    assert await bench.privacy.charges() == {CENTRAL: 1}


async def test_nobody_else_and_nothing_else_is_charged(bench: Bench) -> None:
    assert await bench.privacy.charge(bench.ref, "m-1", CENTRAL, A) is Verdict.NOTHING_TO_FINISH
    await bench.end_round("m-1")
    assert await bench.privacy.charge(bench.ref, "m-2", CENTRAL, A) is Verdict.LEASE_LOST
    other = RoundRef(bench.ref.instance, bench.ref.number, bench.ref.attempt + 1)
    assert await bench.privacy.charge(other, "m-1", CENTRAL, A) is Verdict.MOVED_ON

    assert await bench.privacy.charges() == {}


async def test_each_round_has_a_seed_and_a_charge_of_its_own(bench: Bench) -> None:
    await bench.end_round()
    assert await bench.privacy.charge(bench.ref, "m-1", CENTRAL, A) == A
    await bench.publish()
    assert await bench.privacy.charge(bench.ref, "m-1", CENTRAL, B) is Verdict.MOVED_ON

    bench.ref = bench.ref.next()
    await bench.end_round()
    assert await bench.privacy.charge(bench.ref, "m-1", LOCAL, B) == B

    assert await bench.privacy.charges() == {CENTRAL: 1, LOCAL: 1}


async def test_what_is_known_raises_charges_and_never_lowers_them(bench: Bench) -> None:
    await bench.end_round()
    await bench.privacy.charge(bench.ref, "m-1", CENTRAL, A)

    await bench.privacy.learn({CENTRAL: 12, LOCAL: 3})
    await bench.privacy.learn({CENTRAL: 2, LOCAL: 0})
    await bench.privacy.learn({})

    assert await bench.privacy.charges() == {CENTRAL: 12, LOCAL: 3}


@pytest.mark.redis
async def test_a_seed_expires_with_its_round(connection: Connection, bench: Bench) -> None:
    if not isinstance(bench.privacy, RedisPrivacyStore):
        pytest.skip("nothing expires in memory")
    await bench.end_round()
    await bench.privacy.charge(bench.ref, "m-1", CENTRAL, A)
    key = JobKeys("job").noise(str(bench.ref))
    assert 0 < await connection.command("PTTL", key) <= 7 * 24 * 3600 * 1000

    await bench.publish()

    assert 0 < await connection.command("PTTL", key) <= 15 * 60 * 1000
    assert await connection.command("PTTL", JobKeys("job").charges) == -1
