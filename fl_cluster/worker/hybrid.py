"""A hybrid worker: pulls what devices made together, and pushes what it made of that.

Any server serves any request, so each goes to the first one that can be reached, in the
order of their ids; one that breaks the connection or does not answer in time makes the next
be asked.  Requests are repeated until they are answered, or the worker is stopped: the
cluster counts each once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from fl_cluster.wire import flat, messages
from fl_cluster.wire.messages import ResponseCode
from fl_cluster.wire.schema import AnyMessage
from fl_cluster.worker import answers
from fl_cluster.worker.answers import Closed
from fl_cluster.worker.faults import NoAnswer, NothingReceived, Refused
from fl_cluster.worker.link import HttpLink
from fl_cluster.worker.parameters import Floats, Weights
from fl_cluster.worker.pauses import Pauses

logger = logging.getLogger(__name__)

Message = TypeVar("Message", bound=AnyMessage)

NOTHING_PULLED = "Feature map fbs size is empty."


@dataclass(frozen=True, slots=True)
class Persistence:
    """How long a worker rests before it asks again, in seconds, and how often it does."""

    not_ready_s: float = 0.2
    closed_s: float = 0.5
    """After a server said that it serves nobody now."""
    silence_s: float = 0.5
    """After no server answered."""
    metrics_tries: int = 3600


class Directory(Protocol):
    """Where the servers of the job are, as far as this process knows."""

    def servers(self) -> Sequence[str]:
        """Their addresses, in the order of the servers' ids."""

    def instance(self) -> str:
        """The name of the training run; it changes when a new one begins."""


class HybridWorker:
    """The worker of a job; `reach` makes the link to the server at an address."""

    def __init__(
        self,
        directory: Directory,
        reach: Callable[[str], HttpLink],
        *,
        url_prefix: str = "",
        persistence: Persistence | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        self._directory = directory
        self._persistence = persistence or Persistence()
        self._reach = reach
        self._prefix = url_prefix or "/"
        self._pauses = pauses or Pauses()
        self._links: dict[str, HttpLink] = {}
        self._pulled = 0
        self._pushed = 0
        self._instance = directory.instance()

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._pauses.is_stopped

    def pull(self, names: Sequence[str]) -> dict[str, Floats]:
        """The round's aggregate of these parameters, once there is one.

        Refused (a RuntimeError): the cluster answers that it never will be;
        NothingReceived (a ValueError): the worker was stopped meanwhile.
        """
        self._pulled += 1
        while (answer := self._pull_once(names)) is not None:
            if answer.retcode == ResponseCode.SUCCEED:
                received = answers.weights_of(answer.feature_map)
                if received:
                    return received
            if answer.retcode != ResponseCode.SucNotReady:
                logger.error("the weights could not be pulled: %s", answer.reason)
                raise Refused(NOTHING_PULLED)
            self._adopt(answer.iteration)
            self._pauses.rest(self._persistence.not_ready_s)
        raise NothingReceived("Weights from pulling weight is empty!")

    def _pull_once(self, names: Sequence[str]) -> messages.ResponsePullWeight | None:
        request = messages.RequestPullWeight(iteration=self._pulled, weight_names=tuple(names))
        return self._ask("pullWeight", request, messages.ResponsePullWeight)

    def _adopt(self, current: int) -> None:
        """Follow the cluster to the round it is in."""
        instance = self._directory.instance()
        if current > self._pulled:
            self._pulled = current
        elif instance != self._instance:
            self._pulled = 1
        self._instance = instance

    def push(self, weights: Weights) -> bool:
        """Hand in the retrained weights; whether the cluster has them."""
        self._pushed += 1
        entries = answers.entries_of(weights)
        while True:
            request = messages.RequestPushWeight(iteration=self._pushed, feature_map=entries)
            answer = self._ask("pushWeight", request, messages.ResponsePushWeight)
            if answer is None:
                return False
            if answer.retcode != ResponseCode.SucNotReady:
                break
            self._pushed = answer.iteration
            self._pauses.rest(self._persistence.not_ready_s)
        if answer.retcode != ResponseCode.SUCCEED:
            logger.error("the weights could not be pushed: %s", answer.reason)
        return answer.retcode == ResponseCode.SUCCEED

    def push_metrics(self, loss: float, accuracy: float) -> bool:
        """Say how good the model is, which ends the round; False when it was not taken.

        True as well when the worker was stopped: then nobody waits for it.
        """
        request = messages.RequestPushMetrics(loss=loss, accuracy=accuracy)
        tries = self._persistence.metrics_tries
        answer = self._ask("pushMetrics", request, messages.ResponsePushMetrics, tries)
        if answer is None:
            return self.is_stopped
        return answer.retcode == ResponseCode.SUCCEED

    def _ask(
        self, name: str, request: AnyMessage, kind: type[Message], tries: int | None = None
    ) -> Message | None:
        """The answer of any server; None when the worker was stopped, or all tries failed."""
        body, told, rests = flat.encode(request), "", self._persistence
        while not self.is_stopped:
            answer, why = self._ask_around(name, body, kind)
            if answer is not None and not isinstance(answer, Closed):
                return answer
            if told != (told := why):
                logger.warning("%s is asked again: %s", name, why)
            if answer is None and tries is not None and (tries := tries - 1) <= 0:
                break
            self._pauses.rest(rests.silence_s if answer is None else rests.closed_s)
        return None

    def _ask_around(
        self, name: str, body: bytes, kind: type[Message]
    ) -> tuple[Message | Closed | None, str]:
        """The first answer of the servers in turn, or None; and why it is none to go by."""
        why = "no server of this job is alive"
        for address in self._directory.servers():
            try:
                reply = self._link_to(address).post(f"{self._prefix}{name}", body)
                answer = answers.read(kind, reply)
            except NoAnswer as exc:
                why = str(exc)
                continue
            return answer, str(answer) if isinstance(answer, Closed) else ""
        return None, why

    def _link_to(self, address: str) -> HttpLink:
        if address not in self._links:
            self._links[address] = self._reach(address)
        return self._links[address]

    def stop(self) -> None:
        """End every wait, and the connections."""
        self._pauses.stop()
        for link in self._links.values():
            link.close()


def is_finite(weights: Weights) -> bool:
    """Whether there is neither a NaN nor an infinity in them."""
    return all(bool(np.isfinite(values).all()) for values in weights.values())
