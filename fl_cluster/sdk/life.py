"""What a device does in each state of its participation: talk to servers, train, tell the user.

`participation.step` decides, this module acts; the loop in `Life.run` is all there is between.
A life holds at most two models: the one the cluster gave out, and the bytes of the update
made from it, kept until the round is over so that a repeat is the same bytes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, assert_never

from fl_cluster.errors import CallerProtocolError, ExitCode, FlClusterError, PeerProtocolError
from fl_cluster.sdk import participation
from fl_cluster.sdk.answers import model_of, not_ready, now_ms, plan_of, refused
from fl_cluster.sdk.exchange import Dialogue, OtherTerms, Question, timestamp_now
from fl_cluster.sdk.protection import Demand, Protector, Tensors
from fl_cluster.sdk.retry import Backoff
from fl_cluster.sdk.training import (
    Update,
    Weights,
    checked,
    reportable,
    writable,
)
from fl_cluster.sdk.transport import Answer, NoAnswer, Reply, Transport
from fl_cluster.sdk.work import Admission, Attempt, RoundOutcome, Work
from fl_cluster.wire import packed
from fl_cluster.wire.messages import (
    RequestFLJob,
    RequestGetModel,
    RequestUpdateModel,
    ResponseFLJob,
    ResponseGetModel,
    ResponseUpdateModel,
)

log = logging.getLogger("fl_cluster.sdk")

DOWNLOADS = (0, 2)
"""The compressions of models that a device understands: none, and 8 bits."""

HOLD_MS = 20_000
"""How long a server may hold the request for a model that does not exist yet."""
NEWEST = -1
"""A round number that no server knows: it answers with its newest model."""
SIGN_AGAIN = frozenset({"clock_off", "replayed"})
"""Verdicts on a report whose signature is too old, or was seen with other bytes."""
WARNING_SHARE = 0.1
"""The part of its patience after which a device warns: a broken connection is nothing yet."""

Outcome = TypeVar("Outcome")


class ServersUnreachable(FlClusterError):
    """No server of the cluster has answered for as long as the device was told to be patient."""

    exit_code = ExitCode.STORE_UNREACHABLE


@dataclass(slots=True)
class Life:
    """One device in one job."""

    work: Work
    transport: Transport
    rules: participation.Rules
    backoff: Backoff
    source: random.Random
    weights: Weights = field(default_factory=dict)
    """The model held, read-only: views of the answer that it came in."""
    digest: str | None = None
    """What the cluster calls that model, so that it need not send it again."""
    admission: Admission | None = None
    protector: Protector = field(default_factory=Protector)
    attempt: Attempt | None = None
    history: list[RoundOutcome] = field(default_factory=list)
    has_warned: bool = False
    """Whether the present trouble has been told to the user."""
    objected_to: int = 0
    """The last masked round that the device would not go on with."""

    async def run(self) -> participation.Finished:
        """Take part until the job is finished.

        ServersUnreachable when they are; CallerProtocolError when a server refuses for good.
        """
        state: participation.State = participation.begin()
        while not isinstance(state, participation.Over):
            if not isinstance(state, participation.Training) and state.rest is not None:
                await asyncio.sleep(self.backoff.delay_ms(state.rest, self.source) / 1000)
            event = await self._perform(state)
            self._notice(state, event)
            state = participation.step(state, event, self.rules)
        match state:
            case participation.Finished():
                return state
            case participation.Unreachable():
                raise ServersUnreachable(
                    f"no server has answered for {state.for_ms / 1000:.0f} s: {state.reason}"
                )
            case participation.Rejected():
                raise CallerProtocolError(
                    f"the server refused the device's attempt to {state.doing}:"
                    f" {state.verdict}: {state.reason}"
                )
            case _:
                assert_never(state)

    async def _perform(
        self, state: participation.Question | participation.Training
    ) -> participation.Event:
        try:
            match state:
                case participation.Offering():
                    return await self._check_in(state)
                case participation.Preparing():
                    return await self._prepare(state)
                case participation.Training():
                    return await self._train()
                case participation.Reporting():
                    return await self._report(state)
                case participation.Revealing():
                    return await self._reveal(state)
                case participation.Awaiting():
                    return await self._await_model(state)
                case participation.Closing():
                    return await self._fetch_last(state)
                case _:
                    assert_never(state)
        except NoAnswer as exc:
            return participation.Fault(exc.reason, now_ms(), exc.retry_after_ms)

    async def _check_in(self, state: participation.Offering) -> participation.Event:
        held_round = state.standing.held_round
        began_s = time.monotonic()
        timestamp, identity = timestamp_now(), self.work.identity
        answer = await self._ask(
            "startFLJob",
            RequestFLJob(
                fl_name=self.work.job,
                fl_id=self.work.device_id,
                iteration=max(0, held_round),
                data_size=self.work.data_size,
                eval_data_size=self.work.eval_data_size,
                timestamp=timestamp,
                model_digest=self.digest,
                download_compress_types=DOWNLOADS,
                **({} if identity is None else identity.check_in_fields(timestamp)),
            ),
            ResponseFLJob,
        )
        message = answer.message
        if answer.status != 200:
            total = message.fl_plan_config.iterations if message.fl_plan_config else 0
            return refused(answer, total)
        if message.fl_plan_config is None:
            raise NoAnswer("the check-in was accepted without a plan")
        demand = Demand.of(message)
        self.protector.insistence.check(demand.protection)
        if not message.model_unchanged:
            self.weights = model_of(message)
            self.digest = message.model_digest
            held_round = message.iteration - 1
            if message.model_round is not None:
                held_round = message.model_round
        if not self.weights:
            raise NoAnswer("the check-in was accepted without a model")
        plan = plan_of(message.iteration, message.fl_plan_config)
        self._let_go_before(plan.round_number, held_round)
        work = self.work
        try:
            exchange = self.protector.exchange(
                demand, work.device_id, plan, work.identity, self.weights
            )
        except OtherTerms as exc:
            self.digest = None  # the next answer brings the whole model
            raise NoAnswer(str(exc)) from exc
        self.admission = Admission(plan, demand, began_s, self.digest, exchange)
        return participation.Admitted(
            plan.round_number, plan.rounds_total, held_round, now_ms(), demand.is_masked
        )

    async def _prepare(self, state: participation.Preparing) -> participation.Event:
        admission = self._current_admission()
        assert admission.plan.round_number == state.number, (admission.plan, state)
        assert admission.exchange is not None, "devices agree on masks in masked rounds only"
        preparation = admission.exchange.preparation
        if not state.is_doubting:
            return await self._step(preparation, state.number)
        return await self._say_again(preparation.said_before())

    async def _say_again(self, question: Question[Any]) -> participation.Event:
        """See whether the round still knows what this device said."""
        answer = await question.put(self.transport)
        if answer.status == 200 or answer.verdict in question.is_done_when:
            return participation.Stepped(is_last=False, at_ms=now_ms())
        return await self._declined(question, answer)

    async def _reveal(self, state: participation.Revealing) -> participation.Event:
        exchange = self._current_attempt().admission.exchange
        assert exchange is not None, "there is nothing to reveal in other than masked rounds"
        return await self._step(exchange.revelation, state.kept.number)

    async def _step(self, dialogue: Dialogue, number: int) -> participation.Event:
        """Take the next step with the other devices of a masked round."""
        try:
            question = await self._in_thread(dialogue.question)
            answer = await question.put(self.transport)
            if answer.status == 200 or answer.verdict in question.is_done_when:
                is_last = await self._in_thread(lambda: dialogue.take(answer.message))
                return participation.Stepped(is_last, now_ms())
        except PeerProtocolError as exc:
            if self.objected_to != number:
                self.objected_to = number
                log.warning(
                    "device %s stays out of round %d from here on: %s",
                    self.work.device_id,
                    number,
                    exc,
                )
            return participation.Objected(str(exc), now_ms())
        return await self._declined(question, answer)

    async def _declined(self, question: Question[Any], answer: Answer[Any]) -> participation.Event:
        if answer.status == 202:
            return not_ready(answer)
        if answer.verdict in SIGN_AGAIN:
            await self._in_thread(question.renew)
        return refused(answer)

    async def _train(self) -> participation.Event:
        admission = self._current_admission()
        update, request, body = await self._in_thread(lambda: self._make_update(admission))
        self.attempt = Attempt(admission, update, request, body)
        return participation.Trained()

    def _make_update(self, admission: Admission) -> tuple[Update, RequestUpdateModel, bytes]:
        """Train, check and encode; runs in a thread, and only reads what the life holds."""
        work, plan = self.work, admission.plan
        accuracy: float | None = None
        if work.evaluate is not None:
            accuracy = reportable("accuracy", float(work.evaluate(writable(self.weights))))
        update = checked(work.train(writable(self.weights), plan), self.weights, work.data_size)
        request = RequestUpdateModel(
            fl_name=work.job,
            fl_id=work.device_id,
            iteration=plan.round_number,
            upload_loss=update.loss,
            upload_accuracy=update.accuracy if accuracy is None else accuracy,
            **self._protected(admission, update.weights),
        )
        request = self._signed(request)
        return update, request, packed.encode(request)

    def _protected(self, admission: Admission, trained: Tensors) -> dict[str, Any]:
        """The fields of a report that carry the update, as the job wants it protected."""
        data_size, exchange = self.work.data_size, admission.exchange
        if exchange is not None:
            return exchange.fields(trained, data_size)
        return self.protector.fields(
            admission.demand,
            trained,
            self.weights,
            data_size=data_size,
            number=admission.plan.round_number,
        )

    def _signed(self, request: RequestUpdateModel) -> RequestUpdateModel:
        """The request as of now, signed if this device proves who it is."""
        timestamp, identity = timestamp_now(), self.work.identity
        if identity is None:
            return request._replace(timestamp=timestamp)
        signature = identity.sign_request(timestamp, request.iteration)
        return request._replace(timestamp=timestamp, signature=signature)

    async def _report(self, state: participation.Reporting) -> participation.Event:
        attempt = self._current_attempt()
        assert attempt.plan.round_number == state.kept.number, (attempt.plan, state)
        answer = await self.transport.ask("updateModel", attempt.body, ResponseUpdateModel)
        attempt.acknowledged = answer.status == 200
        if not attempt.acknowledged:
            if answer.verdict in SIGN_AGAIN:
                attempt.request = self._signed(attempt.request)
                attempt.body = await self._in_thread(lambda: packed.encode(attempt.request))
            return refused(answer)
        if answer.message.receipt is not None:
            attempt.position = answer.message.receipt.position
        return participation.Counted(now_ms())

    async def _await_model(self, state: participation.Awaiting) -> participation.Event:
        event = await self._fetch(state.kept.number)
        if isinstance(event, participation.ModelCame):
            self._conclude(event.held_round)
        return event

    async def _fetch_last(self, state: participation.Closing) -> participation.Event:
        event = await self._fetch(state.standing.rounds_total or NEWEST)
        if isinstance(event, participation.ModelCame):
            self._let_go_before(None, event.held_round)
        return event

    async def _fetch(self, number: int) -> participation.Event:
        """Ask for the model that this round ends with; the answer's tensors replace the held."""
        answer = await self._ask(
            "getModel",
            RequestGetModel(
                fl_name=self.work.job,
                iteration=number,
                timestamp=timestamp_now(),
                hold_ms=HOLD_MS,
                download_compress_types=DOWNLOADS,
            ),
            ResponseGetModel,
        )
        if answer.status == 202:
            return not_ready(answer)
        if answer.status != 200:
            return refused(answer)
        # Tensors that are not aggregated are part of the check-in's model only: they never change.
        came = model_of(answer.message)
        if not came:
            raise NoAnswer("the model came without tensors")
        if self.attempt is not None and not came.keys() - self.weights.keys():
            self.protector.saw_model(self.attempt.admission.demand, number, self.weights, came)
        self.weights = {**self.weights, **came}
        self.digest = answer.message.model_digest
        model_round = answer.message.model_round
        return participation.ModelCame(number if model_round is None else model_round, now_ms())

    async def _ask(
        self, endpoint: str, request: RequestFLJob | RequestGetModel, reply: type[Reply]
    ) -> Answer[Reply]:
        return await self.transport.ask(endpoint, packed.encode(request), reply)

    async def _in_thread(self, call: Callable[[], Outcome]) -> Outcome:
        if self.work.inline:
            return call()
        return await asyncio.get_running_loop().run_in_executor(self.work.executor, call)

    def _current_admission(self) -> Admission:
        assert self.admission is not None, "a device works for a round only after a check-in"
        return self.admission

    def _current_attempt(self) -> Attempt:
        assert self.attempt is not None, "a device reports and waits only after training"
        return self.attempt

    def _let_go_before(self, number: int | None, model_round: int) -> None:
        """A round that ended while the device asked elsewhere is over, if it had the update.

        `number` is the round that the cluster is in now; None: it is in none any more.
        """
        attempt = self.attempt
        if attempt is None or not attempt.acknowledged:
            return
        if number is None or number > attempt.plan.round_number:
            self._conclude(model_round)

    def _conclude(self, model_round: int) -> None:
        """A model came, of this round: record the trained one, tell the user, forget the update."""
        attempt = self._current_attempt()
        outcome = RoundOutcome(
            round_number=attempt.plan.round_number,
            rounds_total=attempt.plan.rounds_total,
            counted=attempt.is_in(model_round, self.digest),
            position=attempt.position,
            samples=self.work.data_size,
            loss=attempt.update.loss,
            accuracy=attempt.update.accuracy,
            metrics=attempt.update.metrics,
            seconds=time.monotonic() - attempt.admission.began_s,
        )
        self.attempt = None
        self.history.append(outcome)
        log.info(
            "device %s: round %d of %d: %s, loss %.4g, %.1f s",
            self.work.device_id,
            outcome.round_number,
            outcome.rounds_total,
            "counted" if outcome.counted else "not counted",
            outcome.loss,
            outcome.seconds,
        )
        if self.work.on_round is not None:
            self.work.on_round(outcome, self.weights)

    def _notice(self, state: participation.State, event: participation.Event) -> None:
        """Turn to another server when this one is of no use; warn once when that lasts."""
        match event:
            case participation.Fault() | participation.Refused(verdict="unavailable"):
                self.transport.try_another()
                log.debug("device %s: no answer: %s", self.work.device_id, event.reason)
                self._warn_of_lasting_trouble(state, event)
            case participation.Refused():
                self.has_warned = False
                log.debug("device %s: %s: %s", self.work.device_id, event.verdict, event.reason)
            case _:
                self.has_warned = False

    def _warn_of_lasting_trouble(
        self, state: participation.State, event: participation.Fault | participation.Refused
    ) -> None:
        if not isinstance(state, participation.Asking) or state.trouble_since_ms is None:
            return
        lasted_ms = event.at_ms - state.trouble_since_ms
        if not self.has_warned and lasted_ms >= self.rules.patience_ms * WARNING_SHARE:
            self.has_warned = True
            log.warning(
                "device %s: no answer for %.0f s, giving up after %.0f s: %s",
                self.work.device_id,
                lasted_ms / 1000,
                self.rules.patience_ms / 1000,
                event.reason,
            )
