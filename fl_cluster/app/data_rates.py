"""Writes the data-rate files of one server while it runs, and the rest when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from fl_cluster.telemetry.traffic import DataRateFiles, Second, TrafficMeter

logger = logging.getLogger(__name__)

PERIOD_S = 60.0


class DataRates:
    """The meter that requests are counted by, and the files it is emptied into."""

    def __init__(self, files: DataRateFiles, *, period_s: float = PERIOD_S) -> None:
        self.meter = TrafficMeter()
        self._files = files
        self._period_s = period_s

    @classmethod
    def into(cls, folder: str, tcp_address: str) -> DataRates | None:
        """Those of one server; None when no folder is given."""
        return cls(DataRateFiles(folder, tcp_address)) if folder else None

    async def run(self) -> None:
        """Write now and then until cancelled, and then what is left."""
        try:
            while True:
                await asyncio.sleep(self._period_s)
                await asyncio.to_thread(self._write, self.meter.take())
        finally:
            self._write(self.meter.take(is_last=True))

    def _write(self, seconds: Sequence[Second]) -> None:
        try:
            self._files.append(seconds)
        except OSError as exc:
            logger.warning("%d seconds of data rates are lost: %s", len(seconds), exc)
