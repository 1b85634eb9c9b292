from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fl_cluster.worker.parameters import open_network


class Item:
    """A parameter as MindSpore has them, without MindSpore."""

    def __init__(self, name: str, values: Any, *, requires_grad: bool = True) -> None:
        self.name = name
        self.data = np.asarray(values)
        self.requires_grad = requires_grad

    def asnumpy(self) -> Any:
        return self.data

    def set_data(self, data: Any) -> None:
        self.data = data


class TorchLike:
    """A tensor that answers as torch's do where a parameter is read and replaced."""

    def __init__(self, values: Any, *, requires_grad: bool = True) -> None:
        self.values = np.asarray(values)
        self.requires_grad = requires_grad

    @property
    def data(self) -> TorchLike:
        return self

    def detach(self) -> TorchLike:
        return self

    def cpu(self) -> TorchLike:
        return self

    def numpy(self) -> Any:
        return self.values

    def new_tensor(self, values: Any) -> TorchLike:
        return TorchLike(values.astype(self.values.dtype))

    def copy_(self, other: TorchLike) -> None:
        self.values[...] = other.values


def float32(*values: Any) -> Any:
    return np.array(values, np.float32)


def test_a_dict_of_arrays_is_read_flat_and_changed_in_place() -> None:
    weight = float32([1, 2], [3, 4])
    network = open_network({"w": weight, "b": float32(5)})

    read = network.read()
    network.write({"w": read["w"] * 10})

    assert network.names == ("w", "b")
    assert read["w"].tolist() == [1, 2, 3, 4]
    assert weight.tolist() == [[10, 20], [30, 40]]
    assert read["w"].tolist() == [1, 2, 3, 4]


def test_values_in_another_memory_order_are_read_in_c_order() -> None:
    network = open_network({"w": np.asfortranarray(float32([1, 2], [3, 4]))})

    assert network.read()["w"].tolist() == [1, 2, 3, 4]


def test_objects_with_trainable_params_are_networks() -> None:
    items = [Item("w", float32([1, 2])), Item("b", float32(3))]
    network = open_network(SimpleNamespace(trainable_params=lambda: items))

    network.write({"w": float32(7, 8)})

    assert items[0].data.tolist() == [[7, 8]]
    assert network.read(["w"])["w"].tolist() == [7, 8]


def test_parameters_of_mindspore_are_assigned_tensors_of_mindspore(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assigned: list[tuple[Any, Any]] = []
    library = ModuleType("mindspore")
    library.Parameter = Item
    library.Tensor = lambda values: ("tensor", values.tolist())
    library.ops = SimpleNamespace(assign=lambda item, tensor: assigned.append((item, tensor)))
    monkeypatch.setitem(sys.modules, "mindspore", library)
    item = Item("w", float32([1, 2]))

    open_network(SimpleNamespace(trainable_params=lambda: [item])).write({"w": float32(7, 8)})

    assert assigned == [(item, ("tensor", [[7, 8]]))]


def test_items_without_a_setter_are_changed_in_place() -> None:
    item = SimpleNamespace(name="w", data=float32(1, 2))
    network = open_network(SimpleNamespace(trainable_params=lambda: [item]))

    network.write({"w": float32(3, 4)})

    assert item.data.tolist() == [3, 4]


def test_data_that_holds_the_values_itself_is_asked_for_them() -> None:
    data = SimpleNamespace(asnumpy=lambda: float32(1, 2))
    network = open_network(
        SimpleNamespace(get_parameters=lambda: [SimpleNamespace(name="w", data=data)])
    )

    assert network.read()["w"].tolist() == [1, 2]


def test_parameters_that_are_not_trained_are_left_out_of_all_parameters() -> None:
    items = [Item("w", float32(1)), Item("statistics", float32(1), requires_grad=False)]

    assert open_network(SimpleNamespace(get_parameters=lambda: items)).names == ("w",)


def test_torch_modules_are_known_by_their_named_parameters() -> None:
    weight, frozen = TorchLike(float32([1, 2])), TorchLike(float32(9), requires_grad=False)
    module = SimpleNamespace(named_parameters=lambda: [("w", weight), ("frozen", frozen)])
    network = open_network(module)

    network.write({"w": float32(5, 6)})

    assert network.names == ("w",)
    assert weight.values.tolist() == [[5, 6]]


def test_a_real_torch_module_is_read_and_replaced() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 1)
    network = open_network(module)

    network.write({"weight": float32(5, 6), "bias": float32(7)})

    assert module.weight.tolist() == [[5, 6]]
    assert network.read()["bias"].tolist() == [7]
    assert module.weight.requires_grad


def test_copies_of_the_jobs_model_and_other_types_do_not_take_part() -> None:
    arrays = {
        "w": float32(1),
        "global_weights.w": float32(1),
        "counter": np.array([1], np.int64),
    }

    assert open_network(arrays).names == ("w",)


def test_names_that_the_model_does_not_have_are_left_out_when_it_is_changed() -> None:
    arrays = {"w": float32(1)}

    open_network(arrays).write({"other": float32(1, 2, 3), "w": float32(2)})

    assert arrays["w"].tolist() == [2]


def test_values_of_another_size_are_refused() -> None:
    network = open_network({"w": float32(1, 2)})

    with pytest.raises(ValueError, match="parameter w has 2 elements, 3 were sent"):
        network.write({"w": float32(1, 2, 3)})


@pytest.mark.parametrize("model", [object(), None, [1, 2]])
def test_what_is_no_network_is_an_attribute_error(model: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trainable_params'"):
        open_network(model)


def test_a_dict_of_something_else_says_what_it_holds() -> None:
    with pytest.raises(AttributeError, match=r"'w': list"):
        open_network({"w": [1.0]})
