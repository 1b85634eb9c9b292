"""The messages of a masked round as they travel: maps by index become bytes in rising order.

The shapes are in the messages' declarations (wire/fl_job.fbs); devices and servers use this one
reading of them.  A PeerProtocolError says which field does not have the shape it must have.
Who is whose neighbour, and whether a message may be sent at all, is not looked at here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from fl_cluster.errors import PeerProtocolError
from fl_cluster.kernels.native import Integers
from fl_cluster.privacy.ring.degrees import Assumptions
from fl_cluster.privacy.ring.messages import (
    Confirmation,
    Delivery,
    Offer,
    Reveal,
    RingRound,
    RosterView,
    Sharing,
    Survivors,
    bitmap,
    bytes_of,
    digest_of,
    indices_in,
)
from fl_cluster.privacy.ring.secrets import (
    DIGEST_BYTES,
    LEAF_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    TAG_BYTES,
)
from fl_cluster.wire.messages import (
    RequestSecureConfirm,
    RequestSecureOffer,
    RequestSecureReveal,
    RequestSecureShare,
    ResponseSecureDelivery,
    ResponseSecureRoster,
    ResponseSecureSurvivors,
    ResponseSecureTags,
    SecureOffer,
    SecureRound,
)
from fl_cluster.wire.schema import Int8s

SECURE = "SECURE_AGGREGATION"
"""The name of this protection in a job's plan."""

T = TypeVar("T")

_TERM = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class Place:
    """Which round a device's message is for: what stands in every request."""

    number: int
    attempt: int

    @classmethod
    def of(cls, ring: RingRound) -> Place:
        """The place of a masked round."""
        return cls(ring.number, ring.attempt)


def ring_round(announced: SecureRound, job: str, number: int) -> RingRound:
    """The masked round that an admitted device is told of; the same on all sides."""
    elements = sum(tensor.elements for tensor in announced.tensors or ())
    try:
        bounds = Assumptions(
            announced.corrupt, announced.dropout, announced.safety_bits, announced.failure_bits
        )
        return RingRound(
            f"{len(job)}/{job}/{announced.instance or ''}",
            number,
            announced.attempt,
            elements,
            announced.least_devices,
            bounds,
            announced.terms or b"",
        )
    except ValueError as exc:
        raise PeerProtocolError(f"secure: {exc}") from exc


class Start(NamedTuple):
    """What each device of a round is told to do, besides how its update is added up."""

    rounds: int
    epochs: int
    batch_size: int
    learning_rate: float
    server_mode: str
    model: bytes
    """Digest of all tensors that training starts from (`aggregate.model.digest_of_tensors`)."""


def terms_digest(announced: SecureRound, start: Start) -> bytes:
    """The digest of all that decides what the round's updates are.

    Each device makes it of what it was told itself, and every message of the round is bound to
    it.  Devices that were told different things could be told apart in the sum: a server would
    let all but one send what it knows already, or what vanishes beside the one.
    """
    numbers = (start.rounds, start.epochs, start.batch_size, announced.cohort_size)
    rate = struct.pack(">d", start.learning_rate)
    added = [
        (tensor.weight_fullname or "", tensor.elements, tensor.exponent)
        for tensor in announced.tensors or ()
    ]
    texts = [start.server_mode, *map(str, numbers)]
    texts += [str(part) for entry in added for part in entry]
    return digest_of(b"terms", start.model, rate, *map(bytes_of, texts))


# What devices send


def pack_offer(place: Place, offer: Offer) -> RequestSecureOffer:
    """secure/offer."""
    return RequestSecureOffer(
        offer.device,
        place.number,
        place.attempt,
        offer.share_key,
        offer.mask_key,
        offer.signature,
    )


def unpack_offer(message: RequestSecureOffer) -> Offer:
    """The inverse of `pack_offer`."""
    return Offer(
        message.fl_id or "",
        message.share_key or b"",
        message.mask_key or b"",
        message.signature or b"",
    )


def pack_sharing(place: Place, sharing: Sharing) -> RequestSecureShare:
    """secure/share."""
    return RequestSecureShare(
        sharing.device,
        place.number,
        place.attempt,
        sharing.commitment,
        _packed(_rising(sharing.sealed)),
    )


def unpack_sharing(message: RequestSecureShare, neighbours: Sequence[int]) -> Sharing:
    """The inverse of `pack_sharing`; `neighbours` are the sender's, rising."""
    commitment = message.commitment or b""
    if len(commitment) != DIGEST_BYTES:
        raise PeerProtocolError(
            f"commitment: expected {DIGEST_BYTES} bytes, found {len(commitment)}"
        )
    sealed = _unpacked("sealed", message.sealed, SEALED_BYTES, neighbours)
    return Sharing(message.fl_id or "", commitment, sealed)


def pack_confirmation(place: Place, confirmation: Confirmation) -> RequestSecureConfirm:
    """secure/confirm."""
    tags = _packed(_rising(confirmation.tags))
    return RequestSecureConfirm(confirmation.device, place.number, place.attempt, tags)


def unpack_confirmation(message: RequestSecureConfirm, alive: Sequence[int]) -> Confirmation:
    """The inverse of `pack_confirmation`; `alive` are the sender's surviving neighbours, rising."""
    return Confirmation(message.fl_id or "", _unpacked("tags", message.tags, TAG_BYTES, alive))


def pack_reveal(place: Place, reveal: Reveal, size: int) -> RequestSecureReveal:
    """secure/reveal, in a roster of `size` devices."""
    shares = [share.to_bytes(SHARE_BYTES, "big") for share in _rising(reveal.shares)]
    return RequestSecureReveal(
        reveal.device,
        place.number,
        place.attempt,
        _bits(reveal.shares, size),
        _packed(shares),
    )


def unpack_reveal(message: RequestSecureReveal, size: int) -> Reveal:
    """The inverse of `pack_reveal`."""
    owners = sorted(_indices("owners", message.owners, size))
    found = _unpacked("shares", message.shares, SHARE_BYTES, owners)
    shares = {owner: int.from_bytes(share, "big") for owner, share in found.items()}
    return Reveal(message.fl_id or "", shares)


def pack_terms(masked: Integers) -> Int8s:
    """updateModel's masked_terms: 8 bytes an element, little-endian."""
    return np.ascontiguousarray(masked, _TERM).view(np.int8)


def unpack_terms(sent: Int8s, count: int) -> Integers:
    """The inverse of `pack_terms`, a view where that can be."""
    if sent.size != _TERM.itemsize * count:
        raise PeerProtocolError(
            f"masked_terms: expected {count} elements of {_TERM.itemsize} bytes,"
            f" found {sent.size} bytes"
        )
    return sent.view(_TERM)


def pack_report_tags(tags: Mapping[int, bytes]) -> Int8s:
    """updateModel's masked_tags; by whom they are for."""
    return _packed(_rising(tags))


# What servers answer


def pack_roster(view: RosterView) -> ResponseSecureRoster:
    """secure/roster: what is in it, without its outcome."""
    offers = tuple(
        SecureOffer(index, offer.device, offer.share_key, offer.mask_key, offer.signature)
        for index, offer in sorted(view.offers.items())
    )
    return ResponseSecureRoster(leaves=_packed(view.leaves), offers=offers)


def unpack_roster(answer: ResponseSecureRoster) -> RosterView:
    """The inverse of `pack_roster`."""
    raw = _raw(answer.leaves)
    if len(raw) % LEAF_BYTES:
        raise PeerProtocolError(
            f"leaves: expected a multiple of {LEAF_BYTES} bytes, found {len(raw)}"
        )
    leaves = tuple(raw[at : at + LEAF_BYTES] for at in range(0, len(raw), LEAF_BYTES))
    offers = {
        offer.index: Offer(
            offer.fl_id or "",
            offer.share_key or b"",
            offer.mask_key or b"",
            offer.signature or b"",
        )
        for offer in answer.offers or ()
    }
    return RosterView(leaves, offers)


def pack_delivery(delivery: Delivery, size: int) -> ResponseSecureDelivery:
    """secure/delivery, in a roster of `size` devices."""
    return ResponseSecureDelivery(
        sharers=_bits(delivery.sharers, size), sealed=_packed(_rising(delivery.sealed))
    )


def unpack_delivery(
    answer: ResponseSecureDelivery, size: int, neighbours: Iterable[int]
) -> Delivery:
    """The inverse of `pack_delivery`; `neighbours` are those of whoever asked."""
    sharers = _indices("sharers", answer.sharers, size)
    senders = sorted(sharers.intersection(neighbours))
    return Delivery(sharers, _unpacked("sealed", answer.sealed, SEALED_BYTES, senders))


def pack_survivors(survivors: Survivors, size: int) -> ResponseSecureSurvivors:
    """secure/survivors, in a roster of `size` devices."""
    return ResponseSecureSurvivors(
        counted=_bits(survivors.counted, size), tags=_packed(_rising(survivors.tags))
    )


def unpack_survivors(
    answer: ResponseSecureSurvivors, size: int, neighbours: Iterable[int]
) -> Survivors:
    """The inverse of `pack_survivors`; `neighbours` are those of whoever asked."""
    counted = _indices("counted", answer.counted, size)
    senders = sorted(counted.intersection(neighbours))
    return Survivors(counted, _unpacked("tags", answer.tags, TAG_BYTES, senders))


def pack_tags(tags: Mapping[int, bytes], size: int) -> ResponseSecureTags:
    """secure/tags; by who confirmed."""
    return ResponseSecureTags(senders=_bits(tags, size), tags=_packed(_rising(tags)))


def unpack_tags(answer: ResponseSecureTags, size: int) -> dict[int, bytes]:
    """The inverse of `pack_tags`."""
    senders = sorted(_indices("senders", answer.senders, size))
    return _unpacked("tags", answer.tags, TAG_BYTES, senders)


# Bytes


def _rising(by_index: Mapping[int, T]) -> list[T]:
    return [by_index[index] for index in sorted(by_index)]


def _packed(parts: Iterable[bytes]) -> Int8s:
    return np.frombuffer(b"".join(parts), np.int8)


def _bits(indices: Iterable[int], size: int) -> Int8s:
    return np.frombuffer(bitmap(indices, size), np.int8)


def _raw(sent: Int8s | None) -> bytes:
    return b"" if sent is None else sent.tobytes()


def _indices(name: str, sent: Int8s | None, size: int) -> frozenset[int]:
    try:
        return indices_in(_raw(sent), size)
    except ValueError as exc:
        raise PeerProtocolError(f"{name}: {exc}") from exc


def _unpacked(
    name: str, sent: Int8s | None, width: int, indices: Sequence[int]
) -> dict[int, bytes]:
    """One entry of `width` bytes for each index, in that order."""
    raw = _raw(sent)
    if len(raw) != width * len(indices):
        raise PeerProtocolError(
            f"{name}: expected {len(indices)} times {width} bytes, found {len(raw)}"
        )
    return {index: raw[at * width : (at + 1) * width] for at, index in enumerate(indices)}
