"""What a worker sends, laid over the mean."""

from __future__ import annotations

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.retrained import is_finite, misfit, overlay

LAYOUT = Layout(
    [Tensor("a", (3,)), Tensor("b", (2, 2)), Tensor("fixed", (1,), is_aggregated=False)]
)
MEAN = Model(LAYOUT, np.arange(8, dtype=np.float32))


def sent(**tensors: list[float]) -> dict[str, np.ndarray]:
    return {name: np.array(values, np.float32) for name, values in tensors.items()}


def test_what_is_sent_takes_the_place_of_the_mean() -> None:
    made = overlay(MEAN, sent(b=[9, 8, 7, 6]))

    assert made.values.tolist() == [0, 1, 2, 9, 8, 7, 6, 7]
    assert MEAN.values.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_short_tensor_replaces_its_beginning() -> None:
    assert overlay(MEAN, sent(a=[9])).tensor("a").tolist() == [9, 1, 2]


def test_an_unknown_tensor_and_one_that_is_not_aggregated_change_nothing() -> None:
    entries = sent(unknown=[1, 2, 3, 4, 5], fixed=[9])

    assert misfit(LAYOUT, entries) is None
    assert overlay(MEAN, entries).values.tobytes() == MEAN.values.tobytes()


@pytest.mark.parametrize("name", ["a", "fixed"])
def test_a_tensor_that_is_too_long_is_named(name: str) -> None:
    found = misfit(LAYOUT, sent(**{name: [1, 2, 3, 4]}))

    assert found is not None
    assert found.reason.startswith(f"tensor '{name}': expected at most")
    assert found.reason.endswith("found 4")


def test_numbers_that_are_none_are_found() -> None:
    assert is_finite(MEAN)
    for value in (np.nan, np.inf, -np.inf):
        assert not is_finite(overlay(MEAN, sent(b=[0, 0, 0, value])))
