"""Device certificates: whether a chain leads to a trusted root, and who signed what.

    root (configured) -> equipment authority -> equipment certificate -> key attestation

The key attestation holds the key that the device signs its requests with (RSASSA-PSS, SHA-256,
MGF1-SHA-256, any salt length); its id is the SHA-256 of the equipment certificate's PEM text.
Facts: an attestation is issued by a certificate that is no authority, and names and key ids
between those two are not compared; devices of the published system are made so.
Invariant: one equipment certificate is one id.  The hash is that of the received bytes, hence
only the canonical text of a certificate is taken: 64 columns, LF, one at the end.
Not here: clocks, files, replays, and in which order a handler asks (service.attestation).
"""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from fl_cluster.errors import PeerProtocolError

EARLY = timedelta(seconds=600)
"""How far ahead of our clock a certificate may begin: whoever issued it has a clock too."""

RSA_BITS = range(2_048, 8_193)
"""Shorter keys can be broken; longer ones cost a server more than they give a device."""

LINE = 64
TIMESTAMP = re.compile(r"[1-9][0-9]{12}\Z")
"""Thirteen digits: what is signed joins time and round number without anything in between, so
only a fixed length makes that text mean one thing."""

UNREADABLE = (
    *(ValueError, TypeError),
    *(x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
    UnsupportedAlgorithm,
)
"""What a look into a certificate or list raises that was damaged, or is of an unknown kind."""

WEAK_HASHES = (hashes.MD5, hashes.SHA1)
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
HASH = hashes.SHA256()
CERTIFICATE_BLOCK = b"-----BEGIN CERTIFICATE-----"
CRL_BLOCK = re.compile(b"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


class Untrusted(PeerProtocolError):
    """A chain or a signature does not prove what it should; the message is the reason, a clause."""


@dataclass(frozen=True, slots=True)
class ChainTexts:
    """The certificates of a check-in, as they came."""

    key_attestation: str
    equip_cert: str
    equip_ca_cert: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that was found good, apart from time and revocation, which change."""

    attestation: x509.Certificate
    equipment: x509.Certificate
    authority: x509.Certificate


@dataclass(frozen=True, slots=True)
class Trust:
    """What a server was configured to believe."""

    roots: Sequence[x509.Certificate]
    revocations: Sequence[x509.CertificateRevocationList] | None = None
    """None: there is no list, and nobody is revoked."""


def device_id_of(equip_cert: str) -> str:
    """The id that belongs to this equipment certificate: its PEM text's SHA-256, hex."""
    return hashlib.sha256(_bytes(equip_cert)).hexdigest()


def pem_of(certificate: x509.Certificate) -> str:
    """The certificate's canonical PEM text: what goes over the wire and is hashed."""
    return pem_of_der(certificate.public_bytes(Encoding.DER))


def pem_of_der(der: bytes) -> str:
    """The same from a certificate's bytes, whatever they are."""
    body = base64.b64encode(der).decode()
    lines = [body[start : start + LINE] for start in range(0, len(body), LINE)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def read_roots(pem: bytes) -> list[x509.Certificate]:
    """The certificates of a root file, PEM or DER; `ValueError` when there is none."""
    try:
        if CERTIFICATE_BLOCK in pem:
            return list(x509.load_pem_x509_certificates(pem))
        return [x509.load_der_x509_certificate(pem)]
    except x509.InvalidVersion as exc:
        raise ValueError(f"expected a certificate: {exc}") from exc


def read_revocations(pem: bytes) -> list[x509.CertificateRevocationList]:
    """The lists of a file that holds one or several, PEM, or one, DER; `ValueError` otherwise."""
    blocks = CRL_BLOCK.findall(pem)
    try:
        if blocks:
            lists = [x509.load_pem_x509_crl(block) for block in blocks]
        else:
            lists = [x509.load_der_x509_crl(pem)]
        for each in lists:
            _look_into(each)
    except UNREADABLE as exc:
        raise ValueError(f"expected a revocation list: {exc}") from exc
    return lists


def _look_into(revocations: x509.CertificateRevocationList) -> None:
    """Raise now what the library would raise when a device is judged: it parses when asked."""
    for part in ("issuer", "last_update_utc", "next_update_utc", "extensions"):
        getattr(revocations, part)
    _ = revocations.signature_hash_algorithm
    revocations.get_revoked_certificate_by_serial_number(1)


def parse_certificate(text: str, what: str) -> x509.Certificate:
    """The certificate in its canonical PEM text, or Untrusted."""
    try:
        with warnings.catch_warnings():
            # What the library only warns of, such as a negative serial number, no authority issues.
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            certificate = x509.load_pem_x509_certificate(_bytes(text))
    except (*UNREADABLE, CryptographyDeprecationWarning) as exc:
        raise Untrusted(f"{what} is not a certificate in PEM") from exc
    if pem_of(certificate) != text:
        raise Untrusted(f"{what} is not written as devices write it: 64 columns, LF")
    return certificate


def verify_chain(texts: ChainTexts, roots: Sequence[x509.Certificate] | None) -> Chain:
    """The chain, when its names, key ids and signatures lead to one of the roots.

    Without roots the equipment authority itself is trusted: it is the caller's own.
    Untrusted otherwise.  Time and revocation are `check_now`'s.
    """
    chain = Chain(
        parse_certificate(texts.key_attestation, "key_attestation"),
        parse_certificate(texts.equip_cert, "equip_cert"),
        parse_certificate(texts.equip_ca_cert, "equip_ca_cert"),
    )
    try:
        _check_links(chain, roots)
    except x509.ExtensionNotFound as exc:
        raise Untrusted(f"a certificate lacks an extension: {exc}") from exc
    except UNREADABLE as exc:
        raise Untrusted(f"a certificate cannot be read: {exc}") from exc
    return chain


def _check_links(chain: Chain, roots: Sequence[x509.Certificate] | None) -> None:
    authority, equipment = chain.authority, chain.equipment
    _check_is_authority(authority)
    if _common_name(authority.subject) != _common_name(equipment.issuer):
        raise Untrusted("equip_cert names another issuer than equip_ca_cert")
    if _key_id(authority) != _authority_key_id(equipment):
        raise Untrusted("equip_cert names another issuer's key than that of equip_ca_cert")
    if roots is not None and not any(_is_issued_by_root(authority, root) for root in roots):
        raise Untrusted("equip_ca_cert was issued by neither of the configured roots")
    if not _is_signed_by(equipment, authority):
        raise Untrusted("equip_cert was not signed by equip_ca_cert")
    verify_key(chain.attestation, equipment)


def verify_key(attestation: x509.Certificate, equipment: x509.Certificate) -> None:
    """Untrusted unless the equipment vouches for the key of the attestation."""
    try:
        if not _is_signed_by(attestation, equipment):
            raise Untrusted("key_attestation was not signed by equip_cert")
        _signing_key(attestation)
    except UNREADABLE as exc:
        raise Untrusted(f"a certificate cannot be read: {exc}") from exc


def _check_is_authority(certificate: x509.Certificate) -> None:
    extensions = certificate.extensions
    is_authority = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    may_sign = extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    if not (is_authority and may_sign):
        raise Untrusted("equip_ca_cert may not issue certificates")


def _is_issued_by_root(authority: x509.Certificate, root: x509.Certificate) -> bool:
    if _common_name(authority.issuer) != _common_name(root.subject):
        return False
    return _authority_key_id(authority) == _key_id(root) and _is_signed_by(authority, root)


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(found) != 1:
        raise Untrusted("a certificate has no common name, or several")
    value = found[0].value
    return value if isinstance(value, str) else value.decode("latin-1")


def _key_id(certificate: x509.Certificate) -> bytes:
    found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return found.value.digest


def _authority_key_id(certificate: x509.Certificate) -> bytes | None:
    found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return found.value.key_identifier


def _is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None or isinstance(algorithm, WEAK_HASHES):
        return False
    key, parameters = issuer.public_key(), certificate.signature_algorithm_parameters
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        if isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS:
            if not isinstance(parameters, padding.PKCS1v15 | padding.PSS):
                return False
            key.verify(signature, signed, parameters, algorithm)
            return True
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
            key.verify(signature, signed, parameters)
            return True
    except InvalidSignature:
        pass
    return False


def _signing_key(attestation: x509.Certificate) -> rsa.RSAPublicKey:
    key = attestation.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in RSA_BITS:
        raise Untrusted("the key in key_attestation is not RSA of 2048 bits or more")
    return key


def check_now(chain: Chain, trust: Trust, now_ms: int) -> None:
    """Untrusted when a certificate of the chain is not valid at this instant, or revoked."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    named = (
        ("key_attestation", chain.attestation),
        ("equip_cert", chain.equipment),
        ("equip_ca_cert", chain.authority),
    )
    for name, certificate in named:
        if certificate.not_valid_before_utc > now + EARLY:
            raise Untrusted(f"{name} is not valid before {certificate.not_valid_before_utc}")
        if certificate.not_valid_after_utc < now:
            raise Untrusted(f"{name} has expired at {certificate.not_valid_after_utc}")
    if trust.revocations is not None:
        _check_revocation(chain, trust.revocations, now)


def _check_revocation(
    chain: Chain, revocations: Sequence[x509.CertificateRevocationList], now: datetime
) -> None:
    """Untrusted when the equipment is revoked, or no list in force says that it is not."""
    named = [each for each in revocations if each.issuer == chain.authority.subject]
    signed = [each for each in named if _is_list_of(each, chain.authority)]
    for each in signed:
        if each.get_revoked_certificate_by_serial_number(chain.equipment.serial_number):
            raise Untrusted("equip_cert is revoked")
    ends = [each.next_update_utc for each in signed]
    if any(end is None or end >= now for end in ends):
        return
    if ends:
        newest = max(end for end in ends if end is not None)
        why = f"the revocation list of the equipment authority is out of date since {newest}"
    elif named:
        why = "the revocation list of the equipment authority was not signed by it"
    else:
        why = "there is no revocation list of the equipment authority"
    raise Untrusted(f"{why} (client_verify.equip_crl_path)")


def _is_list_of(revocations: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    key = authority.public_key()
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return False
    if isinstance(revocations.signature_hash_algorithm, WEAK_HASHES):
        return False
    return revocations.is_signature_valid(key)


def verify_signature(attestation: x509.Certificate, signature: bytes, signed: bytes) -> None:
    """Untrusted unless the key of the attestation made this signature of these bytes."""
    try:
        _signing_key(attestation).verify(signature, signed, PSS, HASH)
    except InvalidSignature as exc:
        raise Untrusted("the signature is not that of the device's key") from exc


def check_in_text(device: str, timestamp: str) -> bytes:
    """What a device signs when it checks in."""
    return _bytes(f"{device} {timestamp}")


def request_text(timestamp: str, number: int, before: bytes = b"") -> bytes:
    """What a device signs of every later request; some put keys `before` it."""
    return before + _bytes(f"{timestamp}{number}")


def time_of(timestamp: str) -> int | None:
    """The instant in ms that a timestamp names; None when it is not thirteen decimal digits."""
    return int(timestamp) if TIMESTAMP.match(timestamp) else None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
