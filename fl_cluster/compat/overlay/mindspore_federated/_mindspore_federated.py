"""The native module's names: what can work does, the rest says what to use instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fl_cluster.compat.absent import AbsentClass, absent_class, native
from fl_cluster.program.context import FLContext

__all__ = ["FLContext", "FeatureItem_", "Federated_", "ModelItem_", "YamlConfigItem_"]


class FeatureItem_:  # noqa: N801 - the original's name
    """A feature as the original's Python hands it to its C++: a record of five values."""

    def __init__(
        self,
        feature_name: str,
        data: Any,
        shape: Sequence[int],
        data_type: str = "fp32",
        require_aggr: bool = True,
    ) -> None:
        self.feature_name = feature_name
        self.data = np.asarray(data, np.float32, order="C")
        self.shape = tuple(shape)
        self.type = data_type
        self.require_aggr = require_aggr


def _absent(name: str, instead: str) -> AbsentClass:
    return absent_class(name, __name__, native(name, instead))


Federated_ = _absent("Federated_", "FLServerJob, FlSchedulerJob and FederatedLearningManager")
ModelItem_ = _absent("ModelItem_", "Callback.on_iteration_end, whose context has the model")
YamlConfigItem_ = _absent("YamlConfigItem_", "mindspore_federated.startup.yaml_config")
