"""Whether what the cluster hands on from another device is by that device: its certificates.

    own equipment authority -> the other's equipment certificate -> its key attestation

All devices of a masked round have one equipment authority; the other's id is the SHA-256 of its
equipment certificate.  Revocation is the servers' to judge: a device has no list.
The `cryptography` package is imported only when there is something to verify.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fl_cluster.errors import PeerProtocolError
from fl_cluster.sdk.identity import DeviceIdentity, one_line, pem_text

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from fl_cluster.privacy.ring.device import Identity as RingIdentity
    from fl_cluster.privacy.ring.messages import Offer

FRESH_MS = 600_000
"""How far the time of a signature may be from this device's clock, as existing devices have it."""


def certificates_of(identity: DeviceIdentity) -> tuple[str, str]:
    """What a device shows to others: attestation and equipment certificate, without armour."""
    return one_line(identity.chain[0]), one_line(identity.chain[1])


@dataclass(slots=True)
class Peers:
    """The other devices of a round, as far as they have proved who they are."""

    identity: DeviceIdentity
    _known: dict[str, Certificate] = field(default_factory=dict)

    def introduce(self, device: str, certificates: Sequence[str]) -> None:
        """Believe that `device` is who it says; PeerProtocolError names what is wrong."""
        from fl_cluster.security import attestation

        if len(certificates) < 2:
            raise PeerProtocolError(
                f"device {device!r}: expected its attestation and its equipment certificate,"
                f" found {len(certificates)} certificates"
            )
        service, equipment = (pem_text(each) for each in certificates[:2])
        try:
            if attestation.device_id_of(equipment) != device:
                raise attestation.Untrusted("its id is not the SHA-256 of its equip_cert")
            texts = attestation.ChainTexts(service, equipment, self.identity.chain[2])
            chain = attestation.verify_chain(texts, None)
            trust = attestation.Trust(())
            attestation.check_now(chain, trust, int(time.time() * 1000))
        except attestation.Untrusted as exc:
            raise PeerProtocolError(f"device {device!r}: {exc}") from exc
        self._known[device] = chain.attestation

    def introduce_by_offer(self, device: str, packed: bytes) -> bytes:
        """The same by the proof that stands in an offer; the signature in it."""
        from fl_cluster.security.attestation import Untrusted
        from fl_cluster.security.offer_proofs import OfferProof

        try:
            proof = OfferProof.unpack(packed)
        except Untrusted as exc:
            raise PeerProtocolError(f"device {device!r}: {exc}") from exc
        self.introduce(device, (one_line(proof.key_attestation), one_line(proof.equip_cert)))
        return proof.signature

    def check(self, device: str, signature: bytes | None, signed: bytes) -> None:
        """PeerProtocolError unless a device that was introduced signed these bytes."""
        from fl_cluster.security import attestation

        certificate = self._known.get(device)
        if certificate is None:
            raise PeerProtocolError(f"device {device!r} has not shown certificates")
        try:
            attestation.verify_signature(certificate, signature or b"", signed)
        except attestation.Untrusted as exc:
            raise PeerProtocolError(f"device {device!r}: {exc}") from exc


def ring_identity(identity: DeviceIdentity) -> RingIdentity:
    """How a device with certificates signs its offer and verifies its neighbours'."""
    from fl_cluster.privacy.ring.device import Identity
    from fl_cluster.security.offer_proofs import OfferProof

    peers = Peers(identity)

    def sign(text: bytes) -> bytes:
        return OfferProof(identity.chain[0], identity.chain[1], identity.sign(text)).pack()

    def verify(offer: Offer, signed: bytes) -> bool:
        signature = peers.introduce_by_offer(offer.device, offer.signature)
        peers.check(offer.device, signature, signed)
        return True

    return Identity(sign, verify)


def check_fresh(device: str, timestamp: str | None) -> None:
    """PeerProtocolError unless the device signed at about this time."""
    from fl_cluster.security.attestation import time_of

    signed_ms = time_of(timestamp or "")
    if signed_ms is None or abs(int(time.time() * 1000) - signed_ms) > FRESH_MS:
        raise PeerProtocolError(
            f"device {device!r}: expected keys signed within {FRESH_MS // 60_000} minutes,"
            f" found {timestamp!r}"
        )
