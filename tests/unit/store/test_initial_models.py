"""The seeded LeNet: the original's names and shapes, and the same bits everywhere."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fl_cluster.store.initial_models import lenet


def digest(arrays: dict[str, np.ndarray]) -> str:
    joined = b"".join(arrays[name].astype("<f4").tobytes() for name in sorted(arrays))
    return hashlib.sha256(joined).hexdigest()


def test_names_and_shapes_are_those_of_the_femnist_example() -> None:
    assert {name: array.shape for name, array in lenet().items()} == {
        "conv1.weight": (6, 3, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc1.bias": (120,),
        "fc2.weight": (84, 120),
        "fc2.bias": (84,),
        "fc3.weight": (62, 84),
        "fc3.bias": (62,),
    }
    assert sum(array.size for array in lenet().values()) == 66_404


def test_the_bits_are_the_same_on_every_machine() -> None:
    assert digest(lenet()) == "26d2b836e4998b3b4957e4782efb5295faa9caf7e466daae47e960b9e82d179b"
    assert (
        digest(lenet(2, classes=10, channels=1))
        == "f52b1053177fe11287e3f69e66f06cf3bc0fa868df775b3c33b00e0246fe66c3"
    )


def test_the_seed_changes_every_weight_tensor() -> None:
    for name, array in lenet(2).items():
        assert np.array_equal(array, lenet(1)[name]) == name.endswith(".bias")


def test_a_tensor_depends_on_nothing_but_seed_name_and_shape() -> None:
    np.testing.assert_array_equal(lenet()["fc1.weight"], lenet(classes=10)["fc1.weight"])


@pytest.mark.parametrize("name", ["conv2.weight", "fc1.weight", "fc2.weight", "fc3.weight"])
def test_weights_are_spread_as_he_says(name: str) -> None:
    array = lenet()[name].astype(np.float64)
    expected = np.sqrt(2 / np.prod(array.shape[1:]))
    error = 1 / np.sqrt(array.size)

    assert abs(array.mean()) < 4 * error * expected
    assert array.std() == pytest.approx(expected, rel=4 * error)
    assert 0.66 < np.mean(np.abs(array) < expected) < 0.70 or array.size < 3000
    assert np.unique(array).size > 0.9 * array.size


def test_biases_start_at_zero() -> None:
    assert not any(lenet()[name].any() for name in lenet() if name.endswith(".bias"))
