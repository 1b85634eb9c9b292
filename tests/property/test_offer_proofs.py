"""Whatever stands in an offer for a proof is judged, and only the untouched one is believed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_cluster.sdk import DeviceIdentity
from fl_cluster.security.attestation import Untrusted
from fl_cluster.security.offer_proofs import OfferProof, is_offer_by

DEVICE = "a" * 64


@pytest.fixture(scope="module")
def identity(device_authority: Any) -> DeviceIdentity:
    chain = device_authority.device("phone")
    return DeviceIdentity(chain.key, chain.pem)


@pytest.fixture(scope="module")
def proof(identity: DeviceIdentity) -> bytes:
    return OfferProof(identity.chain[0], identity.chain[1], identity.sign(b"offer")).pack()


@given(st.binary(max_size=400))
def test_any_bytes_are_a_proof_or_untrusted(packed: bytes) -> None:
    assert not is_offer_by(DEVICE, packed, b"offer")
    try:
        proof = OfferProof.unpack(packed)
    except Untrusted:
        return
    assert proof.pack() == packed


@given(at=st.integers(0, 10**6), to=st.integers(1, 255))
def test_a_proof_with_one_byte_changed_is_not_believed(
    identity: DeviceIdentity, proof: bytes, at: int, to: int
) -> None:
    packed = bytearray(proof)
    packed[at % len(packed)] ^= to

    assert not is_offer_by(identity.device_id, bytes(packed), b"offer")
