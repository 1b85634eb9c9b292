"""The device plane: check in, report, get the model.

Each handler is gate, read, decode, call, encode.  The order of checks is part of the
protocol: existing devices and tests depend on which refusal comes first.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
from aiohttp import web

from fl_cluster.aggregate.partial import Contribution, Unfit
from fl_cluster.api import refusals
from fl_cluster.api.bodies import Body, BodyReader, TooBusy, TooLarge, Truncated
from fl_cluster.api.contents import ContentReader
from fl_cluster.api.device_clocks import by_its_clock
from fl_cluster.api.dialects import Dialect, Response, dialect_of
from fl_cluster.api.gatekeeper import Gatekeeper
from fl_cluster.api.paths import ways_to_write
from fl_cluster.api.plain_http import Answer, Handler, json_refusal
from fl_cluster.api.proofs import Doubt, ProofDesk
from fl_cluster.api.refusals import Refusal
from fl_cluster.api.replies import Replies
from fl_cluster.config.schema import EncryptType, MaskLayout
from fl_cluster.errors import FlClusterError, PeerProtocolError, StoreCorrupt, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.attestation import Proof
from fl_cluster.service.checkin import TURNOVER_MS, CheckInAnswer, CheckInDesk
from fl_cluster.service.collect import Arrival, CollectAnswer, Collector
from fl_cluster.service.contributions import MaskedTerms
from fl_cluster.service.deliveries import Deliveries
from fl_cluster.service.ring import RingDesk
from fl_cluster.service.view import JobView, StoredModel
from fl_cluster.service.visits import Visit, Visits
from fl_cluster.store.ports import (
    EvaluationData,
    Offer,
    Receipt,
    RoundStore,
    Snapshot,
    UpdateRecord,
)
from fl_cluster.wire import messages
from fl_cluster.wire.limits import MAX_DATA_SIZE, MAX_EVALUATION_NUMBERS, MAX_HOLD_MS

logger = logging.getLogger(__name__)

SECURE_AGGREGATION = EncryptType.SECURE_AGGREGATION

INLINE_HASH_BYTES = 256 * 1024

JUDGED_FIRST = frozenset({Verdict.ENOUGH, Verdict.NOT_IN_COHORT, Verdict.STALE_ROUND})
"""Verdicts that come before a look at what the update holds."""

LACKS_PROOF = Doubt(
    refusals.CHECK_IN_FIELDS,
    "The check-in lacks key_attestation, equip_cert, equip_ca_cert, sign_data or timestamp, and"
    " devices of this job prove who they are.",
)

Call = Callable[[Dialect, Body], Awaitable[web.StreamResponse]]
Refuse = Callable[[Dialect, Refusal], Response]


@dataclass(frozen=True, slots=True)
class Services:
    """What the device plane calls."""

    view: JobView
    rounds: RoundStore
    desk: CheckInDesk
    collector: Collector
    visits: Visits
    deliveries: Deliveries
    replies: Replies
    contents: ContentReader
    gatekeeper: Gatekeeper = field(default_factory=Gatekeeper)
    proofs: ProofDesk = field(default_factory=ProofDesk)
    secure: RingDesk | None = None
    """Where updates come under the masks of secure aggregation."""


class DevicePlane:
    """Handlers of one member; `hold_ms` is how long existing devices' reads are held open."""

    def __init__(self, services: Services, reader: BodyReader, *, hold_ms: int) -> None:
        self._view = services.view
        self._rounds = services.rounds
        self._desk = services.desk
        self._collector = services.collector
        self._visits = services.visits
        self._deliveries = services.deliveries
        self._replies = services.replies
        self._contents = services.contents
        self._gatekeeper = services.gatekeeper
        self._proofs = services.proofs
        self._secure = services.secure
        self._reader = reader
        self._hold_ms = hold_ms
        self._served: RoundRef | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def routes(self, url_prefix: str) -> dict[str, Handler]:
        """Exact path -> handler."""
        handlers = {
            "startFLJob": self.check_in,
            "updateModel": self.report,
            "getModel": self.get_model,
        }
        return {
            path: handler
            for name, handler in handlers.items()
            for path in ways_to_write(url_prefix, name)
        }

    async def check_in(self, request: web.BaseRequest) -> web.StreamResponse:
        """A device offers to take part in the current round."""
        return await self.serve(request, self._check_in, self._replies.refuse_check_in)

    async def report(self, request: web.BaseRequest) -> web.StreamResponse:
        """A device uploads its update."""
        return await self.serve(request, self._report, self._refuse_report)

    async def get_model(self, request: web.BaseRequest) -> web.StreamResponse:
        """A device asks for the model that a round ended with."""
        return await self.serve(request, self._get_model, self._replies.refuse_model, is_read=True)

    async def serve(
        self,
        request: web.BaseRequest,
        call: Call,
        refuse: Refuse,
        *,
        is_read: bool = False,
        is_workers: bool = False,
    ) -> web.StreamResponse:
        """The answer of `call` to a request that may come in; `refuse` makes any other.

        What `is_workers` is not for participants.
        """
        dialect = dialect_of(request)
        judge = self._gatekeeper.judge_worker if is_workers else self._gatekeeper.judge
        barred = judge(request)
        if barred is not None:
            return dialect.refuse(_of_no_use(dialect, refuse(dialect, barred)), barred)
        closed = self._gate(is_read=is_read)
        if closed is not None:
            return dialect.refuse(refuse(dialect, closed), closed)
        try:
            body = await self._reader.read(request)
            try:
                if not body.data:
                    return json_refusal("Get post message failed")
                return await call(dialect, body)
            finally:
                body.let_go()
        except TooLarge as exc:
            return self._too_large(dialect, refuse, exc)
        except (TooBusy, StoreUnavailable, StoreCorrupt) as exc:
            logger.debug("%s is refused for now: %s", request.path, exc or type(exc).__name__)
            refusal = refusals.UNAVAILABLE
            return dialect.refuse(refuse(dialect, refusal), refusal)
        except Truncated as exc:
            raise ConnectionResetError(f"{request.path}: the body ended early") from exc

    def _gate(self, *, is_read: bool) -> Refusal | None:
        """Why nothing but reading, or nothing at all, is served now."""
        if self._view.snapshot.is_closed:
            return None if is_read else refusals.JOB_FINISHED
        if self._view.snapshot.is_disabled:
            return refusals.JOB_DISABLED
        if not self._view.is_available and not is_read:
            return refusals.UNAVAILABLE
        return None

    def _too_large(self, dialect: Dialect, refuse: Refuse, fault: TooLarge) -> Answer:
        if not dialect.is_native:
            answer = json_refusal(f"Get post message failed: {fault}", status=413)
        else:
            refusal = Refusal(
                refusals.Word.TOO_LARGE,
                messages.ResponseCode.RequestError,
                413,
                refusals.Retry.NEVER,
                str(fault),
            )
            answer = dialect.refuse(refuse(dialect, refusal), refusal)
        answer.force_close()
        return answer

    def broken(self, request: web.BaseRequest, fault: FlClusterError | None) -> Answer:
        """The answer when a handler failed: nothing is known, nothing was acknowledged."""
        if fault is not None:
            logger.error("%s failed: %s", request.path, fault)
        dialect = dialect_of(request)
        if not dialect.is_native:
            return Answer(refusals.INNER_ERROR.encode())
        refusal = refusals.NOT_NOW
        return dialect.refuse(self._replies.refuse_model(dialect, refusal), refusal)

    # -- check in ------------------------------------------------------------------------

    async def _check_in(self, dialect: Dialect, body: Body) -> web.StreamResponse:
        answer, is_accepted = await self._judge_check_in(dialect, body)
        self._visits.note(Visit.CHECK_IN, is_accepted=is_accepted, size=_size_of(answer))
        return answer

    async def _judge_check_in(
        self, dialect: Dialect, body: Body
    ) -> tuple[web.StreamResponse, bool]:
        try:
            asked = dialect.decode(messages.RequestFLJob, body.data)
        except PeerProtocolError as exc:
            return self._refuse_form(dialect, refusals.CHECK_IN_SCHEMA, exc), False
        other = self._speaks_otherwise(dialect)
        if other is not None:
            response = self._replies.refuse_check_in(dialect, other, with_time=False)
            return dialect.refuse(response, other), False
        device = asked.fl_id
        if device is None or (not dialect.is_native and None in (asked.fl_name, asked.timestamp)):
            lacking = refusals.CHECK_IN_FIELDS
            return dialect.refuse(self._replies.refuse_check_in(dialect, lacking), lacking), False
        if self._proofs.lacks_fields(asked):
            return self._refuse_proof(dialect, LACKS_PROOF, refusals.CHECK_IN_FIELDS), False
        digest = await _digest(body.data) if self._proofs.is_asked else ""
        doubt = await self._proofs.doubt_check_in(asked, digest, self._view.snapshot)
        if doubt is not None:
            return self._refuse_proof(dialect, doubt, await self._unless_full(doubt.refusal)), False
        refusal = await self._judge_size(asked.data_size)
        if refusal is None:
            offer = Offer(device, asked.data_size, asked.eval_data_size)
            found = await self._desk.check_in(offer)
            if await self._is_admitted(dialect, found, device):
                await self._proofs.remember(found.snapshot.ref, asked, digest)
                self._note_served()
                ready = await self._replies.admit(dialect, found.snapshot, asked)
                answer = dialect.success(ready)
                return self._deliver(answer, found.snapshot.ref, _admission_of(device)), True
            refusal = await self._refusal_of(found.verdict)
        response = self._replies.refuse_check_in(dialect, refusal, device)
        return dialect.refuse(by_its_clock(response, asked.timestamp), refusal), False

    def _speaks_otherwise(self, dialect: Dialect) -> Refusal | None:
        """Why devices of this kind cannot mask as the others of the job do; None when they can."""
        parameters = self._view.parameters
        if not dialect.is_native and parameters.encrypt_type == SECURE_AGGREGATION:
            return refusals.NATIVE_ONLY
        is_running = parameters.mask_layout == MaskLayout.RUNNING
        if dialect.is_native and is_running and parameters.encrypt_type == EncryptType.PW_ENCRYPT:
            return refusals.EXISTING_ONLY
        return None

    async def _is_admitted(self, dialect: Dialect, found: CheckInAnswer, device: str) -> bool:
        """Whether the device is in the cohort, and to be told so: now, or what it never heard."""
        if found.verdict is not Verdict.ALREADY_CHECKED_IN:
            return found.verdict is Verdict.ACCEPTED
        if dialect.is_native:
            return True
        return not await self._deliveries.was_told(found.snapshot.ref, _admission_of(device))

    async def _refusal_of(self, verdict: Verdict) -> Refusal:
        """What a device is told that is not admitted; a full cohort is told before anything."""
        if verdict is Verdict.ALREADY_CHECKED_IN:
            await self._view.refresh()
            if self._view.snapshot.phase != "selecting":
                verdict = Verdict.COHORT_FULL
        is_over = self._view.snapshot.is_closed
        return refusals.JOB_FINISHED if is_over else refusals.CHECK_IN[verdict]

    async def _judge_size(self, data_size: int) -> Refusal | None:
        if 1 <= data_size <= MAX_DATA_SIZE:
            return None
        small, large = refusals.DATA_SIZE_SMALL, refusals.DATA_SIZE_LARGE
        return await self._unless_full(small if data_size == 0 else large)

    async def _unless_full(self, refusal: Refusal) -> Refusal:
        """The refusal, unless there is one that every device is told before it is looked at."""
        await self._view.refresh()
        if (closed := self._gate(is_read=False)) is not None:
            return closed
        if self._view.snapshot.phase not in ("waiting", "selecting"):
            return refusals.CHECK_IN[Verdict.COHORT_FULL]
        return refusal

    def _refuse_proof(self, dialect: Dialect, doubt: Doubt, refusal: Refusal) -> Answer:
        """Refuse a check-in that proves nothing, and tell by which clock it was judged."""
        response = self._replies.refuse_check_in(dialect, refusal)
        response = response._replace(timestamp=str(self._proofs.now_ms()))
        if dialect.is_native and refusal.word == doubt.refusal.word:
            response = response._replace(reason=doubt.reason)
        return dialect.refuse(response, refusal)

    def _refuse_form(self, dialect: Dialect, refusal: Refusal, fault: FlClusterError) -> Answer:
        response = self._replies.refuse_check_in(dialect, refusal, with_time=False)
        if dialect.is_native:
            response = response._replace(reason=f"{refusal.text} {fault}")
        return dialect.refuse(response, refusal)

    # -- report --------------------------------------------------------------------------

    def _refuse_report(self, dialect: Dialect, refusal: Refusal) -> messages.ResponseUpdateModel:
        return self._replies.refuse_report(dialect, refusal, self._view.snapshot)

    async def _report(self, dialect: Dialect, body: Body) -> web.StreamResponse:
        size = len(body.data)
        answer, is_accepted = await self._judge_report(dialect, body)
        self._visits.note(Visit.REPORT, is_accepted=is_accepted, size=size)
        return answer

    async def _judge_report(self, dialect: Dialect, body: Body) -> tuple[web.StreamResponse, bool]:
        try:
            sent = dialect.decode(messages.RequestUpdateModel, body.data)
        except PeerProtocolError as exc:
            return self._refuse_sent(dialect, refusals.REPORT_SCHEMA, str(exc)), False
        missing = _missing(sent, dialect)
        if missing or sent.fl_id is None:
            return self._refuse_sent(dialect, refusals.REPORT_FIELDS, missing), False
        is_known = dialect.is_native or self._proofs.is_asked
        digest = await _digest(body.data) if is_known else ""
        doubt = await self._doubt_report(sent, digest)
        content = Unfit(doubt.reason) if doubt is not None else await self._content_of(sent)
        if isinstance(content, Verdict):
            return self._refuse_again(dialect, sent.fl_id, refusals.REPORT[content]), False
        record = UpdateRecord(
            sent.fl_id, digest, sent.upload_loss, sent.upload_accuracy, self._evaluation(sent)
        )
        self._replies.make_room()
        arrival = Arrival(record, sent.iteration, content, body.let_go)
        timestamp = sent.timestamp
        del sent, content  # their arrays are views of the body
        found = await self._collector.collect(arrival)
        receipt = await self._proof(dialect, arrival, found)
        if receipt is not None:
            ready = self._replies.count(dialect, found.snapshot, receipt)
            ref, name = _ref_of(arrival, found), _report_of(arrival.record.device)
            return self._deliver(dialect.success(ready), ref, name), True
        if doubt is not None and found.verdict not in JUDGED_FIRST:
            return self._refuse_unproved(dialect, arrival, found, doubt), False
        return self._refuse_found(dialect, arrival, found, timestamp), False

    async def _content_of(
        self, sent: messages.RequestUpdateModel
    ) -> Contribution | Unfit | Verdict:
        """What the update holds, once what its sender tells its neighbours beside it is kept.

        `duplicate` when the sender has told them something else before.
        """
        content = self._contents.read(sent)
        if isinstance(content, MaskedTerms) and self._secure is not None:
            try:
                is_kept = await self._secure.report(sent.iteration, sent.fl_id or "", content.tags)
            except PeerProtocolError as exc:
                return Unfit(str(exc))
            if not is_kept:
                return Verdict.DUPLICATE
        return content

    def _refuse_again(self, dialect: Dialect, device: str, refusal: Refusal) -> Answer:
        snapshot = self._view.snapshot
        response = self._replies.refuse_report(dialect, refusal, snapshot, device=device)
        return dialect.refuse(response, refusal)

    async def _doubt_report(self, sent: messages.RequestUpdateModel, digest: str) -> Doubt | None:
        """Why the report does not prove who sent it, for the newest round that there is."""
        ref = self._view.snapshot.ref
        doubt = await self._proofs.doubt_report(sent, digest, ref)
        if doubt is not None and doubt.refusal.word == Proof.UNKNOWN:
            await self._view.refresh()
            if self._view.snapshot.ref != ref:
                return await self._proofs.doubt_report(sent, digest, self._view.snapshot.ref)
        return doubt

    def _refuse_unproved(
        self, dialect: Dialect, arrival: Arrival, found: CollectAnswer, doubt: Doubt
    ) -> Answer:
        response = self._replies.refuse_report(
            dialect,
            doubt.refusal,
            found.snapshot,
            device=arrival.record.device,
            reason=doubt.reason,
        )
        if doubt.refusal.code == messages.ResponseCode.RequestError:
            response = response._replace(next_req_time="")
        return dialect.refuse(response, doubt.refusal)

    def _evaluation(self, sent: messages.RequestUpdateModel) -> EvaluationData | None:
        """All that the device evaluated, as one vector; None when it is not to be scored."""
        parameters, items = self._view.parameters, sent.unsupervised_eval_items
        if not parameters.is_evaluated or items is None:
            return None
        vector = b"".join(
            np.asarray(item.eval_data, "<f4").tobytes() for item in items.eval_items or ()
        )
        if not 0 < len(vector) <= 4 * MAX_EVALUATION_NUMBERS:
            return None
        return EvaluationData(vector, parameters.eval_window)

    def _deliver(self, answer: Answer, ref: RoundRef, name: str) -> Answer:
        """Remember whether the answer left: a repeat of one that did not gets it again."""
        self._deliveries.begin(ref, name)
        answer.when_over(lambda has_left: self._deliveries.end(ref, name, is_delivered=has_left))
        return answer

    async def _proof(
        self, dialect: Dialect, arrival: Arrival, found: CollectAnswer
    ) -> Receipt | None:
        """The receipt that this answer carries: of now, or of the first time it came."""
        if found.verdict is Verdict.ACCEPTED:
            return found.receipt
        if found.unfit is not None or arrival.number > found.snapshot.ref.number:
            return None
        receipt, device = found.receipt, arrival.record.device
        if receipt is None and found.verdict in JUDGED_FIRST:
            receipt = await self._rounds.receipt(_ref_of(arrival, found), device)
        if receipt is None:
            return None
        if dialect.is_native:
            return receipt if receipt.digest == arrival.record.digest else None
        was_told = await self._deliveries.was_told(_ref_of(arrival, found), _report_of(device))
        return None if was_told else receipt

    def _refuse_found(
        self, dialect: Dialect, arrival: Arrival, found: CollectAnswer, timestamp: str | None
    ) -> Answer:
        reason = None
        if found.unfit is not None and found.verdict not in JUDGED_FIRST:
            refusal, reason = refusals.UNFIT, found.unfit.reason
        else:
            refusal = refusals.REPORT[found.verdict]
        response = self._replies.refuse_report(
            dialect,
            refusal,
            found.snapshot,
            device=arrival.record.device,
            number=arrival.number,
            reason=reason,
        )
        if reason is not None and found.unfit is not None and found.unfit.is_out_of_range:
            response = response._replace(verdict=refusals.Word.OUT_OF_RANGE)
        return dialect.refuse(by_its_clock(response, timestamp), refusal)

    def _refuse_sent(self, dialect: Dialect, refusal: Refusal, why: str) -> Answer:
        response = self._replies.refuse_report(
            dialect, refusal, self._view.snapshot, reason=f"{refusal.text} {why}"
        )
        return dialect.refuse(response, refusal)

    # -- get model -----------------------------------------------------------------------

    async def _get_model(self, dialect: Dialect, body: Body) -> web.StreamResponse:
        answer, is_accepted = await self._find_model(dialect, body)
        self._visits.note(Visit.GET_MODEL, is_accepted=is_accepted, size=_size_of(answer))
        return answer

    async def _find_model(self, dialect: Dialect, body: Body) -> tuple[web.StreamResponse, bool]:
        try:
            asked = dialect.decode(messages.RequestGetModel, body.data)
        except PeerProtocolError as exc:
            refusal = refusals.MODEL_SCHEMA
            response = self._replies.refuse_model(dialect, refusal, with_time=False)
            if dialect.is_native:
                response = response._replace(reason=f"{refusal.text} {exc}")
            return dialect.refuse(response, refusal), False
        number = asked.iteration
        if not await self._wait_for_model(dialect, number, asked.hold_ms):
            refusal = refusals.MODEL_NOT_READY
            response = self._replies.refuse_model(dialect, refusal, number)
            return dialect.refuse(response, refusal), False
        latest = self._view.base.record.number
        stored = number if self._view.record_of(number) is not None else latest
        if stored == latest:
            self._note_served()
        ready = await self._replies.hand_out(dialect, asked, stored, lambda: self._load(stored))
        return dialect.success(ready), True

    async def _wait_for_model(self, dialect: Dialect, number: int, hold_ms: int | None) -> bool:
        if self._view.snapshot.ref.number != number:
            return True
        if self._view.snapshot.is_closed:
            return False
        asked_ms = hold_ms if dialect.is_native else self._hold_ms
        allowed_ms = max(0, min(asked_ms or 0, MAX_HOLD_MS))

        def is_over(seen: Snapshot) -> bool:
            return seen.ref.number != number

        if await self._view.hold(is_over, allowed_ms):
            return True
        if dialect.is_native or not allowed_ms or not self._view.snapshot.needs_finishing:
            return False
        # The model is being made: to send a device away now costs it a whole pause.
        return await self._view.hold(is_over, TURNOVER_MS)

    async def _load(self, number: int) -> StoredModel:
        return await self._view.model(number) or self._view.base

    def _note_served(self) -> None:
        """Tell the store, once per round, that a device has the model the round starts from."""
        snapshot = self._view.snapshot
        if snapshot.served or self._served == snapshot.ref:
            return
        self._served = snapshot.ref
        task = asyncio.create_task(self._tell_served(snapshot.ref))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_served(self, ref: RoundRef) -> None:
        try:
            await self._rounds.model_served(ref)
        except FlClusterError as exc:
            if self._served == ref:
                self._served = None
            logger.info("round %s: the store was not told that its model was served: %s", ref, exc)


def _ref_of(arrival: Arrival, found: CollectAnswer) -> RoundRef:
    """The round that the update says it is for, as far as this member can tell."""
    current = found.snapshot.ref
    if arrival.number == current.number:
        return current
    return RoundRef(current.instance, arrival.number)


def _of_no_use(dialect: Dialect, response: Response) -> Response:
    """The refusal of a stranger, who is not told what the job is; old devices need the plan."""
    if dialect.is_native and isinstance(response, messages.ResponseFLJob):
        return response._replace(fl_plan_config=None)
    return response


def _admission_of(device: str) -> str:
    """The name of the answer that the device is in the cohort."""
    return f"{Visit.CHECK_IN}:{device}"


def _report_of(device: str) -> str:
    """The name of the answer that the device's update is counted."""
    return f"{Visit.REPORT}:{device}"


def _size_of(answer: web.StreamResponse) -> int:
    return len(answer.payload) if isinstance(answer, Answer) else 0


async def _digest(body: bytes | memoryview) -> str:
    if len(body) <= INLINE_HASH_BYTES:
        return hashlib.sha256(body).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())


def _missing(sent: messages.RequestUpdateModel, dialect: Dialect) -> str:
    """What an update lacks to be looked at, as a sentence; empty when nothing."""
    if sent.fl_id is None:
        return "fl_id is missing"
    if sent.timestamp is None and not dialect.is_native:
        return "timestamp is missing"
    if not (math.isfinite(sent.upload_loss) and math.isfinite(sent.upload_accuracy)):
        return "upload_loss and upload_accuracy must be finite"
    entries = sent.feature_map if sent.upload_compress_type == 0 else sent.compress_feature_map
    if sent.masked_terms is not None:
        entries = ()
    if entries is None:
        return "feature_map is missing"
    for entry in entries:
        data = entry.data if isinstance(entry, messages.FeatureMap) else entry.compress_data
        if entry.weight_fullname is None or data is None:
            return "an entry of feature_map lacks its name or its data"
    return _missing_evaluation(sent.unsupervised_eval_items)


def _missing_evaluation(items: messages.UnsupervisedEvalItems | None) -> str:
    if items is None:
        return ""
    if items.eval_items is None:
        return "unsupervised_eval_items holds no eval_items"
    for item in items.eval_items:
        if item.eval_data is None or not all(math.isfinite(value) for value in item.eval_data):
            return "an item of unsupervised_eval_items lacks finite eval_data"
    return ""
