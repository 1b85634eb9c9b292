"""How a hybrid worker says how good its model is, which ends the round."""

from __future__ import annotations

from functools import cache

from fl_cluster.worker.hybrid import HybridWorker


class RunningWorker:
    """The hybrid worker of this process; the last one that was made."""

    def __init__(self) -> None:
        self.hybrid: HybridWorker | None = None


@cache
def running_worker() -> RunningWorker:
    """The one of this process: programs push metrics without naming a worker."""
    return RunningWorker()


class PushMetrics:
    """Sends loss and accuracy to the cluster; `PushMetrics().construct(loss, accuracy)`."""

    @staticmethod
    def construct(loss: float, accuracy: float) -> bool:
        """Whether the cluster took them; True as well when the worker has been stopped.

        Blocks while no server answers.  RuntimeError: this process has no hybrid worker.
        """
        worker = running_worker().hybrid
        if worker is None:
            raise RuntimeError(
                "PushMetrics needs a FederatedLearningManager in mode HYBRID_TRAINING:"
                " create it first, in this process"
            )
        return worker.push_metrics(float(loss), float(accuracy))
