"""The model that a round must end with, computed from the set of counted devices alone.

Integer sums by the reference kernels; scale exponents from the base model; nothing of what
the servers stored is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.scale import exponents
from fl_cluster.kernels import reference as kernels
from harness import job


@dataclass(frozen=True, slots=True)
class Expected:
    """What a round must have made of its updates."""

    values: job.Floats
    weights: Sequence[int]
    """Per tensor, the sum of the data sizes of those who sent it."""


def scale_of(base: job.Floats, cohort: int) -> tuple[int, ...]:
    """The scale exponents of a round that starts from `base`."""
    layout = Layout(Tensor(name, shape) for name, shape in job.SHAPES.items())
    return exponents(Model(layout, base), cohort)


def expected(number: int, base: job.Floats, devices: Iterable[str], cohort: int) -> Expected:
    """The weighted mean of what these devices sent in round `number`, in any order."""
    sums = np.zeros(job.SIZE, np.int64)
    weights = dict.fromkeys(job.SHAPES, 0)
    scale = dict(zip(job.SHAPES, scale_of(base, cohort), strict=True))
    for device in devices:
        size, sent = job.data_size(device), job.trained(device, number, base)
        if job.is_raw(device):
            sent = job.multiplied(device, sent)
        for name, place in job.PLACES.items():
            if job.sends(device, name):
                factor = 1 if job.is_raw(device) else size
                kernels.fold(sums[place], sent[place], factor * 2.0 ** scale[name])
                weights[name] += size
    values = base.copy()
    for name, place in job.PLACES.items():
        if weights[name]:
            kernels.finalise(values[place], sums[place], weights[name] * 2.0 ** scale[name])
    return Expected(values, list(weights.values()))
