from __future__ import annotations

import numpy as np

from fl_cluster.worker.adaptive import DISTANCE, AdaptiveFrequency, Tuning

START = {"w": np.array([1, 2], np.float32)}


def moved(by: float, times: int = 1) -> dict[str, np.ndarray]:
    return {"w": START["w"] + np.float32(by * times)}


def cycle(rule: AdaptiveFrequency, after: np.ndarray, distance: float, frequency: int) -> int:
    """One exchange whose averaged distance is `distance` for every element."""
    distances = {f"{DISTANCE}w": np.full(2, distance, np.float32)}
    return rule.next_frequency({"w": after}, distances, frequency)


def test_the_distances_of_a_cycle_travel_under_names_of_their_own() -> None:
    rule = AdaptiveFrequency(START, 1, Tuning())

    found = rule.distances({"w": np.array([7, 8], np.float32)})

    assert {name: values.tolist() for name, values in found.items()} == {"as_abs_grad.w": [6, 6]}


def test_distances_count_from_the_last_exchange() -> None:
    rule = AdaptiveFrequency(START, 1, Tuning())

    cycle(rule, np.array([7, 8], np.float32), 6, 4)

    assert rule.distances({"w": np.array([6, 9], np.float32)})["as_abs_grad.w"].tolist() == [1, 1]


def test_while_steps_agree_no_new_low_is_needed_and_the_frequency_stays() -> None:
    rule = AdaptiveFrequency(START, 2, Tuning(observation_window_size=50))

    frequencies = [cycle(rule, moved(1, n)["w"], 1, 8) for n in range(1, 20)]

    assert frequencies == [8] * 19


def test_without_a_new_low_for_longer_than_the_window_workers_exchange_more_often() -> None:
    rule = AdaptiveFrequency(START, 1, Tuning(observation_window_size=2))

    # All steps agree: the rate is 1 in every cycle, a low in the first one only.
    frequencies, frequency = [], 8
    for n in range(1, 6):
        frequency = cycle(rule, moved(1, n)["w"], 1, frequency)
        frequencies.append(frequency)

    # Cycles 0..2 are inside the window of 2; cycle 3 is the first beyond it.
    assert frequencies == [8, 8, 8, 4, 4]


def test_the_window_grows_with_each_change() -> None:
    rule = AdaptiveFrequency(START, 1, Tuning(observation_window_size=1))

    changes, frequency = [], 64
    for n in range(30):
        renewed = cycle(rule, moved(1, n + 1)["w"], 1, frequency)
        if renewed != frequency:
            changes.append(n)
        frequency = renewed

    assert changes == [2, 6, 12, 22]
    assert frequency == 4


def test_a_frequency_is_rounded_up_and_never_below_one() -> None:
    rule = AdaptiveFrequency(START, 1, Tuning(observation_window_size=1))

    frequency = 3
    for n in range(30):
        frequency = cycle(rule, moved(1, n + 1)["w"], 1, frequency)

    assert frequency == 1


def test_nothing_changes_before_the_round_that_was_asked_for() -> None:
    rule = AdaptiveFrequency(START, 1, Tuning(observation_window_size=1, unchanged_round=10))

    frequencies, frequency = [], 8
    for n in range(13):
        frequency = cycle(rule, moved(1, n + 1)["w"], 1, frequency)
        frequencies.append(frequency)

    assert frequencies == [8] * 11 + [4, 4]


def test_a_model_that_stands_still_divides_by_one() -> None:
    rule = AdaptiveFrequency(START, 1, Tuning())

    assert cycle(rule, START["w"], 0, 4) == 4
