"""What is kept of devices' messages in a masked round: only what others can use, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from fl_cluster.privacy.draws import SystemStream
from fl_cluster.privacy.pairwise import new_keys
from fl_cluster.privacy.shamir import ANNOUNCED_PRIME, minimal_bytes
from fl_cluster.service.masked_messages import (
    MOST_SEALED_BYTES,
    fit_offer,
    fit_reveal,
    fit_shares,
)
from fl_cluster.wire.messages import (
    ClientShare,
    RequestExchangeKeys,
    RequestShareSecrets,
    SendReconstructSecret,
)


def offer(**fields: Any) -> RequestExchangeKeys:
    keys = new_keys(SystemStream()).public
    given: dict[str, Any] = {
        "fl_id": "a",
        "c_pk": keys.share_key,
        "s_pk": keys.mask_key,
        "ind_iv": keys.own_vector,
        "pw_iv": keys.pair_vector,
        "pw_salt": keys.pair_salt,
        "iteration": 4,
        "timestamp": "1" * 10_000,
        "signature": b"x" * 10_000,
        "certificate_chain": ("x" * 10_000,),
    }
    return RequestExchangeKeys(**(given | fields))


def test_what_nobody_needs_is_left_out() -> None:
    sent = offer()

    found = fit_offer(sent, shares_secrets=True, is_signed=False)

    proofs = {"timestamp": None, "signature": None, "certificate_chain": None}
    assert found == sent._replace(**proofs)
    assert fit_offer(sent, shares_secrets=True, is_signed=True) == sent


def test_a_worker_across_silos_offers_a_key_for_masks_only() -> None:
    sent = offer(c_pk=None, ind_iv=None)

    assert fit_offer(sent, shares_secrets=True, is_signed=False) is None
    assert fit_offer(sent, shares_secrets=False, is_signed=False) is not None
    more = fit_offer(offer(), shares_secrets=False, is_signed=False)
    assert more is not None
    assert (more.c_pk, more.ind_iv) == (None, None)


@pytest.mark.parametrize("name", ["c_pk", "s_pk", "ind_iv", "pw_iv", "pw_salt"])
@pytest.mark.parametrize("change", [None, b"", b"x" * 15, b"x" * 64])
def test_keys_of_another_length_are_none(name: str, change: bytes | None) -> None:
    assert fit_offer(offer(**{name: change}), shares_secrets=True, is_signed=False) is None


@pytest.mark.parametrize("name", [None, "", "\udcff"])
def test_a_device_needs_a_name_that_can_be_put_in_order(name: str | None) -> None:
    assert fit_offer(offer(fl_id=name), shares_secrets=True, is_signed=False) is None


@pytest.mark.parametrize("name", ["c_pk", "s_pk"])
def test_a_key_that_makes_every_secret_zero_is_none(name: str) -> None:
    changed = offer(**{name: bytes(32)})

    assert fit_offer(changed, shares_secrets=True, is_signed=False) is None


def sealed(**shares: bytes | None) -> RequestShareSecrets:
    entries = tuple(ClientShare(name, share, 7) for name, share in shares.items())
    return RequestShareSecrets("a", entries, 4, "1", b"x")


def test_shares_are_kept_for_those_who_offered_keys_in_their_order() -> None:
    found = fit_shares(sealed(c=b"3", zz=b"9", b=b"2"), ("a", "b", "c"))

    kept = (ClientShare("b", b"2"), ClientShare("c", b"3"))
    assert found == RequestShareSecrets("a", kept, 4)


@pytest.mark.parametrize(
    "shares",
    [{}, {"b": b"2"}, {"b": b"2", "c": b""}, {"b": b"2", "c": None}],
    ids=["none", "one is missing", "one is empty", "one is absent"],
)
def test_every_other_device_needs_a_share(shares: dict[str, bytes | None]) -> None:
    assert fit_shares(sealed(**shares), ("a", "b", "c")) is None


def test_a_share_is_no_longer_than_one_can_be() -> None:
    assert fit_shares(sealed(b=b"x" * MOST_SEALED_BYTES), ("a", "b")) is not None
    assert fit_shares(sealed(b=b"x" * (MOST_SEALED_BYTES + 1)), ("a", "b")) is None
    assert fit_shares(sealed(), ("a",)) is None


def revealed(*entries: ClientShare) -> SendReconstructSecret:
    return SendReconstructSecret("a", entries, 4, "1", b"x")


def test_revealed_shares_are_kept_of_those_who_shared() -> None:
    zero, large = ClientShare("b", b"", 1), ClientShare("c", minimal_bytes(ANNOUNCED_PRIME - 1), 2)

    found = fit_reveal(revealed(large, zero, ClientShare("zz", b"1", 3)), ("a", "b", "c"))

    assert found == SendReconstructSecret("a", (zero, large), 4)


@pytest.mark.parametrize(
    "share",
    [
        ClientShare("c", None, 1),
        ClientShare("c", b"x" * 34, 1),
        ClientShare("c", minimal_bytes(ANNOUNCED_PRIME), 1),
        ClientShare("c", b"1", 0),
        ClientShare("c", b"1", -1),
        ClientShare("d", b"1", 1),
    ],
    ids=["absent", "too long", "outside the field", "at 0", "below 0", "of another"],
)
def test_one_share_that_cannot_be_spoils_the_message(share: ClientShare) -> None:
    assert fit_reveal(revealed(ClientShare("b", b"1", 1), share), ("a", "b", "c")) is None


def test_who_has_nothing_to_reveal_reveals_nothing() -> None:
    assert fit_reveal(revealed(), ("a",)) is None
