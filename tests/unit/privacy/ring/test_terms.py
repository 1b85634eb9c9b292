"""A masked round ends in the very model that the plain round ends in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fl_cluster.aggregate import scale
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Partial, Scaling, Update
from fl_cluster.kernels.bounds import term_bound
from fl_cluster.privacy.ring.device import RingDevice
from fl_cluster.privacy.ring.messages import RingRound
from fl_cluster.privacy.ring.packing import pack_report_tags
from fl_cluster.privacy.ring.server import ReportTags, Roster, Unmasking
from fl_cluster.privacy.ring.terms import terms_of

NAMES = ("ann", "bob", "cleo", "dan", "eve", "finn", "gus")


def test_the_model_has_the_plain_rounds_digest_although_two_servers_held_the_sums(
    stream: Callable[[str], Any],
) -> None:
    numbers = np.random.default_rng(11)
    base = Model.from_arrays(
        {"b": numbers.standard_normal(7), "w": numbers.standard_normal((20, 30)) * 5}
    )
    layout = base.layout
    scaling = Scaling(scale.exponents(base, len(NAMES)), term_bound(len(NAMES)))
    ring = RingRound("digits", 1, 1, layout.sum_size, 3)
    devices = {name: RingDevice(ring, name, stream(name)) for name in NAMES}
    roster = Roster(ring, [device.offer for device in devices.values()])
    sharings = {roster.index(n): d.share(roster.view(n)) for n, d in devices.items()}
    plain = Partial(layout, scaling)
    masked = [Partial(layout, scaling), Partial(layout, scaling)]
    counted, sent = NAMES[1:], {}
    for number, name in enumerate(counted):
        weights = base.values + numbers.standard_normal(layout.size).astype(np.float32)
        tensors = [weights[place.start : place.stop] for place in layout.summed]
        size = 3 + number
        plain.add(Update(list(zip(layout.summed, tensors, strict=True)), is_plain=True), size)
        terms = terms_of(tensors, scaling.exponents, size, scaling.bound)
        report = devices[name].report(roster.deliver(name, sharings), terms)
        sent[roster.index(name)] = pack_report_tags(report.tags).tobytes()
        masked[number % 2].merge(report.terms, [size] * len(layout.summed))
    alive = frozenset(map(roster.index, counted))
    tags = ReportTags(roster, frozenset(sharings), sent)
    confirmations = {
        roster.index(name): devices[name].confirm(roster.survivors(name, alive, tags))
        for name in counted
    }
    reveals = {
        roster.index(name): devices[name].reveal(roster.tags_for(name, confirmations))
        for name in counted
    }
    total, other = masked
    total.merge(other.sums, other.weights)

    commitments = {index: sharing.commitment for index, sharing in sharings.items()}
    Unmasking(roster, commitments, alive).apply(total.sums, reveals)

    assert total.sums.tobytes() == plain.sums.tobytes()
    assert total.finalise(base)[0].digest == plain.finalise(base)[0].digest


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_an_element_out_of_range_is_named(value: float) -> None:
    tensors = [np.zeros(3, np.float32), np.array([0.0, value], np.float32)]

    with pytest.raises(ValueError, match="tensor 1, element 1: expected a finite value"):
        terms_of(tensors, [20, 20], 10, 2**51)
