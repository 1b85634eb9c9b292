from __future__ import annotations

import numpy as np
import pytest

from fl_cluster.worker.proximal import gradient, penalty

RNG = np.random.default_rng(5)
LOCAL = {name: RNG.normal(size=4).astype(np.float32) for name in ("a", "b")}
REFERENCE = {name: RNG.normal(size=4).astype(np.float32) for name in ("a", "b")}


def test_the_term_is_half_the_rate_times_the_mean_square_of_each_parameter() -> None:
    found = penalty({"w": np.array([3.0, 5.0])}, {"w": np.array([1.0, 1.0])}, 0.1)

    assert found == pytest.approx(0.05 * (4 + 16) / 2)


def test_at_the_jobs_model_there_is_neither_penalty_nor_slope() -> None:
    assert penalty(LOCAL, LOCAL, 0.5) == 0
    assert not any(slope.any() for slope in gradient(LOCAL, LOCAL, 0.5).values())


def test_the_gradient_is_the_slope_of_the_penalty() -> None:
    slopes = gradient(LOCAL, REFERENCE, 0.3)

    for name, values in LOCAL.items():
        for index in range(values.size):
            sides = []
            for step in (1e-4, -1e-4):
                moved = {key: flat.astype(np.float64) for key, flat in LOCAL.items()}
                moved[name][index] += step
                sides.append(float(penalty(moved, REFERENCE, 0.3)))
            assert slopes[name][index] == pytest.approx((sides[0] - sides[1]) / 2e-4, rel=1e-3)


def test_parameters_that_the_job_does_not_know_are_free() -> None:
    assert set(gradient(LOCAL, {"a": REFERENCE["a"]}, 0.3)) == {"a"}
    assert penalty(LOCAL, {"other": REFERENCE["a"]}, 0.3) == 0
