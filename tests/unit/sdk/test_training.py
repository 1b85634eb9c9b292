"""What training functions may return, and what they are told otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from fl_cluster.errors import CallerProtocolError
from fl_cluster.sdk.training import TrainResult, Weights, checked, writable

HELD: Weights = {
    "layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layer.bias": np.zeros(3, np.float32),
    "scale": np.ones((), np.float32),
}


def changed(**tensors: object) -> dict[str, object]:
    """The held weights with some tensors replaced; dots in names are written as `__`."""
    return {**HELD, **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}


def refusal_of(weights: object, samples: int | None = 5, **metrics: object) -> str:
    with pytest.raises(CallerProtocolError) as caught:
        checked((weights, samples, metrics), HELD, 5)
    return str(caught.value)


def test_a_tuple_and_a_result_are_the_same() -> None:
    from_tuple = checked((HELD, 5, {"loss": 0.5}), HELD, 5)
    from_result = checked(TrainResult(HELD, 5, {"loss": 0.5}), HELD, 5)

    assert from_tuple.loss == from_result.loss == 0.5
    assert from_tuple.weights.keys() == from_result.weights.keys()


def test_samples_and_metrics_may_be_left_out() -> None:
    update = checked(TrainResult(HELD), HELD, 5)

    assert (update.loss, update.accuracy, dict(update.metrics)) == (0.0, 0.0, {})


def test_tensors_come_out_contiguous_and_in_the_order_of_the_model() -> None:
    turned = np.asfortranarray(HELD["layer.weight"])

    update = checked(TrainResult(changed(layer__weight=turned)), dict(reversed(HELD.items())), 5)

    assert list(update.weights) == ["scale", "layer.bias", "layer.weight"]
    assert update.weights["layer.weight"].flags.c_contiguous
    assert update.weights["layer.weight"].tobytes() == HELD["layer.weight"].tobytes()


def test_a_number_from_another_library_is_a_metric_if_it_is_a_number() -> None:
    assert checked((HELD, 5, {"loss": np.float32(0.5)}), HELD, 5).loss == 0.5


def test_other_samples_than_declared_are_refused_with_both_numbers() -> None:
    message = refusal_of(HELD, samples=6)

    assert "samples=6" in message
    assert "data_size=5" in message


def test_missing_and_unknown_tensors_are_named() -> None:
    weights = changed(extra=HELD["scale"])
    del weights["layer.bias"]

    assert refusal_of(weights).endswith("missing 'layer.bias', unknown 'extra'")


def test_a_long_list_of_tensors_is_cut() -> None:
    message = refusal_of(changed(**{f"extra{i}": HELD["scale"] for i in range(9)}))

    assert "'extra4' and 4 more" in message


def test_another_shape_is_refused_with_both_shapes() -> None:
    message = refusal_of(changed(layer__weight=np.zeros((3, 2), np.float32)))

    assert message == "tensor 'layer.weight': expected shape (2, 3), found (3, 2)"


@pytest.mark.parametrize(
    "values", [np.zeros(3, np.float64), np.zeros(3, np.int64), [0.0, 0.0, 0.0], ["a", "b", "c"]]
)
def test_another_type_is_refused_with_its_name(values: object) -> None:
    message = refusal_of(changed(layer__bias=values))

    assert message == f"tensor 'layer.bias': expected float32, found {np.asarray(values).dtype}"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found(bad: float) -> None:
    values = HELD["layer.weight"].copy()
    values[1, 2] = bad

    message = refusal_of(changed(layer__weight=values))

    assert message == f"tensor 'layer.weight': expected finite values, found {bad} at [1, 2]"


def test_a_scalar_that_is_not_finite_is_found() -> None:
    message = refusal_of(changed(scale=np.full((), np.nan, np.float32)))

    assert message == "tensor 'scale': expected finite values, found nan at []"


@pytest.mark.parametrize("name", ["loss", "accuracy"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39, "low", None])
def test_a_reported_metric_has_to_be_finite(name: str, value: object) -> None:
    message = refusal_of(HELD, **{name: value})

    assert message == f"metric {name!r}: expected a finite number, found {value!r}"


@pytest.mark.parametrize("outcome", [None, HELD, (HELD, 5), ("weights", 5, {}), (HELD, 5, 0.5)])
def test_something_else_than_a_result_is_refused_with_its_type(outcome: object) -> None:
    with pytest.raises(CallerProtocolError, match="expected"):
        checked(outcome, HELD, 5)


def test_writable_copies_share_nothing_with_the_model() -> None:
    held = {name: values.copy() for name, values in HELD.items()}
    for values in held.values():
        values.flags.writeable = False

    copies = writable(held)
    copies["layer.weight"] += 1

    assert held["layer.weight"].tobytes() == HELD["layer.weight"].tobytes()
