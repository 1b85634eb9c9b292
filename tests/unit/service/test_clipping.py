"""A clipped update: exact, the same in any form, and nothing of it beyond its step."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Partial, Scaling, Update
from fl_cluster.aggregate.scale import exponents
from fl_cluster.compression import diff_sparse_quant, sparse
from fl_cluster.kernels.bounds import term_bound
from fl_cluster.service.clipping import ClippedUpdate
from fl_cluster.service.contributions import SparseUpdate

COHORT = 7
LAYOUT = Layout(
    [
        Tensor("first", (40, 50)),
        Tensor("steps", (3,), is_aggregated=False),
        Tensor("second", (30,)),
    ]
)


class Bench:
    """A starting model, what a device made of it, and sums to add that to."""

    def __init__(self, scale: float = 1.0) -> None:
        self.rng = np.random.default_rng(3)
        values = self.rng.normal(size=LAYOUT.size).astype(np.float32)
        values[2003:] *= np.float32(1 / 512)  # so that its scale is another
        self.base = Model(LAYOUT, values)
        step = scale * self.rng.normal(size=LAYOUT.size)
        self.trained = (values + step).astype(np.float32)
        self.scaling = Scaling(exponents(self.base, COHORT), term_bound(COHORT))

    def sent(self, data_size: int, *, is_plain: bool, names: tuple[str, ...] = ()) -> Update:
        factor = np.float32(1 if is_plain else data_size)
        return Update(
            [
                (place, self.trained[place.start : place.stop] * factor)
                for place in LAYOUT.summed
                if place.tensor.name in (names or ("first", "second"))
            ],
            is_plain,
        )

    def added(self, content: Update | SparseUpdate, clip: float, data_size: int) -> Partial:
        partial = Partial(LAYOUT, self.scaling)
        update = ClippedUpdate(content.bound_to(self.base), self.base, clip)
        assert update.find_unfit(self.scaling, data_size) is None
        partial.add(update, data_size)
        return partial

    def steps(self, partial: Partial) -> list[np.ndarray]:
        """What is in the sums beside the starting model, as whole numbers of each scale."""
        return [
            partial.sums_of(place)
            - np.rint(
                self.base.values[place.start : place.stop].astype(np.float64)
                * 2.0 ** self.scaling.exponents[place.sum_index]
            ).astype(np.int64)
            for place in LAYOUT.summed
        ]

    def norm_squared(self, partial: Partial) -> Fraction:
        return sum(
            Fraction(sum(int(step) ** 2 for step in steps)) / Fraction(4) ** exponent
            for steps, exponent in zip(self.steps(partial), self.scaling.exponents, strict=True)
        )


@pytest.mark.parametrize("clip", [1e-9, 0.37, 5.0, 31.0])
def test_a_step_is_as_long_as_the_norm_and_never_longer(clip: float) -> None:
    bench = Bench()
    assert len(set(bench.scaling.exponents)) == 2

    partial = bench.added(bench.sent(9, is_plain=True), clip, 9)

    assert bench.norm_squared(partial) <= Fraction(clip) ** 2
    if clip > 0.01:
        assert math.sqrt(bench.norm_squared(partial)) > 0.999_99 * clip


def test_a_step_within_the_norm_is_left_as_it_is() -> None:
    bench = Bench(scale=0.01)

    partial = bench.added(bench.sent(1, is_plain=True), 1.0, 1)

    for place in LAYOUT.summed:
        trained = bench.trained[place.start : place.stop].astype(np.float64)
        terms = np.rint(trained * 2.0 ** bench.scaling.exponents[place.sum_index])
        assert partial.sums_of(place).tolist() == terms.astype(np.int64).tolist()


def test_its_direction_stays() -> None:
    bench = Bench()
    whole = bench.steps(bench.added(bench.sent(1, is_plain=True), 1e6, 1))
    short = bench.steps(bench.added(bench.sent(1, is_plain=True), 0.5, 1))

    for long, clipped in zip(whole, short, strict=True):
        ratio = clipped[np.abs(long) > 2**16] / long[np.abs(long) > 2**16]
        assert ratio.max() - ratio.min() < 1e-3


@pytest.mark.parametrize("data_size", [1, 77, 65_535])
def test_every_device_counts_once_whatever_its_data_size(data_size: int) -> None:
    bench = Bench()
    once = bench.added(bench.sent(1, is_plain=True), 0.5, 1)

    plain = bench.added(bench.sent(data_size, is_plain=True), 0.5, data_size)
    product = bench.added(bench.sent(data_size, is_plain=False), 0.5, data_size)

    assert plain.weights == product.weights == [1, 1]
    assert np.abs(plain.sums - once.sums).max() <= 1
    assert bench.norm_squared(product) <= Fraction(1, 4)
    # A device that forms the product in single precision rounds it.
    assert np.abs(product.sums - once.sums).max() < 2**-20 * np.abs(once.sums).max()


def test_a_tensor_that_is_left_out_counts_as_unchanged() -> None:
    bench = Bench()

    partial = bench.added(bench.sent(3, is_plain=True, names=("second",)), 0.5, 3)

    first, second = bench.steps(partial)
    assert not first.any()
    assert second.any()
    assert partial.weights == [1, 1]


def test_sparse_differences_are_clipped_like_weights() -> None:
    bench = Bench()
    sizes = [place.tensor.size for place in LAYOUT.summed]
    before = [bench.base.values[place.start : place.stop] for place in LAYOUT.summed]
    after = [bench.trained[place.start : place.stop] for place in LAYOUT.summed]
    kept = sparse.choose(5, 0.4, sizes)
    products = [values * np.float32(9) for values in after]
    chunks = diff_sparse_quant.encode(products, before, 9, kept)
    update = SparseUpdate(LAYOUT.summed, chunks, lambda: kept)

    partial = bench.added(update, 0.5, 9)

    assert partial.weights == [1, 1]
    assert bench.norm_squared(partial) <= Fraction(1, 4)
    assert math.sqrt(bench.norm_squared(partial)) > 0.499
    still = sum(np.count_nonzero(np.abs(steps) <= 1) for steps in bench.steps(partial))
    assert still >= 0.6 * sum(sizes) - 2


def test_what_does_not_fit_plain_does_not_fit_clipped() -> None:
    bench = Bench()
    bench.trained[0] = np.nan
    update = ClippedUpdate(bench.sent(1, is_plain=True), bench.base, 1.0)

    unfit = update.find_unfit(bench.scaling, 1)

    assert unfit is not None
    assert "tensor 'first', element 0" in unfit.reason
