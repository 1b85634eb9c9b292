"""A certificate authority of the cluster's own: makes keys, certificates, revocation lists.

Everything it makes fits what the rest of the package checks: names and addresses as subject
alternative names, key identifiers, both sides of TLS, OpenSSL's security level 3.
Not here: files (app.certs_command), and whether a certificate is fit to be used (`authorities`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

from fl_cluster.errors import StartupError
from fl_cluster.security.identities import Key, names_of

BACKDATED = timedelta(hours=1)
"""Hosts whose clocks are a little behind shall not refuse what is new."""

HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*)(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*\Z")
LONGEST_HOST = 253

LONGEST_NAME = 64
"""RFC 5280's bound on a CN."""


class KeyKind(StrEnum):
    """What keys are made of."""

    EC = "ec"
    """P-256: small and quick; every device of ours and every Java takes it."""
    RSA = "rsa"
    """3072 bits, for peers that know nothing else."""


def new_key(kind: KeyKind) -> Key:
    """A key that nobody else has."""
    if kind is KeyKind.EC:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 3072)


def key_pem(key: Key) -> bytes:
    """The key as a file, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when something is valid."""

    start: datetime
    end: datetime

    @classmethod
    def of_days(cls, days: int, now: datetime) -> Validity:
        """From now on for so many days."""
        return cls(now - BACKDATED, now + timedelta(days=days))


@dataclass(frozen=True, slots=True)
class Authority:
    """A key that signs, and the certificate that vouches for it."""

    key: Key
    certificate: x509.Certificate

    @classmethod
    def create(cls, name: str, kind: KeyKind, validity: Validity) -> Authority:
        """A new one that vouches for itself."""
        key = new_key(kind)
        subject = _name(name)
        builder = _builder(subject, subject, key, validity)
        usage = _key_usage(signs_certificates=True)
        made = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, made)

    @classmethod
    def read(cls, certificate: bytes, key: bytes, where: str) -> Authority:
        """The one in two PEM files; StartupError when they are not that, saying `where`."""
        try:
            found = load_pem_private_key(key, None)
            made = cls(_as_key(found), x509.load_pem_x509_certificate(certificate))
        except (ValueError, TypeError, x509.InvalidVersion) as exc:
            raise StartupError(f"{where}: no certificate authority can be read there") from exc
        if made.certificate.public_key() != made.key.public_key():
            raise StartupError(f"{where}: ca.key is not the key of ca.crt")
        return made

    def issue(
        self, name: str, hosts: Sequence[str], key: Key, validity: Validity
    ) -> x509.Certificate:
        """A certificate for both sides of TLS; `hosts` are names and addresses.

        It does not outlive the authority.
        """
        end = min(validity.end, self.certificate.not_valid_after_utc)
        lasting = Validity(max(validity.start, self.certificate.not_valid_before_utc), end)
        builder = (
            _builder(_name(name), self.certificate.subject, key, lasting)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([Usage.SERVER_AUTH, Usage.CLIENT_AUTH]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    _subject_key_id(self.certificate)
                ),
                critical=False,
            )
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def renew(self, old: x509.Certificate, key: Key, validity: Validity) -> x509.Certificate:
        """A certificate for the same names."""
        name = old.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        return self.issue(str(name), names_of(old), key, validity)

    def revoke(
        self,
        known: x509.CertificateRevocationList | None,
        serials: Sequence[int],
        now: datetime,
    ) -> x509.CertificateRevocationList:
        """The list `known` with these serial numbers as well; valid as long as the authority.

        Whoever revokes writes a new list at once, so nothing is gained by one that runs out.
        """
        start = now - BACKDATED
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(max(start, self.certificate.not_valid_before_utc))
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    _subject_key_id(self.certificate)
                ),
                critical=False,
            )
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        entries = {entry.serial_number: entry for entry in known or ()}
        for serial in serials:
            if serial not in entries:
                entries[serial] = (
                    x509.RevokedCertificateBuilder()
                    .serial_number(serial)
                    .revocation_date(now)
                    .build()
                )
        for entry in entries.values():
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256())


def pack(
    name: str, key: Key, certificate: x509.Certificate, authority: x509.Certificate, password: str
) -> bytes:
    """A PKCS#12 file."""
    return pkcs12.serialize_key_and_certificates(
        name.encode(), key, certificate, [authority], BestAvailableEncryption(password.encode())
    )


def _as_key(found: object) -> Key:
    if isinstance(found, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return found
    raise TypeError(type(found).__name__)


def _name(name: str) -> x509.Name:
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise StartupError(f"{name!r} cannot be a certificate's name: 1 to 64 characters")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        ascii_name = host.encode("idna").decode() if not host.isascii() else host
    except UnicodeError as exc:
        raise StartupError(f"--host {host}: neither a name nor an address: {exc}") from exc
    if not HOST_NAME.match(ascii_name) or len(ascii_name) > LONGEST_HOST:
        raise StartupError(f"--host {host!r}: neither a name nor an address")
    return x509.DNSName(ascii_name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, validity: Validity
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.start)
        .not_valid_after(validity.end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subject_key_id(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
