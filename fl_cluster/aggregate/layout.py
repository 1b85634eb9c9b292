"""Which tensors a model has, in which order, and where each lies in one flat array.

Tensors are ordered by the bytes of their names, always: the order on the wire, in a stored
model, in a partial, in a checkpoint.  A tensor that is not aggregated has a place in the
model and none in the sums.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor of float32."""

    name: str
    shape: tuple[int, ...]
    is_aggregated: bool = True

    @property
    def size(self) -> int:
        """Number of elements; a scalar has one."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: elements [start, stop) of a model, and [sum_start, sum_stop) of sums."""

    tensor: Tensor
    start: int
    sum_start: int
    sum_index: int
    """Which of the aggregated tensors it is, from 0; -1 when it is not aggregated."""

    @property
    def stop(self) -> int:
        """End in the model."""
        return self.start + self.tensor.size

    @property
    def sum_stop(self) -> int:
        """End in the sums."""
        return self.sum_start + (self.tensor.size if self.tensor.is_aggregated else 0)


class Layout:
    """An ordered set of tensors.  Two layouts are equal when their tensors are."""

    __slots__ = ("_by_name", "places", "size", "sum_size", "summed")

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        ordered = sorted(tensors, key=lambda tensor: tensor.name.encode())
        self.places: tuple[Place, ...] = tuple(_placed(ordered))
        self._by_name = {place.tensor.name: place for place in self.places}
        if len(self._by_name) != len(self.places):
            raise ValueError("two tensors have the same name")
        self.summed: tuple[Place, ...] = tuple(p for p in self.places if p.tensor.is_aggregated)
        self.size = self.places[-1].stop if self.places else 0
        self.sum_size = self.summed[-1].sum_stop if self.summed else 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.places == other.places

    def __hash__(self) -> int:
        return hash(self.places)

    def __iter__(self) -> Iterator[Tensor]:
        return (place.tensor for place in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def find(self, name: str) -> Place | None:
        """Where the tensor of this name lies; None when there is none."""
        return self._by_name.get(name)

    def to_json(self) -> str:
        """The layout as it is stored with the job."""
        rows = [[t.name, list(t.shape), t.is_aggregated] for t in self]
        return json.dumps(rows, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """The inverse of `to_json`."""
        return cls(Tensor(name, tuple(shape), summed) for name, shape, summed in json.loads(text))


def _placed(ordered: Iterable[Tensor]) -> Iterator[Place]:
    start = sum_start = sum_index = 0
    for tensor in ordered:
        if tensor.is_aggregated:
            yield Place(tensor, start, sum_start, sum_index)
            sum_start += tensor.size
            sum_index += 1
        else:
            yield Place(tensor, start, sum_start, -1)
        start += tensor.size
