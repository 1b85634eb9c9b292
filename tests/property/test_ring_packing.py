"""Whatever bytes stand in the messages of a masked round: they are read, or refused."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fl_cluster.errors import PeerProtocolError
from fl_cluster.privacy.draws import SystemStream
from fl_cluster.privacy.ring import packing
from fl_cluster.privacy.ring.device import RingDevice
from fl_cluster.privacy.ring.messages import Confirmation, Reveal, RingRound, Sharing
from fl_cluster.privacy.ring.secrets import LEAF_BYTES, SEALED_BYTES, SHARE_BYTES, TAG_BYTES
from fl_cluster.privacy.ring.server import Roster
from fl_cluster.wire import messages, packed

RING = RingRound("digits", 3, 1, 5, 3)
NAMES = ("ann", "bob", "cleo", "dan")
ROSTER = Roster(RING, [RingDevice(RING, name, SystemStream()).offer for name in NAMES])
EVERYBODY = frozenset(range(4))
PLACE = packing.Place.of(RING)


def some(width: int) -> st.SearchStrategy[Any]:
    """Bytes of about as many entries as there could be."""
    lengths = st.integers(0, 4).map(lambda count: count * width) | st.integers(0, 3 * width)
    raw = lengths.flatmap(lambda size: st.binary(min_size=size, max_size=size))
    return st.none() | raw.map(lambda each: np.frombuffer(each, np.int8))


@given(some(SEALED_BYTES), st.none() | st.binary(max_size=33), st.sampled_from(NAMES))
def test_a_sharing_is_for_the_neighbours_or_is_refused(
    sealed: Any, commitment: bytes | None, name: str
) -> None:
    message = messages.RequestSecureShare(name, 3, 1, commitment, sealed)
    neighbours = ROSTER.leaves.graph[ROSTER.index(name)]

    with contextlib.suppress(PeerProtocolError):
        sharing = packing.unpack_sharing(message, neighbours)
        ROSTER.check_sharing(sharing)
        assert packed.encode(packing.pack_sharing(PLACE, sharing)) == packed.encode(message)


@given(some(TAG_BYTES), st.sampled_from(NAMES), st.frozensets(st.integers(0, 3)))
def test_a_confirmation_is_for_those_that_are_there_or_is_refused(
    tags: Any, name: str, counted: frozenset[int]
) -> None:
    message = messages.RequestSecureConfirm(name, 3, 1, tags)
    alive = sorted(counted & set(ROSTER.leaves.graph[ROSTER.index(name)]))

    with contextlib.suppress(PeerProtocolError):
        found: Confirmation = packing.unpack_confirmation(message, alive)
        ROSTER.check_confirmation(found, EVERYBODY, counted)
        assert found.tags.keys() == set(alive)


@given(some(SHARE_BYTES), some(1), st.sampled_from(NAMES))
def test_a_reveal_is_of_neighbours_that_shared_or_is_refused(
    shares: Any, owners: Any, name: str
) -> None:
    message = messages.RequestSecureReveal(name, 3, 1, owners, shares)

    with contextlib.suppress(PeerProtocolError):
        reveal: Reveal = packing.unpack_reveal(message, 4)
        ROSTER.check_reveal(reveal, EVERYBODY)
        assert ROSTER.index(name) not in reveal.shares
        assert packing.unpack_reveal(packing.pack_reveal(PLACE, reveal, 4), 4) == reveal


@given(some(LEAF_BYTES), some(SEALED_BYTES), some(TAG_BYTES), some(1))
def test_a_device_reads_or_refuses_whatever_a_server_answers(
    leaves: Any, sealed: Any, tags: Any, bits: Any
) -> None:
    for unpack in (
        lambda: packing.unpack_roster(messages.ResponseSecureRoster(leaves=leaves)),
        lambda: packing.unpack_delivery(
            messages.ResponseSecureDelivery(sharers=bits, sealed=sealed), 4, (1, 2, 3)
        ),
        lambda: packing.unpack_survivors(
            messages.ResponseSecureSurvivors(counted=bits, tags=tags), 4, (1, 2, 3)
        ),
        lambda: packing.unpack_tags(messages.ResponseSecureTags(senders=bits, tags=tags), 4),
    ):
        with contextlib.suppress(PeerProtocolError):
            unpack()


@given(st.integers(0, 3), st.binary(min_size=32, max_size=32))
def test_what_is_packed_is_in_rising_order_however_it_was_made(first: int, digest: bytes) -> None:
    order = [*range(first, 4), *range(first)]
    sealed = {index: bytes([index]) * SEALED_BYTES for index in order}

    message = packing.pack_sharing(PLACE, Sharing("ann", digest, sealed))

    assert message.sealed is not None
    assert message.sealed.tobytes()[::SEALED_BYTES] == bytes(range(4))
