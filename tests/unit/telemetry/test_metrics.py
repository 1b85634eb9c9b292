"""Metrics in the form that Prometheus reads, in a number that is known beforehand."""

from __future__ import annotations

import math
import threading

import pytest

from fl_cluster.telemetry.metrics import Registry


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_an_empty_registry_exposes_nothing(registry):
    assert registry.expose() == ""


def test_a_counter_is_exposed_with_its_meaning_and_type(registry):
    counter = registry.counter("fl_commits_total", "Commits so far.")
    counter.add()
    counter.add(2)

    assert registry.expose() == (
        "# HELP fl_commits_total Commits so far.\n"
        "# TYPE fl_commits_total counter\n"
        "fl_commits_total 3\n"
    )


def test_a_counter_never_falls(registry):
    counter = registry.counter("fl_commits_total", "Commits.")

    with pytest.raises(ValueError, match="never falls"):
        counter.add(-1)


def test_every_series_exists_from_the_start(registry):
    registry.counters("fl_answers_total", "Answers.", {"verdict": ("accepted", "duplicate")})

    assert registry.expose().splitlines()[2:] == [
        'fl_answers_total{verdict="accepted"} 0',
        'fl_answers_total{verdict="duplicate"} 0',
        'fl_answers_total{verdict="other"} 0',
    ]


def test_a_label_that_was_not_declared_counts_as_other(registry):
    answers = registry.counters("fl_answers_total", "Answers.", {"verdict": ("accepted",)})
    before = len(registry.expose().splitlines())

    for n in range(1000):
        answers.labelled(verdict=f"from a device {n}").add()

    assert 'fl_answers_total{verdict="other"} 1000' in registry.expose()
    assert len(registry.expose().splitlines()) == before


def test_all_labels_must_be_given_and_no_others(registry):
    answers = registry.counters("fl_answers_total", "Answers.", {"verdict": ("accepted",)})

    with pytest.raises(ValueError, match="expected the labels"):
        answers.labelled()
    with pytest.raises(ValueError, match="expected the labels"):
        answers.labelled(verdict="accepted", device="c1")


def test_labels_combine(registry):
    labels = {"call": ("checkIn", "report"), "verdict": ("accepted",)}
    answers = registry.counters("fl_answers_total", "Answers.", labels)

    answers.labelled(verdict="accepted", call="report").add(5)

    text = registry.expose()
    assert 'fl_answers_total{call="report",verdict="accepted"} 5\n' in text
    assert text.count("\nfl_answers_total{") == 6


def test_a_gauge_goes_up_and_down(registry):
    gauge = registry.gauge("fl_bytes_in_flight", "Bytes.")
    gauge.set(10)
    gauge.add(2.5)
    gauge.add(-12.5)

    assert registry.expose().endswith("\nfl_bytes_in_flight 0\n")


def test_a_gauge_may_be_read_when_someone_looks(registry):
    values = iter([1.0, 2.5])
    registry.gauge("fl_age_seconds", "Age.").read_from(lambda: next(values))

    assert registry.expose().endswith("fl_age_seconds 1\n")
    assert registry.expose().endswith("fl_age_seconds 2.5\n")


def test_a_histogram_is_cumulative_and_its_bounds_are_inside(registry):
    histogram = registry.histogram("fl_commit_seconds", "Commit.", bounds=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 2.0):
        histogram.observe(value)

    assert registry.expose().splitlines()[1:] == [
        "# TYPE fl_commit_seconds histogram",
        'fl_commit_seconds_bucket{le="0.1"} 2',
        'fl_commit_seconds_bucket{le="1"} 3',
        'fl_commit_seconds_bucket{le="+Inf"} 4',
        "fl_commit_seconds_sum 2.65",
        "fl_commit_seconds_count 4",
    ]


def test_a_histogram_may_have_labels(registry):
    calls = registry.histograms("fl_call_seconds", "Calls.", {"call": ("report",)}, bounds=(1.0,))
    calls.labelled(call="report").observe(0.5)

    assert 'fl_call_seconds_bucket{call="report",le="1"} 1\n' in registry.expose()
    assert 'fl_call_seconds_count{call="report"} 1\n' in registry.expose()


@pytest.mark.parametrize("bounds", [(), (1.0, 1.0), (2.0, 1.0)])
def test_bounds_must_rise(registry, bounds):
    with pytest.raises(ValueError, match="bounds must rise"):
        registry.histogram("fl_x", "x", bounds=bounds)


def test_the_label_of_the_buckets_is_taken(registry):
    with pytest.raises(ValueError, match="belongs to the buckets"):
        registry.histograms("fl_x", "x", {"le": ("1",)})


@pytest.mark.parametrize("name", ["", "1x", "a-b", "a b"])
def test_a_name_must_be_one_that_scrapers_accept(registry, name):
    with pytest.raises(ValueError, match="not a name"):
        registry.counter(name, "x")


@pytest.mark.parametrize("label", ["", "__x", "a:b", "1"])
def test_a_label_must_be_one_that_scrapers_accept(registry, label):
    with pytest.raises(ValueError, match="not a name"):
        registry.counters("fl_x", "x", {label: ("1",)})


def test_a_metric_is_declared_once(registry):
    registry.counter("fl_x", "x")

    with pytest.raises(ValueError, match="declared twice"):
        registry.gauge("fl_x", "x")


def test_the_number_of_series_has_a_bound(registry):
    many = tuple(str(n) for n in range(100))

    with pytest.raises(ValueError, match="would have 10201 series"):
        registry.counters("fl_x", "x", {"a": many, "b": many})


def test_what_scrapers_would_misread_is_escaped(registry):
    registry.counters("fl_x", 'back\\slash\nand "quotes"', {"path": ('C:\\a\n"b"',)})

    text = registry.expose()
    assert text.startswith('# HELP fl_x back\\\\slash\\nand "quotes"\n')
    assert 'fl_x{path="C:\\\\a\\n\\"b\\""} 0\n' in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"), (1e300, "1e+300"), (0.1, "0.1")],
)
def test_numbers_are_written_as_scrapers_read_them(registry, value, shown):
    registry.gauge("fl_x", "x").set(value)

    assert registry.expose().endswith(f"fl_x {shown}\n")


def test_threads_do_not_lose_counts(registry):
    counter = registry.counter("fl_x_total", "x")

    def count() -> None:
        for _ in range(20_000):
            counter.add()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert registry.expose().endswith("fl_x_total 80000\n")
