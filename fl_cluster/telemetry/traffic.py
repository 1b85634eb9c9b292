"""Data-rate files: how many bytes of updates and models went through a server, by the second.

One line for each second in which there was any; a second is written once, after it is over.
A file is a day's and one server's, in a folder that many may share.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from itertools import groupby
from pathlib import Path

from fl_cluster.telemetry.files import LineFile


@dataclass(frozen=True, slots=True)
class Second:
    """What went through in one second."""

    at: int
    """Seconds since the epoch."""
    received: int = 0
    sent: int = 0


class TrafficMeter:
    """Adds up; `clock` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seconds: dict[int, Second] = {}

    def add(self, received: int, sent: int) -> None:
        """Count the bodies of one request and of its answer."""
        at = int(self._clock())
        known = self._seconds.get(at, Second(at))
        self._seconds[at] = replace(
            known, received=known.received + received, sent=known.sent + sent
        )

    def take(self, *, is_last: bool = False) -> list[Second]:
        """The seconds that are over and were not taken yet, in order; all of them when last."""
        now = int(self._clock())
        taken = sorted(at for at in self._seconds if is_last or at < now)
        return [self._seconds.pop(at) for at in taken]


class DataRateFiles:
    """The files of one server in the folder `folder`, which is made when it is needed."""

    def __init__(self, folder: str, tcp_address: str, zone: tzinfo | None = None) -> None:
        """`zone` is the one of names and lines; None is the machine's."""
        self._folder = Path(folder)
        self._server = tcp_address
        self._zone = zone

    def append(self, seconds: Iterable[Second]) -> None:
        """Write a line for each; OSError when that is impossible."""
        for day, group in groupby(seconds, lambda second: f"{self._time(second):%Y-%m-%d}"):
            name = f"{day}_flow_server{self._server}.json"
            lines = [self._line(second) for second in group]
            LineFile(self._folder / name).append(*lines)

    def _time(self, second: Second) -> datetime:
        return datetime.fromtimestamp(second.at, UTC).astimezone(self._zone)

    def _line(self, second: Second) -> str:
        record = {
            "receive": second.received,
            "send": second.sent,
            "time": f"{self._time(second):%Y-%m-%d %H:%M:%S}",
        }
        return json.dumps(record, separators=(",", ":"))
