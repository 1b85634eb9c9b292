"""Invariant: any bytes prove something or are Untrusted; any file is usable or a StartupError.

Nothing else ever comes out, and soon.  The first byte of an input says what the others are; see
`Kind`.  What is FORGED is the inside of a certificate or list that an authority of ours signs
here, because chance does not find signatures, but whoever has a certificate can make them: a
device signs whatever attestation it likes.  `engine.campaign` has the command line.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID
from engine.campaign import main
from engine.target import ROOT, Broken, Target

from fl_cluster.errors import StartupError
from fl_cluster.security.attestation import (
    ChainTexts,
    Trust,
    Untrusted,
    check_now,
    device_id_of,
    pem_of,
    read_roots,
    verify_chain,
    verify_signature,
)
from fl_cluster.security.identities import IdentityFiles, names_of
from fl_cluster.security.tls import Tls, TlsFiles
from fl_cluster.security.trust_files import TrustFiles

VECTORS = json.loads((ROOT / "tests" / "data" / "pki" / "vectors.json").read_text())
NOW = datetime(2026, 11, 25, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
BEGIN, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2045, 1, 1, tzinfo=UTC)
PASSWORD = "fuzz"
ECDSA = "ECDHE-ECDSA-AES256-GCM-SHA384"
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
LENGTH_BYTES = 2
SIGNED = b"what the device signed"
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-certificates-"))


class Kind(IntEnum):
    """What an input is."""

    CHAIN = 0
    """Three certificates, DER, each behind its length, and a signature."""
    TEXTS = 1
    """Three texts with zero bytes between them."""
    FORGED_ATTESTATION = 2
    FORGED_EQUIPMENT = 3
    ROOTS = 4
    LISTS = 5
    FORGED_LIST = 6
    IDENTITY = 7
    """A whole PEM or PKCS#12 file."""
    FORGED_IDENTITY = 8


def fixed_key(number: int) -> ec.EllipticCurvePrivateKey:
    """Always the same key, so that kept inputs stay what they are."""
    return ec.derive_private_key(2**200 + number, ec.SECP256R1())


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Issuer:
    """A key and its certificate, by which others are issued."""

    def __init__(self, title: str, number: int, by: Issuer | None = None, key: Any = None) -> None:
        self.key = fixed_key(number)
        by = by or self
        self.subject = name(title)
        public = key or self.key.public_key()
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(by.subject)
            .public_key(public)
            .serial_number(1000 + number)
            .not_valid_before(BEGIN)
            .not_valid_after(END)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(*([True] * 6), True, False, False),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(by.key, hashes.SHA256())
        )

    def sign(self, inside: bytes) -> bytes:
        """The certificate or list, DER, that has this inside."""
        signature = b"\0" + self.key.sign(inside, ec.ECDSA(hashes.SHA256()))
        return tlv(0x30, inside + ECDSA_SHA256 + tlv(0x03, signature))

    def revocations(self) -> x509.CertificateRevocationList:
        entry = x509.RevokedCertificateBuilder().serial_number(77).revocation_date(BEGIN).build()
        return (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.subject)
            .last_update(BEGIN)
            .next_update(END)
            .add_revoked_certificate(entry)
            .sign(self.key, hashes.SHA256())
        )


def tlv(tag: int, content: bytes) -> bytes:
    """One element of DER."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    width = (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 + width]) + size.to_bytes(width, "big") + content


def pem(der: bytes, label: str = "CERTIFICATE") -> str:
    """The canonical text of anything in DER."""
    body = base64.b64encode(der).decode()
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


PUBLISHED = ChainTexts(
    *(VECTORS[key] for key in ("key_attestation", "equip_cert", "equip_ca_cert"))
)
DEVICE_KEY = x509.load_pem_x509_certificate(PUBLISHED.key_attestation.encode()).public_key()
TOP = Issuer("root", 1)
AUTHORITY = Issuer("authority", 2, TOP)
EQUIPMENT = Issuer("phone", 3, AUTHORITY)
ATTESTATION = Issuer("service", 4, EQUIPMENT, DEVICE_KEY)
SERVER = Issuer("server", 5, TOP)
ROOTS = [TOP.certificate, *read_roots(VECTORS["root_cert"].encode())]
CHAIN = ChainTexts(*(pem_of(each.certificate) for each in (ATTESTATION, EQUIPMENT, AUTHORITY)))
LIST = AUTHORITY.revocations()


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def key_pem(issuer: Issuer) -> bytes:
    return issuer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def seeds() -> Iterator[bytes]:
    """One or several honest inputs of each kind."""
    signature = bytes.fromhex(VECTORS["sign_data"])
    for texts in (PUBLISHED, CHAIN):
        parts = [base64.b64decode("".join(text.splitlines()[1:-1])) for text in _three(texts)]
        framed = b"".join(len(part).to_bytes(LENGTH_BYTES, "big") + part for part in parts)
        yield bytes([Kind.CHAIN]) + framed + signature
        yield bytes([Kind.TEXTS]) + b"\0".join(text.encode() for text in _three(texts))
    for issuer, kind in (
        (ATTESTATION, Kind.FORGED_ATTESTATION),
        (EQUIPMENT, Kind.FORGED_EQUIPMENT),
        (SERVER, Kind.FORGED_IDENTITY),
    ):
        yield bytes([kind]) + issuer.certificate.tbs_certificate_bytes
    for content in (der(TOP.certificate), pem_of(TOP.certificate).encode()):
        yield bytes([Kind.ROOTS]) + content
    for encoding in (Encoding.DER, Encoding.PEM):
        yield bytes([Kind.LISTS]) + LIST.public_bytes(encoding)
    yield bytes([Kind.FORGED_LIST]) + LIST.tbs_certlist_bytes
    yield bytes([Kind.IDENTITY]) + pem_of(SERVER.certificate).encode() + key_pem(SERVER)
    for encryption in (NoEncryption(), BestAvailableEncryption(PASSWORD.encode())):
        yield bytes([Kind.IDENTITY]) + pkcs12.serialize_key_and_certificates(
            b"fuzz", SERVER.key, SERVER.certificate, [AUTHORITY.certificate], encryption
        )


def _three(texts: ChainTexts) -> tuple[str, str, str]:
    return texts.key_attestation, texts.equip_cert, texts.equip_ca_cert


def prove(texts: ChainTexts, signature: bytes) -> None:
    """As a server judges a check-in, with a list and without."""
    device_id_of(texts.equip_cert)
    try:
        chain = verify_chain(texts, ROOTS)
        for revocations in (None, (LIST,)):
            check_now(chain, Trust(ROOTS, revocations), NOW_MS)
        verify_signature(chain.attestation, signature, SIGNED)
    except Untrusted as exc:
        if not str(exc):
            raise Broken("untrusted without a reason") from exc


def check_chain(content: bytes) -> None:
    parts = []
    for _ in range(3):
        size = int.from_bytes(content[:LENGTH_BYTES], "big")
        parts.append(pem(content[LENGTH_BYTES : LENGTH_BYTES + size]))
        content = content[LENGTH_BYTES + size :]
    prove(ChainTexts(*parts), content)


def check_texts(content: bytes) -> None:
    texts = [part.decode("utf-8", "surrogateescape") for part in content.split(b"\0", 2)]
    prove(ChainTexts(*texts, *[""] * (3 - len(texts))), b"")


def check_attestation(inside: bytes) -> None:
    forged = pem(EQUIPMENT.sign(inside))
    prove(ChainTexts(forged, CHAIN.equip_cert, CHAIN.equip_ca_cert), inside)


def check_equipment(inside: bytes) -> None:
    forged = pem(AUTHORITY.sign(inside))
    prove(ChainTexts(CHAIN.key_attestation, forged, CHAIN.equip_ca_cert), b"")


def check_roots(content: bytes) -> None:
    path = _write("ca", content)
    _refused(path, lambda: TrustFiles([("root", path)], ("list", "")).load())
    good = _write("server.pem", pem_of(SERVER.certificate).encode() + key_pem(SERVER))
    _refused(FOLDER, lambda: _load_tls(good, authority=path))


def check_lists(content: bytes) -> None:
    root, path = _write("ca", pem_of(TOP.certificate).encode()), _write("list", content)
    trusted = TrustFiles([("root", root)], ("list", path))
    if _refused(path, trusted.load):
        trusted.alarms(NOW, END - NOW)
        with contextlib.suppress(Untrusted):
            check_now(verify_chain(CHAIN, ROOTS), trusted.trust, NOW_MS)
    good = _write("server.pem", pem_of(SERVER.certificate).encode() + key_pem(SERVER))
    _refused(FOLDER, lambda: _load_tls(good, revocations=path))


def check_list(inside: bytes) -> None:
    check_lists(AUTHORITY.sign(inside))
    check_lists(pem(TOP.sign(inside), "X509 CRL").encode())


def check_identity(content: bytes) -> None:
    path = _write("server.pem", content)
    _refused(FOLDER, lambda: _load_tls(path))


def check_forged_identity(inside: bytes) -> None:
    check_identity(pem(TOP.sign(inside)).encode() + key_pem(SERVER))


def _load_tls(path: str, *, authority: str = "", revocations: str = "") -> None:
    identity = IdentityFiles("server", path, "", PASSWORD)
    authority = authority or _write("ca", pem_of(TOP.certificate).encode())
    tls = Tls(TlsFiles(identity, None, authority, revocations, ECDSA), now=lambda: NOW)
    tls.load()
    tls.warnings(90)
    tls.useless_ciphers()
    for each in tls.identities:
        names_of(each.certificate)


def _write(title: str, content: bytes) -> str:
    path = FOLDER / title
    path.write_bytes(content)
    path.chmod(0o600)
    return str(path)


def _refused(path: Path | str, load: Callable[[], None]) -> bool:
    """Whether everything was taken; a refusal names a file, or an authority by its name."""
    try:
        load()
    except StartupError as exc:
        if str(path) not in str(exc) and "the authority '" not in str(exc):
            raise Broken(f"names nothing: {exc}") from exc
        return False
    return True


CHECKS: dict[int, Callable[[bytes], None]] = {
    Kind.CHAIN: check_chain,
    Kind.TEXTS: check_texts,
    Kind.FORGED_ATTESTATION: check_attestation,
    Kind.FORGED_EQUIPMENT: check_equipment,
    Kind.ROOTS: check_roots,
    Kind.LISTS: check_lists,
    Kind.FORGED_LIST: check_list,
    Kind.IDENTITY: check_identity,
    Kind.FORGED_IDENTITY: check_forged_identity,
}


def check(data: bytes) -> None:
    CHECKS[data[0] % len(Kind) if data else Kind.CHAIN](data[1:])


OIDS = ("0603551d13", "0603551d0f", "0603551d0e", "0603551d23", "0603551d11", "0603551d25")
TARGET = Target(
    name="certificates",
    check=check,
    seeds=seeds,
    dictionary=(
        *map(bytes.fromhex, OIDS),
        ECDSA_SHA256,
        bytes.fromhex("300d06092a864886f70d01010b0500"),
        bytes.fromhex("300506032b6570"),
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN X509 CRL-----\n",
        b"-----BEGIN PRIVATE KEY-----\n",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
        b"\x17\x0d500101000000Z",
        b"\x18\x0f99991231235959Z",
    ),
)

if __name__ == "__main__":
    sys.exit(main(TARGET))
