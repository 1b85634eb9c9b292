"""fl_cluster: a federated-learning cluster in which no acknowledged update is lost.

What programs of the cloud side use can be imported from here, and is read when it is asked
for: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fl_cluster.version import VERSION

if TYPE_CHECKING:
    from fl_cluster.program import log
    from fl_cluster.program.callback import Callback, CallbackContext
    from fl_cluster.program.feature_map import FeatureItem, FeatureMap
    from fl_cluster.program.manager import FederatedLearningManager
    from fl_cluster.program.push_metrics import PushMetrics
    from fl_cluster.program.scheduler_job import FlSchedulerJob
    from fl_cluster.program.server_job import FLServerJob
    from fl_cluster.program.ssl_config import SSLConfig

__version__ = VERSION

__all__ = [
    "Callback",
    "CallbackContext",
    "FLServerJob",
    "FeatureItem",
    "FeatureMap",
    "FederatedLearningManager",
    "FlSchedulerJob",
    "PushMetrics",
    "SSLConfig",
    "__version__",
    "log",
]

_MODULES = {
    "Callback": "callback",
    "CallbackContext": "callback",
    "FLServerJob": "server_job",
    "FeatureItem": "feature_map",
    "FeatureMap": "feature_map",
    "FederatedLearningManager": "manager",
    "FlSchedulerJob": "scheduler_job",
    "PushMetrics": "push_metrics",
    "SSLConfig": "ssl_config",
}


def __getattr__(name: str) -> Any:
    if name == "log":
        return import_module("fl_cluster.program.log")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fl_cluster.program.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
