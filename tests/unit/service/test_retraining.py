"""A worker between members: any of them serves any of its requests, and any may fail."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason
from fl_cluster.service.retraining import RetrainingDesk
from fl_cluster.store.ports import Metrics

DEVICES = ("d1", "d2", "d3", "d4")
SAID = Metrics(0.5, 0.75)
HOLD_MS = 200
WINDOW_S = 100


@dataclass
class Site:
    """A job whose goal is met, three members of it, and the desk of each for workers."""

    world: Any
    desks: list[RetrainingDesk]

    def member(self, index: int) -> Any:
        return self.world.members[index]

    def weights(self, value: float) -> dict[str, Any]:
        """What a worker sends: every aggregated tensor, all of one value."""
        return {
            place.tensor.name: np.full(place.tensor.size, value, np.float32)
            for place in self.world.layout.summed
        }

    async def push(self, value: float, at: int = 0) -> Verdict:
        desk = self.desks[at]
        offered = await desk.offered()
        assert offered is not None
        return await desk.push(offered, self.weights(value))

    async def phase(self) -> str:
        return (await self.world.snapshot()).phase

    def blobs(self, kind: str) -> set[str]:
        return {name for name in self.world.blob_store.names() if name.startswith(kind)}


@pytest.fixture
async def site(world: Any) -> Site:
    await world.open(is_hybrid=True)
    members = [await world.member(name) for name in "abc"]
    await world.admit(*DEVICES)
    for index, device in enumerate(DEVICES):
        answer = await members[index % 3].collector.collect(world.arrival(device))
        assert answer.verdict is Verdict.ACCEPTED
    desks = [RetrainingDesk(each.view, each.stores, hold_ms=HOLD_MS) for each in members]
    return Site(world, desks)


@pytest.fixture
async def handed(site: Site) -> Site:
    """The same, and the mean was handed over."""
    assert await site.member(0).finish()
    assert await site.phase() == "retraining"
    return site


async def test_every_member_offers_the_same_mean(handed: Site) -> None:
    for desk in handed.desks:
        offered = await desk.offered()
        assert offered is not None
        assert not offered.is_pushed
        assert offered.mean.model.values.tobytes() == handed.world.expected(*DEVICES)


async def test_handing_over_ends_no_round_and_writes_nothing(handed: Site) -> None:
    assert (await handed.world.snapshot()).ref.number == 1
    assert handed.member(0).recorder.ended == []
    assert handed.member(0).view.base.record.number == 0


async def test_a_worker_is_held_while_the_mean_is_formed(site: Site) -> None:
    waiting = asyncio.create_task(site.desks[1].offered())
    await asyncio.sleep(HOLD_MS / 1000 + 0.1)
    await site.member(0).finish()
    await site.member(1).view.refresh()

    assert await waiting is not None


async def test_before_the_goal_is_met_a_worker_is_not_held_for_long(world: Any) -> None:
    await world.open(is_hybrid=True)
    member = await world.member()
    desk = RetrainingDesk(member.view, member.stores, hold_ms=HOLD_MS)
    await world.admit("d1")
    began = asyncio.get_running_loop().time()

    assert await desk.offered() is None
    assert await desk.conclude(SAID) is Verdict.NOT_AGGREGATED

    assert asyncio.get_running_loop().time() - began == pytest.approx(2 * HOLD_MS / 1000)


async def test_three_members_share_the_work_of_one_round(handed: Site) -> None:
    assert await handed.push(3.5, at=1) is Verdict.ACCEPTED
    assert await handed.desks[2].conclude(SAID) is Verdict.ACCEPTED
    assert await handed.member(0).finish()

    for index in range(3):
        member = handed.member(index)
        await member.view.refresh()
        base = member.view.base
        assert base.record.number == 1
        assert base.model.tensor("layer.weight").ravel().tolist() == [3.5] * 12
        initial = handed.world.model.tensor("steps")
        assert base.model.tensor("steps").tobytes() == initial.tobytes()
    [ended] = handed.member(0).recorder.ended
    assert (ended.metrics, ended.is_success, ended.reason) == (SAID, True, None)


async def test_nothing_is_left_behind_after_a_round(handed: Site) -> None:
    await handed.push(3.5)
    await handed.desks[0].conclude(SAID)
    await handed.member(0).finish()

    assert handed.world.blob_store.names() == {"model-0", *handed.blobs("model-1")}


async def test_nothing_is_left_behind_after_a_round_that_was_given_up(handed: Site) -> None:
    await handed.push(3.5)
    await asyncio.sleep(WINDOW_S)
    ref = (await handed.world.snapshot()).ref
    await handed.world.round_store.tick(ref)

    assert await handed.member(1).finish()

    [ended] = handed.member(1).recorder.ended
    assert (ended.reason, ended.metrics) == (Reason.ROUND_WINDOW, Metrics(0.0, 0.0))
    assert handed.world.blob_store.names() == {"model-0"}


async def test_a_worker_that_hands_nothing_in_leaves_the_model_as_it_was(handed: Site) -> None:
    await handed.desks[0].conclude(SAID)
    await handed.member(0).finish()

    base = handed.member(0).view.base
    assert (base.record.number, base.model.digest) == (1, handed.world.model.digest)
    assert handed.member(0).recorder.ended[0].is_success


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
async def test_what_can_be_no_model_costs_the_round(handed: Site, value: float) -> None:
    assert await handed.push(value) is Verdict.ACCEPTED
    assert handed.blobs("pushed") == handed.blobs("unfit") == set()
    assert await handed.desks[1].conclude(SAID) is Verdict.ACCEPTED
    assert await handed.member(2).finish()

    [ended] = handed.member(2).recorder.ended
    assert (ended.reason, ended.metrics) == (Reason.RETRAINED_UNFIT, SAID)
    base = handed.member(2).view.base
    assert (base.record.number, base.model.digest) == (1, handed.world.model.digest)


async def test_of_two_workers_the_first_is_taken(handed: Site) -> None:
    desk = handed.desks[1]
    offered = await desk.offered()
    assert offered is not None
    assert await handed.push(3.5) is Verdict.ACCEPTED

    assert await desk.push(offered, handed.weights(4.5)) is Verdict.DUPLICATE

    assert len(handed.blobs("pushed")) == 1
    await desk.conclude(SAID)
    await handed.member(0).finish()
    base = handed.member(0).view.base
    assert base.model.tensor("layer.bias").tolist() == [3.5] * 4


async def test_a_push_whose_answer_was_lost_is_accepted_by_another_member(handed: Site) -> None:
    handed.member(0).rounds.fail_after("push")
    with pytest.raises(StoreUnavailable):
        await handed.push(3.5, at=0)

    offered = await handed.desks[1].offered()
    assert offered is not None
    assert offered.is_pushed
    assert await handed.desks[1].push(offered, handed.weights(3.5)) is Verdict.ACCEPTED

    assert len(handed.blobs("pushed")) == 1


async def test_a_push_of_which_only_the_weights_were_stored_is_sent_again(handed: Site) -> None:
    handed.member(0).rounds.fail_before("push")
    with pytest.raises(StoreUnavailable):
        await handed.push(3.5, at=0)

    assert await handed.push(3.5, at=1) is Verdict.ACCEPTED
    assert len(handed.blobs("pushed")) == 1


async def test_metrics_whose_answer_was_lost_are_accepted_when_the_round_is_over(
    handed: Site,
) -> None:
    handed.member(0).rounds.fail_after("conclude")
    with pytest.raises(StoreUnavailable):
        await handed.desks[0].conclude(SAID)
    await handed.member(1).finish()
    assert (await handed.world.snapshot()).ref.number == 2

    for desk in handed.desks:
        assert await desk.conclude(SAID) is Verdict.ACCEPTED
        assert await desk.conclude(Metrics(9.0, 9.0)) is Verdict.NOT_AGGREGATED
    assert await handed.phase() == "waiting"


async def test_the_mean_of_a_member_that_died_before_handing_it_over_is_formed_again(
    site: Site,
) -> None:
    site.member(0).rounds.fail_before("hand_over")
    with pytest.raises(StoreUnavailable):
        await site.member(0).finish()
    stored = site.blobs("aggregate")
    await site.world.round_store.member_lost("a")

    assert await site.member(1).finish()

    assert site.blobs("aggregate") == stored
    offered = await site.desks[2].offered()
    assert offered is not None
    assert offered.mean.model.values.tobytes() == site.world.expected(*DEVICES)


async def test_a_worker_that_is_late_ends_the_round(handed: Site) -> None:
    await asyncio.sleep(WINDOW_S)

    assert await handed.push(3.5) is Verdict.LATE

    assert await handed.phase() == "abandoning"
    assert handed.blobs("pushed") == set()


async def test_weights_that_the_store_lost_cost_the_round_and_not_the_job(handed: Site) -> None:
    await handed.push(3.5)
    await handed.desks[0].conclude(SAID)
    [lost] = handed.blobs("pushed")
    handed.world.blob_store.forget(lost)

    await handed.member(1).finish()
    await handed.member(1).finish()

    [ended] = handed.member(1).recorder.ended
    assert ended.reason is Reason.AGGREGATE_FAILED
    assert handed.member(1).view.base.model.digest == handed.world.model.digest
