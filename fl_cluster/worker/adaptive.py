"""How often a worker exchanges with the cluster, when it may decide that itself.

The more the workers' steps point in one direction, the longer they can train alone.  How
consistent they are is |sum of steps| / sum of |steps|, smoothed; when it has not fallen to a
new low for a while, the workers exchange more often.  All workers compute the same from the
same aggregated numbers, so they stay in step without a word about it.
Pure NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fl_cluster.worker.parameters import Floats, Weights

DISTANCE = "as_abs_grad."
"""Prefix of the parameters that carry |step| to the cluster and come back averaged."""

RESET_RATE = 1.1
"""Above any rate there is: the next one is a new low."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The constants of the rule; the defaults are the original's."""

    min_consistent_rate: float = 1.1
    min_consistent_rate_at_round: int = 0
    ema_alpha: float = 0.5
    observation_window_size: int = 5
    frequency_increase_ratio: int = 2
    unchanged_round: int = 0


@dataclass(frozen=True, slots=True)
class _Low:
    """The lowest rate so far, when it was, and for how long a lower one is waited for."""

    rate: float
    at_cycle: int
    window: int


class AdaptiveFrequency:
    """The rule's memory for one worker; `workers` is how many updates a round averages."""

    def __init__(self, initial: Weights, workers: int, tuning: Tuning) -> None:
        self._tuning = tuning
        self._workers = np.float32(workers)
        self._last = dict(initial)
        self._cycle = 0
        self._low = _Low(
            tuning.min_consistent_rate,
            tuning.min_consistent_rate_at_round,
            tuning.observation_window_size,
        )
        self._steps: dict[str, Floats] = {}
        self._distances: dict[str, Floats] = {}
        self._forget()

    def _forget(self) -> None:
        self._steps = {name: np.zeros_like(values) for name, values in self._last.items()}
        self._distances = {name: np.zeros_like(values) for name, values in self._last.items()}

    def distances(self, local: Weights) -> dict[str, Floats]:
        """How far each parameter has come in this cycle, under the names they travel by."""
        return {DISTANCE + name: np.abs(local[name] - last) for name, last in self._last.items()}

    def next_frequency(self, local: Weights, distances: Weights, frequency: int) -> int:
        """The number of steps until the next exchange.

        `local` are the weights after an exchange, `distances` what came back averaged.
        """
        rate = self._consistency(local, distances)
        low, tuning = self._low, self._tuning
        if low.rate > rate:
            self._low = replace(low, rate=rate, at_cycle=self._cycle)
        elif (
            self._cycle - low.at_cycle > low.window
            and frequency > 1
            and self._cycle > tuning.unchanged_round
        ):
            ratio = tuning.frequency_increase_ratio
            frequency = -(-frequency // ratio)
            self._low = _Low(RESET_RATE, self._cycle, low.window * ratio)
            self._forget()
        self._cycle += 1
        self._last = {name: local[name].copy() for name in self._last}
        return frequency

    def _consistency(self, local: Weights, distances: Weights) -> float:
        alpha = np.float32(self._tuning.ema_alpha)
        total, size = 0.0, 0
        for name, last in self._last.items():
            step = (local[name] - last) * self._workers
            distance = distances[DISTANCE + name] * self._workers
            self._steps[name] = alpha * self._steps[name] + (1 - alpha) * step
            self._distances[name] = alpha * self._distances[name] + (1 - alpha) * distance
            divisor = np.where(self._distances[name] == 0, np.float32(1), self._distances[name])
            total += float((np.abs(self._steps[name]) / divisor).sum())
            size += last.size
        return total / max(size, 1)
