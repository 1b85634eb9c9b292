"""Bearer tokens: how they look, what is kept of one, and what a presented one is worth.

A token is 256 random bits behind a prefix by which logs and scanners know it.  Only its
SHA-256 is ever kept; being random, it needs neither salt nor a slow hash.
Invariant: a record is never removed, only revoked or expired, so that a refusal can say which
it was, and a job that ever had tokens does not become open when the last one ends.
Not here: where records are kept (store), who asks for what (api.gatekeeper).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

PREFIX = "flt_"
TOKEN_BYTES = 32

SHORTEST = 20
"""Characters of a token from a file: what is shorter was thought up, and can be guessed."""

LONGEST = 512
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,63}\Z")
TOKEN = re.compile(r"[!-~]+\Z")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})\Z")
LIFETIME = re.compile(r"([1-9][0-9]{0,4})([smhdw])\Z")
UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}

LINE_FORM = "expected TOKEN [LABEL] [role=ROLE] [expires=DAY]"
LAST_MS = 253_402_300_799_999
"""The end of the year 9999: what lies beyond no calendar shows."""

ID_LENGTH = 12
"""How many hex digits of its digest name a token to people: it shows nothing of the token."""


class TokenRole(StrEnum):
    """What a token lets its bearer do."""

    DEVICE = "device"
    OPERATOR = "operator"


class TokenVerdict(StrEnum):
    """What a presented token is worth; the value is the word on the wire."""

    VALID = "accepted"
    MISSING = "token_missing"
    UNKNOWN = "token_unknown"
    EXPIRED = "token_expired"
    REVOKED = "token_revoked"
    WRONG_ROLE = "token_role"
    PLAIN_HTTP = "token_over_http"


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is known of one token; instants are milliseconds of the cluster's clock."""

    digest: str
    label: str
    role: TokenRole
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None

    @property
    def id(self) -> str:
        """How people name this one token among those of its label."""
        return self.digest[:ID_LENGTH]

    def ends_at(self) -> int | None:
        """When it stops being good, as far as is known; None: never."""
        ends = [at for at in (self.expires_ms, self.revoked_ms) if at is not None]
        return min(ends, default=None)

    def state(self, now_ms: int) -> str:
        """valid | expired | revoked."""
        if self.revoked_ms is not None:
            return "revoked"
        return "expired" if self.expires_ms is not None and now_ms >= self.expires_ms else "valid"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a presented token, and whose it is when it is known."""

    verdict: TokenVerdict
    record: TokenRecord | None = None


def new_token() -> str:
    """A token nobody has seen before."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def digest_of(token: str) -> str:
    """What is kept of a token: its SHA-256, hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def judge(
    records: Mapping[str, TokenRecord], token: str | None, role: TokenRole, now_ms: int
) -> Judgement:
    """What the token is worth to somebody who wants to act in `role`.

    `records` maps digests to records.
    """
    if not token:
        return Judgement(TokenVerdict.MISSING)
    record = records.get(digest_of(token)) if len(token) <= LONGEST else None
    if record is None:
        return Judgement(TokenVerdict.UNKNOWN)
    state = record.state(now_ms)
    if state == "revoked":
        return Judgement(TokenVerdict.REVOKED, record)
    if state == "expired":
        return Judgement(TokenVerdict.EXPIRED, record)
    if record.role is not role:
        return Judgement(TokenVerdict.WRONG_ROLE, record)
    return Judgement(TokenVerdict.VALID, record)


def check_label(text: str) -> str:
    """The label; `ValueError` says what a label looks like."""
    if PREFIX in text:
        raise ValueError("a label that looks like a token may be one, and labels are shown")
    if not LABEL.match(text):
        raise ValueError(
            f"a label has up to 64 letters, digits and . _ @ / - and begins with one of the"
            f" first two, found {text!r}"
        )
    return text


def expiry(text: str, now_ms: int) -> int:
    """The instant that a lifetime (30d) or a day (2027-01-31, UTC) stands for.

    `ValueError` when it is neither, is over, or ends after the year 9999.
    """
    found = LIFETIME.match(text)
    at_ms = now_ms + int(found[1]) * UNIT_MS[found[2]] if found else _day(text)
    if at_ms <= now_ms:
        raise ValueError(f"{text} is over already")
    if at_ms > LAST_MS:
        raise ValueError(f"{text} is later than the year 9999")
    return at_ms


def _day(text: str) -> int:
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"expected a lifetime such as 30d, 12h or 45m, or a day such as 2027-01-31,"
            f" found {text!r}"
        ) from None
    return int((day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp() * 1000)


def lifetime_ms(text: str) -> int:
    """The milliseconds that a lifetime (30d) stands for; `ValueError` when it is none."""
    found = LIFETIME.match(text)
    if not found:
        raise ValueError(f"expected a time such as 30d, 12h or 45m, found {text!r}")
    return int(found[1]) * UNIT_MS[found[2]]


def parse_token_file(text: str, now_ms: int) -> dict[str, TokenRecord]:
    """Digest -> record of a file of tokens; `ValueError` names the line and never the token.

    One token per line, or `sha256:` and its digest, then what is known of it:
    `TOKEN [LABEL] [role=operator] [expires=2027-01-31]`.  Empty lines and lines that begin
    with # are passed over.
    """
    records: dict[str, TokenRecord] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            record = _record_of(words, number, now_ms)
        except ValueError as exc:
            # What was found may be a token that stands in the wrong place.
            reason = LINE_FORM if PREFIX in str(exc) else exc
            raise ValueError(f"line {number}: {reason}") from None
        if record.digest in records:
            raise ValueError(f"line {number}: the token is that of an earlier line")
        records[record.digest] = record
    return records


def _record_of(words: list[str], number: int, now_ms: int) -> TokenRecord:
    digest, label = _digest_in_file(words[0]), f"line-{number}"
    role, expires_ms = TokenRole.DEVICE, None
    for position, word in enumerate(words[1:]):
        name, has_value, value = word.partition("=")
        if has_value and name == "role":
            if value not in list(TokenRole):
                raise ValueError(f"role: expected {' or '.join(TokenRole)}, found {value!r}")
            role = TokenRole(value)
        elif has_value and name == "expires":
            expires_ms = _day_in_file(value)
        elif position == 0 and not has_value:
            label = check_label(word)
        else:
            # The word is not shown: it may be a token that a blank was typed into.
            raise ValueError(LINE_FORM)
    return TokenRecord(digest, label, role, now_ms, expires_ms)


def _digest_in_file(word: str) -> str:
    if word.startswith("sha256:"):
        found = DIGEST.match(word)
        if not found:
            raise ValueError("sha256: is followed by 64 hex digits")
        return found[1]
    if not SHORTEST <= len(word) <= LONGEST or not TOKEN.match(word):
        raise ValueError(
            f"a token has {SHORTEST} to {LONGEST} printable characters, this one has {len(word)};"
            " `fl-cluster token create` makes good ones"
        )
    return digest_of(word)


def _day_in_file(value: str) -> int:
    """An instant; one that is over is fine here: the token was good until then."""
    if LIFETIME.match(value):
        raise ValueError("expires: in a file it is a day such as 2027-01-31")
    return expiry(value, -1)


def bearer_of(header: str | None) -> str | None:
    """The token in an Authorization header; None when there is none."""
    if header is None:
        return None
    scheme, _, token = header.strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def sorted_records(records: Mapping[str, TokenRecord]) -> Iterator[TokenRecord]:
    """The records by label, of one label in the order of their making."""
    yield from sorted(records.values(), key=lambda each: (each.label, each.created_ms, each.digest))
