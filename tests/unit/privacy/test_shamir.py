"""Secrets in shares: the published vectors, and everything that must not make a secret."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest

from fl_cluster.privacy.shamir import (
    PRIME,
    Share,
    WrongShares,
    combine,
    find_unfit_prime,
    minimal_bytes,
    rebuild,
    split,
)

SECRET = bytes(range(32))


def test_shares_are_those_of_the_published_device(
    vectors: Callable[[str], Any], stream: Callable[[str], Any]
) -> None:
    basic = vectors("basic")
    meta = basic["shamir_meta"]
    prime, secret = int(meta["prime"], 16), bytes.fromhex(meta["secret"])

    shares = split(secret, meta["t"], range(1, meta["n"] + 1), prime, stream("vec"))

    assert [[x, minimal_bytes(y).hex()] for x, y in shares] == basic["shamir_shares"]
    for some in combinations(shares, meta["t"]):
        assert combine(some, meta["t"], prime) == secret
    assert f"{int.from_bytes(secret, 'big'):x}" == basic["shamir_combine"]


@pytest.mark.parametrize("zeros", [1, 2, 31, 32])
@pytest.mark.parametrize("prime", [PRIME, 2**264 - 275])
def test_leading_zero_bytes_come_back(stream: Callable[[str], Any], zeros: int, prime: int) -> None:
    secret = bytes(zeros) + b"\xa5" * (32 - zeros)

    shares = split(secret, 3, range(1, 6), prime, stream("zeros"))

    assert combine(shares[2:], 3, prime) == secret


def test_one_share_is_the_secret_when_one_is_needed(stream: Callable[[str], Any]) -> None:
    shares = split(SECRET, 1, range(1, 4), PRIME, stream("one"))

    assert {share.y for share in shares} == {int.from_bytes(SECRET, "big")}


def test_an_index_may_have_two_bytes(stream: Callable[[str], Any]) -> None:
    shares = split(SECRET, 2, [255, 256, 70_000], PRIME, stream("far"))

    assert combine(shares[1:], 2, PRIME) == SECRET


def test_fewer_shares_than_needed_fit_every_secret(stream: Callable[[str], Any]) -> None:
    """Two of three: whatever the secret, some third share would make it."""
    two = split(SECRET, 3, range(1, 4), PRIME, stream("few"))[:2]

    made = {combine([*two, Share(3, y)], 3, PRIME) for y in (7, 8, 10**60)}

    assert len(made) == 3


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ([Share(1, 5)], "expected 2 shares, found 1"),
        ([Share(1, 5), Share(1, 6)], "two shares have the same x"),
        ([Share(0, 5), Share(1, 6)], "x = 0 is outside the field"),
        ([Share(1, PRIME), Share(2, 6)], "x = 1 is outside the field"),
        ([Share(1, 5), Share(2, 6), Share(3, 8)], "contradict each other"),
        ([Share(1, PRIME - 1), Share(2, PRIME - 1)], "more than 32 bytes"),
    ],
)
def test_what_makes_no_secret_is_said(shares: list[Share], sentence: str) -> None:
    with pytest.raises(WrongShares, match=sentence):
        combine(shares, 2, PRIME)


def test_a_promised_secret_survives_one_wrong_share(stream: Callable[[str], Any]) -> None:
    shares = split(SECRET, 3, range(1, 6), PRIME, stream("wrong"))
    for position in range(4):
        spoilt = list(shares)
        spoilt[position] = Share(spoilt[position].x, spoilt[position].y ^ 2)

        assert rebuild(spoilt, 3, PRIME, SECRET.__eq__) == SECRET


def test_a_promised_secret_is_not_replaced_by_another(stream: Callable[[str], Any]) -> None:
    shares = split(SECRET, 3, range(1, 4), PRIME, stream("other"))

    with pytest.raises(WrongShares, match="do not make the secret that was promised"):
        rebuild(shares, 3, PRIME, bytes(32).__eq__)


def test_a_server_cannot_choose_a_field_that_leaks(vectors: Callable[[str], Any]) -> None:
    assert find_unfit_prime(int(vectors("pw")["prime"], 16)) is None
    assert find_unfit_prime(PRIME) is None
    assert "above every secret" in str(find_unfit_prime(2**255 - 19))
    assert "found a number with factors" in str(find_unfit_prime(PRIME * 3))
    assert "found a number with factors" in str(find_unfit_prime(2**260))
    assert "at most 127 bytes" in str(find_unfit_prime(2**1_100 + 1))


@pytest.mark.parametrize(("secret", "needed"), [(b"short", 1), (SECRET, 0), (SECRET, 4)])
def test_what_cannot_be_split_is_refused(
    stream: Callable[[str], Any], secret: bytes, needed: int
) -> None:
    with pytest.raises(ValueError, match="expected"):
        split(secret, needed, range(1, 4), PRIME, stream("no"))
