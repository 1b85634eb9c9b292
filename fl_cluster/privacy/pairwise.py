"""A genuine device's side of a masked round, and the cross-silo worker's simpler one.

    keys = new_keys(stream)            -> offered to all
    seal(...)                          -> a sealed pair of shares for every other device
    mask(...)                          -> what is added to weights times data size
    answer(...)                        -> the shares that undo what cannot stay

Random numbers are taken in the order in which the published device takes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fl_cluster.errors import PeerProtocolError
from fl_cluster.kernels.native import Floats
from fl_cluster.privacy.draws import Stream
from fl_cluster.privacy.key_agreement import (
    KEY_BYTES,
    SALT_BYTES,
    VECTOR_BYTES,
    KeyPair,
    SharePair,
    derive_key,
    new_key_pair,
    open_shares,
    seal_shares,
    shared_secret,
)
from fl_cluster.privacy.masks import add_masks, keystream_floats, sign_between
from fl_cluster.privacy.shamir import Share, split


class PublicKeys(NamedTuple):
    """What a device tells the others, except `own_vector`, which only the server needs."""

    share_key: bytes
    mask_key: bytes
    own_vector: bytes
    pair_vector: bytes
    pair_salt: bytes


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """What a device keeps for one round."""

    share: KeyPair
    mask: KeyPair
    own_vector: bytes
    pair_vector: bytes
    pair_salt: bytes

    @property
    def public(self) -> PublicKeys:
        """What it offers."""
        keys = (self.share.public, self.mask.public)
        return PublicKeys(*keys, self.own_vector, self.pair_vector, self.pair_salt)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A device's own seed, and its shares for the others, by device in the order received."""

    seed: bytes
    shares: Mapping[str, bytes]


def new_keys(stream: Stream) -> OwnKeys:
    """Fresh keys for one round."""
    share, mask = new_key_pair(stream), new_key_pair(stream)
    own_vector, pair_vector = stream.take(VECTOR_BYTES), stream.take(VECTOR_BYTES)
    return OwnKeys(share, mask, own_vector, pair_vector, stream.take(SALT_BYTES))


def seal(
    keys: OwnKeys,
    others: Mapping[str, PublicKeys],
    *,
    needed: int,
    prime: int,
    stream: Stream,
) -> Sealed:
    """Shares of the mask key and of a fresh seed for all others, in their order.

    PeerProtocolError when fewer than `needed` others are there to hold them.
    """
    if not 1 <= needed <= len(others):
        raise PeerProtocolError(
            f"expected at least 1 share to be needed and as many other devices,"
            f" found {needed} and {len(others)}"
        )
    seed = stream.take(KEY_BYTES)
    xs = range(1, len(others) + 1)
    of_key = split(keys.mask.private, needed, xs, prime, stream)
    of_seed = split(seed, needed, xs, prime, stream)
    sealed = {}
    for (device, theirs), key_share, seed_share in zip(
        others.items(), of_key, of_seed, strict=True
    ):
        key = derive_key(shared_secret(keys.share.private, theirs.share_key))
        vector = stream.take(VECTOR_BYTES)
        sealed[device] = seal_shares(SharePair(key_share, seed_share), key, vector)
    return Sealed(seed, sealed)


def pair_mask(
    mine: tuple[str, PublicKeys], private: bytes, theirs: tuple[str, PublicKeys], count: int
) -> tuple[int, Floats]:
    """The sign and the mask between the owner of `private` and another device."""
    sign = sign_between(mine[0], theirs[0])
    smaller = theirs[1] if sign > 0 else mine[1]
    key = derive_key(shared_secret(private, theirs[1].mask_key), smaller.pair_salt)
    return sign, keystream_floats(key, smaller.pair_vector, count)


def mask(
    device: str, keys: OwnKeys, peers: Mapping[str, PublicKeys], count: int, seed: bytes | None
) -> Floats:
    """A device's whole mask: with each peer in order, its own last.

    Without a seed it is the mask of a cross-silo worker, which cancels only if every peer's
    upload arrives.
    """
    me = (device, keys.public)

    def one_by_one() -> Iterator[tuple[int, Floats]]:
        for peer in peers.items():
            yield pair_mask(me, keys.mask.private, peer, count)
        if seed is not None:
            yield 1, keystream_floats(seed, keys.own_vector, count)

    return add_masks(count, one_by_one())


def answer(
    keys: OwnKeys,
    held: Mapping[str, bytes],
    peers: Mapping[str, PublicKeys],
    counted: Collection[str],
) -> dict[str, Share]:
    """For each device whose shares are held: of its seed if it was counted, else of its key.

    Shares that cannot be opened are left out.

    PeerProtocolError when the list of counted devices is empty, for then every device would give
    away every key, or shares came from a device that offered no keys.
    """
    if not counted:
        raise PeerProtocolError("the list of counted devices is empty")
    if strangers := held.keys() - peers.keys():
        raise PeerProtocolError(f"shares came from {min(strangers)!r}, which offered no keys")
    found = {}
    for device, sealed in held.items():
        try:
            key = derive_key(shared_secret(keys.share.private, peers[device].share_key))
            shares = open_shares(sealed, key)
        except PeerProtocolError:
            # Whoever sealed it spoilt it; others hold shares of that device too.
            continue
        found[device] = shares.seed if device in counted else shares.key
    return found


def in_order(
    device: str, published: Mapping[str, PublicKeys], order: Sequence[str]
) -> dict[str, PublicKeys]:
    """The others of a list, in its order."""
    return {other: published[other] for other in order if other != device}
