from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fl_cluster.config.schema import AggregationType
from fl_cluster.worker.methods import Cycle, Proximal, make_method

INITIAL = {"w": np.array([1, 2], np.float32)}
LOCAL = {"w": np.array([7, 8], np.float32)}
CYCLE = Cycle(data_size=10, steps=2, sync_frequency=2, learning_rate=0.5)


def lists(weights: Mapping[str, Any]) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in weights.items()}


@pytest.mark.parametrize("kind", [AggregationType.FED_AVG, AggregationType.FED_PROX])
def test_averaging_methods_hand_in_weights_times_data_size(kind: AggregationType) -> None:
    method = make_method(kind, INITIAL, ["w"])

    update = method.update(LOCAL, CYCLE)

    assert lists(update) == {"w": [70, 80]}
    assert update["w"].dtype == np.float32
    assert method.declared_size(CYCLE) == 10
    assert method.corrected(LOCAL, 0.5) == {}


def test_fedprox_keeps_what_was_delivered_as_its_reference() -> None:
    method = make_method(AggregationType.FED_PROX, {**INITIAL, "own": INITIAL["w"]}, ["w"])
    assert isinstance(method, Proximal)

    method.finish({**LOCAL, "own": LOCAL["w"]}, {"w": LOCAL["w"]})

    assert lists(method.reference) == {"w": [7, 8], "own": [1, 2]}


def test_fednova_hands_in_the_mean_step_and_declares_the_steps() -> None:
    method = make_method(AggregationType.FED_NOVA, INITIAL, ["w"])

    update = method.update(LOCAL, CYCLE)

    assert lists(update) == {"w": [3, 3]}
    assert method.declared_size(CYCLE) == 2
    # What a server with a threshold of 1 makes of it: G + T * sum / w.
    assert (INITIAL["w"] + 2 * update["w"] / 1).tolist() == [7, 8]


def test_fednova_counts_from_the_model_it_got_last() -> None:
    method = make_method(AggregationType.FED_NOVA, INITIAL, ["w"])

    method.finish(LOCAL, LOCAL)

    assert lists(method.update({"w": LOCAL["w"] + 4}, CYCLE)) == {"w": [2, 2]}


def test_scaffolds_first_cycle_corrects_nothing_and_hands_in_its_slope() -> None:
    method = make_method(AggregationType.SCAFFOLD, INITIAL, ["w"])
    method.begin({})

    corrected = method.corrected(LOCAL, 0.5)
    update = method.update(LOCAL, CYCLE)

    assert lists(corrected) == {"w": [7, 8]}
    # (x0 - param) / (sync_frequency * lr) = ((1, 2) - (7, 8)) / (2 * 0.5)
    assert lists(update) == {"w": [70, 80], "control.w": [-6, -6]}


def test_scaffold_corrects_each_step_by_the_difference_of_the_controls() -> None:
    method = make_method(AggregationType.SCAFFOLD, INITIAL, ["w"])
    method.begin({})
    method.update(LOCAL, CYCLE)
    method.finish(LOCAL, LOCAL)
    method.begin({"control.w": np.array([2, 4], np.float32)})

    corrected = method.corrected(LOCAL, 0.5)
    update = method.update({"w": np.array([8, 10], np.float32)}, CYCLE)

    # param - lr * (c_global - c_local), c_local = (-6, -6)
    assert lists(corrected) == {"w": [7 - 0.5 * 8, 8 - 0.5 * 10]}
    # c_new = c_local - c_global + (x0 - param) / 1 = (-8, -10) + (-1, -2); minus c_local
    assert lists(update) == {"w": [80, 100], "control.w": [-3, -6]}


def test_scaffold_without_a_control_from_the_cluster_is_a_value_error() -> None:
    method = make_method(AggregationType.SCAFFOLD, INITIAL, ["w"])
    method.begin({})

    with pytest.raises(
        ValueError, match=r"'control\.w' is not in control parameters sent by server"
    ):
        method.begin({"control.other": LOCAL["w"]})


def test_only_named_parameters_have_controls() -> None:
    both = {"w": INITIAL["w"], "as_abs_grad.w": np.zeros(2, np.float32)}
    method = make_method(AggregationType.SCAFFOLD, both, ["w"])

    assert set(method.update(both, CYCLE)) == {"w", "as_abs_grad.w", "control.w"}
    assert set(method.corrected(both, 0.1)) == {"w"}
