"""Handwritten digits: the data, its uneven split over devices, and a small network in NumPy.

The data are the 1,797 images of 8 x 8 pixels that scikit-learn ships.  A fifth is held out to
judge the federated model; the rest is dealt to the devices unevenly, both in how many images
a device has and in which digits it sees.
The network is convolution 3 x 3 -> ReLU -> 2 x 2 maximum -> dense, 5,450 parameters.
Everything is seeded: the same seed gives the same split, start and training, bit for bit.
`shard_trainer` makes what a device needs; nothing else here knows that training is federated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_cluster.sdk import RoundPlan, TrainResult

Weights = Mapping[str, NDArray[np.float32]]

TrainFunction = Callable[[dict[str, NDArray[np.float32]], RoundPlan], TrainResult]

SIDE = 8
"""Width and height of an image, in pixels."""
CLASSES = 10
FILTERS = 32
POOLED = SIDE // 2
MOMENTUM = 0.9
HELD_OUT_SHARE = 0.2
LEAST_SAMPLES = 10
"""No device has fewer images than this."""
LABEL_SKEW = 0.7
"""Concentration of the Dirichlet draw: the smaller, the fewer digits a device knows."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Images, float32 [n, 8, 8] in 0..1, and what they show, int64 [n]."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray[np.int64]) -> Samples:
        """The samples at these indices."""
        return Samples(self.images[chosen], self.labels[chosen])


class Score(NamedTuple):
    """How well a model does: mean cross-entropy, and the share of images it names right."""

    loss: float
    accuracy: float


def load(seed: int = 0) -> tuple[Samples, Samples]:
    """The training images and the held-out ones; every digit is held out in equal share."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    every = Samples(
        (pixels.reshape(-1, SIDE, SIDE) / 16.0).astype(np.float32), digits.astype(np.int64)
    )
    order = np.random.default_rng(seed).permutation(len(every))
    held_out = np.concatenate(
        [
            members[: round(HELD_OUT_SHARE * len(members))]
            for members in (order[every.labels[order] == digit] for digit in range(CLASSES))
        ]
    )
    return every.take(np.setdiff1d(order, held_out)), every.take(np.sort(held_out))


def split(samples: Samples, devices: int, seed: int = 0) -> list[Samples]:
    """Deal all samples to the devices: uneven sizes, uneven labels, nobody nearly empty.

    Each digit is dealt by a Dirichlet draw around device sizes that are themselves drawn;
    whoever ends up with less than `LEAST_SAMPLES` gets the rest from whoever has most.
    """
    if devices * LEAST_SAMPLES > len(samples):
        raise ValueError(
            f"{devices} devices need {devices * LEAST_SAMPLES} images, there are {len(samples)}"
        )
    rng = np.random.default_rng([seed, devices])
    sizes = rng.dirichlet(np.full(devices, 3.0))
    hands: list[list[int]] = [[] for _ in range(devices)]
    for digit in range(CLASSES):
        members = rng.permutation(np.flatnonzero(samples.labels == digit))
        shares = rng.dirichlet(LABEL_SKEW * devices * sizes + 1e-3)
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for hand, dealt in zip(hands, np.split(members, cuts), strict=True):
            hand.extend(dealt.tolist())
    for hand in hands:
        while len(hand) < LEAST_SAMPLES:
            hand.append(max(hands, key=len).pop())
    return [samples.take(np.array(sorted(hand))) for hand in hands]


def initial_weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Fresh weights: normal draws scaled by fan-in, biases zero."""
    rng = np.random.default_rng([seed, 1])

    def drawn(shape: tuple[int, ...], fan_in: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)

    inputs = FILTERS * POOLED * POOLED
    return {
        "conv.weight": drawn((9, FILTERS), 9),
        "conv.bias": np.zeros(FILTERS, np.float32),
        "dense.weight": drawn((inputs, CLASSES), 2 * inputs),
        "dense.bias": np.zeros(CLASSES, np.float32),
    }


def patches(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The 3 x 3 surroundings of every pixel, [n, 4, 4, 2, 2, 9]: grouped as they are pooled.

    Pixels outside the image count as 0.  Axes: image, row and column of the pooling window,
    row and column inside it, and the nine pixels.
    """
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    grouped = windows.reshape(len(images), POOLED, 2, POOLED, 2, 9).swapaxes(2, 3)
    return np.ascontiguousarray(grouped)


class Forward(NamedTuple):
    """What the network made of a batch, kept for the way back."""

    pooled: NDArray[np.float32]
    winners: NDArray[np.int64]
    """Which of the four places of each pooling window had the maximum."""
    probabilities: NDArray[np.float32]


def forward(weights: Weights, columns: NDArray[np.float32]) -> Forward:
    """Run the network on `patches(images)`."""
    count = len(columns)
    convolved = columns.reshape(-1, 9) @ weights["conv.weight"] + weights["conv.bias"]
    windows = convolved.reshape(count, POOLED * POOLED, 4, FILTERS)
    winners = windows.argmax(axis=2)
    best = np.take_along_axis(windows, winners[:, :, None, :], axis=2)
    pooled = np.maximum(best, 0.0).reshape(count, -1)
    logits = pooled @ weights["dense.weight"] + weights["dense.bias"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Forward(pooled, winners, powers / powers.sum(axis=1, keepdims=True))


def cross_entropy(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of the labels; a probability of 0 counts as 1e-7."""
    likely = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(likely, 1e-7)).mean())


def gradients(
    weights: Weights, columns: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Derivatives of the batch's mean cross-entropy, and that mean itself."""
    count = len(labels)
    pooled, winners, probabilities = forward(weights, columns)
    loss = cross_entropy(probabilities, labels)
    by_logits = probabilities.copy()
    by_logits[np.arange(count), labels] -= 1.0
    by_logits /= count
    by_pooled = (by_logits @ weights["dense.weight"].T) * (pooled > 0)
    by_windows = np.zeros((count, POOLED * POOLED, 4, FILTERS), np.float32)
    np.put_along_axis(
        by_windows,
        winners[:, :, None, :],
        by_pooled.reshape(count, POOLED * POOLED, 1, FILTERS),
        axis=2,
    )
    by_convolved = by_windows.reshape(-1, FILTERS)
    return {
        "conv.weight": columns.reshape(-1, 9).T @ by_convolved,
        "conv.bias": by_convolved.sum(axis=0),
        "dense.weight": pooled.T @ by_logits,
        "dense.bias": by_logits.sum(axis=0),
    }, loss


def score(weights: Weights, samples: Samples) -> Score:
    """How well these weights do on these samples."""
    return _score(weights, patches(samples.images), samples.labels)


def _score(weights: Weights, columns: NDArray[np.float32], labels: NDArray[np.int64]) -> Score:
    probabilities = forward(weights, columns).probabilities
    right = probabilities.argmax(axis=1) == labels
    return Score(cross_entropy(probabilities, labels), float(right.mean()))


def shard_judge(samples: Samples) -> Callable[[Weights], float]:
    """A function that tells how accurate a model is on these samples."""
    columns = patches(samples.images)
    return lambda weights: _score(weights, columns, samples.labels).accuracy


def shard_trainer(samples: Samples, seed: int = 0) -> Callable[[Weights, RoundPlan], TrainResult]:
    """The training function of a device that holds these samples: SGD with momentum."""
    columns = patches(samples.images)

    def train(weights: dict[str, NDArray[np.float32]], plan: RoundPlan) -> TrainResult:
        rng = np.random.default_rng([seed, plan.round_number])
        speed = {name: np.zeros_like(values) for name, values in weights.items()}
        losses: list[float] = []
        for _ in range(plan.epochs):
            losses.clear()
            order = rng.permutation(len(samples))
            for start in range(0, len(samples), plan.batch_size):
                batch = order[start : start + plan.batch_size]
                slopes, loss = gradients(weights, columns[batch], samples.labels[batch])
                losses.append(loss)
                for name, slope in slopes.items():
                    speed[name] *= MOMENTUM
                    speed[name] -= np.float32(plan.learning_rate) * slope
                    weights[name] += speed[name]
        return TrainResult(weights, metrics={"loss": float(np.mean(losses))})

    return train
