from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_cluster.program.feature_map import FeatureItem, FeatureMap, as_array, feature_map_of


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1.0], "The type of parameter 'data' is expected to be instance of numpy.ndarray"),
        (
            np.zeros(2),
            "The value type of parameter 'data' is expected to be float32, but got float64",
        ),
        (
            np.zeros((0, 2), np.float32),
            "The value size of parameter 'data' is expected to > 0",
        ),
    ],
)
def test_what_is_no_array_of_float32_is_refused(data: Any, message: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        FeatureItem("w", data)

    assert str(caught.value) == message


def test_an_array_is_referenced_and_a_scalar_keeps_its_shape() -> None:
    data = np.ones((2, 3), np.float32)
    item, scalar = FeatureItem("w", data), FeatureItem("s", np.array(1, np.float32))

    assert item.data is data
    assert (item.feature_name, item.shape, item.require_aggr) == ("w", (2, 3), True)
    assert (scalar.shape, scalar.data.size) == ((), 1)


@pytest.mark.parametrize("make", [np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2]])
def test_data_in_another_order_are_put_in_c_order(make: Any) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)

    item = FeatureItem("w", make(values))

    assert item.data.flags.c_contiguous
    assert item.data.tobytes() == values.tobytes()


def test_a_map_keeps_the_order_in_which_features_came_and_replaces_in_place() -> None:
    features = FeatureMap()
    features.add_feature("b", np.ones(1, np.float32))
    features.add_feature("a", np.ones(2, np.float32), require_aggr=False)
    again = features.add_feature("b", np.ones(3, np.float32))

    assert list(features.feature_map()) == ["b", "a"]
    assert features.feature_map()["b"] is again
    assert features.feature_map() is features.feature_map()
    assert not features.feature_map()["a"].require_aggr


def test_whether_a_feature_is_aggregated_can_be_changed() -> None:
    item = FeatureItem("w", np.ones(1, np.float32))

    item.require_aggr = False

    assert not item.require_aggr


class MindSporeLike:
    def asnumpy(self) -> Any:
        return np.ones(2, np.float32)


class TorchLike:
    def detach(self) -> Any:
        return self

    def cpu(self) -> Any:
        return self

    def numpy(self) -> Any:
        return np.ones(3, np.float32)


def test_a_dict_may_hold_tensors_of_other_libraries() -> None:
    features = feature_map_of({"m": MindSporeLike(), "t": TorchLike()}).feature_map()

    assert (features["m"].shape, features["t"].shape) == ((2,), (3,))
    assert as_array("text") == "text"
