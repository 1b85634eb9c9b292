"""The first member creates the job, later ones join it or are told why not, any rebuilds it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.scale import exponents
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import JobLost, StartupError, StoreUnavailable
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import ExchangePlan, RoundPlan
from fl_cluster.service.job import StartingPoint, check_fit, open_job, plan_of, rebuild_job
from fl_cluster.service.view import JobView, Stores

VALUES = {
    "fl_iteration_num": 7,
    "start_fl_job_threshold": 10,
    "update_model_ratio": 0.5,
    "start_fl_job_time_window": 1000,
    "update_model_time_window": 2000,
    "global_iteration_time_window": 3000,
    "client_epoch_num": 2,
    "client_batch_size": 32,
    "client_learning_rate": 0.5,
    "upload_sparse_rate": 0.25,
    "enable_ssl": False,
    "pki_verify": False,
    "encrypt_type": "NOT_ENCRYPT",
    "aggregation_type": "FedAvg",
}

TENSORS = (Tensor("b", (2, 3)), Tensor("a", (4,)), Tensor("c", (), is_aggregated=False))


def parameters(**changes: Any) -> SharedParameters:
    return SharedParameters.parse(json.dumps(VALUES | changes))


def starting_point(*tensors: Tensor, number: int = 0, seed: int = 3, **rest: Any) -> StartingPoint:
    layout = Layout(tensors or TENSORS)
    values = np.random.default_rng(seed).normal(size=layout.size).astype(np.float32)
    return StartingPoint(Model(layout, values), number, **rest)


class Empty:
    """Stores without any job, and members that reach them."""

    def __init__(self, world, interposed) -> None:
        self.jobs, self.blobs = world.job_store, world.blob_store
        self._interposed = interposed

    def stores(self) -> tuple[Stores, Any, Any]:
        jobs, blobs = self._interposed(self.jobs), self._interposed(self.blobs)
        rounds = self._interposed(Rounds(self.jobs))
        stores = Stores(cast(Any, rounds), cast(Any, jobs), cast(Any, blobs), address="redis:1")
        return stores, jobs, blobs


class Rounds:
    """The rounds of whatever job there is."""

    def __init__(self, jobs) -> None:
        self._jobs = jobs

    async def snapshot(self):
        return await self._jobs.rounds.snapshot() if self._jobs.rounds else None

    async def abort(self, ref, reason):
        return await self._jobs.rounds.abort(ref, reason)


@pytest.fixture
def empty(world, interposed) -> Empty:
    return Empty(world, interposed)


def test_the_plan_is_that_of_the_shared_parameters():
    assert plan_of(parameters()) == RoundPlan(10, 5, 1000, 2000, 3000)


def test_rounds_of_secure_aggregation_wait_for_fewer_devices_step_by_step():
    masked = parameters(encrypt_type="SECURE_AGGREGATION", update_model_ratio=0.7)

    assert plan_of(masked).exchange == ExchangePlan(9, 8, 7, 7, 300_000)


async def test_a_job_of_which_no_round_could_end_well_is_not_opened(empty):
    stores, _, _ = empty.stores()
    masked = parameters(encrypt_type="SECURE_AGGREGATION", update_model_ratio=0.3)

    with pytest.raises(StartupError, match="No round of this job could end well: with 8 devices"):
        await open_job(stores, masked, starting_point(), "run-1")

    assert await stores.jobs.job() is None


async def test_a_job_whose_sums_could_not_hold_the_noise_is_not_opened(empty):
    """Its rounds would be paid for, and come to nothing."""
    stores, _, _ = empty.stores()

    def noisy(clip_norm: float):
        noise = {"privacy.noise": "central", "privacy.clip_norm": clip_norm}
        return parameters(cluster=noise)

    with pytest.raises(StartupError, match=r"noise of deviation 1e\+30 .* is larger than any sum"):
        await open_job(stores, noisy(1e30), starting_point(), "run-1")

    assert await stores.jobs.job() is None
    await open_job(stores, noisy(1.0), starting_point(), "run-1")


async def test_the_first_member_creates_the_job(empty):
    stores, _, _ = empty.stores()
    start = starting_point()

    job = await open_job(stores, parameters(), start, "run-1")

    assert (job.instance, job.rounds_total) == ("run-1", 7)
    assert Layout.from_json(job.layout) == start.model.layout
    assert SharedParameters.parse(job.hyper_parameters) == parameters()
    record = empty.jobs.kept[0]
    assert record.digest == start.model.digest
    assert tuple(record.exponents) == exponents(start.model, 10)
    view = JobView(stores)
    await view.refresh()
    assert view.snapshot.ref == RoundRef("run-1", 1)
    assert view.base.model.values.tobytes() == start.model.values.tobytes()


async def test_a_checkpoint_is_gone_on_from(empty):
    stores, _, _ = empty.stores()

    await open_job(stores, parameters(), starting_point(number=4), "run-1")

    view = JobView(stores)
    await view.refresh()
    assert (view.snapshot.ref.number, view.base.record.number) == (5, 4)


async def test_a_later_member_joins_with_the_jobs_model_and_settings(empty, caplog):
    first, second = empty.stores()[0], empty.stores()[0]
    created = await open_job(first, parameters(), starting_point(), "run-1")

    joined = await open_job(
        second, parameters(client_epoch_num=9), starting_point(seed=4, number=3), "run-2"
    )

    assert joined == created
    assert list(empty.jobs.kept) == [0]
    assert "client_epoch_num: this server's file says 9, the job runs with 2" in caplog.text
    assert len(empty.blobs.names()) == 1


@pytest.mark.parametrize(("name", "value"), [("enable_ssl", True), ("pki_verify", True)])
async def test_a_setting_that_must_agree_and_does_not_is_named(empty, name, value):
    await open_job(empty.stores()[0], parameters(), starting_point(), "run-1")

    with pytest.raises(StartupError) as caught:
        await open_job(empty.stores()[0], parameters(**{name: value}), starting_point(), "run-2")

    assert str(caught.value) == (
        "Sync hyper params with distributed cache failed, distributed_cache_address: redis:1:"
        f" {name} is {value} here and {VALUES[name]} for the servers that run already; make the"
        " files agree"
    )


@pytest.mark.parametrize(("name", "value"), [("enable_ssl", True), ("pki_verify", True)])
async def test_what_must_agree_is_compared_without_opening_the_job(empty, name, value):
    stores, _, _ = empty.stores()
    await check_fit(stores, parameters())
    assert await stores.jobs.job() is None

    await open_job(stores, parameters(), starting_point(), "run-1")
    await check_fit(stores, parameters(client_epoch_num=9))

    with pytest.raises(StartupError, match=f"^Sync hyper params .* {name} is {value} here"):
        await check_fit(stores, parameters(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"), [("encrypt_type", "PW_ENCRYPT"), ("aggregation_type", "Scaffold")]
)
async def test_whatever_else_differs_is_the_running_jobs(empty, caplog, name, value):
    await open_job(empty.stores()[0], parameters(), starting_point(), "run-1")

    job = await open_job(empty.stores()[0], parameters(**{name: value}), starting_point(), "run-2")

    assert SharedParameters.parse(job.hyper_parameters) == parameters()
    assert f"{name}: this server's file says {value}, the job runs with {VALUES[name]}" in (
        caplog.text
    )


async def test_settings_that_nobody_can_read_are_named(empty):
    await open_job(empty.stores()[0], parameters(), starting_point(), "run-1")
    kept = empty.jobs.record
    empty.jobs.record = replace(kept, hyper_parameters='{"fl_iteration_num":1}')

    with pytest.raises(StartupError, match=r"^Sync hyper params with .*_address: redis:1: "):
        await open_job(empty.stores()[0], parameters(), starting_point(), "run-2")


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (
            TENSORS[:2],
            "The number 2 of local features != the number 3 declared in the the distributed cache",
        ),
        (
            (*TENSORS[:2], Tensor("d", (), is_aggregated=False)),
            (
                "The features are inconsistent with that declared in distributed cache:"
                " cannot find feature c in local"
            ),
        ),
        (
            (Tensor("b", (2, 4)), *TENSORS[1:]),
            "The feature size 32 of local != that 24 declared in the distributed cache, feature: b",
        ),
        (
            (*TENSORS[:2], Tensor("c", ())),
            (
                "The feature require_aggr 1 of local != that 0 declared in the distributed cache,"
                " feature: c"
            ),
        ),
    ],
)
async def test_a_model_with_other_tensors_is_told_what_differs(empty, tensors, sentence):
    await open_job(empty.stores()[0], parameters(), starting_point(), "run-1")

    with pytest.raises(StartupError) as caught:
        await open_job(empty.stores()[0], parameters(), starting_point(*tensors), "run-2")

    assert str(caught.value) == sentence
    assert len(empty.blobs.names()) == 1


async def test_a_default_model_gives_way_to_the_jobs(empty):
    await open_job(empty.stores()[0], parameters(), starting_point(), "run-1")
    other = starting_point(Tensor("lenet", (5,)), is_given=False)

    job = await open_job(empty.stores()[0], parameters(), other, "run-2")

    assert job.instance == "run-1"


async def test_records_that_vanish_meanwhile_are_said_to(empty):
    stores, jobs, _ = empty.stores()
    await open_job(empty.stores()[0], parameters(), starting_point(), "run-1")
    held = jobs.hold_after("job")
    joining = asyncio.create_task(open_job(stores, parameters(), starting_point(), "run-2"))
    await held.reached.wait()
    empty.jobs.record = None
    held.go.set()

    with pytest.raises(StartupError, match="vanished"):
        await joining


@pytest.mark.parametrize("call", ["job", "open"])
@pytest.mark.parametrize("moment", ["fail_before", "fail_after"])
async def test_opening_again_after_a_lost_answer_finds_what_became_of_it(empty, call, moment):
    stores, jobs, _ = empty.stores()
    getattr(jobs, moment)(call)

    with pytest.raises(StoreUnavailable):
        await open_job(stores, parameters(), starting_point(), "run-1")
    job = await open_job(stores, parameters(), starting_point(), "run-1")

    assert job.instance == "run-1"
    view = JobView(stores)
    await view.refresh()
    assert view.base.model.digest == starting_point().model.digest


async def test_of_members_that_start_together_one_creates_and_all_have_its_model(empty):
    members = [empty.stores()[0] for _ in range(5)]

    jobs = await asyncio.gather(
        *(
            open_job(stores, parameters(), starting_point(seed=n), f"run-{n}")
            for n, stores in enumerate(members)
        )
    )

    assert len({job.instance for job in jobs}) == 1
    assert empty.blobs.names() == {empty.jobs.kept[0].blob}
    for stores in members:
        await JobView(stores).refresh()


class TestRebuild:
    """After the store came back empty."""

    @pytest.fixture
    async def held(self, empty):
        """Two members' views of a job that the store then loses."""
        stores = [empty.stores()[0] for _ in range(2)]
        await open_job(stores[0], parameters(), starting_point(number=4), "run-1")
        views = [JobView(each) for each in stores]
        for view in views:
            await view.refresh()
        empty.jobs.record, empty.jobs.rounds = None, None
        empty.jobs.kept.clear()
        for name in empty.blobs.names():
            empty.blobs.forget(name)
        return list(zip(stores, views, strict=True))

    async def rebuild(self, stores, view) -> None:
        held = StartingPoint(view.base.model, view.base.record.number)
        await rebuild_job(stores, view.job, held, view.snapshot.ref)

    async def test_the_round_is_given_up_under_its_number_and_from_the_same_model(self, held):
        stores, view = held[0]
        digest, job = view.base.model.digest, view.job

        await self.rebuild(stores, view)
        await view.refresh()

        assert view.snapshot.ref == RoundRef("run-1", 5, attempt=2)
        assert (view.snapshot.phase, view.snapshot.reason) == ("abandoning", Reason.STORE_LOST)
        assert (view.base.model.digest, view.job) == (digest, job)

    async def test_members_that_rebuild_together_leave_the_model_in_place(self, empty, held):
        await asyncio.gather(*(self.rebuild(stores, view) for stores, view in held))

        newcomer = JobView(empty.stores()[0])
        await newcomer.refresh()

        assert newcomer.base.model.values.tobytes() == held[0][1].base.model.values.tobytes()
        assert empty.blobs.names() == {empty.jobs.kept[4].blob}

    async def test_a_member_that_is_a_round_behind_leaves_it_to_one_that_is_not(self, empty, held):
        stores, view = held[0]
        behind = StartingPoint(view.base.model, view.base.record.number - 1)
        lost = view.snapshot.ref

        await asyncio.gather(
            rebuild_job(stores, view.job, behind, RoundRef(lost.instance, lost.number - 1)),
            self.rebuild(*held[1]),
        )

        assert empty.jobs.kept.keys() == {lost.number - 1}

    async def test_a_store_that_went_back_in_time_gets_the_newest_round_again(self, empty, held):
        stores, view = held[0]
        old = starting_point(number=2, seed=1)
        await open_job(empty.stores()[0], parameters(), old, "run-1")
        with pytest.raises(JobLost, match="back at round 3"):
            await view.refresh()

        await self.rebuild(stores, view)
        await view.refresh()

        assert view.snapshot.ref == RoundRef("run-1", 5, attempt=2)
        assert empty.jobs.kept.keys() == {2, 4}

    async def test_another_run_is_not_replaced_however_young_it_is(self, empty, held):
        stores, view = held[0]
        await open_job(empty.stores()[0], parameters(), starting_point(), "run-2")

        await self.rebuild(stores, view)

        assert empty.jobs.record.instance == "run-2"
        assert empty.jobs.kept.keys() == {0}

    async def test_a_job_that_was_disabled_is_disabled_again(self, empty, held):
        stores, view = held[0]
        base = StartingPoint(view.base.model, view.base.record.number)

        await rebuild_job(stores, view.job, base, view.snapshot.ref, is_disabled=True)
        await view.refresh()

        assert view.snapshot.is_disabled

    async def test_a_job_that_was_over_is_over_again(self, empty):
        stores, other = empty.stores()[0], empty.stores()[0]
        await open_job(stores, parameters(), starting_point(number=7), "run-1")
        view = JobView(stores)
        await view.refresh()
        assert view.snapshot.is_closed
        empty.jobs.record, empty.jobs.rounds = None, None

        await self.rebuild(stores, view)

        found = JobView(other)
        await found.refresh()
        assert found.snapshot.is_closed
        assert found.snapshot.ref == RoundRef("run-1", 8, attempt=2)

    async def test_a_job_that_is_there_is_left_alone(self, empty, held):
        stores, view = held[0]
        await self.rebuild(stores, view)
        before = (empty.jobs.record, dict(empty.jobs.kept))

        await self.rebuild(*held[1])

        assert (empty.jobs.record, dict(empty.jobs.kept)) == before
