"""What devices of a masked round are told, in the words of the published server.

The sentences are wire constants, trailing blanks included.  A refusal whose code is 200 is one
that existing devices must not hear of, because they would end their job; in msgpack the status
and the verdict say what became of the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fl_cluster.api.refusals import INNER_ERROR, Refusal, Retry, Word
from fl_cluster.rounds.events import Verdict
from fl_cluster.service.attestation import Proof
from fl_cluster.wire.messages import ResponseCode

_BAD: Final = ResponseCode.RequestError
_LATER: Final = ResponseCode.OutOfTime


def _schema(text: str) -> Refusal:
    return Refusal(Word.INVALID, _BAD, 400, Retry.NEVER, text)


def _unfit(text: str) -> Refusal:
    return Refusal(Word.INVALID, _LATER, 400, Retry.NEXT_ROUND, text)


def _stale(text: str) -> Refusal:
    return Refusal(Verdict.STALE_ROUND, _LATER, 409, Retry.NEXT_ROUND, text)


def _enough(text: str) -> Refusal:
    return Refusal(Verdict.ENOUGH, _LATER, 429, Retry.NEXT_ROUND, text)


def _unprepared(text: str, code: ResponseCode = _BAD) -> Refusal:
    return Refusal(Verdict.UNPREPARED, code, 409, Retry.NEXT_ROUND, text)


def _not_ready(text: str = "") -> Refusal:
    return Refusal(Word.NOT_READY, ResponseCode.SucNotReady, 202, Retry.SOON, text)


PROOF: Final[Mapping[Proof, Refusal]] = {
    Proof.FORGED: Refusal(Proof.FORGED, _BAD, 403, Retry.NEVER, "verify signature failed."),
} | {
    proof: Refusal(
        proof,
        _LATER,
        409,
        Retry.NEXT_ROUND,
        "verify signature timestamp failed or cannot find its key attestation.",
    )
    for proof in (Proof.CLOCK_OFF, Proof.UNKNOWN, Proof.REPLAYED)
}

KEYS_SCHEMA: Final = _schema("The schema of RequestExchangeKeys is invalid.")
KEYS_ENOUGH: Final = _enough("Current amount for exchangeKey is enough. Please retry later.")
KEYS_UNTIMED: Final = Refusal(Word.INVALID, _BAD, 400, Retry.NEVER, INNER_ERROR, is_plain=True)
"""FlatBuffers keys without `timestamp`, where devices share secrets."""
KEYS_OTHER_ROUND: Final = _stale("iter num is error.")
KEYS_STRANGER: Final = Refusal(
    Verdict.NOT_IN_COHORT,
    _LATER,
    409,
    Retry.NEXT_ROUND,
    "devices_meta for {device} is not set. Please retry later.",
)
KEYS_UNFIT: Final = _unfit("update key or client failed")
KEYS_TAKEN: Final = "Success, but the server is not ready yet."
KEYS_AGAIN: Final = "The server has received the request, please do not request again."

READ_SCHEMA: Final = _schema("")
READ_OTHER_ROUND: Final = _stale("")
READ_NOT_READY: Final = _not_ready()
READ_STRANGER: Final = _unprepared("")
READ_ENOUGH: Final = _enough("")
"""Answers to getKeys and getSecrets, which have no field for a sentence."""

SHARES_SCHEMA: Final = _schema("The schema of RequestShareSecrets is invalid.")
SHARES_ENOUGH: Final = _enough("Current amount for ShareSecretsKernel is enough.")
SHARES_OTHER_ROUND: Final = _stale("ShareSecretsKernel iteration invalid")
SHARES_STRANGER: Final = _unprepared(
    "client share secret is not in getkeys list. && client is illegal"
)
SHARES_UNFIT: Final = _unfit("update client of shares and shares failed")
SHARES_TAKEN: Final = "OK"
SHARES_AGAIN: Final = "client sharesecret already exists."

LIST_SCHEMA: Final = _schema("The schema of GetClientList is invalid.")
LIST_OTHER_ROUND: Final = _stale("iter num is error.")
LIST_NOT_READY: Final = _not_ready("The server is not ready.")
LIST_STRANGER: Final = _unprepared("fl_id: {device} is not in the update_model_clients")
LIST_SENT: Final = "send clients_list succeed!"

SIGN_SCHEMA: Final = _schema("The schema of PushClientListSign is invalid.")
SIGN_OTHER_ROUND: Final = _stale("push list sign iteration number is invalid")
SIGN_ENOUGH: Final = _enough("Current amount for PushListSignKernel is enough.")
SIGN_STRANGER: Final = _unprepared(
    "client send signature is not in get update model client list. && client is illegal", _LATER
)
SIGN_UNFIT: Final = _unfit("store client list signature failed")
SIGN_AGAIN: Final = "The server has received the request, please do not request again."
SIGN_TAKEN: Final = "send update model client list signature success. "

SIGNATURES_SCHEMA: Final = _schema("The schema of RequestAllClientListSign is invalid.")
SIGNATURES_OTHER_ROUND: Final = _stale("iter num is error.")
SIGNATURES_NOT_READY: Final = _not_ready("The server is not ready.")
SIGNATURES_STRANGER: Final = _unprepared(
    "client not send list signature, && client is illegal", _LATER
)
SIGNATURES_SENT: Final = "send update model client list signature success. "
SIGNATURES_SENT_UNSIGNED: Final = "client not send list signature, but in update model client list."

REVEAL_SCHEMA: Final = _schema("The schema of SendReconstructSecret is invalid.")
REVEAL_TAKEN: Final = "Success, but the server is not ready to reconstruct secret yet."
REVEAL_COMPLETE: Final = "Success,the secret is reconstructing."
REVEAL_AGAIN: Final = "Client has sended messages."
REVEAL_ENOUGH: Final = _enough("Current amount for ReconstructSecretsKernel is enough.")
REVEAL_OTHER_ROUND: Final = Refusal(
    Verdict.STALE_ROUND, ResponseCode.SUCCEED, 409, Retry.NEXT_ROUND, REVEAL_TAKEN
)
REVEAL_TOO_EARLY: Final = Refusal(
    Verdict.TOO_EARLY, ResponseCode.SUCCEED, 409, Retry.SOON, REVEAL_TAKEN
)
REVEAL_UNPREPARED: Final = _unprepared(
    "The client {device} is not in get clients list, but in update model client list.",
    ResponseCode.SUCCEED,
)
REVEAL_STRANGER: Final = _unprepared("The client is not in update model client list.")
REVEAL_UNFIT: Final = _unfit("reconstruct update shares or client failed.")
