"""What a server refuses from devices, and the one wrong share that it survives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import PeerProtocolError
from fl_cluster.privacy.ring.server import CannotUnmask, ReportTags, Roster, Unmasking


def finished(table: Any, gone: str = "eve") -> tuple[Any, Any, dict[int, Any]]:
    """The masked sum, the unmasking and the reveals of a round that `gone` left after sharing."""
    masked = np.zeros(5, np.int64)
    for name in table.devices:
        if name != gone:
            masked += table.report(name).terms
    counted = frozenset(table.index(name) for name in table.devices if name != gone)
    confirmations = table.confirm_all(counted)
    reveals = {
        table.index(name): device.reveal(table.roster.tags_for(name, confirmations))
        for name, device in table.devices.items()
        if name != gone
    }
    commitments = {index: sharing.commitment for index, sharing in table.sharings.items()}
    return masked, Unmasking(table.roster, commitments, counted), reveals


def test_one_wrong_share_of_each_secret_is_survived(table: Any, changed: Any) -> None:
    masked, unmasking, reveals = finished(table, gone="nobody")
    liar = min(reveals)
    wrong = {owner: share ^ 1 for owner, share in reveals[liar].shares.items()}
    reveals[liar] = changed(reveals[liar], shares=wrong)

    unmasking.apply(masked, reveals)

    assert (5 * table.terms).tolist() == masked.tolist()


def test_a_secret_that_nobody_promised_is_not_used(table: Any, changed: Any) -> None:
    masked, unmasking, reveals = finished(table)
    for index in sorted(reveals)[:2]:
        wrong = {owner: share ^ 1 for owner, share in reveals[index].shares.items()}
        reveals[index] = changed(reveals[index], shares=wrong)

    with pytest.raises(CannotUnmask, match="do not make the secret that was promised"):
        unmasking.apply(masked, reveals)


def test_shares_for_others_than_the_neighbours_are_refused(table: Any, changed: Any) -> None:
    sharing = table.sharings[0]

    with pytest.raises(PeerProtocolError, match="expected shares for its 4 neighbours, found 3"):
        table.roster.check_sharing(changed(sharing, sealed=dict(list(sharing.sealed.items())[1:])))


def test_a_stranger_has_no_place_in_the_roster(table: Any) -> None:
    with pytest.raises(PeerProtocolError, match="device 'mallory' is not in the roster"):
        table.roster.view("mallory")


def test_two_offers_of_one_device_are_refused(offered: Any, changed: Any) -> None:
    devices, roster = offered
    twice = [devices["ann"].offer, changed(devices["bob"].offer, device="ann")]

    with pytest.raises(PeerProtocolError, match="one device made two offers"):
        Roster(roster.leaves.ring, twice)


@pytest.mark.parametrize("key", [b"short", bytes(32), b"\1" + bytes(31)])
def test_a_key_that_makes_no_secret_is_refused(offered: Any, changed: Any, key: bytes) -> None:
    devices, roster = offered

    with pytest.raises(PeerProtocolError, match="two keys of 32 bytes that make secrets"):
        Roster(roster.leaves.ring, [changed(devices["ann"].offer, mask_key=key)])


def test_a_reveal_of_a_stranger_is_refused(table: Any, changed: Any) -> None:
    _, _, reveals = finished(table)
    reveal = next(iter(reveals.values()))

    for shares in ({99: 1}, {next(iter(reveal.shares)): 2**300}):
        with pytest.raises(PeerProtocolError, match="expected a share for each of 4 neighbours"):
            table.roster.check_reveal(
                changed(reveal, shares={**reveal.shares, **shares}), table.everybody()
            )


def test_a_share_that_nobody_could_open_is_not_waited_for(table: Any, changed: Any) -> None:
    _, unmasking, reveals = finished(table)
    assert unmasking.can_finish(reveals)
    first = min(reveals)
    none = changed(reveals[first], shares={})

    assert not unmasking.can_finish({**reveals, first: none})


@pytest.mark.parametrize("spoil", [{"commitment": b"short"}, {"sealed": {}}])
def test_a_sharing_of_another_size_is_refused(table: Any, changed: Any, spoil: Any) -> None:
    with pytest.raises(PeerProtocolError, match="a digest of 32 bytes and shares of 94"):
        table.roster.check_sharing(changed(table.sharings[0], **spoil))


def test_confirmations_of_another_size_are_refused(table: Any, changed: Any) -> None:
    table.report_all()
    confirmation = table.confirm("ann", table.everybody())
    short = changed(confirmation, tags={key: tag[:8] for key, tag in confirmation.tags.items()})

    with pytest.raises(PeerProtocolError, match="expected one tag for each"):
        table.roster.check_confirmation(short, table.everybody(), table.everybody())


def test_tags_of_another_number_than_the_neighbours_that_shared_are_refused(table: Any) -> None:
    with pytest.raises(PeerProtocolError, match="masked_tags: expected 4 times 16 bytes, one for"):
        ReportTags(table.roster, table.everybody(), {0: bytes(48)})
