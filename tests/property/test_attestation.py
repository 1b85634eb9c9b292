"""Whatever certificates a device sends, they are a chain or they are refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_cluster.security.attestation import (
    ChainTexts,
    Trust,
    Untrusted,
    check_now,
    pem_of,
    read_roots,
    verify_chain,
    verify_signature,
)

NOW_MS = 1_795_317_377_458
NAMES = ("key_attestation", "equip_cert", "equip_ca_cert")


@pytest.fixture(scope="module")
def texts(pki_vectors: dict[str, Any]) -> list[str]:
    return [pki_vectors[name] for name in NAMES]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 2),
    place=st.floats(0, 1, exclude_max=True),
    change=st.binary(min_size=1, max_size=4),
)
def test_a_certificate_that_was_changed_anywhere_is_refused(
    texts: list[str],
    pki_vectors: dict[str, Any],
    which: int,
    place: float,
    change: bytes,
) -> None:

    roots = read_roots(pki_vectors["root_cert"].encode())
    body = "".join(texts[which].splitlines()[1:-1])
    der = bytearray(base64.b64decode(body))
    start = int(place * len(der))
    before = bytes(der)
    der[start : start + len(change)] = change
    if bytes(der) == before:
        return
    text = base64.b64encode(der).decode()
    lines = [text[n : n + 64] for n in range(0, len(text), 64)]
    pem = "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
    sent = [*texts]
    sent[which] = pem

    with pytest.raises(Untrusted):
        check_now(verify_chain(ChainTexts(*sent), roots), Trust(roots), NOW_MS)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(st.text(max_size=200), min_size=3, max_size=3))
def test_any_texts_are_refused(sent: list[str]) -> None:
    with pytest.raises(Untrusted):
        verify_chain(ChainTexts(*sent), [])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(signature=st.binary(max_size=600), signed=st.binary(max_size=50))
def test_any_bytes_are_no_signature(device_authority: Any, signature: bytes, signed: bytes) -> None:
    with pytest.raises(Untrusted):
        verify_signature(device_authority.root, signature, signed)
    assert pem_of(device_authority.root)
