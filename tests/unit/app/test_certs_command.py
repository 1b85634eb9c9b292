"""`fl-cluster certs`: what it makes, whom it is for, and what it will not do."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from fl_cluster.app.cli import main
from fl_cluster.errors import StartupError
from fl_cluster.security.identities import names_of


def read(certificates: Any, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(certificates.path(f"{name}.crt")).read_bytes())


def revoked(certificates: Any) -> set[int]:
    data = Path(certificates.path("ca.crl")).read_bytes()
    return {entry.serial_number for entry in x509.load_pem_x509_crl(data)}


def test_one_command_makes_all_that_a_cluster_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["certs", "init", "--host", "10.0.0.7", "--host", "fl.example.org"]) == 0
    said = capsys.readouterr().out
    assert 'server_cert_path: "certs/server.crt"' in said
    assert "enable_ssl: true" in said
    names = {path.name for path in (tmp_path / "certs").iterdir()}
    kinds = ("crt", "key", "p12", "password")
    pair = {f"{name}.{kind}" for name in ("server", "client") for kind in kinds}
    assert names == {"ca.crt", "ca.key", "ca.crl"} | pair


def test_secrets_are_for_their_owner_only(certificates: Any) -> None:
    secret = {".key", ".p12", ".password"}
    for path in Path(certificates.folder).iterdir():
        expected = 0o600 if path.suffix in secret else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    assert stat.S_IMODE(Path(certificates.folder).stat().st_mode) == 0o700


def test_names_and_addresses_are_told_apart(certificates: Any) -> None:
    certificates.run("issue", "site", "--host=fl.example.org", "--host=10.0.0.7", "--host=::1")
    names = read(certificates, "site").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["fl.example.org"]
    addresses = names.value.get_values_for_type(x509.IPAddress)
    assert [str(address) for address in addresses] == ["10.0.0.7", "::1"]


def test_a_certificate_is_for_this_host_when_nobody_says_otherwise(certificates: Any) -> None:
    [said] = certificates.run("issue", "local")
    assert "for localhost, 127.0.0.1, ::1, until" in said


@pytest.mark.parametrize(("kind", "public"), [("ec", ec.EllipticCurvePublicKey), ("rsa", None)])
def test_keys_are_of_the_wanted_kind(certificates: Any, kind: str, public: Any) -> None:
    certificates.run("issue", "site", f"--key={kind}")
    found = read(certificates, "site").public_key()
    if public is None:
        assert isinstance(found, rsa.RSAPublicKey)
        assert found.key_size == 3072
    else:
        assert isinstance(found, public)
        assert isinstance(found.curve, ec.SECP256R1)


def test_the_p12_holds_the_same_and_opens_with_the_password_beside_it(certificates: Any) -> None:
    data = Path(certificates.path("server.p12")).read_bytes()
    password = Path(certificates.path("server.password")).read_bytes().strip()
    found = pkcs12.load_pkcs12(data, password)
    assert found.cert is not None
    assert found.cert.certificate == read(certificates, "server")
    assert [each.certificate for each in found.additional_certs] == [read(certificates, "ca")]


def test_the_password_may_be_given_in_a_file_that_only_its_owner_reads(
    certificates: Any, tmp_path: Path
) -> None:
    chosen = tmp_path / "chosen"
    chosen.write_text("of my own\n")
    chosen.chmod(0o644)
    with pytest.raises(StartupError, match=r"--password_file .*chmod 600"):
        certificates.run("issue", "site", f"--password_file={chosen}")
    chosen.chmod(0o600)
    certificates.run("issue", "site", f"--password_file={chosen}")
    data = Path(certificates.path("site.p12")).read_bytes()
    assert pkcs12.load_pkcs12(data, b"of my own").key is not None


def test_a_renewed_certificate_is_for_the_same_hosts_with_another_key(certificates: Any) -> None:
    before, password = read(certificates, "server"), certificates.path("server.password")
    known = Path(password).read_text()
    certificates.run("renew", "server", "--days=30")
    after = read(certificates, "server")
    assert set(names_of(after)) == set(names_of(before)) == {"localhost", "127.0.0.1"}
    assert after.public_key() != before.public_key()
    assert after.not_valid_after_utc < datetime.now(UTC) + timedelta(days=31)
    assert Path(password).read_text() == known
    assert revoked(certificates) == set()


def test_the_one_before_a_renewed_one_may_be_revoked(certificates: Any) -> None:
    before = read(certificates, "server").serial_number
    certificates.run("renew", "server", "--revoke_old")
    assert revoked(certificates) == {before}


def test_who_is_revoked_stays_revoked(certificates: Any) -> None:
    certificates.run("revoke", "client")
    first = revoked(certificates)
    certificates.run("revoke", "server")
    certificates.run("revoke", "server")
    assert revoked(certificates) == first | {read(certificates, "server").serial_number}


def test_what_there_is_is_shown_to_people_and_programs(
    certificates: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificates.run("revoke", "client")
    certificates.issue("over", hosts=("h",), days=(0, 0))
    text = certificates.run("show")
    assert any(line.startswith("client: revoked, until ") for line in text)
    assert any(line.startswith("ca: valid, until ") for line in text)
    assert main(["certs", "show", "--dir", str(certificates.folder), "--format=json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert list(found) == ["ca", "client", "over", "server"]
    assert [found[name]["state"] for name in found] == ["valid", "revoked", "expired", "valid"]
    assert found["server"]["hosts"] == ["localhost", "127.0.0.1"]
    assert len(found["server"]["sha256"]) == 64
    [only] = json.loads("".join(certificates.run("show", "server", "--format=json")))
    assert only == found["server"]


def test_nothing_that_is_there_is_replaced_by_chance(certificates: Any) -> None:
    with pytest.raises(StartupError, match="has an authority already"):
        certificates.run("init")
    with pytest.raises(StartupError, match="is there already: fl-cluster certs renew server"):
        certificates.run("issue", "server")


@pytest.mark.parametrize("action", ["issue", "renew", "revoke"])
def test_the_authority_is_no_certificate_like_the_others(certificates: Any, action: str) -> None:
    with pytest.raises(StartupError, match=r"^(ca is|an authority)"):
        certificates.run(action, "ca")


@pytest.mark.parametrize("name", ["../other", ".hidden", "a/b", "-x"])
def test_a_name_stays_inside_the_folder(certificates: Any, name: str) -> None:
    with pytest.raises(StartupError, match="is not a name for a file"):
        certificates.run("issue", "--", name)


@pytest.mark.parametrize("host", ["", "a b", "*", "a..b", "a" * 300, "a" * 70 + "\u20ac" * 70])
def test_a_host_that_is_none_is_said_to_be_none(certificates: Any, host: str) -> None:
    with pytest.raises(StartupError, match=r"--host .*neither a name nor an address"):
        certificates.run("issue", "site", f"--host={host}")


def test_a_folder_without_an_authority_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certs", "issue", "server", "--dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.endswith(
        "ca.crt cannot be read: No such file or directory; fl-cluster certs init makes one\n"
    )


def test_a_folder_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["certs", "init", "--dir", str(tmp_path / "file" / "certs")]) == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err


def test_keys_of_two_authorities_are_not_mixed(
    certificates: Any, tmp_path: Path, make_certificates: Callable[[Path], Any]
) -> None:
    other = make_certificates(tmp_path / "other")
    Path(certificates.path("ca.key")).write_bytes(Path(other.path("ca.key")).read_bytes())
    with pytest.raises(StartupError, match=r"ca.key is not the key of ca.crt"):
        certificates.run("issue", "site")


def test_nothing_outlives_its_authority(tmp_path: Path, certificates: Any) -> None:
    short = type(certificates)(tmp_path / "short")
    short.run("init", "--days=10")
    short.run("issue", "site", "--days=300")
    assert read(short, "site").not_valid_after_utc == read(short, "ca").not_valid_after_utc
