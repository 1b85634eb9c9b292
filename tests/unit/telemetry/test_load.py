"""A server's load: figures that are right whoever reads them, however often."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from fl_cluster.telemetry.load import Counts, Load, LoadMeter, Usage, usage_of_this_process

NOTHING = Counts(requests=0, uploads=0, bytes_in_flight=0, open_connections=0, round_number=1)


class Busy:
    """A server whose figures a test sets, and a clock that it moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.counts = replace(NOTHING, requests=1000, uploads=500)
        self.usage = Usage(cpu_s=7.0, resident_bytes=70_000_000)
        self.times_asked = 0
        self.meter = LoadMeter(self.count, usage=lambda: self.usage, clock=lambda: self.now)

    def count(self) -> Counts:
        self.times_asked += 1
        return self.counts

    def work(
        self, seconds: float, *, requests: int = 0, uploads: int = 0, cpu_s: float = 0
    ) -> None:
        self.now += seconds
        self.counts = replace(
            self.counts,
            requests=self.counts.requests + requests,
            uploads=self.counts.uploads + uploads,
        )
        self.usage = replace(self.usage, cpu_s=self.usage.cpu_s + cpu_s)


@pytest.fixture
def busy() -> Busy:
    return Busy()


def test_the_first_reading_has_no_rates(busy: Busy) -> None:
    busy.counts = replace(busy.counts, bytes_in_flight=5, open_connections=6, round_number=7)

    assert busy.meter.read() == Load(
        bytes_in_flight=5, open_connections=6, round_number=7, resident_bytes=70_000_000
    )


def test_rates_are_means_since_the_reading_before(busy: Busy) -> None:
    busy.meter.read()
    busy.work(0.5, requests=40, uploads=10, cpu_s=0.25)

    load = busy.meter.read()

    assert (load.requests_per_s, load.uploads_per_s, load.cpu_percent) == (80.0, 20.0, 50.0)


def test_rates_are_means_over_the_last_two_seconds(busy: Busy) -> None:
    for _ in range(40):
        busy.meter.read()
        busy.work(0.25, requests=1000)
    for _ in range(8):
        busy.meter.read()
        busy.work(0.25, requests=10)

    assert busy.meter.read().requests_per_s == 40.0


def test_readers_do_not_disturb_each_other(busy: Busy) -> None:
    busy.meter.read()
    busy.work(1.0, requests=100, cpu_s=1.5)

    readings = [busy.meter.read() for _ in range(5)]

    assert {load.requests_per_s for load in readings} == {100.0}
    assert {load.cpu_percent for load in readings} == {150.0}
    assert busy.times_asked == 2


def test_a_meter_that_is_read_all_the_time_keeps_few_samples(busy: Busy) -> None:
    for _ in range(10_000):
        busy.meter.read()
        busy.work(0.001)

    assert len(busy.meter._samples) <= 22


def test_a_meter_that_nobody_read_for_long_tells_of_the_time_since(busy: Busy) -> None:
    busy.meter.read()
    busy.work(100.0, requests=1000)

    assert busy.meter.read().requests_per_s == 10.0


def test_figures_go_over_the_wire_and_come_back() -> None:
    load = Load(
        requests_per_s=1.5,
        uploads_per_s=2.5,
        bytes_in_flight=3,
        open_connections=4,
        cpu_percent=5.5,
        resident_bytes=6,
        round_number=7,
    )

    assert Load.of(load.figures()) == load


def test_figures_of_another_release_are_left_out_or_0() -> None:
    load = Load.of({"round_number": 3.0, "temperature": 40.0})

    assert load == Load(round_number=3)
    assert type(load.round_number) is int


def test_the_operating_system_knows_what_this_process_uses() -> None:
    usage = usage_of_this_process()

    before = usage()
    times = os.times()
    while os.times().user + os.times().system < times.user + times.system + 0.05:
        sum(range(10_000))
    after = usage()

    assert after.cpu_s - before.cpu_s >= 0.04
    assert after.resident_bytes > 1_000_000
