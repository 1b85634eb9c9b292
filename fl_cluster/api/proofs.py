"""What device certificates prove, as refusals of the device protocol; silent without them.

In FlatBuffers the sentences are the published server's to the letter, and a refused check-in
tells the server's time in `timestamp`; in msgpack the reason says what is wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fl_cluster.api import cipher_refusals
from fl_cluster.api.refusals import Refusal, Retry
from fl_cluster.privacy.key_agreement import list_digest
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.security.attestation import ChainTexts
from fl_cluster.service.attestation import Attestor, Finding, Proof, SignedCheckIn, SignedRequest
from fl_cluster.service.cluster_time import local_ms
from fl_cluster.store.ports import Snapshot
from fl_cluster.wire.messages import (
    RequestExchangeKeys,
    RequestFLJob,
    RequestUpdateModel,
    ResponseCode,
    SendClientListSign,
)

SIGN_DATA_EMPTY = Refusal(
    Proof.FORGED, ResponseCode.RequestError, 403, Retry.NEVER, "sign data is empty."
)

_NOT_PROVED = "startFLJob sign and certificate verify failed."
_LATE_OR_UNKNOWN = (
    "verify signature timestamp failed or cannot find its key attestation for fl id {device}"
)

CHECK_IN: Mapping[Proof, Refusal] = {
    Proof.FORGED: Refusal(Proof.FORGED, ResponseCode.RequestError, 403, Retry.NEVER, _NOT_PROVED),
    Proof.CLOCK_OFF: Refusal(
        Proof.CLOCK_OFF, ResponseCode.RequestError, 403, Retry.NEVER, _NOT_PROVED
    ),
    Proof.REPLAYED: Refusal(
        Proof.REPLAYED,
        ResponseCode.OutOfTime,
        409,
        Retry.NEXT_ROUND,
        "startFLJob: store key attestation failed",
    ),
}
"""A check-in is remembered by itself, so it is never `UNKNOWN`."""

REPORT: Mapping[Proof, Refusal] = {
    Proof.FORGED: Refusal(
        Proof.FORGED,
        ResponseCode.RequestError,
        403,
        Retry.NEVER,
        "verify signature failed for fl id {device}",
    ),
} | {
    proof: Refusal(proof, ResponseCode.OutOfTime, 409, Retry.NEXT_ROUND, _LATE_OR_UNKNOWN)
    for proof in (Proof.CLOCK_OFF, Proof.UNKNOWN, Proof.REPLAYED)
}


@dataclass(frozen=True, slots=True)
class Doubt:
    """A refusal, and the sentence for whoever is no old device."""

    refusal: Refusal
    reason: str


Body = bytes | memoryview


class Step(Protocol):
    """A request of a masked round, as far as its sender is concerned."""

    @property
    def fl_id(self) -> str | None:
        """Who says to have sent it."""

    @property
    def timestamp(self) -> str | None:
        """When it was signed."""

    @property
    def iteration(self) -> int:
        """The round that it is about."""


class ProofDesk:
    """Judges signed requests of one member's devices; without an attestor all are good."""

    def __init__(self, attestor: Attestor | None = None) -> None:
        self._attestor = attestor

    @property
    def is_asked(self) -> bool:
        """Whether devices have to prove who they are."""
        return self._attestor is not None

    def now_ms(self) -> int:
        """The clock that proofs are judged by: the cluster's time in milliseconds."""
        return local_ms() if self._attestor is None else self._attestor.now_ms()

    def lacks_fields(self, asked: RequestFLJob) -> bool:
        """Whether a check-in lacks what every proof consists of."""
        fields = (asked.key_attestation, asked.equip_cert, asked.equip_ca_cert, asked.sign_data)
        return self.is_asked and None in (*fields, asked.timestamp)

    async def doubt_check_in(
        self, asked: RequestFLJob, digest: str, snapshot: Snapshot
    ) -> Doubt | None:
        """Why a check-in with all its fields does not prove who sent it."""
        if self._attestor is None:
            return None
        sent = _check_in_of(asked, digest)
        if not sent.signature:
            return Doubt(SIGN_DATA_EMPTY, "The check-in is not signed: sign_data is empty.")
        finding = await self._attestor.check_in(sent, _round_name(snapshot))
        return _doubt(finding, CHECK_IN)

    async def remember(self, ref: RoundRef, asked: RequestFLJob, digest: str) -> None:
        """Keep what an admitted device has proved, for the rest of the round."""
        if self._attestor is not None:
            await self._attestor.remember(ref, _check_in_of(asked, digest))

    async def doubt_report(
        self, sent: RequestUpdateModel, digest: str, ref: RoundRef
    ) -> Doubt | None:
        """Why a report does not prove who sent it."""
        if self._attestor is None:
            return None
        request = SignedRequest(
            endpoint="updateModel",
            device=sent.fl_id or "",
            timestamp=sent.timestamp,
            number=sent.iteration,
            signature=sent.signature,
            digest=digest,
        )
        return _doubt(await self._attestor.request(ref, request), REPORT)

    async def doubt_step(
        self, endpoint: str, sent: Step, signature: bytes | None, body: Body, ref: RoundRef
    ) -> Doubt | None:
        """Why a device's step in a masked round does not prove who takes it."""
        if self._attestor is None:
            return None
        before = b""
        if isinstance(sent, RequestExchangeKeys):
            before = (sent.c_pk or b"") + (sent.s_pk or b"")
        request = SignedRequest(
            endpoint=endpoint,
            device=sent.fl_id or "",
            timestamp=sent.timestamp,
            number=sent.iteration,
            signature=signature,
            digest=await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest()),
            before=before,
        )
        return _doubt(await self._attestor.request(ref, request), cipher_refusals.PROOF)

    async def owns_chain(self, ref: RoundRef, sent: RequestExchangeKeys) -> bool:
        """Whether the certificates that go to other devices are those it checked in with.

        Others verify them, and an existing device ends its job when it cannot.
        """
        if self._attestor is None:
            return True
        known = await self._attestor.chain_of(ref, sent.fl_id or "")
        if known is None or sent.certificate_chain is None:
            return False
        expected = (_unarmoured(known.key_attestation), _unarmoured(known.equip_cert))
        return tuple("".join(each.split()) for each in sent.certificate_chain) == expected

    async def signs_list(
        self, ref: RoundRef, sent: SendClientListSign, counted: Sequence[str]
    ) -> bool:
        """Whether a signature that goes to other devices is one of this list of devices."""
        if self._attestor is None or not sent.signature:
            return False
        digest = list_digest(counted)
        return await self._attestor.has_signed(ref, sent.fl_id or "", sent.signature, digest)


def _check_in_of(asked: RequestFLJob, digest: str) -> SignedCheckIn:
    chain = ChainTexts(
        asked.key_attestation or "", asked.equip_cert or "", asked.equip_ca_cert or ""
    )
    return SignedCheckIn(
        asked.fl_id or "", asked.timestamp or "", asked.sign_data or b"", chain, digest
    )


def _doubt(finding: Finding, refusals: Mapping[Proof, Refusal]) -> Doubt | None:
    if finding.proof is Proof.GOOD:
        return None
    return Doubt(refusals[finding.proof], finding.sentence)


def _round_name(snapshot: Snapshot) -> str:
    """The round that a device would be admitted to; one that is being finished takes nobody."""
    number = snapshot.ref.number + snapshot.needs_finishing
    return f"{snapshot.ref.instance}.{number}"


def _unarmoured(pem: str) -> str:
    """A certificate as devices show it to each other: the text between the lines of dashes."""
    return "".join(pem.splitlines()[1:-1])
