"""What a device signs with, and how it is read from files."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fl_cluster.errors import CallerProtocolError
from fl_cluster.sdk import DeviceIdentity

SALT_OF_32 = padding.PSS(padding.MGF1(hashes.SHA256()), 32)


@pytest.fixture(scope="module")
def chain(device_authority):
    return device_authority.device("phone")


def test_the_id_is_the_digest_of_the_equipment_certificate(chain, pki_vectors):
    published = [pki_vectors[n] for n in ("key_attestation", "equip_cert", "equip_ca_cert")]

    assert DeviceIdentity(chain.key, published).device_id == pki_vectors["fl_id"]
    digest = hashlib.sha256(chain.pem[1].encode()).hexdigest()
    assert DeviceIdentity(chain.key, chain.pem).device_id == digest


def test_a_check_in_and_later_requests_are_signed_as_published_devices_sign(chain):
    identity, key = DeviceIdentity(chain.key, chain.pem), chain.key.public_key()

    fields = identity.check_in_fields("1795317377458")
    signature = identity.sign_request("1795317377458", 7, b"keys")

    signed = f"{identity.device_id} 1795317377458".encode()
    key.verify(fields.pop("sign_data"), signed, SALT_OF_32, hashes.SHA256())
    key.verify(signature, b"keys17953173774587", SALT_OF_32, hashes.SHA256())
    names = ["key_attestation", "equip_cert", "equip_ca_cert", "root_cert"]
    assert fields == dict(zip(names, chain.pem, strict=True))


def test_an_identity_is_read_from_one_file_of_certificates_or_several(chain, tmp_path):
    key, together = chain.write(tmp_path, "phone")
    apart = [tmp_path / f"{n}.pem" for n in range(3)]
    for path, text in zip(apart, chain.pem[:3], strict=True):
        path.write_text(text.replace("\n", "\r\n"))

    whole, parts = DeviceIdentity.from_files(key, together), DeviceIdentity.from_files(key, apart)

    assert whole.device_id == parts.device_id
    assert list(whole.chain) == chain.pem
    assert parts.check_in_fields("1")["root_cert"] is None


def test_a_key_may_have_a_password(chain, tmp_path):
    _, certificates = chain.write(tmp_path, "phone")
    locked = tmp_path / "locked.key"
    locked.touch(mode=0o600)
    locked.write_bytes(
        chain.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    )

    assert DeviceIdentity.from_files(locked, certificates, b"secret").device_id
    for password in (None, b"wrong"):
        with pytest.raises(CallerProtocolError, match=r"locked\.key: expected a private key"):
            DeviceIdentity.from_files(locked, certificates, password)


def test_what_cannot_be_used_is_named(chain, tmp_path):
    key, certificates = chain.write(tmp_path, "phone")
    (tmp_path / "junk").write_text("junk")
    curve = tmp_path / "curve.key"
    curve.touch(mode=0o600)
    curve.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    short = tmp_path / "short.pem"
    short.write_text(chain.pem[0])

    for files, complaint in (
        ((tmp_path / "absent", certificates), "absent: No such file"),
        ((key, tmp_path / "absent"), "absent: No such file"),
        ((tmp_path / "junk", certificates), "junk: expected a private key"),
        ((key, tmp_path / "junk"), "junk: expected certificates"),
        ((curve, certificates), "expected an RSA key"),
        ((key, short), "found 1 certificates"),
    ):
        with pytest.raises(CallerProtocolError, match=complaint):
            DeviceIdentity.from_files(*files)


def test_a_key_that_everybody_may_read_is_refused(chain, tmp_path):
    key, certificates = chain.write(tmp_path, "phone")
    key.chmod(0o644)

    with pytest.raises(CallerProtocolError, match="every user may read this key: chmod 600"):
        DeviceIdentity.from_files(key, certificates)


def test_an_identity_shows_no_key(chain):
    assert "RSA" not in repr(DeviceIdentity(chain.key, chain.pem))
