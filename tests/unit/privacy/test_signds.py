"""Signs of chosen dimensions: the device's choice to the bit, and strict indices for the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fl_cluster.privacy.signds import (
    Binomials,
    Selection,
    Signs,
    find_unfit,
    plan,
    products,
    select,
)
from fl_cluster.wire import messages
from fl_cluster.wire.limits import MAX_SIGN_DIMENSIONS


def indices(*numbers: int) -> Any:
    return np.array(numbers, np.int32)


@pytest.mark.parametrize("row", range(9))
def test_how_many_dimensions_are_sent_is_as_on_the_device(
    vectors: Callable[[str], Any], row: int
) -> None:
    expected = vectors("basic")["signds"][row]
    ratio = np.nextafter(np.float32(expected["k"] / expected["d"]), np.float32(1))
    selection = Selection(float(ratio), expected["eps"], expected["ratio"], 0)
    assert selection.top_count(expected["d"]) == expected["k"]

    assert plan(selection, expected["d"]) == (expected["h"], expected["thr"])


def test_the_choice_is_that_of_the_device(
    vectors: Callable[[str], Any], stream: Callable[[str], Any], floats: Any
) -> None:
    vector = vectors("signds")
    selection = Selection(0.1, vector["eps"], vector["ratio"], 0)
    base, trained = floats(vector["before"]), floats(vector["after"])

    signs = select([trained], [base], selection, lambda: stream(vector["rng_label"]))

    assert signs.sign == vector["sign"]
    assert signs.indices.tolist() == vector["index_array"]


def test_the_choice_runs_over_all_tensors(
    vectors: Callable[[str], Any], stream: Callable[[str], Any], floats: Any
) -> None:
    vector = vectors("signds")
    selection = Selection(0.1, vector["eps"], vector["ratio"], 0)
    base, trained = floats(vector["before"]), floats(vector["after"])

    signs = select(
        [trained[:100], trained[100:]],
        [base[:100], base[100:]],
        selection,
        lambda: stream(vector["rng_label"]),
    )

    assert signs.indices.tolist() == vector["index_array"]


def test_a_falling_sign_takes_the_smallest(stream: Callable[[str], Any]) -> None:
    class Falling:
        def take(self, count: int) -> bytes:
            return b"\x01" * count

    trained = [np.arange(100, dtype=np.float32)]

    signs = select(trained, [np.zeros(100, np.float32)], Selection(0.1, 100.0, 0.6, 3), Falling)

    assert signs.sign == -1
    assert (signs.indices < 10).sum() >= 2


def test_the_captured_upload_is_a_fit_one(captured: Callable[[str, Any], Any]) -> None:
    update = captured("signds__c1__01_updateModel_req", messages.RequestUpdateModel)
    model = captured("signds__c1__00_startFLJob_res", messages.ResponseFLJob).feature_map
    size = sum(tensor.data.size for tensor in model)

    assert find_unfit(update.sign, np.asarray(update.index_array), size) is None
    assert [t.weight_fullname for t in update.feature_map] == [t.weight_fullname for t in model]


def test_settings_that_are_legal_may_exceed_a_hundred_dimensions() -> None:
    """The published server refuses what its own settings make devices send."""
    for size, count in ((560, 105), (10_000, 111)):
        ratio = 0.1001 if size == 560 else 0.25
        h, _ = plan(Selection(ratio, 100.0, 0.5, 0), size)
        assert h == count
        assert find_unfit(1, np.arange(h, dtype=np.int32), size) is None


@pytest.mark.parametrize(
    ("sign", "chosen", "sentence"),
    [
        (0, indices(1), "expected a sign of 1 or -1, found 0"),
        (2, indices(1), "expected a sign of 1 or -1, found 2"),
        (1, indices(), "expected from 1 to 10 indices, found 0"),
        (1, np.arange(11, dtype=np.int32), "expected from 1 to 10 indices, found 11"),
        (1, indices(-1, 3), "from 0 to 9, in rising order"),
        (1, indices(3, 10), "from 0 to 9, in rising order"),
        (-1, indices(3, 3), "in rising order, each once"),
        (-1, indices(1, 5, 4, 8), "in rising order, each once"),
    ],
)
def test_indices_that_are_no_choice_are_refused(sign: int, chosen: Any, sentence: str) -> None:
    unfit = find_unfit(sign, chosen, 10)

    assert unfit is not None
    assert sentence in unfit.reason


def test_a_large_model_has_a_limit_of_its_own() -> None:
    unfit = find_unfit(1, np.arange(MAX_SIGN_DIMENSIONS + 1, dtype=np.int32), 10**6)

    assert unfit is not None


def test_signs_move_the_chosen_elements_and_count_the_rest_as_unchanged() -> None:
    base = [np.array([1.0, 2.0, 3.0], np.float32), np.array([4.0, 5.0], np.float32)]

    signs = Signs(-1, indices(0, 2, 3))
    first, second = products(base[0], 0, signs, 0.5, 10), products(base[1], 3, signs, 0.5, 10)

    assert first.tolist() == [5.0, 20.0, 25.0]
    assert second.tolist() == [35.0, 50.0]
    assert base[0].tolist() == [1.0, 2.0, 3.0]


def test_settings_that_give_no_odds_are_said(stream: Callable[[str], Any]) -> None:
    tensor = [np.zeros(5, np.float32)]

    with pytest.raises(ValueError, match="give no odds for 50 dimensions"):
        select(tensor, tensor, Selection(0.1, 1.0, 0.6, 50), lambda: stream("none"))


def test_binomials_are_those_of_the_product() -> None:
    assert Binomials(5).ways(2) == Binomials(5).ways(3) == 10.0
    assert Binomials(2).ways(5) == 0.0
    assert Binomials(5).ways(-1) == 0.0
    assert Binomials(0).ways(0) == 1.0
    assert Binomials(60).ways(30) == pytest.approx(118264581564861424)
