"""What goes into a training function, what comes out, and the check in between.

A training function gets weights it may change and a plan, and returns the new weights.
Everything that could be wrong with them is found here, on the device, before anything is
sent; the message names the tensor, what was expected and what was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_cluster.errors import CallerProtocolError
from fl_cluster.wire.limits import MAX_FLOAT

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What the cluster asks of a device in one round."""

    round_number: int
    """From 1."""
    rounds_total: int
    epochs: int
    batch_size: int
    learning_rate: float
    server_mode: str
    """`FEDERATED_LEARNING`, `HYBRID_TRAINING` or `CLOUD_TRAINING`."""
    job_name: str


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training function returns; the tuple `(weights, samples, metrics)` does as well.

    `weights` has the names, shapes and dtype (float32) of what was passed in.
    `samples` may be left out; else it equals the `data_size` that the device declared when it
    checked in, because the cluster weighs the update by that number.
    `metrics` may hold anything; `loss` and `accuracy` are reported to the cluster.
    """

    weights: Mapping[str, NDArray[np.float32]]
    samples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


TrainOutcome = (
    TrainResult | tuple[Mapping[str, NDArray[np.float32]], int | None, Mapping[str, float]]
)
TrainFunction = Callable[[Weights, RoundPlan], TrainOutcome]
EvaluateFunction = Callable[[Weights], float]


@dataclass(frozen=True, slots=True)
class Update:
    """A result that was found fit to be sent; the arrays are contiguous, in the model's order."""

    weights: Weights
    loss: float
    accuracy: float
    metrics: Mapping[str, float]


def writable(weights: Mapping[str, NDArray[np.float32]]) -> Weights:
    """Copies that a training function may change."""
    return {name: values.copy() for name, values in weights.items()}


def checked(outcome: object, held: Mapping[str, NDArray[np.float32]], data_size: int) -> Update:
    """The update in what a training function returned; CallerProtocolError when it has none.

    `held` is the model that was trained on: it says which names and shapes are right.
    """
    result = _result(outcome)
    if not isinstance(result.weights, Mapping) or not isinstance(result.metrics, Mapping):
        raise CallerProtocolError(
            "expected weights as a dict of arrays and metrics as a dict of numbers, found"
            f" {type(result.weights).__name__} and {type(result.metrics).__name__}"
        )
    if result.samples is not None and result.samples != data_size:
        raise CallerProtocolError(
            f"the training function returned samples={result.samples}, but the device declared"
            f" data_size={data_size} when it checked in, and is weighed by that"
        )
    if result.weights.keys() != held.keys():
        raise CallerProtocolError(
            "the training function returned other tensors than it was given:"
            f" missing {_listed(held.keys() - result.weights.keys())},"
            f" unknown {_listed(result.weights.keys() - held.keys())}"
        )
    weights = {name: _tensor(name, result.weights[name], held[name].shape) for name in held}
    return Update(
        weights,
        loss=reportable("loss", result.metrics.get("loss", 0.0)),
        accuracy=reportable("accuracy", result.metrics.get("accuracy", 0.0)),
        metrics=result.metrics,
    )


def reportable(name: str, value: object) -> float:
    """The value as a float; CallerProtocolError when it cannot be averaged over devices."""
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever has __float__: NumPy, PyTorch
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= MAX_FLOAT:
        raise CallerProtocolError(f"metric {name!r}: expected a finite number, found {value!r}")
    return number


def _result(outcome: Any) -> TrainResult:
    match outcome:
        case TrainResult():
            return outcome
        case (weights, samples, metrics):
            return TrainResult(weights, samples, metrics)
        case _:
            raise CallerProtocolError(
                "expected a TrainResult or (weights, samples, metrics) from the training"
                f" function, found {type(outcome).__name__}"
            )


def _tensor(name: str, found: object, shape: tuple[int, ...]) -> NDArray[np.float32]:
    array = np.asarray(found)
    if array.dtype != np.float32:
        raise CallerProtocolError(f"tensor {name!r}: expected float32, found {array.dtype}")
    if array.shape != shape:
        raise CallerProtocolError(f"tensor {name!r}: expected shape {shape}, found {array.shape}")
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(i) for i in np.unravel_index(int(finite.argmin()), shape))
        raise CallerProtocolError(
            f"tensor {name!r}: expected finite values, found {array[where]} at {list(where)}"
        )
    return np.ascontiguousarray(array, np.float32)


def _listed(names: Iterable[str]) -> str:
    """At most five of the names, for a message."""
    some = sorted(map(repr, names))
    rest = f" and {len(some) - 5} more" if len(some) > 5 else ""
    return (", ".join(some[:5]) or "none") + rest
