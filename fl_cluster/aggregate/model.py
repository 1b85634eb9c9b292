"""A model: one flat array of float32 and the layout that says what is where in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fl_cluster.aggregate.layout import Layout, Tensor

Floats = npt.NDArray[np.float32]


class Model:
    """Immutable weights.  `values` is flat, read-only, little-endian float32 in layout order."""

    def __init__(self, layout: Layout, values: Floats) -> None:
        if values.dtype != np.float32 or values.shape != (layout.size,):
            raise ValueError(
                f"a model of this layout has {layout.size} float32 values;"
                f" these are {values.shape} of {values.dtype}"
            )
        self.layout = layout
        self.values = values.view()
        self.values.flags.writeable = False

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, npt.NDArray[np.generic]],
        not_aggregated: frozenset[str] = frozenset(),
    ) -> Model:
        """The model of these named arrays; ValueError when one is not finite float data."""
        layout = Layout(
            Tensor(name, a.shape, name not in not_aggregated) for name, a in arrays.items()
        )
        values = np.empty(layout.size, np.float32)
        for place in layout.places:
            array = arrays[place.tensor.name]
            if array.dtype.kind not in "fiu" or array.size == 0:
                raise ValueError(
                    f"tensor {place.tensor.name!r}: expected at least one real number,"
                    f" found {array.dtype} of shape {array.shape}"
                )
            values[place.start : place.stop] = array.reshape(-1)
        if not np.isfinite(values).all():
            raise ValueError("the weights hold NaN or infinity")
        return cls(layout, values)

    def tensor(self, name: str) -> Floats:
        """One tensor in its shape, a read-only view."""
        place = self.layout.find(name)
        if place is None:
            raise KeyError(name)
        return self.values[place.start : place.stop].reshape(place.tensor.shape)

    def arrays(self) -> dict[str, Floats]:
        """All tensors in their shapes, read-only views in layout order."""
        return {tensor.name: self.tensor(tensor.name) for tensor in self.layout}

    @cached_property
    def content(self) -> bytes:
        """`digest_of_tensors` of all of them."""
        return digest_of_tensors((tensor.name, self.tensor(tensor.name)) for tensor in self.layout)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the values' bytes, hex."""
        return hashlib.sha256(self.values.data).hexdigest()


def digest_of_tensors(tensors: Iterable[tuple[str, npt.NDArray[np.float32]]]) -> bytes:
    """SHA-256 of names, shapes and values in their order, which some training relies on."""
    total = hashlib.sha256()
    for name, values in tensors:
        text = name.encode("utf-8", "surrogateescape")
        head = [len(text), values.ndim, *values.shape]
        total.update(b"".join(number.to_bytes(8, "big") for number in head) + text)
        total.update(np.ascontiguousarray(values, "<f4").reshape(-1).data)
    return total.digest()
