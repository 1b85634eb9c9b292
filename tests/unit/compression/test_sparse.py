"""Which elements are sent: the published generator, whose overflow is part of it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from fl_cluster.compression.sparse import choose, kept_count
from fl_cluster.kernels import native


@pytest.mark.parametrize("row", range(105))
def test_the_choice_is_that_of_the_device(basic: Any, floats: Any, row: int) -> None:
    vector = basic["mask_array"][row]
    (rate,) = floats([vector["rate_f32"]])

    (kept,) = choose(vector["seed"], rate, [vector["n"]])

    text = "".join("01"[int(flag)] for flag in kept.flags())
    if "bits" in vector:
        assert text == vector["bits"]
    else:
        assert hashlib.sha256(text.encode()).hexdigest() == vector["sha256_of_01_string"]
    assert kept.count == text.count("1") == kept_count(vector["n"], rate)


@pytest.mark.parametrize("kernels", native.available())
def test_every_kernel_set_chooses_alike(basic: Any, floats: Any, kernels: str) -> None:
    for vector in basic["mask_array"]:
        (rate,) = floats([vector["rate_f32"]])
        flags, expected = np.empty(vector["n"], np.uint8), np.empty(vector["n"], np.uint8)
        kept = kept_count(vector["n"], rate)
        native.kernel_set(kernels).choose_kept(flags, vector["seed"], kept)
        native.choose_kept(expected, vector["seed"], kept)
        assert flags.tobytes() == expected.tobytes()


def test_the_choice_runs_over_all_tensors() -> None:
    (whole,) = choose(7, 0.4, [1_000])

    cut = choose(7, 0.4, [3, 0, 900, 97])

    assert np.concatenate([kept.flags() for kept in cut]).tolist() == whole.flags().tolist()
    assert sum(kept.count for kept in cut) == whole.count
    assert [kept.size for kept in cut] == [3, 0, 900, 97]
    assert [kept.bits.size for kept in cut] == [1, 0, 113, 13]


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="expected a rate above 0, at most 1"):
        choose(1, rate, [10])


def test_a_model_that_the_generator_cannot_count_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most 2147483647 elements"):
        choose(1, 0.5, [2**30, 2**30])


@pytest.mark.parametrize("seed", [0, -1, 2**31 - 1, -(2**31), 2**30])
def test_any_round_number_chooses_as_many(seed: int) -> None:
    assert choose(seed, 0.25, [1_000])[0].count == 250
