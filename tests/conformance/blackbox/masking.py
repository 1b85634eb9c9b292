"""A device that masks what it uploads, as published devices do, from scratch.

It keeps what it was told and makes what it says next: `keys`, `shares`, `upload`, `reveal`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from blackbox.cluster import check_in, now_ms, report
from blackbox.wire import Message, pack, table

ONE = np.float32(2.0**-31)


def clamped() -> bytes:
    raw = bytearray(os.urandom(32))
    raw[0] &= 0xF8
    raw[31] = raw[31] & 0x7F | 0x40
    return bytes(raw)


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed(private: bytes, theirs: bytes, salt: bytes) -> bytes:
    peer = X25519PublicKey.from_public_bytes(theirs)
    secret = X25519PrivateKey.from_private_bytes(private).exchange(peer)
    return PBKDF2HMAC(hashes.SHA256(), 32, salt, 10_000).derive(secret)


def stream(key: bytes, vector: bytes, count: int) -> Any:
    encryptor = Cipher(algorithms.AES(key), modes.CTR(vector)).encryptor()
    words = np.frombuffer(encryptor.update(bytes(4 * count)), "<i4")
    return words.astype(np.float32) * ONE


def shares_of(secret: bytes, needed: int, count: int, prime: int) -> list[int]:
    """The values at 1, 2, ... of a random polynomial that is the secret at 0."""
    constant = int.from_bytes(secret, "big")
    rest = [int.from_bytes(os.urandom(40), "big") % prime for _ in range(needed - 1)]
    powers = [constant, *rest]
    return [
        sum(factor * x**power for power, factor in enumerate(powers)) % prime
        for x in range(1, count + 1)
    ]


def shortest(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def as_bytes(vector: Any) -> bytes:
    """A vector of bytes as the generated code gives it."""
    return bytes(x & 0xFF for x in (vector if vector is not None else ()))


@dataclass
class MaskingDevice:
    """One device in one round; `restart` says that masks begin anew in each tensor."""

    name: str
    data_size: int
    tensors: Mapping[str, Sequence[float]]
    number: int = 1
    restart: bool = True
    is_alone: bool = False
    """Whether its masks are only those that cancel, as a worker across silos has them."""
    share_key: bytes = field(default_factory=clamped)
    mask_key: bytes = field(default_factory=clamped)
    seed: bytes = field(default_factory=lambda: os.urandom(32))
    own_vector: bytes = field(default_factory=lambda: os.urandom(16))
    pair_vector: bytes = field(default_factory=lambda: os.urandom(16))
    pair_salt: bytes = field(default_factory=lambda: os.urandom(32))
    needed: int = 0
    prime: int = 0
    others: dict[str, Message] = field(default_factory=dict)
    held: dict[str, bytes] = field(default_factory=dict)
    counted: list[str] = field(default_factory=list)

    # What it says

    def check_in(self) -> bytes:
        return check_in(self.name, data_size=self.data_size)

    def ask(self, table_name: str, **fields: Any) -> bytes:
        """A request that has only its sender, its round and its time."""
        given = {"fl_id": self.name, "iteration": self.number, "timestamp": str(now_ms())}
        return pack(table_name, **given | fields)

    def keys(self, **fields: Any) -> bytes:
        given: dict[str, Any] = {
            "s_pk": list(public(self.mask_key)),
            "pw_iv": list(self.pair_vector),
            "pw_salt": list(self.pair_salt),
        }
        if not self.is_alone:
            given |= {"c_pk": list(public(self.share_key)), "ind_iv": list(self.own_vector)}
        return self.ask("RequestExchangeKeys", **given | fields)

    def shares(self, **fields: Any) -> bytes:
        count = len(self.others)
        of_key = shares_of(self.mask_key, self.needed, count, self.prime)
        of_seed = shares_of(self.seed, self.needed, count, self.prime)
        sealed = []
        for x, (name, peer) in enumerate(self.others.items(), 1):
            parts = [shortest(x), shortest(x), shortest(of_key[x - 1]), shortest(of_seed[x - 1])]
            lengths = bytes([len(parts[2]), len(parts[3]), len(parts[0]), len(parts[1])])
            key = agreed(self.share_key, as_bytes(peer.c_pk), b"")
            secret = seal(lengths + b"".join(parts), key)
            sealed.append(table("ClientShare", fl_id=name, share=list(secret)))
        return self.ask("RequestShareSecrets", **{"encrypted_shares": sealed} | fields)

    def upload(self, **fields: Any) -> bytes:
        sizes = [len(values) for values in self.tensors.values()]
        mask = self.mask(sum(sizes))
        masked, start = {}, 0
        for name, values in self.tensors.items():
            part = mask[: len(values)] if self.restart else mask[start : start + len(values)]
            products = np.array(values, np.float32) * np.float32(self.data_size)
            masked[name] = (products + part).tolist()
            start += len(values)
        return report(self.name, self.number, masked, **fields)

    def reveal(self, **fields: Any) -> bytes:
        shares = []
        for name, sealed in self.held.items():
            key = agreed(self.share_key, as_bytes(self.others[name].c_pk), b"")
            plain = unseal(sealed, key)
            lengths, rest, parts = plain[:4], plain[4:], []
            for length in (lengths[2], lengths[3], lengths[0], lengths[1]):
                parts.append(rest[:length])
                rest = rest[length:]
            which = 1 if name in self.counted else 0
            index, share = int.from_bytes(parts[which], "big"), parts[2 + which]
            shares.append(table("ClientShare", fl_id=name, share=list(share), index=index))
        given = {"reconstruct_secret_shares": shares}
        return self.ask("SendReconstructSecret", **given | fields)

    def list_digest(self) -> bytes:
        return hashlib.sha256("".join(self.counted).encode()).digest()

    # What it hears

    def hear_plan(self, answer: Message) -> None:
        params = answer.fl_plan_config.cipher.pw_params
        self.needed, self.prime = params.t, int.from_bytes(as_bytes(params.prime), "big")

    def hear_keys(self, answer: Message) -> None:
        entries = {entry.fl_id: entry for entry in answer.remote_publickeys}
        assert self.name in entries
        self.others = {name: entry for name, entry in entries.items() if name != self.name}

    def hear_shares(self, answer: Message) -> None:
        self.held = {entry.fl_id: as_bytes(entry.share) for entry in answer.encrypted_shares}
        assert self.held.keys() <= self.others.keys()

    # What it makes of it

    def mask(self, count: int) -> Any:
        total = np.zeros(count, np.float32)
        for name in self.others if self.is_alone else self.held:
            peer, is_larger = self.others[name], self.name > name
            salt = as_bytes(peer.pw_salt) if is_larger else self.pair_salt
            vector = as_bytes(peer.pw_iv) if is_larger else self.pair_vector
            part = stream(agreed(self.mask_key, as_bytes(peer.s_pk), salt), vector, count)
            total = total + part if is_larger else total - part
        if self.is_alone:
            return total
        return total + stream(self.seed, self.own_vector, count)


def seal(plain: bytes, key: bytes) -> bytes:
    vector, padder = os.urandom(16), padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
    padded = padder.update(plain) + padder.finalize()
    return vector + encryptor.update(padded) + encryptor.finalize()


def unseal(sealed: bytes, key: bytes) -> bytes:
    decryptor = Cipher(algorithms.AES(key), modes.CBC(sealed[:16])).decryptor()
    unpadder = padding.PKCS7(128).unpadder()
    padded = decryptor.update(sealed[16:]) + decryptor.finalize()
    return unpadder.update(padded) + unpadder.finalize()
