"""Whether a signed request comes from the device it names; any handler asks in its own place.

A check-in proves the device's certificates and key, and is remembered for its round; every
later request is checked with the key remembered.  All members agree: the clock is the
cluster's, and what was proved and which signatures were seen is in the store.
The very same request may come again, because devices' HTTP clients send again what was not
answered; its signature for anything else is refused.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from cryptography import x509

from fl_cluster.rounds.phases import RoundRef
from fl_cluster.security.attestation import (
    CERTIFICATE_BLOCK,
    Chain,
    ChainTexts,
    Untrusted,
    check_in_text,
    check_now,
    device_id_of,
    request_text,
    time_of,
    verify_chain,
    verify_signature,
)
from fl_cluster.security.trust_files import TrustFiles
from fl_cluster.store.identity_port import AttestationStore, Attested, Seen, SignedUse

KEPT_CHAINS = 1_024
"""Chains whose signatures need not be verified again, some 10 kB each."""

LEAST_MEMORY_MS = 1_000
BLOCK = CERTIFICATE_BLOCK.decode()


class Proof(StrEnum):
    """What a signed request proves."""

    GOOD = "accepted"
    FORGED = "attestation_failed"
    """A certificate, a signature or the id is not what it should be."""
    CLOCK_OFF = "clock_off"
    """Signed too long ago, or in the future."""
    UNKNOWN = "not_attested"
    """The device has not checked in with its certificates in this round."""
    REPLAYED = "replayed"
    """The signature was used before, for something else."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The proof, and a sentence about what it lacks."""

    proof: Proof
    sentence: str = ""


GOOD = Finding(Proof.GOOD)


@dataclass(frozen=True, slots=True)
class SignedCheckIn:
    """What of a check-in is to be proved; `digest` is that of the whole request."""

    device: str
    timestamp: str
    signature: bytes
    chain: ChainTexts
    digest: str


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What of a later request is to be proved; `before` are the bytes signed before the time."""

    endpoint: str
    device: str
    timestamp: str | None
    number: int
    signature: bytes | None
    digest: str
    before: bytes = b""


class Attestor:
    """Checks signed requests on behalf of one member."""

    def __init__(
        self,
        store: AttestationStore,
        files: TrustFiles,
        now_ms: Callable[[], int],
        *,
        window_ms: int,
    ) -> None:
        """A timestamp may be off by `window_ms` in both directions."""
        self._store = store
        self._files = files
        self.now_ms = now_ms
        self._window_ms = window_ms
        self._chains: OrderedDict[ChainTexts, tuple[Sequence[x509.Certificate], Chain]] = (
            OrderedDict()
        )

    async def check_in(self, sent: SignedCheckIn, round_name: str) -> Finding:
        """Whether a device that checks in is the one it says; `round_name` is for what round."""
        try:
            if device_id_of(sent.chain.equip_cert) != sent.device:
                raise Untrusted("fl_id is not the SHA-256 of equip_cert")
            chain = self._chain(sent.chain)
            text = check_in_text(sent.device, sent.timestamp)
            verify_signature(chain.attestation, sent.signature, text)
        except Untrusted as exc:
            return Finding(Proof.FORGED, f"The check-in proves nothing: {exc}.")
        name = f"startFLJob:{sent.device}:{sent.timestamp}"
        return await self._judge_time(sent.timestamp, name, f"{round_name} {sent.digest}")

    async def remember(self, ref: RoundRef, sent: SignedCheckIn) -> None:
        """Keep what an admitted device has proved, for its later requests in this round."""
        texts = sent.chain
        certificates = texts.key_attestation + texts.equip_cert + texts.equip_ca_cert
        attested = Attested(int(sent.timestamp), certificates)
        await self._store.remember(ref, sent.device, attested)

    async def request(self, ref: RoundRef, sent: SignedRequest) -> Finding:
        """Whether a later request in the round comes from the device it names."""
        if not sent.signature or sent.timestamp is None:
            return Finding(Proof.FORGED, "The request is not signed, or has no timestamp.")
        attested = await self._store.recall(ref, sent.device)
        if attested is None:
            return Finding(
                Proof.UNKNOWN, "The device has not checked in with its certificates in this round."
            )
        try:
            chain = self._chain(_texts_of(attested.certificates))
            text = request_text(sent.timestamp, sent.number, sent.before)
            verify_signature(chain.attestation, sent.signature, text)
        except Untrusted as exc:
            return Finding(Proof.FORGED, f"The request proves nothing: {exc}.")
        name = f"{sent.endpoint}:{sent.device}:{sent.timestamp}"
        return await self._judge_time(sent.timestamp, name, sent.digest)

    async def chain_of(self, ref: RoundRef, device: str) -> ChainTexts | None:
        """The certificates that a device checked in with; None when it did not in this round."""
        attested = await self._store.recall(ref, device)
        return None if attested is None else _texts_of(attested.certificates)

    async def has_signed(self, ref: RoundRef, device: str, signature: bytes, signed: bytes) -> bool:
        """Whether a device that checked in signed these bytes with the key that it proved."""
        texts = await self.chain_of(ref, device)
        if texts is None:
            return False
        try:
            verify_signature(self._chain(texts).attestation, signature, signed)
        except Untrusted:
            return False
        return True

    async def reload(self) -> None:
        """Look whether roots or revocations have changed; called each second."""
        await asyncio.to_thread(self._files.reload)

    def _chain(self, texts: ChainTexts) -> Chain:
        """The chain, good now; its signatures are verified once per set of roots."""
        trust = self._files.trust
        known = self._chains.get(texts)
        if known is None or known[0] is not trust.roots:
            known = self._chains[texts] = trust.roots, verify_chain(texts, trust.roots)
            if len(self._chains) > KEPT_CHAINS:
                self._chains.popitem(last=False)
        self._chains.move_to_end(texts)
        check_now(known[1], trust, self.now_ms())
        return known[1]

    async def _judge_time(self, timestamp: str, name: str, purpose: str) -> Finding:
        now_ms, signed_ms = self.now_ms(), time_of(timestamp)
        if signed_ms is None:
            return Finding(
                Proof.CLOCK_OFF,
                "The timestamp is not in milliseconds since 1970, thirteen digits;"
                f" the server's time is {now_ms}.",
            )
        if abs(now_ms - signed_ms) > self._window_ms:
            return Finding(Proof.CLOCK_OFF, _apart(signed_ms, now_ms, self._window_ms))
        lifetime_ms = max(LEAST_MEMORY_MS, signed_ms + self._window_ms - now_ms)
        seen = await self._store.note_signed(SignedUse(name, purpose, lifetime_ms))
        if seen is Seen.REPLAYED:
            return Finding(
                Proof.REPLAYED, "The signature was used before, for another request or round."
            )
        return GOOD


def _texts_of(certificates: str) -> ChainTexts:
    """The three certificates that `remember` has joined."""
    return ChainTexts(*(f"{BLOCK}{part}" for part in certificates.split(BLOCK)[1:]))


def _apart(signed_ms: int, now_ms: int, window_ms: int) -> str:
    """What a device with a wrong clock has to know."""
    seconds = abs(now_ms - signed_ms) / 1000
    direction = "behind" if signed_ms < now_ms else "ahead of"
    server = datetime.fromtimestamp(now_ms / 1000, UTC)
    return (
        f"The request was signed {seconds:.0f} s {direction} the server's time,"
        f" {now_ms} ({server:%Y-%m-%d %H:%M:%S} UTC); at most {window_ms / 1000:g} s are allowed:"
        " set the device's clock."
    )
