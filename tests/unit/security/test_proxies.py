"""Forwarded headers are believed from trusted addresses only, and read from their end."""

from __future__ import annotations

import ipaddress

import pytest
from multidict import CIMultiDict

from fl_cluster.security.proxies import Origin, TrustedProxies

PROXIES = TrustedProxies(
    [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "192.168.7.1", "fd00::/8")]
)


def origin(peer, is_tls=False, **headers):
    """Of a request with these `X-Forwarded-...` headers: one line, or a list of lines, each."""
    lines = CIMultiDict()
    for name, said in headers.items():
        for value in [said] if isinstance(said, str) else said:
            lines.add(f"X-Forwarded-{name}", value)
    return PROXIES.origin(peer, is_tls=is_tls, headers=lines)


def test_without_trusted_addresses_nobody_is_believed():
    headers = CIMultiDict({"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"})

    assert TrustedProxies().origin("9.9.9.9", is_tls=False, headers=headers) == Origin(
        "9.9.9.9", False
    )
    assert not TrustedProxies()


@pytest.mark.parametrize("peer", ["9.9.9.9", "192.168.7.2", "", "not an address"])
def test_others_are_not_believed(peer):
    assert origin(peer, For="1.2.3.4", Proto="https") == Origin(peer, False)


@pytest.mark.parametrize("peer", ["10.1.2.3", "192.168.7.1", "fd00::1", "::ffff:10.1.2.3"])
def test_a_trusted_proxy_is_believed(peer):
    assert origin(peer, For="1.2.3.4", Proto="https") == Origin("1.2.3.4", True)


@pytest.mark.parametrize(
    ("forwarded", "sender"),
    [
        ("6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4, 10.0.0.9", "1.2.3.4"),
        ("10.0.0.8, 10.0.0.9", "10.0.0.8"),
        ("1.2.3.4:5678", "1.2.3.4"),
        ("[2001:db8::1]:99", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("", "10.0.0.1"),
        (" , ", "10.0.0.1"),
        ("6.6.6.6, nonsense", "10.0.0.1"),
        ("nonsense, 10.0.0.7", "10.0.0.7"),
    ],
)
def test_the_sender_is_the_last_that_is_no_trusted_proxy(forwarded, sender):
    assert origin("10.0.0.1", For=forwarded).address == sender


@pytest.mark.parametrize(
    ("lines", "sender"),
    [
        (["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6", "7.7.7.7", "1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6, 10.0.0.9", "1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6", "1.2.3.4, 10.0.0.9"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4", "10.0.0.9"], "1.2.3.4"),
        (["6.6.6.6", "nonsense"], "10.0.0.1"),
        (["", "1.2.3.4"], "1.2.3.4"),
        (["1.2.3.4", ""], "1.2.3.4"),
    ],
)
def test_several_lines_are_one_list_whose_end_the_proxy_wrote(lines, sender):
    assert origin("10.0.0.1", For=lines).address == sender


@pytest.mark.parametrize(
    ("is_tls", "protocols", "is_encrypted"),
    [
        (False, "https", True),
        (False, "HTTPS", True),
        (False, "http", False),
        (True, "http", False),
        (False, "https, http", False),
        (False, "http, https", True),
        (False, ["https", "http"], False),
        (False, ["http", "https"], True),
        (False, ["https", "", " , "], True),
        (False, ["https", "nonsense"], False),
        (False, "", False),
        (True, "", True),
    ],
)
def test_what_the_proxy_itself_says_of_encryption_counts(is_tls, protocols, is_encrypted):
    assert origin("10.0.0.1", is_tls, Proto=protocols).is_encrypted is is_encrypted


@pytest.mark.parametrize(
    ("senders", "protocols", "is_encrypted"),
    [
        ("1.2.3.4, 10.0.0.9", "https, https", True),
        ("1.2.3.4, 10.0.0.9", "http, https", False),
        ("1.2.3.4, 10.0.0.9", "https, http", False),
        ("1.2.3.4, 10.0.0.9", "http, https, https", True),
        ("1.2.3.4, 10.0.0.9", "https, http, https", False),
        ("1.2.3.4, 10.0.0.9", "https", True),
        ("10.0.0.9, 1.2.3.4", "http, https", True),
    ],
)
def test_a_request_is_encrypted_when_every_part_of_its_way_was(senders, protocols, is_encrypted):
    """Two proxies that are trusted have written the last two words of each list."""
    assert origin("10.0.0.1", For=senders, Proto=protocols).is_encrypted is is_encrypted
    lines = {"For": senders.split(", "), "Proto": protocols.split(", ")}
    assert origin("10.0.0.1", **lines).is_encrypted is is_encrypted
