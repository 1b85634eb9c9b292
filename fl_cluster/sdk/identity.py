"""A device's certificates and key: who it is to servers that verify devices.

    root -> equipment authority -> equipment certificate -> key attestation (holds the key)

The device's id is the SHA-256 of its equipment certificate's PEM text; its requests are signed
with the key of the attestation, as RSASSA-PSS with SHA-256 and a salt of 32 bytes.
The `cryptography` package is imported only when an identity is made.
"""

from __future__ import annotations

import base64
import hashlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl_cluster.errors import CallerProtocolError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate

LINE = 64
SALT_BYTES = 32


@dataclass(frozen=True)
class DeviceIdentity:
    """A key, and its chain as PEM texts: attestation, equipment, authority, and maybe the root."""

    key: RSAPrivateKey = field(repr=False)
    chain: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.chain) not in (3, 4):
            raise CallerProtocolError(
                "the chain of a device: expected its key attestation, its equipment certificate,"
                f" their authority and maybe the root, found {len(self.chain)} certificates"
            )

    @classmethod
    def from_files(
        cls,
        key: str | Path,
        chain: str | Path | Sequence[str | Path],
        password: bytes | None = None,
    ) -> DeviceIdentity:
        """The identity in a PEM key file and in one or several PEM files of certificates, in order.

        CallerProtocolError says what is wrong with which file.
        """
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            mode = stat.S_IMODE(Path(key).stat().st_mode)
            loaded = load_pem_private_key(Path(key).read_bytes(), password)
        except OSError as exc:
            raise CallerProtocolError(f"{key}: {exc.strerror or exc}") from exc
        except (ValueError, TypeError) as exc:
            raise CallerProtocolError(f"{key}: expected a private key in PEM: {exc}") from exc
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise CallerProtocolError(f"{key}: every user may read this key: chmod 600 {key}")
        if not isinstance(loaded, RSAPrivateKey):
            raise CallerProtocolError(f"{key}: expected an RSA key")
        paths = [chain] if isinstance(chain, str | Path) else list(chain)
        return cls(loaded, [text for path in paths for text in _certificates(path)])

    @cached_property
    def device_id(self) -> str:
        """Who this is to servers that verify devices."""
        return hashlib.sha256(self.chain[1].encode()).hexdigest()

    def check_in_fields(self, timestamp: str) -> dict[str, Any]:
        """What a check-in says beside the rest, to prove who sends it."""
        return {
            "sign_data": self.sign(f"{self.device_id} {timestamp}".encode()),
            "key_attestation": self.chain[0],
            "equip_cert": self.chain[1],
            "equip_ca_cert": self.chain[2],
            "root_cert": self.chain[3] if len(self.chain) > 3 else None,
        }

    def sign_request(self, timestamp: str, number: int, before: bytes = b"") -> bytes:
        """The signature of a later request in the round; some sign keys `before` the time."""
        return self.sign(before + f"{timestamp}{number}".encode())

    def sign(self, text: bytes) -> bytes:
        """The signature of these bytes, whatever they are."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), SALT_BYTES)
        return self.key.sign(text, scheme, hashes.SHA256())


def _certificates(path: str | Path) -> list[str]:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return [_pem(each) for each in load_pem_x509_certificates(Path(path).read_bytes())]
    except OSError as exc:
        raise CallerProtocolError(f"{path}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise CallerProtocolError(f"{path}: expected certificates in PEM: {exc}") from exc


def _pem(certificate: Certificate) -> str:
    """The text that is sent and hashed: base64 in 64 columns, line feeds, one at the end."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return pem_text(base64.b64encode(certificate.public_bytes(Encoding.DER)).decode())


def pem_text(body: str) -> str:
    """The same from the base64 of a certificate without line breaks."""
    lines = [body[start : start + LINE] for start in range(0, len(body), LINE)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def one_line(pem: str) -> str:
    """The inverse of `pem_text`."""
    return "".join(pem.split("\n")[1:-2])
