"""The weights a program starts a job with: what it gave, or what a checkpoint has kept of it.

A recovery checkpoint replaces whatever was given, except for what it does not know: which
tensors are aggregated.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from fl_cluster.aggregate.model import Model
from fl_cluster.errors import StartupError
from fl_cluster.program.feature_map import FeatureMap, as_array, feature_map_of
from fl_cluster.service.job import StartingPoint
from fl_cluster.store.checkpoints import CheckpointFolder
from fl_cluster.store.model_files import read_model

logger = logging.getLogger(__name__)

INT32_MAX = 2_147_483_647

WRONG_FILE = (
    "The value of parameter 'feature_map' is expected to be checkpoint file path, ends with"
    " '.ckpt', or MindIR file path, ends with '.mindir', when the type of parameter"
    " 'feature_map' is str."
)
WRONG_TYPE = (
    "The parameter 'feature_map' is expected to be instance of dict(feature_name, feature_val),"
    " FeatureMap, or a checkpoint or mindir file path, but got '{type}'."
)


class InitialWeights:
    """What a job starts from when it has no records yet."""

    def __init__(self, given: object, checkpoints: CheckpointFolder) -> None:
        """RuntimeError when `given` is nothing that holds weights; ValueError of a bad file."""
        if not isinstance(given, str | os.PathLike):
            given = _in_memory(given)
        newest = checkpoints.newest()
        self._number = 0
        self.description = "the weights that the program gave"
        if newest is None:
            self._features = _chosen(given)
            return
        info, arrays = newest
        self._number = info.number
        self.description = f"the checkpoint of round {info.number}, {info.path}"
        flags = given.feature_map() if isinstance(given, FeatureMap) else {}
        self._features = FeatureMap()
        for name, array in arrays.items():
            require_aggr = flags[name].require_aggr if name in flags else True
            self._features.add_feature(name, array, require_aggr)

    def start(self) -> tuple[StartingPoint, str]:
        """The weights as the server takes them, and which they are; StartupError if it cannot."""
        return StartingPoint(model_of(self._features), self._number), self.description


def _in_memory(given: object) -> object:
    """The features of what holds arrays; anything else unchanged."""
    if isinstance(given, dict):
        return feature_map_of(given)
    if callable(getattr(given, "trainable_params", None)):
        return _trainable(given)
    if callable(getattr(given, "state_dict", None)):
        return _torch_module(given)
    return given


def _chosen(given: object) -> FeatureMap:
    if isinstance(given, FeatureMap):
        return given
    if not isinstance(given, str | os.PathLike):
        raise RuntimeError(WRONG_TYPE.format(type=type(given)))
    path = Path(given)
    if path.suffix == ".ckpt":
        return feature_map_of(dict(read_model(path)))
    if path.suffix == ".mindir":
        raise RuntimeError(
            f"{path}: MindIR files can only be read by MindSpore; save the parameters with"
            " mindspore.save_checkpoint and give that '.ckpt' file"
        )
    raise RuntimeError(WRONG_FILE)


def _trainable(network: Any) -> FeatureMap:
    """The trainable parameters of a network like MindSpore's."""
    features = FeatureMap()
    for parameter in network.trainable_params():
        array = np.asarray(as_array(parameter))
        features.add_feature(parameter.name, array, getattr(parameter, "requires_aggr", True))
    return features


def _torch_module(module: Any) -> FeatureMap:
    """The float32 parameters and buffers of a PyTorch module."""
    features = FeatureMap()
    for name, tensor in module.state_dict().items():
        array = np.asarray(as_array(tensor))
        if array.dtype == np.float32:
            features.add_feature(name, array)
        else:
            logger.info("%r is %s, not float32: skipped", name, array.dtype)
    return features


def model_of(features: FeatureMap) -> Model:
    """The model of these features; StartupError when it cannot be one."""
    items = features.feature_map()
    for name in items:
        if not isinstance(name, str):
            raise StartupError(f"Feature name is expected to be str, but got {type(name)}")
        if not name:
            raise StartupError("Feature name cannot be empty")
    size = sum(item.data.nbytes for item in items.values())
    if not 0 < size <= INT32_MAX:
        raise StartupError(
            f"Model size {size} cannot <=0 or >=UINT32_MAX: expected at least one tensor, and"
            f" {INT32_MAX} bytes at most"
        )
    for name, item in items.items():
        if not np.isfinite(item.data).all():
            raise StartupError(
                "Verify feature map failed for initial model."
                f" Feature {name} contains NaN or infinity"
            )
    not_aggregated = frozenset(name for name, item in items.items() if not item.require_aggr)
    return Model.from_arrays({name: item.data for name, item in items.items()}, not_aggregated)
