"""What operators do to a job, on a store in memory."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason
from fl_cluster.service.steering import DRAIN, Steering

PARAMETERS = {
    "fl_iteration_num": 5,
    "start_fl_job_threshold": 4,
    "update_model_ratio": 1.0,
    "start_fl_job_time_window": 1_000,
    "update_model_time_window": 1_000,
    "global_iteration_time_window": 1_000,
    "client_epoch_num": 1,
    "client_batch_size": 1,
    "client_learning_rate": 0.5,
    "upload_sparse_rate": 0.5,
}


class Servers:
    """Servers that obey, but for those with a reason not to."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.told: list[tuple[str, str]] = []

    async def command(self, member_id: str, name: str) -> str | None:
        self.told.append((member_id, name))
        await asyncio.sleep(0)
        return self.reasons.get(member_id)


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
def steering(job, servers):
    names = iter(["run-2", "run-3", "run-4"])
    return Steering(job.round_store, job.job_store, servers, lambda: next(names))


def parameters(**changes) -> SharedParameters:
    return SharedParameters.parse(json.dumps(PARAMETERS | changes))


async def test_a_job_is_disabled_and_enabled_once(job, steering):
    words = [
        await steering.enable(),
        await steering.disable(),
        await steering.disable(),
        await steering.enable(),
    ]

    assert words == [
        Verdict.ALREADY_ENABLED,
        Verdict.ACCEPTED,
        Verdict.ALREADY_DISABLED,
        Verdict.ACCEPTED,
    ]
    snapshot = await job.snapshot()
    assert (snapshot.reason, snapshot.is_disabled) == (Reason.JOB_DISABLED, False)


async def test_a_new_run_has_the_model_of_the_one_before_and_its_own_settings(job, steering):
    base = await steering.job()
    changed = parameters(fl_iteration_num=9)

    assert await steering.restart(base, changed) is Verdict.ACCEPTED

    run = await steering.job()
    assert run == replace(base, instance="run-2", rounds_total=9, hyper_parameters=changed.text)
    assert await job.job_store.job() == base
    assert (await job.snapshot()).successor == "run-2"


async def test_the_run_that_is_about_to_begin_is_the_base_of_the_next(job, steering):
    await steering.restart(await steering.job(), parameters(fl_iteration_num=9))

    assert (await steering.job()).rounds_total == 9
    await steering.restart(await steering.job(), parameters(fl_iteration_num=8))

    assert (await job.snapshot()).successor == "run-3"
    assert (await steering.job()).instance == "run-3"


async def test_a_store_without_a_job_has_no_base(world, servers):
    assert await Steering(None, world.job_store, servers, str).job() is None


async def test_restarts_take_turns(steering):
    order = []

    async def change(name: str) -> None:
        async with steering.one_restart():
            order.append(f"{name} begins")
            await asyncio.sleep(1)
            order.append(f"{name} ends")

    await asyncio.gather(change("one"), change("two"))

    assert order == ["one begins", "one ends", "two begins", "two ends"]


async def test_a_store_that_is_away_is_the_caller_s_to_know(job, servers, interposed):
    rounds = interposed(job.round_store)
    rounds.fail_before("disable")

    with pytest.raises(StoreUnavailable):
        await Steering(rounds, job.job_store, servers, str).disable()


async def test_servers_are_told_to_drain_and_each_may_have_a_reason_not_to(steering, servers):
    servers.reasons["b"] = "there is no link to it"

    answers = await steering.drain(["a", "b", "c"])

    assert answers == {"a": None, "b": "there is no link to it", "c": None}
    assert sorted(servers.told) == [("a", DRAIN), ("b", DRAIN), ("c", DRAIN)]
