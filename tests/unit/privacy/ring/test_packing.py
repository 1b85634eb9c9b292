"""Messages of a masked round come back from their bytes as they went, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import PeerProtocolError
from fl_cluster.privacy.ring import packing
from fl_cluster.privacy.ring.messages import RingRound
from fl_cluster.wire import messages, packed

PLACE = packing.Place(3, 1)


def travelled(message: Any) -> Any:
    """What arrives of a message."""
    return packed.decode(type(message), packed.encode(message))


def test_every_message_of_a_round_comes_back_as_it_went(table: Any) -> None:
    size = len(table.devices)
    for name, device in table.devices.items():
        index, delivery = table.index(name), table.delivery(name)
        neighbours = table.roster.leaves.graph[index]
        view, sharing = table.roster.view(name), table.sharings[index]
        sent = travelled(packing.pack_offer(PLACE, device.offer))
        assert (sent.iteration, sent.attempt) == (3, 1)
        assert packing.unpack_offer(sent) == device.offer
        assert packing.unpack_roster(travelled(packing.pack_roster(view))) == view
        sent = travelled(packing.pack_sharing(PLACE, sharing))
        assert packing.unpack_sharing(sent, neighbours) == sharing
        sent = travelled(packing.pack_delivery(delivery, size))
        assert packing.unpack_delivery(sent, size, neighbours) == delivery
        terms, tags = (report := table.report(name)).terms, report.tags
        sent = travelled(
            messages.RequestUpdateModel(
                masked_terms=packing.pack_terms(terms), masked_tags=packing.pack_report_tags(tags)
            )
        )
        assert packing.unpack_terms(sent.masked_terms, 5).tolist() == terms.tolist()
        assert sent.masked_tags.tobytes() == b"".join(tags[other] for other in sorted(tags))
    counted = frozenset(range(size))
    for name in table.devices:
        survivors = table.survivors(name, counted)
        assert len(survivors.tags) == 4
        sent = travelled(packing.pack_survivors(survivors, 5))
        neighbours = table.roster.leaves.graph[table.index(name)]
        assert packing.unpack_survivors(sent, 5, neighbours) == survivors
    confirmations = table.confirm_all(counted)
    for name, device in table.devices.items():
        confirmation, tags = (
            confirmations[table.index(name)],
            table.roster.tags_for(name, confirmations),
        )
        alive = sorted(confirmation.tags)
        sent = travelled(packing.pack_confirmation(PLACE, confirmation))
        assert packing.unpack_confirmation(sent, alive) == confirmation
        assert packing.unpack_tags(travelled(packing.pack_tags(tags, size)), size) == tags
        reveal = device.reveal(tags)
        assert packing.unpack_reveal(travelled(packing.pack_reveal(PLACE, reveal, 5)), 5) == reveal


def test_a_round_is_the_same_for_all_sides_and_for_no_other_run_or_attempt() -> None:
    tensors = (messages.SecureTensor("a", 3, 20), messages.SecureTensor("b", 2, 21))
    told = messages.SecureRound("run-1", 1, 3, 0.05, 0.2, 40, 20, 8, 1_000, tensors)

    ring = packing.ring_round(travelled(told), "digits", 7)

    assert ring == RingRound("6/digits/run-1", 7, 1, 5, 3)
    others = (told._replace(instance="run-2"), told._replace(attempt=2), told._replace(tensors=()))
    digests = {packing.ring_round(other, "digits", 7).digest for other in (told, *others)}
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"least_devices": 1}, "hides nothing below 2"), ({"corrupt": 0.9}, "together below 1")],
)
def test_a_round_that_makes_no_sense_is_refused(changes: Any, sentence: str) -> None:
    told = messages.SecureRound("run-1", 1, 3, 0.05, 0.2, 40, 20, 8, 1_000, ())

    with pytest.raises(PeerProtocolError, match=sentence):
        packing.ring_round(told._replace(**changes), "digits", 1)


def bytes_of(count: int) -> Any:
    return np.zeros(count, np.int8)


@pytest.mark.parametrize(
    ("unpack", "sentence"),
    [
        (lambda: packing.unpack_terms(bytes_of(41), 5), "5 elements of 8 bytes, found 41"),
        (
            lambda: packing.unpack_roster(messages.ResponseSecureRoster(leaves=bytes_of(49))),
            "leaves: expected a multiple of 48 bytes, found 49",
        ),
        (
            lambda: packing.unpack_survivors(messages.ResponseSecureSurvivors(), 5, (1, 2)),
            "counted: expected a bitmap of 5 devices",
        ),
        (
            lambda: packing.unpack_survivors(
                messages.ResponseSecureSurvivors(counted=np.array([6], np.int8)), 5, (1, 3)
            ),
            "tags: expected 1 times 16 bytes, found 0",
        ),
        (
            lambda: packing.unpack_tags(
                messages.ResponseSecureTags(senders=bytes_of(1), tags=bytes_of(16)), 5
            ),
            "tags: expected 0 times 16 bytes, found 16",
        ),
        (
            lambda: packing.unpack_sharing(messages.RequestSecureShare("a"), [1]),
            "commitment: expected 32 bytes, found 0",
        ),
    ],
)
def test_what_does_not_have_its_shape_is_refused_by_name(unpack: Any, sentence: str) -> None:
    with pytest.raises(PeerProtocolError, match=sentence):
        unpack()
