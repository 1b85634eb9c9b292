"""The job's records: created once, found by everyone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from inspect import isfunction, signature
from typing import TYPE_CHECKING

import pytest
from redis.crc import key_slot

from fl_cluster.errors import StoreCorrupt
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import RoundPlan
from fl_cluster.store.ports import (
    ClaimRequest,
    JobRecord,
    ModelRecord,
    Offer,
    Outcome,
    ReportBatch,
    UpdateRecord,
)
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.jobs import RedisJobStore
from fl_cluster.store.redis.keys import JOBS, JobKeys
from fl_cluster.store.redis.rounds import FINISHED_MS, RedisRoundStore

if TYPE_CHECKING:
    from conftest import Stores


async def test_a_store_without_a_job_says_so(stores: Stores) -> None:
    assert await stores.jobs.job() is None
    assert await stores.jobs.models() == {}


async def test_a_created_job_is_found(stores: Stores) -> None:
    assert await stores.jobs.open(stores.job, stores.first, stores.plan, stores.model)

    assert await stores.jobs.job() == stores.job
    assert await stores.jobs.models() == {0: stores.model}


async def test_only_the_first_creates_a_job(stores: Stores) -> None:
    rounds = await stores.open()
    other = replace(stores.job, instance="run-2", rounds_total=3)
    plan = replace(stores.plan, cohort_size=7)
    before = await rounds.load()

    created = await stores.jobs.open(
        other, RoundRef("run-2", 5), plan, replace(stores.model, number=4)
    )

    assert not created
    assert await stores.jobs.job() == stores.job
    assert await stores.jobs.models() == {0: stores.model}
    assert await rounds.load() == before


async def test_a_job_may_start_from_a_later_model(stores: Stores) -> None:
    model = ModelRecord(41, "model-41", 1 << 40, "ef" * 32, tuple(range(-50, 900)), ())

    assert await stores.jobs.open(stores.job, RoundRef("run-1", 42, 3), stores.plan, model)

    assert await stores.jobs.models() == {41: model}


async def test_an_earlier_round_of_the_same_run_is_replaced_by_a_later_one(
    stores: Stores,
) -> None:
    """The store came back with an old state, and a member knows what happened since."""
    rounds = await stores.open()
    await rounds.check_in(stores.first, [Offer("a", 1, 1)])
    model = replace(stores.model, number=4, blob="model-4")

    assert await stores.jobs.open(stores.job, RoundRef("run-1", 5, 2), stores.plan, model)

    again = stores._rounds()
    snapshot = await again.snapshot()
    assert snapshot is not None
    assert (snapshot.ref, snapshot.phase) == (RoundRef("run-1", 5, 2), "waiting")
    assert await stores.jobs.models() == {0: stores.model, 4: model}
    assert await again.check_in(snapshot.ref, [Offer("a", 1, 1)]) == [Verdict.ACCEPTED]


async def test_the_keys_of_a_round_that_was_replaced_go_like_those_of_a_finished_one(
    connection: Connection,
) -> None:
    keys = JobKeys("replaced")
    jobs, rounds = RedisJobStore(connection, keys), RedisRoundStore(connection, keys)
    model = ModelRecord(0, "model-0", 4, "00" * 32, (1,))
    plan = RoundPlan(2, 2, 60_000, 60_000, 60_000)
    job = JobRecord("run-1", 20, "{}", "[]")
    first = RoundRef("run-1", 1)
    assert await jobs.open(job, first, plan, model)
    await rounds.check_in(first, [Offer("a", 1, 1)])
    before_ms = await connection.command("PTTL", keys.cohort(str(first)))

    assert await jobs.open(job, RoundRef("run-1", 5, 2), plan, replace(model, number=4))

    assert before_ms > FINISHED_MS
    assert 0 < await connection.command("PTTL", keys.cohort(str(first))) <= FINISHED_MS


@pytest.mark.parametrize("number", [1, 2])
async def test_a_round_that_is_not_behind_is_kept(stores: Stores, number: int) -> None:
    assert await stores.jobs.open(
        stores.job, RoundRef("run-1", 2), stores.plan, replace(stores.model, number=1)
    )
    model = replace(stores.model, number=number - 1, blob="other")

    created = await stores.jobs.open(stores.job, RoundRef("run-1", number, 9), stores.plan, model)

    assert not created
    snapshot = await stores._rounds().snapshot()
    assert snapshot is not None
    assert snapshot.ref == RoundRef("run-1", 2)
    assert await stores.jobs.models() == {1: replace(stores.model, number=1)}


async def test_a_job_whose_rounds_are_all_over_opens_closed(stores: Stores) -> None:
    after_the_last = stores.job.rounds_total + 1
    first = RoundRef("run-1", after_the_last)
    model = replace(stores.model, number=stores.job.rounds_total)

    assert await stores.jobs.open(stores.job, first, stores.plan, model)

    rounds = stores._rounds()
    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert snapshot.is_closed
    assert await rounds.check_in(first, [Offer("a", 1, 1)]) == [Verdict.COHORT_FULL]


async def test_a_job_may_be_opened_disabled(stores: Stores) -> None:
    assert await stores.jobs.open(
        stores.job, stores.first, stores.plan, stores.model, is_disabled=True
    )

    rounds = stores._rounds()
    assert await rounds.check_in(stores.first, [Offer("a", 1, 1)]) == [Verdict.JOB_DISABLED]
    assert await rounds.enable() is Verdict.ACCEPTED
    assert await rounds.check_in(stores.first, [Offer("a", 1, 1)]) == [Verdict.ACCEPTED]


@pytest.mark.redis
async def test_a_job_that_lost_its_round_alone_can_be_opened_again(
    connection: Connection, redis_job: Stores
) -> None:
    await redis_job.open()
    await connection.command("DEL", redis_job.jobs._keys.round)  # type: ignore[attr-defined]

    assert await redis_job.open()


@pytest.mark.parametrize("text", ["", '{"a": "b c", "d": [1.5, null]}', "é\n\t{}", "x" * 100_000])
async def test_texts_come_back_as_they_went(stores: Stores, text: str) -> None:
    job = JobRecord("{run} é\n", 2**31, text, text)

    assert await stores.jobs.open(job, stores.first, stores.plan, stores.model)

    assert await stores.jobs.job() == job


@pytest.mark.redis
async def test_of_many_members_one_creates_the_job(
    connection: Connection,
    connect: Callable[..., Connection],
    redis_server: object,
    make_redis_stores: Callable[..., Stores],
) -> None:
    crowd = [make_redis_stores(connect(redis_server, pool_size=1)) for _ in range(12)]

    created = await asyncio.gather(
        *(
            one.jobs.open(
                replace(one.job, instance=f"run-{i}"),
                RoundRef(f"run-{i}", 1),
                one.plan,
                replace(one.model, blob=f"model-of-{i}"),
            )
            for i, one in enumerate(crowd)
        )
    )

    assert sum(created) == 1
    winner = created.index(True)
    snapshot = await crowd[0]._rounds().snapshot()
    assert snapshot is not None
    assert snapshot.ref == RoundRef(f"run-{winner}", 1)
    for one in crowd:
        job, models = await one.jobs.job(), await one.jobs.models()
        assert job is not None
        assert job.instance == f"run-{winner}"
        assert models[0].blob == f"model-of-{winner}"


@pytest.mark.redis
async def test_jobs_of_one_redis_do_not_see_each_other(
    connection: Connection, make_redis_stores: Callable[..., Stores]
) -> None:
    names = ["job", "job:round", "job 2", "jób"]
    for name in names:
        one = make_redis_stores(connection, name)
        assert await one.jobs.open(
            replace(one.job, instance=name), RoundRef(name, 1), one.plan, one.model
        )

    for name in names:
        job = await make_redis_stores(connection, name).jobs.job()
        assert job is not None
        assert job.instance == name
    known = await connection.command("SMEMBERS", JOBS)
    assert {raw.decode() for raw in known} == set(names)


def test_all_keys_of_a_job_are_in_one_slot() -> None:
    keys = JobKeys("job:with:colons")
    names = [
        getattr(keys, name) for name, kind in vars(JobKeys).items() if isinstance(kind, property)
    ]
    of_a_round = [
        getattr(keys, name)
        for name, kind in vars(JobKeys).items()
        if isfunction(kind)
        and list(signature(kind).parameters) == ["self", "ref"]
        and name != "of_round"
    ]
    ref = str(RoundRef("run {x}", 7))
    names += [key(ref) for key in of_a_round]
    names += [keys.step(ref, step) for step in Step]

    assert len(of_a_round) >= 6
    assert set(keys.of_round(ref)) <= set(names)
    assert len(names) == len(set(names))
    assert len({key_slot(name.encode()) for name in names}) == 1


@pytest.mark.redis
async def test_the_state_is_told_by_itself(connection: Connection, redis_job: Stores) -> None:
    jobs = redis_job.jobs
    assert isinstance(jobs, RedisJobStore)
    assert await jobs.cluster_state() is None
    await redis_job.open()

    assert await jobs.cluster_state() == "running"


@pytest.mark.redis
@pytest.mark.parametrize(
    "damage",
    [
        ("HDEL", JobKeys("job").instance, "layout"),
        ("HSET", JobKeys("job").instance, "rounds_total", "many"),
    ],
    ids=lambda command: command[2],
)
async def test_a_damaged_job_is_corruption(
    connection: Connection, redis_job: Stores, damage: tuple[str, ...]
) -> None:
    await redis_job.open()
    await connection.command(*damage)

    with pytest.raises(StoreCorrupt, match="job's record"):
        await redis_job.jobs.job()


@pytest.mark.redis
@pytest.mark.parametrize(
    ("number", "text"),
    [("0", "{}"), ("0", "no json"), ("0", "[]"), ("zero", "{}"), ("0", "\udcff")],
)
async def test_a_damaged_model_is_corruption(
    connection: Connection, redis_job: Stores, number: str, text: str
) -> None:
    await redis_job.open()
    raw = text.encode("utf-8", "surrogateescape")
    await connection.command("HSET", JobKeys("job").models, number, raw)

    with pytest.raises(StoreCorrupt, match="model"):
        await redis_job.jobs.models()


async def test_the_member_that_saw_most_is_known_to_all(stores: Stores) -> None:
    assert await stores.jobs.nominate(7) == 7
    assert await stores.jobs.nominate(12) == 12
    assert await stores.jobs.nominate(9) == 12


@pytest.mark.redis
async def test_nominations_are_soon_forgotten(connection: Connection, redis_job: Stores) -> None:
    await redis_job.jobs.nominate(7)

    assert 0 < await connection.command("PTTL", JobKeys("job").nominees) <= 5_000


@pytest.mark.redis
async def test_the_keys_of_a_round_outlast_its_longest_window(
    connection: Connection, redis_job: Stores
) -> None:
    """Also with the longest windows that the configuration allows, which are of 49 days."""
    longest, day = 2**32 - 1, 24 * 3600 * 1000
    rounds = await redis_job.open(
        select_window_ms=longest, report_window_ms=longest, round_window_ms=longest
    )
    ref, keys = redis_job.first, JobKeys("job")
    await rounds.check_in(ref, [Offer("a", 1, 1), Offer("b", 1, 1)])
    await rounds.claim(ref, "m1", [ClaimRequest("a", 1), ClaimRequest("b", 1)])
    await rounds.report(ref, "m1", ReportBatch([UpdateRecord("a", "d", 0.0, 0.0)], "p1"))
    of_the_round = [
        key(str(ref)) for key in (keys.cohort, keys.claims, keys.reports, keys.partials)
    ]

    for key in of_the_round:
        assert await connection.command("PTTL", key) > longest + 6 * day
    for key in (keys.instance, keys.round, keys.models):
        assert await connection.command("PTTL", key) == -1

    await rounds.abort(ref, Reason.JOB_DISABLED)
    await rounds.take_lease(ref, "m1", 1000)
    await rounds.publish(ref, "m1", Outcome(replace(redis_job.model, number=1), False))
    for key in of_the_round:
        assert 0 < await connection.command("PTTL", key) <= 15 * 60 * 1000


@pytest.mark.redis
@pytest.mark.parametrize("is_over", [False, True])
async def test_what_is_noted_of_a_round_goes_with_its_other_keys(
    connection: Connection, redis_job: Stores, is_over: bool
) -> None:
    """Also what comes after its end: a member may not know yet, a device is told afterwards."""
    rounds = await redis_job.open()
    ref, keys = redis_job.first, JobKeys("job")
    if is_over:
        await rounds.abort(ref, Reason.JOB_DISABLED)
        await rounds.take_lease(ref, "m1", 1000)
        await rounds.publish(ref, "m1", Outcome(replace(redis_job.model, number=1), False))

    await rounds.count_visits(ref, {"report": 1})
    await rounds.note_answered(ref, ["a"])

    quarter_of_an_hour = 15 * 60 * 1000
    for key in (keys.visits(str(ref)), keys.answered(str(ref))):
        left = await connection.command("PTTL", key)
        assert (0 < left <= quarter_of_an_hour) == is_over
        assert left > 0
