"""What a device insists on: nothing that a lying server sends makes it expose an update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.privacy.ring.degrees import Assumptions
from fl_cluster.privacy.ring.demands import Demands
from fl_cluster.privacy.ring.device import Identity, RingDevice
from fl_cluster.privacy.ring.messages import (
    Confirmation,
    Leaves,
    Offer,
    RingRound,
    RosterView,
)
from fl_cluster.privacy.ring.server import Roster


def test_a_roster_without_the_device_is_refused(offered: Any, changed: Any) -> None:
    devices, roster = offered
    view = roster.view("ann")
    own = devices["ann"].offer.leaf(roster.leaves.ring)

    with pytest.raises(PeerProtocolError, match="does not hold this device's offer"):
        devices["ann"].share(changed(view, leaves=tuple(x for x in view.leaves if x != own)))


def test_a_roster_out_of_order_is_refused(offered: Any, changed: Any) -> None:
    devices, roster = offered
    view = roster.view("ann")

    with pytest.raises(PeerProtocolError, match="not in order"):
        devices["ann"].share(changed(view, leaves=view.leaves[::-1]))


def test_a_roster_that_names_a_device_twice_is_refused(offered: Any, changed: Any) -> None:
    """However far from each other its two offers are: their leaves begin alike."""
    devices, roster = offered
    view = roster.view("ann")
    eve = devices["eve"].offer
    again = changed(eve, mask_key=eve.share_key).leaf(roster.leaves.ring)
    twice = tuple(sorted({*view.leaves, again}))

    assert len(twice) == 6
    with pytest.raises(PeerProtocolError, match="names a device twice"):
        devices["ann"].share(changed(view, leaves=twice))


def test_a_neighbour_under_another_name_than_its_own_is_refused(offered: Any) -> None:
    """So no device stands in the roster several times under names of nobody."""
    devices, roster = offered
    view, ring = roster.view("ann"), roster.leaves.ring
    eve = devices["eve"].offer.leaf(ring)
    twice = sorted({*view.leaves, bytes(16) + eve[16:]})
    leaves = Leaves(ring, twice)
    offers = {
        leaves.leaves.index(bytes(16) + eve[16:]): devices["eve"].offer,
        **{leaves.leaves.index(offer.leaf(ring)): offer for offer in view.offers.values()},
    }

    with pytest.raises(PeerProtocolError, match="the offer of 'eve' is not in the roster"):
        devices["ann"].share(RosterView(leaves.leaves, offers))


def test_a_roster_that_is_too_small_is_refused(offered: Any) -> None:
    devices, whole = offered
    roster = Roster(whole.leaves.ring, [devices[name].offer for name in ("ann", "bob")])

    with pytest.raises(PeerProtocolError, match="at least 3 devices in the roster, found 2"):
        devices["ann"].share(roster.view("ann"))


def test_a_key_that_is_not_in_the_roster_is_refused(offered: Any, changed: Any) -> None:
    devices, roster = offered
    view = roster.view("ann")
    other = next(iter(view.offers))
    forged = changed(view.offers[other], mask_key=bytes([9]) + bytes(31))

    with pytest.raises(PeerProtocolError, match="is not in the roster"):
        devices["ann"].share(changed(view, offers={**view.offers, other: forged}))


def test_a_missing_neighbour_is_noticed(offered: Any, changed: Any) -> None:
    devices, roster = offered
    view = roster.view("ann")
    few = dict(list(view.offers.items())[1:])

    with pytest.raises(PeerProtocolError, match="not those of this device's neighbours"):
        devices["ann"].share(changed(view, offers=few))


def spoilt(sealed: bytes) -> bytes:
    return sealed[:-1] + bytes([sealed[-1] ^ 1])


def test_a_spoilt_share_is_not_held_and_stops_nobody(table: Any, changed: Any) -> None:
    delivery = table.delivery("ann")
    sender = next(iter(delivery.sealed))
    sealed = {**delivery.sealed, sender: spoilt(delivery.sealed[sender])}
    for name in table.devices:
        table.report(name, changed(delivery, sealed=sealed) if name == "ann" else None)
    confirmations = table.confirm_all(table.everybody())

    reveal = table.devices["ann"].reveal(table.roster.tags_for("ann", confirmations))

    assert reveal.shares.keys() == table.everybody() - {table.index("ann"), sender}
    table.roster.check_reveal(reveal, table.everybody())


def test_too_many_spoilt_shares_are_refused(table: Any, changed: Any) -> None:
    delivery = table.delivery("ann")
    one, two = list(delivery.sealed)[:2]
    sealed = {**delivery.sealed, one: spoilt(delivery.sealed[one]), two: b"short"}

    with pytest.raises(PeerProtocolError, match=r"whose shares can be opened, found 2"):
        table.devices["ann"].report(changed(delivery, sealed=sealed), table.terms)


def test_shares_swapped_between_senders_cannot_be_opened(table: Any, changed: Any) -> None:
    delivery = table.delivery("ann")
    one, two = list(delivery.sealed)[:2]
    sealed = {**delivery.sealed, one: delivery.sealed[two], two: delivery.sealed[one]}

    with pytest.raises(PeerProtocolError, match="whose shares can be opened, found 2"):
        table.devices["ann"].report(changed(delivery, sealed=sealed), table.terms)


def test_too_few_neighbours_that_shared_are_refused(table: Any, changed: Any) -> None:
    own = table.index("ann")
    delivery = table.delivery("ann")
    first = next(iter(delivery.sealed))
    lonely = changed(
        delivery, sharers=frozenset({own, first}), sealed={first: delivery.sealed[first]}
    )

    with pytest.raises(PeerProtocolError, match="at least 3 neighbours that shared, found 1"):
        table.devices["ann"].report(lonely, table.terms)


def test_terms_of_another_size_are_a_mistake_of_the_caller(table: Any) -> None:
    with pytest.raises(CallerProtocolError, match="expected 5 terms, found 4"):
        table.devices["ann"].report(table.delivery("ann"), np.zeros(4, np.int64))


def test_the_terms_are_left_alone(table: Any) -> None:
    table.devices["ann"].report(table.delivery("ann"), table.terms)

    assert table.terms.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("counted", [set(), {"ann"}, {"ann", "bob"}, {"bob", "cleo", "dan"}])
def test_a_list_that_would_expose_somebody_is_refused(table: Any, counted: set[str]) -> None:
    table.report_all()

    with pytest.raises(PeerProtocolError):
        table.confirm("ann", frozenset(table.index(name) for name in counted))


def test_a_list_with_a_stranger_is_refused(table: Any) -> None:
    table.report_all()

    with pytest.raises(PeerProtocolError, match="holds a stranger"):
        table.confirm("ann", table.everybody() | {17})


def test_neighbours_that_saw_another_list_are_found_out(table: Any) -> None:
    """The server asks some for seeds and others for keys of one device: nobody answers."""
    table.report_all()
    everybody = table.everybody()
    without_eve = everybody - {table.index("eve")}
    confirmations = {
        table.index(name): table.confirm(name, everybody if name in ("ann", "eve") else without_eve)
        for name in table.devices
    }

    for name in ("ann", "bob", "cleo", "dan"):
        with pytest.raises(PeerProtocolError, match=r"that confirm the list|nothing to confirm"):
            table.devices[name].reveal(table.roster.tags_for(name, confirmations))


def test_nobody_helps_to_read_an_update_that_was_made_under_other_sharers(
    table: Any, changed: Any
) -> None:
    """Eve was shown a list without Dan: she has no mask with him, as the others think she has."""
    whole, dan, eve = table.delivery("eve"), table.index("dan"), table.index("eve")
    sealed = {other: share for other, share in whole.sealed.items() if other != dan}
    fewer = changed(whole, sharers=whole.sharers - {dan}, sealed=sealed)
    for name in table.devices:
        table.report(name, fewer if name == "eve" else None)

    others = [name for name in table.devices if name != "eve"]
    confirmations = {table.index(name): table.confirm(name, table.everybody()) for name in others}

    for name in others:
        reveal = table.devices[name].reveal(table.roster.tags_for(name, confirmations))
        assert reveal.shares.keys() == table.everybody() - {table.index(name), eve}
    with pytest.raises(PeerProtocolError, match=r"same list of who shared, found 0 of 3"):
        table.confirm("eve", table.everybody() - {dan})


def test_wrong_tags_beside_an_update_are_worth_as_much_as_none(table: Any, changed: Any) -> None:
    table.report_all()
    eve = table.index("eve")
    spoil(table, changed, "eve")
    confirmations = table.confirm_all(table.everybody())

    reveals = {
        name: device.reveal(table.roster.tags_for(name, confirmations))
        for name, device in table.devices.items()
    }

    assert {name for name in reveals if eve in reveals[name].shares} == set()
    assert reveals["eve"].shares.keys() == table.everybody() - {eve}
    assert reveals["ann"].shares.keys() == table.everybody() - {eve, table.index("ann")}


def test_too_few_neighbours_that_report_under_the_same_sharers_are_refused(
    table: Any, changed: Any
) -> None:
    table.report_all()
    spoil(table, changed, "dan")
    spoil(table, changed, "eve")

    with pytest.raises(PeerProtocolError, match=r"same list of who shared, found 2 of 4"):
        table.confirm("ann", table.everybody())


def spoil(table: Any, changed: Any, name: str) -> None:
    """Put wrong tags beside a device's update."""
    report = table.reports[table.index(name)]
    wrong = {other: bytes(len(tag)) for other, tag in report.tags.items()}
    table.reports[table.index(name)] = changed(report, tags=wrong)


def test_too_few_confirmations_are_refused(table: Any) -> None:
    table.report_all()
    confirmations = table.confirm_all(table.everybody())
    few = dict(list(table.roster.tags_for("ann", confirmations).items())[:2])

    with pytest.raises(PeerProtocolError, match="of survivors, found 2 of 2"):
        table.devices["ann"].reveal(few)


def test_a_wrong_confirmation_costs_nobody_the_round(table: Any) -> None:
    """It is worth as much as none, or one device could end every round."""
    table.report_all()
    confirmations = table.confirm_all(table.everybody())
    eve = table.index("eve")
    spoilt = {other: bytes(len(tag)) for other, tag in confirmations[eve].tags.items()}
    confirmations[eve] = Confirmation("eve", spoilt)

    for name in ("ann", "bob", "cleo", "dan"):
        reveal = table.devices[name].reveal(table.roster.tags_for(name, confirmations))

        assert reveal.shares.keys() == {table.index(n) for n in table.devices if n != name}


def test_no_device_gives_shares_of_both_kinds(table: Any) -> None:
    """After a first list there is no second, whether the first was accepted or not."""
    table.report_all()
    without_eve = table.everybody() - {table.index("eve")}
    table.confirm("ann", table.everybody())
    with pytest.raises(PeerProtocolError):
        table.confirm("bob", frozenset())

    for name in ("ann", "bob"):
        with pytest.raises(CallerProtocolError, match="does not follow"):
            table.confirm(name, without_eve)


def test_a_refused_step_is_the_last(table: Any) -> None:
    table.report_all()
    table.confirm("ann", table.everybody())
    with pytest.raises(PeerProtocolError, match="of survivors, found 0 of 0"):
        table.devices["ann"].reveal({})

    with pytest.raises(CallerProtocolError, match="does not follow _Done"):
        table.devices["ann"].reveal({})


def test_a_reveal_has_one_share_for_each_neighbour(table: Any) -> None:
    table.report_all()
    counted = table.everybody() - {table.index("eve")}
    confirmations = table.confirm_all(counted)

    reveal = table.devices["ann"].reveal(table.roster.tags_for("ann", confirmations))

    assert reveal.shares.keys() == table.everybody() - {table.index("ann")}


def test_an_offer_without_a_valid_signature_is_refused(stream: Callable[[str], Any]) -> None:
    ring = RingRound("digits", 1, 1, 5, 3)
    keys = {name: Ed25519PrivateKey.generate() for name in ("ann", "bob", "cleo", "dan")}

    def verify(offer: Offer, signed: bytes) -> bool:
        try:
            keys[offer.device].public_key().verify(offer.signature, signed)
        except InvalidSignature:
            return False
        return True

    devices = {
        n: RingDevice(ring, n, stream(n), Identity(key.sign, verify)) for n, key in keys.items()
    }
    impostor = RingDevice(ring, "bob", stream("impostor"), Identity(keys["dan"].sign, verify))
    offers = [device.offer for name, device in devices.items() if name != "bob"]

    with pytest.raises(PeerProtocolError, match="the offer has no valid signature"):
        Roster(ring, [*offers, impostor.offer], verify)
    lying = Roster(ring, [*offers, impostor.offer], lambda offer, signed: True)
    with pytest.raises(PeerProtocolError, match="'bob' has no valid signature"):
        devices["ann"].share(lying.view("ann"))
    honest = Roster(ring, [device.offer for device in devices.values()], verify)
    assert devices["cleo"].share(honest.view("cleo")).sealed.keys() == {0, 1, 2, 3} - {
        honest.index("cleo")
    }


def test_a_round_of_fewer_than_two_is_no_round() -> None:
    with pytest.raises(ValueError, match="hides nothing below 2 devices"):
        RingRound("digits", 1, 1, 5, 1)


@pytest.mark.parametrize(
    ("least", "assumptions", "sentence"),
    [
        (2, Assumptions(), "expected at least 3 reports in a sum, found 2"),
        (3, Assumptions(corrupt=0.0), r"against 0\.05 corrupt devices .* found 0 and"),
        (3, Assumptions(safety_bits=8), r"one of 2\*\*40 rounds, found 0\.05 and 2\*\*8"),
    ],
)
def test_a_server_cannot_announce_less_than_a_device_demands(
    stream: Any, least: int, assumptions: Assumptions, sentence: str
) -> None:
    ring = RingRound("digits", 1, 1, 5, least, assumptions)

    with pytest.raises(PeerProtocolError, match=sentence):
        RingDevice(ring, "ann", stream("ann"))
    assert RingDevice(ring, "ann", stream("ann"), demands=Demands(0.0, 0, 2)).offer.device == "ann"
