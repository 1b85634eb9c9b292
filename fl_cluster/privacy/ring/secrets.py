"""Keys, sealed shares, confirmations and masks of a masked round.

Every key comes from an X25519 secret by HKDF whose context names the purpose and both offers in
their direction, and an offer's digest includes the round: no key serves twice.
"""

from __future__ import annotations

import hmac
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fl_cluster.kernels.native import Integers
from fl_cluster.privacy.draws import Stream
from fl_cluster.privacy.shamir import PRIME

TAG_BYTES: Final = 16
DIGEST_BYTES: Final = 32
NAME_BYTES: Final = 16
"""Of the digest by which a device stands in the roster once."""
LEAF_BYTES: Final = NAME_BYTES + DIGEST_BYTES
_NONCE_BYTES: Final = 12
SHARE_BYTES: Final = (PRIME.bit_length() + 7) // 8
SEALED_BYTES: Final = _NONCE_BYTES + 2 * SHARE_BYTES + 16
_BLOCK: Final = 2**15
_ZEROS: Final = bytes(8 * _BLOCK)
_START: Final = bytes(16)


def derive(secret: bytes, purpose: bytes, first: bytes, second: bytes) -> bytes:
    """A 32-byte key for one purpose from the first to the second of two offers' leaves."""
    info = b"fl_cluster ring 1 " + purpose
    return HKDF(hashes.SHA256(), 32, salt=first + second, info=info).derive(secret)


def seal(key: bytes, bound_to: bytes, shares: tuple[int, int], stream: Stream) -> bytes:
    """The shares of a mask key and of a seed, for whoever has the key and knows `bound_to`."""
    nonce = stream.take(_NONCE_BYTES)
    plain = b"".join(share.to_bytes(SHARE_BYTES, "big") for share in shares)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, plain, bound_to)


def unseal(key: bytes, bound_to: bytes, sealed: bytes) -> tuple[int, int] | None:
    """The inverse of `seal`; None when one byte is not as it was sealed, or no share was."""
    try:
        plain = ChaCha20Poly1305(key).decrypt(
            sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to
        )
    except (InvalidTag, ValueError):
        return None
    first = int.from_bytes(plain[:SHARE_BYTES], "big")
    second = int.from_bytes(plain[SHARE_BYTES:], "big")
    return (first, second) if len(plain) == 2 * SHARE_BYTES and max(first, second) < PRIME else None


def tag_of(key: bytes, digest: bytes) -> bytes:
    """What proves to the key's other holder that one saw the list with this digest."""
    return hmac.digest(key, digest, "sha256")[:TAG_BYTES]


def is_tag(key: bytes, digest: bytes, tag: bytes) -> bool:
    """Whether the tag is of this list."""
    return hmac.compare_digest(tag_of(key, digest), tag)


def add_mask(total: Integers, key: bytes, sign: int) -> None:
    """Add the mask of a key, or take it away: uniform 64-bit numbers, modulo 2**64.

    AES-256 in counter mode, little-endian words.  The counter starts at zero: the key is used
    for this one mask.
    """
    encryptor = Cipher(algorithms.AES256(key), modes.CTR(_START)).encryptor()
    buffer = bytearray(8 * min(total.size, _BLOCK) + 15)
    for start in range(0, total.size, _BLOCK):
        part = total[start : start + _BLOCK]
        encryptor.update_into(memoryview(_ZEROS)[: 8 * part.size], buffer)
        words: npt.NDArray[np.int64] = np.frombuffer(buffer, "<i8", part.size)
        if sign > 0:
            np.add(part, words, out=part)
        else:
            np.subtract(part, words, out=part)
