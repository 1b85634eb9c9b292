"""Clipping and noise of the sum: within the norm to the last bit, of the right size, seeded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fl_cluster.privacy.central_dp import CentralNoise, add_noise, clip_update, distance
from fl_cluster.privacy.draws import SystemStream


@pytest.mark.parametrize("norm", [1e-12, 0.003, 1.0, 7.5])
@pytest.mark.parametrize("seed", range(5))
def test_a_clipped_update_is_never_further_away_than_the_norm(norm: float, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    base = [numbers.standard_normal(n).astype(np.float32) for n in (3, 1_000)]
    trained = [t + numbers.standard_normal(t.size).astype(np.float32) for t in base]

    clipped = clip_update(trained, base, norm)

    assert distance(clipped, base) <= norm
    if norm > 0.001:
        assert distance(clipped, base) > 0.99 * norm


def test_an_update_within_the_norm_is_left_alone() -> None:
    base, trained = [np.zeros(4, np.float32)], [np.full(4, 0.1, np.float32)]

    assert clip_update(trained, base, 0.2001)[0].tobytes() == trained[0].tobytes()
    assert clip_update(base, base, 0.1)[0].tobytes() == base[0].tobytes()


def test_an_update_that_is_not_finite_cannot_be_clipped() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        clip_update([np.array([np.nan], np.float32)], [np.zeros(1, np.float32)], 1.0)


def test_the_noise_has_its_deviation_and_its_shape() -> None:
    sums = np.zeros(200_000, np.int64)

    add_noise(sums, 0.25, 30, SystemStream())

    noise = sums / 2.0**30
    assert abs(noise.mean()) < 0.003
    assert abs(noise.std() - 0.25) < 0.002
    assert abs((noise**4).mean() / 0.25**4 - 3) < 0.1
    assert abs((np.abs(noise) < 0.25).mean() - 0.6827) < 0.005


def test_the_same_stream_gives_the_same_noise(stream: Callable[[str], Any]) -> None:
    one, other = np.arange(70_000), np.arange(70_000)

    add_noise(one, 1.0, 20, stream("noise"))
    add_noise(other, 1.0, 20, stream("noise"))

    assert one.tobytes() == other.tobytes()
    assert one.tobytes() != np.arange(70_000).tobytes()


def test_sums_stop_at_the_ends(stream: Callable[[str], Any]) -> None:
    sums = np.full(100, 2**63 - 1, np.int64)

    add_noise(sums, 1.0, 50, stream("ends"))

    assert sums.min() > 0
    assert sums.max() == 2**63 - 1


def test_noise_that_no_sum_could_hold_is_refused(stream: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="does not fit sums with 40 binary places"):
        add_noise(np.zeros(1, np.int64), 2.0**20, 40, stream("large"))


def test_sigma_is_clip_times_multiplier() -> None:
    assert CentralNoise(0.5, 3.0).sigma == 1.5
    with pytest.raises(ValueError, match="above 0, found 0 and 3"):
        CentralNoise(0, 3)
