"""A model's trainable float32 parameters, whatever library the model belongs to.

Three kinds of model are known by what they can do, never by their class, so that no library
is imported for them: a dict of NumPy arrays, which is changed in place; an object with
`trainable_params()` (or `get_parameters()`) whose items have a `name` and `asnumpy()` or
`data`; an object with `named_parameters()`, as torch modules have.
Values travel flattened in C order; shapes stay with the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_cluster.worker.faults import NotATrainable

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]

REFERENCE_PREFIX = "global_weights"
"""Parameters with this in their name are copies of the job's model and never take part."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One parameter: how its values are read and replaced, in the shape it has."""

    name: str
    read: Callable[[], NDArray[Any]]
    write: Callable[[Floats], None]
    item: object
    """The library's own object, to recognise it by."""


class Network:
    """The parameters of one model that take part, by name, in the model's order."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors if _takes_part(tensor)}
        self._shapes = {name: each.read().shape for name, each in self._tensors.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._tensors)

    def names_of(self, items: Iterable[object]) -> tuple[str, ...]:
        """The names of those parameters that are among the library's `items`."""
        known = {id(item) for item in items}
        return tuple(name for name, each in self._tensors.items() if id(each.item) in known)

    def read(self, names: Iterable[str] | None = None) -> dict[str, Floats]:
        """Copies of the values, flattened; of all parameters unless `names` says which."""
        chosen = self._tensors if names is None else names
        return {name: _flattened(self._tensors[name].read()) for name in chosen}

    def write(self, values: Weights) -> None:
        """Replace the values of the parameters that are named; other names are left out.

        ValueError: a parameter has another number of elements.
        """
        for name, flat in values.items():
            if name not in self._tensors:
                continue
            shape = self._shapes[name]
            if flat.size != int(np.prod(shape)):
                raise ValueError(
                    f"parameter {name} has {int(np.prod(shape))} elements, {flat.size} were sent"
                )
            self._tensors[name].write(np.array(flat, np.float32).reshape(shape))


def _takes_part(tensor: Tensor) -> bool:
    return REFERENCE_PREFIX not in tensor.name and tensor.read().dtype == np.float32


def _flattened(values: NDArray[Any]) -> Floats:
    return np.array(values, np.float32, order="C").reshape(-1)


def open_network(model: object) -> Network:
    """The parameters of `model`, which stays the owner of its values.

    NotATrainable (an AttributeError): it has none that could be found.
    """
    if isinstance(model, Mapping):
        return Network(_of_arrays(model))
    if callable(getattr(model, "trainable_params", None)):
        return Network(map(_of_item, _any(model).trainable_params()))
    if callable(getattr(model, "named_parameters", None)):
        return Network(_of_module(model))
    if callable(getattr(model, "get_parameters", None)):
        items = _any(model).get_parameters()
        return Network(_of_item(item) for item in items if getattr(item, "requires_grad", True))
    raise NotATrainable(
        f"{type(model).__name__!r} object has no attribute 'trainable_params': expected a dict of"
        " NumPy arrays or a network with trainable_params(), named_parameters() or"
        " get_parameters()"
    )


def _any(model: object) -> Any:
    return model


def _of_arrays(model: Mapping[Any, Any]) -> Iterator[Tensor]:
    for name, values in model.items():
        if not isinstance(values, np.ndarray) or not isinstance(name, str):
            raise NotATrainable(
                "expected a dict from names to NumPy arrays, found"
                f" {name!r}: {type(values).__name__}"
            )
        yield _of_array(name, values)


def _of_array(name: str, values: NDArray[Any]) -> Tensor:
    def write(new: Floats) -> None:
        values[...] = new

    return Tensor(name, lambda: values, write, values)


def _of_item(item: Any) -> Tensor:
    return Tensor(item.name, lambda: _values_of(item), lambda new: _set(item, new), item)


def _values_of(item: Any) -> NDArray[Any]:
    for holder in (item, getattr(item, "data", None)):
        if callable(getattr(holder, "asnumpy", None)):
            return np.asarray(_any(holder).asnumpy())
    return np.asarray(item.data)


def _set(item: Any, new: Floats) -> None:
    mindspore = sys.modules.get("mindspore")
    parameter = getattr(mindspore, "Parameter", None)
    if mindspore is not None and parameter is not None and isinstance(item, parameter):
        # In place: a parameter that `set_data` gave a new tensor is not trained any more in
        # MindSpore's eager mode.
        mindspore.ops.assign(item, mindspore.Tensor(new))
    elif callable(getattr(item, "set_data", None)):
        item.set_data(new)
    else:
        item.data[...] = new


def _of_module(model: Any) -> Iterator[Tensor]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield _of_parameter(name, parameter)


def _of_parameter(name: str, parameter: Any) -> Tensor:
    def read() -> NDArray[Any]:
        return np.asarray(parameter.detach().cpu().numpy())

    def write(new: Floats) -> None:
        # `data` is outside of what is differentiated; `new_tensor` is on the same device.
        parameter.data.copy_(parameter.data.new_tensor(new))

    return Tensor(name, read, write, parameter)
