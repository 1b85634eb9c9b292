"""One device's side of a masked round: what it sends, and what it insists on before it does.

Each step is taken once, in order.  A device that finds anything wrong raises a
PeerProtocolError and says nothing more in this round; silence costs the round at most one
participant.  Whoever sends the messages keeps them and sends them again when an answer is lost:
a step is never repeated with other input, because shares of both kinds for one neighbour would
expose its update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.kernels.native import Integers
from fl_cluster.privacy.draws import Stream
from fl_cluster.privacy.key_agreement import KeyPair, new_key_pair, shared_secret
from fl_cluster.privacy.ring.demands import USUAL, Demands
from fl_cluster.privacy.ring.messages import (
    Confirmation,
    Delivery,
    Leaves,
    Offer,
    Report,
    Reveal,
    RingRound,
    RosterView,
    Sharing,
    Survivors,
    seed_commitment,
)
from fl_cluster.privacy.ring.secrets import (
    NAME_BYTES,
    add_mask,
    derive,
    is_tag,
    seal,
    tag_of,
    unseal,
)
from fl_cluster.privacy.shamir import PRIME, SECRET_BYTES, split

Sign = Callable[[bytes], bytes]
"""Signs bytes with the device's identity; gives nothing where devices have none."""

Verify = Callable[[Offer, bytes], bool]
"""Whether an offer's signature under these bytes is by the identity of the device it names."""


def unsigned(_: bytes) -> bytes:
    """The signature of a device without an identity."""
    return b""


def accept_unsigned(offer: Offer, _: bytes) -> bool:
    """Take offers for what they say: safe only while the server relays them honestly."""
    return offer.signature == b""


@dataclass(frozen=True, slots=True)
class Identity:
    """How a device signs its offer and checks its neighbours'."""

    sign: Sign = unsigned
    verify: Verify = accept_unsigned


@dataclass(frozen=True, slots=True)
class _Offered:
    pass


@dataclass(frozen=True, slots=True)
class _Shared:
    leaves: Leaves
    index: int
    seed: bytes
    neighbours: Mapping[int, Offer]


@dataclass(frozen=True, slots=True)
class _Reported:
    shared: _Shared
    sharers: frozenset[int]
    peers: frozenset[int]
    """Neighbours that shared: whose masks are on."""
    held: Mapping[int, tuple[int, int]]
    """Of whom a share of the mask key and one of the seed could be opened."""


@dataclass(frozen=True, slots=True)
class _Confirmed:
    reported: _Reported
    counted: frozenset[int]
    agreed: frozenset[int]
    """Neighbours among them that reported under the same roster and the same sharers."""


@dataclass(frozen=True, slots=True)
class _Done:
    pass


_Phase = TypeVar("_Phase")


class RingDevice:
    """A device in one masked round."""

    def __init__(
        self,
        ring: RingRound,
        device: str,
        stream: Stream,
        identity: Identity = Identity(),
        demands: Demands = USUAL,
    ) -> None:
        """PeerProtocolError when the round does not meet the device's demands."""
        if unmet := demands.find_unmet(ring):
            raise PeerProtocolError(f"expected {unmet}")
        self._ring = ring
        self._stream = stream
        self._verify = identity.verify
        self._share: KeyPair = new_key_pair(stream)
        self._mask: KeyPair = new_key_pair(stream)
        bare = Offer(device, self._share.public, self._mask.public, b"")
        signature = identity.sign(bare.signed_bytes(ring))
        self.offer = Offer(device, self._share.public, self._mask.public, signature)
        self._secrets: dict[bytes, bytes] = {}
        self._phase: _Offered | _Shared | _Reported | _Confirmed | _Done = _Offered()

    def share(self, view: RosterView) -> Sharing:
        """Seal shares for the neighbours, after the roster was checked."""
        self._take(_Offered)
        leaves = self._checked_leaves(view)
        own_leaf = self.offer.leaf(self._ring)
        if own_leaf not in leaves.leaves:
            raise PeerProtocolError("the roster does not hold this device's offer")
        index = leaves.leaves.index(own_leaf)
        neighbours = self._checked_neighbours(leaves, index, view)
        seed = self._stream.take(SECRET_BYTES)
        xs = [other + 1 for other in neighbours]
        needed = leaves.degree.needed
        of_key = split(self._mask.private, needed, xs, PRIME, self._stream)
        of_seed = split(seed, needed, xs, PRIME, self._stream)
        sealed = {}
        for (other, offer), key_share, seed_share in zip(
            neighbours.items(), of_key, of_seed, strict=True
        ):
            key = derive(self._secret(offer), b"share", own_leaf, leaves.leaves[other])
            shares = (key_share.y, seed_share.y)
            sealed[other] = seal(key, leaves.seed, shares, self._stream)
        self._phase = _Shared(leaves, index, seed, neighbours)
        return Sharing(self.offer.device, seed_commitment(own_leaf, seed), sealed)

    def report(self, delivery: Delivery, terms: Integers) -> Report:
        """The terms of the sum with all masks on; `terms` itself is left alone.

        Beside them is a tag for each neighbour that shared, under the list of who did: whoever
        was shown another list will not give the seed away that undoes this report.
        """
        phase = self._take(_Shared)
        leaves, own_leaf = phase.leaves, phase.leaves.leaves[phase.index]
        if terms.size != self._ring.element_count:
            raise CallerProtocolError(
                f"expected {self._ring.element_count} terms, found {terms.size}"
            )
        peers = frozenset(delivery.sharers & phase.neighbours.keys())
        if phase.index not in delivery.sharers or delivery.sealed.keys() != peers:
            raise PeerProtocolError(
                "the shares delivered are not those of the neighbours that shared"
            )
        if len(peers) < leaves.degree.needed:
            raise PeerProtocolError(
                f"expected at least {leaves.degree.needed} neighbours that shared,"
                f" found {len(peers)}"
            )
        held = self._opened(phase, delivery.sealed)
        if len(held) < leaves.degree.needed:
            raise PeerProtocolError(
                f"expected at least {leaves.degree.needed} neighbours whose shares can be opened,"
                f" found {len(held)}"
            )
        masked = terms.copy()
        add_mask(masked, seed_key(own_leaf, phase.seed), 1)
        for other in sorted(peers):
            secret = shared_secret(self._mask.private, phase.neighbours[other].mask_key)
            sign, key = pair_key(secret, leaves, phase.index, other)
            add_mask(masked, key, sign)
        self._phase = _Reported(phase, delivery.sharers, peers, held)
        digest = leaves.sharers_digest(delivery.sharers)
        return Report(masked, self._tags(phase, peers, b"report", digest))

    def confirm(self, survivors: Survivors) -> Confirmation:
        """Tell the surviving neighbours which list one was given."""
        phase = self._take(_Reported)
        shared, counted = phase.shared, survivors.counted
        alive, needed = counted & phase.peers, shared.leaves.degree.needed
        if not counted <= phase.sharers or shared.index not in counted:
            raise PeerProtocolError("the list of survivors holds a stranger, or not this device")
        if len(counted) < self._ring.least_devices:
            raise PeerProtocolError(
                f"expected at least {self._ring.least_devices} reports in the sum,"
                f" found {len(counted)}"
            )
        if len(alive) < needed:
            raise PeerProtocolError(
                f"expected at least {needed} surviving neighbours, found {len(alive)}"
            )
        tags = {other: tag for other, tag in survivors.tags.items() if other in alive}
        same_sharers = shared.leaves.sharers_digest(phase.sharers)
        agreed = self._senders(shared, tags, b"report", same_sharers)
        if len(agreed) < needed:
            raise PeerProtocolError(
                f"expected at least {needed} surviving neighbours that report under the same list"
                f" of who shared, found {len(agreed)} of {len(alive)}"
            )
        digest = shared.leaves.list_digest(phase.sharers, counted)
        self._phase = _Confirmed(phase, counted, agreed)
        return Confirmation(self.offer.device, self._tags(shared, alive, b"confirm", digest))

    def reveal(self, tags: Mapping[int, bytes]) -> Reveal:
        """One share per neighbour whose shares are held, once enough saw the same list.

        Of a survivor that reported under other sharers there is none: whoever helps to read an
        update has a mask in common with it, so that neither is in a sum without the other.
        """
        phase = self._take(_Confirmed)
        reported, shared = phase.reported, phase.reported.shared
        digest = shared.leaves.list_digest(reported.sharers, phase.counted)
        for other in tags.keys() - (phase.counted & reported.peers):
            raise PeerProtocolError(f"device {other} of the roster has nothing to confirm")
        confirming = len(self._senders(shared, tags, b"confirm", digest))
        if confirming < shared.leaves.degree.needed:
            raise PeerProtocolError(
                f"expected at least {shared.leaves.degree.needed} neighbours that confirm the list"
                f" of survivors, found {confirming} of {len(tags)}"
            )
        self._phase = _Done()
        return Reveal(
            self.offer.device,
            {
                other: seed_share if other in phase.counted else key_share
                for other, (key_share, seed_share) in reported.held.items()
                if other in phase.agreed or other not in phase.counted
            },
        )

    def _tags(
        self, phase: _Shared, others: Iterable[int], purpose: bytes, digest: bytes
    ) -> dict[int, bytes]:
        """What tells each of these neighbours which list one was given."""
        leaves, own_leaf = phase.leaves.leaves, phase.leaves.leaves[phase.index]
        return {
            other: tag_of(
                derive(self._secret(phase.neighbours[other]), purpose, own_leaf, leaves[other]),
                digest,
            )
            for other in sorted(others)
        }

    def _senders(
        self, phase: _Shared, tags: Mapping[int, bytes], purpose: bytes, digest: bytes
    ) -> frozenset[int]:
        """The neighbours that were given the list with this digest.

        A wrong tag is worth as much as none: whoever sent it was given another list, or wants
        to end the round for others.
        """
        leaves, own_leaf = phase.leaves.leaves, phase.leaves.leaves[phase.index]
        found = set()
        for other, tag in tags.items():
            secret = self._secret(phase.neighbours[other])
            if is_tag(derive(secret, purpose, leaves[other], own_leaf), digest, tag):
                found.add(other)
        return frozenset(found)

    def _opened(self, phase: _Shared, sealed: Mapping[int, bytes]) -> dict[int, tuple[int, int]]:
        """The shares of neighbours, without those that cannot be opened.

        Whoever spoilt them wins nothing: the masks stay on, and others hold shares too.
        """
        leaves, own_leaf = phase.leaves, phase.leaves.leaves[phase.index]
        held = {}
        for other in sorted(sealed):
            secret = self._secret(phase.neighbours[other])
            key = derive(secret, b"share", leaves.leaves[other], own_leaf)
            shares = unseal(key, leaves.seed, sealed[other])
            if shares is not None:
                held[other] = shares
        return held

    def _take(self, phase: type[_Phase]) -> _Phase:
        """The phase that this step starts from; from here on the round is over if it fails."""
        found = self._phase
        if not isinstance(found, phase):
            raise CallerProtocolError(f"this step does not follow {type(found).__name__}")
        self._phase = _Done()
        return found

    def _checked_leaves(self, view: RosterView) -> Leaves:
        # The first bytes are the name's: one device stands in the roster once, since a neighbour
        # under another name than its own is found out by whoever checks its offer.
        names = [leaf[:NAME_BYTES] for leaf in view.leaves]
        if any(a >= b for a, b in pairwise(names)):
            raise PeerProtocolError("the roster is not in order, or names a device twice")
        if len(view.leaves) < self._ring.least_devices:
            raise PeerProtocolError(
                f"expected at least {self._ring.least_devices} devices in the roster,"
                f" found {len(view.leaves)}"
            )
        return Leaves(self._ring, view.leaves)

    def _checked_neighbours(self, leaves: Leaves, index: int, view: RosterView) -> dict[int, Offer]:
        neighbours = leaves.neighbours(index)
        if view.offers.keys() != set(neighbours):
            raise PeerProtocolError("the offers are not those of this device's neighbours")
        found = {other: view.offers[other] for other in neighbours}
        for other, offer in found.items():
            if offer.leaf(self._ring) != leaves.leaves[other]:
                raise PeerProtocolError(f"the offer of {offer.device!r} is not in the roster")
            if not self._verify(offer, offer.signed_bytes(self._ring)):
                raise PeerProtocolError(f"the offer of {offer.device!r} has no valid signature")
        return found

    def _secret(self, offer: Offer) -> bytes:
        """What only this device and the offer's know; each is needed up to six times."""
        found = self._secrets.get(offer.share_key)
        if found is None:
            found = shared_secret(self._share.private, offer.share_key)
            self._secrets[offer.share_key] = found
        return found


def seed_key(leaf: bytes, seed: bytes) -> bytes:
    """The key of a device's own mask."""
    return derive(seed, b"own", leaf, leaf)


def pair_key(secret: bytes, leaves: Leaves, mine: int, theirs: int) -> tuple[int, bytes]:
    """The sign with which the first adds the mask of a pair, and the key of that mask."""
    low, high = sorted((mine, theirs))
    key = derive(secret, b"pair", leaves.leaves[low], leaves.leaves[high])
    return (1 if mine > theirs else -1), key
