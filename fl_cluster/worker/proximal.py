"""FedProx's loss term: what keeps a worker's weights near the job's model.

The term of a parameter w is (rate / 2) * mean((w - g)^2), g being the job's model when the
round began.  `penalty` works with anything that has arithmetic and `mean()`: NumPy arrays,
or torch tensors, whose own differentiation then gives the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fl_cluster.worker.parameters import Floats


def penalty(local: Mapping[str, Any], reference: Mapping[str, Any], rate: float) -> Any:
    """The sum of the terms of all parameters that `reference` has; add it to the loss."""
    terms = (((local[name] - reference[name]) ** 2).mean() for name in reference if name in local)
    return rate / 2 * sum(terms)


def gradient(
    local: Mapping[str, Floats], reference: Mapping[str, Floats], rate: float
) -> dict[str, Floats]:
    """The derivative of `penalty` by each parameter, in its shape; add it to the slopes."""
    return {
        name: (np.float32(rate / local[name].size) * (local[name] - reference[name])).astype(
            np.float32
        )
        for name in reference
        if name in local
    }
