"""Data rates: what is counted in which second, and how the files are named and written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from fl_cluster.telemetry.traffic import DataRateFiles, Second, TrafficMeter

NOON = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp())


class Clock:
    def __init__(self) -> None:
        self.now = float(NOON)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> TrafficMeter:
    return TrafficMeter(clock)


def test_what_comes_in_one_second_is_added_up(meter, clock):
    meter.add(100, 7)
    clock.now += 0.9
    meter.add(20, 3)
    clock.now += 1
    meter.add(1, 1)

    assert meter.take(is_last=True) == [Second(NOON, 120, 10), Second(NOON + 1, 1, 1)]


def test_a_second_is_taken_once_and_when_it_is_over(meter, clock):
    meter.add(1, 2)

    assert meter.take() == []
    clock.now += 1
    meter.add(3, 4)
    assert meter.take() == [Second(NOON, 1, 2)]
    assert meter.take() == []
    assert meter.take(is_last=True) == [Second(NOON + 1, 3, 4)]


def test_seconds_are_in_order_though_the_clock_was_set_back(meter, clock):
    meter.add(1, 1)
    clock.now -= 10
    meter.add(2, 2)
    clock.now += 60

    assert [second.at for second in meter.take()] == [NOON - 10, NOON]


def test_a_line_is_what_tools_of_the_original_read(tmp_path: Path):
    files = DataRateFiles(str(tmp_path), "127.0.0.1:41235", UTC)

    files.append([Second(NOON, 120, 10), Second(NOON + 5, 1, 0)])

    (written,) = tmp_path.iterdir()
    assert written.name == "2026-11-22_flow_server127.0.0.1:41235.json"
    assert written.read_text("utf-8") == (
        '{"receive":120,"send":10,"time":"2026-11-22 12:00:00"}\n'
        '{"receive":1,"send":0,"time":"2026-11-22 12:00:05"}\n'
    )


def test_every_day_has_its_file_in_the_zone_of_the_machine(tmp_path: Path):
    files = DataRateFiles(str(tmp_path), "h:1", timezone(timedelta(hours=12)))

    files.append([Second(NOON - 1, 1, 1), Second(NOON, 2, 2)])
    files.append([Second(NOON + 1, 3, 3)])

    lines = {path.name[:10]: path.read_text("utf-8").splitlines() for path in tmp_path.iterdir()}
    assert {day: len(found) for day, found in lines.items()} == {"2026-11-22": 1, "2026-11-23": 2}
    assert '"time":"2026-11-23 00:00:01"' in lines["2026-11-23"][1]


@pytest.mark.parametrize("folder", ["rates", "rates/", "a/b/rates", "."])
def test_the_folder_is_made_however_it_is_written(tmp_path: Path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)

    DataRateFiles(folder, "h:1", UTC).append([Second(NOON, 1, 1)])

    assert (tmp_path / folder / "2026-11-22_flow_serverh:1.json").exists()


def test_without_traffic_there_is_no_file(tmp_path: Path):
    DataRateFiles(str(tmp_path / "rates"), "h:1", UTC).append([])

    assert not (tmp_path / "rates").exists()
