"""Taking masks off a sum, from what devices have told: exactly, or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Tensor
from fl_cluster.aggregate.partial import Partial
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import StoreCorrupt
from fl_cluster.privacy.draws import SystemStream
from fl_cluster.privacy.masks import Layout, mask_count, parts
from fl_cluster.privacy.pairwise import answer, in_order, mask, new_keys, seal
from fl_cluster.privacy.shamir import ANNOUNCED_PRIME, Share, minimal_bytes
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.plan import ExchangePlan
from fl_cluster.service.told import kept
from fl_cluster.service.unmasking import (
    CancellingUnmasker,
    PairwiseUnmasker,
    StaysMasked,
    UnmaskerOfJob,
    check_same_devices,
)
from fl_cluster.wire import messages

DEVICES = ("a", "b", "c", "d")
TENSORS = (
    Tensor("bias", (3,)),
    Tensor("steps", (5,), is_aggregated=False),
    Tensor("weight", (2, 4)),
)
NEEDED = 2


def parameters(layout: Layout) -> SharedParameters:
    text = {
        "fl_iteration_num": 20,
        "start_fl_job_threshold": 4,
        "update_model_ratio": 1.0,
        "start_fl_job_time_window": 30_000,
        "update_model_time_window": 30_000,
        "global_iteration_time_window": 60_000,
        "client_epoch_num": 1,
        "client_batch_size": 32,
        "client_learning_rate": 0.01,
        "upload_sparse_rate": 0.4,
        "encrypt_type": "PW_ENCRYPT",
        "reconstruct_secrets_threshold": NEEDED,
        "cluster": {"cluster.pw_mask_layout": layout.value},
    }
    return SharedParameters.parse(json.dumps(text))


class Masked:
    """A round whose devices have told all they had to, and the sum that came of it."""

    def __init__(self, world: Any, layout: Layout) -> None:
        self.world = world
        self.layout = layout
        self.keys = {name: new_keys(SystemStream()) for name in DEVICES}
        self.published = {name: keys.public for name, keys in self.keys.items()}
        self.seeds: dict[str, bytes] = {}
        self.held: dict[str, dict[str, bytes]] = {name: {} for name in DEVICES}
        for name, keys in self.keys.items():
            others = in_order(name, self.published, DEVICES)
            stream = SystemStream()
            sealed = seal(keys, others, needed=NEEDED, prime=ANNOUNCED_PRIME, stream=stream)
            self.seeds[name] = sealed.seed
            for other, share in sealed.shares.items():
                self.held[other][name] = share

    async def tell(self, step: Step, device: str, message: bytes = b"") -> None:
        store = self.world.round_store
        verdict = await store.tell(self.world.first, step, device, message)
        assert verdict is Verdict.ACCEPTED

    async def prepare(self) -> None:
        await self.world.admit(*DEVICES)
        for name, keys in self.published.items():
            fields = dict(zip(("c_pk", "s_pk", "ind_iv", "pw_iv", "pw_salt"), keys, strict=True))
            await self.tell(
                Step.KEYS, name, kept(messages.RequestExchangeKeys(fl_id=name, **fields))
            )
        for step in (Step.KEYS_READ, Step.SHARES):
            for name in DEVICES:
                await self.tell(step, name, kept(messages.RequestShareSecrets(fl_id=name)))

    def sum_of(self, counted: Sequence[str], member: Any) -> tuple[Partial, dict[str, Any]]:
        """The masked sum of random values, and the plain one by tensor."""
        rng, sizes = np.random.default_rng(3), [tensor.size for tensor in TENSORS]
        plain = {tensor.name: np.zeros(tensor.size) for tensor in TENSORS}
        total = Partial(self.world.layout, member.view.scaling)
        for name in counted:
            peers = in_order(name, self.published, DEVICES)
            count = mask_count(sizes, self.layout)
            noise = mask(name, self.keys[name], peers, count, self.seeds[name])
            for tensor, part in zip(TENSORS, parts(noise, sizes, self.layout), strict=True):
                values = rng.normal(size=tensor.size).astype(np.float32)
                plain[tensor.name] += values
                place = self.world.layout.find(tensor.name)
                if tensor.is_aggregated:
                    scale = 2.0 ** total.scaling.exponents[place.sum_index]
                    sums = np.rint((values + part).astype(np.float64) * scale).astype(np.int64)
                    total.sums_of(place)[:] += sums
                    total.weights[place.sum_index] += 1
        return total, plain

    async def reveal(self, name: str, counted: Sequence[str], **lies: Share) -> None:
        shares = answer(self.keys[name], self.held[name], self.published, counted) | lies
        entries = tuple(
            messages.ClientShare(owner, minimal_bytes(share.y), share.x)
            for owner, share in shares.items()
        )
        message = messages.SendReconstructSecret(name, entries)
        store = self.world.round_store
        exchange = store._exchanges[self.world.first]
        store._exchanges[self.world.first] = exchange.add(Step.REVEALS, name, kept(message), 0)

    def unmasker(self) -> PairwiseUnmasker:
        return PairwiseUnmasker(self.world.round_store, lambda: parameters(self.layout))


@pytest.fixture
async def masked(world):
    plan = ExchangePlan(keys=4, shares=4, signatures=0, reveals=3, window_ms=5_000)
    await world.open(tensors=TENSORS, exchange=plan)

    async def make(layout: Layout = Layout.RESTART) -> Masked:
        made = Masked(world, layout)
        await made.prepare()
        return made

    return make


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("counted", [("a", "b", "c", "d"), ("a", "b", "d"), ("b", "c", "d")])
async def test_what_is_left_is_the_plain_sum_of_the_counted(masked, world, layout, counted):
    made, member = await masked(layout), await world.member()
    total, plain = made.sum_of(counted, member)
    for name in counted[:3]:
        await made.reveal(name, counted)

    await made.unmasker().unmask(world.first, counted, total)

    for place in world.layout.summed:
        scale = 2.0 ** total.scaling.exponents[place.sum_index]
        found = total.sums_of(place) / scale
        np.testing.assert_allclose(found, plain[place.tensor.name], atol=2e-6)


async def test_whoever_unmasks_comes_to_the_same_bits(masked, world):
    made, member, counted = await masked(), await world.member(), ("a", "b", "c")
    first, _ = made.sum_of(counted, member)
    second = Partial(world.layout, first.scaling, first.sums.copy(), list(first.weights))
    for name in counted:
        await made.reveal(name, counted)

    await made.unmasker().unmask(world.first, counted, first)
    await made.unmasker().unmask(world.first, counted[::-1], second)

    assert first.sums.tobytes() == second.sums.tobytes()


async def test_too_few_shares_leave_the_sum_masked(masked, world):
    made, member, counted = await masked(), await world.member(), ("a", "b", "c")
    total, _ = made.sum_of(counted, member)
    before = total.sums.copy()
    await made.reveal("a", counted)

    with pytest.raises(StaysMasked, match="device 'a': expected 2 shares, found 0"):
        await made.unmasker().unmask(world.first, counted, total)

    assert (total.sums == before).all()


async def test_shares_that_contradict_each_other_leave_it_masked(masked, world):
    made, member, counted = await masked(), await world.member(), DEVICES
    total, _ = made.sum_of(counted, member)
    await made.reveal("a", counted)
    await made.reveal("b", counted)
    await made.reveal("c", counted, d=Share(3, 12345))

    with pytest.raises(StaysMasked, match="device 'd': the shares contradict each other"):
        await made.unmasker().unmask(world.first, counted, total)


async def test_one_wrong_share_of_a_key_is_survived(masked, world):
    made, member, counted = await masked(), await world.member(), ("a", "b", "c")
    total, plain = made.sum_of(counted, member)
    await made.reveal("a", counted, d=Share(1, 12345))
    await made.reveal("b", counted)
    await made.reveal("c", counted)

    await made.unmasker().unmask(world.first, counted, total)

    place = world.layout.find("bias")
    scale = 2.0 ** total.scaling.exponents[place.sum_index]
    np.testing.assert_allclose(total.sums_of(place) / scale, plain["bias"], atol=2e-6)


async def test_a_counted_device_without_keys_is_a_damaged_store(masked, world):
    made, member = await masked(), await world.member()
    total, _ = made.sum_of(("a", "b", "c"), member)

    with pytest.raises(StoreCorrupt, match="'zz' took part without keys"):
        await made.unmasker().unmask(world.first, ("a", "b", "zz"), total)


async def test_tensors_of_different_devices_cannot_be_told_apart_from_masks(job):
    member = await job.member()
    total = Partial(job.layout, member.view.scaling)
    check_same_devices(total)
    total.weights[0] = 7
    check_same_devices(total)
    total.weights[1] = 8

    with pytest.raises(StaysMasked, match="did not all upload the same tensors"):
        await CancellingUnmasker().unmask(job.first, (), total)


async def test_a_job_is_unmasked_in_its_own_way(job):
    member = await job.member()
    total = Partial(job.layout, member.view.scaling)
    total.weights[:] = [1, 2]
    kinds = {"PW_ENCRYPT": CancellingUnmasker()}

    own = UnmaskerOfJob(lambda: parameters(Layout.RESTART), kinds)

    with pytest.raises(StaysMasked):
        await own.unmask(job.first, (), total)
