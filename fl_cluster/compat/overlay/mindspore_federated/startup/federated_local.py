"""Jobs and their callbacks."""

from fl_cluster.program.callback import Callback, CallbackContext
from fl_cluster.program.feature_map import FeatureItem, FeatureMap
from fl_cluster.program.scheduler_job import FlSchedulerJob
from fl_cluster.program.server_job import FLServerJob
from fl_cluster.program.ssl_config import SSLConfig

__all__ = [
    "Callback",
    "CallbackContext",
    "FLServerJob",
    "FeatureItem",
    "FeatureMap",
    "FlSchedulerJob",
    "SSLConfig",
]
