"""What a program is told about the server it runs, and by which methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fl_cluster.program.feature_map import FeatureMap


@dataclass
class CallbackContext:
    """A round that has ended, as `Callback.on_iteration_end` is told of it."""

    feature_map: FeatureMap | dict[str, Any] = field(default_factory=dict)
    """Copies of the weights the next round starts from; {} when there is no checkpoint folder."""
    checkpoint_file: str = ""
    """The path of the round's checkpoint; empty when there is none."""
    fl_name: str = ""
    """The name of the job."""
    instance_name: str = ""
    """The name of this process's run, `FLContext.instance_name()`."""
    iteration_num: int = 0
    """The number of the round."""
    iteration_valid: bool = False
    """Whether the round has a new model."""
    iteration_result: str = ""
    """How it ended, in the sentences that programs know."""


class Callback:
    """Override what is of interest.  All of it runs in the thread that called `run`.

    What a method raises is logged and ends there.
    """

    def after_started(self) -> None:
        """The server serves devices, and the cluster knows it."""

    def before_stopped(self) -> None:
        """The server is about to end, or could not start."""

    def on_iteration_end(self, context: CallbackContext) -> None:
        """A round has ended, well or not, and this server is the one that ended it.

        Nobody sees the round's outcome before this returns.
        """
