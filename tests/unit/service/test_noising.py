"""Noise of a round: paid for first, the same whoever finishes, and never beyond the budget."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import StoreUnavailable
from fl_cluster.privacy.accountant import GaussianRelease, Ledger
from fl_cluster.privacy.central_dp import SeededStream, add_noise
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason
from fl_cluster.service.noising import NoiseDesk
from fl_cluster.service.spending import Spending

DEVICES = ("d1", "d2", "d3", "d4")
DELTA = 1e-5


def central(**more: Any) -> dict[str, Any]:
    noise = {"privacy.noise": "central", "privacy.clip_norm": 0.5, "privacy.noise_multiplier": 2.0}
    return {"cluster": noise | {f"privacy.{name}": value for name, value in more.items()}}


def epsilon(rounds: int, multiplier: float = 2.0) -> float:
    return Ledger().after(GaussianRelease(multiplier), rounds).epsilon(DELTA)


async def collect(world: Any) -> None:
    """Let the current round have all its updates, two at each of two members."""
    for member in world.members:
        await member.view.refresh()
    await world.admit(*DEVICES)
    for n, device in enumerate(DEVICES):
        member = world.members[n % len(world.members)]
        answer = await member.collector.collect(world.arrival(device, world.update(is_plain=True)))
        assert answer.verdict is Verdict.ACCEPTED
    for member in world.members:
        await member.view.refresh()


@pytest.fixture
async def noisy(world: Any) -> Any:
    world.settings = central()
    await world.open()
    await world.member("a")
    await world.member("b")
    await collect(world)
    return world


def expected(world: Any, seed: bytes) -> bytes:
    """The model that floats make: clipped steps, the noise of this seed, and the mean."""
    steps = np.zeros(world.layout.size)
    base = world.model.values.astype(np.float64)
    for device in DEVICES:
        step = np.zeros(world.layout.size)
        for place, values in world.sent[device].arrays:
            step[place.start : place.stop] = values - base[place.start : place.stop]
        steps += step * min(1.0, 0.5 / np.linalg.norm(step))
    stream = SeededStream(seed)
    for place in world.layout.summed:
        noise = np.zeros(place.tensor.size, np.int64)
        add_noise(noise, 1.0, 40, stream)
        steps[place.start : place.stop] += noise / 2.0**40
    return base + steps / len(DEVICES)


async def test_the_model_is_the_mean_of_clipped_steps_and_noise(noisy: Any) -> None:
    ref = noisy.members[0].view.snapshot.ref

    assert await noisy.members[0].finisher.finish()

    model = noisy.members[0].view.base.model.values
    assert np.abs(model - expected(noisy, noisy.privacy._seeds[ref])).max() < 1e-6
    changed = model != noisy.model.values
    for place in noisy.layout.places:
        assert changed[place.start : place.stop].all() == place.tensor.is_aggregated


async def test_what_nobody_sent_gets_noise_all_the_same(world: Any) -> None:
    world.settings = central()
    await world.open(report_goal=1, cohort_size=1)
    member = await world.member()
    await world.admit("d1")
    await member.collector.collect(world.arrival("d1", world.update(names=["layer.bias"])))

    assert await member.finish()

    place = world.layout.find("layer.weight")
    before = world.model.values[place.start : place.stop]
    after = member.view.base.model.values[place.start : place.stop]
    assert (before != after).all()
    assert member.view.base.record.left_out == ()


async def test_who_takes_over_comes_to_the_same_bits_and_pays_nothing(noisy: Any) -> None:
    first, second = noisy.members
    first.recorder.faults.append(StoreUnavailable("record", "the process died here"))
    with pytest.raises(StoreUnavailable):
        await first.finisher.finish()
    [died_with] = [name for name in noisy.blob_store.names() if name.startswith("model-1.1")]
    await noisy.round_store.member_lost("a")

    assert await second.finish()

    assert second.view.base.record.blob == died_with
    assert second.recorder.ended[0].spent.charges == {"central 2.0": 1}


async def test_what_was_spent_is_in_the_record_of_each_round(noisy: Any) -> None:
    for _ in range(2):
        assert await noisy.members[0].finish()
        await collect(noisy)
    assert await noisy.members[0].finish()

    spent = [ended.spent for ended in noisy.members[0].recorder.ended]
    assert [each.rounds for each in spent] == [1, 2, 3]
    assert [each.epsilon for each in spent] == [epsilon(1), epsilon(2), epsilon(3)]


async def test_the_job_ends_before_the_round_that_would_overspend(world: Any) -> None:
    world.settings = central(epsilon_budget=epsilon(2) + 0.1)
    await world.open()
    member = await world.member("a")
    for _ in range(2):
        assert not member.view.snapshot.is_closed
        await collect(world)
        assert await member.finish()

    assert member.view.snapshot.is_closed
    assert member.view.snapshot.ref.number == 3
    assert member.recorder.ended[-1].reason is None
    assert member.recorder.ended[-1].spent.is_over


async def test_a_round_that_opened_without_budget_is_not_aggregated(world: Any) -> None:
    world.settings = central(epsilon_budget=epsilon(2) + 0.1)
    await world.open()
    member = await world.member("a")
    await collect(world)
    await world.privacy.learn({"central 2.0": 2})

    assert await member.finish()
    assert member.view.snapshot.phase == "abandoning"
    assert await member.finish()

    assert member.recorder.ended[0].reason is Reason.BUDGET_SPENT
    assert member.view.base.model.digest == world.model.digest
    assert member.view.snapshot.is_closed
    assert await world.privacy.charges() == {"central 2.0": 2}


async def test_a_paid_round_is_finished_although_nothing_is_left(world: Any) -> None:
    world.settings = central(epsilon_budget=epsilon(1) + 0.1)
    await world.open()
    first, second = await world.member("a"), await world.member("b")
    await collect(world)
    first.recorder.faults.append(StoreUnavailable("record", "the process died here"))
    with pytest.raises(StoreUnavailable):
        await first.finisher.finish()
    await world.round_store.member_lost("a")

    assert await second.finish()

    assert second.recorder.ended[0].reason is None
    assert second.view.base.model.digest != world.model.digest
    assert second.view.snapshot.is_closed


async def test_a_round_of_a_new_run_is_given_up_when_nothing_is_left(world: Any) -> None:
    world.settings = central(epsilon_budget=epsilon(1) + 0.1)
    await world.open()
    member = await world.member("a")
    await world.privacy.learn({"central 2.0": 1})
    desk = NoiseDesk(world.privacy, Spending(world.privacy))

    await desk.watch(member.view, world.round_store)

    assert await member.finish()
    assert member.recorder.ended[0].reason is Reason.BUDGET_SPENT
    assert member.view.snapshot.is_closed


async def test_without_noise_nothing_is_charged_or_told(job: Any) -> None:
    member = await job.member()
    await collect(job)

    assert await member.finish()

    assert member.recorder.ended[0].spent is None
    assert await job.privacy.charges() == {}


async def test_noise_of_devices_is_charged_for_rounds_that_fail_too(world: Any) -> None:
    world.settings = {"encrypt_type": "DP_ENCRYPT", "dp_eps": 2.0, "dp_delta": 1e-5}
    await world.open()
    member = await world.member()
    await world.admit("d1")
    ref = member.view.snapshot.ref
    await world.round_store.abort(ref, Reason.REPORT_WINDOW)
    assert await member.finish()
    await collect(world)
    assert await member.finish()

    [(name, count)] = (await world.privacy.charges()).items()
    assert (name.split()[0], count) == ("local", 2)
    assert 2.0 < member.recorder.ended[-1].spent.epsilon < 14.0


async def test_a_round_that_nobody_joined_costs_devices_nothing(world: Any) -> None:
    world.settings = {"encrypt_type": "DP_ENCRYPT"}
    await world.open()
    member = await world.member()
    await world.round_store.abort(member.view.snapshot.ref, Reason.JOB_DISABLED)

    assert await member.finish()

    assert await world.privacy.charges() == {}


async def test_a_store_that_went_back_in_time_is_told_what_was_spent(world: Any) -> None:
    spending = Spending(world.privacy)
    await world.privacy.learn({"central 2.0": 5, "local 0.5": 1})
    await spending.charges()
    world.privacy._charges = {"central 2.0": 3}

    assert await spending.charges() == {"central 2.0": 5, "local 0.5": 1}
    assert await world.privacy.charges() == {"central 2.0": 5, "local 0.5": 1}


async def test_the_ledger_is_the_accountants(world: Any) -> None:
    spending = Spending(world.privacy)
    await spending.recall({"central 1.5": 10, "central 4.0": 3})
    world.settings = central()
    await world.open()
    member = await world.member()

    spent = await spending.spent(member.view.job.hyper_parameters)

    ledger = Ledger().after(GaussianRelease(1.5), 10).after(GaussianRelease(4.0), 3)
    assert spent is not None
    assert spent.epsilon == ledger.epsilon(DELTA)
    assert spent.rounds == 13
    assert not spent.is_over


async def test_a_worker_gets_a_mean_that_has_its_noise(world: Any) -> None:
    world.settings = central()
    await world.open(is_hybrid=True)
    member = await world.member("a")
    await collect(world)
    ref = member.view.snapshot.ref

    await member.finish()
    await member.view.refresh()

    assert member.view.snapshot.is_retraining
    mean = await member.view.load(member.view.snapshot.share.aggregate)
    assert np.abs(mean.values - expected(world, world.privacy._seeds[ref])).max() < 1e-6
    assert await world.privacy.charges() == {"central 2.0": 1}


async def test_a_long_clipping_does_not_hold_up_the_server(world: Any, monkeypatch: Any) -> None:
    hops = []
    real = asyncio.to_thread

    async def noted(work: Any, *arguments: Any) -> Any:
        hops.append(work)
        return await real(work, *arguments)

    world.settings = central()
    await world.open()
    member = await world.member("a")
    await world.admit("d1")
    monkeypatch.setattr("fl_cluster.service.ledger.INLINE_ELEMENTS", 16 * 24 - 1)
    monkeypatch.setattr(asyncio, "to_thread", noted)

    await member.collector.collect(world.arrival("d1"))

    assert len(hops) == 1
