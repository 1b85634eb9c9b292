"""Whom a process trusts: authorities and revocation lists, and whether its own chain fits them.

The checks are those of the published server, in its order and with its words, with two mended:
a revocation list is judged by its issuer's signature and by the numbers in it, and a chain may
have certificates between the shown one and the authority.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from fl_cluster.errors import StartupError
from fl_cluster.security.attestation import UNREADABLE, read_revocations, read_roots
from fl_cluster.security.identities import (
    Identity,
    common_name,
    lacks_usage,
    validity_problem,
    weakness,
)
from fl_cluster.security.watched_files import read_whole

LONGEST_CHAIN = 8
CA_KEY = "ssl.ca_cert_path"
CRL_KEY = "ssl.crl_path"
CRL_FAILED = "Verify crl failed."


class Revoked(StartupError):
    """The certificate was withdrawn by its authority: nothing is shown in its place."""


@dataclass(frozen=True, slots=True)
class Authorities:
    """Certificates of the trusted, and the lists of what they revoked."""

    path: str
    certificates: tuple[x509.Certificate, ...]
    list_path: str = ""
    revocations: tuple[x509.CertificateRevocationList, ...] = ()


def read_lists(path: str, now: datetime) -> tuple[x509.CertificateRevocationList, ...]:
    """The revocation lists in a file; StartupError when it is unreadable, early or out of date."""
    if not path:
        return ()
    try:
        found = tuple(read_revocations(read_whole(path, CRL_KEY)))
    except (StartupError, ValueError) as exc:
        reason = str(exc) if isinstance(exc, StartupError) else f"{CRL_KEY} {path} is none"
        raise StartupError(f"{CRL_FAILED} ({reason})") from exc
    for each in found:
        if each.last_update_utc > now:
            raise StartupError(
                f"check crl time failed ({CRL_KEY} {path} is not valid before"
                f" {each.last_update_utc:%Y-%m-%d %H:%M} UTC)"
            )
        if each.next_update_utc is not None and each.next_update_utc < now:
            raise StartupError(
                f"check crl time failed ({CRL_KEY} {path} is out of date since"
                f" {each.next_update_utc:%Y-%m-%d %H:%M} UTC: the authority has to write a new one)"
            )
    return found


def read_authorities(path: str) -> tuple[x509.Certificate, ...]:
    """The certificates of a file of authorities; StartupError when there are none."""
    if not Path(path).exists():
        raise StartupError(f"The file path of ca_cert_path {path} is not exist.")
    try:
        return tuple(read_roots(read_whole(path, CA_KEY)))
    except (StartupError, ValueError) as exc:
        reason = str(exc) if isinstance(exc, StartupError) else f"{CA_KEY} {path} is none"
        raise StartupError(f"Read CA cert file failed. ({reason})") from exc


def check_identity(identity: Identity, trusted: Authorities, now: datetime) -> None:
    """Return when a peer that trusts the same authorities would take the identity.

    StartupError says what is wrong, and with which file.
    """
    try:
        _check_identity(identity, trusted, now)
    except UNREADABLE as exc:
        raise StartupError(
            f"{identity.files}: a certificate of its chain, or a list, cannot be read: {exc}"
        ) from exc


def _check_identity(identity: Identity, trusted: Authorities, now: datetime) -> None:
    files = identity.files
    chain = _chain(identity, trusted)
    for certificate, issuer in pairwise(chain):
        _check_link(f"{files}", certificate, issuer)
    for place, certificate in enumerate(chain):
        what = str(files) if place == 0 else f"the authority {common_name(certificate.subject)!r}"
        problem = validity_problem(certificate, now)
        if problem:
            raise StartupError(f"Verify Cert Time failed. ({what} {problem})")
        problem = weakness(certificate)
        if problem:
            raise StartupError(f"{what} is too weak: {problem}")
    if lacks_usage(identity.certificate, files.name):
        raise StartupError(
            f"Verify Extended Attributes failed. ({files} is not meant for the {files.name} side"
            " of TLS by its extended key usage)"
        )
    if trusted.list_path:
        _check_revoked(identity, chain[1:], trusted)


def _chain(identity: Identity, trusted: Authorities) -> list[x509.Certificate]:
    chain = [identity.certificate]
    while len(chain) < LONGEST_CHAIN:
        issuer = _find(trusted.certificates, chain[-1])
        if issuer is not None:
            return [*chain, issuer]
        between = _find(identity.intermediates, chain[-1])
        if between is None or between in chain:
            break
        chain.append(between)
    known = ", ".join(repr(common_name(each.subject)) for each in trusted.certificates)
    raise StartupError(
        "root CA cert subject cn is not equal with equip CA cert issuer cn."
        f" ({identity.files} was issued by {common_name(chain[-1].issuer)!r}, {CA_KEY}"
        f" {trusted.path} is {known or 'empty'})"
    )


def _find(among: Iterable[x509.Certificate], issued: x509.Certificate) -> x509.Certificate | None:
    """The issuer of a certificate, by name; of several, the one whose key signed it."""
    named = [each for each in among if each.subject == issued.issuer]
    return next((each for each in named if _has_signed(each, issued)), named[0] if named else None)


def _has_signed(issuer: x509.Certificate, issued: x509.Certificate) -> bool:
    try:
        issued.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _check_link(what: str, issued: x509.Certificate, issuer: x509.Certificate) -> None:
    by = f"the authority {common_name(issuer.subject)!r}"
    if not _has_signed(issuer, issued):
        raise StartupError(f"Verify Singature failed. ({what} was not signed with the key of {by})")
    if not _may_issue(issuer):
        raise StartupError(f"Verify Extended Attributes failed. ({by} is not marked CA:TRUE)")
    wanted, own = _authority_key_id(issued), _subject_key_id(issuer)
    if wanted is not None and own is not None and wanted != own:
        raise StartupError(
            f"Verify Cert KeyID failed. ({what} names another key of {by} than it has)"
        )


def _may_issue(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _authority_key_id(certificate: x509.Certificate) -> bytes | None:
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return found.value.key_identifier


def _subject_key_id(certificate: x509.Certificate) -> bytes | None:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return found.value.digest


def _check_revoked(
    identity: Identity, issuers: Sequence[x509.Certificate], trusted: Authorities
) -> None:
    where = f"{CRL_KEY} {trusted.list_path}"
    certificates = (*issuers, *trusted.certificates)
    for each in trusted.revocations:
        named = [one for one in certificates if one.subject == each.issuer]
        if not any(_is_signed_by(each, one) for one in named):
            raise StartupError(
                f"{CRL_FAILED} ({where}: the list of {common_name(each.issuer)!r} was not signed"
                f" by an authority of {trusted.path})"
            )
    own = [each for each in trusted.revocations if each.issuer == issuers[0].subject]
    if not own:
        raise StartupError(
            f"{CRL_FAILED} ({where} has no list of {common_name(issuers[0].subject)!r}, which"
            f" issued {identity.files})"
        )
    for each in own:
        entry = each.get_revoked_certificate_by_serial_number(identity.certificate.serial_number)
        if entry is not None:
            raise Revoked(
                f"{CRL_FAILED} ({identity.files} was revoked on"
                f" {entry.revocation_date_utc:%Y-%m-%d} by {where})"
            )


def _is_signed_by(revocations: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        # Curves and keys that cannot sign lists are refused by the type.
        return revocations.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, UnsupportedAlgorithm):
        return False


def endings(identities: Iterable[Identity], trusted: Authorities) -> Iterator[tuple[str, datetime]]:
    """What ends when: a name for a sentence, and the instant."""
    for identity in identities:
        for place, certificate in enumerate((identity.certificate, *identity.intermediates)):
            between = f" (its authority {common_name(certificate.subject)!r})" if place else ""
            yield f"{identity.files}{between}", certificate.not_valid_after_utc
    for certificate in trusted.certificates:
        yield f"{CA_KEY} {trusted.path}", certificate.not_valid_after_utc
    for each in trusted.revocations:
        if each.next_update_utc is not None:
            yield f"{CRL_KEY} {trusted.list_path}", each.next_update_utc


def expiry_warnings(ends: Iterable[tuple[str, datetime]], now: datetime, days: int) -> list[str]:
    """A sentence for each that ends within so many days."""
    return [
        f"{what} {'has expired' if end <= now else 'expires'} on {end:%Y-%m-%d}"
        + ("" if end <= now else f", in {(end - now).days} days: renew it")
        for what, end in ends
        if end <= now + timedelta(days=days)
    ]
