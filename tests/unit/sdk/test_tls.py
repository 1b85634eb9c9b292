"""How a device is told which servers to believe."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fl_cluster.errors import CallerProtocolError
from fl_cluster.sdk import tls_context


def fingerprint(certificates: Any) -> str:
    data = Path(certificates.path("ca.crt")).read_bytes()
    return x509.load_pem_x509_certificate(data).fingerprint(hashes.SHA256()).hex()


def test_without_anything_the_systems_roots_are_asked() -> None:
    context = tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_only_the_given_authority_is_believed(certificates: Any) -> None:
    context = tls_context(certificates.path("ca.crt"))
    assert len(context.get_ca_certs()) == 1
    assert context.check_hostname


def test_an_authority_may_be_pinned_by_its_fingerprint(certificates: Any) -> None:
    known = fingerprint(certificates)
    spaced = ":".join(known[index : index + 2] for index in range(0, 64, 2)).upper()
    for written in (known, spaced):
        tls_context(certificates.path("ca.crt"), ca_sha256=written)
    with pytest.raises(CallerProtocolError, match=f"its SHA-256 is {known}, expected {'0' * 64}"):
        tls_context(certificates.path("ca.crt"), ca_sha256="0" * 64)
    with pytest.raises(CallerProtocolError, match="compared with ca_file, which is not given"):
        tls_context(ca_sha256=known)


def test_a_certificate_may_be_shown_to_a_proxy_that_asks_for_one(certificates: Any) -> None:
    crt, key = certificates.path("client.crt"), certificates.path("client.key")
    tls_context(certificates.path("ca.crt"), certificate=crt, key=key)
    with pytest.raises(CallerProtocolError, match=r"client.crt: cannot be used with its key"):
        tls_context(certificate=crt, key=certificates.path("server.key"))


@pytest.mark.parametrize("content", [None, "nothing", "\u20ac"])
def test_a_file_that_is_no_authority_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(CallerProtocolError, match=f"ca_file {path}: "):
        tls_context(path)


def test_a_servers_own_certificate_is_no_authority(certificates: Any) -> None:
    with pytest.raises(CallerProtocolError, match="expected the certificate of an authority"):
        tls_context(certificates.path("server.crt"))
