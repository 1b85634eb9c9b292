"""What is kept of devices' and operators' identities: tokens, attestations, signed requests.

Two stores have these ports, as those of `store.ports`: memory and Redis, held to one contract.
Tokens change seldom and are read whole; `version` tells whether they did, so that members keep
a copy and ask for one number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from fl_cluster.rounds.phases import RoundRef
from fl_cluster.security.tokens import TokenRecord


@dataclass(frozen=True, slots=True)
class TokenSet:
    """All records, and the version that they are."""

    version: int
    records: Mapping[str, TokenRecord]
    """Digest -> record."""


class TokenStore(Protocol):
    """A job's tokens."""

    async def version(self) -> int:
        """How often the tokens have been changed; 0 when there never were any."""

    async def read(self) -> TokenSet:
        """Every token."""

    async def write(self, known: int, version: int, records: Sequence[TokenRecord]) -> bool:
        """Put these records in and make it `version`, unless it is not `known` any more.

        False when it is not, and nothing was changed.  A call that was sent twice may say so
        although the first of the two was carried out: whoever reads again finds its records.
        """

    async def note_used(self, used_ms: Mapping[str, int]) -> None:
        """Digest -> when a token was last used; earlier instants than known change nothing."""

    async def used(self) -> Mapping[str, int]:
        """Digest -> when a token was last used, of those that ever were."""


class Seen(StrEnum):
    """Whether a signed request has come before."""

    FRESH = "fresh"
    REPEATED = "repeated"
    """The very same request, for the same round: its sender has not heard the answer."""
    REPLAYED = "replayed"
    """Its signature was used for another request, or in another round."""


@dataclass(frozen=True, slots=True)
class SignedUse:
    """One use of a signature: by what it is known, what it was used for, how long that counts."""

    name: str
    """Endpoint, device and timestamp."""
    purpose: str
    """Round and digest of the request."""
    lifetime_ms: int


@dataclass(frozen=True, slots=True)
class Attested:
    """The certificates with which a device checked in, and when it signed that."""

    signed_ms: int
    certificates: str
    """PEM texts in a row: key attestation, equipment, its authority."""


class AttestationStore(Protocol):
    """What devices have proved in a round, and the signatures seen lately."""

    async def remember(self, ref: RoundRef, device: str, attested: Attested) -> None:
        """Keep a device's attestation for the round, unless a newer one is kept."""

    async def recall(self, ref: RoundRef, device: str) -> Attested | None:
        """The device's attestation; None when it has not checked in with one."""

    async def note_signed(self, use: SignedUse) -> Seen:
        """Say whether the signature was seen before, and remember it from now on."""
