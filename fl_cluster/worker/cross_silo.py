"""A cross-silo worker: takes part in every round as a device does, over HTTP.

Synchronous, because it is called from inside a training loop.  It keeps asking through
restarts of its server and through the moments in which a round ends; what it cannot do is
know another address than the one it was given (which may be that of a load balancer).
An answer with HTTP status 404 is asked for again below the job's URL prefix, so that both
servers with a prefix and proxies that add it are reached.
"""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fl_cluster.errors import PeerProtocolError
from fl_cluster.lifecycle.membership import RANDOM_MAX, RANDOM_MIN, member_id
from fl_cluster.wire import flat, messages
from fl_cluster.wire.messages import ResponseCode
from fl_cluster.wire.schema import AnyMessage
from fl_cluster.worker import answers
from fl_cluster.worker.answers import Closed
from fl_cluster.worker.faults import NoAnswer, NothingReceived, Refused
from fl_cluster.worker.link import HttpLink
from fl_cluster.worker.parameters import Floats, Weights
from fl_cluster.worker.pauses import Pauses

if TYPE_CHECKING:
    from fl_cluster.worker.cancelling import CancellingMasks

logger = logging.getLogger(__name__)

Message = TypeVar("Message", bound=AnyMessage)
Step = TypeVar("Step", messages.ResponseExchangeKeys, messages.ReturnExchangeKeys)

GOES_ON = (ResponseCode.SUCCEED, ResponseCode.OutOfTime)
MODEL_PATIENCE_S = 512.0
"""As long as the original asks for a model that is not ready, at one try a second."""
EMPTY = "Feature map from getting model is empty!"


def new_worker_id() -> str:
    """`worker_fl_{time}::{random}`: a name that no worker ever had."""
    number = secrets.randbelow(RANDOM_MAX - RANDOM_MIN + 1) + RANDOM_MIN
    name = member_id("", time.time_ns() // 1000, number)
    return "worker_fl_" + name.removeprefix("::")


@dataclass(frozen=True, slots=True)
class CrossSiloJob:
    """Which job it is, and how long to bear with its servers."""

    name: str
    url_prefix: str = ""
    check_in_patience_s: float = 10.0
    """How long servers may be silent, or between two rounds, when a worker checks in."""
    report_patience_s: float = 20.0
    model_patience_s: float = MODEL_PATIENCE_S
    """How long servers may say that the model is not ready; silence does not count."""
    rest_s: float = 0.2
    """Between two requests; servers that hold a request open take longer by themselves."""


def _now_ms() -> str:
    return str(time.time_ns() // 1_000_000)


class CrossSiloWorker:
    """One worker of a job; one request at a time."""

    def __init__(
        self,
        job: CrossSiloJob,
        link: HttpLink,
        *,
        worker_id: str = "",
        pauses: Pauses | None = None,
        masks: CancellingMasks | None = None,
    ) -> None:
        """With `masks` no update leaves without one."""
        self.id = worker_id or new_worker_id()
        self._job = job
        self._link = link
        self._pauses = pauses or Pauses()
        self._masks = masks
        self._round = 0
        self._is_admitted = False
        self._is_below_prefix = False

    def check_in(self, data_size: int) -> dict[str, Floats] | None:
        """Join the current round: the tensors of the answer (the controls of Scaffold), or
        None when no server gave a valid answer, which a warning tells.

        Refused (a RuntimeError): a server answered, and not with success.
        """
        self._is_admitted = False
        request = messages.RequestFLJob(
            fl_name=self._job.name, fl_id=self.id, data_size=data_size, timestamp=_now_ms()
        )
        try:
            answer = self._ask_patiently(
                "startFLJob", request, messages.ResponseFLJob, self._job.check_in_patience_s
            )
        except NoAnswer as exc:
            logger.warning("worker %s could not check in and trains on: %s", self.id, exc)
            return None
        if isinstance(answer, Closed):
            logger.warning("worker %s could not check in and trains on: %s", self.id, answer)
            return None
        if answer.retcode != ResponseCode.SUCCEED:
            reason = answer.reason or ""
            raise Refused(f"Launching start fl job for worker failed. Reason: {reason}")
        self._round, self._is_admitted = answer.iteration, True
        return answers.weights_of(answer.feature_map)

    def exchange(self, update: Weights, data_size: int) -> dict[str, Floats]:
        """Hand in an update and wait for the model that the round makes.

        A worker that could not check in when the cycle began tries once more.
        NothingReceived (a ValueError): no model came; Refused (a RuntimeError): a server
        answered what leaves no way to go on.
        """
        if not self._is_admitted:
            self.check_in(data_size)
        if not self._is_admitted:
            raise NothingReceived(EMPTY)
        protected = update if self._masks is None else self._masked(update, self._masks)
        if protected is not None and not self._report(protected):
            raise NothingReceived(EMPTY)
        self._is_admitted = False
        return self._model()

    def _masked(self, update: Weights, masks: CancellingMasks) -> Weights | None:
        """The update under masks agreed on with all workers; None when the round has no place
        for it, which a warning tells.

        NothingReceived: no server answered in time; Refused: one answered what leaves no way to
        mask the update.
        """
        mask = masks.begin(self.id, self._round)
        try:
            taken = self._ask_patiently(
                "exchangeKeys",
                mask.offer,
                messages.ResponseExchangeKeys,
                self._job.report_patience_s,
            )
            has_place = self._has_place("exchange keys", taken) is not None
            keys = self._has_place("get keys", self._keys()) if has_place else None
        except NoAnswer as exc:
            logger.error("worker %s could not agree on a mask: %s", self.id, exc)
            raise NothingReceived(EMPTY) from exc
        if keys is None:
            return None
        try:
            return mask.add_to(update, keys)
        except PeerProtocolError as exc:
            raise Refused(f"The update cannot be masked and stays here: {exc}") from exc

    def _keys(self) -> messages.ReturnExchangeKeys | Closed:
        """All workers' keys once all have offered theirs, or why there will be none."""
        request = messages.GetExchangeKeys(self.id, self._round, _now_ms())
        deadline_s = self._pauses.now_s() + self._job.model_patience_s
        while True:
            answer = self._ask_patiently(
                "getKeys", request, messages.ReturnExchangeKeys, self._job.report_patience_s
            )
            if isinstance(answer, Closed) or answer.retcode != ResponseCode.SucNotReady:
                return answer
            if self._is_late(deadline_s):
                raise NoAnswer("the other workers did not offer keys in time")
            self._pauses.rest(self._job.rest_s)

    def _has_place(self, doing: str, answer: Step | Closed) -> Step | None:
        """The answer to a step that was taken; None when the round goes on without this worker."""
        if isinstance(answer, Closed):
            logger.error("worker %s could not %s: %s", self.id, doing, answer)
            raise NothingReceived(EMPTY)
        if answer.retcode == ResponseCode.SUCCEED:
            return answer
        reason = getattr(answer, "reason", None) or ""
        if answer.retcode != ResponseCode.OutOfTime:
            raise Refused(f"Launching {doing} for worker failed. Reason: {reason}")
        logger.warning("worker %s has no part in round %d: %s", self.id, self._round, reason)
        return None

    def _report(self, update: Weights) -> bool:
        """Whether a server took notice; a refusal is logged, and the model waited for."""
        request = messages.RequestUpdateModel(
            fl_name=self._job.name,
            fl_id=self.id,
            iteration=self._round,
            timestamp=_now_ms(),
            feature_map=answers.entries_of(update),
        )
        try:
            answer = self._ask_patiently(
                "updateModel", request, messages.ResponseUpdateModel, self._job.report_patience_s
            )
        except NoAnswer as exc:
            logger.error("the update of worker %s could not be handed in: %s", self.id, exc)
            return False
        if isinstance(answer, Closed):
            logger.error("the update of worker %s was not taken: %s", self.id, answer)
            return False
        if answer.retcode not in GOES_ON:
            logger.error("the update of worker %s was refused: %s", self.id, answer.reason)
        elif answer.retcode != ResponseCode.SUCCEED:
            logger.warning("the update of worker %s did not count: %s", self.id, answer.reason)
        return True

    def _model(self) -> dict[str, Floats]:
        request = messages.RequestGetModel(
            fl_name=self._job.name, iteration=self._round, timestamp=_now_ms()
        )
        waited_s, complaint = 0.0, ""
        while waited_s < self._job.model_patience_s and not self._pauses.is_stopped:
            began_s = self._pauses.now_s()
            try:
                answer = self._ask("getModel", request, messages.ResponseGetModel)
            except NoAnswer as exc:
                # Silence is not counted: servers that come back still have the model.
                if complaint != (complaint := str(exc)):
                    logger.warning("worker %s asks again for the model: %s", self.id, exc)
                self._pauses.rest(self._job.rest_s * 5)
                continue
            if not isinstance(answer, Closed):
                received = self._received(answer)
                if received:
                    return received
            self._pauses.rest(self._job.rest_s)
            waited_s += self._pauses.now_s() - began_s
        raise NothingReceived(EMPTY)

    def _received(self, answer: messages.ResponseGetModel) -> dict[str, Floats]:
        """The tensors of a model that is ready; empty when it has to be asked for again."""
        if answer.retcode == ResponseCode.SucNotReady:
            return {}
        if answer.retcode != ResponseCode.SUCCEED:
            reason = answer.reason or ""
            raise Refused(f"Launching get model for worker failed. Reason: {reason}")
        return answers.weights_of(answer.feature_map)

    def _ask_patiently(
        self, name: str, request: AnyMessage, kind: type[Message], patience_s: float
    ) -> Message | Closed:
        """An answer; waits for a server that is silent, or between two rounds."""
        deadline_s = self._pauses.now_s() + patience_s
        rest_s = self._job.rest_s
        while True:
            try:
                answer = self._ask(name, request, kind)
                if answer is not Closed.SAFEMODE or self._is_late(deadline_s):
                    return answer
            except NoAnswer:
                if self._is_late(deadline_s):
                    raise
            self._pauses.rest(rest_s)
            rest_s = min(2 * rest_s, 2.0)

    def _is_late(self, deadline_s: float) -> bool:
        return self._pauses.is_stopped or self._pauses.now_s() >= deadline_s

    def _ask(self, name: str, request: AnyMessage, kind: type[Message]) -> Message | Closed:
        body = flat.encode(request)
        reply = self._link.post(self._path(name), body)
        if reply.status == 404 and self._job.url_prefix:
            self._is_below_prefix = not self._is_below_prefix
            reply = self._link.post(self._path(name), body)
        return answers.read(kind, reply)

    def _path(self, name: str) -> str:
        return f"{self._job.url_prefix}{name}" if self._is_below_prefix else f"/{name}"

    def stop(self) -> None:
        """End every wait, and the connection."""
        self._pauses.stop()
        self._link.close()
