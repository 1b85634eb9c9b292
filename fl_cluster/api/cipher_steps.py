"""What becomes of a device's step in a masked round: taken, or refused, and in which words.

The request is a message, comes from the device that it names, and is about the current round,
or, in `look_back` functions, about the one before.
A device whose update is in the sum is never sent away, whatever it comes for: an existing one
would end its job.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fl_cluster.api import cipher_refusals as words
from fl_cluster.api.proofs import ProofDesk
from fl_cluster.api.refusals import Refusal
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.exchange import ExchangeDesk
from fl_cluster.service.masked_messages import fit_offer, fit_reveal, fit_shares
from fl_cluster.service.told import keeps_keys_of, kept
from fl_cluster.service.view import JobView
from fl_cluster.store.ports import Snapshot
from fl_cluster.wire import messages

Asked = Any
"""Any of the request tables; all have `fl_id`, `iteration`, `timestamp` and `signature`."""


@dataclass(frozen=True, slots=True)
class Took:
    """What a device is told that is not refused; the same for everybody when it has a `name`."""

    reason: str = ""
    content: dict[str, Any] = field(default_factory=dict)
    name: str = ""


Outcome = Took | Refusal


LookBack = Callable[[Asked, RoundRef, Sequence[str]], Awaitable[Outcome]]
"""What a counted device is told of a round that counts no further update."""


class CipherSteps:
    """Takes the steps of one member's devices."""

    def __init__(
        self, view: JobView, desk: ExchangeDesk, proofs: ProofDesk, *, shares_secrets: bool
    ) -> None:
        self._view = view
        self._desk = desk
        self._told = desk.told
        self._proofs = proofs
        self._shares_secrets = shares_secrets

    # -- keys ----------------------------------------------------------------------------

    async def take_keys(self, asked: messages.RequestExchangeKeys, snapshot: Snapshot) -> Outcome:
        device, ref = asked.fl_id or "", snapshot.ref
        offer = fit_offer(
            asked, shares_secrets=self._shares_secrets, is_signed=self._proofs.is_asked
        )
        if offer is None or not await self._proofs.owns_chain(ref, asked):
            if self._desk.is_complete(Step.KEYS):
                return words.KEYS_ENOUGH
            is_known = await self._desk.is_in_cohort(ref, device)
            return words.KEYS_UNFIT if is_known else words.KEYS_STRANGER
        # A device that was started again has lost the secrets of its former keys.
        former = await self._told.offer(ref, device)
        if former is not None and keeps_keys_of(former, offer):
            return Took(words.KEYS_AGAIN)
        told = await self._desk.offer(device, asked.iteration, kept(offer), former)
        match told.verdict:
            case Verdict.ACCEPTED:
                return Took(words.KEYS_TAKEN if former is None else words.KEYS_AGAIN)
            case Verdict.UNPREPARED | Verdict.TOO_EARLY:
                return words.KEYS_STRANGER
            case Verdict.STALE_ROUND:
                return words.KEYS_OTHER_ROUND
        now = await self._told.offer(told.snapshot.ref, device)
        if now is not None and keeps_keys_of(now, offer):
            return Took(words.KEYS_AGAIN)
        return words.KEYS_UNFIT if told.verdict is Verdict.DUPLICATE else words.KEYS_ENOUGH

    async def hand_out_keys(self, asked: messages.GetExchangeKeys, snapshot: Snapshot) -> Outcome:
        ref = snapshot.ref
        outcome = await self._read(asked, Step.KEYS, Step.KEYS_READ)
        if outcome is not None:
            return outcome
        offers = await self._told.keys(ref)
        entries = tuple(
            messages.ClientPublicKeys(
                device,
                offer.c_pk,
                offer.s_pk,
                offer.pw_iv,
                offer.pw_salt,
                offer.timestamp,
                offer.iteration if self._proofs.is_asked else 0,
                offer.signature,
                offer.certificate_chain,
            )
            for device, offer in offers.items()
        )
        return Took(content={"remote_publickeys": entries}, name="keys")

    async def _read(self, asked: Asked, awaited: Step, step: Step) -> Refusal | None:
        """Take the step of reading what is complete, or say why not; None when it is taken."""

        def is_ready(seen: Snapshot) -> bool:
            return awaited in seen.complete or not seen.is_collecting

        seen = await self._desk.wait(asked.iteration, is_ready)
        if seen.ref.number != asked.iteration:
            return words.READ_OTHER_ROUND
        if seen.is_collecting and awaited not in seen.complete:
            return words.READ_NOT_READY
        told = await self._desk.tell(step, asked.fl_id, asked.iteration)
        match told.verdict:
            case Verdict.ACCEPTED | Verdict.DUPLICATE:
                return None
            case Verdict.TOO_EARLY:
                return words.READ_NOT_READY
            case Verdict.UNPREPARED:
                return words.READ_STRANGER
            case Verdict.STALE_ROUND:
                return words.READ_OTHER_ROUND
            case _:
                is_repeat = await self._told.has(told.snapshot.ref, step, asked.fl_id)
                return None if is_repeat else words.READ_ENOUGH

    # -- shares --------------------------------------------------------------------------

    async def take_shares(self, asked: messages.RequestShareSecrets, snapshot: Snapshot) -> Outcome:
        device, ref = asked.fl_id or "", snapshot.ref
        seen = await self._desk.see(asked.iteration, lambda seen: Step.KEYS in seen.complete)
        has_read = seen.ref == ref and Step.KEYS in seen.complete
        shares = fit_shares(asked, await self._told.keys(ref)) if has_read else None
        if shares is None:
            has_read = has_read and await self._told.has(ref, Step.KEYS_READ, device)
            return words.SHARES_UNFIT if has_read else words.SHARES_STRANGER
        told = await self._desk.tell(Step.SHARES, device, asked.iteration, kept(shares))
        match told.verdict:
            case Verdict.ACCEPTED:
                return Took(words.SHARES_TAKEN)
            case Verdict.DUPLICATE:
                return Took(words.SHARES_AGAIN)
            case Verdict.UNPREPARED | Verdict.TOO_EARLY:
                return words.SHARES_STRANGER
            case Verdict.STALE_ROUND:
                return words.SHARES_OTHER_ROUND
            case _:
                return words.SHARES_ENOUGH

    async def hand_out_shares(self, asked: messages.GetShareSecrets, snapshot: Snapshot) -> Outcome:
        outcome = await self._read(asked, Step.SHARES, Step.SHARES_READ)
        if outcome is not None:
            return outcome
        shares = await self._told.shares_for(snapshot.ref, asked.fl_id or "")
        return Took(content={"encrypted_shares": shares})

    # -- the list of counted devices -----------------------------------------------------

    async def hand_out_list(self, asked: messages.GetClientList, snapshot: Snapshot) -> Outcome:
        seen = await self._desk.wait(asked.iteration, _has_reports)
        if _is_over(seen, snapshot.ref):
            return await self._of_ended(asked, snapshot.ref, self.list_of, words.LIST_OTHER_ROUND)
        if seen.is_collecting:
            return words.LIST_NOT_READY
        told = await self._desk.tell(Step.LIST_READ, asked.fl_id or "", asked.iteration)
        if told.verdict is Verdict.TOO_EARLY:
            return words.LIST_NOT_READY
        if told.verdict is Verdict.UNPREPARED:
            return words.LIST_STRANGER
        return await self._of_ended(asked, snapshot.ref, self.list_of, words.LIST_STRANGER)

    async def _of_ended(
        self,
        asked: Asked,
        ref: RoundRef,
        look_back: Callable[[Asked, RoundRef, Sequence[str]], Awaitable[Outcome]],
        otherwise: Refusal,
    ) -> Outcome:
        """What a device is told of a round that counts no further update, if it was counted."""
        if self._view.snapshot.ref == ref and self._view.snapshot.is_collecting:
            return otherwise
        counted = await self._told.counted(ref)
        is_whole = len(counted) >= self._view.snapshot.plan.report_goal
        if asked.fl_id not in counted or not is_whole:
            return otherwise
        return await look_back(asked, ref, counted)

    async def list_of(self, asked: Asked, ref: RoundRef, counted: Sequence[str]) -> Outcome:
        del asked
        content = {"clients": tuple(counted)}
        return Took(words.LIST_SENT, content, name=f"list of {ref}")

    async def take_signature(
        self, asked: messages.SendClientListSign, snapshot: Snapshot
    ) -> Outcome:
        device, ref = asked.fl_id or "", snapshot.ref
        seen = await self._desk.see(asked.iteration, _has_reports)
        if _is_over(seen, ref):
            enough = partial(say_to_straggler, words.SIGN_ENOUGH.text)
            return await self._of_ended(asked, ref, enough, words.SIGN_OTHER_ROUND)
        is_early = seen.is_collecting
        counted = () if is_early else await self._told.counted(ref)
        is_counted = device in counted
        confirmation = messages.SendClientListSign(device, asked.iteration, None, asked.signature)
        if not await self._proofs.signs_list(ref, asked, counted):
            has_read = await self._told.has(ref, Step.LIST_READ, device)
            return words.SIGN_UNFIT if has_read else _softly(words.SIGN_STRANGER, is_counted)
        told = await self._desk.tell(Step.SIGNATURES, device, asked.iteration, kept(confirmation))
        match told.verdict:
            case Verdict.ACCEPTED:
                return Took(words.SIGN_TAKEN)
            case Verdict.DUPLICATE:
                return Took(words.SIGN_AGAIN)
            case Verdict.UNPREPARED | Verdict.TOO_EARLY:
                return _softly(words.SIGN_STRANGER, is_counted)
            case Verdict.STALE_ROUND:
                return words.SIGN_OTHER_ROUND
            case _:
                return _softly(words.SIGN_ENOUGH, is_counted)

    async def hand_out_signatures(
        self, asked: messages.RequestAllClientListSign, snapshot: Snapshot
    ) -> Outcome:
        def is_ready(seen: Snapshot) -> bool:
            is_under_way = seen.is_collecting or seen.is_unmasking
            return Step.SIGNATURES in seen.complete or not is_under_way

        seen = await self._desk.wait(asked.iteration, is_ready)
        if seen.ref == snapshot.ref and not is_ready(seen):
            return words.SIGNATURES_NOT_READY
        return await self._of_ended(
            asked, snapshot.ref, self.signatures_of, words.SIGNATURES_STRANGER
        )

    async def signatures_of(self, asked: Asked, ref: RoundRef, counted: Sequence[str]) -> Outcome:
        del counted
        signatures = await self._told.signatures(ref)
        entries = tuple(messages.ClientListSign(*pair) for pair in signatures.items())
        has_signed = asked.fl_id in signatures
        reason = words.SIGNATURES_SENT if has_signed else words.SIGNATURES_SENT_UNSIGNED
        return Took(reason, {"client_list_sign": entries})

    # -- the shares that take the masks off ----------------------------------------------

    async def take_reveal(
        self, asked: messages.SendReconstructSecret, snapshot: Snapshot
    ) -> Outcome:
        device, ref = asked.fl_id or "", snapshot.ref
        seen = await self._desk.see(asked.iteration, _has_reports)
        if seen.ref == ref and seen.is_collecting:
            return words.REVEAL_TOO_EARLY
        if _is_over(seen, ref):
            enough = partial(say_to_straggler, words.REVEAL_ENOUGH.text)
            return await self._of_ended(asked, ref, enough, words.REVEAL_OTHER_ROUND)
        is_counted = device in await self._told.counted(ref)
        reveal = fit_reveal(asked, await self._told.sharers(ref))
        if reveal is None and await self._told.has(ref, Step.LIST_READ, device):
            return words.REVEAL_UNFIT
        if reveal is None:
            return words.REVEAL_UNPREPARED if is_counted else words.REVEAL_STRANGER
        told = await self._desk.tell(Step.REVEALS, device, asked.iteration, kept(reveal))
        match told.verdict:
            case Verdict.ACCEPTED:
                await self._view.refresh()
                seen = self._view.snapshot
                waits = seen.ref == ref and seen.is_unmasking
                return Took(words.REVEAL_TAKEN if waits else words.REVEAL_COMPLETE)
            case Verdict.DUPLICATE:
                return Took(words.REVEAL_AGAIN)
            case Verdict.UNPREPARED:
                return words.REVEAL_UNPREPARED if is_counted else words.REVEAL_STRANGER
            case Verdict.TOO_EARLY:
                return words.REVEAL_TOO_EARLY
            case _:
                return _softly(words.REVEAL_ENOUGH, is_counted)


def _has_reports(seen: Snapshot) -> bool:
    """Whether all updates that the round waits for are counted, or it was given up."""
    return not seen.is_collecting


def _is_over(seen: Snapshot, ref: RoundRef) -> bool:
    """Whether that round has ended, well or not, or was given up."""
    return seen.ref != ref or seen.phase == "abandoning"


def _softly(refusal: Refusal, is_counted: bool) -> Outcome:
    """What an old device is told: one whose update is in the sum goes on, come what may."""
    return Took(refusal.text) if is_counted else refusal


async def say_to_straggler(
    text: str, asked: Asked, ref: RoundRef, counted: Sequence[str]
) -> Outcome:
    del asked, ref, counted
    return Took(text)
