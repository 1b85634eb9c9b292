from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fl_cluster.worker.optimizers import aggregated_names, learning_rate
from fl_cluster.worker.parameters import open_network


def item(name: str, **attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(name=name, data=np.zeros(1, np.float32), **attributes)


def a_model(*items: Any, optimizer: Any = None) -> SimpleNamespace:
    cells = [("", object()), ("optimizer", optimizer)] if optimizer else [("", object())]
    return SimpleNamespace(trainable_params=lambda: items, cells_and_names=lambda: cells)


def test_without_an_optimizer_in_the_model_all_its_parameters_take_part() -> None:
    model = a_model(item("a"), item("b"))

    assert aggregated_names(model, open_network(model)) == ("a", "b")


def test_parameters_of_an_optimizer_in_the_model_take_part_unless_they_say_no() -> None:
    a, b, c = item("a"), item("b", requires_aggr=False), item("c")
    model = a_model(a, b, c, optimizer=SimpleNamespace(parameters=[a, b], learning_rate=0.1))

    assert aggregated_names(model, open_network(model)) == ("a",)


@pytest.mark.parametrize(
    "optimizer",
    [
        SimpleNamespace(parameters=[], learning_rate=0.25),
        SimpleNamespace(parameters=[], get_lr=lambda: 0.25),
        SimpleNamespace(parameters=[], get_lr=lambda: (0.25, 0.5)),
        SimpleNamespace(param_groups=[{"lr": 0.25}]),
        SimpleNamespace(
            parameters=[],
            learning_rate=SimpleNamespace(asnumpy=lambda: np.array([0.25], np.float32)),
        ),
    ],
)
def test_the_learning_rate_is_found_in_any_kind_of_optimizer(optimizer: Any) -> None:
    assert learning_rate([object(), optimizer]) == 0.25


def test_no_optimizer_at_all_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Can not find optimizer in train network!"):
        learning_rate([a_model(item("a"))])
