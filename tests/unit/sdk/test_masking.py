"""The steps of a masked round: what a device says is what a published one says, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import PeerProtocolError
from fl_cluster.privacy.key_agreement import list_digest
from fl_cluster.privacy.shamir import Share
from fl_cluster.privacy.unmasking import MaskedRound as Ended
from fl_cluster.privacy.unmasking import regroup
from fl_cluster.sdk import DeviceIdentity
from fl_cluster.sdk.exchange import Dialogue
from fl_cluster.sdk.masking import MaskedRound, MaskTerms
from fl_cluster.wire import packed
from fl_cluster.wire.messages import (
    ClientListSign,
    ClientPublicKeys,
    ClientShare,
    GetClientList,
    PWParams,
    RequestExchangeKeys,
    RequestShareSecrets,
    ResponseExchangeKeys,
    ResponseShareSecrets,
    ReturnAllClientListSign,
    ReturnClientList,
    ReturnExchangeKeys,
    ReturnShareSecrets,
    SendClientListSign,
    SendReconstructSecret,
)

NAMES = [f"client{number}" for number in (1, 2, 3, 4)]
NUMBER = 1


def said(dialogue: Dialogue, kind: type[Any]) -> Any:
    """What the device has to say now, as a server decodes it."""
    return packed.decode(kind, dialogue.question().body)


def listed(offer: RequestExchangeKeys) -> ClientPublicKeys:
    """An offer as the server hands it on."""
    return ClientPublicKeys(
        offer.fl_id,
        offer.c_pk,
        offer.s_pk,
        offer.pw_iv,
        offer.pw_salt,
        offer.timestamp,
        offer.iteration,
        offer.signature,
        offer.certificate_chain,
    )


class Room:
    """Devices, and what a server hands on between them."""

    def __init__(self, devices: dict[str, MaskedRound], order: Sequence[str] = ()) -> None:
        self.devices = devices
        self.order = list(order or devices)
        self.offers = {
            name: said(device.preparation, RequestExchangeKeys) for name, device in devices.items()
        }
        self.keys = ReturnExchangeKeys(
            iteration=NUMBER,
            remote_publickeys=tuple(listed(self.offers[name]) for name in self.order),
        )
        self.shares: dict[str, RequestShareSecrets] = {}

    def share(self, name: str, keys: ReturnExchangeKeys | None = None) -> RequestShareSecrets:
        """Let a device read the keys; what it shares."""
        preparation = self.devices[name].preparation
        preparation.take(ResponseExchangeKeys())
        preparation.take(keys or self.keys)
        self.shares[name] = said(preparation, RequestShareSecrets)
        return self.shares[name]

    def inbox(self, name: str, senders: Sequence[str]) -> ReturnShareSecrets:
        found = {
            sender: {each.fl_id: each.share for each in self.shares[sender].encrypted_shares or ()}
            for sender in senders
            if sender != name
        }
        return ReturnShareSecrets(
            encrypted_shares=tuple(
                ClientShare(sender, shares[name]) for sender, shares in found.items()
            )
        )

    def prepare(self, senders: Sequence[str] | None = None) -> None:
        """Let everybody go through all steps before the update."""
        for name in self.devices:
            self.share(name)
        for name in senders or self.order:
            preparation = self.devices[name].preparation
            preparation.take(ResponseShareSecrets())
            assert preparation.take(self.inbox(name, senders or self.order))

    def reveal(self, name: str, counted: Sequence[str]) -> SendReconstructSecret:
        """Let a device read the list; what it reveals."""
        revelation = self.devices[name].revelation
        revelation.question()
        revelation.take(ReturnClientList(clients=tuple(counted)))
        found: SendReconstructSecret = said(revelation, SendReconstructSecret)
        return found


@pytest.fixture
def vector(vectors: Callable[[str], Any]) -> Any:
    return vectors("pw")


@pytest.fixture
def terms(vector: Any) -> MaskTerms:
    return MaskTerms(vector["t"], int(vector["prime"], 16))


@pytest.fixture
def room(vector: Any, terms: MaskTerms, stream: Any) -> Room:
    """The four devices of the vectors, with their streams."""
    return Room(
        {
            name: MaskedRound(terms, name, NUMBER, stream(each["rng_label"]))
            for name, each in vector["clients"].items()
        },
        vector["order_getkeys"],
    )


def trained(vector: Any, floats: Any, name: str) -> dict[str, Any]:
    bits = vector["clients"][name]["trained_bits"]
    return {tensor: floats(bits[tensor]) for tensor, _ in vector["layers"]}


@pytest.mark.parametrize("name", NAMES)
def test_offers_and_shares_are_those_of_the_published_device(
    room: Room, vector: Any, name: str
) -> None:
    expected, offer = vector["clients"][name], room.offers[name]

    shares = room.share(name)

    fields = ("c_pk", "s_pk", "ind_iv", "pw_iv", "pw_salt")
    keys = ("cpk", "spk", "ind_iv", "pw_iv", "pw_salt")
    assert [getattr(offer, f).hex() for f in fields] == [expected[k] for k in keys]
    assert (offer.fl_id, offer.iteration, offer.signature) == (name, NUMBER, None)
    assert {each.fl_id: each.share.hex() for each in shares.encrypted_shares} == (
        expected["encrypted_shares"]
    )
    assert [each.fl_id for each in shares.encrypted_shares] == [
        other for other in vector["order_getkeys"] if other != name
    ]


@pytest.mark.parametrize("name", NAMES)
def test_uploads_are_those_of_the_published_device(
    room: Room, vector: Any, floats: Any, name: str
) -> None:
    room.prepare(vector["order_getsecrets"])
    expected = vector["clients"][name]

    fields = room.devices[name].fields(trained(vector, floats, name), expected["data_size"])

    assert fields.keys() == {"feature_map"}
    for feature in fields["feature_map"]:
        bits = expected["upload_bits"][feature.weight_fullname]
        assert feature.data.tobytes() == floats(bits).tobytes()


@pytest.mark.parametrize("name", ["client2", "client3", "client4"])
def test_what_is_revealed_is_that_of_the_published_device(
    room: Room, vector: Any, name: str
) -> None:
    room.prepare(vector["order_getsecrets"])

    found = room.reveal(name, vector["u3"])

    assert {each.fl_id: [each.index, each.share.hex()] for each in found[1]} == (
        vector["reconstruct"][name]
    )


def test_the_captured_requests_say_the_same(
    room: Room, captured: Callable[[str, Any], Any], vector: Any
) -> None:
    room.prepare(vector["order_getsecrets"])
    offer = captured("det__c2__01_exchangeKeys_req", RequestExchangeKeys)
    shares = captured("det__c2__04_shareSecrets_req", RequestShareSecrets)
    asked = captured("det__c2__07_getClientList_req", GetClientList)
    last = captured("det__c2__09_reconstructSecrets_req", SendReconstructSecret)

    assert room.offers["client2"]._replace(timestamp=offer.timestamp) == offer
    assert room.shares["client2"]._replace(timestamp=shares.timestamp) == shares
    list_question = said(room.devices["client2"].revelation, GetClientList)
    assert list_question._replace(timestamp=asked.timestamp) == asked
    found = room.reveal("client2", vector["u3"])
    assert found._replace(timestamp=last.timestamp) == last


def test_a_device_that_dropped_out_leaves_the_exact_sum(room: Room, terms: MaskTerms) -> None:
    room.prepare()
    counted = ["client1", "client2", "client4"]
    rng = np.random.default_rng(7)
    updates = {name: {"w": rng.standard_normal(50).astype(np.float32)} for name in NAMES}
    answers = {}
    for name in counted:
        revealed = room.reveal(name, counted).reconstruct_secret_shares or ()
        answers[name] = {
            each.fl_id or "": Share(each.index, int.from_bytes(each.share or b"", "big"))
            for each in revealed
        }
    public = {name: device._keys.public for name, device in room.devices.items()}
    ended = Ended(public, NAMES, counted, terms.needed, terms.prime)

    noise = ended.noise(regroup(answers), 50)

    total = np.zeros(50)
    for name in counted:
        (feature,) = room.devices[name].fields(updates[name], 8)["feature_map"]
        total += feature.data
    expected = 8 * sum(updates[name]["w"].astype(np.float64) for name in counted)
    np.testing.assert_allclose(total + noise, expected, rtol=0, atol=1e-5)


def test_a_repeated_question_has_the_same_bytes(room: Room) -> None:
    preparation = room.devices["client1"].preparation

    assert preparation.question().body == preparation.question().body
    room.prepare()
    revelation = room.devices["client1"].revelation
    last = room.reveal("client1", NAMES)
    assert revelation.take(last)
    again = said(revelation, SendReconstructSecret)
    assert again.reconstruct_secret_shares == last.reconstruct_secret_shares
    assert revelation.take(last)


def test_a_signature_that_is_too_old_is_made_anew_for_the_same_keys(room: Room) -> None:
    question = room.devices["client1"].preparation.question()

    question.renew()

    again = said(room.devices["client1"].preparation, RequestExchangeKeys)
    assert again._replace(timestamp=room.offers["client1"].timestamp) == room.offers["client1"]


def objection(room: Room, name: str, keys: ReturnExchangeKeys) -> str:
    with pytest.raises(PeerProtocolError) as caught:
        room.share(name, keys)
    with pytest.raises(PeerProtocolError):
        room.devices[name].preparation.question()
    return str(caught.value)


def with_entries(*entries: ClientPublicKeys) -> ReturnExchangeKeys:
    return ReturnExchangeKeys(remote_publickeys=entries)


def test_a_list_without_the_devices_own_keys_is_refused(room: Room, stream: Any) -> None:
    entries = room.keys.remote_publickeys or ()
    others = [each for each in entries if each.fl_id != "client1"]
    own = "the list of keys does not have the keys that this device offered"

    assert objection(room, "client1", with_entries(*others)) == own
    (third,) = [each for each in entries if each.fl_id == "client3"]
    swapped = [each._replace(c_pk=third.c_pk) for each in entries]
    assert objection(room, "client2", with_entries(*swapped)) == own
    assert objection(room, "client3", with_entries()) == own


def test_a_list_that_names_a_device_twice_is_refused(room: Room) -> None:
    entries = room.keys.remote_publickeys or ()

    said_ = objection(room, "client1", with_entries(*entries, entries[0]))

    assert said_ == f"the list of keys names {entries[0].fl_id!r} twice"


def test_a_threshold_that_lets_the_server_unmask_one_device_is_refused(
    room: Room, vector: Any, stream: Any
) -> None:
    prime = int(vector["prime"], 16)
    for needed, told in ((1, "found 1"), (4, "found 4")):
        device = MaskedRound(MaskTerms(needed, prime), "client1", NUMBER, stream("other"))
        room.devices["client1"] = device
        offer = said(device.preparation, RequestExchangeKeys)
        entries = [each for each in room.keys.remote_publickeys or () if each.fl_id != "client1"]
        text = objection(room, "client1", with_entries(*entries, listed(offer)))
        assert text == (
            "expected that 2 to 3 of the 3 other devices are needed to undo a mask, " + told
        )
    lenient = MaskedRound(MaskTerms(1, prime, accepts_few=True), "client1", NUMBER, stream("o"))
    room.devices["client1"] = lenient
    offer = said(lenient.preparation, RequestExchangeKeys)
    room.share("client1", with_entries(*entries, listed(offer)))


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"c_pk": bytes(32)}, "expected two keys of 32 bytes that make secrets"),
        ({"s_pk": b"short"}, "expected two keys of 32 bytes that make secrets"),
        ({"s_pk": None}, "expected two keys of 32 bytes that make secrets"),
        ({"pw_iv": b"short"}, "expected a vector of 16 bytes and a salt of 32, found 5 and 32"),
        ({"pw_salt": None}, "expected a vector of 16 bytes and a salt of 32, found 16 and 0"),
    ],
)
def test_keys_that_cannot_be_used_are_refused(
    room: Room, spoilt: dict[str, Any], told: str
) -> None:
    entries = [
        each._replace(**spoilt) if each.fl_id == "client2" else each
        for each in room.keys.remote_publickeys or ()
    ]

    assert objection(room, "client1", with_entries(*entries)) == f"device 'client2': {told}"


def test_shares_of_strangers_or_of_too_few_are_refused(room: Room) -> None:
    for name in NAMES:
        room.share(name)
        room.devices[name].preparation.take(ResponseShareSecrets())
    inbox = room.inbox("client1", NAMES).encrypted_shares or ()
    cases = {
        "client1": (inbox[:1], "expected shares from at least 2 other devices, found 1"),
        "client2": ((*inbox, ClientShare("mallory", b"")), "which offered no keys"),
        "client3": ((*inbox, inbox[0]), "the list of shares names 'client2' twice"),
        "client4": ((), "expected shares from at least 2 other devices, found 0"),
    }
    for name, (entries, told) in cases.items():
        with pytest.raises(PeerProtocolError, match=told):
            room.devices[name].preparation.take(ReturnShareSecrets(encrypted_shares=entries))


@pytest.mark.parametrize(
    ("counted", "told"),
    [
        ([], "holds a stranger, or not this device"),
        (["client2", "client3", "client4"], "holds a stranger, or not this device"),
        (["client1", "client2", "client3", "mallory"], "holds a stranger, or not this device"),
        (["client1", "client2"], "expected at least 3 counted devices, found 2"),
        (["client1", "client2", "client2"], "names 'client2' twice"),
    ],
)
def test_a_list_that_is_not_safe_gets_no_share_ever(
    room: Room, counted: list[str], told: str
) -> None:
    room.prepare()
    revelation = room.devices["client1"].revelation
    revelation.question()

    with pytest.raises(PeerProtocolError, match=told):
        revelation.take(ReturnClientList(clients=tuple(counted)))

    with pytest.raises(PeerProtocolError, match=told):
        revelation.take(ReturnClientList(clients=tuple(NAMES)))
    with pytest.raises(PeerProtocolError, match=told):
        revelation.question()


def test_a_second_list_changes_nothing(room: Room) -> None:
    """Shares of both kinds for one device would expose its update."""
    room.prepare()
    first = room.reveal("client1", ["client1", "client2", "client3"])

    room.devices["client1"].revelation.take(ReturnClientList(clients=tuple(NAMES)))

    again = said(room.devices["client1"].revelation, SendReconstructSecret)
    assert again.reconstruct_secret_shares == first.reconstruct_secret_shares


def test_terms_that_no_device_should_mask_on_are_refused(vector: Any) -> None:
    prime = bytes.fromhex(vector["prime"])

    assert MaskTerms.of(PWParams(t=2, prime=prime)).needed == 2
    for params, told in (
        (None, "without saying on what terms"),
        (PWParams(t=0, prime=prime), "expected 1 share or more .* found 0"),
        (PWParams(t=2), "expected a prime above every secret"),
        (PWParams(t=2, prime=prime[:-1] + b"\x00"), "found a number with factors"),
    ):
        with pytest.raises(PeerProtocolError, match=told):
            MaskTerms.of(params)


@pytest.fixture(scope="module")
def identities(device_authority: Any) -> list[DeviceIdentity]:
    chains = [device_authority.device(f"phone{number}") for number in range(3)]
    return [DeviceIdentity(chain.key, chain.pem) for chain in chains]


@pytest.fixture
def proven(identities: list[DeviceIdentity], terms: MaskTerms, stream: Any) -> Room:
    """Three devices with certificates."""
    return Room(
        {
            each.device_id: MaskedRound(terms, each.device_id, NUMBER, stream(str(n)), each)
            for n, each in enumerate(identities)
        }
    )


def signatures(room: Room, counted: Sequence[str]) -> dict[str, ClientListSign]:
    """Let everybody read and sign the list."""
    found = {}
    for name, device in room.devices.items():
        device.revelation.question()
        device.revelation.take(ReturnClientList(clients=tuple(counted)))
        sent = said(device.revelation, SendClientListSign)
        found[name] = ClientListSign(name, sent.signature)
        device.revelation.take(sent)
    return found


def test_devices_with_certificates_sign_the_list_and_verify_the_others(proven: Room) -> None:
    proven.prepare()
    signed = signatures(proven, proven.order)

    for device in proven.devices.values():
        answer = ReturnAllClientListSign(client_list_sign=tuple(signed.values()))
        device.revelation.take(answer)
        revealed = said(device.revelation, SendReconstructSecret)
        assert len(revealed.reconstruct_secret_shares) == 2
        assert revealed.signature


def test_a_signature_under_another_list_gets_no_share(proven: Room) -> None:
    proven.prepare()
    me, other, third = proven.order
    signed = signatures(proven, proven.order)
    digest = list_digest(proven.order)
    wrong = ClientListSign(other, signed[third].signature)
    cases = [
        ((signed[third], wrong), "the signature is not that of the device's key"),
        ((signed[third], ClientListSign(other)), "the signature is not that of the device's key"),
        ((signed[me], signed[third]), "expected at least 2 others to have signed .* found 1"),
        ((signed[third], ClientListSign("x", b"")), "'x' signed the list and is not in it"),
        ((signed[third], signed[third]), "names '.*' twice"),
    ]
    for entries, told in cases:
        with pytest.raises(PeerProtocolError, match=told):
            proven.devices[me]._check_signatures(
                ReturnAllClientListSign(client_list_sign=entries), proven.order, digest
            )


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"signature": b"x" * 256}, "the signature is not that of the device's key"),
        ({"signature": None}, "the signature is not that of the device's key"),
        ({"certificate_chain": ()}, "expected its attestation and its equipment certificate"),
        ({"certificate_chain": ("x", "y")}, "its id is not the SHA-256 of its equip_cert"),
        ({"iteration": 9}, "expected keys for round 1, found them for round 9"),
        ({"timestamp": "1795317378251"}, "expected keys signed within 10 minutes"),
        ({"timestamp": None}, "expected keys signed within 10 minutes"),
    ],
)
def test_keys_that_are_not_proved_are_refused(
    proven: Room, spoilt: dict[str, Any], told: str
) -> None:
    me, other, _ = proven.order
    entries = [
        each._replace(**spoilt) if each.fl_id == other else each
        for each in proven.keys.remote_publickeys or ()
    ]

    assert told in objection(proven, me, with_entries(*entries))


def test_a_device_of_another_authority_is_refused(
    make_device_authority: Any, identities: list[DeviceIdentity], terms: MaskTerms, stream: Any
) -> None:
    chain = make_device_authority().device("foreign")
    everybody = [*identities[:2], DeviceIdentity(chain.key, chain.pem)]
    room = Room(
        {
            each.device_id: MaskedRound(terms, each.device_id, NUMBER, stream(str(n)), each)
            for n, each in enumerate(everybody)
        }
    )

    told = objection(room, identities[0].device_id, room.keys)

    assert told.startswith(f"device {everybody[2].device_id!r}: equip_cert")
