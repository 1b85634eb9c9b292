"""Answers of the device plane as messages, and the large ones as ready bytes.

An answer that carries the model is built once per round and encoding, and sent from the same
bytes to every device.  Little else costs time, so little else is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from functools import lru_cache
from typing import TypeVar

from fl_cluster.aggregate.layout import Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.api.dialects import Dialect
from fl_cluster.api.refusals import Refusal, Retry
from fl_cluster.compression.quant import quantise
from fl_cluster.config.schema import (
    DownloadCompression,
    EncryptSettings,
    EncryptType,
    ServerMode,
    Settings,
    UploadCompression,
)
from fl_cluster.config.shared import SharedParameters
from fl_cluster.privacy.shamir import ANNOUNCED_PRIME
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.ledger import INLINE_ELEMENTS
from fl_cluster.service.ring_records import announcement
from fl_cluster.service.view import JobView, StoredModel
from fl_cluster.store.ports import Receipt, Snapshot
from fl_cluster.wire import messages
from fl_cluster.wire.limits import MAX_INT
from fl_cluster.wire.messages import ResponseCode

COME_BACK_PER_S = 500
"""Devices that are turned away are spread over as long as so many a second take to come back."""

MOST_SPREAD_MS = 600_000

CLOCK_MARGIN_MS = 5_000
"""Existing devices give up for good when told to come back in what their clock calls the past."""

PRIME_BYTES = 33

QUANT = 2
"""The compression of downloads, as the wire numbers it."""

SOON_MS = 200
NEXT_ROUND_MS = 1_000

logger = logging.getLogger(__name__)

Choice = Callable[[Tensor], bool]
"""Which tensors of a model go into an answer."""


class Replies:
    """Makes the answers of one member's device plane."""

    def __init__(self, settings: Settings, view: JobView) -> None:
        self._settings = settings
        self._view = view
        self._is_secure = settings.encrypt.kind is EncryptType.SECURE_AGGREGATION
        self._ready = ReadyBytes(slots=4)
        self._plan_of = lru_cache(maxsize=2)(self._make_plan)
        self._turned_away: tuple[RoundRef, int] | None = None
        """The round, and how many devices it had no place for, as far as they came here."""

    def come_back_at(self, snapshot: Snapshot, later_ms: int = 0) -> str:
        """When a device may come again, as devices expect it: epoch milliseconds, in the future.

        A round takes at most its windows, so that is when the next one is surely open.
        """
        now = time.time_ns() // 1_000_000
        plan, exchange = snapshot.plan, snapshot.plan.exchange
        windows = plan.select_window_ms + plan.report_window_ms
        if exchange is not None:
            goals = (exchange.keys, exchange.shares, exchange.signatures, exchange.reveals)
            windows += exchange.window_ms * sum(goal > 0 for goal in goals)
            windows = min(windows, plan.round_window_ms)
        opened_at = now if snapshot.opened_at is None else snapshot.opened_at
        return str(max(opened_at + windows, now + CLOCK_MARGIN_MS) + later_ms)

    def refuse_check_in(
        self, dialect: Dialect, refusal: Refusal, device: str = "", *, with_time: bool = True
    ) -> messages.ResponseFLJob:
        """A check-in that was refused; the plan is there all the same, because devices need it."""
        snapshot = self._view.snapshot
        later_ms = self._place_in_queue(snapshot.ref) if refusal.retry is Retry.NEXT_ROUND else 0
        come_back = self.come_back_at(snapshot, later_ms) if with_time else ""
        return self._check_in(snapshot)._replace(
            retcode=refusal.code,
            reason=refusal.text.format(device=device),
            next_req_time=come_back,
            verdict=refusal.word if dialect.is_native else None,
            retry_after_ms=retry_after_ms(refusal, later_ms),
        )

    def _place_in_queue(self, ref: RoundRef) -> int:
        """How much later than the first this device may come back, in milliseconds.

        A herd that is turned away together would otherwise be back together.
        """
        before = 0
        if self._turned_away is not None and self._turned_away[0] == ref:
            before = self._turned_away[1]
        self._turned_away = (ref, before + 1)
        return min(before * 1_000 // COME_BACK_PER_S, MOST_SPREAD_MS)

    def make_room(self) -> None:
        """Called before an update is taken: sums and bodies need memory."""
        if self._view.snapshot.phase == "reporting":
            self._ready.forget("check_in")  # nobody is admitted any more

    async def admit(
        self, dialect: Dialect, snapshot: Snapshot, asked: messages.RequestFLJob
    ) -> bytes:
        """The answer to an admitted device, with the model unless it holds it already."""
        base = self._view.base
        if dialect.is_native and asked.model_digest == base.record.digest:
            response = self._admitted(snapshot, base)._replace(model_unchanged=True)
            return dialect.encode(response)
        is_small = self._is_small(asked.download_compress_types)
        self._ready.keep_only(snapshot.ref)
        key = ("check_in", dialect.is_native, is_small, snapshot.ref, base.record.digest)
        body = self._ready.peek(key)
        if body is not None:
            return body
        # Now, because the answer may be built when the view has another base already.
        response, choice = self._admitted(snapshot, base), self._choice_at_check_in(dialect)

        def build() -> bytes:
            return dialect.encode(_carrying(response, base.model, choice, is_small=is_small))

        return await self._ready.get(key, base.model.layout.size, build)

    def _is_small(self, known: tuple[int, ...] | None) -> bool:
        """Whether the model goes out in 8 bits: the job says so, and the device knows how."""
        is_offered = self._settings.compression.download is DownloadCompression.QUANT
        return is_offered and QUANT in (known or ())

    def _choice_at_check_in(self, dialect: Dialect) -> Choice:
        """Existing workers of several silos hold the model already, and take controls only."""
        rule = self._view.rule
        if dialect.is_native or self._view.parameters.server_mode != ServerMode.CLOUD_TRAINING:
            return _everything
        return lambda tensor: rule.is_control(tensor.name)

    def _choice_after_round(self, dialect: Dialect, left_out: Iterable[str]) -> Choice:
        """What was aggregated; of a hybrid round everything, because a worker may have made it.

        Control variates are handed out at check-in only, and existing devices expect tensors
        that nobody uploaded to be left out.
        """
        rule = self._view.rule
        if self._view.snapshot.plan.is_hybrid:
            return lambda tensor: not rule.is_control(tensor.name)
        unwanted = frozenset(() if dialect.is_native else left_out)
        return lambda tensor: (
            tensor.is_aggregated
            and tensor.name not in unwanted
            and not rule.is_control(tensor.name)
        )

    def _check_in(self, snapshot: Snapshot) -> messages.ResponseFLJob:
        parameters = self._plan_of(self._view.job.hyper_parameters)
        return messages.ResponseFLJob(
            iteration=snapshot.ref.number,
            fl_plan_config=parameters[0],
            feature_map=(),
            compress_feature_map=(),
            upload_compress_type=int(
                self._settings.compression.upload is UploadCompression.DIFF_SPARSE_QUANT
            ),
            upload_sparse_rate=parameters[1],
            unsupervised_eval_flg=int(self._view.parameters.is_evaluated),
        )

    def _admitted(self, snapshot: Snapshot, base: StoredModel) -> messages.ResponseFLJob:
        return self._check_in(snapshot)._replace(
            retcode=ResponseCode.SUCCEED,
            reason="success",
            is_selected=True,
            next_req_time=self.come_back_at(snapshot),
            verdict="accepted",
            model_round=base.record.number,
            model_digest=base.record.digest,
            secure=announcement(self._view) if self._is_secure else None,
        )

    def _make_plan(self, hyper_parameters: str) -> tuple[messages.FLPlan, float]:
        parameters = SharedParameters.parse(hyper_parameters)
        plan = messages.FLPlan(
            server_mode=parameters.server_mode,
            fl_name=self._settings.name,
            iterations=min(parameters.rounds_total, MAX_INT),
            epochs=min(parameters.epochs, MAX_INT),
            mini_batch=min(parameters.batch_size, MAX_INT),
            lr=parameters.learning_rate,
            cipher=_protection(self._settings.encrypt),
        )
        return plan, parameters.upload_sparse_rate

    def refuse_report(
        self,
        dialect: Dialect,
        refusal: Refusal,
        snapshot: Snapshot,
        *,
        device: str = "",
        number: int = 0,
        reason: str | None = None,
    ) -> messages.ResponseUpdateModel:
        """A report that was refused; `reason` is the sentence for whoever is no old device."""
        come_back = self.come_back_at(snapshot)
        text = refusal.text.format(
            device=device, number=number, current=snapshot.ref.number, time=come_back
        )
        is_about_form = refusal.text == text and refusal.code == ResponseCode.RequestError
        return messages.ResponseUpdateModel(
            retcode=refusal.code,
            reason=(reason or refusal.native_text or text) if dialect.is_native else text,
            next_req_time="" if is_about_form else come_back,
            verdict=refusal.word,
            retry_after_ms=retry_after_ms(refusal),
        )

    def count(self, dialect: Dialect, snapshot: Snapshot, receipt: Receipt) -> bytes:
        """The answer to a counted update."""
        come_back = self.come_back_at(snapshot)
        if not dialect.is_native:
            return _counted_flat(dialect, come_back)
        proof = messages.Receipt(receipt.round_number, receipt.digest, receipt.position)
        return dialect.encode(
            messages.ResponseUpdateModel(
                retcode=ResponseCode.SUCCEED,
                reason="success not ready",
                next_req_time=come_back,
                verdict="accepted",
                receipt=proof,
            )
        )

    def refuse_model(
        self, dialect: Dialect, refusal: Refusal, number: int = 0, *, with_time: bool = True
    ) -> messages.ResponseGetModel:
        """No model now."""
        snapshot = self._view.snapshot
        return messages.ResponseGetModel(
            retcode=refusal.code,
            reason=refusal.text.format(number=number),
            iteration=snapshot.ref.number,
            feature_map=(),
            timestamp=self.come_back_at(snapshot) if with_time else "",
            compress_feature_map=(),
            verdict=refusal.word if dialect.is_native else None,
            retry_after_ms=retry_after_ms(refusal),
        )

    async def hand_out(
        self,
        dialect: Dialect,
        asked: messages.RequestGetModel,
        number: int,
        load: Callable[[], Awaitable[StoredModel]],
    ) -> bytes:
        """The answer that carries model `number`, which need not be the one that was asked for."""
        snapshot = self._view.snapshot
        record = self._view.record_of(number)
        is_small = self._is_small(asked.download_compress_types)
        self._ready.keep_only(snapshot.ref)
        key = ("model", dialect.is_native, is_small, snapshot.ref, number, record and record.digest)
        body = self._ready.peek(key)
        if body is not None:
            return body
        stored = await load()

        def build() -> bytes:
            choice = self._choice_after_round(dialect, stored.record.left_out)
            response = messages.ResponseGetModel(
                retcode=ResponseCode.SUCCEED,
                reason=f"Get model for iteration {asked.iteration % 2**64}",
                iteration=snapshot.ref.number,
                feature_map=(),
                timestamp=self.come_back_at(snapshot),
                compress_feature_map=(),
                verdict="accepted",
                model_round=number,
                model_digest=stored.record.digest,
            )
            return dialect.encode(_carrying(response, stored.model, choice, is_small=is_small))

        return await self._ready.get(key, stored.model.layout.size, build)


@lru_cache(maxsize=8)
def _counted_flat(dialect: Dialect, come_back: str) -> bytes:
    return dialect.encode(
        messages.ResponseUpdateModel(
            retcode=ResponseCode.SUCCEED, reason="success not ready", next_req_time=come_back
        )
    )


def retry_after_ms(refusal: Refusal, later_ms: int = 0) -> int | None:
    """How long to wait, as the refusal says it; None when it does not."""
    waits = {Retry.SOON: SOON_MS, Retry.NEXT_ROUND: NEXT_ROUND_MS + later_ms}
    return waits.get(refusal.retry)


def _everything(_: Tensor) -> bool:
    return True


def features(model: Model, choice: Choice) -> tuple[messages.FeatureMap, ...]:
    """The chosen tensors of a model as the wire has them, by name."""
    return tuple(
        messages.FeatureMap(
            place.tensor.name, model.values[place.start : place.stop], place.tensor.shape
        )
        for place in model.layout.places
        if choice(place.tensor)
    )


Carrier = TypeVar("Carrier", messages.ResponseFLJob, messages.ResponseGetModel)


def _carrying(response: Carrier, model: Model, choice: Choice, *, is_small: bool) -> Carrier:
    """The answer with the chosen tensors; in 8 bits with all of them, as devices expect it."""
    if is_small:
        try:
            small = tuple(_small_features(model))
        except ValueError as exc:
            logger.warning("model %s goes out uncompressed: %s", model.digest[:16], exc)
        else:
            return response._replace(download_compress_type=QUANT, compress_feature_map=small)
    return response._replace(feature_map=features(model, choice))


def _small_features(model: Model) -> Iterator[messages.CompressFeatureMap]:
    """All tensors in 8 bits; ValueError when one of them cannot be."""
    for place in model.layout.places:
        tensor = place.tensor
        try:
            chunk = quantise(model.values[place.start : place.stop])
        except ValueError as exc:
            raise ValueError(f"tensor {tensor.name!r}: {exc}") from exc
        yield messages.CompressFeatureMap(
            tensor.name, chunk.quants, chunk.minimum, chunk.maximum, tensor.shape
        )


def _protection(encrypt: EncryptSettings) -> messages.CipherPublicParams:
    """How devices protect their updates, and with which numbers.

    Existing servers send the parts zeroed when nothing is encrypted, and existing devices
    look whether they are there.
    """
    nothing = messages.CipherPublicParams(
        encrypt_type=encrypt.kind.value,
        pw_params=messages.PWParams(p=bytes(32), prime=bytes(PRIME_BYTES)),
        dp_params=messages.DPParams(),
        ds_params=messages.DSParams(),
    )
    if encrypt.kind is EncryptType.NOT_ENCRYPT:
        return nothing
    privacy, signs = encrypt.privacy, encrypt.signs
    prime = ANNOUNCED_PRIME if encrypt.kind is EncryptType.PW_ENCRYPT else 0
    return nothing._replace(
        pw_params=messages.PWParams(
            t=min(encrypt.masking.reconstruct_threshold, MAX_INT),
            p=bytes(32),
            g=1,
            prime=prime.to_bytes(PRIME_BYTES, "big"),
        ),
        dp_params=messages.DPParams(privacy.epsilon, privacy.delta, privacy.norm_clip),
        ds_params=messages.DSParams(
            signs.top_ratio,
            signs.epsilon,
            signs.threshold_ratio,
            signs.global_learning_rate,
            signs.dimensions_out,
        ),
    )


Key = tuple[Hashable, ...]
"""Which answer it is: its kind, and what it was made from."""


class ReadyBytes:
    """The last few large answers, each built once whoever asks for it at the same time."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._bodies: OrderedDict[Key, bytes] = OrderedDict()
        self._building: dict[Key, asyncio.Task[bytes]] = {}
        self._generation: Hashable = None

    def keep_only(self, generation: Hashable) -> None:
        """Forget what was made for another generation: nobody will ask for it again.

        Called before something new is built, because that may take as much memory again.
        """
        if generation != self._generation:
            self._generation = generation
            self._bodies.clear()

    def forget(self, kind: str) -> None:
        """Forget the answers whose keys begin with `kind`."""
        for key in [key for key in self._bodies if key[0] == kind]:
            del self._bodies[key]

    def peek(self, key: Key) -> bytes | None:
        """The answer if it is ready."""
        body = self._bodies.get(key)
        if body is not None:
            self._bodies.move_to_end(key)
        return body

    async def get(self, key: Key, elements: int, build: Callable[[], bytes]) -> bytes:
        """The answer, built now (in a thread when it is large) if it is not ready."""
        body = self.peek(key)
        if body is not None:
            return body
        task = self._building.get(key)
        if task is None:
            task = self._building[key] = asyncio.create_task(self._build(key, elements, build))
        return await asyncio.shield(task)

    async def _build(self, key: Key, elements: int, build: Callable[[], bytes]) -> bytes:
        try:
            body = build() if elements <= INLINE_ELEMENTS else await asyncio.to_thread(build)
            self._bodies[key] = body
            while len(self._bodies) > self._slots:
                self._bodies.popitem(last=False)
            return body
        finally:
            del self._building[key]
