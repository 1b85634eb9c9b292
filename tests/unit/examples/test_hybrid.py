"""The hybrid example: who has which labels, and that retraining helps."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fl_cluster.sdk import RoundPlan

EXAMPLE = Path(__file__).parents[3] / "examples" / "hybrid" / "labels.py"

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def labels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hybrid_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_half_of_the_devices_labels_are_drawn_by_lot_and_none_of_the_workers(
    labels: ModuleType,
) -> None:
    training, _ = labels.digits.load()
    truth = {
        image.tobytes(): int(digit)
        for image, digit in zip(training.images, training.labels, strict=True)
    }

    def wrong(samples: object) -> float:
        pairs = zip(samples.images, samples.labels, strict=True)  # type: ignore[attr-defined]
        return float(np.mean([truth[image.tobytes()] != digit for image, digit in pairs]))

    hands = labels.deal(8)

    assert wrong(hands.worker) == 0
    assert len(hands.worker) == labels.LABELLED
    poor = sum(wrong(shard) * len(shard) for shard in hands.devices)
    total = sum(len(shard) for shard in hands.devices)
    assert total == len(training) - labels.LABELLED
    assert 0.4 < poor / total < 0.5  # one in ten of those drawn by lot is right by chance


def test_the_same_seed_deals_the_same_hands(labels: ModuleType) -> None:
    first, second = labels.deal(4, seed=3), labels.deal(4, seed=3)

    assert first.worker.images.tobytes() == second.worker.images.tobytes()
    for one, other in zip(first.devices, second.devices, strict=True):
        assert one.labels.tobytes() == other.labels.tobytes()


def test_retraining_on_right_labels_reads_more_digits_than_poor_labels_alone(
    labels: ModuleType,
) -> None:
    digits, hands = labels.digits, labels.deal(8)
    trainers = [digits.shard_trainer(shard, seed=n) for n, shard in enumerate(hands.devices)]
    columns = digits.patches(hands.worker.images)
    accuracies = []
    for is_retrained in (False, True):
        weights, rng = digits.initial_weights(), np.random.default_rng(0)
        for number in range(1, 9):
            plan = RoundPlan(number, 12, 1, 16, 0.03, "HYBRID_TRAINING", "Hybrid")
            updates = [train({n: w.copy() for n, w in weights.items()}, plan) for train in trainers]
            weights = {
                name: np.average(
                    [update.weights[name] for update in updates],
                    axis=0,
                    weights=[len(shard) for shard in hands.devices],
                ).astype(np.float32)
                for name in weights
            }
            for _ in range(20 if is_retrained else 0):
                batch = rng.integers(0, len(hands.worker), 16)
                slopes, _ = digits.gradients(weights, columns[batch], hands.worker.labels[batch])
                for name, slope in slopes.items():
                    weights[name] -= np.float32(0.1) * slope
        accuracies.append(digits.score(weights, hands.held_out).accuracy)

    assert accuracies[1] >= 0.93 > accuracies[0]
