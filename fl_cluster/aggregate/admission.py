"""Is what a device sends an update of the model: known tensors, right sizes, each once.

Nothing is added before all of an update was found fit, its elements too (`partial`), because
part of an update cannot be told apart in the sum afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fl_cluster.aggregate.layout import Layout, Place
from fl_cluster.aggregate.model import Floats
from fl_cluster.aggregate.partial import Unfit, Update


def read_update(
    layout: Layout, entries: Iterable[tuple[str, Floats]], *, is_plain: bool
) -> Update | Unfit:
    """The update that these named flat arrays make for a model of this layout.

    A subset of the model's tensors will do.  Values of a tensor that is not aggregated are
    looked at and then left out.
    """
    arrays: list[tuple[Place, Floats]] = []
    seen: set[str] = set()
    for name, values in entries:
        place = layout.find(name)
        if place is None:
            return Unfit(f"tensor {name!r} is not in the model")
        if name in seen:
            return Unfit(f"tensor {name!r} came twice")
        if values.size != place.tensor.size:
            expected = place.tensor.size
            return Unfit(f"tensor {name!r}: expected {expected} values, found {values.size}")
        seen.add(name)
        if place.tensor.is_aggregated:
            arrays.append((place, values))
        elif not np.isfinite(values).all():
            return Unfit(f"tensor {name!r} holds NaN or infinity")
    if not seen:
        return Unfit("the update holds no tensor")
    return Update(arrays, is_plain)
