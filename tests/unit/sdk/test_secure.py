"""The steps of secure aggregation: what a device says, and when it says nothing more."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fl_cluster.aggregate.model import digest_of_tensors
from fl_cluster.aggregate.scale import exponent_for
from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.kernels import native
from fl_cluster.privacy.ring import packing
from fl_cluster.privacy.ring.demands import Demands
from fl_cluster.privacy.ring.device import Verify, accept_unsigned
from fl_cluster.privacy.ring.messages import Offer, Survivors
from fl_cluster.privacy.ring.server import ReportTags, Roster, Unmasking
from fl_cluster.sdk import DeviceIdentity
from fl_cluster.sdk.protection import Demand, Protector
from fl_cluster.sdk.secure import SecureDevice, SumTerms
from fl_cluster.sdk.training import RoundPlan
from fl_cluster.security.offer_proofs import OfferProof, is_offer_by
from fl_cluster.wire import packed
from fl_cluster.wire.messages import (
    CipherPublicParams,
    FLPlan,
    RequestSecureConfirm,
    RequestSecureOffer,
    RequestSecureRead,
    RequestSecureReveal,
    RequestSecureShare,
    ResponseFLJob,
    ResponseSecureStep,
    SecureRound,
    SecureTensor,
)

NAMES = ["a", "b", "c", "d", "e"]
NUMBER = 4
SIZES = {"w": 6, "b": 2}
EXPONENT = exponent_for(np.zeros(2, np.float32), 5)
ANNOUNCED = SecureRound(
    instance="run",
    attempt=1,
    least_devices=3,
    corrupt=0.05,
    dropout=0.2,
    safety_bits=40,
    failure_bits=20,
    cohort_size=5,
    tensors=tuple(SecureTensor(name, size, EXPONENT) for name, size in SIZES.items()),
)
MODEL = {"other": np.zeros(3, np.float32), "w": np.zeros((2, 3), np.float32)}
MODEL["b"] = np.zeros(2, np.float32)
PLAN = RoundPlan(NUMBER, 5, 1, 1, 0.1, "FEDERATED_LEARNING", "digits")
START = packing.Start(5, 1, 1, 0.1, "FEDERATED_LEARNING", digest_of_tensors(MODEL.items()))
ANNOUNCED = ANNOUNCED._replace(terms=packing.terms_digest(ANNOUNCED, START))
TERMS = SumTerms.of(ANNOUNCED, "digits", NUMBER)
TAKEN = ResponseSecureStep()


def update_of(name: str) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(NAMES.index(name))
    return {
        "other": np.ones(3, np.float32),
        "b": rng.standard_normal(2).astype(np.float32),
        "w": rng.standard_normal((2, 3)).astype(np.float32),
    }


def said(dialogue: Any, kind: type[Any]) -> Any:
    return packed.decode(kind, dialogue.question().body)


class Round:
    """Devices, and what a server makes of what they say."""

    def __init__(self, devices: dict[str, SecureDevice], verify: Verify = accept_unsigned) -> None:
        self.devices = devices
        offers = [
            packing.unpack_offer(said(device.preparation, RequestSecureOffer))
            for device in self.devices.values()
        ]
        self.roster = Roster(TERMS.ring, offers, verify)
        self.sharings = {}
        self.sent: dict[int, bytes] = {}
        for name, device in self.devices.items():
            device.preparation.take(TAKEN)
            read = said(device.preparation, RequestSecureRead)
            assert (read.fl_id, read.iteration, read.attempt) == (name, NUMBER, 1)
            device.preparation.take(packing.pack_roster(self.roster.view(name)))
            index = self.roster.index(name)
            sharing = packing.unpack_sharing(
                said(device.preparation, RequestSecureShare), self.roster.leaves.graph[index]
            )
            self.roster.check_sharing(sharing)
            self.sharings[index] = sharing

    @property
    def size(self) -> int:
        return len(self.devices)

    def deliver(self, *names: str) -> None:
        for name in names:
            preparation = self.devices[name].preparation
            preparation.take(TAKEN)
            delivery = self.roster.deliver(name, self.sharings)
            assert preparation.take(packing.pack_delivery(delivery, self.size))

    def upload(self, name: str) -> NDArray[np.int64]:
        fields = self.devices[name].fields(update_of(name), 32)
        assert fields.keys() == {"masked_terms", "masked_tags"}
        self.sent[self.roster.index(name)] = fields["masked_tags"].tobytes()
        return packing.unpack_terms(fields["masked_terms"], sum(SIZES.values()))

    def confirm(self, name: str, counted: frozenset[int]) -> Any:
        revelation = self.devices[name].revelation
        revelation.question()
        alive = self.roster.leaves.graph[self.roster.index(name)]
        tags = ReportTags(self.roster, frozenset(self.sharings), self.sent)
        sent = self.roster.survivors(name, counted & self.sent.keys(), tags).tags
        none = {other: bytes(16) for other in alive if other in counted}
        survivors = Survivors(counted, {**none, **sent})
        revelation.take(packing.pack_survivors(survivors, self.size))
        sent = said(revelation, RequestSecureConfirm)
        revelation.take(TAKEN)
        return packing.unpack_confirmation(sent, [each for each in alive if each in counted])


@pytest.fixture
def under_way(stream: Callable[[str], Any]) -> Round:
    return Round({name: SecureDevice(TERMS, name, stream(name)) for name in NAMES})


def plain_terms(name: str) -> NDArray[np.int64]:
    """What a server makes of the plain update."""
    update, total = update_of(name), np.zeros(8, np.int64)
    multiplier = 32 * 2.0**EXPONENT
    native.fold(total[:6], update["w"].reshape(-1), multiplier)
    native.fold(total[6:], update["b"], multiplier)
    return total


def test_the_unmasked_sum_has_the_bits_of_the_plain_one(under_way: Round) -> None:
    under_way.deliver(*NAMES)
    survivors = ["a", "b", "d", "e"]
    counted = frozenset(map(under_way.roster.index, survivors))
    total = np.zeros(8, np.int64)
    for name in survivors:
        total += under_way.upload(name)
    confirmations = {
        under_way.roster.index(name): under_way.confirm(name, counted) for name in survivors
    }
    reveals = {}
    for name in survivors:
        revelation = under_way.devices[name].revelation
        tags = under_way.roster.tags_for(name, confirmations)
        assert not revelation.take(packing.pack_tags(tags, under_way.size))
        sent = said(revelation, RequestSecureReveal)
        reveals[under_way.roster.index(name)] = packing.unpack_reveal(sent, under_way.size)
        assert revelation.take(TAKEN)
    commitments = {index: each.commitment for index, each in under_way.sharings.items()}

    Unmasking(under_way.roster, commitments, counted).apply(total, reveals)

    assert total.tolist() == sum(plain_terms(name) for name in survivors).tolist()  # type: ignore[union-attr]


def test_an_upload_says_nothing_of_the_update(under_way: Round) -> None:
    under_way.deliver("a", "b")

    masked = under_way.upload("a")

    assert not np.any(masked == plain_terms("a"))
    assert np.abs(masked >> 40).min() > 0


def test_an_update_is_masked_once(under_way: Round) -> None:
    under_way.deliver("a")
    under_way.upload("a")

    with pytest.raises(AssertionError, match="masked once"):
        under_way.upload("a")


def test_a_delivery_that_is_not_the_neighbours_is_refused_before_training(
    under_way: Round,
) -> None:
    preparation = under_way.devices["a"].preparation
    preparation.take(TAKEN)
    del under_way.sharings[under_way.roster.index("b")]
    delivery = packing.pack_delivery(under_way.roster.deliver("b", under_way.sharings), 5)

    with pytest.raises(PeerProtocolError):
        preparation.take(delivery)
    with pytest.raises(PeerProtocolError):
        preparation.question()


@pytest.mark.parametrize("survivors", [["b", "c", "d"], ["a", "b"], []])
def test_a_list_that_is_not_safe_is_not_confirmed(under_way: Round, survivors: list[str]) -> None:
    under_way.deliver(*NAMES)

    with pytest.raises(PeerProtocolError):
        under_way.confirm("a", frozenset(map(under_way.roster.index, survivors)))
    with pytest.raises(PeerProtocolError):
        under_way.devices["a"].revelation.question()


def test_neighbours_that_saw_another_list_get_no_share(under_way: Round) -> None:
    under_way.deliver(*NAMES)
    for name in NAMES:
        under_way.upload(name)
    index, everybody = under_way.roster.index, frozenset(range(5))
    confirmations = {
        index(name): under_way.confirm(name, everybody - {index("c")}) for name in ["b", "d", "e"]
    }
    under_way.confirm("a", everybody)
    tags = under_way.roster.tags_for("a", confirmations)

    with pytest.raises(PeerProtocolError, match="that confirm the list of survivors, found 0 of 3"):
        under_way.devices["a"].revelation.take(packing.pack_tags(tags, 5))


def test_an_element_out_of_range_is_the_devices_own_fault(under_way: Round) -> None:
    under_way.deliver("a")
    huge = {**update_of("a"), "w": np.full((2, 3), 1e9, np.float32)}

    with pytest.raises(CallerProtocolError, match="the update does not fit into the sum: tensor 0"):
        under_way.devices["a"].fields(huge, 32)


def test_a_tensor_that_the_model_does_not_have_is_refused(under_way: Round) -> None:
    under_way.deliver("a")
    lacking = {"w": update_of("a")["w"]}

    with pytest.raises(PeerProtocolError, match="the job adds 2 elements of tensor 'b'"):
        under_way.devices["a"].fields(lacking, 32)


def demanded(announced: SecureRound | None) -> Demand:
    cipher = CipherPublicParams(encrypt_type="SECURE_AGGREGATION")
    plan = FLPlan(fl_name="digits", cipher=cipher)
    return Demand.of(ResponseFLJob(fl_plan_config=plan, secure=announced))


def with_tensor(name: str, elements: int, exponent: int = EXPONENT) -> SecureRound:
    """The announcement with this in place of tensor `w`."""
    rest = tuple(each for each in ANNOUNCED.tensors or () if each.weight_fullname != "w")
    return ANNOUNCED._replace(tensors=(SecureTensor(name, elements, exponent), *rest))


@pytest.mark.parametrize(
    ("announced", "told"),
    [
        (None, "without saying of what"),
        (ANNOUNCED._replace(tensors=()), "without saying of what"),
        (ANNOUNCED._replace(least_devices=1), "hides nothing below 2 devices"),
        (ANNOUNCED._replace(least_devices=2), "at least 3 reports in a sum, found 2"),
        (ANNOUNCED._replace(safety_bits=10), "safety against 0.05 corrupt devices"),
        (ANNOUNCED._replace(corrupt=0.01), "safety against 0.05 corrupt devices"),
        (ANNOUNCED._replace(corrupt=math.nan), "together below 1, found nan and 0.2"),
        (ANNOUNCED._replace(dropout=math.nan), "together below 1, found 0.05 and nan"),
        (ANNOUNCED._replace(corrupt=math.inf), "together below 1"),
        (ANNOUNCED._replace(failure_bits=-(2**31)), "failure_bits from 0 to 10000"),
        (ANNOUNCED._replace(failure_bits=2**31 - 1), "failure_bits from 0 to 10000"),
        (ANNOUNCED._replace(safety_bits=-(2**31)), "safety_bits and"),
        (ANNOUNCED._replace(safety_bits=2**31 - 1), "safety_bits and"),
        (with_tensor("w", -1), "expected at least 0 elements"),
        (with_tensor("w", 2**31 - 1), "the job adds 2147483647 elements of tensor 'w', which"),
        (with_tensor("w", 6, 5_000), "an exponent within 1000, found 6 and 5000"),
        (with_tensor("w", 6, -(2**31)), "an exponent within 1000"),
        (with_tensor("b", 2), "adds a tensor twice"),
        (with_tensor("elsewhere", 6), "elements of tensor 'elsewhere', which"),
    ],
)
def test_a_round_that_protects_less_than_a_device_demands_is_refused(
    announced: SecureRound | None, told: str
) -> None:
    plan = RoundPlan(NUMBER, 5, 1, 1, 0.1, "FEDERATED_LEARNING", "digits")

    with pytest.raises(PeerProtocolError, match=told):
        Protector().exchange(demanded(announced), "a", plan, None, MODEL)


def resealed(announced: SecureRound, start: packing.Start = START) -> SecureRound:
    """What a lying server announces: the digest fits what it says."""
    return announced._replace(terms=packing.terms_digest(announced, start))


@pytest.mark.parametrize(
    ("announced", "told"),
    [
        (ANNOUNCED._replace(terms=None), "not those that this device was told"),
        (resealed(ANNOUNCED, START._replace(model=bytes(32))), "not those that this device"),
        (resealed(ANNOUNCED, START._replace(learning_rate=0.0)), "not those that this device"),
        (resealed(ANNOUNCED, START._replace(learning_rate=0.1 + 1e-16)), "not those that this"),
        (resealed(ANNOUNCED, START._replace(epochs=0)), "not those that this device"),
        (ANNOUNCED._replace(cohort_size=6), "not those that this device was told"),
        (ANNOUNCED._replace(tensors=ANNOUNCED.tensors[::-1]), "not those that this device"),
        (resealed(with_tensor("w", 6, EXPONENT - 1)), f"an exponent of {EXPONENT} for such"),
        (resealed(with_tensor("w", 6, -1_000)), "for such weights and 5 devices, found -1000"),
    ],
)
def test_a_device_that_is_told_other_terms_than_others_has_no_part_in_their_sum(
    announced: SecureRound, told: str
) -> None:
    """Servers would let all but one send what they know, or what vanishes beside the one."""
    with pytest.raises(PeerProtocolError, match=told):
        Protector().exchange(demanded(announced), "a", PLAN, None, MODEL)


def test_devices_that_were_told_different_terms_are_not_in_one_round() -> None:
    others = [
        resealed(ANNOUNCED, START._replace(model=bytes(32))),
        resealed(ANNOUNCED, START._replace(learning_rate=0.0)),
        resealed(with_tensor("w", 6, -1_000)),
        resealed(ANNOUNCED._replace(cohort_size=6)),
        resealed(ANNOUNCED, START._replace(learning_rate=1e-50)),
    ]
    rings = [packing.ring_round(each, "digits", NUMBER) for each in (ANNOUNCED, *others)]
    # The name of the job does not run into that of the run.
    rings += [
        packing.ring_round(ANNOUNCED._replace(instance=instance), job, NUMBER)
        for job, instance in (("digits", "a/b"), ("digits/a", "b"))
    ]
    leaves = {Offer("a", b"", b"", b"").leaf(ring) for ring in rings}

    assert len({ring.digest for ring in rings}) == len(leaves) == len(rings)


def test_a_sum_that_is_scaled_for_a_crowd_is_not_one_of_a_few() -> None:
    """The larger the cohort is said to be, the fewer bits of a small update are left."""
    TERMS.check_cohort(3)

    with pytest.raises(PeerProtocolError, match="counts for 5 devices, and only 2 take part"):
        TERMS.check_cohort(2)


def test_the_owner_of_a_device_may_demand_more_or_less() -> None:
    plan = RoundPlan(NUMBER, 5, 1, 1, 0.1, "FEDERATED_LEARNING", "digits")

    with pytest.raises(PeerProtocolError, match="at least 5 reports in a sum, found 3"):
        Protector(demands=Demands(least_devices=5)).exchange(
            demanded(ANNOUNCED), "a", plan, None, MODEL
        )
    lax = demanded(ANNOUNCED._replace(corrupt=0.0))
    assert Protector(demands=Demands(corrupt=0.0)).exchange(lax, "a", plan, None, MODEL)


def test_texts_that_are_not_utf_8_are_bound_like_any_other() -> None:
    rings = [
        packing.ring_round(ANNOUNCED._replace(instance=instance), "digits", NUMBER)
        for instance in ("run\udcff", "run\udcfe")
    ]
    offers = [Offer(name, b"", b"", b"") for name in ("a\udcff", "a\udcfe")]

    assert rings[0].digest != rings[1].digest
    assert offers[0].leaf(rings[0]) != offers[1].leaf(rings[0])


def test_the_round_that_devices_bind_their_messages_to_is_the_servers() -> None:
    plan = RoundPlan(NUMBER, 5, 1, 1, 0.1, "FEDERATED_LEARNING", "digits")
    demand = demanded(ANNOUNCED)

    exchange = Protector().exchange(demand, "a", plan, None, MODEL)

    assert demand.is_masked
    assert isinstance(exchange, SecureDevice)
    assert exchange._terms.ring.digest == packing.ring_round(ANNOUNCED, "digits", NUMBER).digest


@pytest.fixture(scope="module")
def identities(device_authority: Any) -> list[DeviceIdentity]:
    chains = [device_authority.device(f"phone{number}") for number in range(3)]
    return [DeviceIdentity(chain.key, chain.pem) for chain in chains]


def is_signed(offer: Offer, signed: bytes) -> bool:
    return is_offer_by(offer.device, offer.signature, signed)


def proven(identities: list[DeviceIdentity], stream: Any) -> dict[str, SecureDevice]:
    return {
        each.device_id: SecureDevice(TERMS, each.device_id, stream(str(n)), each)
        for n, each in enumerate(identities)
    }


def test_devices_with_certificates_sign_their_offers_and_verify_the_others(
    identities: list[DeviceIdentity], stream: Any
) -> None:
    under_way = Round(proven(identities, stream), is_signed)

    under_way.deliver(*under_way.devices)

    assert len(under_way.sharings) == 3


def test_an_offer_of_another_authority_or_without_proof_is_refused(
    identities: list[DeviceIdentity], stream: Any, make_device_authority: Any
) -> None:
    chain = make_device_authority().device("foreign")
    foreign = DeviceIdentity(chain.key, chain.pem)

    with pytest.raises(PeerProtocolError, match=f"device {foreign.device_id!r}: equip_cert"):
        Round(proven([*identities[:2], foreign], stream), is_signed)
    devices = proven(identities[:2], stream)
    devices["z"] = SecureDevice(TERMS, "z", stream("z"))
    with pytest.raises(PeerProtocolError, match="device 'z': expected two certificates"):
        Round(devices, lambda offer, signed: True)


def test_a_proof_is_of_one_device_and_one_offer(identities: list[DeviceIdentity]) -> None:
    one, two = identities[:2]
    proof = OfferProof(one.chain[0], one.chain[1], one.sign(b"offer"))
    packed_proof = proof.pack()

    assert OfferProof.unpack(packed_proof) == proof
    assert is_offer_by(one.device_id, packed_proof, b"offer")
    assert not is_offer_by(one.device_id, packed_proof, b"other")
    assert not is_offer_by(two.device_id, packed_proof, b"offer")
    others_key = OfferProof(two.chain[0], one.chain[1], two.sign(b"offer")).pack()
    assert not is_offer_by(one.device_id, others_key, b"offer")
    assert not is_offer_by(one.device_id, b"", b"offer")
    assert not is_offer_by(one.device_id, packed_proof[:-1], b"offer")
    assert not is_offer_by(one.device_id, packed_proof + b"x", b"offer")
