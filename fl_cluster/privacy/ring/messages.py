"""What devices and servers say to each other in a masked round, and what binds it together.

A device is known by its index in the roster; `x` of its shares is index + 1.  Everything that
is signed, encrypted or confirmed includes the digest of the round, so that nothing can be used
in another round, job or list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fl_cluster.kernels.native import Integers
from fl_cluster.privacy.ring.degrees import Assumptions, Degree, choose_degree
from fl_cluster.privacy.ring.graph import all_neighbours, neighbours_of
from fl_cluster.privacy.ring.secrets import NAME_BYTES

_VERSION = b"fl_cluster ring 1"


@dataclass(frozen=True)
class RingRound:
    """What all sides know before a masked round begins."""

    job: str
    number: int
    attempt: int
    element_count: int
    least_devices: int
    """A device reveals nothing unless so many reports are in the sum."""
    assumptions: Assumptions = field(default_factory=Assumptions)
    terms: bytes = b""
    """Digest of what makes an update what it is: the model, how to train, how it is counted."""

    def __post_init__(self) -> None:
        if self.least_devices < 2:
            raise ValueError(
                f"a sum hides nothing below 2 devices, found a least of {self.least_devices}"
            )
        if self.element_count < 0:
            raise ValueError(f"expected elements to add up, found {self.element_count} of them")

    @cached_property
    def digest(self) -> bytes:
        """Binds messages to this round and these terms."""
        bounds = self.assumptions
        numbers = (self.number, self.attempt, self.element_count, self.least_devices)
        rest = (bounds.corrupt.hex(), bounds.dropout.hex())
        bits = (bounds.safety_bits, bounds.failure_bits)
        texts = (self.job, *map(str, numbers), *rest, *map(str, bits))
        return digest_of(_VERSION, *map(bytes_of, texts), self.terms)


@dataclass(frozen=True, slots=True)
class Offer:
    """A device's fresh public keys, and its signature under `signed_bytes`, empty if unsigned."""

    device: str
    share_key: bytes
    mask_key: bytes
    signature: bytes

    def signed_bytes(self, ring: RingRound) -> bytes:
        """What the signature is under."""
        name = bytes_of(self.device)
        return digest_of(b"offer", ring.digest, name, self.share_key, self.mask_key)

    def leaf(self, ring: RingRound) -> bytes:
        """What stands for the offer in the roster: a digest of whose it is, and one of itself."""
        name = digest_of(b"name", bytes_of(self.device))[:NAME_BYTES]
        return name + digest_of(b"leaf", self.signed_bytes(ring), self.signature)


@dataclass(frozen=True, slots=True)
class RosterView:
    """What a device gets to see of the roster: all leaves, and its neighbours' offers."""

    leaves: tuple[bytes, ...]
    offers: Mapping[int, Offer]


class Leaves:
    """The frozen roster as its leaves: sizes, seed and graph follow from it."""

    def __init__(self, ring: RingRound, leaves: Sequence[bytes]) -> None:
        self.ring = ring
        self.leaves = tuple(leaves)

    @cached_property
    def seed(self) -> bytes:
        """The digest of who takes part, from which the graph follows."""
        return digest_of(b"roster", self.ring.digest, *self.leaves)

    @cached_property
    def degree(self) -> Degree:
        """How many neighbours, and how many of them are needed."""
        return choose_degree(len(self.leaves), self.ring.assumptions)

    def neighbours(self, index: int) -> tuple[int, ...]:
        """The neighbours of one device."""
        return neighbours_of(index, len(self.leaves), self.degree.neighbours, self.seed)

    @cached_property
    def graph(self) -> tuple[tuple[int, ...], ...]:
        """The neighbours of every device."""
        return all_neighbours(len(self.leaves), self.degree.neighbours, self.seed)

    def sharers_digest(self, sharers: frozenset[int]) -> bytes:
        """What a report is made under: who shared, so whose masks may be on."""
        return digest_of(b"sharers", self.seed, bitmap(sharers, len(self.leaves)))

    def list_digest(self, sharers: frozenset[int], counted: frozenset[int]) -> bytes:
        """What devices confirm to each other: who shared, and whose report is in the sum."""
        size = len(self.leaves)
        return digest_of(b"list", self.seed, bitmap(sharers, size), bitmap(counted, size))


@dataclass(frozen=True, slots=True)
class Sharing:
    """A device's sealed shares by neighbour, and the digest that its seed must have."""

    device: str
    commitment: bytes
    sealed: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a device gets after sharing ended: who shared at all, and what is sealed for it."""

    sharers: frozenset[int]
    sealed: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Report:
    """A device's terms under all masks, and its tags under who shared, by neighbour that did."""

    terms: Integers
    tags: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Survivors:
    """Whose reports are in the sum, and the tags that those among the neighbours sent a device."""

    counted: frozenset[int]
    tags: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A device's tags under the list it was given, by surviving neighbour."""

    device: str
    tags: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Reveal:
    """One share per neighbour: of its seed if it survived, of its mask key if it only shared.

    None of a survivor that was told of other sharers than the sender.
    """

    device: str
    shares: Mapping[int, int]


def seed_commitment(leaf: bytes, seed: bytes) -> bytes:
    """The digest by which a rebuilt seed is recognised; it says nothing about the seed."""
    return digest_of(b"seed", leaf, seed)


def bitmap(indices: Iterable[int], size: int) -> bytes:
    """One bit per device of the roster."""
    return sum(1 << index for index in indices).to_bytes((size + 7) // 8, "little")


def indices_in(bits: bytes, size: int) -> frozenset[int]:
    """The inverse of `bitmap`; ValueError when it is not one of this size."""
    number = int.from_bytes(bits, "little")
    if len(bits) != (size + 7) // 8 or number >> size:
        raise ValueError(f"expected a bitmap of {size} devices, found {len(bits)} bytes")
    return frozenset(index for index in range(size) if number >> index & 1)


def digest_of(*parts: bytes) -> bytes:
    """SHA-256 over parts that cannot run into each other."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big"))
        total.update(part)
    return total.digest()


def bytes_of(text: str) -> bytes:
    """The bytes that the text came in; they need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")
