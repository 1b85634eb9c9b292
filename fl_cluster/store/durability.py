"""What of an acknowledged update survives the end of the store's own process.

The cluster acknowledges an update when the store has it; what that is worth is the store's
configuration, and users are told in one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Level(StrEnum):
    """The promise, in one word."""

    NONE = "none"
    EVERYSEC = "everysec"
    ALWAYS = "always"
    UNKNOWN = "unknown"


SENTENCES = {
    Level.NONE: (
        "Redis keeps nothing when it ends: all acknowledged updates of the round under way, "
        "the round number and the newest models die with it; start it with --appendonly yes"
    ),
    Level.EVERYSEC: (
        "Redis writes to disk each second: when its machine ends, up to one second of "
        "acknowledged updates can be lost"
    ),
    Level.ALWAYS: "Redis writes to disk before it answers: no acknowledged update is lost",
    Level.UNKNOWN: (
        "Redis does not let this user read its configuration (CONFIG GET), so what survives "
        "its end is not known here"
    ),
}

SNAPSHOTS = (
    "Redis only takes snapshots from time to time: acknowledged updates since the last one "
    "die with it; start it with --appendonly yes"
)


@dataclass(frozen=True, slots=True)
class StoreDurability:
    """The level in force and the sentence that says what it means."""

    level: Level
    sentence: str

    @property
    def is_weak(self) -> bool:
        """Whether users should be warned."""
        return self.level is Level.NONE


UNKNOWN = StoreDurability(Level.UNKNOWN, SENTENCES[Level.UNKNOWN])


def judge(*, append_only: str, append_fsync: str, save: str) -> StoreDurability:
    """The level for Redis's own settings: `yes`/`no`, `always`/`everysec`/`no`, save points.

    An append-only file that is flushed whenever the system likes survives the end of Redis
    but promises nothing when the machine ends: that is none.
    """
    if append_only == "yes" and append_fsync == "always":
        return StoreDurability(Level.ALWAYS, SENTENCES[Level.ALWAYS])
    if append_only == "yes" and append_fsync == "everysec":
        return StoreDurability(Level.EVERYSEC, SENTENCES[Level.EVERYSEC])
    if append_only == "yes":
        return StoreDurability(
            Level.NONE,
            "Redis leaves writing to the operating system (appendfsync no): when its machine "
            "ends, some 30 seconds of acknowledged updates can be lost",
        )
    return StoreDurability(Level.NONE, SNAPSHOTS if save else SENTENCES[Level.NONE])


class DurabilityReader(Protocol):
    """Asks the store what it promises."""

    async def durability(self) -> StoreDurability:
        """The promise in force now; UNKNOWN when the store does not say."""
