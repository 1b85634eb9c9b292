"""The optimizers inside a model, and how fast they learn; known by what they can do.

An optimizer has `parameters` (or torch's `param_groups`) and a learning rate: `get_lr()`,
`learning_rate`, or `lr` in the first of its groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fl_cluster.worker.faults import NothingReceived
from fl_cluster.worker.parameters import Network

NO_OPTIMIZER = "Can not find optimizer in train network!"


def optimizers_in(network: object) -> Iterator[Any]:
    """The optimizers among the cells of `network`, itself included."""
    cells = getattr(network, "cells_and_names", None)
    found: Iterable[Any] = [cell for _, cell in cells()] if callable(cells) else [network]
    for cell in found:
        if hasattr(cell, "param_groups") or (
            hasattr(cell, "parameters") and (hasattr(cell, "learning_rate") or _has_rate(cell))
        ):
            yield cell


def _has_rate(cell: object) -> bool:
    return callable(getattr(cell, "get_lr", None))


def aggregated_names(model: object, network: Network) -> tuple[str, ...]:
    """Parameters that take part: those of optimizers inside the model, else all of them.

    One whose `requires_aggr` is false stays out.
    """
    items = [item for each in optimizers_in(model) for item in _parameters(each)]
    wanted = [item for item in items if getattr(item, "requires_aggr", True)]
    return network.names_of(wanted) or network.names


def _parameters(optimizer: Any) -> Iterable[object]:
    parameters = getattr(optimizer, "parameters", ())
    return parameters() if callable(parameters) else parameters


def learning_rate(candidates: Iterable[object]) -> float:
    """The learning rate of the first optimizer in these networks or optimizers.

    NothingReceived (a ValueError): there is none.
    """
    for candidate in candidates:
        for optimizer in optimizers_in(candidate):
            return _rate_of(optimizer)
    raise NothingReceived(NO_OPTIMIZER)


def _rate_of(optimizer: Any) -> float:
    if hasattr(optimizer, "param_groups"):
        return float(optimizer.param_groups[0]["lr"])
    rate = optimizer.get_lr() if _has_rate(optimizer) else optimizer.learning_rate
    if isinstance(rate, tuple | list):
        rate = rate[0]
    if callable(getattr(rate, "asnumpy", None)):
        rate = rate.asnumpy()
    return float(np.asarray(rate).reshape(-1)[0])
