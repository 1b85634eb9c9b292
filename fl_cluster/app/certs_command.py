"""`fl-cluster certs`: an authority of the cluster's own in a folder, and what it issued.

    certs/ca.crt ca.key ca.crl          the authority; ca.key never leaves this folder
    certs/NAME.crt NAME.key             a certificate and its key, PEM
    certs/NAME.p12 NAME.password        the same as PKCS#12, for configurations that know only that

Keys and passwords are readable by their owner only.  Files are replaced whole, by renaming,
so that a process that reads them again never sees half of one.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fl_cluster.errors import StartupError
from fl_cluster.security.attestation import read_revocations
from fl_cluster.security.authority import (
    Authority,
    KeyKind,
    Validity,
    key_pem,
    new_key,
    pack,
)
from fl_cluster.security.identities import common_name, names_of
from fl_cluster.security.passwords import read_password_file

CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256"
)
AUTHORITY = "ca"
AUTHORITY_DAYS = 3650
DAYS = 365
DEFAULT_HOSTS = ("localhost", "127.0.0.1", "::1")
PAIR = ("server", "client")
SECRET, PUBLIC = 0o600, 0o644

Options = argparse.Namespace
Tell = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fl-cluster certs`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = _action(actions, "init", "make an authority; with --host also a server and a client")
    init.add_argument("--name", default="fl_cluster CA", help="its name (fl_cluster CA)")
    _add_hosts(init)
    _add_key(init)
    init.add_argument("--days", type=_days, default=AUTHORITY_DAYS, help="it is valid for (3650)")
    issue = _action(actions, "issue", "make a key and a certificate")
    issue.add_argument("name", metavar="NAME", help="its name, and that of its files")
    _add_hosts(issue)
    _add_key(issue)
    issue.add_argument("--days", type=_days, default=DAYS, help="it is valid for (365)")
    _add_password(issue)
    renew = _action(actions, "renew", "replace a certificate and its key, for the same hosts")
    renew.add_argument("name", metavar="NAME")
    renew.add_argument("--days", type=_days, default=DAYS, help="it is valid for (365)")
    renew.add_argument(
        "--revoke_old", "--revoke-old", action="store_true", help="revoke the one before"
    )
    _add_password(renew)
    revoke = _action(actions, "revoke", "let nobody take a certificate any more")
    revoke.add_argument("name", metavar="NAME")
    show = _action(actions, "show", "list what there is")
    show.add_argument("name", nargs="?", default="", metavar="NAME", help="only this one")
    show.add_argument("--format", choices=("text", "json"), default="text")


def _action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary)
    parser.add_argument(
        "--dir", type=Path, default=Path("certs"), metavar="FOLDER", help="the authority's (certs)"
    )
    return parser


def _add_hosts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME_OR_IP",
        help="what others reach it at; may be repeated",
    )


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key", type=KeyKind, choices=list(KeyKind), default=KeyKind.EC, help="kind of keys (ec)"
    )


def _add_password(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--password_file",
        "--password-file",
        default="",
        metavar="FILE",
        help="password of the .p12 (one is made up and left in NAME.password)",
    )


def _days(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 36_500:
        raise argparse.ArgumentTypeError(f"expected a number of days, found {text!r}")
    return int(text)


def run(options: Options, tell: Tell) -> int:
    """Carry out the action; a fault says why that was not possible."""
    folder = Folder(options.dir, datetime.now(UTC))
    actions: dict[str, Callable[[Options, Folder, Tell], None]] = {
        "init": _init,
        "issue": _issue,
        "renew": _renew,
        "revoke": _revoke,
        "show": _show,
    }
    actions[options.action](options, folder, tell)
    return 0


@dataclass(frozen=True, slots=True)
class Folder:
    """Where the authority and all that it issued are."""

    path: Path
    now: datetime

    def file(self, name: str, suffix: str) -> Path:
        """The file of one name; StartupError when it would lie elsewhere."""
        if name != Path(name).name or name.startswith((".", "-")):
            raise StartupError(f"{name!r} is not a name for a file: letters, digits, dots, dashes")
        return self.path / f"{name}.{suffix}"

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Replace a file whole."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data)
            temporary.replace(path)
        except OSError as exc:
            raise StartupError(f"{path} cannot be written: {exc.strerror}") from exc

    def read(self, name: str, suffix: str) -> bytes:
        """What one of its files holds."""
        path = self.file(name, suffix)
        try:
            return path.read_bytes()
        except OSError as exc:
            hint = "; fl-cluster certs init makes one" if name == AUTHORITY else ""
            raise StartupError(f"{path} cannot be read: {exc.strerror}{hint}") from exc

    def certificate(self, name: str) -> x509.Certificate:
        """The certificate of that name."""
        try:
            return x509.load_pem_x509_certificate(self.read(name, "crt"))
        except (ValueError, x509.InvalidVersion) as exc:
            raise StartupError(f"{self.file(name, 'crt')}: expected a certificate") from exc

    def authority(self) -> Authority:
        """The authority."""
        return Authority.read(
            self.read(AUTHORITY, "crt"), self.read(AUTHORITY, "key"), str(self.path)
        )

    def revocations(self) -> x509.CertificateRevocationList | None:
        """What was revoked; None when there is no list."""
        path = self.file(AUTHORITY, "crl")
        if not path.exists():
            return None
        try:
            return read_revocations(path.read_bytes())[0]
        except (ValueError, OSError) as exc:
            raise StartupError(f"{path}: expected a revocation list ({exc})") from exc

    def names(self) -> list[str]:
        """Everything that was issued, in order."""
        return sorted(each.stem for each in self.path.glob("*.crt") if each.stem != AUTHORITY)

    def keep(self, name: str, made: Made) -> None:
        """Write what was made: keys first, so that nobody sees a certificate without its key."""
        authority = self.certificate(AUTHORITY)
        packed = pack(name, made.key, made.certificate, authority, made.password)
        self.write(self.file(name, "password"), f"{made.password}\n".encode(), SECRET)
        self.write(self.file(name, "p12"), packed, SECRET)
        self.write(self.file(name, "key"), key_pem(made.key), SECRET)
        self.write(self.file(name, "crt"), made.certificate.public_bytes(Encoding.PEM), PUBLIC)

    def publish(self, revocations: x509.CertificateRevocationList) -> None:
        """Write the list of what was revoked."""
        self.write(self.file(AUTHORITY, "crl"), revocations.public_bytes(Encoding.PEM), PUBLIC)


@dataclass(frozen=True, slots=True)
class Made:
    """A new certificate, its key, and the password of both as PKCS#12."""

    key: Any
    certificate: x509.Certificate
    password: str


def _init(options: Options, folder: Folder, tell: Tell) -> None:
    if folder.file(AUTHORITY, "key").exists():
        raise StartupError(
            f"{folder.path} has an authority already: replacing it would make everything that it"
            " issued worthless; name another folder with --dir"
        )
    validity = Validity.of_days(options.days, folder.now)
    authority = Authority.create(options.name, options.key, validity)
    folder.write(folder.file(AUTHORITY, "key"), key_pem(authority.key), SECRET)
    public = authority.certificate.public_bytes(Encoding.PEM)
    folder.write(folder.file(AUTHORITY, "crt"), public, PUBLIC)
    folder.publish(authority.revoke(None, (), folder.now))
    tell(f"authority: {folder.file(AUTHORITY, 'crt')}, SHA-256 {_fingerprint(authority)}")
    if not options.host:
        tell(f"next: fl-cluster certs issue server --dir {folder.path} --host NAME_OR_IP")
        return
    for name in PAIR:
        _make(folder, name, options.host, options, tell)
    tell(f"\n{_section(folder)}")


def _fingerprint(authority: Authority) -> str:
    return authority.certificate.fingerprint(hashes.SHA256()).hex()


def settings_of(path: Path) -> dict[str, str]:
    """The keys of the section `ssl` by which a configuration uses the files of that folder."""
    return {
        "server_cert_path": f"{path}/server.crt",
        "server_key_path": f"{path}/server.key",
        "client_cert_path": f"{path}/client.crt",
        "client_key_path": f"{path}/client.key",
        "ca_cert_path": f"{path}/{AUTHORITY}.crt",
        "crl_path": f"{path}/{AUTHORITY}.crl",
        "cipher_list": CIPHERS,
    }


def _section(folder: Folder) -> str:
    lines = [f'  {key}: "{value}"' for key, value in settings_of(folder.path).items()]
    return "\n".join(["enable_ssl: true", "ssl:", *lines])


def _make(folder: Folder, name: str, hosts: Sequence[str], options: Options, tell: Tell) -> None:
    if folder.file(name, "crt").exists():
        raise StartupError(
            f"{folder.file(name, 'crt')} is there already: fl-cluster certs renew {name}"
        )
    key = new_key(options.key)
    days = min(options.days, DAYS) if options.action == "init" else options.days
    validity = Validity.of_days(days, folder.now)
    certificate = folder.authority().issue(name, hosts, key, validity)
    folder.keep(name, Made(key, certificate, _password(options)))
    tell(
        f"{name}: {folder.file(name, 'crt')} for {', '.join(names_of(certificate))},"
        f" until {certificate.not_valid_after_utc:%Y-%m-%d}"
    )


def _password(options: Options) -> str:
    path = getattr(options, "password_file", "")
    return read_password_file(path, "--password_file") if path else secrets.token_urlsafe(24)


def _issue(options: Options, folder: Folder, tell: Tell) -> None:
    if options.name == AUTHORITY:
        raise StartupError("ca is the authority's own name: choose another")
    _make(folder, options.name, options.host or DEFAULT_HOSTS, options, tell)


def _renew(options: Options, folder: Folder, tell: Tell) -> None:
    authority, name = folder.authority(), options.name
    if name == AUTHORITY:
        raise StartupError("an authority is not renewed: make another with --dir, and issue anew")
    old = folder.certificate(name)
    kind = KeyKind.RSA if "RSA" in type(old.public_key()).__name__ else KeyKind.EC
    key = new_key(kind)
    made = authority.renew(old, key, Validity.of_days(options.days, folder.now))
    kept = folder.file(name, "password")
    if options.password_file or not kept.exists():
        password = _password(options)
    else:
        password = read_password_file(str(kept), "the password")
    folder.keep(name, Made(key, made, password))
    if options.revoke_old:
        folder.publish(authority.revoke(folder.revocations(), [old.serial_number], folder.now))
    tell(
        f"{name}: renewed until {made.not_valid_after_utc:%Y-%m-%d}; processes that use it read it"
        " again within a second" + (", the old one is revoked" if options.revoke_old else "")
    )


def _revoke(options: Options, folder: Folder, tell: Tell) -> None:
    if options.name == AUTHORITY:
        raise StartupError("an authority cannot revoke itself: stop trusting its certificate")
    serial = folder.certificate(options.name).serial_number
    known = folder.revocations()
    folder.publish(folder.authority().revoke(known, [serial], folder.now))
    tell(
        f"{options.name}: revoked in {folder.file(AUTHORITY, 'crl')}; processes whose ssl.crl_path"
        " is that file refuse it within a second"
    )


def _show(options: Options, folder: Folder, tell: Tell) -> None:
    wanted = [options.name] if options.name else [AUTHORITY, *folder.names()]
    revoked = {entry.serial_number: entry for entry in folder.revocations() or ()}
    found = [_facts(name, folder, revoked) for name in wanted]
    if options.format == "json":
        tell(json.dumps(found, indent=2))
        return
    for facts in found:
        for line in _lines(facts):
            tell(line)


def _facts(name: str, folder: Folder, revoked: dict[int, Any]) -> dict[str, Any]:
    certificate = folder.certificate(name)
    end, entry = certificate.not_valid_after_utc, revoked.get(certificate.serial_number)
    state = "expired" if end <= folder.now else "valid"
    return {
        "name": name,
        "file": str(folder.file(name, "crt")),
        "subject": common_name(certificate.subject),
        "issuer": common_name(certificate.issuer),
        "hosts": names_of(certificate),
        "serial": f"{certificate.serial_number:x}",
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "not_before": f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        "days_left": (end - folder.now).days,
        "state": "revoked" if entry is not None else state,
    }


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    hosts = ", ".join(facts["hosts"]) or "no hosts"
    yield (
        f"{facts['name']}: {facts['state']}, until {facts['not_after'][:10]}"
        f" ({facts['days_left']} days), {hosts}"
    )
    yield f"    {facts['file']}, serial {facts['serial']}, SHA-256 {facts['sha256']}"
