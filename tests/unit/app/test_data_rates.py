"""The task that writes data-rate files: at its times, at its end, and when it cannot."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from fl_cluster.app.data_rates import DataRates
from fl_cluster.telemetry.traffic import DataRateFiles


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def lines(folder: Path) -> list[str]:
    return [line for path in folder.iterdir() for line in path.read_text("utf-8").splitlines()]


async def test_what_is_left_is_written_at_once_when_the_server_ends(tmp_path: Path):
    rates = DataRates(DataRateFiles(str(tmp_path), "h:1"))
    task = asyncio.create_task(rates.run())
    await asyncio.sleep(0)
    rates.meter.add(5, 6)

    began = time.monotonic()
    await end(task)

    assert time.monotonic() - began < 5
    (line,) = lines(tmp_path)
    assert '"receive":5,"send":6' in line


async def test_seconds_that_are_over_are_written_while_the_server_runs(tmp_path: Path):
    rates = DataRates(DataRateFiles(str(tmp_path), "h:1"), period_s=0.02)
    rates.meter.add(5, 6)
    task = asyncio.create_task(rates.run())

    await until(lambda: list(tmp_path.iterdir()))

    await end(task)
    assert len(lines(tmp_path)) == 1


async def test_a_folder_that_cannot_be_used_costs_a_warning_and_nothing_else(tmp_path, caplog):
    (tmp_path / "file").write_text("", "utf-8")
    rates = DataRates(DataRateFiles(str(tmp_path / "file"), "h:1"), period_s=0.02)
    rates.meter.add(5, 6)
    task = asyncio.create_task(rates.run())

    await until(lambda: "1 seconds of data rates are lost" in caplog.text)

    assert not task.done()
    await end(task)


def test_no_folder_no_files():
    assert DataRates.into("", "h:1") is None
