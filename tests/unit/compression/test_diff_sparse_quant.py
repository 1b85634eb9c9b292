"""Sparse 8-bit differences: the device's bytes, and the sum that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fl_cluster.compression.diff_sparse_quant import (
    decode,
    encode,
    find_unreadable,
    find_unusable,
    fold,
    is_in_range,
    largest_difference,
)
from fl_cluster.compression.quant import Chunk
from fl_cluster.compression.sparse import Kept, choose
from fl_cluster.kernels import native
from fl_cluster.wire import messages

LARGEST = float(np.finfo(np.float32).max)


def tensors(seed: int, *sizes: int) -> list[Any]:
    numbers = np.random.default_rng(seed)
    return [numbers.standard_normal(size).astype(np.float32) for size in sizes]


def test_an_upload_is_that_of_the_device(basic: Any, floats: Any) -> None:
    vector = basic["dsq_encode"]
    base = [np.array(vector["before"], np.float32)]
    products = [np.array(vector["after"], np.float32) * np.float32(vector["data_size"])]
    kept = choose(vector["seed"], vector["rate"], [10])
    assert "".join("01"[int(flag)] for flag in kept[0].flags()) == vector["mask"]

    (chunk,) = encode(products, base, vector["data_size"], kept)
    (whole,) = encode(products, base, vector["data_size"], choose(5, 1.0, [10]))
    (still,) = encode(base, base, 1, choose(5, 1.0, [10]))

    assert chunk.quants.tolist() == vector["q"]
    limits = np.array([chunk.minimum, chunk.maximum], np.float32)
    assert limits.tobytes() == floats([vector["min_f32"], vector["max_f32"]]).tobytes()
    assert whole.quants.tolist() == [-35, -85, -35, -42, -128, -1, -85, -35, -22, 127]
    assert set(still.quants.tolist()) == {-128}


def test_a_tensor_of_which_nothing_is_kept_has_the_devices_odd_limits() -> None:
    nothing = Kept(2, 0, np.zeros(1, np.uint8))

    (chunk,) = encode(tensors(1, 2), tensors(2, 2), 3, [nothing])

    assert (chunk.minimum, chunk.maximum, chunk.quants.size) == (LARGEST, -LARGEST, 0)
    assert largest_difference(chunk) == 0.0
    assert find_unreadable([chunk], [nothing]) is None
    assert find_unusable([chunk], [2], 0.4) is None


def test_the_captured_upload_decodes_to_what_the_device_trained(
    captured: Callable[[str, Any], Any],
) -> None:
    """The capture's device adds lr * g * (1 + 0.25 * (j mod 5)) per step: 1 step, 32 samples."""
    update = captured("dsq__c1__01_updateModel_req", messages.RequestUpdateModel)
    start = captured("dsq__c1__00_startFLJob_res", messages.ResponseFLJob)
    model = {each.weight_fullname: each.data for each in start.feature_map or ()}
    if not model:
        from fl_cluster.compression.quant import dequantise

        model = {
            each.weight_fullname: dequantise(Chunk(each.compress_data, each.min_val, each.max_val))
            for each in start.compress_feature_map
        }
    base = [model[name] for name in update.name_vec]
    kept = choose(update.iteration, update.upload_sparse_rate, [each.size for each in base])
    chunks = [
        Chunk(each.compress_data, each.min_val, each.max_val)
        for each in update.compress_feature_map
    ]
    assert find_unusable(chunks, [each.size for each in base], update.upload_sparse_rate) is None
    assert find_unreadable(chunks, kept) is None

    for tensor, chunk, choice in zip(base, chunks, kept, strict=True):
        step = decode(tensor, chunk, choice, 32) / np.float32(32) - tensor
        trained = 0.005 * (1 + 0.25 * (np.arange(tensor.size) % 5))
        kept_steps = step[choice.flags()]
        np.testing.assert_allclose(kept_steps, trained[choice.flags()], atol=1e-4)
        np.testing.assert_allclose(step[~choice.flags()], 0, atol=1e-6)
        (again,) = encode([decode(tensor, chunk, choice, 32)], [tensor], 32, [choice])
        assert np.abs(again.quants.astype(int) - chunk.quants.astype(int)).max(initial=0) <= 1


@pytest.mark.parametrize("kernels", native.available())
@pytest.mark.parametrize("rate", [0.05, 0.4, 1.0])
def test_folding_a_chunk_is_folding_what_it_decodes_to(
    monkeypatch: pytest.MonkeyPatch, kernels: str, rate: float
) -> None:
    sizes = (1, 64, 1_003, 70_000)
    base, products = tensors(3, *sizes), tensors(4, *sizes)
    kept = choose(9, rate, sizes)
    chosen = native.kernel_set(kernels)
    monkeypatch.setattr(native, "fold_quantised", chosen.fold_quantised)
    for tensor, chunk, choice in zip(base, encode(products, base, 17, kept), kept, strict=True):
        sums, expected = np.arange(tensor.size), np.arange(tensor.size)
        assert is_in_range(chunk, float(np.abs(tensor).max()), (17, 2.0**30), native.MAX_BOUND)

        fold(sums, tensor, chunk, choice, (17, 2.0**30))

        native.fold(expected, decode(tensor, chunk, choice, 17), 2.0**30)
        assert expected.tobytes() == sums.tobytes()


def test_whatever_passes_the_range_check_passes_the_check_of_every_element() -> None:
    numbers = np.random.default_rng(5)
    for _ in range(300):
        size = int(numbers.integers(1, 50))
        base = (numbers.standard_normal(size) * 10.0 ** numbers.integers(-3, 4)).astype(np.float32)
        products = (numbers.standard_normal(size) * 100).astype(np.float32)
        kept = choose(int(numbers.integers(100)), 1.0, [size])
        (chunk,) = encode([products], [base], 7, kept)
        bound = int(numbers.integers(1, 2**40))
        magnitude = float(np.abs(base).max())
        if is_in_range(chunk, magnitude, (7, 2.0**20), bound):
            decoded = decode(base, chunk, kept[0], 7)
            assert native.find_unfit(decoded, 2.0**20, bound) == -1


@pytest.mark.parametrize(
    ("chunks", "sentence"),
    [
        ([], "expected 1 compressed tensors, found 0"),
        ([(3, 0.0, 1.0)], "expected 4 kept values in all, found 3"),
        ([(4, 1.0, 0.0)], "expected a minimum and a maximum, found 1.0 and 0.0"),
        ([(4, float("nan"), 1.0)], "expected a minimum and a maximum, found nan and 1.0"),
        ([(4, 0.0, float("inf"))], "its values are not finite"),
        ([(4, -LARGEST, LARGEST)], "its values are not finite"),
        ([(4, -float("inf"), float("inf"))], "its values are not finite"),
    ],
)
def test_chunks_that_are_no_update_are_refused(
    chunks: list[tuple[int, float, float]], sentence: str
) -> None:
    given = [Chunk(np.zeros(size, np.int8), low, high) for size, low, high in chunks]

    unusable = find_unusable(given, [10], 0.4)

    assert unusable is not None
    assert sentence in unusable.reason


def test_as_many_values_as_are_kept_in_all_have_to_be_those_of_each_tensor() -> None:
    kept = choose(1, 0.4, [3, 2])
    assert [choice.count for choice in kept] == [1, 1]
    chunks = [Chunk(np.zeros(size, np.int8), 0.0, 1.0) for size in (0, 2)]

    unreadable = find_unreadable(chunks, kept)

    assert find_unusable(chunks, [3, 2], 0.4) is None
    assert unreadable is not None
    assert unreadable.reason == "compressed tensor 0: expected 1 kept values, found 0"


def test_an_update_that_is_not_finite_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        encode([np.array([np.nan], np.float32)], tensors(1, 1), 1, choose(1, 1.0, [1]))


def test_a_difference_beyond_the_bound_is_out_of_range() -> None:
    chunk = Chunk(np.zeros(1, np.int8), 0.0, 100.0)

    assert is_in_range(chunk, 1.0, (2, 1.0), 103)
    assert not is_in_range(chunk, 1.0, (2, 1.0), 101)
    assert not is_in_range(chunk, LARGEST, (2, 1e-40), 2**51)
