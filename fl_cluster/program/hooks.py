"""What a server tells its program, in the program's words and in the program's thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fl_cluster.config.schema import EncryptType, ServerMode, Settings
from fl_cluster.program.callback import Callback, CallbackContext
from fl_cluster.program.context import fl_context
from fl_cluster.program.feature_map import FeatureMap
from fl_cluster.program.main_thread import MainThread
from fl_cluster.rounds.phases import Reason
from fl_cluster.service.finish import EndedRound

VALID = "This iteration is valid. Proceed to next iteration."
INVALID = "This iteration is invalid. Proceed to next iteration."

FAILURES = {
    Reason.SELECT_WINDOW: f"Round startFLJob timeout! {INVALID}",
    Reason.REPORT_WINDOW: f"Round updateModel timeout! {INVALID}",
    Reason.ROUND_WINDOW: f"Global timer timeout! {INVALID}",
    Reason.EXCHANGE_WINDOW: f"Cipher round timeout! {INVALID}",
    Reason.UNMASK_FAILED: "Failed to unmask, current iteration: {number}",
    Reason.AGGREGATE_FAILED: "Weight aggregation failed, current iteration: {number}",
    Reason.BUDGET_SPENT: "The privacy budget is spent, current iteration: {number}",
    Reason.RETRAINED_UNFIT: "Weight aggregation failed, current iteration: {number}",
    Reason.JOB_DISABLED: "Disable instance",
    Reason.STORE_LOST: (
        "The instance status info stored in distributed cache is empty, current iteration: {number}"
    ),
    Reason.JOB_RESTARTED: "New instance",
}
"""How a round ended that has no new model; the last one is ours, the others are the original's."""


def result_sentence(reason: Reason | None, number: int, settings: Settings) -> str:
    """How round `number` ended."""
    if reason is not None:
        return FAILURES.get(reason, f"{reason}, current iteration: {{number}}").format(
            number=number
        )
    if settings.server_mode is ServerMode.HYBRID_TRAINING:
        return f"Push metrics finished! {VALID}"
    if settings.encrypt.kind is EncryptType.PW_ENCRYPT:
        return f"Weight unmask finished! {VALID}"
    return f"Weight aggregation finished! {VALID}"


class CallbackHooks:
    """Hands on to a `Callback`, in the thread that called `run`, what the server tells."""

    def __init__(
        self, callback: Callback, here: MainThread, settings: Settings, checkpoint_dir: Path
    ) -> None:
        self._callback = callback
        self._here = here
        self._settings = settings
        self._checkpoint_dir = checkpoint_dir

    def started(self) -> None:
        """The program's `after_started`."""
        self._here.call(self._callback.after_started)

    def round_ended(self, ended: EndedRound, checkpoint: Path | None) -> None:
        """The program's `on_iteration_end`."""
        context = self._context(ended, checkpoint)
        call: Callable[[], None] = lambda: self._callback.on_iteration_end(context)  # noqa: E731
        self._here.call(call)

    def stopping(self) -> None:
        """The program's `before_stopped`."""
        self._here.call(self._callback.before_stopped)

    def _context(self, ended: EndedRound, checkpoint: Path | None) -> CallbackContext:
        number = ended.ref.number
        return CallbackContext(
            feature_map=features_of(ended) if self._checkpoint_dir.is_dir() else {},
            checkpoint_file=str(checkpoint) if checkpoint else "",
            fl_name=self._settings.name,
            instance_name=fl_context().instance_name(),
            iteration_num=number,
            iteration_valid=ended.is_success,
            iteration_result=result_sentence(ended.reason, number, self._settings),
        )


def features_of(ended: EndedRound) -> FeatureMap:
    """Copies of the weights that the round ended with.

    `require_aggr` is also false of a tensor that no device sent in this round.
    """
    features = FeatureMap()
    for tensor in ended.model.layout:
        values = np.array(ended.model.tensor(tensor.name))
        is_averaged = tensor.is_aggregated and tensor.name not in ended.left_out
        features.add_feature(tensor.name, values, is_averaged)
    return features
