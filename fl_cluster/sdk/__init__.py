"""What a device imports: turn a training function into a member of a federated job.

Needs NumPy, aiohttp and msgpack, and nothing of the server side.
"""

from fl_cluster.privacy.ring.demands import Demands
from fl_cluster.sdk.client import FederatedDevice, JobResult, run
from fl_cluster.sdk.identity import DeviceIdentity
from fl_cluster.sdk.life import ServersUnreachable
from fl_cluster.sdk.required import Protection
from fl_cluster.sdk.tls import tls_context
from fl_cluster.sdk.training import RoundPlan, TrainResult
from fl_cluster.sdk.transport import open_session
from fl_cluster.sdk.work import RoundOutcome

__all__ = [
    "Demands",
    "DeviceIdentity",
    "FederatedDevice",
    "JobResult",
    "Protection",
    "RoundOutcome",
    "RoundPlan",
    "ServersUnreachable",
    "TrainResult",
    "open_session",
    "run",
    "tls_context",
]
