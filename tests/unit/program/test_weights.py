from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import StartupError
from fl_cluster.program.feature_map import FeatureMap
from fl_cluster.program.weights import InitialWeights, model_of
from fl_cluster.store.checkpoints import CheckpointFolder
from fl_cluster.store.model_files import write_model

W, B = np.array([1, 2], np.float32), np.array(3, np.float32)
OTHER = np.array([8, 9], np.float32)


@pytest.fixture
def start(tmp_path: Path) -> Callable[[object], tuple[dict[str, Any], int, frozenset[str]]]:
    """Number, weights and names that are not aggregated, from what is given and what is kept."""

    def found(given: object) -> tuple[dict[str, Any], int, frozenset[str]]:
        folder = CheckpointFolder(tmp_path, "Lenet", is_made=False)
        point, _ = InitialWeights(given, folder).start()
        arrays = {name: array.tolist() for name, array in point.model.arrays().items()}
        kept = frozenset(each.name for each in point.model.layout if not each.is_aggregated)
        return arrays, point.number, kept

    return found


def feature_map() -> FeatureMap:
    features = FeatureMap()
    features.add_feature("w", W)
    features.add_feature("b", B, require_aggr=False)
    return features


def test_a_feature_map_says_what_is_aggregated_and_of_a_dict_everything_is(start: Any) -> None:
    arrays = {"b": 3.0, "w": [1.0, 2.0]}

    assert start(feature_map()) == (arrays, 0, frozenset("b"))
    assert start({"w": W, "b": B}) == (arrays, 0, frozenset())


def test_a_checkpoint_file_is_read(start: Any, tmp_path: Path) -> None:
    write_model(tmp_path / "some.ckpt", {"w": W})

    assert start(str(tmp_path / "some.ckpt")) == ({"w": [1.0, 2.0]}, 0, frozenset())
    assert start(tmp_path / "some.ckpt") == ({"w": [1.0, 2.0]}, 0, frozenset())


def test_a_checkpoint_file_that_cannot_be_read_is_a_value_error(start: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.ckpt").touch()

    for name in ("empty.ckpt", "missing.ckpt"):
        with pytest.raises(ValueError, match=name):
            start(str(tmp_path / name))


def test_a_recovery_checkpoint_replaces_the_weights_and_keeps_the_flags(
    start: Any, tmp_path: Path
) -> None:
    kept = {"w": OTHER, "b": B, "later": W}
    write_model(tmp_path / "Lenet_recovery_iteration_7_20260101_120000.ckpt", kept)
    arrays = {"b": 3.0, "later": [1.0, 2.0], "w": [8.0, 9.0]}

    assert start(feature_map()) == (arrays, 7, frozenset("b"))
    assert start({"gone": W}) == (arrays, 7, frozenset())
    assert start(None) == (arrays, 7, frozenset())
    assert start("ignored.xyz") == (arrays, 7, frozenset())


def test_a_recovery_checkpoint_that_cannot_be_read_gives_way_to_the_one_before(
    start: Any, tmp_path: Path
) -> None:
    write_model(tmp_path / "Lenet_recovery_iteration_6_20260101_120000.ckpt", {"w": OTHER})
    (tmp_path / "Lenet_recovery_iteration_7_20260101_120001.ckpt").write_bytes(b"torn")

    assert start({"w": W}) == ({"w": [8.0, 9.0]}, 6, frozenset())


def test_networks_are_taken_as_they_are(start: Any) -> None:
    def parameter(name: str, array: Any, **more: Any) -> Any:
        return SimpleNamespace(name=name, asnumpy=lambda: array, **more)

    network = SimpleNamespace(
        trainable_params=lambda: [parameter("w", W), parameter("b", B, requires_aggr=False)]
    )
    module = SimpleNamespace(state_dict=lambda: {"w": W, "count": np.array(1), "b": B})

    assert start(network) == ({"b": 3.0, "w": [1.0, 2.0]}, 0, frozenset("b"))
    assert start(module) == ({"b": 3.0, "w": [1.0, 2.0]}, 0, frozenset())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "but got '<class 'NoneType'>'."),
        (5, "but got '<class 'int'>'."),
        ("weights.xyz", "ends with '.ckpt', or MindIR file path, ends with '.mindir'"),
        ("net.mindir", "can only be read by MindSpore"),
        ({"w": [1.0]}, "The type of parameter 'data' is expected to be instance of numpy.ndarray"),
    ],
)
def test_what_holds_no_weights_is_refused(start: Any, given: object, message: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        start(given)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Model size 0 cannot <=0 or >=UINT32_MAX"),
        ({"": W}, "Feature name cannot be empty"),
        ({3: W}, "Feature name is expected to be str"),
        ({"w": W / np.float32(np.inf) * np.float32(np.nan)}, "Verify feature map failed for"),
        ({"w": np.broadcast_to(np.float32(1), (2**29,))}, "Model size 2147483648 cannot <=0 or"),
    ],
)
def test_a_model_that_cannot_be_is_refused_when_the_server_starts(
    values: dict[Any, Any], message: str
) -> None:
    items = {name: SimpleNamespace(data=data, require_aggr=True) for name, data in values.items()}

    with pytest.raises(StartupError) as caught:
        model_of(SimpleNamespace(feature_map=lambda: items))  # type: ignore[arg-type]

    assert message in str(caught.value)
