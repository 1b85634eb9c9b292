"""The package that programs written for MindSpore Federated 0.1.0 import; behind it is ours.

A name is read when it is asked for, so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import fl_cluster
from fl_cluster.compat.absent import VERTICAL_CLASSES, VERTICAL_MODULES, absent_class, vertical

__version__ = "0.1.0"

_CLOUD = (
    "FLServerJob",
    "FlSchedulerJob",
    "Callback",
    "CallbackContext",
    "FeatureMap",
    "SSLConfig",
    "FederatedLearningManager",
    "PushMetrics",
)
_MODULES = (
    *VERTICAL_MODULES,
    "_mindspore_federated",
    "aggregation",
    "common",
    "log",
    "startup",
    "trainer",
)

__all__ = [*_CLOUD, *VERTICAL_CLASSES, *VERTICAL_MODULES]  # noqa: PLE0604 - names, of other lists


def __getattr__(name: str) -> Any:
    if name == "FeatureItem" or name in _CLOUD:
        value = getattr(fl_cluster, name)
    elif name in _MODULES:
        value = import_module(f".{name}", __name__)
    elif name in VERTICAL_CLASSES:
        value = absent_class(name, __name__, vertical(name))
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
