"""The lines of the metrics and event files, digit by digit."""

from __future__ import annotations

import json
import math
from datetime import timedelta, timezone

import numpy as np
import pytest

from fl_cluster.telemetry.summary import (
    ParticipationLevels,
    PrivacySpent,
    RoundSummary,
    Visits,
    failure_line,
    line_identity,
    local_time,
    metrics_line,
    shortest_single,
    weighted_mean,
)

ZONE = timezone(timedelta(hours=8))
STARTED = 1_795_289_499_749
"""2026-11-22 03:31:39.749 in ZONE."""

OBSERVED = (
    '{"clientVisitedInfo":{"getModelAcceptClientNum":2,"getModelRejectClientNum":10,'
    '"getModelTotalClientNum":12,"participationTimeLevel1":2,"participationTimeLevel2":2,'
    '"participationTimeLevel3":2,"startFLJobAcceptClientNum":2,"startFLJobRejectClientNum":0,'
    '"startFLJobTotalClientNum":2,"updateModelAcceptClientNum":2,"updateModelRejectClientNum":1,'
    '"updateModelTotalClientNum":3},"currentIteration":3,"endTime":"2026-11-22 03:31:40.243",'
    '"flIterationNum":3,"flName":"Bench","instanceName":"i_2026-11-22-03:31:25.142.704",'
    '"instanceStatus":"running","iterationExecutionTime":494,"iterationResult":"success",'
    '"metricsAuc":0.0,"metricsLoss":0.5,"startTime":"2026-11-22 03:31:39.749",'
    '"unsupervisedEval":0.0}'
)
"""A line that the original wrote."""


def a_summary(**changes) -> RoundSummary:
    fields = {
        "job": "Bench",
        "instance": "i_2026-11-22-03:31:25.142.704",
        "instance_state": "running",
        "round_number": 3,
        "rounds_total": 3,
        "is_success": True,
        "started_ms": STARTED,
        "ended_ms": STARTED + 494,
        "loss": 0.5,
        "accuracy": 0.0,
        "check_ins": Visits(2, 2),
        "reports": Visits(3, 2),
        "model_reads": Visits(12, 2),
        "participation": (2, 2, 2),
    }
    return RoundSummary(**{**fields, **changes})


def record(**changes):
    return json.loads(metrics_line(a_summary(**changes), ZONE))


def test_the_line_is_the_one_the_original_wrote():
    assert metrics_line(a_summary(), ZONE) == OBSERVED


def test_what_noise_has_cost_is_said_where_there_is_any():
    spent = PrivacySpent(3.25, 1e-05, None, 12)

    line = record(privacy=spent)

    assert {name: line.pop(name) for name in list(line) if name.startswith("privacy")} == {
        "privacyDelta": 1e-05,
        "privacyEpsilon": 3.25,
        "privacyEpsilonBudget": None,
        "privacyRounds": 12,
    }
    assert line == json.loads(OBSERVED)
    assert record(privacy=PrivacySpent(math.inf, 1e-5, 8.0, 1))["privacyEpsilon"] is None


def test_a_failed_round_says_so():
    assert record(is_success=False)["iterationResult"] == "fail"


def test_a_round_nobody_checked_in_to_has_no_start():
    line = record(started_ms=None)

    assert line["startTime"] == ""
    assert line["iterationExecutionTime"] == STARTED + 494


def test_a_round_that_ends_before_it_began_wraps_around_as_unsigned_numbers_do():
    assert record(ended_ms=STARTED - 1)["iterationExecutionTime"] == 18446744073709551615


@pytest.mark.parametrize("number", [6.9, 10.1, 7.4, 0.0, 0.1, 1e-5, 3.0e38, 1 / 3])
def test_a_single_is_printed_with_the_fewest_digits_that_give_it_back(number):
    line = metrics_line(a_summary(loss=float(np.float32(number)), accuracy=number), ZONE)

    printed = json.loads(line)["metricsLoss"]
    assert np.float32(printed) == np.float32(number)
    assert f'"metricsLoss":{np.float32(number)!s},' in line
    assert f'"metricsAuc":{np.float32(number)!s},' in line


@pytest.mark.parametrize("number", [6.9, 10.1, 7.4])
def test_a_reader_gets_the_number_that_was_pushed(number):
    assert record(loss=float(np.float32(number)))["metricsLoss"] == number


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e39])
def test_what_is_no_number_is_null(number):
    line = record(loss=number, accuracy=number, unsupervised_score=number)

    assert line["metricsLoss"] is None
    assert line["metricsAuc"] is None
    assert line["unsupervisedEval"] is None


def test_singles_at_random_come_back():
    bits = np.random.default_rng(5).integers(0, 2**32, 20_000, dtype=np.uint32)
    for single in bits.view(np.float32):
        if np.isfinite(single):
            shown = shortest_single(float(single))
            assert np.float32(shown) == single
            assert len(repr(shown)) <= len(repr(float(single)))


def test_a_name_beyond_ascii_is_written_as_it_is():
    assert '"flName":"Übung"' in metrics_line(a_summary(job="Übung"), ZONE)


def test_a_line_break_in_a_name_stays_inside_of_its_line():
    assert "\n" not in metrics_line(a_summary(job="a\nb"), ZONE)


def test_times_are_local_with_milliseconds():
    assert local_time(0, ZONE) == "1970-01-01 08:00:00.000"
    assert local_time(1, ZONE) == "1970-01-01 08:00:00.001"
    assert local_time(STARTED, ZONE) == "2026-11-22 03:31:39.749"


def test_without_a_zone_the_machines_own_is_taken(monkeypatch):
    import time

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert local_time(0) == "1970-01-01 09:00:00.000"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_line_is_known_by_its_instance_and_round():
    assert line_identity(OBSERVED) == ("i_2026-11-22-03:31:25.142.704", 3)


@pytest.mark.parametrize(
    "line", ["", "{", "5", "[]", "{}", '{"instanceName":1,"currentIteration":1}']
)
def test_what_is_no_metrics_line_has_no_identity(line):
    assert line_identity(line) is None


def test_the_line_of_the_event_file_is_the_originals():
    assert failure_line("127.0.0.1:37491", STARTED, 10, ZONE) == (
        "nodeRole:SERVER,127.0.0.1:37491,currentTime:2026-11-22 03:31:39.749,"
        "event:Iteration failed 10 times continuously;"
    )


@pytest.mark.parametrize(
    ("text", "levels"),
    [("5,15", (5, 15)), ("1,2880", (1, 2880)), (" 10 , 20 ", (10, 20)), ("007,8", (7, 8))],
)
def test_two_rising_numbers_of_minutes_are_levels(text, levels):
    parsed, complaint = ParticipationLevels.parse(text)

    assert (parsed.first_minutes, parsed.second_minutes) == levels
    assert complaint is None


@pytest.mark.parametrize(
    "text",
    ["", "5", "5,", "5,5", "15,5", "0,5", "5,2881", "5,15,30", "a,b", "-1,5", "5.0,15", "٣,٤"],
)
def test_anything_else_falls_back_to_five_and_fifteen_and_says_so(text):
    parsed, complaint = ParticipationLevels.parse(text)

    assert parsed == ParticipationLevels(5, 15)
    assert repr(text) in complaint


def test_participation_is_counted_cumulatively_and_limits_are_outside():
    levels = ParticipationLevels(5, 15)
    minute = 60_000

    assert levels.count([1, 5 * minute - 1]) == (2, 2, 2)
    assert levels.count([5 * minute, 15 * minute - 1, 15 * minute, 10**12]) == (0, 2, 4)
    assert levels.count([]) == (0, 0, 0)


def test_a_time_that_is_not_positive_is_not_counted():
    assert ParticipationLevels().count([0, -5]) == (0, 0, 0)


def test_visits_that_were_not_accepted_were_rejected():
    assert Visits(12, 2).rejected == 10


def test_the_mean_weighs_each_value():
    assert weighted_mean([(1.0, 1), (4.0, 2)]) == 3.0
    assert np.float32(
        weighted_mean([(float(np.float32(6.9)), 5), (float(np.float32(7.9)), 5)])
    ) == (np.float32(7.4))


def test_the_mean_does_not_depend_on_the_order():
    pairs = [(0.1 * n, n % 7 + 1) for n in range(100)]

    assert weighted_mean(pairs) == weighted_mean(reversed(pairs))


def test_nothing_has_the_mean_zero():
    assert weighted_mean([]) == 0.0
    assert weighted_mean([(5.0, 0)]) == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_no_number_makes_the_mean_none(value):
    assert math.isnan(weighted_mean([(1.0, 1), (value, 1), (-value, 1)]))
