"""Noise that genuine devices add, to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fl_cluster.privacy.local_dp import FIRST_CLIP, Noise, clip_factor, next_clip, protect, sigma
from fl_cluster.wire import messages


@pytest.mark.parametrize("row", range(5))
def test_the_deviation_is_that_of_the_device(vectors: Callable[[str], Any], row: int) -> None:
    expected = vectors("basic")["sigma"][row]

    assert sigma(expected["eps"], expected["delta"], expected["clip"]) == expected["sigma"]


def test_an_upload_is_that_of_the_device(
    vectors: Callable[[str], Any], stream: Callable[[str], Any], floats: Any
) -> None:
    vector = vectors("dp")
    noise = Noise(vector["eps"], vector["delta_f32"], vector["clip"])
    trained = [floats(bits) for bits in vector["trained_bits"].values()]
    base = [np.array(each, np.float32) for each in vector["before"].values()]

    products = protect(trained, base, noise, vector["data_size"], stream(vector["rng_label"]))

    assert noise.sigma == vector["sigma"]
    assert clip_factor(trained, base, noise.clip) == vector["clip_factor"]
    for product, bits in zip(products, vector["upload_bits"].values(), strict=True):
        assert product.tobytes() == floats(bits).tobytes()


def test_the_captured_upload_has_the_size_that_the_announced_noise_gives(
    captured: Callable[[str, Any], Any], vectors: Callable[[str], Any]
) -> None:
    """The capture's stream is the system's, so only the size of the noise can be checked."""
    plan = captured("dp__c1__00_startFLJob_res", messages.ResponseFLJob).fl_plan_config
    update = captured("dp__c1__01_updateModel_req", messages.RequestUpdateModel)
    given = plan.cipher.dp_params
    deviation = Noise(given.dp_eps, given.dp_delta, FIRST_CLIP).sigma
    before = vectors("dp")["before"]
    for tensor in update.feature_map:
        step = tensor.data / np.float32(32) - np.array(before[tensor.weight_fullname])
        assert np.abs(step).max() < FIRST_CLIP + 6 * deviation


def test_noise_falls_as_epsilon_grows_and_delta_is_looser() -> None:
    deviations = [sigma(epsilon, 1e-3, 1.0) for epsilon in (0.5, 1.0, 5.0, 50.0)]

    assert deviations == sorted(deviations, reverse=True)
    assert sigma(1.0, 0.1, 1.0) < sigma(1.0, 0.01, 1.0)
    assert sigma(800.0, 0.01, 1.0) == 1 / math.sqrt(1_600)


def test_an_update_that_changed_nothing_is_pure_noise(stream: Callable[[str], Any]) -> None:
    base = [np.full(50, 0.5, np.float32)]

    (product,) = protect(base, base, Noise(50.0, 0.01, 0.05), 1, stream("still"))

    assert clip_factor(base, base, 0.05) == 0.0
    assert 0 < np.std(product - base[0]) < 0.02


def test_a_large_update_is_clipped() -> None:
    base, trained = [np.zeros(4, np.float32)], [np.full(4, 1.0, np.float32)]

    assert clip_factor(trained, base, 0.05) == 0.025


def test_the_clip_norm_follows_the_first_step_and_then_only_falls() -> None:
    base, model = [np.zeros(4, np.float32)], [np.full(4, 0.5, np.float32)]

    assert next_clip(0.05, 1, 0.5, base, model) == 0.5
    assert next_clip(0.05, 2, 0.5, base, model) == 0.05
    assert next_clip(0.7, 2, 0.5, base, model) == 0.5


def test_the_ledger_counts_what_two_updates_can_differ_by() -> None:
    noise = Noise(1.0, 1e-3, 0.25)

    assert noise.noise_multiplier == pytest.approx(sigma(1.0, 1e-3, 1.0) / 2)
