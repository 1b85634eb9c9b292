"""What a process's own experience says of the store: well, or why not.

Several loops ask the store all the time; each is a witness under a name of its own, some by
reading, one by writing.  The store is well when all of them are served: one that answers may
refuse to write.  A cause is logged once, not at each attempt, and so is its end.
Not here: what a refusal means (service.store_trouble).
"""

from __future__ import annotations

import asyncio
import logging

from fl_cluster.errors import FlClusterError
from fl_cluster.service.explanation import Cause
from fl_cluster.service.store_trouble import explain_fault

logger = logging.getLogger(__name__)


class StoreWatch:
    """The witnesses of one process, and what they said last."""

    def __init__(self) -> None:
        self._faults: dict[str, FlClusterError] = {}
        self._told: set[Cause] = set()
        self._since_s = 0.0

    @property
    def trouble(self) -> FlClusterError | None:
        """The newest fault that is not over; None when the store is well."""
        return next(reversed(self._faults.values()), None)

    def note(self, witness: str, fault: FlClusterError | None) -> None:
        """The witness was served, or was not and why: `StoreUnavailable` or `StoreCorrupt`."""
        self._faults.pop(witness, None)
        if fault is not None:
            self._faults[witness] = fault
            self._tell(fault)
        elif self._told and not self._faults:
            lasted_s = asyncio.get_running_loop().time() - self._since_s
            logger.warning("Redis serves this process again, after %.1f s", lasted_s)
            self._told.clear()

    def _tell(self, fault: FlClusterError) -> None:
        found = explain_fault(fault)
        if found.cause in self._told:
            return
        if not self._told:
            self._since_s = asyncio.get_running_loop().time()
        self._told.add(found.cause)
        clauses = filter(None, (found.sentence, found.change, found.then))
        logger.error("%s", " ".join(map(_sentence, clauses)))


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:].rstrip('.')}."
