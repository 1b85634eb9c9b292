"""How busy a server is: a few figures, read now and then, that cost next to nothing.

Rates are means over the last two seconds, so that a figure says something although it is
asked for four times a second.  Readers do not disturb each other, however many there are.
Not here: what is counted (the counts are asked for), where the figures go.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

WINDOW_S = 2.0
FRESH_S = 0.1
"""A reading younger than this is given again; it also bounds how many samples are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One server's load at one moment."""

    requests_per_s: float = 0.0
    uploads_per_s: float = 0.0
    """Updates that were accepted."""
    bytes_in_flight: int = 0
    """Of request bodies in memory."""
    open_connections: int = 0
    cpu_percent: float = 0.0
    """100 is one core."""
    resident_bytes: int = 0
    round_number: int = 0

    def figures(self) -> dict[str, float]:
        """Name -> number, as it is sent to others."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, figures: Mapping[str, float]) -> Load:
        """The load that another process sent.

        Another release may send more figures, which are left out, or fewer, which are 0.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = figures.get(field.name, 0)
            values[field.name] = int(value) if isinstance(field.default, int) else float(value)
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a server counts, at one moment; requests and uploads since it started."""

    requests: int
    uploads: int
    bytes_in_flight: int
    open_connections: int
    round_number: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What the operating system says of this process."""

    cpu_s: float
    """Processor time since the process started, of all its threads."""
    resident_bytes: int


def usage_of_this_process() -> Callable[[], Usage]:
    """A function that asks the operating system."""
    process = psutil.Process()

    def ask() -> Usage:
        with process.oneshot():
            times = process.cpu_times()
            return Usage(times.user + times.system, process.memory_info().rss)

    return ask


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    counts: Counts
    usage: Usage


class LoadMeter:
    """Reads the load of this process; `count` gives the server's own counts."""

    def __init__(
        self,
        count: Callable[[], Counts],
        *,
        usage: Callable[[], Usage] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._usage = usage_of_this_process() if usage is None else usage
        self._clock = clock
        self._samples: deque[_Sample] = deque()

    def read(self) -> Load:
        """The load now; rates are 0 until there is something to compare with."""
        now = self._clock()
        if not self._samples or now - self._samples[-1].at >= FRESH_S:
            self._samples.append(_Sample(now, self._count(), self._usage()))
            while len(self._samples) > 2 and now - self._samples[1].at >= WINDOW_S:
                self._samples.popleft()
        return _load(self._samples[0], self._samples[-1])


def _load(first: _Sample, last: _Sample) -> Load:
    took_s = last.at - first.at

    def rate(before: float, after: float) -> float:
        return round((after - before) / took_s, 1) if took_s > 0 else 0.0

    counts = last.counts
    return Load(
        requests_per_s=rate(first.counts.requests, counts.requests),
        uploads_per_s=rate(first.counts.uploads, counts.uploads),
        bytes_in_flight=counts.bytes_in_flight,
        open_connections=counts.open_connections,
        cpu_percent=rate(100 * first.usage.cpu_s, 100 * last.usage.cpu_s),
        resident_bytes=last.usage.resident_bytes,
        round_number=counts.round_number,
    )
