"""What is safe to add, and the sentence for what is not."""

from __future__ import annotations

import numpy as np
import pytest

from fl_cluster.aggregate.admission import read_update
from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.partial import Scaling, Unfit, Update

LAYOUT = Layout(
    [Tensor("a", (3,)), Tensor("b", (2, 2)), Tensor("fixed", (2,), is_aggregated=False)]
)
SCALING = Scaling((10, 20), 2**40)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def read(*entries, is_plain=False):
    return read_update(LAYOUT, entries, is_plain=is_plain)


class TestReading:
    def test_all_tensors_in_any_order(self):
        a, b, fixed = floats(1, 2, 3), floats(1, 2, 3, 4), floats(0, 0)

        update = read(("b", b), ("fixed", fixed), ("a", a), is_plain=True)

        assert update.is_plain
        assert [place.tensor.name for place, _ in update.arrays] == ["b", "a"]
        assert update.arrays[0][1] is b

    def test_a_subset_will_do(self):
        update = read(("b", floats(1, 2, 3, 4)))

        assert [place.tensor.name for place, _ in update.arrays] == ["b"]

    def test_one_that_is_not_aggregated_is_looked_at_and_left_out(self):
        update = read(("fixed", floats(1, 2)))

        assert isinstance(update, Update)
        assert list(update.arrays) == []

    @pytest.mark.parametrize(
        ("entries", "reason"),
        [
            ([], "the update holds no tensor"),
            ([("c", floats(1))], "tensor 'c' is not in the model"),
            ([("a", floats(1, 2))], "tensor 'a': expected 3 values, found 2"),
            ([("a", floats())], "tensor 'a': expected 3 values, found 0"),
            ([("fixed", floats(1))], "tensor 'fixed': expected 2 values, found 1"),
            ([("a", floats(1, 2, 3)), ("a", floats(1, 2, 3))], "tensor 'a' came twice"),
            ([("fixed", floats(1, 2)), ("fixed", floats(1, 2))], "tensor 'fixed' came twice"),
            ([("fixed", floats(1, np.nan))], "tensor 'fixed' holds NaN or infinity"),
            ([("fixed", floats(np.inf, 1))], "tensor 'fixed' holds NaN or infinity"),
            ([("a", floats(1, 2, 3)), ("", floats(1))], "tensor '' is not in the model"),
        ],
    )
    def test_what_does_not_fit_the_model_is_said(self, entries, reason):
        assert read(*entries) == Unfit(reason)

    def test_a_name_that_no_terminal_could_show_is_quoted(self):
        assert read(("x\n\x1b[2J", floats(1))).reason == (
            r"tensor 'x\n\x1b[2J' is not in the model"
        )


class TestRange:
    """SCALING leaves tensor `b` room for magnitudes up to 2**20 / data size."""

    def update(self, *values: float, is_plain: bool = False) -> Update:
        return read(("b", floats(*values)), is_plain=is_plain)

    def test_the_bound_itself_fits(self):
        largest = 2.0**20
        assert self.update(largest, -largest, 0, 1).find_unfit(SCALING, 7) is None

    @pytest.mark.parametrize("sign", [1, -1])
    def test_the_next_number_beyond_it_does_not(self, sign):
        beyond = sign * np.nextafter(np.float32(2**20), np.float32(np.inf))

        unfit = self.update(0, 1, beyond, 3).find_unfit(SCALING, 7)

        assert unfit == Unfit(
            "tensor 'b', element 2: expected a finite value of magnitude at most"
            f" 1.04858e+06, found {'-' if sign < 0 else ''}1.04858e+06",
            is_out_of_range=True,
        )

    def test_plain_weights_have_room_for_their_product(self):
        assert self.update(2**10, 0, 0, 0, is_plain=True).find_unfit(SCALING, 2**10) is None

        unfit = self.update(2**10, 0, 0, 0, is_plain=True).find_unfit(SCALING, 2**10 + 1)

        assert unfit.is_out_of_range
        assert "magnitude at most 1023, found 1024" in unfit.reason

    @pytest.mark.parametrize(
        ("value", "found"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")]
    )
    @pytest.mark.parametrize("is_plain", [True, False])
    def test_what_is_no_number_is_invalid_and_not_out_of_range(self, value, found, is_plain):
        unfit = self.update(1, value, 3, 4, is_plain=is_plain).find_unfit(SCALING, 2)

        assert not unfit.is_out_of_range
        assert unfit.reason.startswith("tensor 'b', element 1: expected a finite value")
        assert unfit.reason.endswith(f"found {found}")

    def test_the_first_unfit_tensor_is_named(self):
        update = read(("b", floats(1, 2, 3, np.nan)), ("a", floats(np.nan, 1, 2)))

        assert update.find_unfit(SCALING, 1).reason.startswith("tensor 'b', element 3")

    def test_values_that_lie_anywhere_in_a_body_are_read_where_they_are(self):
        body = bytearray(1 + 16)
        values = np.frombuffer(body, "<f4", offset=1)
        assert not values.flags.aligned
        body[1:] = floats(1, 2, np.nan, 4).tobytes()

        assert read(("b", values)).find_unfit(SCALING, 1).reason.startswith("tensor 'b', element 2")

    def test_an_update_without_aggregated_tensors_fits(self):
        assert read(("fixed", floats(1, 2))).find_unfit(SCALING, 1) is None
