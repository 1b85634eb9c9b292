"""Weights for a job that was given none: a LeNet drawn from a seed.

The same seed gives the same bits on every machine.  The random integers are PCG64's, whose
stream NumPy guarantees; a normal number is made of twelve of them by addition (Irwin-Hall),
because logarithms and cosines differ between C libraries in the last bit while integer sums,
one multiplication and a square root do not.  Each tensor has a stream of its own, so its
values depend on seed, name and shape only.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SEED = 1

_SUMMANDS = 12
_LANE = 0xFFFF
_CENTRE = _SUMMANDS * _LANE // 2
_DEVIATION = 65536.0
"""Of a sum of twelve uniform 16-bit integers, to ten digits."""


def lenet(seed: int = SEED, classes: int = 62, channels: int = 3) -> dict[str, Floats]:
    """LeNet-5 for 32x32 images: 66,404 weights by default.

    Names, shapes and the missing biases of the convolutions are those of the network that the
    original's FEMNIST example trains (62 characters, three colours), so its devices can join.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (6, channels, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc1.bias": (120,),
        "fc2.weight": (84, 120),
        "fc2.bias": (84,),
        "fc3.weight": (classes, 84),
        "fc3.bias": (classes,),
    }
    return {
        name: _he_normal(shape, seed, name) if len(shape) > 1 else np.zeros(shape, np.float32)
        for name, shape in shapes.items()
    }


def _he_normal(shape: tuple[int, ...], seed: int, name: str) -> Floats:
    """Normal with variance 2 / fan-in (He et al. 2015), which suits ReLU."""
    size = math.prod(shape)
    stream = np.random.PCG64(np.random.SeedSequence([seed, *name.encode()]))
    words = stream.random_raw(size * _SUMMANDS // 4).reshape(size, _SUMMANDS // 4)
    sums = np.zeros(size, np.int64)
    for shift in (0, 16, 32, 48):
        sums += (words >> np.uint64(shift) & np.uint64(_LANE)).astype(np.int64).sum(axis=1)
    scale = math.sqrt(2.0 / math.prod(shape[1:])) / _DEVIATION
    return ((sums - _CENTRE) * scale).astype(np.float32).reshape(shape)
