"""What a process shows to its peers, a key with its certificates, read from PKCS#12 or PEM.

Everything that could later make a handshake fail for our own fault is found here, in one
sentence that begins with the published server's words and names the file.
Not here: whom we trust (`authorities`), and the contexts made of both (`tls`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

from fl_cluster.errors import StartupError
from fl_cluster.security.attestation import UNREADABLE
from fl_cluster.security.watched_files import read_whole, refuse_when_readable_by_all

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

RSA_BITS = 3072
CURVE_BITS = 256
"""Least sizes of keys: OpenSSL's security level 3, as in the published server."""

PEM = b"-----BEGIN"
PRIVATE = b"PRIVATE KEY-----"
NO_PASSWORD = "The client password's value is empty."  # noqa: S105 - a sentence
NOT_PKCS12 = "Create PKCS12 cert failed, please check whether the certificate is correct."
WRONG_PASSWORD = "PKCS12_parse failed."  # noqa: S105 - a sentence


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """Where one identity is: PKCS#12, or PEM certificates with the key in the same or own file."""

    name: str
    """`server` or `client`: the side of a connection it is for, as keys and sentences call it."""
    path: str
    key_path: str = ""
    password: str = field(default="", repr=False)

    @property
    def setting(self) -> str:
        """The configuration key that names the file."""
        return f"{self.name}_cert_path"

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file it is read from."""
        return (self.path, self.key_path) if self.key_path else (self.path,)

    def __str__(self) -> str:
        return f"ssl.{self.setting} {self.path}"


@dataclass(frozen=True, slots=True)
class Identity:
    """A key, its certificate, and the certificates between that and the authority."""

    files: IdentityFiles
    key: Key = field(repr=False)
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]

    @property
    def chain_pem(self) -> bytes:
        """What is sent in a handshake."""
        chain = (self.certificate, *self.intermediates)
        return b"".join(each.public_bytes(Encoding.PEM) for each in chain)

    def key_pem(self, password: bytes) -> bytes:
        """The key, encrypted."""
        return self.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
        )


def read_identity(files: IdentityFiles) -> Identity:
    """The identity in `files`; StartupError says what is wrong with which of them."""
    if not Path(files.path).exists():
        raise StartupError(f"The file path of {files.setting} {files.path} is not exist.")
    data = _read(files.path, files)
    key, certificates = _from_pem(files, data) if PEM in data else _from_pkcs12(files, data)
    key = _usable(files, key)
    try:
        mine = [each for each in certificates if _belongs(each, key)]
    except UNREADABLE as exc:
        raise StartupError(f"{files}: a certificate in it cannot be read: {exc}") from exc
    if not mine:
        raise StartupError(
            f"{files}: key and certificate do not belong together"
            + (f" (the key is {files.key_path})" if files.key_path else "")
        )
    # The authority itself is not sent: whoever does not have it would not trust it either.
    rest = tuple(
        each for each in certificates if each is not mine[0] and each.issuer != each.subject
    )
    return Identity(files, key, mine[0], rest)


def _read(path: str, files: IdentityFiles) -> bytes:
    try:
        return read_whole(path, f"ssl.{files.setting}")
    except StartupError as exc:
        raise StartupError(f"Read {files.name} cert file failed. ({exc})") from exc


def _from_pkcs12(files: IdentityFiles, data: bytes) -> tuple[object, list[x509.Certificate]]:
    if not files.password:
        raise StartupError(
            f"{NO_PASSWORD} ({files} needs one: set FL_CLUSTER_{files.name.upper()}_PASSWORD or"
            f" give --{files.name}_password_file)"
        )
    try:
        found = pkcs12.load_pkcs12(data, files.password.encode())
    except UnsupportedAlgorithm as exc:
        raise StartupError(
            f"{NOT_PKCS12} ({files} is encrypted in a way that is no longer supported: {exc})"
        ) from exc
    except ValueError as exc:
        if "password" in str(exc):
            raise StartupError(f"{WRONG_PASSWORD} (the password does not open {files})") from exc
        raise StartupError(f"{NOT_PKCS12} ({files} is neither PKCS#12 nor PEM)") from exc
    except x509.InvalidVersion as exc:
        raise StartupError(f"{NOT_PKCS12} ({files}: {exc})") from exc
    if found.key is None or found.cert is None:
        missing = "a key" if found.key is None else "the certificate of its key"
        raise StartupError(f"{NOT_PKCS12} ({files} holds everything but {missing})")
    more = [each.certificate for each in found.additional_certs]
    return found.key, [found.cert.certificate, *more]


def _from_pem(files: IdentityFiles, data: bytes) -> tuple[object, list[x509.Certificate]]:
    try:
        certificates = list(x509.load_pem_x509_certificates(data))
    except (ValueError, x509.InvalidVersion) as exc:
        raise StartupError(
            f"Read {files.name} cert file failed. ({files}: no certificate in it can be read)"
        ) from exc
    if not files.key_path:
        # A certificate without its key may be read by all.
        if PRIVATE in data:
            refuse_when_readable_by_all(files.path, f"ssl.{files.setting}")
        return _pem_key(files, files.path, data), certificates
    refuse_when_readable_by_all(files.key_path, f"ssl.{files.name}_key_path")
    return _pem_key(files, files.key_path, _read(files.key_path, files)), certificates


def _pem_key(files: IdentityFiles, path: str, data: bytes) -> object:
    password = files.password.encode() or None
    try:
        return load_pem_private_key(data, password)
    except TypeError:
        # The password that was given is for another file, or one is needed and none was given.
        if password is None:
            raise StartupError(
                f"{NO_PASSWORD} ({path} is encrypted: set FL_CLUSTER_{files.name.upper()}_PASSWORD)"
            ) from None
        return load_pem_private_key(data, None)
    except (ValueError, UnsupportedAlgorithm) as exc:
        if password is not None and b"ENCRYPTED" in data:
            raise StartupError(f"{WRONG_PASSWORD} (the password does not open {path})") from exc
        hint = "" if files.key_path else f"; name its file as ssl.{files.name}_key_path"
        raise StartupError(
            f"Read {files.name} cert file failed. (no private key can be read from {path}{hint})"
        ) from exc


def _usable(files: IdentityFiles, key: object) -> Key:
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        return key
    raise StartupError(
        f"{files}: expected an RSA key or one on an elliptic curve, found {type(key).__name__}"
    )


def _belongs(certificate: x509.Certificate, key: Key) -> bool:
    public = certificate.public_key()
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public.public_bytes(*form) == key.public_key().public_bytes(*form)


def weakness(certificate: x509.Certificate) -> str:
    """Why OpenSSL's security level 3 would not take the certificate; empty when it does."""
    public = certificate.public_key()
    if isinstance(public, rsa.RSAPublicKey) and public.key_size < RSA_BITS:
        return f"its RSA key has {public.key_size} bits, at least {RSA_BITS} are needed"
    if isinstance(public, ec.EllipticCurvePublicKey) and public.key_size < CURVE_BITS:
        return f"its curve has {public.key_size} bits, at least {CURVE_BITS} are needed"
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return f"its key is neither RSA nor on an elliptic curve but {type(public).__name__}"
    digest = certificate.signature_hash_algorithm
    if certificate.issuer != certificate.subject and digest is not None and digest.digest_size < 32:
        return f"it is signed over {digest.name}, SHA-256 or more is needed"
    return ""


def lacks_usage(certificate: x509.Certificate, name: str) -> bool:
    """Whether the certificate says what it is for, and the `name` side of TLS is not in it."""
    try:
        allowed = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    wanted = Usage.SERVER_AUTH if name == "server" else Usage.CLIENT_AUTH
    return wanted not in allowed and Usage.ANY_EXTENDED_KEY_USAGE not in allowed


def validity_problem(certificate: x509.Certificate, now: datetime) -> str:
    """A clause when the certificate is not valid at `now`; empty when it is."""
    if now < certificate.not_valid_before_utc:
        return (
            f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, and this"
            f" host's clock says {now:%Y-%m-%d %H:%M} UTC"
        )
    if now > certificate.not_valid_after_utc:
        return f"has expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return ""


def common_name(name: x509.Name) -> str:
    """The CN, else the whole name."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def names_of(certificate: x509.Certificate) -> list[str]:
    """Host names and addresses that the certificate stands for; its CN is none of them."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *found.get_values_for_type(x509.DNSName),
        *map(str, found.get_values_for_type(x509.IPAddress)),
    ]


def stands_for(names: Sequence[str], host: str) -> bool:
    """Whether one of the certificate's `names` is `host`, as devices compare them.

    A star stands for the whole first label, and for nothing in an address.
    """
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:
        wanted = host.lower().rstrip(".")
        _, _, parent = wanted.partition(".")
        return any(name.lower() in {wanted, f"*.{parent}"} for name in names)
    return address in names
