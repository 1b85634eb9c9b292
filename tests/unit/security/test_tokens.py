"""Tokens: how they are made, read from files, and judged."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fl_cluster.security.tokens import (
    TokenRecord,
    TokenRole,
    TokenVerdict,
    bearer_of,
    check_label,
    digest_of,
    expiry,
    judge,
    lifetime_ms,
    new_token,
    parse_token_file,
    sorted_records,
)

NOW_MS = 1_795_000_000_000
TOKEN = "flt_0123456789abcdefghij"
DEVICE, OPERATOR = TokenRole.DEVICE, TokenRole.OPERATOR


def records(**changes):
    record = TokenRecord(digest_of(TOKEN), "site-a", DEVICE, NOW_MS - 1_000)
    fields = {name: getattr(record, name) for name in TokenRecord.__slots__} | changes
    return {record.digest: TokenRecord(**fields)}


def test_a_new_token_is_never_the_same_and_goes_into_a_header_as_it_is():
    made = {new_token() for _ in range(50)}

    assert len(made) == 50
    assert all(bearer_of(f"Bearer {token}") == token for token in made)
    assert all(len(token) >= 43 for token in made)


def test_a_known_token_is_good_for_its_role_only():
    found = judge(records(), TOKEN, DEVICE, NOW_MS)

    assert (found.verdict, found.record.label) == (TokenVerdict.VALID, "site-a")
    assert judge(records(), TOKEN, OPERATOR, NOW_MS).verdict is TokenVerdict.WRONG_ROLE


@pytest.mark.parametrize(
    ("token", "changes", "verdict"),
    [
        (None, {}, TokenVerdict.MISSING),
        ("", {}, TokenVerdict.MISSING),
        (TOKEN + "x", {}, TokenVerdict.UNKNOWN),
        ("x" * 1_000_000, {}, TokenVerdict.UNKNOWN),
        ("\udcff\udc80", {}, TokenVerdict.UNKNOWN),
        (TOKEN, {"expires_ms": NOW_MS}, TokenVerdict.EXPIRED),
        (TOKEN, {"expires_ms": NOW_MS + 1}, TokenVerdict.VALID),
        (TOKEN, {"revoked_ms": NOW_MS - 5}, TokenVerdict.REVOKED),
        (TOKEN, {"revoked_ms": NOW_MS - 5, "expires_ms": NOW_MS - 9}, TokenVerdict.REVOKED),
    ],
)
def test_what_is_wrong_with_a_token_is_told_apart(token, changes, verdict):
    assert judge(records(**changes), token, DEVICE, NOW_MS).verdict is verdict


@pytest.mark.parametrize("text", ["site-a", "Klinik.7@example.org", "a/b_c", "x" * 64])
def test_labels_are_names(text):
    assert check_label(text) == text


@pytest.mark.parametrize("text", ["", "-a", "a b", "a\nb", "ä", "x" * 65, "{device}"])
def test_what_is_no_name_is_no_label(text):
    with pytest.raises(ValueError, match="a label has up to 64 letters"):
        check_label(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45m", NOW_MS + 45 * 60_000),
        ("30d", NOW_MS + 30 * 86_400_000),
        ("2w", NOW_MS + 14 * 86_400_000),
        ("2027-01-31", int(datetime(2027, 1, 31, tzinfo=UTC).timestamp() * 1000)),
        ("2027-01-31T12:00+02:00", int(datetime(2027, 1, 31, 10, tzinfo=UTC).timestamp() * 1000)),
    ],
)
def test_an_end_is_a_lifetime_or_a_day(text, expected):
    assert expiry(text, NOW_MS) == expected


@pytest.mark.parametrize("text", ["", "30", "0d", "-1d", "soon", "1e3d", "2020-01-01", "9999999d"])
def test_an_end_that_is_none_or_is_over_is_refused(text):
    with pytest.raises(ValueError, match=r"expected a lifetime|is over already"):
        expiry(text, NOW_MS)


@pytest.mark.parametrize("text", ["999999w", "9999-12-31T23:59-23:00"])
def test_an_end_that_no_calendar_shows_is_refused(text):
    with pytest.raises(ValueError, match=r"expected a lifetime|later than the year 9999"):
        expiry(text, NOW_MS)


def test_an_overlap_is_a_lifetime_only():
    assert lifetime_ms("7d") == 7 * 86_400_000
    with pytest.raises(ValueError, match="expected a time such as 30d"):
        lifetime_ms("2027-01-31")


def test_a_file_has_one_token_per_line_and_what_is_known_of_it():
    text = f"""
# site A
{TOKEN} site-a
{"o" * 20} ops role=operator expires=2027-01-31
sha256:{digest_of("another-good-token-here")} site-c
{"n" * 20}
{"e" * 20} expires=2020-01-01
"""
    found = {record.label: record for record in parse_token_file(text, NOW_MS).values()}

    assert set(found) == {"site-a", "ops", "site-c", "line-6", "line-7"}
    assert found["site-a"] == TokenRecord(digest_of(TOKEN), "site-a", DEVICE, NOW_MS)
    assert found["ops"].role is OPERATOR
    assert found["ops"].state(NOW_MS) == "valid"
    assert found["site-c"].digest == digest_of("another-good-token-here")
    assert found["line-7"].state(NOW_MS) == "expired"


OTHER = "o" * 30


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("short", "line 1: a token has 20 to 512 printable characters, this one has 5"),
        ("x" * 513, "this one has 513"),
        ("ü" * 20, "printable characters"),
        ("sha256:abc", "sha256: is followed by 64 hex digits"),
        (f"{TOKEN} role=root", "role: expected device or operator, found 'root'"),
        (f"{TOKEN} expires=30d", "in a file it is a day"),
        (f"{TOKEN} expires=never", "expected a lifetime"),
        (f"{TOKEN} a b", "expected TOKEN"),
        (f"{OTHER} {TOKEN}", "a label that looks like a token may be one"),
        (f"{OTHER} role={TOKEN}", "line 1: expected TOKEN"),
        (f"{OTHER} expires={TOKEN}", "line 1: expected TOKEN"),
        (f"{TOKEN} {{x}}", "a label has up to 64"),
        (f"{TOKEN} a\n{TOKEN} b", "line 2: the token is that of an earlier line"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named_and_the_token_is_not(line, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_token_file(line, NOW_MS)

    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer  ", None),
        ("Basic dXNlcjpwYXNz", None),
        ("bearer abc", "abc"),
        (" Bearer  abc ", "abc"),
    ],
)
def test_a_token_comes_in_the_authorization_header(header, token):
    assert bearer_of(header) == token


def test_records_are_listed_by_label_and_age():
    made = [TokenRecord(f"{n}", label, DEVICE, n) for n, label in enumerate("bab")]

    listed = list(sorted_records({record.digest: record for record in made}))

    assert [(each.label, each.created_ms) for each in listed] == [("a", 1), ("b", 0), ("b", 2)]
