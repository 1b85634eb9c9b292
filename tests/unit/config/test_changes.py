"""What an operator may change, word for word as the original judges it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fl_cluster.config.changes import CHANGEABLE, NAMES, merge
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import ConfigError

CURRENT: dict[str, Any] = {
    "aggregation_type": "FedAvg",
    "fl_iteration_num": 4,
    "start_fl_job_threshold": 2,
    "start_fl_job_time_window": 30_000,
    "update_model_ratio": 1.0,
    "update_model_time_window": 30_000,
    "global_iteration_time_window": 60_000,
    "client_epoch_num": 20,
    "client_batch_size": 32,
    "client_learning_rate": 0.009999999776482582,
    "upload_sparse_rate": 0.4000000059604645,
}
WHOLE = [
    "global_iteration_time_window",
    "start_fl_job_threshold",
    "start_fl_job_time_window",
    "update_model_time_window",
    "client_epoch_num",
    "client_batch_size",
    "fl_iteration_num",
]
REAL = ["update_model_ratio", "client_learning_rate"]


def complaints(**asked: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        merge(CURRENT, asked)
    return [str(problem) for problem in caught.value.problems]


def test_nothing_asked_is_nothing_changed() -> None:
    assert merge(CURRENT, {}) == CURRENT


def test_what_is_asked_lies_over_what_is() -> None:
    merged = merge(CURRENT, {"start_fl_job_threshold": 1, "client_learning_rate": 0.03})

    assert merged == CURRENT | {"start_fl_job_threshold": 1, "client_learning_rate": 0.03}
    assert SharedParameters.parse(json.dumps(merged)).cohort_size == 1


def test_other_names_are_passed_over() -> None:
    assert merge(CURRENT, {"aggregation_type": "FedProx", "no_such_key": {}}) == CURRENT


def test_the_nine_names_are_judged_in_the_original_s_order() -> None:
    assert NAMES == (
        "global_iteration_time_window",
        "start_fl_job_threshold",
        "start_fl_job_time_window",
        "update_model_ratio",
        "update_model_time_window",
        "client_epoch_num",
        "client_batch_size",
        "client_learning_rate",
        "fl_iteration_num",
    )
    assert [text.split()[1] for text in complaints(**dict.fromkeys(NAMES, "x"))] == list(NAMES)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [True, False, "2", None, -1, 1.0, [], {}, 2**64])
def test_a_count_is_an_unsigned_integer(name: str, value: object) -> None:
    sentence = f"Field {name} in hyper param config should be unsigned integer number"

    assert complaints(**{name: value}) == [sentence]


@pytest.mark.parametrize("name", WHOLE)
def test_zero_is_no_count(name: str) -> None:
    """The original takes it, and no round can end well with it."""
    sentence = f"Field {name} in hyper param config should be larger than 0"

    assert complaints(**{name: 0}) == [sentence]


@pytest.mark.parametrize("field", CHANGEABLE, ids=lambda field: field.name)
def test_a_number_that_devices_cannot_be_told_is_refused(field: Any) -> None:
    highest = getattr(field, "highest", None)
    too_much = 1e39 if highest is None else highest + 1

    assert "should be at most" in complaints(**{field.name: too_much})[0]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [1, 2**31 - 1, 2**32 - 1])
def test_a_count_within_its_bounds_is_taken(name: str, value: int) -> None:
    assert merge(CURRENT, {name: value})[name] == value


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("value", [True, "0.5", None, []])
def test_a_rate_is_a_number(name: str, value: object) -> None:
    sentence = f"Field {name} in hyper param config should be float or integer number"

    assert complaints(**{name: value}) == [sentence]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("value", [0, 0.0, -0.5, -3, float("nan")])
def test_a_rate_is_larger_than_0(name: str, value: float) -> None:
    sentence = f"Field {name} in hyper param config should be larger than 0"

    assert complaints(**{name: value}) == [sentence]


@pytest.mark.parametrize("value", [1.0000002, 1.5, 2])
def test_a_ratio_is_at_most_1(value: float) -> None:
    assert complaints(update_model_ratio=value) == [
        "Field update_model_ratio in hyper param config should be in range of (0,1.0]"
    ]


@pytest.mark.parametrize("value", [1, 1.0, 1.00000001, 1e-30])
def test_a_ratio_is_what_single_precision_makes_of_it(value: float) -> None:
    merged = merge(CURRENT, {"update_model_ratio": value})

    assert merged["update_model_ratio"] == value
    assert isinstance(merged["update_model_ratio"], float)


def test_a_rate_that_is_0_in_single_precision_is_no_rate() -> None:
    assert complaints(client_learning_rate=1e-50) == [
        "Field client_learning_rate in hyper param config should be greater than 0"
    ]


def test_a_current_value_that_is_out_of_range_has_to_be_replaced() -> None:
    with pytest.raises(ConfigError, match="update_model_ratio"):
        merge(CURRENT | {"update_model_ratio": 1.5}, {})

    assert merge(CURRENT | {"update_model_ratio": 1.5}, {"update_model_ratio": 0.5})


MASKED = CURRENT | {
    "encrypt_type": "PW_ENCRYPT",
    "share_secrets_ratio": 1.0,
    "reconstruct_secrets_threshold": 1,
}


def test_no_run_begins_whose_masks_could_not_be_taken_off() -> None:
    with pytest.raises(ConfigError) as caught:
        merge(MASKED, {"start_fl_job_threshold": 4, "update_model_ratio": 0.25})

    (problem,) = caught.value.problems
    assert str(problem) == (
        "cipher init fail. With these settings a round ends with 1 updates and at least 2 of"
        " their devices have to help to read the sum"
    )
    assert merge(MASKED, {"start_fl_job_threshold": 4})["start_fl_job_threshold"] == 4
