"""What becomes of a sum, by each rule; the check values are those of existing servers."""

from __future__ import annotations

import numpy as np
import pytest

from fl_cluster.aggregate.admission import read_update
from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Partial, Scaling, Unfit, Update
from fl_cluster.aggregate.rules import BLOCK, MEAN, Rule
from fl_cluster.aggregate.scale import exponents
from fl_cluster.kernels.bounds import term_bound

COHORT = 4
NOVA = Rule(is_normalised=True, divisor=4.0)
SCAFFOLD = Rule(has_controls=True, devices_total=4)


def model_of(*fixed: str, **tensors: list[float]) -> Model:
    arrays = {
        name.replace("__", "."): np.array(values, np.float32) for name, values in tensors.items()
    }
    return Model.from_arrays(arrays, not_aggregated=frozenset(fixed))


def after_round(
    base: Model, rule: Rule, *uploads: tuple[int, dict[str, list[float]]], is_plain: bool = False
) -> tuple[Model, tuple[str, ...]]:
    """The model after a round with these uploads: data size, and tensors by name."""
    scaling = Scaling(exponents(base, COHORT, rule), term_bound(COHORT), rule)
    total = Partial(base.layout, scaling)
    for data_size, sent in uploads:
        entries = [(name, np.array(values, np.float32)) for name, values in sent.items()]
        update = read_update(base.layout, entries, is_plain=is_plain)
        assert isinstance(update, Update)
        assert update.find_unfit(scaling, data_size) is None
        total.add(update, data_size)
    return total.finalise(base)


class TestMean:
    def test_each_tensor_is_averaged_over_those_who_sent_it(self) -> None:
        base = model_of(a=[1.0], b=[2.0], c=[3.0])

        model, left_out = after_round(
            base, MEAN, (10, {"a": [40.0], "b": [30.0]}), (30, {"a": [120.0]})
        )

        assert model.tensor("a").tolist() == [4.0]
        assert model.tensor("b").tolist() == [3.0]
        assert (model.tensor("c").tolist(), left_out) == ([3.0], ("c",))

    def test_a_tensor_that_nobody_sent_is_averaged_again_in_the_next_round(self) -> None:
        first, _ = after_round(model_of(a=[1.0], b=[2.0]), MEAN, (1, {"a": [5.0]}))

        second, left_out = after_round(first, MEAN, (2, {"b": [14.0]}))

        assert (second.tensor("a").tolist(), second.tensor("b").tolist()) == ([5.0], [7.0])
        assert left_out == ("a",)


class TestNormalised:
    def test_two_workers_of_10_and_30_steps(self) -> None:
        base = model_of(w=[1.0])

        model, _ = after_round(base, NOVA, (10, {"w": [0.1]}), (30, {"w": [0.1]}))

        assert model.tensor("w").tolist() == [3.0]

    def test_one_worker_gets_its_own_weights_back(self) -> None:
        base, rule = model_of(w=[1.0, 2.0]), Rule(is_normalised=True, divisor=1.0)

        model, _ = after_round(base, rule, (2, {"w": [3.0, 3.0]}))

        assert model.tensor("w").tolist() == [7.0, 8.0]

    def test_what_nobody_sends_keeps_its_value_and_is_named(self) -> None:
        model, left_out = after_round(model_of(v=[5.0], w=[1.0]), NOVA, (10, {"w": [0.4]}))

        assert (model.tensor("v").tolist(), left_out) == ([5.0], ("v",))

    def test_a_step_is_not_multiplied_by_its_number_of_steps_on_the_way(self) -> None:
        sent = (10, {"w": [0.1]}), (30, {"w": [0.1]})

        plain, _ = after_round(model_of(w=[1.0]), NOVA, *sent, is_plain=True)

        assert plain.tensor("w").tolist() == [3.0]

    def test_the_largest_number_of_steps_does_not_show_the_last_bit(self) -> None:
        """One worker, so the rule is: add what was lost by dividing."""
        rule, steps = Rule(is_normalised=True, divisor=1.0), 4096
        moved = np.float32(0.3)

        model, _ = after_round(model_of(w=[1.0]), rule, (steps, {"w": [moved / steps]}))

        assert model.tensor("w")[0] == pytest.approx(1.3, rel=2e-7)

    def test_a_result_beyond_single_precision_is_infinite_and_says_nothing(self) -> None:
        rule = Rule(is_normalised=True, divisor=1e-38)

        model, _ = after_round(model_of(w=[3.0]), rule, (65_535, {"w": [3.0]}))

        assert np.isinf(model.tensor("w")).all()

    def test_blocks_leave_no_seam(self) -> None:
        size = 2 * BLOCK + 3
        base = Model(Layout([Tensor("w", (size,))]), np.arange(size, dtype=np.float32))

        model, _ = after_round(base, NOVA, (8, {"w": [0.5] * size}))

        assert (model.values == base.values + 1).all()


class TestControls:
    def test_changes_are_shared_among_all_devices(self) -> None:
        base = model_of(w=[1.0, 1.0], control__w=[0.0, 0.0])
        sent = {"w": [10.0, 10.0], "control.w": [4.0, 8.0]}

        first, _ = after_round(base, SCAFFOLD, (5, sent), (5, sent))
        second, _ = after_round(first, SCAFFOLD, (5, sent), (5, sent))

        assert first.tensor("control.w").tolist() == [2.0, 4.0]
        assert second.tensor("control.w").tolist() == [4.0, 8.0]
        assert second.tensor("w").tolist() == [2.0, 2.0]

    def test_a_control_counts_the_same_whatever_its_data_size(self) -> None:
        base = model_of(control__w=[1.0])

        for is_plain in (False, True):
            model, _ = after_round(
                base, SCAFFOLD, (1, {"control.w": [4.0]}), (9, {"control.w": [8.0]}),
                is_plain=is_plain,
            )  # fmt: skip
            assert model.tensor("control.w").tolist() == [4.0]

    def test_a_gradient_of_thousands_still_fits(self) -> None:
        model, _ = after_round(model_of(control__w=[0.0]), SCAFFOLD, (1, {"control.w": [1e6]}))

        assert model.tensor("control.w").tolist() == [250_000.0]

    def test_under_another_rule_it_is_a_tensor_like_any_other(self) -> None:
        model, _ = after_round(model_of(control__w=[1.0]), MEAN, (2, {"control.w": [4.0]}))

        assert model.tensor("control.w").tolist() == [2.0]
        assert not MEAN.is_control("control.w")


class TestCompletion:
    def test_a_control_of_zeros_is_added_for_every_tensor(self) -> None:
        base = model_of("fixed", w=[[1.0, 2.0], [3.0, 4.0]], fixed=[5.0])  # type: ignore[list-item]

        made = SCAFFOLD.completed(base)

        assert [tensor.name for tensor in made.layout] == [
            "control.fixed",
            "control.w",
            "fixed",
            "w",
        ]
        assert made.tensor("control.w").tolist() == [[0.0, 0.0], [0.0, 0.0]]
        assert made.tensor("w").tolist() == [[1.0, 2.0], [3.0, 4.0]]
        aggregated = {tensor.name: tensor.is_aggregated for tensor in made.layout}
        assert (aggregated["control.w"], aggregated["control.fixed"]) == (True, False)

    def test_what_a_checkpoint_holds_already_stays(self) -> None:
        base = SCAFFOLD.completed(model_of(w=[1.0], control__w=[7.0]))

        assert base.tensor("control.w").tolist() == [7.0]
        assert SCAFFOLD.completed(base) is base

    @pytest.mark.parametrize("rule", [MEAN, NOVA], ids=["mean", "normalised"])
    def test_no_other_rule_adds_anything(self, rule: Rule) -> None:
        base = model_of(w=[1.0])

        assert rule.completed(base) is base


def test_an_upload_beyond_what_the_rule_leaves_room_for_is_refused() -> None:
    base = model_of(w=[1.0])
    limits = {MEAN: 2**24, NOVA: 2**16}
    for rule, limit in limits.items():
        scaling = Scaling(exponents(base, COHORT, rule), term_bound(COHORT), rule)
        for factor, is_fit in ((0.99, True), (1.01, False)):
            entries = [("w", np.array([factor * limit], np.float32))]
            update = read_update(base.layout, entries, is_plain=False)
            assert isinstance(update, Update)
            found = update.find_unfit(scaling, 1)
            assert isinstance(found, Unfit) is not is_fit
