"""How genuine devices agree on keys, hide shares for each other, and what they sign.

X25519, PBKDF2 with 10,000 rounds, AES-256-CBC without authentication: the published scheme,
byte for byte, weaknesses included (docs/privacy.md).  New deployments use `ring`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from fl_cluster.errors import PeerProtocolError
from fl_cluster.privacy.draws import Stream
from fl_cluster.privacy.shamir import Share, minimal_bytes

KEY_BYTES: Final = 32
VECTOR_BYTES: Final = 16
SALT_BYTES: Final = 32
_PBKDF2_ROUNDS: Final = 10_000


class KeyPair(NamedTuple):
    """An X25519 pair, raw; `private` is clamped, because it is what gets shared."""

    private: bytes
    public: bytes


def new_key_pair(stream: Stream) -> KeyPair:
    """A fresh pair from 32 bytes of the stream."""
    raw = bytearray(stream.take(KEY_BYTES))
    raw[0] &= 0xF8
    raw[31] = raw[31] & 0x7F | 0x40
    private = bytes(raw)
    return KeyPair(private, public_key(private))


def public_key(private: bytes) -> bytes:
    """The public half of a private key: what a rebuilt key is checked against."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def is_usable(public: bytes) -> bool:
    """Whether a public key makes secrets: its length is right and no multiple of it is zero."""
    try:
        shared_secret(bytes([0x40] * KEY_BYTES), public)
    except PeerProtocolError:
        return False
    return True


def shared_secret(private: bytes, public: bytes) -> bytes:
    """What both sides of two pairs know.

    PeerProtocolError when the public key is no key, or one that makes every secret zero.
    """
    try:
        theirs = X25519PublicKey.from_public_bytes(public)
        return X25519PrivateKey.from_private_bytes(private).exchange(theirs)
    except ValueError as fault:
        raise PeerProtocolError(
            f"expected a public key of {KEY_BYTES} bytes that makes a secret,"
            f" found {public.hex()[: 2 * KEY_BYTES]}"
        ) from fault


def derive_key(secret: bytes, salt: bytes = b"") -> bytes:
    """The 32-byte key of a shared secret; some 5 ms."""
    return PBKDF2HMAC(hashes.SHA256(), KEY_BYTES, salt, _PBKDF2_ROUNDS).derive(secret)


class SharePair(NamedTuple):
    """What one device gives another: a share of its mask key and one of its own seed."""

    key: Share
    seed: Share


def seal_shares(shares: SharePair, key: bytes, vector: bytes) -> bytes:
    """Both shares, readable only with `key`; `vector` is 16 fresh random bytes."""
    parts = [
        minimal_bytes(number)
        for number in (shares.key.y, shares.seed.y, shares.key.x, shares.seed.x)
    ]
    plain = bytes(map(len, parts)) + parts[2] + parts[3] + parts[0] + parts[1]
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(vector)).encryptor()
    padded = padder.update(plain) + padder.finalize()
    return vector + encryptor.update(padded) + encryptor.finalize()


def open_shares(sealed: bytes, key: bytes) -> SharePair:
    """The inverse of `seal_shares`; PeerProtocolError when it is not for us or spoilt."""
    try:
        vector, body = sealed[:VECTOR_BYTES], sealed[VECTOR_BYTES:]
        decryptor = Cipher(algorithms.AES256(key), modes.CBC(vector)).decryptor()
        unpadder = padding.PKCS7(128).unpadder()
        plain = unpadder.update(decryptor.update(body) + decryptor.finalize())
        plain += unpadder.finalize()
        lengths, rest = plain[:4], plain[4:]
        if len(lengths) < 4 or len(rest) != sum(lengths):
            raise ValueError("the lengths inside do not add up")
    except ValueError as fault:
        raise PeerProtocolError(f"an encrypted share cannot be read: {fault}") from fault
    numbers = []
    for length in (lengths[2], lengths[3], lengths[0], lengths[1]):
        numbers.append(int.from_bytes(rest[:length], "big"))
        rest = rest[length:]
    key_x, seed_x, key_y, seed_y = numbers
    return SharePair(Share(key_x, key_y), Share(seed_x, seed_y))


def signed_bytes(timestamp: str, number: int) -> bytes:
    """What a device signs with most requests; `number` is the round's."""
    return f"{timestamp}{number}".encode()


def signed_key_bytes(share_key: bytes, mask_key: bytes, timestamp: str, number: int) -> bytes:
    """What a device signs when it offers its public keys."""
    return share_key + mask_key + signed_bytes(timestamp, number)


def list_digest(devices: Sequence[str]) -> bytes:
    """What a device signs of the list of counted devices, in the order it received."""
    return hashlib.sha256("".join(devices).encode()).digest()
