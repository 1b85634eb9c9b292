"""Is a process's memory flat?  Decided from samples, per life, after it has warmed up."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.processes import Process, Sample

MEGABYTE = 1024 * 1024
WARM_UP_S = 15.0
LEAST_S = 30.0
"""Shorter lives, warm-up not counted, say nothing."""

ALLOWED_MB = 8.0
"""What a heap may grow by through fragmentation alone, whatever the time."""
ALLOWED_MB_PER_MINUTE = 1.0


@dataclass(frozen=True, slots=True)
class Growth:
    """How one life's memory went."""

    name: str
    minutes: float
    megabytes: float
    """Between the medians of its first and its last third."""
    allowed: float

    @property
    def is_flat(self) -> bool:
        """Whether it stayed within what is allowed."""
        return self.megabytes <= self.allowed

    def __str__(self) -> str:
        return f"{self.name}: {self.megabytes:+.1f} MB in {self.minutes:.1f} min"


def growth(name: str, samples: Sequence[Sample], extra_mb: float = 0.0) -> Growth | None:
    """The growth of one life; None when it was too short to tell."""
    if not samples:
        return None
    warm = [each for each in samples if each.at_s - samples[0].at_s >= WARM_UP_S]
    if not warm or warm[-1].at_s - warm[0].at_s < LEAST_S:
        return None
    third = len(warm) // 3
    first = statistics.median(each.resident for each in warm[:third])
    last = statistics.median(each.resident for each in warm[-third:])
    minutes = (warm[-1].at_s - warm[0].at_s) / 60
    allowed = ALLOWED_MB + ALLOWED_MB_PER_MINUTE * minutes + extra_mb
    return Growth(name, minutes, (last - first) / MEGABYTE, allowed)


def growths(processes: Sequence[Process]) -> list[Growth]:
    """Of every life that was long enough."""
    found = (
        growth(f"{process.name} (life {life})", samples)
        for process in processes
        for life, samples in process.samples.items()
    )
    return [each for each in found if each is not None]
