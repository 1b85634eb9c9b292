"""Invariant: any text is what it should be, or one sentence says why not, and shows no token.

The first byte of an input says what the text is: a file of tokens, the lifetime of one, a
header with one, a join line, or what proxies say about a request.  What comes out can be
shown, written, and read again.  `engine.campaign` has the command line.
"""

from __future__ import annotations

import ipaddress
import json
import re
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from engine.campaign import main
from engine.target import ROOT, Broken, Target
from multidict import CIMultiDict

from fl_cluster.errors import CallerProtocolError
from fl_cluster.sdk.join_line import SCHEME, JoinLine, parse_join_line
from fl_cluster.security.proxies import TrustedProxies
from fl_cluster.security.tokens import (
    PREFIX,
    SHORTEST,
    TokenRecord,
    TokenRole,
    bearer_of,
    digest_of,
    expiry,
    judge,
    lifetime_ms,
    parse_token_file,
    sorted_records,
)

NOW_MS = 1_795_000_000_000
TOKEN = PREFIX + "x" * 43
OLD = TokenRecord(digest_of(TOKEN), "site-a", TokenRole.DEVICE, NOW_MS - 2, NOW_MS - 1)
CA = ssl.PEM_cert_to_DER_cert(
    json.loads((ROOT / "tests" / "data" / "pki" / "vectors.json").read_text())["root_cert"]
)
PROXIES = TrustedProxies(
    [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "::1/128", "127.0.0.1/32")]
)
LINE = JoinLine(
    servers=("10.0.0.7:6666", "[::1]:6666"), job="Lenet", is_tls=True, token=TOKEN, ca_der=CA
)


def show(at_ms: int | None) -> None:
    """As lists and refusals do."""
    if at_ms is not None:
        f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d}"


def check_file(text: str) -> None:
    try:
        records = parse_token_file(text, NOW_MS)
    except ValueError as exc:
        for word in text.split():
            if word.startswith(PREFIX) and len(word) >= SHORTEST and word in str(exc):
                raise Broken(f"shows a token: {exc}") from exc
        return
    for record in sorted_records(records):
        show(record.expires_ms)
        record.state(NOW_MS)
        if record.label.startswith(PREFIX):
            raise Broken("a token became a label, which everybody is shown")


def check_lifetime(text: str) -> None:
    for read in (lambda: expiry(text, NOW_MS), lambda: NOW_MS + lifetime_ms(text)):
        try:
            at_ms = read()
        except ValueError:
            continue
        if at_ms <= NOW_MS:
            raise Broken("over already")
        show(at_ms)


def check_header(text: str) -> None:
    token = bearer_of(text)
    for role in TokenRole:
        judge({OLD.digest: OLD}, token, role, NOW_MS)


def check_join_line(text: str) -> None:
    try:
        line = parse_join_line(text)
        line.tls_context()
    except CallerProtocolError as exc:
        found = re.search(r"token=([^&]+)", text)
        is_one = found is not None and text.count(found[1]) == 1 and len(found[1]) >= SHORTEST
        if found and is_one and found[1] in str(exc):
            raise Broken(f"shows the token: {exc}") from exc
        return
    if parse_join_line(line.text()) != line:
        raise Broken(f"does not come back as it went: {line.text()!r}")
    if repr(line) != repr(replace(line, token=TOKEN)):
        raise Broken("shows the token")


def check_proxies(text: str) -> None:
    sent, _, protocol = text.partition("\n")
    headers = CIMultiDict[str]()
    for name, said in (("X-Forwarded-For", sent), ("X-Forwarded-Proto", protocol)):
        for line in said.split(";"):
            headers.add(name, line)
    origin = PROXIES.origin("127.0.0.1", is_tls=False, headers=headers)
    ipaddress.ip_address(origin.address)
    if PROXIES.origin("192.0.2.1", is_tls=False, headers=headers).address != "192.0.2.1":
        raise Broken("believes a stranger")


CHECKS: tuple[Callable[[str], None], ...] = (
    check_file,
    check_lifetime,
    check_header,
    check_join_line,
    check_proxies,
)
FILE, LIFETIME, HEADER, JOIN_LINE, FORWARDED = (bytes([at]) for at in range(len(CHECKS)))


def seeds() -> Iterator[bytes]:
    """Honest texts of each kind."""
    yield FILE + f"# ours\n{TOKEN} site-a role=operator expires=2027-01-31\n".encode()
    yield FILE + f"sha256:{OLD.digest} expires=2020-01-31T10:00:00+01:00\n".encode()
    yield FILE + f"{TOKEN} {TOKEN}y\n".encode()
    for text in ("30d", "12h", "45m", "9s", "2027-01-31", "999999w", "2027-W05-1", "9999-12-31"):
        yield LIFETIME + text.encode()
    yield HEADER + f"Bearer {TOKEN}".encode()
    yield JOIN_LINE + LINE.text().encode()
    yield JOIN_LINE + f"{SCHEME}h:1/?job=a&prefix=/x&http=1&tls=0".encode()
    for said in ("SECURE_AGGREGATION", "DP_ENCRYPT,epsilon=1,delta=1e-05"):
        yield JOIN_LINE + f"{SCHEME}h:1/?job=a&protection={said}&token={TOKEN}".encode()
    for text in (
        "10.1.2.3, 192.0.2.9:80\nhttps",
        "[::1]:80, ::ffff:10.0.0.1%eth0\nhttp,https",
        "192.0.2.9;10.0.0.1\nhttps;http",
    ):
        yield FORWARDED + text.encode()


def check(data: bytes) -> None:
    text = data[1:].decode("utf-8", "surrogateescape")
    CHECKS[data[0] % len(CHECKS) if data else 0](text)


TARGET = Target(
    name="tokens",
    check=check,
    seeds=seeds,
    longest=2048,
    dictionary=(
        TOKEN.encode(),
        SCHEME.encode(),
        b"sha256:",
        b"role=operator",
        b"expires=",
        b"&ca_sha256=",
        b"&ca=",
        b"&token=",
        b"&prefix=",
        b"%00",
        b"::ffff:",
        b"Bearer ",
    ),
)

if __name__ == "__main__":
    sys.exit(main(TARGET))
