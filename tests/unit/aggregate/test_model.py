"""A model: immutable float32 values in layout order."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model, digest_of_tensors

LAYOUT = Layout([Tensor("b", (2, 2)), Tensor("a", (3,))])


def test_tensors_are_views_in_their_shapes():
    model = Model(LAYOUT, np.arange(7, dtype=np.float32))

    assert model.tensor("a").tolist() == [0, 1, 2]
    assert model.tensor("b").tolist() == [[3, 4], [5, 6]]
    assert list(model.arrays()) == ["a", "b"]
    assert np.shares_memory(model.tensor("b"), model.values)


def test_an_unknown_tensor_is_a_key_error():
    with pytest.raises(KeyError, match="c"):
        Model(LAYOUT, np.zeros(7, np.float32)).tensor("c")


def test_nothing_of_it_can_be_changed():
    values = np.zeros(7, np.float32)
    model = Model(LAYOUT, values)

    for array in (model.values, model.tensor("b")):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    values[0] = 1  # the caller's own array stays the caller's


def test_the_digest_is_sha_256_of_the_bytes_in_layout_order():
    values = np.random.default_rng(1).normal(size=7).astype("<f4")

    assert Model(LAYOUT, values).digest == hashlib.sha256(values.tobytes()).hexdigest()


@pytest.mark.parametrize(
    "values", [np.zeros(6, np.float32), np.zeros(7), np.zeros((7, 1), np.float32)]
)
def test_values_of_another_size_or_type_are_refused(values):
    with pytest.raises(ValueError, match="a model of this layout has 7 float32 values"):
        Model(LAYOUT, values)


def test_named_arrays_make_a_model_whatever_their_order_and_memory_layout():
    b = np.array([[3, 5], [4, 6]], np.float64).T
    arrays = {"b": b, "a": np.array([0, 1, 2], np.int32)}

    model = Model.from_arrays(arrays)

    assert model.layout == LAYOUT
    assert model.values.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_named_tensors_may_be_left_out_of_aggregation():
    model = Model.from_arrays({"a": np.zeros(2), "b": np.zeros(())}, frozenset({"a"}))

    assert [tensor.is_aggregated for tensor in model.layout] == [False, True]
    assert model.tensor("b").shape == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        Model.from_arrays({"a": np.array([1, value])})


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros(0), "float64 of shape (0,)"),
        (np.zeros(2, complex), "complex128 of shape (2,)"),
        (np.array(["x"]), "<U1 of shape (1,)"),
        (np.zeros(2, bool), "bool of shape (2,)"),
    ],
)
def test_what_is_no_real_number_is_refused_with_its_name(array, found):
    with pytest.raises(ValueError, match="tensor 'a': expected at least one real number") as caught:
        Model.from_arrays({"a": array})

    assert found in str(caught.value)


def test_whoever_holds_the_tensors_comes_to_the_digest_of_the_model():
    model = Model(LAYOUT, np.arange(7, dtype=np.float32))
    arrays = model.arrays()

    assert digest_of_tensors(arrays.items()) == model.content
    assert digest_of_tensors(reversed(arrays.items())) != model.content


def test_a_model_with_another_value_name_or_shape_has_another_digest():
    first = np.zeros(4, np.float32)
    models = [
        {"a": first},
        {"b": first},
        {"a": first.reshape(2, 2)},
        {"a": first.reshape(4, 1)},
        {"a": first, "b": first[:0]},
        {"a": first[:2], "b": first[2:]},
        {"a": np.float32([0, 0, 0, -0.0])},
    ]

    assert len({digest_of_tensors(model.items()) for model in models}) == len(models)
