"""The digits example: its data, its network, and that averaging it works at all."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fl_cluster.sdk import Protection, RoundPlan

EXAMPLE = Path(__file__).parents[3] / "examples" / "digits" / "digits.py"
PROGRAM = EXAMPLE.with_name("run.py")

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def a_plan(number: int = 1, epochs: int = 2) -> RoundPlan:
    return RoundPlan(number, 15, epochs, 16, 0.1, "FEDERATED_LEARNING", "Digits")


def table(name: str) -> Any:
    """A table of the program, which must not be run to read it."""
    for node in ast.parse(PROGRAM.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"the program has no table {name}")


def test_devices_insist_on_whatever_hides_their_updates() -> None:
    modes, required = table("MODES"), table("REQUIRED")

    hiding = {mode: settings.get("encrypt.encrypt_type") for mode, settings in modes.items()}
    insisted = {mode: Protection.parse(text) for mode, text in required.items()}
    assert {mode: kind for mode, kind in hiding.items() if kind} == {
        mode: protection.kind for mode, protection in insisted.items()
    }
    noise, signs = modes["dp"], modes["signds"]
    assert insisted["dp"].epsilon == float(noise["encrypt.dp_encrypt.dp_eps"])
    assert insisted["signds"].epsilon == float(signs["encrypt.signds.sign_eps"])


def test_every_image_is_either_trained_on_or_held_out(digits: ModuleType) -> None:
    training, held_out = digits.load()

    assert (len(training), len(held_out)) == (1438, 359)
    assert training.images.dtype == np.float32
    assert (training.images.min(), training.images.max()) == (0.0, 1.0)
    assert min(Counter(held_out.labels.tolist()).values()) >= 34


def test_images_are_dealt_unevenly_and_each_exactly_once(digits: ModuleType) -> None:
    training, _ = digits.load()

    shards = digits.split(training, 20)

    sizes = sorted(len(shard) for shard in shards)
    assert sum(sizes) == len(training)
    assert sizes[0] >= digits.LEAST_SAMPLES
    assert sizes[-1] > 5 * sizes[0]
    assert min(len(set(shard.labels.tolist())) for shard in shards) < 8
    dealt = Counter(image.tobytes() for shard in shards for image in shard.images)
    assert dealt == Counter(image.tobytes() for image in training.images)


@pytest.mark.parametrize("devices", [1, 2, 100])
def test_any_number_of_devices_gets_enough_images(digits: ModuleType, devices: int) -> None:
    training, _ = digits.load()

    shards = digits.split(training, devices)

    assert len(shards) == devices
    assert min(map(len, shards)) >= digits.LEAST_SAMPLES


def test_more_devices_than_images_go_round_are_refused(digits: ModuleType) -> None:
    training, _ = digits.load()

    with pytest.raises(ValueError, match="1000 devices need 10000 images, there are 1438"):
        digits.split(training, 1000)


def test_gradients_are_the_slopes_of_the_loss(digits: ModuleType) -> None:
    training, _ = digits.load()
    batch = training.take(np.arange(8))
    columns = digits.patches(batch.images)
    rng = np.random.default_rng(0)
    weights = {
        # Biases of exactly 0 would put empty patches on the kink of ReLU.
        name: values + rng.normal(0.0, 0.1, values.shape)
        for name, values in digits.initial_weights().items()
    }
    slopes, _ = digits.gradients(weights, columns, batch.labels)

    for name, values in weights.items():
        for index in rng.choice(values.size, size=min(5, values.size), replace=False):
            losses = []
            for step in (1e-5, -1e-5):
                moved = {**weights, name: values.copy()}
                moved[name].flat[index] += step
                losses.append(digits.gradients(moved, columns, batch.labels)[1])
            slope = (losses[0] - losses[1]) / 2e-5
            assert slope == pytest.approx(slopes[name].flat[index], rel=1e-3, abs=1e-6)


def test_the_same_seed_trains_the_same_bits(digits: ModuleType) -> None:
    training, _ = digits.load()
    shard = digits.split(training, 20)[0]

    results = [
        digits.shard_trainer(shard, seed=3)(digits.initial_weights(), a_plan()) for _ in range(2)
    ]

    for name, values in results[0].weights.items():
        assert values.dtype == np.float32
        assert values.tobytes() == results[1].weights[name].tobytes()


def test_fifteen_rounds_of_averaging_read_the_held_out_digits(digits: ModuleType) -> None:
    training, held_out = digits.load()
    shards = digits.split(training, 20)
    trainers = [digits.shard_trainer(shard, seed=index) for index, shard in enumerate(shards)]
    weights = digits.initial_weights()

    for number in range(1, 16):
        updates = [
            train({name: values.copy() for name, values in weights.items()}, a_plan(number))
            for train in trainers
        ]
        weights = {
            name: np.average(
                [update.weights[name] for update in updates],
                axis=0,
                weights=[len(shard) for shard in shards],
            ).astype(np.float32)
            for name in weights
        }

    assert digits.score(weights, held_out).accuracy >= 0.97
