"""Models in 8 bits: what the published server sends and what devices read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_cluster.compression.quant import Chunk, dequantise, quantise, scale_of
from fl_cluster.wire import messages


def test_a_tensor_becomes_what_the_published_server_makes_of_it(basic: Any) -> None:
    vector = basic["quant_download"]

    chunk = quantise(np.array(vector["w"], np.float32))

    assert chunk.quants.tolist() == vector["q"]
    assert (chunk.minimum, chunk.maximum) == (vector["min"], vector["max"])
    assert dequantise(chunk).tolist() == vector["decoded"]


def test_a_device_reads_what_the_vectors_say(basic: Any, floats: Any) -> None:
    vector = basic["dequant"]
    limits = [float(np.float32(vector[name])) for name in ("min", "max")]

    values = dequantise(Chunk(np.array(vector["q"], np.int8), *limits))

    assert values.tobytes() == floats(vector["f32"]).tobytes()


def test_the_captured_download_is_the_captured_model_in_8_bits(
    captured: Callable[[str, Any], Any],
) -> None:
    answer = captured("dsq__c1__02_getModel_res", messages.ResponseGetModel)
    assert answer.compress_feature_map

    for tensor in answer.compress_feature_map:
        chunk = Chunk(tensor.compress_data, tensor.min_val, tensor.max_val)
        again = quantise(dequantise(chunk))
        assert again.quants.tolist() == tensor.compress_data.tolist()


@pytest.mark.parametrize(("values", "quants"), [([1.0, 2.0], [-128, 127]), ([5.0], [-128])])
def test_the_published_examples(values: list[float], quants: list[int]) -> None:
    chunk = quantise(np.array(values, np.float32))

    assert chunk.quants.tolist() == quants
    assert (chunk.minimum, chunk.maximum) == (min(values), max(values))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60))
def test_no_element_is_off_by_more_than_half_a_step(values: list[float]) -> None:
    tensor = np.array(values, np.float32)

    decoded = dequantise(quantise(tensor))

    largest = float(np.abs(tensor).max())
    step = scale_of(float(tensor.min()), float(tensor.max()))
    assert np.abs(decoded - tensor).max() <= step * 0.501 + largest * 2.0**-21


@pytest.mark.parametrize("values", [[], [np.nan], [1.0, np.inf], [-3.4e38, 3.4e38]])
def test_a_tensor_that_would_reach_devices_as_rubbish_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="tensor"):
        quantise(np.array(values, np.float32))
