"""What may be put into a message beside the plain Python types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_cluster.wire import values


def test_numpy_scalars_are_numbers_too() -> None:
    assert values.integer(np.int64(-5)) == -5
    assert values.real(np.float32(0.5)) == 0.5
    assert values.real(np.int16(3)) == 3.0
    assert values.boolean(np.bool_(True)) is True


@pytest.mark.parametrize("value", [np.bool_(True), np.float32(1), np.int64(2**31), True, None])
def test_what_is_no_int_of_32_bits_is_unfit(value: Any) -> None:
    with pytest.raises(values.Unfit):
        values.integer(value)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 3.4028234e38])
def test_numbers_up_to_the_edge_of_float32_fit(value: float) -> None:
    held = values.real(value)

    assert held == value or np.isnan(held)


@pytest.mark.parametrize("value", [3.5e38, -1e300, 10**39, np.float64(1e39), "1", None, True])
def test_numbers_that_would_become_infinite_are_unfit(value: Any) -> None:
    with pytest.raises(values.Unfit):
        values.real(value)


@pytest.mark.parametrize("value", [b"ab", bytearray(b"ab"), memoryview(b"ab")])
def test_any_buffer_is_bytes(value: Any) -> None:
    assert values.binary(value) == b"ab"


def test_contiguous_float32_is_not_copied() -> None:
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3)

    data = values.floats(tensor)
    tensor[0, 0] = 7

    assert bytes(data[:4]) == np.float32(7).tobytes()
    assert len(data) == 24


def test_a_tensor_without_dimensions_has_one_element() -> None:
    assert bytes(values.floats(np.array(1.5, np.float32))) == np.float32(1.5).tobytes()
    assert bytes(values.int8s(np.array(-1, np.int8))) == b"\xff"


def test_a_finding_says_the_whole_path() -> None:
    finding = values.Unfit("expected a str, got int 7")
    finding.path += [".weight_fullname", "[2]", ".feature_map"]

    assert finding.explain(list) == "list.feature_map[2].weight_fullname: expected a str, got int 7"
