"""A process's TLS: what is refused at the start, and what is in force afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl_cluster.errors import StartupError
from fl_cluster.security.identities import IdentityFiles
from fl_cluster.security.tls import StoreTls, StoreTlsFiles, Tls, TlsFiles

ECDSA = "ECDHE-ECDSA-AES256-GCM-SHA384"


def files_of(certificates: Any, **changes: Any) -> TlsFiles:
    """The folder's server and client as PEM files."""
    made = TlsFiles(
        server=IdentityFiles(
            "server", certificates.path("server.crt"), certificates.path("server.key")
        ),
        outgoing=IdentityFiles(
            "client", certificates.path("client.crt"), certificates.path("client.key")
        ),
        authority=certificates.path("ca.crt"),
        revocations="",
        ciphers=ECDSA,
    )
    return replace(made, **changes)


def packed(certificates: Any, name: str = "server", password: str | None = None) -> IdentityFiles:
    """The folder's certificate as PKCS#12."""
    side = "server" if name == "server" else "client"
    if password is None:
        password = Path(certificates.path(f"{name}.password")).read_text().strip()
    return IdentityFiles(side, certificates.path(f"{name}.p12"), "", password)


def refusal(files: TlsFiles) -> str:
    with pytest.raises(StartupError) as raised:
        Tls(files).load()
    return str(raised.value)


def pem(folder: Any, name: str) -> IdentityFiles:
    return IdentityFiles("server", folder.path(f"{name}.crt"), folder.path(f"{name}.key"))


def sign(
    certificates: Any,
    name: str,
    *,
    subject: str = "odd",
    key: Any = None,
    extensions: tuple[x509.ExtensionType, ...] = (),
    by: Any = None,
) -> IdentityFiles:
    """A certificate of which only what is given is in it, signed by the folder's authority."""
    authority, key = certificates.authority(), key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=100))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    made = builder.sign(by or authority.key, hashes.SHA256())
    folder = Path(certificates.folder)
    (folder / f"{name}.crt").write_bytes(made.public_bytes(Encoding.PEM))
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.key").write_bytes(text)
    (folder / f"{name}.key").chmod(0o600)
    return pem(certificates, name)


def test_pem_and_pkcs12_are_taken_alike(certificates: Any) -> None:
    Tls(files_of(certificates)).load()
    both = {"server": packed(certificates), "outgoing": packed(certificates, "client")}
    Tls(files_of(certificates, **both)).load()


def test_a_missing_file_is_named(certificates: Any) -> None:
    missing = IdentityFiles("server", "/nowhere/server.p12", "", "x")
    expected = "The file path of server_cert_path /nowhere/server.p12 is not exist."
    assert refusal(files_of(certificates, server=missing)) == expected
    missing = IdentityFiles("client", "/nowhere/client.p12", "", "x")
    expected = "The file path of client_cert_path /nowhere/client.p12 is not exist."
    assert refusal(files_of(certificates, outgoing=missing)) == expected


def test_a_password_that_is_missing_is_asked_for(certificates: Any) -> None:
    said = refusal(files_of(certificates, server=packed(certificates, password="")))
    assert said.startswith("The client password's value is empty. (ssl.server_cert_path ")
    assert "FL_CLUSTER_SERVER_PASSWORD" in said
    assert "--server_password_file" in said


def test_a_wrong_password_is_told_from_a_file_that_is_no_pkcs12(certificates: Any) -> None:
    wrong = packed(certificates, password="guessed")
    said = refusal(files_of(certificates, server=wrong))
    path = certificates.path("server.p12")
    assert said == (
        f"PKCS12_parse failed. (the password does not open ssl.server_cert_path {path})"
    )
    assert "guessed" not in said + repr(wrong)
    Path(path).write_bytes(b"not a certificate")
    assert refusal(files_of(certificates, server=wrong)) == (
        "Create PKCS12 cert failed, please check whether the certificate is correct."
        f" (ssl.server_cert_path {path} is neither PKCS#12 nor PEM)"
    )


def test_a_key_of_another_certificate_is_noticed(certificates: Any) -> None:
    mixed = replace(pem(certificates, "server"), key_path=certificates.path("client.key"))
    said = refusal(files_of(certificates, server=mixed))
    assert said.startswith(f"ssl.server_cert_path {certificates.path('server.crt')}: key and")
    assert said.endswith(f"do not belong together (the key is {certificates.path('client.key')})")


def test_a_pem_file_without_a_key_says_how_to_name_one(certificates: Any) -> None:
    bare = replace(pem(certificates, "server"), key_path="")
    Path(bare.path).chmod(0o644)
    said = refusal(files_of(certificates, server=bare))
    assert said.startswith("Read server cert file failed. (no private key can be read from ")
    assert "ssl.server_key_path" in said


def test_a_key_that_everybody_may_read_is_refused(certificates: Any) -> None:
    key = Path(certificates.path("server.key"))
    key.chmod(0o644)
    said = refusal(files_of(certificates))
    assert f"ssl.server_key_path {key} holds secrets" in said
    assert f"chmod 600 {key}" in said
    both = Path(certificates.path("both.pem"))
    both.write_bytes(Path(certificates.path("server.crt")).read_bytes() + key.read_bytes())
    both.chmod(0o644)
    said = refusal(files_of(certificates, server=IdentityFiles("server", str(both))))
    assert f"ssl.server_cert_path {both} holds secrets" in said


@pytest.mark.parametrize(
    ("days", "clause"), [((-3, -1), "has expired on"), ((1, 3), "is not valid before")]
)
def test_a_certificate_outside_its_time_is_refused(
    certificates: Any, monkeypatch: pytest.MonkeyPatch, days: tuple[int, int], clause: str
) -> None:
    # The authority is older than what it issued.
    monkeypatch.setattr("fl_cluster.security.authority.BACKDATED", timedelta(days=10), raising=True)
    (Path(certificates.folder) / "ca.key").unlink()
    certificates.run("init")
    certificates.issue("odd", days=days)
    said = refusal(files_of(certificates, server=pem(certificates, "odd")))
    assert said.startswith("Verify Cert Time failed. (ssl.server_cert_path ")
    assert clause in said
    assert ("this host's clock says" in said) == (clause == "is not valid before")


def test_a_certificate_of_another_authority_is_refused(
    certificates: Any, tmp_path: Path, make_certificates: Callable[[Path], Any]
) -> None:
    other = make_certificates(tmp_path / "other")
    said = refusal(files_of(certificates, authority=other.path("ca.crt")))
    assert said.startswith("Verify Singature failed. (ssl.server_cert_path ")
    other = type(certificates)(tmp_path / "named")
    other.run("init", "--name=Other CA")
    said = refusal(files_of(certificates, authority=other.path("ca.crt")))
    assert said.startswith("root CA cert subject cn is not equal with equip CA cert issuer cn. (")
    assert "was issued by 'fl_cluster CA'" in said
    assert said.endswith("is 'Other CA')")


def test_an_authority_that_is_missing_or_no_certificate_is_named(certificates: Any) -> None:
    said = refusal(files_of(certificates, authority="/nowhere/ca.crt"))
    assert said == "The file path of ca_cert_path /nowhere/ca.crt is not exist."
    Path(certificates.path("ca.crt")).write_text("nothing")
    said = refusal(files_of(certificates))
    assert said.startswith("Read CA cert file failed. (ssl.ca_cert_path ")


def test_who_is_no_authority_cannot_have_issued_anything(certificates: Any) -> None:
    # It has the authority's name and signs for itself, but is not marked as one.
    key = ec.generate_private_key(ec.SECP256R1())
    mine = sign(certificates, "self", subject="fl_cluster CA", key=key, by=key)
    said = refusal(files_of(certificates, server=mine, authority=certificates.path("self.crt")))
    assert said == (
        "Verify Extended Attributes failed. (the authority 'fl_cluster CA' is not marked CA:TRUE)"
    )


def test_key_ids_have_to_agree(certificates: Any) -> None:
    wrong = x509.AuthorityKeyIdentifier(b"other", None, None)
    odd = sign(certificates, "odd", extensions=(wrong,))
    said = refusal(files_of(certificates, server=odd))
    assert said.startswith("Verify Cert KeyID failed. (ssl.server_cert_path ")


def test_a_certificate_that_is_for_something_else_is_refused(certificates: Any) -> None:
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    odd = sign(certificates, "odd", extensions=(usage,))
    said = refusal(files_of(certificates, server=odd))
    assert said.startswith("Verify Extended Attributes failed. (ssl.server_cert_path ")
    assert "not meant for the server side" in said


def test_weak_keys_and_other_kinds_are_refused(certificates: Any) -> None:
    weak = sign(certificates, "weak", key=rsa.generate_private_key(65537, 2048))
    said = refusal(files_of(certificates, server=weak))
    assert said.endswith("is too weak: its RSA key has 2048 bits, at least 3072 are needed")
    other = sign(certificates, "other", key=ed25519.Ed25519PrivateKey.generate())
    assert "expected an RSA key or one on an elliptic curve" in refusal(
        files_of(certificates, server=other)
    )


def test_a_certificate_whose_inside_is_damaged_is_refused(certificates: Any) -> None:
    damaged = x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x05")
    made = sign(certificates, "odd", extensions=(damaged,))

    said = refusal(files_of(certificates, server=made))

    assert said.startswith(f"ssl.server_cert_path {made.path}: a certificate")
    assert "cannot be read" in said


def test_a_cipher_outside_the_list_is_refused(certificates: Any) -> None:
    said = refusal(files_of(certificates, ciphers=f"{ECDSA}:RC4-SHA"))
    assert said.startswith("The cipher is wrong. (ssl.cipher_list: 'RC4-SHA' is none of ")


def test_ciphers_that_do_not_fit_the_key_are_told(certificates: Any) -> None:
    tls = Tls(files_of(certificates, ciphers="ECDHE-RSA-AES256-GCM-SHA384"))
    tls.load()
    assert "add ECDHE-ECDSA-AES256-GCM-SHA384" in tls.useless_ciphers()
    tls = Tls(files_of(certificates))
    tls.load()
    assert tls.useless_ciphers() == ""


def test_a_revoked_certificate_is_not_started_with(certificates: Any) -> None:
    listed = files_of(certificates, revocations=certificates.path("ca.crl"))
    Tls(listed).load()
    certificates.run("revoke", "client")
    said = refusal(listed)
    assert said.startswith("Verify crl failed. (ssl.client_cert_path ")
    assert f"was revoked on {datetime.now(UTC):%Y-%m-%d}" in said


def test_a_list_that_is_missing_forged_or_of_another_time_is_refused(
    certificates: Any, tmp_path: Path, make_certificates: Callable[[Path], Any]
) -> None:
    assert refusal(files_of(certificates, revocations="/nowhere/ca.crl")).startswith(
        "Verify crl failed. (ssl.crl_path /nowhere/ca.crl: No such file"
    )
    forged = make_certificates(tmp_path / "other").path("ca.crl")
    said = refusal(files_of(certificates, revocations=forged))
    assert said.startswith("Verify crl failed. (ssl.crl_path ")
    assert "was not signed by an authority of" in said
    authority, now = certificates.authority(), datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    for start, end, clause in ((1, 2, "is not valid before"), (-2, -1, "is out of date since")):
        made = (
            builder.last_update(now + timedelta(days=start))
            .next_update(now + timedelta(days=end))
            .sign(authority.key, hashes.SHA256())
        )
        (tmp_path / "odd.crl").write_bytes(made.public_bytes(Encoding.PEM))
        said = refusal(files_of(certificates, revocations=str(tmp_path / "odd.crl")))
        assert said.startswith("check crl time failed (ssl.crl_path ")
        assert clause in said


def test_what_ends_soon_is_told_with_its_file_and_day(certificates: Any) -> None:
    now = datetime.now(UTC)
    certificates.issue("short", hosts=("localhost",), days=(0, 20))
    tls = Tls(files_of(certificates, server=pem(certificates, "short")))
    tls.load()
    assert tls.warnings(7) == []
    [said] = tls.warnings(30)
    path = certificates.path("short.crt")
    assert said.startswith(f"ssl.server_cert_path {path} expires on")
    assert f"{now + timedelta(days=20):%Y-%m-%d}" in said
    later = Tls(tls.files, lambda: now)
    later.load()
    later._now = lambda: now + timedelta(days=21)
    assert [each for each in later.warnings(7) if "has expired" in each]


@asynccontextmanager
async def echoing(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port that answers what it hears, by TLS."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # it refused, or was refused
            while heard := await reader.read(100):
                writer.write(heard)
        await end(writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def say(port: int, context: ssl.SSLContext, *, stays: bool = False) -> Any:
    """A connection on which one word was answered, and the other end's serial number."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(b"word")
        assert await reader.readexactly(4) == b"word"
    except BaseException:
        await end(writer)
        raise
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    serial = x509.load_der_x509_certificate(shown).serial_number
    if stays:
        return reader, writer, serial
    await end(writer)
    return serial


async def test_a_renewed_certificate_serves_new_connections_and_keeps_the_old(
    certificates: Any,
) -> None:
    tls = Tls(files_of(certificates))
    tls.load()
    device = ssl.create_default_context(cafile=certificates.path("ca.crt"))
    async with echoing(tls.public_server()) as port:
        reader, writer, before = await say(port, device, stays=True)
        assert not tls.reload()
        certificates.run("renew", "server")
        assert tls.reload()
        assert await say(port, device) != before
        writer.write(b"still")
        assert await reader.readexactly(5) == b"still"
        await end(writer)


def damage(path: str) -> None:
    Path(path).write_text("-----BEGIN CERTIFICATE-----\nhalf")


async def test_a_file_that_becomes_unusable_changes_nothing(
    certificates: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tls = Tls(files_of(certificates))
    tls.load()
    device = ssl.create_default_context(cafile=certificates.path("ca.crt"))
    async with echoing(tls.public_server()) as port:
        before = await say(port, device)
        damage(certificates.path("server.crt"))
        assert not tls.reload()
        assert "the certificates read before stay in force: Read server cert" in caplog.text
        assert await say(port, device) == before


def test_a_key_that_is_opened_to_all_while_it_is_in_use_is_told(
    certificates: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tls = Tls(files_of(certificates))
    tls.load()
    key = certificates.path("server.key")
    Path(key).chmod(0o644)
    assert not tls.reload()
    assert f"ssl.server_key_path {key} holds secrets and every user" in caplog.text
    assert f"(mode 0644): chmod 600 {key}" in caplog.text
    caplog.clear()
    assert not tls.reload()
    assert not caplog.records
    Path(key).chmod(0o600)
    assert tls.reload()


async def test_a_certificate_that_is_revoked_while_the_server_runs_is_refused(
    certificates: Any,
) -> None:
    tls = Tls(files_of(certificates, revocations=certificates.path("ca.crl")))
    tls.load()
    outgoing = tls.outgoing()
    async with echoing(tls.mutual_server()) as port:
        await say(port, outgoing)
        certificates.run("issue", "spare")
        certificates.run("revoke", "client")
        # Its own certificate is the revoked one: this process could not start like this.
        tls.files = replace(tls.files, outgoing=None)
        assert tls.reload()
        with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
            await say(port, outgoing)


async def test_nobody_without_a_certificate_gets_to_the_cluster_side(certificates: Any) -> None:
    tls = Tls(files_of(certificates))
    tls.load()
    device = ssl.create_default_context(cafile=certificates.path("ca.crt"))
    async with echoing(tls.mutual_server()) as port:
        with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
            await say(port, device)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_devices_may_speak_either_version(certificates: Any, version: ssl.TLSVersion) -> None:
    tls = Tls(files_of(certificates))
    tls.load()
    device = ssl.create_default_context(cafile=certificates.path("ca.crt"))
    device.minimum_version = device.maximum_version = version
    async with echoing(tls.public_server()) as port:
        await say(port, device)


async def test_intermediate_certificates_are_sent(certificates: Any) -> None:
    from fl_cluster.security import authority as made

    # The folder's authority allows none below it, so one that does is made here.
    now = datetime.now(UTC)
    key, leaf_key = made.new_key(made.KeyKind.EC), made.new_key(made.KeyKind.EC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Root")])
    top_key = made.new_key(made.KeyKind.EC)
    top = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(top_key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(top_key, hashes.SHA256())
    )
    between = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Between")]))
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(2)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(top_key, hashes.SHA256())
    )
    leaf = made.Authority(key, between).issue(
        "leaf", ["127.0.0.1"], leaf_key, made.Validity.of_days(5, now)
    )
    folder = Path(certificates.folder)
    (folder / "leaf.crt").write_bytes(
        leaf.public_bytes(Encoding.PEM) + between.public_bytes(Encoding.PEM)
    )
    (folder / "leaf.key").write_bytes(made.key_pem(leaf_key))
    (folder / "leaf.key").chmod(0o600)
    (folder / "root.crt").write_bytes(top.public_bytes(Encoding.PEM))
    roots = certificates.path("root.crt")
    tls = Tls(
        files_of(certificates, server=pem(certificates, "leaf"), outgoing=None, authority=roots)
    )
    tls.load()
    async with echoing(tls.public_server()) as port:
        await say(port, ssl.create_default_context(cafile=roots))


def test_what_redis_is_known_by_is_read_again_when_it_changes(certificates: Any) -> None:
    store = StoreTls(StoreTlsFiles(authority=certificates.path("ca.crt")))
    first = store.context()
    assert store.context() is first
    text = Path(certificates.path("ca.crt")).read_text()
    Path(certificates.path("ca.crt")).write_text(text + "\n")
    assert store.context() is not first
    Path(certificates.path("ca.crt")).write_text("nothing")
    assert store.context() is not first
    with pytest.raises(StartupError, match=r"distributed_cache.cacert_filename .*: not a PEM file"):
        StoreTls(store.files).context()


def test_redis_is_shown_a_pair_that_belongs_together(certificates: Any) -> None:
    mixed = StoreTlsFiles(
        certificate=certificates.path("client.crt"), key=certificates.path("server.key")
    )
    with pytest.raises(StartupError, match="key and certificate do not belong together"):
        StoreTls(mixed).context()


@pytest.mark.parametrize("is_in_one_file", [False, True])
def test_a_key_shown_to_redis_that_everybody_may_read_is_warned_of_with_its_file(
    certificates: Any, caplog: pytest.LogCaptureFixture, is_in_one_file: bool
) -> None:
    both = Path(certificates.path("both.pem"))
    names = ("client.crt", "client.key")
    both.write_text("".join(Path(certificates.path(name)).read_text() for name in names))
    both.chmod(0o600)
    if is_in_one_file:
        setting, key, files = "cert_filename", both, StoreTlsFiles(certificate=str(both))
    else:
        setting, key = "private_key_filename", Path(certificates.path("client.key"))
        files = StoreTlsFiles(certificate=certificates.path("client.crt"), key=str(key))
    store = StoreTls(files)
    first = store.context()
    assert not caplog.records

    key.chmod(0o644)
    assert store.context() is not first
    store.context()
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.message == (
        f"distributed_cache.{setting} {key} holds secrets and every user of this host may read or"
        f" write it (mode 0644): chmod 600 {key}"
    )


def test_a_certificate_alone_that_is_shown_to_redis_may_be_read_by_all(
    certificates: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pair = StoreTlsFiles(
        certificate=certificates.path("client.crt"), key=certificates.path("client.key")
    )
    Path(pair.certificate).chmod(0o644)
    StoreTls(pair).context()
    assert not caplog.records
