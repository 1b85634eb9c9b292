"""Who has what: a few images with right labels for the worker, the rest with poor ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "digits"))

import digits
import numpy as np

LABELLED = 200
"""Images that the worker has, of 1,438."""
WRONG_SHARE = 0.5
"""Of the devices' labels so many are drawn by lot."""


class Hands(NamedTuple):
    """The images of everybody."""

    worker: digits.Samples
    devices: list[digits.Samples]
    held_out: digits.Samples


def deal(devices: int, seed: int = 0) -> Hands:
    """The same for the same arguments, in every process."""
    training, held_out = digits.load(seed)
    rng = np.random.default_rng([seed, 2])
    order = rng.permutation(len(training))
    poor = training.take(order[LABELLED:])
    lot = rng.integers(0, digits.CLASSES, len(poor))
    is_lot = rng.random(len(poor)) < WRONG_SHARE
    poor = digits.Samples(poor.images, np.where(is_lot, lot, poor.labels))
    return Hands(training.take(order[:LABELLED]), digits.split(poor, devices, seed), held_out)
