"""The few things that need MindSpore, each looked up when it is needed.

A program that trains with MindSpore has imported it before it makes a manager; nothing here
imports it for one that does not.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fl_cluster.worker.faults import Unsupported
from fl_cluster.worker.parameters import REFERENCE_PREFIX, Floats, Weights


def callback_class() -> type | None:
    """MindSpore's training callback, in a program that uses MindSpore; None in any other."""
    if "mindspore" not in sys.modules:
        return None
    try:
        found: type = importlib.import_module("mindspore.train.callback").Callback
    except ModuleNotFoundError:
        return None  # a package that only shares the name, such as generated message classes
    return found


def require(feature: str) -> Any:
    """The MindSpore package; Unsupported (a RuntimeError) says that `feature` needs it."""
    try:
        importlib.import_module("mindspore.train")
        return importlib.import_module("mindspore")
    except ModuleNotFoundError as exc:
        raise Unsupported(
            f"{feature} needs MindSpore, which is not installed: pip install mindspore"
        ) from exc


class DistributedPeers:
    """The processes of one distributed MindSpore training, of which rank 0 speaks for all."""

    def __init__(self) -> None:
        self._mindspore = require("run_distribute=True")
        communication = importlib.import_module("mindspore.communication")
        communication.init()
        self._rank = int(communication.get_rank())
        operations = importlib.import_module("mindspore.ops")
        self._broadcast: Callable[[Any], Any] = operations.Broadcast(0)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self._rank == 0

    def share(self, values: Weights, names: Sequence[str]) -> dict[str, Floats]:
        """Rank 0's values of these names, in every rank; one broadcast per name, in order."""
        shared: dict[str, Floats] = {}
        for name in names:
            received = self._broadcast((self._mindspore.Tensor(values[name]),))[0]
            shared[name] = np.asarray(received.asnumpy(), np.float32)
        return shared


def insert_reference(model: object, values: Weights) -> Callable[[Weights], None]:
    """Put `global_weights.{name}` into a MindSpore network; what refreshes them later.

    Other models keep the job's weights beside them: for those nothing happens.
    """
    insert = getattr(model, "insert_param_to_cell", None)
    if "mindspore" not in sys.modules or not callable(insert):
        return lambda _: None
    mindspore = sys.modules["mindspore"]
    shapes = {item.name: item.asnumpy().shape for item in _any(model).trainable_params()}
    inserted: dict[str, Any] = {}
    for name, flat in values.items():
        full = f"{REFERENCE_PREFIX}.{name}"
        tensor = mindspore.Tensor(flat.reshape(shapes[name]))
        inserted[name] = mindspore.Parameter(tensor, name=full, requires_grad=False)
        insert(full, inserted[name], check_name_contain_dot=False)

    def refresh(reference: Weights) -> None:
        for name, item in inserted.items():
            tensor = mindspore.Tensor(reference[name].reshape(shapes[name]))
            mindspore.ops.assign(item, tensor)

    return refresh


def _any(model: object) -> Any:
    return model
