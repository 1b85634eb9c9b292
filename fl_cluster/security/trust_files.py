"""The root and revocation files that devices' certificates are checked by, read anew on change.

A file that becomes unusable while the server runs leaves in force what was read before: an
authority that vanished from a disk has not stopped being one, and nobody is pardoned.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509

from fl_cluster.errors import StartupError
from fl_cluster.security.attestation import Trust, read_revocations, read_roots
from fl_cluster.security.watched_files import WatchedFile, read_whole

logger = logging.getLogger(__name__)

FAILED = "init root cert and crl failed."
"""What the published server says when it starts and these files cannot be used."""


class TrustFiles:
    """Two roots (they may be the same) and a revocation list, which may be absent or not named."""

    def __init__(self, roots: Sequence[tuple[str, str]], revocations: tuple[str, str]) -> None:
        """Each file is its key in the configuration, and its path."""
        self._roots = [(key, WatchedFile(path)) for key, path in roots]
        self._revocations_key, path = revocations
        self._revocations = WatchedFile(path) if path else None
        self.trust = Trust(())
        """What is in force."""

    def load(self) -> None:
        """Read everything; StartupError when something that is named cannot be used."""
        try:
            for key, file in self._roots:
                if not file.path:
                    raise StartupError(
                        f"{key} is not set: both roots must be given, and may be the same file"
                    )
                file.has_changed()
            if self._revocations is not None:
                self._revocations.has_changed()
                if not self._revocations.exists():
                    logger.warning(
                        "%s %s is not there: no device is revoked until it is",
                        self._revocations_key,
                        self._revocations.path,
                    )
            self.trust = Trust(self._read_roots(), self._read_revocations())
        except StartupError as exc:
            raise StartupError(f"{FAILED} ({exc})") from exc

    def reload(self) -> bool:
        """Read again what has changed; whether anything did.  For a thread."""
        changed = [file for _, file in self._roots if file.has_changed()]
        is_listed = self._revocations is not None and self._revocations.has_changed()
        if not changed and not is_listed:
            return False
        try:
            roots = self._read_roots() if changed else self.trust.roots
            revocations = self._read_revocations() if is_listed else self.trust.revocations
        except StartupError as exc:
            logger.error("what was read before stays in force: %s", exc)
            return False
        if revocations is None and self.trust.revocations is not None:
            logger.error("%s is gone: the list read before stays in force", self._revocations_key)
            revocations = self.trust.revocations
        self.trust = Trust(roots, revocations)
        logger.info("roots and revocations of devices were read again")
        return True

    def alarms(self, now: datetime, ahead: timedelta) -> list[str]:
        """A sentence for each file whose content is out of date, or will be within `ahead`."""
        ends = [
            (key, root.not_valid_after_utc)
            for (key, _), root in zip(self._roots, self.trust.roots, strict=True)
        ]
        ends += [
            (self._revocations_key, each.next_update_utc)
            for each in self.trust.revocations or ()
            if each.next_update_utc is not None
        ]
        return [
            f"{key}: {'out of date since' if end <= now else 'to be renewed before'} {end:%Y-%m-%d}"
            for key, end in ends
            if end <= now + ahead
        ]

    def _read_roots(self) -> list[x509.Certificate]:
        roots = []
        for key, file in self._roots:
            try:
                found = read_roots(read_whole(file.path, key))
            except ValueError as exc:
                raise StartupError(f"{key} {file.path}: expected a certificate") from exc
            if len(found) != 1:
                raise StartupError(f"{key} {file.path}: expected 1 certificate, found {len(found)}")
            roots += found
        return roots

    def _read_revocations(self) -> list[x509.CertificateRevocationList] | None:
        file, key = self._revocations, self._revocations_key
        if file is None or not file.exists():
            return None
        try:
            return read_revocations(read_whole(file.path, key))
        except ValueError as exc:
            raise StartupError(f"{key} {file.path}: expected a revocation list") from exc


def now_utc() -> datetime:
    """Now, by this host's clock."""
    return datetime.now(UTC)
