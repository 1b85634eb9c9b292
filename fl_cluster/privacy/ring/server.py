"""What any server does with the stored messages of a masked round.

Functions of messages, without a state of their own: a server that takes over computes the same.
What a device may not do is a PeerProtocolError that names it; what the surviving devices cannot
undo any more is a `CannotUnmask`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from fl_cluster.errors import PeerProtocolError
from fl_cluster.kernels.native import Integers
from fl_cluster.privacy.key_agreement import KEY_BYTES, is_usable, public_key, shared_secret
from fl_cluster.privacy.ring.device import Verify, accept_unsigned, pair_key, seed_key
from fl_cluster.privacy.ring.messages import (
    Confirmation,
    Delivery,
    Leaves,
    Offer,
    Reveal,
    RingRound,
    RosterView,
    Sharing,
    Survivors,
    seed_commitment,
)
from fl_cluster.privacy.ring.secrets import DIGEST_BYTES, SEALED_BYTES, TAG_BYTES, add_mask
from fl_cluster.privacy.shamir import PRIME, Share, WrongShares, rebuild


class CannotUnmask(ValueError):
    """Too few shares came, or wrong ones: the masks of this round stay on."""


class Roster:
    """The frozen offers of a round, in the order of their leaves."""

    def __init__(
        self, ring: RingRound, offers: Iterable[Offer], verify: Verify = accept_unsigned
    ) -> None:
        """PeerProtocolError when an offer is malformed or unsigned, or two are one device's."""
        by_leaf = {}
        for offer in offers:
            _check_offer(ring, offer, verify)
            by_leaf[offer.leaf(ring)] = offer
        self.leaves = Leaves(ring, sorted(by_leaf))
        self.offers = tuple(by_leaf[leaf] for leaf in self.leaves.leaves)
        self._indices = {offer.device: index for index, offer in enumerate(self.offers)}
        if len(self._indices) < len(self.offers):
            raise PeerProtocolError("one device made two offers")

    def index(self, device: str) -> int:
        """Where the device stands; PeerProtocolError when it is not in the roster."""
        found = self._indices.get(device)
        if found is None:
            raise PeerProtocolError(f"device {device!r} is not in the roster")
        return found

    def find(self, device: str) -> int | None:
        """Where the device stands; None when it is not in the roster."""
        return self._indices.get(device)

    def view(self, device: str) -> RosterView:
        """What this device gets to see."""
        neighbours = self.leaves.graph[self.index(device)]
        return RosterView(self.leaves.leaves, {other: self.offers[other] for other in neighbours})

    def check_sharing(self, sharing: Sharing) -> None:
        """PeerProtocolError when it is not sealed for exactly the sender's neighbours."""
        neighbours = self.leaves.graph[self.index(sharing.device)]
        lengths = {len(sealed) for sealed in sharing.sealed.values()}
        if lengths != {SEALED_BYTES} or len(sharing.commitment) != DIGEST_BYTES:
            raise PeerProtocolError(
                f"device {sharing.device!r}: expected a digest of {DIGEST_BYTES} bytes and shares"
                f" of {SEALED_BYTES}"
            )
        if sharing.sealed.keys() != set(neighbours):
            raise PeerProtocolError(
                f"device {sharing.device!r}: expected shares for its {len(neighbours)} neighbours,"
                f" found {len(sharing.sealed)}"
            )

    def deliver(self, device: str, sharings: Mapping[int, Sharing]) -> Delivery:
        """What this device gets, once sharing is over; `sharings` is by sender."""
        index = self.index(device)
        sharers = frozenset(sharings)
        sealed = {other: sharings[other].sealed[index] for other in self.peers(index, sharers)}
        return Delivery(sharers, sealed)

    def peers(self, index: int, sharers: frozenset[int]) -> list[int]:
        """The neighbours of a device that shared, rising."""
        return [other for other in self.leaves.graph[index] if other in sharers]

    def survivors(self, device: str, counted: frozenset[int], tags: ReportTags) -> Survivors:
        """What a device that is counted gets, once all updates are there."""
        index = self.index(device)
        return Survivors(
            counted, {other: tags.find(other, index) for other in self.peers(index, counted)}
        )

    def check_confirmation(
        self, confirmation: Confirmation, sharers: frozenset[int], counted: frozenset[int]
    ) -> None:
        """PeerProtocolError when it is not for exactly the sender's surviving neighbours."""
        index = self.index(confirmation.device)
        alive = counted & sharers & set(self.leaves.graph[index])
        if confirmation.tags.keys() != alive or any(
            len(tag) != TAG_BYTES for tag in confirmation.tags.values()
        ):
            raise PeerProtocolError(
                f"device {confirmation.device!r}: expected one tag for each of"
                f" {len(alive)} surviving neighbours"
            )

    def tags_for(self, device: str, confirmations: Mapping[int, Confirmation]) -> dict[int, bytes]:
        """The confirmations that this device's neighbours sent it."""
        index = self.index(device)
        return {
            sender: confirmations[sender].tags[index]
            for sender in self.leaves.graph[index]
            if sender in confirmations and index in confirmations[sender].tags
        }

    def check_reveal(self, reveal: Reveal, sharers: frozenset[int]) -> None:
        """PeerProtocolError when it holds a share of others than neighbours that shared.

        It may hold fewer: those that could be opened.
        """
        neighbours = sharers & set(self.leaves.graph[self.index(reveal.device)])
        if not reveal.shares.keys() <= neighbours or any(
            not 0 <= share < PRIME for share in reveal.shares.values()
        ):
            raise PeerProtocolError(
                f"device {reveal.device!r}: expected a share for each of {len(neighbours)}"
                " neighbours that shared, and for nobody else"
            )


class ReportTags:
    """The tags that came with reports, as they came: of each sender one for each of its peers."""

    def __init__(self, roster: Roster, sharers: frozenset[int], sent: Mapping[int, bytes]) -> None:
        """PeerProtocolError when a sender's are not as many as its neighbours that shared."""
        self._sent = sent
        self._peers = {sender: roster.peers(sender, sharers) for sender in sent}
        for sender, peers in self._peers.items():
            check_report_tags(sent[sender], len(peers))

    def find(self, sender: int, recipient: int) -> bytes:
        """The tag of one neighbour for another; both shared, and the sender reported."""
        at = bisect_left(self._peers[sender], recipient)
        return self._sent[sender][at * TAG_BYTES : (at + 1) * TAG_BYTES]


def check_report_tags(sent: bytes, peers: int) -> None:
    """PeerProtocolError when these are not tags for so many neighbours."""
    if len(sent) != TAG_BYTES * peers:
        raise PeerProtocolError(
            f"masked_tags: expected {peers} times {TAG_BYTES} bytes, one for each neighbour that"
            f" shared, found {len(sent)}"
        )


@dataclass(frozen=True, slots=True)
class Unmasking:
    """How a masked sum becomes the plain one."""

    roster: Roster
    commitments: Mapping[int, bytes]
    """Of everyone who shared, by index."""
    counted: frozenset[int]
    """Whose reports are in the sum."""

    def can_finish(self, reveals: Mapping[int, Reveal]) -> bool:
        """Whether these reveals, by sender, hold enough shares of everything."""
        needed = self.roster.leaves.degree.needed
        return all(len(self._shares(owner, reveals)) >= needed for owner in self._owners())

    def apply(self, masked: Integers, reveals: Mapping[int, Reveal]) -> None:
        """Take all masks off the sum of the counted reports, in place.

        CannotUnmask, with the device, when a secret cannot be rebuilt; the sum is then useless.
        """
        for owner in self._owners():
            shares = self._shares(owner, reveals)
            if owner in self.counted:
                self._take_own(owner, shares, masked)
            else:
                self._take_pairs(owner, shares, masked)

    def _owners(self) -> list[int]:
        """Whose secret is wanted: of all that reported, and of those that only shared and have
        a neighbour that reported."""
        graph = self.roster.leaves.graph
        return [
            owner
            for owner in sorted(self.commitments)
            if owner in self.counted or not self.counted.isdisjoint(graph[owner])
        ]

    def _shares(self, owner: int, reveals: Mapping[int, Reveal]) -> list[Share]:
        return [
            Share(sender + 1, reveals[sender].shares[owner])
            for sender in self.roster.leaves.graph[owner]
            if sender in reveals and owner in reveals[sender].shares
        ]

    def _take_own(self, owner: int, shares: list[Share], masked: Integers) -> None:
        leaf = self.roster.leaves.leaves[owner]
        promised = self.commitments[owner]
        seed = self._rebuilt(owner, shares, lambda seed: seed_commitment(leaf, seed) == promised)
        add_mask(masked, seed_key(leaf, seed), -1)

    def _take_pairs(self, owner: int, shares: list[Share], masked: Integers) -> None:
        promised = self.roster.offers[owner].mask_key
        private = self._rebuilt(owner, shares, lambda key: public_key(key) == promised)
        for other in self.roster.leaves.graph[owner]:
            if other in self.counted:
                secret = shared_secret(private, self.roster.offers[other].mask_key)
                sign, key = pair_key(secret, self.roster.leaves, other, owner)
                add_mask(masked, key, -sign)

    def _rebuilt(self, owner: int, shares: list[Share], is_right: Callable[[bytes], bool]) -> bytes:
        try:
            return rebuild(shares, self.roster.leaves.degree.needed, PRIME, is_right)
        except WrongShares as fault:
            device = self.roster.offers[owner].device
            raise CannotUnmask(f"device {device!r}: {fault}") from fault


def _check_offer(ring: RingRound, offer: Offer, verify: Verify) -> None:
    if not (is_usable(offer.share_key) and is_usable(offer.mask_key)):
        raise PeerProtocolError(
            f"device {offer.device!r}: expected two keys of {KEY_BYTES} bytes that make secrets"
        )
    if not verify(offer, offer.signed_bytes(ring)):
        raise PeerProtocolError(f"device {offer.device!r}: the offer has no valid signature")
