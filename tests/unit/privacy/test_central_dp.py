"""Clipping and noise of the sum: within the norm exactly, of the right size, seeded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fl_cluster.privacy.central_dp import (
    SEED_BYTES,
    CentralNoise,
    SeededStream,
    _log,
    add_noise,
    factor_for,
    make_steps,
    on_grid,
    shorten,
    square_sum,
)
from fl_cluster.privacy.draws import SystemStream

SEED = bytes(range(SEED_BYTES))


@pytest.mark.parametrize("exponent", [-3, 0, 30])
def test_the_sum_of_squares_is_exact(exponent: int) -> None:
    numbers = np.random.default_rng(1)
    steps = numbers.integers(-(2**52), 2**52, 70_001)

    exact = sum(int(step) ** 2 for step in steps)

    assert square_sum(steps, exponent) == exact / Fraction(4) ** exponent
    assert square_sum(np.empty(0, np.int64), exponent) == 0


@pytest.mark.parametrize("norm", [1e-12, 0.003, 1.0, 7.5])
@pytest.mark.parametrize("seed", range(5))
def test_a_shortened_step_is_never_longer_than_the_norm(norm: float, seed: int) -> None:
    steps = np.random.default_rng(seed).normal(scale=2.0**37, size=1_003).astype(np.int64)
    assert square_sum(steps, 35) > Fraction(norm) ** 2

    shorten(steps, factor_for(square_sum(steps, 35), norm))

    assert square_sum(steps, 35) <= Fraction(norm) ** 2
    if norm > 0.001:
        assert math.sqrt(square_sum(steps, 35)) > 0.999_99 * norm


def test_a_step_within_the_norm_is_left_alone() -> None:
    steps = np.array([3, -4], np.int64)

    shorten(steps, factor_for(square_sum(steps, 0), 5.0))

    assert steps.tolist() == [3, -4]
    assert factor_for(Fraction(0), 1e-30) == 1.0


def test_steps_are_taken_from_what_counts_several_times() -> None:
    base = np.array([0.5, -0.25, 1.0], np.float32)
    terms = np.array([7 * (2**9 + 3), 7 * (-(2**8)), 7 * 2**10 + 3], np.int64)

    make_steps(terms, 7, base, 10)

    assert terms.tolist() == [3, 0, 0]
    assert on_grid(base, 1).tolist() == [1, 0, 2]


def test_the_noise_has_its_deviation_and_its_shape() -> None:
    sums = np.zeros(200_000, np.int64)

    add_noise(sums, 0.25, 30, SystemStream())

    noise = sums / 2.0**30
    assert abs(noise.mean()) < 0.003
    assert abs(noise.std() - 0.25) < 0.002
    assert abs((noise**4).mean() / 0.25**4 - 3) < 0.1
    assert abs((np.abs(noise) < 0.25).mean() - 0.6827) < 0.005


def test_the_noise_follows_the_normal_distribution() -> None:
    sums = np.zeros(100_000, np.int64)
    add_noise(sums, 1.0, 40, SeededStream(SEED))

    noise = np.sort(sums / 2.0**40)
    normal = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in noise])
    ranks = np.arange(1, noise.size + 1) / noise.size

    # Kolmogorov and Smirnov: beyond 1.95 / sqrt(n) in one of a thousand; the seed is fixed.
    assert np.abs(ranks - normal).max() < 1.95 / math.sqrt(noise.size)
    assert abs(np.corrcoef(sums[:-1], sums[1:])[0, 1]) < 0.02


def test_the_logarithm_is_one() -> None:
    numbers = np.concatenate(
        [np.random.default_rng(4).random(10_000), 2.0 ** -np.arange(1.0, 105.0), [1 - 2.0**-53]]
    )

    assert np.abs(_log(numbers) - np.log(numbers)).max() < 2e-14
    assert np.abs(_log(numbers) / np.log(numbers) - 1).max() < 4e-16 * 4


def test_a_seed_makes_the_same_noise_on_every_machine() -> None:
    sums = np.arange(70_000)

    add_noise(sums, 1.0, 40, SeededStream(SEED))

    assert hashlib.sha256(sums.astype("<i8").tobytes()).hexdigest() == EXPECTED


def test_another_seed_makes_other_noise() -> None:
    one, other = np.zeros(1_000, np.int64), np.zeros(1_000, np.int64)

    add_noise(one, 1.0, 40, SeededStream(SEED))
    add_noise(other, 1.0, 40, SeededStream(SEED[::-1]))

    assert (one != other).mean() > 0.99
    assert SeededStream(SEED).take(99) == SeededStream(SEED).take(64) + _second_part()


def _second_part() -> bytes:
    stream = SeededStream(SEED)
    stream.take(64)
    return stream.take(35)


def test_a_seed_has_its_length() -> None:
    with pytest.raises(ValueError, match="expected a seed of 32 bytes, found 31"):
        SeededStream(SEED[1:])


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


EXPECTED = "cce6505a46d221a568443b1bc4cfd3317a6be5b712174f5c6a67a7660d4e4509"
"""SHA-256 of 70,000 sums with the noise of `SEED`: whatever computes it must get this."""
