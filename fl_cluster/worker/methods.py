"""What a cross-silo worker hands in under each method of aggregation, and what it keeps.

Pure NumPy.  L are the worker's weights, G those of the job's model as the worker last got
them, tau the training steps of a cycle.

    FedAvg, FedProx   L * data_size
    Scaffold          L * data_size, and `control.{name}` as it is
    FedNova           (L - G) / tau, with tau declared as data size

Values are float32 throughout, as they travel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fl_cluster.config.schema import AggregationType
from fl_cluster.worker.faults import NothingReceived
from fl_cluster.worker.parameters import Floats, Weights

CONTROL = "control."


@dataclass(frozen=True, slots=True)
class Cycle:
    """The training between two exchanges with the cluster."""

    data_size: int
    """Samples, as the program declared them."""
    steps: int
    """Training steps: FedNova's tau."""
    sync_frequency: int
    learning_rate: float = 0.0
    """Of the worker's optimizer; only Scaffold looks at it."""


class Method(ABC):
    """One method of aggregation, seen from a worker; holds what goes from cycle to cycle."""

    needs_learning_rate = False

    @property
    def controls(self) -> dict[str, Floats]:
        """What a check-in delivers to this method, with its values so far."""
        return {}

    def declared_size(self, cycle: Cycle) -> int:
        """The data size with which the worker checks in."""
        return cycle.data_size

    def begin(self, delivered: Weights) -> None:
        """Take in what the check-in delivered."""
        del delivered

    def corrected(self, local: Weights, learning_rate: float) -> dict[str, Floats]:
        """What the weights become after one training step; empty: they stay."""
        del local, learning_rate
        return {}

    @abstractmethod
    def update(self, local: Weights, cycle: Cycle) -> dict[str, Floats]:
        """What is handed in at the end of a cycle."""

    def finish(self, local: Weights, delivered: Weights) -> None:
        """Take in what was delivered, and the weights as they are with that loaded."""
        del local, delivered


class Averaging(Method):
    """FedAvg: the mean of the weights, by data size."""

    def update(self, local: Weights, cycle: Cycle) -> dict[str, Floats]:
        return _scaled(local, cycle.data_size)


class Proximal(Averaging):
    """FedProx: as FedAvg, with the job's model at hand for the loss."""

    def __init__(self, initial: Weights) -> None:
        self.reference: dict[str, Floats] = dict(initial)

    def finish(self, local: Weights, delivered: Weights) -> None:
        self.reference.update((name, local[name]) for name in delivered if name in local)


class Nova(Method):
    """FedNova: the mean step of a cycle, so that workers may train for differently long."""

    def __init__(self, initial: Weights) -> None:
        self.reference: dict[str, Floats] = dict(initial)

    def declared_size(self, cycle: Cycle) -> int:
        return cycle.steps

    def update(self, local: Weights, cycle: Cycle) -> dict[str, Floats]:
        steps = np.float32(cycle.steps)
        return {name: (values - self.reference[name]) / steps for name, values in local.items()}

    def finish(self, local: Weights, delivered: Weights) -> None:
        self.reference.update((name, local[name]) for name in delivered if name in local)


class Scaffold(Method):
    """Scaffold: each step is corrected by how much the others' slopes differ from one's own."""

    needs_learning_rate = True

    def __init__(self, initial: Weights, names: Sequence[str]) -> None:
        """`names` are the parameters that are corrected; the others are averaged only."""
        self._names = tuple(names)
        self._start: dict[str, Floats] = {name: initial[name].copy() for name in names}
        zeros = {name: np.zeros_like(initial[name]) for name in names}
        self._local, self._global = zeros, dict(zeros)
        self._renewed = zeros
        self._is_first = True

    @property
    def controls(self) -> dict[str, Floats]:
        return {CONTROL + name: values for name, values in self._global.items()}

    def begin(self, delivered: Weights) -> None:
        """The cluster's controls become ours; the first cycle begins with zeros.

        NothingReceived (a ValueError): one is missing.
        """
        if self._is_first:
            self._is_first = False
            return
        for name in self._names:
            if CONTROL + name not in delivered:
                raise NothingReceived(
                    f"'{CONTROL}{name}' is not in control parameters sent by server"
                )
        self._global = {name: delivered[CONTROL + name].copy() for name in self._names}

    def corrected(self, local: Weights, learning_rate: float) -> dict[str, Floats]:
        rate = np.float32(learning_rate)
        return {
            name: local[name] - rate * (self._global[name] - self._local[name])
            for name in self._names
        }

    def update(self, local: Weights, cycle: Cycle) -> dict[str, Floats]:
        length = np.float32(cycle.sync_frequency * cycle.learning_rate)
        self._renewed = {
            name: self._local[name]
            - self._global[name]
            + (self._start[name] - local[name]) / length
            for name in self._names
        }
        controls = {CONTROL + name: self._renewed[name] - self._local[name] for name in self._names}
        return {**_scaled(local, cycle.data_size), **controls}

    def finish(self, local: Weights, delivered: Weights) -> None:
        del delivered
        self._local = self._renewed
        self._start = {name: local[name].copy() for name in self._names}


def _scaled(local: Weights, factor: int) -> dict[str, Floats]:
    return {name: values * np.float32(factor) for name, values in local.items()}


def make_method(kind: AggregationType, initial: Weights, names: Sequence[str]) -> Method:
    """The method `kind` for a worker that starts with these weights."""
    match kind:
        case AggregationType.FED_AVG:
            return Averaging()
        case AggregationType.FED_PROX:
            return Proximal(initial)
        case AggregationType.SCAFFOLD:
            return Scaffold(initial, names)
        case AggregationType.FED_NOVA:
            return Nova(initial)
