"""What a worker hands in, laid over the mean that it was handed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fl_cluster.aggregate.layout import Layout
from fl_cluster.aggregate.model import Floats, Model
from fl_cluster.aggregate.partial import Unfit

Entries = Mapping[str, Floats]
"""Flat arrays by the names of tensors."""


def misfit(layout: Layout, entries: Entries) -> Unfit | None:
    """Why these cannot be laid over a model of this layout; None when they can.

    Existing workers may send tensors that the model does not have, and fewer values than a
    tensor has.
    """
    for name, sent in entries.items():
        place = layout.find(name)
        if place is not None and sent.size > place.tensor.size:
            size = place.tensor.size
            return Unfit(f"tensor {name!r}: expected at most {size} values, found {sent.size}")
    return None


def overlay(mean: Model, entries: Entries) -> Model:
    """The mean with these in place of what it has; they are not `misfit`.

    Tensors that the model does not have are passed over, and of one that is longer than what
    was sent the rest stays.  A tensor that is not aggregated stays as it is.  The result may
    hold NaN or infinity.
    """
    values = mean.values.copy()
    for name, sent in entries.items():
        place = mean.layout.find(name)
        if place is not None and place.tensor.is_aggregated:
            values[place.start : place.start + sent.size] = sent
    return Model(mean.layout, values)


def is_finite(model: Model) -> bool:
    """Whether there is neither a NaN nor an infinity in the model."""
    return bool(np.isfinite(model.values).all())
