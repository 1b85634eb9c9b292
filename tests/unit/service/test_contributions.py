"""Terms under masks add up modulo 2**64, in any order and over any number of partials."""

from __future__ import annotations

import random

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Partial, Scaling
from fl_cluster.service.contributions import MaskedTerms

LAYOUT = Layout([Tensor("a", (3,)), Tensor("b", (2, 2)), Tensor("c", (5,), is_aggregated=False)])
SCALING = Scaling((20, 21), 2**40)


def masked_updates(count: int) -> tuple[np.ndarray, list[MaskedTerms]]:
    """Small terms under masks that cancel, and what the terms alone add up to."""
    rng = np.random.default_rng(5)
    terms = rng.integers(-(2**40), 2**40, (count, 7))
    masks = rng.integers(-(2**63), 2**63 - 1, (count, 7))
    masks[-1] = -masks[:-1].sum(axis=0, dtype=np.int64)
    return terms.sum(axis=0), [MaskedTerms(row) for row in terms + masks]


@pytest.mark.parametrize("servers", [1, 3])
def test_masks_cancel_whatever_the_order_and_however_many_servers_add(servers: int) -> None:
    expected, updates = masked_updates(40)
    random.Random(servers).shuffle(updates)
    partials = [Partial(LAYOUT, SCALING) for _ in range(servers)]
    for number, update in enumerate(updates):
        partials[number % servers].add(update, 1 + number)
    total = Partial(LAYOUT, SCALING)
    for partial in partials:
        total.merge(partial.sums, partial.weights)

    assert total.sums.tolist() == expected.tolist()
    assert total.weights == [sum(range(1, 41))] * 2


def test_terms_in_a_body_at_any_place_are_added_as_they_are() -> None:
    body = np.arange(1, 8, dtype="<i8").tobytes()
    at_odd_place = np.frombuffer(b"x" + body, np.int8)[1:].view("<i8")
    partial = Partial(LAYOUT, SCALING)

    partial.add(MaskedTerms(at_odd_place), 3)

    assert not at_odd_place.flags.aligned
    assert partial.sums.tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_nothing_is_known_of_terms_under_masks() -> None:
    extreme = MaskedTerms(np.array([2**63 - 1, -(2**63), 0, 1, 2, 3, 4]))
    base = Model(LAYOUT, np.zeros(LAYOUT.size, np.float32))

    assert extreme.bound_to(base).find_unfit(SCALING, 1) is None
    assert not extreme.waits_for_size
    assert extreme.element_count == 7
