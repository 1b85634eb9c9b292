"""Sums of integers: equal to fractions, in whatever order, and exactly reversible to text."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Partial, Pointer, Scaling, Update

LAYOUT = Layout(
    [Tensor("a", (3,)), Tensor("b", (2, 2)), Tensor("fixed", (2,), is_aggregated=False)]
)
SCALING = Scaling((10, 20), 2**51)
BASE = Model(LAYOUT, np.arange(9, dtype=np.float32))


def update(is_plain: bool = False, **arrays: list[float]) -> Update:
    places = [(LAYOUT.find(name), np.array(values, np.float32)) for name, values in arrays.items()]
    return Update([(place, values) for place, values in places if place is not None], is_plain)


def test_an_element_is_rounded_to_the_nearest_even_integer():
    partial = Partial(LAYOUT, SCALING)

    partial.add(update(a=[0.5 / 1024, 1.5 / 1024, -2.5 / 1024]), 1)

    assert partial.sums[:3].tolist() == [0, 2, -2]


def test_plain_weights_count_their_data_size_and_multiplied_ones_do_not():
    plain, multiplied = Partial(LAYOUT, SCALING), Partial(LAYOUT, SCALING)

    plain.add(update(is_plain=True, a=[1, 2, 3], b=[0.25, 1, -1, 8]), 100)
    multiplied.add(update(a=[100, 200, 300], b=[25, 100, -100, 800]), 100)

    assert plain.sums.tobytes() == multiplied.sums.tobytes()
    assert plain.weights == multiplied.weights == [100, 100]


def test_a_plain_product_is_formed_before_it_is_rounded():
    value, size = float(np.float32(0.1)), 65_535
    partial = Partial(LAYOUT, SCALING)

    partial.add(update(is_plain=True, a=[value, 0, 0]), size)

    assert partial.sums[0] == round(Fraction(value) * size * 2**10)
    assert partial.sums[0] != size * round(Fraction(value) * 2**10)


def test_a_subset_weighs_only_for_the_tensors_it_has():
    partial = Partial(LAYOUT, SCALING)

    partial.add(update(a=[1, 1, 1]), 3)
    partial.add(update(b=[1, 1, 1, 1]), 5)
    partial.add(update(a=[1, 1, 1], b=[1, 1, 1, 1]), 7)

    assert partial.weights == [10, 12]


def test_the_mean_divides_by_the_weight_and_the_scale_and_names_what_nobody_sent():
    partial = Partial(LAYOUT, SCALING)
    partial.add(update(b=[10, -20, 30, 0.5]), 4)
    partial.add(update(b=[2, 20, 30, 0.5]), 6)

    model, left_out = partial.finalise(BASE)

    assert model.tensor("b").ravel().tolist() == [np.float32(v) for v in (1.2, 0, 6, 0.1)]
    assert left_out == ("a",)
    assert model.tensor("a").tobytes() == BASE.tensor("a").tobytes()
    assert model.tensor("fixed").tobytes() == BASE.tensor("fixed").tobytes()


def test_nothing_at_all_leaves_the_base_as_it_was():
    model, left_out = Partial(LAYOUT, SCALING).finalise(BASE)

    assert model.values.tobytes() == BASE.values.tobytes()
    assert left_out == ("a", "b")


def test_taking_the_mean_leaves_sums_and_base_alone():
    partial = Partial(LAYOUT, SCALING)
    partial.add(update(a=[1, 2, 3]), 1)
    before = partial.sums.tobytes(), BASE.values.tobytes()

    first, second = partial.finalise(BASE)[0], partial.finalise(BASE)[0]

    assert first.digest == second.digest
    assert (partial.sums.tobytes(), BASE.values.tobytes()) == before


def test_merging_adds_sums_and_weights():
    one, two = Partial(LAYOUT, SCALING), Partial(LAYOUT, SCALING)
    one.add(update(a=[1, 2, 3]), 3)
    two.add(update(a=[1, 1, 1], b=[1, 2, 3, 4]), 5)

    one.merge(two.sums, two.weights)

    assert one.weights == [8, 5]
    assert one.sums.tolist() == [2048, 3072, 4096, *(n * 2**20 for n in (1, 2, 3, 4))]


def test_a_partial_of_another_layout_is_not_merged():
    with pytest.raises(ValueError, match="zip"):
        Partial(LAYOUT, SCALING).merge(np.zeros(7, np.int64), [1])


def test_a_partial_goes_on_from_sums_in_their_own_memory():
    sums = np.ones(7, np.int64)

    partial = Partial(LAYOUT, SCALING, sums, (2, 3))
    partial.add(update(a=[1, 1, 1]), 1)

    assert np.shares_memory(partial.sums, sums)
    assert (sums[:3].tolist(), partial.weights) == ([1025] * 3, [3, 3])


class TestPointers:
    @pytest.mark.parametrize("weights", [(), (7,), (7, 7), (7, 8), (0, 0, 0), (2**60, 1, 2)])
    def test_a_pointer_survives_its_text(self, weights):
        pointer = Pointer('partial-3.1@run "x"', weights)

        again = Pointer.parse(pointer.to_text(), len(weights))

        assert (again.blob, tuple(again.weights)) == (pointer.blob, weights)

    def test_equal_weights_are_written_once(self):
        assert Pointer("p", (7,) * 100).to_text() == '["p",[7]]'
        assert Pointer("p", (7, 8)).to_text() == '["p",[7,8]]'

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{}",
            "[]",
            '"p"',
            '["p"]',
            '["p",7]',
            '["p",[]]',
            '["p",["7"]]',
            '["p",[1,2]]',
            '["p",[1,2,3,4]]',
            "[1,[7]]",
            '["p",[7],1]',
            "nonsense",
        ],
    )
    def test_what_is_no_pointer_is_a_value_error(self, text):
        with pytest.raises(ValueError):  # noqa: PT011 - JSON's own messages differ
            Pointer.parse(text, 3)
