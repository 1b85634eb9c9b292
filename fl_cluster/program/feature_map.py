"""The model as a program hands it over: named float32 arrays, each aggregated or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class FeatureItem:
    """One named array.  It is referenced, not copied, unless it is not in C order.

    RuntimeError when `data` is not an array of at least one float32.
    """

    def __init__(self, feature_name: str, data: Floats, require_aggr: bool = True) -> None:
        if not isinstance(data, np.ndarray):
            raise RuntimeError(
                "The type of parameter 'data' is expected to be instance of numpy.ndarray"
            )
        if data.dtype != np.float32:
            raise RuntimeError(
                "The value type of parameter 'data' is expected to be float32,"
                f" but got {data.dtype}"
            )
        if data.size <= 0:
            raise RuntimeError("The value size of parameter 'data' is expected to > 0")
        self._feature_name = feature_name
        self._data: Floats = np.asarray(data, order="C")
        self._require_aggr = require_aggr

    @property
    def feature_name(self) -> str:
        """The name of the array."""
        return self._feature_name

    @property
    def data(self) -> Floats:
        """The array, in C order."""
        return self._data

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array; of a scalar, ()."""
        return self._data.shape

    @property
    def require_aggr(self) -> bool:
        """Whether devices train it; else it keeps its first value."""
        return self._require_aggr

    @require_aggr.setter
    def require_aggr(self, require_aggr: bool) -> None:
        self._require_aggr = require_aggr

    def __repr__(self) -> str:
        return (
            f"FeatureItem({self._feature_name!r}, {self.shape}, require_aggr={self.require_aggr})"
        )


class FeatureMap:
    """Named arrays in the order in which they were added."""

    def __init__(self) -> None:
        self._feature_map: dict[str, FeatureItem] = {}

    def add_feature(
        self, feature_name: str, tensor: Floats, require_aggr: bool = True
    ) -> FeatureItem:
        """Add an array, or put it in the place of one that has its name."""
        item = FeatureItem(feature_name, tensor, require_aggr)
        self._feature_map[feature_name] = item
        return item

    def feature_map(self) -> dict[str, FeatureItem]:
        """The map itself: what is changed in it is changed here."""
        return self._feature_map

    def __repr__(self) -> str:
        return f"FeatureMap({list(self._feature_map.values())})"


def feature_map_of(values: dict[Any, Any]) -> FeatureMap:
    """The map of a dict of arrays, all of them aggregated; RuntimeError as for `FeatureItem`."""
    features = FeatureMap()
    for name, value in values.items():
        features.add_feature(name, as_array(value))
    return features


def as_array(value: Any) -> Any:
    """The array in a tensor of PyTorch or MindSpore; anything else unchanged."""
    if callable(getattr(value, "detach", None)):
        value = value.detach().cpu()
        return value.numpy()
    if callable(getattr(value, "asnumpy", None)):
        return value.asnumpy()
    return value
