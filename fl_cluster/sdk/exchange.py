"""A device's steps with the other devices of a masked round: what to ask next, and in what order.

Each half of an exchange, before and after the update, is a generator of questions that goes on
with each answer.  So every step is taken once and in order, and after an objection nothing more
is said.  A question keeps its bytes: a repeat is the same request, unless its signature has
become too old, and then only time and signature are new.
Not here: when to ask again (participation.py), what is agreed on (masking.py, secure.py).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from fl_cluster.errors import PeerProtocolError
from fl_cluster.sdk.transport import Answer, Reply, Transport
from fl_cluster.wire import packed
from fl_cluster.wire.schema import AnyMessage

Tensors = Mapping[str, NDArray[np.float32]]


def timestamp_now() -> str:
    """Now, as the protocol writes it: milliseconds since the epoch, in decimal."""
    return str(int(time.time() * 1000))


@dataclass(slots=True)
class Question(Generic[Reply]):
    """One request; `make` gives the message as of a time."""

    endpoint: str
    make: Callable[[str], AnyMessage]
    reply: type[Reply]
    is_done_when: frozenset[str] = frozenset()
    """Refusals that say that nothing is left to do in this step."""
    body: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Say the same as of now."""
        self.body = packed.encode(self.make(timestamp_now()))

    async def put(self, transport: Transport) -> Answer[Reply]:
        """What the current server answers; NoAnswer when it does not."""
        return await transport.ask(self.endpoint, self.body, self.reply)


Steps = Generator[Question[Any], Any, None]


class Dialogue:
    """One half of an exchange.  PeerProtocolError is the device's objection, ever after."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._question: Question[Any] | None = None
        self._before: Question[Any] | None = None
        self._objection = ""
        self._is_over = False

    def question(self) -> Question[Any]:
        """What to ask now; after the end, what was asked last."""
        if self._question is None or self._objection:
            self._advance(None)
        assert self._question is not None, "an exchange has at least one step"
        return self._question

    def said_before(self) -> Question[Any]:
        """What was asked before that, or what to ask now if there was nothing."""
        return self._before or self.question()

    def take(self, message: AnyMessage) -> bool:
        """Go on with the answer; whether this half is over."""
        if not self._is_over:
            self._advance(message)
        return self._is_over

    def _advance(self, message: AnyMessage | None) -> None:
        if self._objection:
            raise PeerProtocolError(self._objection)
        try:
            self._before, self._question = self._question, self._steps.send(message)
        except StopIteration:
            self._is_over = True
        except PeerProtocolError as exc:
            self._objection = str(exc)
            raise


class OtherTerms(PeerProtocolError):
    """The round is not about what this device was told, which may be because of old tensors."""


class Exchange(ABC):
    """One device in one masked round."""

    def __init__(self) -> None:
        self.preparation = Dialogue(self._prepare())
        self.revelation = Dialogue(self._reveal())

    @abstractmethod
    def _prepare(self) -> Steps:
        """All steps before the update."""

    @abstractmethod
    def fields(self, trained: Tensors, data_size: int) -> dict[str, Any]:
        """The fields of an updateModel that carry the update, masked.

        CallerProtocolError when it is not fit to be masked.
        """

    @abstractmethod
    def _reveal(self) -> Steps:
        """All steps after the update was counted."""
