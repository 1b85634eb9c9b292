"""What a program that runs a server in its own process may do at three moments.

A hook that raises costs a line in the log, never the round or the server, and one that takes
its time holds up nothing but what it was called for: all of them run outside the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fl_cluster.service.finish import EndedRound

logger = logging.getLogger(__name__)


class ServerHooks(Protocol):
    """Called in threads; `round_ended` on the one member that ended the round."""

    def started(self) -> None:
        """Devices are served."""

    def round_ended(self, ended: EndedRound, checkpoint: Path | None) -> None:
        """The round's files are written, and nobody can see its outcome yet."""

    def stopping(self) -> None:
        """The server is about to end, and still serves; or it could not start."""


class NoHooks:
    """A server that is nobody's."""

    def started(self) -> None:
        """Nothing."""

    def round_ended(self, ended: EndedRound, checkpoint: Path | None) -> None:
        """Nothing."""

    def stopping(self) -> None:
        """Nothing."""


def call(hook: Callable[[], None]) -> None:
    """Call a hook; what it raises is logged and ends there."""
    try:
        hook()
    except Exception:
        # A program's own code: whatever it raises must not cost the cluster a round.
        logger.exception("a hook of the program failed")


class Occasions:
    """When the hooks of one server's life are due; its end is told once, whatever it ended by."""

    def __init__(self, hooks: ServerHooks) -> None:
        self._hooks = hooks
        self._is_over = False

    async def started(self) -> None:
        """Return when the program has had its say."""
        await asyncio.to_thread(call, self._hooks.started)

    async def stopping(self) -> None:
        """Return when the program has had its last word, the first time."""
        if not self._is_over:
            self._is_over = True
            await asyncio.to_thread(call, self._hooks.stopping)
