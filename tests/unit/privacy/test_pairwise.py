"""A whole masked round of genuine devices, byte for byte: keys, shares, masks, uploads, noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import PeerProtocolError
from fl_cluster.kernels import native
from fl_cluster.privacy.key_agreement import (
    KeyPair,
    derive_key,
    list_digest,
    open_shares,
    public_key,
    shared_secret,
    signed_bytes,
    signed_key_bytes,
)
from fl_cluster.privacy.masks import Layout, keystream_floats, mask_count, parts, sign_between
from fl_cluster.privacy.pairwise import OwnKeys, Sealed, answer, in_order, mask, new_keys, seal
from fl_cluster.privacy.shamir import Share, WrongShares, minimal_bytes
from fl_cluster.privacy.unmasking import MaskedRound, add_to_sums, mask_goals, regroup
from fl_cluster.wire import messages

hexed = bytes.fromhex


class Cohort:
    """The four devices of the vectors, with their streams."""

    def __init__(self, vector: Any, stream: Callable[[str], Any]) -> None:
        self.vector = vector
        self.prime, self.needed = int(vector["prime"], 16), vector["t"]
        self.expected = vector["clients"]
        streams = {name: stream(each["rng_label"]) for name, each in self.expected.items()}
        self.keys: dict[str, OwnKeys] = {name: new_keys(streams[name]) for name in self.expected}
        self.public = {name: keys.public for name, keys in self.keys.items()}
        self.sealed: dict[str, Sealed] = {
            name: seal(
                self.keys[name],
                in_order(name, self.public, vector["order_getkeys"]),
                needed=self.needed,
                prime=self.prime,
                stream=streams[name],
            )
            for name in self.expected
        }
        self.sizes = [size for _, size in vector["layers"]]

    def mask(self, name: str, count: int = 8) -> Any:
        peers = in_order(name, self.public, self.vector["order_getsecrets"])
        return mask(name, self.keys[name], peers, count, self.sealed[name].seed)

    def answer(self, name: str, counted: list[str]) -> dict[str, Share]:
        order = self.vector["order_getsecrets"]
        held = {other: self.sealed[other].shares[name] for other in order if other != name}
        return answer(self.keys[name], held, self.public, counted)


@pytest.fixture
def cohort(vectors: Callable[[str], Any], stream: Callable[[str], Any]) -> Cohort:
    return Cohort(vectors("pw"), stream)


NAMES = [f"client{number}" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("name", NAMES)
def test_keys_and_encrypted_shares_are_those_of_the_device(cohort: Cohort, name: str) -> None:
    expected, keys, sealed = cohort.expected[name], cohort.keys[name], cohort.sealed[name]

    assert keys.share == KeyPair(hexed(expected["csk"]), hexed(expected["cpk"]))
    assert keys.mask == KeyPair(hexed(expected["ssk"]), hexed(expected["spk"]))
    assert [keys.own_vector.hex(), keys.pair_vector.hex(), keys.pair_salt.hex()] == [
        expected[field] for field in ("ind_iv", "pw_iv", "pw_salt")
    ]
    assert sealed.seed.hex() == expected["b"]
    assert {k: v.hex() for k, v in sealed.shares.items()} == expected["encrypted_shares"]


@pytest.mark.parametrize("name", NAMES)
def test_masks_and_uploads_are_those_of_the_device(cohort: Cohort, floats: Any, name: str) -> None:
    expected = cohort.expected[name]
    made = cohort.mask(name)

    assert made.tobytes() == floats(expected["mask_bits"]).tobytes()
    for (tensor, bits), part in zip(
        expected["trained_bits"].items(), parts(made, cohort.sizes, Layout.RESTART), strict=True
    ):
        product = floats(bits) * np.float32(expected["data_size"]) + part
        assert product.tobytes() == floats(expected["upload_bits"][tensor]).tobytes()


@pytest.mark.parametrize("name", ["client2", "client3", "client4"])
def test_answers_are_those_of_the_device(cohort: Cohort, name: str) -> None:
    counted = cohort.vector["u3"]

    found = cohort.answer(name, counted)

    assert {owner: [x, minimal_bytes(y).hex()] for owner, (x, y) in found.items()} == (
        cohort.vector["reconstruct"][name]
    )


def test_the_unmasked_sum_is_the_vectors_aggregate(cohort: Cohort, floats: Any) -> None:
    vector, counted = cohort.vector, cohort.vector["u3"]
    answers = {name: cohort.answer(name, counted) for name in counted}
    ended = MaskedRound(
        cohort.public, vector["order_getsecrets"], counted, cohort.needed, cohort.prime
    )

    noise = ended.noise(regroup(answers), 8)

    for (tensor, expected), part in zip(
        vector["aggregate"].items(), parts(noise, cohort.sizes, Layout.RESTART), strict=True
    ):
        total = sum(
            floats(cohort.expected[name]["upload_bits"][tensor]).astype(np.float64)
            for name in counted
        )
        found = (total + part) / vector["total_data_size"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_exact_sums_are_unmasked_too(cohort: Cohort, floats: Any) -> None:
    """As the servers hold them: integers, in which the noise is one more term."""
    vector, counted, exponent = cohort.vector, cohort.vector["u3"], 30
    ended = MaskedRound(
        cohort.public, vector["order_getsecrets"], counted, cohort.needed, cohort.prime
    )
    noise = ended.noise(regroup({name: cohort.answer(name, counted) for name in counted}), 8)

    for (tensor, expected), part in zip(
        vector["aggregate"].items(), parts(noise, cohort.sizes, Layout.RESTART), strict=True
    ):
        sums = np.zeros(len(expected), np.int64)
        for name in counted:
            native.fold(sums, floats(cohort.expected[name]["upload_bits"][tensor]), 2.0**exponent)
        add_to_sums(sums, part, exponent)
        out = np.zeros(len(expected), np.float32)
        native.finalise(out, sums, vector["total_data_size"] * 2.0**exponent)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_the_captured_messages_say_the_same(
    cohort: Cohort, captured: Callable[[str, Any], Any], number: int
) -> None:
    """The messages that the genuine devices of the vectors sent."""
    name, keys = f"client{number}", cohort.keys[f"client{number}"]
    step = {2: ("04", "06", "09"), 3: ("03", "06", "08"), 4: ("04", "06", "09")}[number]
    offer = captured(f"det__c{number}__01_exchangeKeys_req", messages.RequestExchangeKeys)
    shares = captured(f"det__c{number}__{step[0]}_shareSecrets_req", messages.RequestShareSecrets)
    update = captured(f"det__c{number}__{step[1]}_updateModel_req", messages.RequestUpdateModel)
    last = captured(
        f"det__c{number}__{step[2]}_reconstructSecrets_req", messages.SendReconstructSecret
    )

    assert (offer.c_pk, offer.s_pk) == (keys.share.public, keys.mask.public)
    assert (offer.ind_iv, offer.pw_iv, offer.pw_salt) == keys.public[2:]
    assert {each.fl_id: bytes(each.share) for each in shares.encrypted_shares} == (
        cohort.sealed[name].shares
    )
    expected = cohort.expected[name]["upload_bits"]
    for tensor in update.feature_map:
        bits = [f"{each:08x}" for each in tensor.data.view(np.uint32)]
        assert bits == expected[tensor.weight_fullname]
    if name in cohort.vector["u3"]:
        assert {
            s.fl_id: Share(s.index, int.from_bytes(s.share, "big"))
            for s in (last.reconstruct_secret_shares)
        } == cohort.answer(name, cohort.vector["u3"])


def test_primitives_are_those_of_the_device(vectors: Callable[[str], Any], floats: Any) -> None:
    basic = vectors("basic")
    pair, stream, wrap = basic["x25519_kdf"], basic["prg"], basic["prg_counter_wrap"]

    assert public_key(hexed(pair["sk_a"])).hex() == pair["pk_a"]
    assert shared_secret(hexed(pair["sk_a"]), hexed(pair["pk_b"])).hex() == pair["shared"]
    assert shared_secret(hexed(pair["sk_b"]), hexed(pair["pk_a"])).hex() == pair["shared"]
    assert derive_key(hexed(pair["shared"])).hex() == pair["kdf_empty_salt"]
    assert derive_key(hexed(pair["shared"]), hexed(pair["salt"])).hex() == pair["kdf_salt"]
    for each in (stream, wrap):
        expected = floats(each["f32"])
        made = keystream_floats(hexed(each["key"]), hexed(each["iv"]), expected.size)
        assert made.tobytes() == expected.tobytes()


def test_signed_bytes_are_those_of_the_device(vectors: Callable[[str], Any]) -> None:
    pki = vectors("pki")
    keys, lists, update = pki["exchangeKeys"], pki["pushListSign"], pki["updateModel"]

    signed = signed_key_bytes(
        hexed(keys["c_pk"]), hexed(keys["s_pk"]), str(keys["timestamp"]), keys["iteration"]
    )
    assert signed.hex() == keys["signed_hex"]
    assert signed_bytes(str(update["timestamp"]), update["iteration"]).decode() == update["signed"]
    assert list_digest(lists["clients"]).hex() == lists["list_hash"]


@pytest.mark.parametrize("count", [0, 1, 2**18 - 1, 2**18, 2**18 + 1])
def test_a_mask_does_not_depend_on_how_much_of_it_is_made(count: int) -> None:
    whole = keystream_floats(bytes(32), bytes(16), 2**18 + 1)

    assert keystream_floats(bytes(32), bytes(16), count).tobytes() == whole[:count].tobytes()


def test_layouts_restart_or_run() -> None:
    mask_ = np.arange(5, dtype=np.float32)

    assert mask_count([3, 2], Layout.RESTART) == 3
    assert mask_count([3, 2], Layout.RUNNING) == 5
    assert [p.tolist() for p in parts(mask_, [3, 2], Layout.RESTART)] == [[0, 1, 2], [0, 1]]
    assert [p.tolist() for p in parts(mask_, [3, 2], Layout.RUNNING)] == [[0, 1, 2], [3, 4]]
    with pytest.raises(ValueError, match="expected a mask of 6, found 5"):
        parts(mask_, [3, 3], Layout.RUNNING)


def test_names_compare_as_the_devices_compare_them() -> None:
    assert sign_between("b", "a") == 1
    assert sign_between("a", "b") == -1
    assert sign_between("ab", "a") == 1
    # Beyond the first plane the order of UTF-16 is not that of UTF-8.
    assert sign_between("\U0001f600", "\uff01") == -1


@pytest.mark.parametrize("gone", [[], ["client1"], ["client3"]])
def test_drop_outs_are_undone(cohort: Cohort, gone: list[str]) -> None:
    order = cohort.vector["order_getsecrets"]
    counted = [name for name in NAMES if name not in gone]
    answers = {name: cohort.answer(name, counted) for name in counted}

    noise = MaskedRound(cohort.public, order, counted, cohort.needed, cohort.prime).noise(
        regroup(answers), 50
    )

    left = sum(cohort.mask(name, 50).astype(np.float64) for name in counted) + noise
    np.testing.assert_allclose(left, 0, atol=1e-6)


def test_a_rebuilt_key_that_was_not_offered_is_refused(cohort: Cohort) -> None:
    counted, order = cohort.vector["u3"], cohort.vector["order_getsecrets"]
    (gone,) = [name for name in order if name not in counted][:1]
    answers = {name: cohort.answer(name, counted) for name in counted}
    other = cohort.public[gone]._replace(mask_key=cohort.public["client2"].mask_key)
    ended = MaskedRound({**cohort.public, gone: other}, order, counted, cohort.needed, cohort.prime)

    with pytest.raises(WrongShares, match=f"device '{gone}': .* not make the secret"):
        ended.noise(regroup(answers), 8)


def test_too_few_shares_name_the_device(cohort: Cohort) -> None:
    counted = cohort.vector["u3"]
    ended = MaskedRound(
        cohort.public, cohort.vector["order_getsecrets"], counted, cohort.needed, cohort.prime
    )

    with pytest.raises(WrongShares, match=r"device 'client1': expected 2 shares, found 0"):
        ended.noise({}, 8)


def test_a_second_share_with_the_same_x_is_left_out() -> None:
    answers = {
        "b": {"owner": Share(1, 9)},
        "a": {"owner": Share(1, 7)},
        "c": {"owner": Share(2, 8)},
    }

    assert regroup(answers) == {"owner": [Share(1, 7), Share(2, 8)]}


def test_a_worker_without_a_seed_has_only_pairs(cohort: Cohort) -> None:
    """Then all masks cancel when everybody's upload arrives."""
    total = np.zeros(20)
    for name in NAMES:
        peers = in_order(name, cohort.public, NAMES)
        total += mask(name, cohort.keys[name], peers, 20, None)

    np.testing.assert_allclose(total, 0, atol=1e-6)


def test_an_empty_list_gets_no_shares(cohort: Cohort) -> None:
    with pytest.raises(PeerProtocolError, match="the list of counted devices is empty"):
        cohort.answer("client2", [])


def test_a_share_that_cannot_be_read_is_left_out_and_the_others_are_given(cohort: Cohort) -> None:
    counted = cohort.vector["u3"]
    whole = cohort.answer("client2", counted)
    spoilt = min(whole)
    held = {
        name: sealed.shares["client2"] if name != spoilt else bytes(96)
        for name, sealed in cohort.sealed.items()
        if name in whole
    }

    given = answer(cohort.keys["client2"], held, cohort.public, counted)

    assert given == {name: share for name, share in whole.items() if name != spoilt}


def test_shares_from_a_stranger_are_refused(cohort: Cohort) -> None:
    held = {"mallory": cohort.sealed["client1"].shares["client2"]}

    with pytest.raises(PeerProtocolError, match="shares came from 'mallory'"):
        answer(cohort.keys["client2"], held, cohort.public, ["client2"])


def test_shares_that_nobody_could_hold_are_refused(cohort: Cohort, stream: Any) -> None:
    others = in_order("client1", cohort.public, NAMES)

    for needed in (0, 4):
        with pytest.raises(PeerProtocolError, match="as many other devices"):
            seal(
                cohort.keys["client1"],
                others,
                needed=needed,
                prime=cohort.prime,
                stream=stream("no"),
            )


@pytest.mark.parametrize(
    "spoil", [lambda s: s[:-1], lambda s: b"", lambda s: s[:16], bytes.swapcase]
)
def test_a_share_that_cannot_be_read_is_a_sentence(cohort: Cohort, spoil: Any) -> None:
    sealed = cohort.sealed["client1"].shares["client2"]

    with pytest.raises(PeerProtocolError, match="an encrypted share cannot be read"):
        open_shares(spoil(sealed) if spoil is not bytes.swapcase else sealed, bytes(32))


def test_a_key_that_makes_every_secret_zero_is_refused(cohort: Cohort) -> None:
    with pytest.raises(PeerProtocolError, match="expected a public key of 32 bytes"):
        shared_secret(cohort.keys["client1"].mask.private, bytes(32))
    with pytest.raises(PeerProtocolError, match="expected a public key of 32 bytes"):
        shared_secret(cohort.keys["client1"].mask.private, b"short")


def test_goals_follow_the_published_formula() -> None:
    goals = mask_goals(cohort_size=10, report_goal=6, share_ratio=0.8, needed=3)

    assert (goals.exchange_keys, goals.get_keys, goals.share_secrets) == (8, 7, 6)
    assert (goals.get_secrets, goals.get_list, goals.sign_list) == (6, 5, 4)
    assert (goals.get_signatures, goals.reconstruct) == (4, 4)


@pytest.mark.parametrize(
    ("cohort_size", "report_goal", "needed"), [(1, 1, 0), (4, 2, 2), (3, 3, 3)]
)
def test_goals_that_no_round_meets_are_refused(
    cohort_size: int, report_goal: int, needed: int
) -> None:
    with pytest.raises(ValueError, match=f"masks that {needed} devices can undo need"):
        mask_goals(cohort_size, report_goal, 1.0, needed)


def test_keys_of_a_round_are_never_the_same(stream: Any) -> None:
    source = stream("keys")
    one, two = new_keys(source), new_keys(source)

    assert one.public != two.public
    assert replace(one) == one
