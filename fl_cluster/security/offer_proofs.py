"""Who made an offer of secure aggregation: what stands in its `signature` where devices have
certificates.

    key attestation (DER), equipment certificate (DER), signature    each after its length, 4 bytes

The device's id is the SHA-256 of its equipment certificate, so that the two certificates are
enough to know whose key signed; whether an authority stands behind them is for those to judge
who know one: servers did at the check-in, devices know their own.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from fl_cluster.security.attestation import (
    Untrusted,
    device_id_of,
    parse_certificate,
    pem_of_der,
    verify_key,
    verify_signature,
)

_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class OfferProof:
    """The certificates, as PEM texts, and the signature."""

    key_attestation: str
    equip_cert: str
    signature: bytes

    def pack(self) -> bytes:
        """As it stands in an offer."""
        ders = [_der_of(text) for text in (self.key_attestation, self.equip_cert)]
        parts = [*ders, self.signature]
        return b"".join(len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in parts)

    @classmethod
    def unpack(cls, packed: bytes) -> OfferProof:
        """The inverse of `pack`; Untrusted when it is none."""
        parts = list(_parts(packed))
        if len(parts) != 3:
            raise Untrusted(f"expected two certificates and a signature, found {len(parts)} parts")
        return cls(pem_of_der(parts[0]), pem_of_der(parts[1]), parts[2])


def is_offer_by(device: str, packed: bytes, signed: bytes) -> bool:
    """Whether the device whose id this is signed these bytes, by the certificates beside them."""
    try:
        proof = OfferProof.unpack(packed)
        if device_id_of(proof.equip_cert) != device:
            return False
        attestation = parse_certificate(proof.key_attestation, "key_attestation")
        verify_key(attestation, parse_certificate(proof.equip_cert, "equip_cert"))
        verify_signature(attestation, proof.signature, signed)
    except Untrusted:
        return False
    return True


def _parts(packed: bytes) -> Iterator[bytes]:
    rest = packed
    while rest:
        size = int.from_bytes(rest[:_LENGTH_BYTES], "big")
        part, rest = rest[_LENGTH_BYTES : _LENGTH_BYTES + size], rest[_LENGTH_BYTES + size :]
        if len(part) != size:
            raise Untrusted(f"a part of {size} bytes is cut off after {len(part)}")
        yield part


def _der_of(pem: str) -> bytes:
    return base64.b64decode("".join(pem.split("\n")[1:-2]))
