"""TLS of one process of a cluster: made of its settings, watched, and its ends foretold.

`open_tls` comes before anything is listened on or connected to: what is wrong with the
certificates is known before Redis is touched.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fl_cluster.config.addresses import CacheKind, parse_address
from fl_cluster.config.schema import JobSettings, TlsSettings
from fl_cluster.errors import StartupError
from fl_cluster.security.authorities import Revoked
from fl_cluster.security.identities import PEM, IdentityFiles, names_of, stands_for
from fl_cluster.security.passwords import Passwords
from fl_cluster.security.tls import StoreTls, StoreTlsFiles, Tls, TlsFiles

logger = logging.getLogger(__name__)

LOOK_S = 1.0
WARN_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What a process does with TLS."""

    serves: bool = True
    dials: bool = True
    borrows: bool = False
    """Whether it shows the server's certificate where it has none that it can dial with, as a
    scheduler does: the published one never looks at the other, nor at its password."""


SERVER = Needs()
SCHEDULER = Needs(borrows=True)
WORKER = Needs(serves=False)


async def open_tls(
    settings: JobSettings, passwords: Passwords | None, needs: Needs = SERVER
) -> Tls | None:
    """`load_tls` for a process with an event loop."""
    return await asyncio.to_thread(load_tls, settings, passwords, needs)


def load_tls(
    settings: JobSettings, passwords: Passwords | None = None, needs: Needs = SERVER
) -> Tls | None:
    """The process's TLS; None when `enable_ssl` is off.  StartupError says what cannot be used."""
    if not settings.tls.enabled:
        return None
    passwords = (passwords or Passwords()).over(Passwords.of(os.environ))
    tls = _loaded(_files(settings.tls, passwords, needs), borrows=needs.borrows)
    useless = tls.useless_ciphers()
    if useless:
        logger.warning("%s", useless)
    return tls


def _loaded(files: TlsFiles, *, borrows: bool) -> Tls:
    tls = Tls(files)
    try:
        tls.load()
    except StartupError as exc:
        if not borrows or isinstance(exc, Revoked):
            raise
        # What is wrong with anything but the client's certificate is wrong with this as well.
        tls = Tls(replace(files, outgoing=files.server))
        tls.load()
        logger.warning("%s; servers are shown ssl.server_cert_path instead", exc)
    return tls


def _files(settings: TlsSettings, passwords: Passwords, needs: Needs) -> TlsFiles:
    server = IdentityFiles(
        "server", settings.server_certificate, settings.server_key, passwords.server
    )
    outgoing = IdentityFiles(
        "client", settings.client_certificate, settings.client_key, passwords.client
    )
    return TlsFiles(
        server=server if needs.serves else None,
        outgoing=outgoing if needs.dials else None,
        authority=settings.ca_certificate,
        revocations=settings.revocation_list,
        ciphers=settings.cipher_list,
    )


def _is_locked(files: IdentityFiles) -> bool:
    """Whether it cannot be read without a password; one that is not there is told of later."""
    try:
        data = Path(files.key_path or files.path).read_bytes()
    except OSError:
        return False
    return PEM not in data or b"ENCRYPTED" in data


def missing_passwords(settings: TlsSettings, passwords: Passwords) -> tuple[bool, bool]:
    """Whether the server's, and the client's, password is needed and not known."""
    server = IdentityFiles("server", settings.server_certificate, settings.server_key)
    outgoing = IdentityFiles("client", settings.client_certificate, settings.client_key)
    return (
        not passwords.server and _is_locked(server),
        not passwords.client and _is_locked(outgoing),
    )


def check_names(tls: Tls, addresses: Sequence[str]) -> None:
    """Warn of each host that devices are sent to and the server's certificate does not name."""
    server = tls.identities[0]
    names = names_of(server.certificate)
    for host in dict.fromkeys(addresses):
        if not stands_for(names, host):
            logger.warning(
                "%s is not for %s but for %s: whoever connects there by that name refuses it; a"
                " certificate for it is made by: fl-cluster certs issue NAME --host %s",
                server.files,
                host,
                ", ".join(names) or "no host at all (it has no subject alternative names)",
                host,
            )


def host_of(address: str) -> str:
    """The host part of `host:port`."""
    return parse_address(address).host


def url_of(address: str, tls: Tls | None) -> str:
    """How a client of ours writes the address."""
    return f"{'http' if tls is None else 'https'}://{address}"


class CertificateWatch:
    """Reads files again when they change, and warns once a day of what ends within `days`."""

    def __init__(self, tls: Tls, days: int, tell: Callable[[str], None] | None = None) -> None:
        """Each warning is logged, and told to `tell` as well."""
        self._tls = tls
        self._days = days
        self._tell = tell

    def warn(self) -> None:
        """Say what ends soon, or has ended."""
        for sentence in self._tls.warnings(self._days):
            logger.warning("%s", sentence)
            if self._tell is not None:
                self._tell(sentence)

    async def run(self) -> None:
        """Go on until cancelled."""
        loop = asyncio.get_running_loop()
        warn_at = loop.time() + WARN_S
        while True:
            await asyncio.sleep(LOOK_S)
            if await asyncio.to_thread(self._tls.reload) or loop.time() >= warn_at:
                warn_at = loop.time() + WARN_S
                self.warn()

    def first_end_s(self) -> float:
        """When the first certificate or list ends, in seconds since the epoch."""
        return min(end for _, end in self._tls.endings()).timestamp()


def store_tls(settings: JobSettings) -> StoreTls | None:
    """TLS to the configured Redis; None when it is spoken to in the clear.

    A bare address and Sentinels follow `enable_ssl`; a URL says for itself.
    """
    cache = settings.cache
    kind = cache.address.kind
    if kind is not CacheKind.TLS and not (kind is CacheKind.SENTINEL and settings.tls.enabled):
        return None
    return StoreTls(
        StoreTlsFiles(
            authority=cache.ca_file,
            authority_folder=cache.ca_folder,
            certificate=cache.certificate_file,
            key=cache.key_file,
            server_name=cache.server_name,
        )
    )
