"""TLS contexts, made of files that are read again when they change.

A context that serves hands each new handshake to the newest one made of the files, so that a
renewed certificate or a longer revocation list is in force for whoever connects next, while
connections that are open stay open.
Devices show no certificate; processes of the cluster show theirs to each other, and there
only TLS 1.3 is spoken, without resumption: each handshake asks the revocation list.
Files that become unusable while a process runs leave in force what was read before.
"""

from __future__ import annotations

import logging
import secrets
import ssl
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from fl_cluster.errors import StartupError
from fl_cluster.security.authorities import (
    Authorities,
    check_identity,
    endings,
    expiry_warnings,
    read_authorities,
    read_lists,
)
from fl_cluster.security.identities import PRIVATE, Identity, IdentityFiles, read_identity
from fl_cluster.security.watched_files import WatchedFile, read_whole, why_open_to_all

logger = logging.getLogger(__name__)

CIPHERS = frozenset(
    {
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-PSK-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-CCM",
        "ECDHE-ECDSA-AES256-CCM",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    }
)
"""Names that `cipher_list` may hold; they are of TLS 1.2, whose successor has its own."""

SECURITY_LEVEL = 3

Clock = Callable[[], datetime]


def now_utc() -> datetime:
    """Now, by this host's clock, as TLS libraries judge certificates."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a process's TLS is made of; an identity that it does not have is None."""

    server: IdentityFiles | None
    outgoing: IdentityFiles | None
    authority: str
    revocations: str
    ciphers: str

    def paths(self) -> Iterable[str]:
        """Every file that is read."""
        for identity in (self.server, self.outgoing):
            yield from identity.paths if identity else ()
        yield from filter(None, (self.authority, self.revocations))


@dataclass(frozen=True, slots=True)
class _Material:
    server: Identity | None
    outgoing: Identity | None
    trusted: Authorities

    @property
    def identities(self) -> list[Identity]:
        return [each for each in (self.server, self.outgoing) if each is not None]

    @property
    def files(self) -> list[Identity]:
        """The identities, each file's once."""
        return list({each.files: each for each in self.identities}.values())


def _read(files: TlsFiles, now: datetime) -> _Material:
    """What the files hold, checked in the order in which the published server checks."""
    found: dict[IdentityFiles, Identity] = {}
    trusted = None
    for each in (files.server, files.outgoing):
        if each is None or each in found:
            continue
        identity = read_identity(each)
        lists = read_lists(files.revocations, now)
        roots = read_authorities(files.authority)
        trusted = Authorities(files.authority, roots, files.revocations, lists)
        check_identity(identity, trusted, now)
        _check_ciphers(files.ciphers)
        found[each] = identity
    assert trusted is not None, "a process has at least one identity"
    server, outgoing = (found[each] if each else None for each in (files.server, files.outgoing))
    return _Material(server, outgoing, trusted)


def _check_ciphers(ciphers: str) -> None:
    wrong = [name for name in ciphers.split(":") if name not in CIPHERS]
    if wrong:
        raise StartupError(
            f"The cipher is wrong. (ssl.cipher_list: {wrong[0]!r} is none of"
            f" {', '.join(sorted(CIPHERS))})"
        )


@dataclass(frozen=True, slots=True)
class _Contexts:
    public: ssl.SSLContext | None
    mutual: ssl.SSLContext | None
    outgoing: ssl.SSLContext | None


class Tls:
    """One process's TLS; call `load` before anything else, and `reload` now and then."""

    def __init__(self, files: TlsFiles, now: Clock = now_utc) -> None:
        self.files = files
        self._now = now
        self._watched = [WatchedFile(path) for path in files.paths()]
        self._material: _Material | None = None
        self._contexts: _Contexts | None = None

    def load(self) -> None:
        """Read and check everything; StartupError says what cannot be used."""
        for file in self._watched:
            file.has_changed()
        self._take(_read(self.files, self._now()))

    def reload(self) -> bool:
        """Read again if a file has changed; whether new handshakes go by what was read."""
        if not [file.path for file in self._watched if file.has_changed()]:
            return False
        try:
            self._take(_read(self.files, self._now()))
        except StartupError as exc:
            logger.error("the certificates read before stay in force: %s", exc)
            return False
        logger.info("certificates were read again; new connections use them")
        return True

    def _take(self, material: _Material) -> None:
        ciphers = self.files.ciphers
        server, outgoing, trusted = material.server, material.outgoing, material.trusted
        self._contexts = _Contexts(
            public=_serving(server, ciphers) if server else None,
            mutual=_mutual(server, trusted, ciphers) if server else None,
            outgoing=_dialling(outgoing, trusted, ciphers) if outgoing else None,
        )
        self._material = material

    @property
    def _current(self) -> _Contexts:
        assert self._contexts is not None, "load comes first"
        return self._contexts

    @property
    def identities(self) -> list[Identity]:
        """What this process shows: the server's identity first."""
        assert self._material is not None, "load comes first"
        return self._material.identities

    def public_server(self) -> ssl.SSLContext:
        """For devices and operators, of whom no certificate is asked; stays up to date."""
        assert self.files.server is not None
        front = _serving(self.identities[0], self.files.ciphers)
        front.sni_callback = _hand_over(lambda: self._current.public)
        return front

    def mutual_server(self) -> ssl.SSLContext:
        """For the cluster's own processes, which show a certificate; stays up to date."""
        assert self.files.server is not None
        assert self._material is not None, "load comes first"
        front = _mutual(self.identities[0], self._material.trusted, self.files.ciphers)
        front.sni_callback = _hand_over(lambda: self._current.mutual)
        return front

    def outgoing(self) -> ssl.SSLContext:
        """To another process of the cluster: known by its authority, whatever its address."""
        found = self._current.outgoing
        assert found is not None
        return found

    def warnings(self, days: int) -> list[str]:
        """A sentence for each certificate or list that ends within so many days."""
        return expiry_warnings(self.endings(), self._now(), days)

    def endings(self) -> list[tuple[str, datetime]]:
        """When each certificate and list ends."""
        assert self._material is not None, "load comes first"
        return list(endings(self._material.files, self._material.trusted))

    def useless_ciphers(self) -> str:
        """A sentence when no cipher of TLS 1.2 fits the server's key; empty otherwise."""
        assert self._material is not None, "load comes first"
        server = self._material.server
        if server is None:
            return ""
        kind = "RSA" if isinstance(server.key, rsa.RSAPrivateKey) else "ECDSA"
        if any(f"-{kind}-" in name for name in self.files.ciphers.split(":")):
            return ""
        return (
            f"no cipher of ssl.cipher_list fits the {kind} key of {server.files}: peers without"
            f" TLS 1.3 are refused; add ECDHE-{kind}-AES256-GCM-SHA384"
        )


def _hand_over(
    newest: Callable[[], ssl.SSLContext | None],
) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    def hand_over(connection: ssl.SSLObject, _name: str | None, _front: ssl.SSLContext) -> None:
        context = newest()
        if context is not None:
            connection.context = context

    return hand_over


def _hardened(protocol: int, ciphers: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(f"{ciphers}:@SECLEVEL={SECURITY_LEVEL}")
    return context


def _serving(identity: Identity, ciphers: str) -> ssl.SSLContext:
    context = _hardened(ssl.PROTOCOL_TLS_SERVER, ciphers)
    _show(context, identity)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _mutual(identity: Identity, trusted: Authorities, ciphers: str) -> ssl.SSLContext:
    context = _hardened(ssl.PROTOCOL_TLS_SERVER, ciphers)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    _show(context, identity)
    _trust(context, trusted)
    return context


def _dialling(identity: Identity, trusted: Authorities, ciphers: str) -> ssl.SSLContext:
    context = _hardened(ssl.PROTOCOL_TLS_CLIENT, ciphers)
    # Members are found by addresses that change; the authority vouches for who they are.
    context.check_hostname = False
    _show(context, identity)
    _trust(context, trusted)
    return context


def _show(context: ssl.SSLContext, identity: Identity) -> None:
    """Python's contexts take keys from files only, so the key passes through one, encrypted."""
    password = secrets.token_bytes(32).hex()
    with tempfile.TemporaryDirectory(prefix="fl-cluster-") as folder:
        file = Path(folder) / "identity.pem"
        file.write_bytes(identity.chain_pem + identity.key_pem(password.encode()))
        try:
            context.load_cert_chain(file, password=password)
        except ssl.SSLError as exc:
            raise StartupError(f"{identity.files}: OpenSSL does not take it: {exc}") from exc


def _trust(context: ssl.SSLContext, trusted: Authorities) -> None:
    pieces = [each.public_bytes(Encoding.PEM) for each in trusted.certificates]
    pieces += [each.public_bytes(Encoding.PEM) for each in trusted.revocations]
    with tempfile.TemporaryDirectory(prefix="fl-cluster-") as folder:
        file = Path(folder) / "trusted.pem"
        file.write_bytes(b"".join(pieces))
        try:
            context.load_verify_locations(file)
        except ssl.SSLError as exc:
            paths = " or ".join(filter(None, (trusted.path, trusted.list_path)))
            raise StartupError(f"{paths}: OpenSSL does not take it: {exc}") from exc
    if trusted.list_path:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


@dataclass(frozen=True, slots=True)
class StoreTlsFiles:
    """How Redis is known, and what it is shown; PEM files, each may be empty."""

    authority: str = ""
    authority_folder: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    """The name that Redis's certificate must carry; empty: the host it is reached at."""

    def missing(self) -> str:
        """Of the first file or folder that is not there, its key and its path; empty if none."""
        named = {
            "cacert_filename": self.authority,
            "capath": self.authority_folder,
            "cert_filename": self.certificate,
            "private_key_filename": self.key,
        }
        gone = (f"{key} {path}" for key, path in named.items() if path and not Path(path).exists())
        return next(gone, "")


class StoreTls:
    """Contexts for connections to Redis; the files are looked at for each new connection."""

    def __init__(self, files: StoreTlsFiles) -> None:
        self.files = files
        paths = (files.authority, files.certificate, files.key)
        self._watched = [WatchedFile(path) for path in paths if path]
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """The newest context; StartupError says which file cannot be used, if there is no older."""
        changed = [file.path for file in self._watched if file.has_changed()]
        if self._context is None or changed:
            try:
                self._context = self._make()
            except StartupError as exc:
                if self._context is None:
                    raise
                logger.error("what was read before stays in force: %s", exc)
        return self._context

    def _make(self) -> ssl.SSLContext:
        files = self.files
        if missing := files.missing():
            raise StartupError(f"distributed_cache.{missing}: No such file or directory")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if files.authority or files.authority_folder:
            self._load_authorities(context)
        else:
            context.load_default_certs()
        if files.certificate or files.key:
            certificate = files.certificate or files.key
            what = f"distributed_cache.cert_filename {certificate}"
            try:
                context.load_cert_chain(certificate, files.key or None, password="")
            except (ssl.SSLError, OSError, ValueError) as exc:
                reason = _why_unusable(exc)
                key = f" with distributed_cache.private_key_filename {files.key}"
                raise StartupError(f"{what}{key if files.key else ''}: {reason}") from exc
            self._warn_of_open_key()
        return context

    def _warn_of_open_key(self) -> None:
        """Unlike our own files of keys, one that the published server takes too is not refused."""
        path, name = self.files.key, "private_key_filename"
        if not path:
            path, name = self.files.certificate, "cert_filename"
            # A certificate without its key may be read by all.
            if PRIVATE not in read_whole(path, f"distributed_cache.{name}"):
                return
        complaint = why_open_to_all(path, f"distributed_cache.{name}")
        if complaint:
            logger.warning("%s", complaint)

    def _load_authorities(self, context: ssl.SSLContext) -> None:
        files = self.files
        try:
            context.load_verify_locations(files.authority or None, files.authority_folder or None)
        except (ssl.SSLError, OSError) as exc:
            key = "cacert_filename" if files.authority else "capath"
            what = f"{key} {files.authority or files.authority_folder}"
            raise StartupError(f"distributed_cache.{what}: {_why_unusable(exc)}") from exc


def _why_unusable(exc: Exception) -> str:
    reason = getattr(exc, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "key and certificate do not belong together"
    if isinstance(exc, ssl.SSLError):
        return f"not a PEM file that OpenSSL takes ({reason or exc})"
    return getattr(exc, "strerror", None) or str(exc)
