"""What a training loop calls at each step, and what a worker then does with the weights.

    step:      1     2    ...   n     n+1   ...
    cross-silo check in         hand in, load the model
    hybrid     pull             push                      (pull at the end of the step)

n is the sync frequency.  Both kinds of training hold the model's parameters through
`Network` and know nothing of how the program trains.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fl_cluster.worker.adaptive import DISTANCE, AdaptiveFrequency
from fl_cluster.worker.cross_silo import CrossSiloWorker
from fl_cluster.worker.hybrid import HybridWorker, is_finite
from fl_cluster.worker.methods import Cycle, Method
from fl_cluster.worker.parameters import Floats, Network, Weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What the training loop says about the step it is in."""

    learning_rate: Callable[[], float]
    """Of its optimizer; ValueError when it has none. Only called when it is needed."""
    batches: int = 1
    """Training steps that one call stands for: more than 1 where a whole data set is sunk."""


class Training(Protocol):
    """What a training loop calls."""

    @property
    def sync_frequency(self) -> int:
        """Steps between two exchanges."""

    def begin_step(self, step: Step) -> None:
        """Before a training step."""

    def end_step(self, step: Step) -> None:
        """After it; the parameters may have other values when this returns."""

    def stop(self) -> None:
        """End every wait."""


class Peers(Protocol):
    """Processes that train one model together, of which the first speaks for all."""

    @property
    def is_first(self) -> bool:
        """Whether this process is the one."""

    def share(self, values: Weights, names: Sequence[str]) -> dict[str, Floats]:
        """The first one's values of these names, in all of them; the others pass their own."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often a cross-silo worker exchanges, and how much what it hands in weighs."""

    sync_frequency: int
    """Calls of `end_step` from one exchange to the next."""
    data_size: int
    adaptive: AdaptiveFrequency | None = None
    """Changes the frequency after each exchange; None: it stays."""


class CloudTraining:
    """A cross-silo worker's part in a training loop."""

    def __init__(
        self,
        worker: CrossSiloWorker,
        network: Network,
        method: Method,
        rhythm: Rhythm,
        peers: Peers | None = None,
    ) -> None:
        self._worker = worker
        self._network = network
        self._method = method
        self._frequency = rhythm.sync_frequency
        self._data_size = rhythm.data_size
        self._adaptive = rhythm.adaptive
        self._peers = peers
        self._step = 0
        self._next_begin, self._next_end = 1, rhythm.sync_frequency

    @property
    def sync_frequency(self) -> int:
        """Steps between two exchanges; the adaptive rule may change it."""
        return self._frequency

    def begin_step(self, step: Step) -> None:
        """Check in, when a cycle begins."""
        self._step += 1
        if self._step != self._next_begin:
            return
        delivered: dict[str, Floats] = {}
        if self._is_first():
            size = self._method.declared_size(self._cycle(step))
            delivered = self._worker.check_in(size) or {}
            self._method.begin(delivered)
        if self._peers is not None and self._method.controls:
            controls = self._method.controls
            shared = self._peers.share({**controls, **delivered}, tuple(controls))
            if not self._is_first():
                self._method.begin(shared)

    def end_step(self, step: Step) -> None:
        """Correct the step, where the method does; exchange, when a cycle ends."""
        if self._method.needs_learning_rate:
            self._network.write(self._method.corrected(self._network.read(), step.learning_rate()))
        if self._step != self._next_end:
            return
        self._exchange(step)
        self._next_begin, self._next_end = self._step + 1, self._step + self._frequency

    def _is_first(self) -> bool:
        return self._peers is None or self._peers.is_first

    def _cycle(self, step: Step, learning_rate: float = 0.0) -> Cycle:
        return Cycle(
            self._data_size, self._frequency * step.batches, self._frequency, learning_rate
        )

    def _exchange(self, step: Step) -> None:
        local = self._network.read()
        if self._adaptive is not None:
            local |= self._adaptive.distances(local)
        rate = step.learning_rate() if self._method.needs_learning_rate else 0.0
        delivered = self._delivered(local, self._cycle(step, rate))
        self._network.write(delivered)
        after = local | delivered
        self._method.finish(after, delivered)
        if self._adaptive is not None:
            distances = {name: after[name] for name in after if name.startswith(DISTANCE)}
            frequency = self._adaptive.next_frequency(after, distances, self._frequency)
            if frequency != self._frequency:
                logger.info("exchanging every %d steps from now on", frequency)
            self._frequency = frequency

    def _delivered(self, local: dict[str, Floats], cycle: Cycle) -> dict[str, Floats]:
        """The model's tensors that were handed in, as the cluster has them now."""
        delivered: dict[str, Floats] = {}
        update = self._method.update(local, cycle)  # in all peers: each keeps the same of it
        if self._is_first():
            model = self._worker.exchange(update, self._method.declared_size(cycle))
            delivered = {name: values for name, values in model.items() if name in local}
        if self._peers is None:
            return delivered
        return self._peers.share({**local, **delivered}, tuple(local))

    def stop(self) -> None:
        """End every wait."""
        self._worker.stop()


class HybridTraining:
    """A hybrid worker's part in a training loop."""

    def __init__(
        self,
        worker: HybridWorker,
        network: Network,
        names: Sequence[str],
        *,
        sync_frequency: int,
        peers: Peers | None = None,
    ) -> None:
        self._worker = worker
        self._network = network
        self._names = tuple(names)
        self._frequency = sync_frequency
        self._peers = peers
        self._initial = network.read()
        self._step = 0

    @property
    def sync_frequency(self) -> int:
        """Steps from one push to the next."""
        return self._frequency

    def begin_step(self, step: Step) -> None:
        """Count it."""
        del step
        self._step += 1

    def end_step(self, step: Step) -> None:
        """Pull after the first step of a cycle, push after the last."""
        del step
        if self._step % self._frequency == 1:
            self._pull()
        if self._step % self._frequency == 0 and self._is_first():
            self._worker.push(self._network.read(self._names))

    def _is_first(self) -> bool:
        return self._peers is None or self._peers.is_first

    def _pull(self) -> None:
        pulled = self._worker.pull(self._names) if self._is_first() else {}
        if not is_finite(pulled):
            logger.warning("the pulled weights are not all finite: the initial model is loaded")
            pulled = self._initial
        if self._peers is not None:
            pulled = self._peers.share({**self._network.read(), **pulled}, self._network.names)
        self._network.write(pulled)

    def stop(self) -> None:
        """End every wait."""
        self._worker.stop()
