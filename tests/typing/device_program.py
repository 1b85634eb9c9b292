"""Programs that use the public API of the SDK; they are type-checked, never run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from fl_cluster.sdk import (
    FederatedDevice,
    JobResult,
    RoundOutcome,
    RoundPlan,
    TrainResult,
    open_session,
    run,
)


def returns_a_tuple(
    weights: dict[str, NDArray[np.float32]], plan: RoundPlan
) -> tuple[dict[str, NDArray[np.float32]], int, dict[str, float]]:
    assert_type(plan.learning_rate, float)
    return weights, 10, {"loss": 0.5}


def returns_a_result(weights: dict[str, NDArray[Any]], plan: RoundPlan) -> TrainResult:
    return TrainResult({name: values * 2 for name, values in weights.items()}, samples=10)


class Trainer:
    def train(self, weights: dict[str, NDArray[np.float32]], plan: RoundPlan) -> TrainResult:
        return TrainResult(weights, metrics={"loss": 0.5, "accuracy": 0.9})

    def evaluate(self, weights: dict[str, NDArray[np.float32]]) -> float:
        return float(weights["w"].mean())


def on_round(outcome: RoundOutcome, weights: Mapping[str, NDArray[np.float32]]) -> None:
    assert_type(outcome.counted, bool)
    assert_type(weights["w"], NDArray[np.float32])


def synchronous() -> None:
    assert_type(run(returns_a_tuple, servers="http://a:1", data_size=10), JobResult)
    result = run(
        returns_a_result, servers=["http://a:1"], data_size=10, on_round=on_round, patience_s=5
    )
    assert_type(result.weights, dict[str, NDArray[np.float32]])
    assert_type(result.rounds, tuple[int, ...])
    run(returns_a_tuple, servers="http://a:1", data_size=10, patience=5)  # type: ignore[call-arg]
    run(print, servers="http://a:1", data_size=10)  # type: ignore[arg-type]


async def asynchronous() -> None:
    trainer = Trainer()
    async with open_session(devices=2) as session:
        devices = [
            FederatedDevice(
                "http://a:1",
                train=trainer.train,
                evaluate=trainer.evaluate,
                eval_data_size=3,
                data_size=10,
                session=session,
            )
            for _ in range(2)
        ]
        results = await asyncio.gather(*(device.run() for device in devices))
    assert_type(results, list[JobResult])
