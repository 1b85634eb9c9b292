"""What a user sees of a job while it runs: a line per round, and a bar on a terminal.

A round's line appears when every device has told how it went, or when the first tells of a
later round.  Where the output is no terminal there are lines and nothing else, so that a log
file reads well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from fl_cluster.sdk import RoundOutcome

BAR_WIDTH = 30
HEADING = "  round  devices  training loss  held-out accuracy  seconds"
ERASE_LINE = "\r\x1b[K"


class RoundBoard:
    """Collects what devices tell and shows it."""

    def __init__(
        self,
        out: TextIO,
        rounds_total: int,
        devices: int,
        judge: Callable[[Mapping[str, NDArray[np.float32]]], float],
    ) -> None:
        self._out = out
        self._rounds_total = rounds_total
        self._devices = devices
        self._judge = judge
        self._is_terminal = out.isatty()
        self._number = 0
        self._accuracy = 0.0
        self._told: list[RoundOutcome] = []
        self._out.write(f"{HEADING}\n")
        self._draw_bar(0)

    def note(self, outcome: RoundOutcome, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """A device's round is over, and this is the model it ended with."""
        if outcome.round_number < self._number:
            return
        if outcome.round_number > self._number:
            self._show()
            self._number = outcome.round_number
            self._accuracy = self._judge(weights)
        self._told.append(outcome)
        if len(self._told) == self._devices:
            self._show()

    def close(self) -> None:
        """Show what is left, and leave the last line to whoever writes next."""
        self._show()
        if self._is_terminal:
            self._out.write(ERASE_LINE)
        self._out.flush()

    def _show(self) -> None:
        told, self._told = self._told, []
        if not told:
            return
        counted = sum(outcome.counted for outcome in told)
        loss = np.average(
            [outcome.loss for outcome in told], weights=[outcome.samples for outcome in told]
        )
        seconds = max(outcome.seconds for outcome in told)
        if self._is_terminal:
            self._out.write(ERASE_LINE)
        self._out.write(
            f"{self._number:4d}/{self._rounds_total:<3d}{counted:7d}{loss:15.4f}"
            f"{self._accuracy:19.4f}{seconds:9.2f}\n"
        )
        self._draw_bar(self._number)

    def _draw_bar(self, done: int) -> None:
        if self._is_terminal:
            filled = BAR_WIDTH * done // max(1, self._rounds_total)
            bar = "#" * filled + "." * (BAR_WIDTH - filled)
            self._out.write(f"{ERASE_LINE}  [{bar}] {done} of {self._rounds_total} rounds")
        self._out.flush()
