"""Devices of the SDK in a cluster of real processes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import pytest
from numpy.typing import NDArray

from fl_cluster.app.launch import Started
from fl_cluster.sdk import FederatedDevice, JobResult, RoundPlan, TrainResult, open_session

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

Weights = dict[str, NDArray[np.float32]]
INITIAL: Weights = {
    "layer.bias": np.zeros(4, np.float32),
    "layer.weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 8,
}
ROUNDS = 6
DEVICES = 4


@pytest.fixture
def cluster(
    run_digits: Callable[..., AbstractContextManager[list[Started]]],
) -> Iterator[list[Started]]:
    """A scheduler and two servers; the servers come last."""
    settings = {
        "fl_iteration_num": str(ROUNDS),
        "round.start_fl_job_threshold": str(DEVICES),
    }
    with run_digits(INITIAL, settings) as started:
        yield started


def urls_of(cluster: list[Started]) -> list[str]:
    return [f"http://{server.address}" for server in cluster[1:]]


def adding(amount: float) -> Callable[[Weights, RoundPlan], TrainResult]:
    def train(weights: Weights, plan: RoundPlan) -> TrainResult:
        grown = {name: values + np.float32(amount) for name, values in weights.items()}
        return TrainResult(grown, metrics={"loss": amount})

    return train


async def take_part(
    urls: list[str], on_round: Callable[..., None] | None = None
) -> list[JobResult]:
    """Devices that add 1, 2, 3, ... and have 10, 20, 30, ... samples."""
    async with open_session(devices=DEVICES) as session:
        return await asyncio.gather(
            *(
                FederatedDevice(
                    urls,
                    device_id=f"device-{index}",
                    train=adding(float(index)),
                    data_size=10 * index,
                    on_round=on_round if index == 1 else None,
                    session=session,
                    patience_s=20.0,
                    source=random.Random(index),
                ).run()
                for index in range(1, DEVICES + 1)
            )
        )


def assert_all_took_part(results: list[JobResult]) -> None:
    """Everybody was counted in every round, and all hold the same, right model."""
    sizes = np.arange(1, DEVICES + 1)
    grown = ROUNDS * np.average(sizes, weights=sizes)
    for result in results:
        assert result.rounds == tuple(range(1, ROUNDS + 1))
        assert result.final_round == ROUNDS
        for name, values in INITIAL.items():
            np.testing.assert_allclose(result.weights[name], values + grown, rtol=1e-5)
            assert result.weights[name].tobytes() == results[0].weights[name].tobytes()
    for number in range(ROUNDS):
        positions = [result.history[number].position for result in results]
        assert sorted(filter(None, positions)) == list(range(1, DEVICES + 1))


async def test_devices_of_two_servers_share_one_model(cluster: list[Started]) -> None:
    assert_all_took_part(await take_part(urls_of(cluster)))


async def test_a_device_that_comes_after_the_end_takes_the_model_home(
    cluster: list[Started],
) -> None:
    [first, *_] = await take_part(urls_of(cluster))

    late = FederatedDevice(urls_of(cluster), train=adding(1.0), data_size=1)
    result = await late.run()

    assert (result.rounds, result.final_round) == ((), ROUNDS)
    for name, values in first.weights.items():
        assert result.weights[name].tobytes() == values.tobytes()
        assert result.weights[name].shape == INITIAL[name].shape


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_that_ends_in_the_middle_costs_nobody_a_round(
    sent: signal.Signals, cluster: list[Started]
) -> None:
    def on_round(outcome: object, weights: object) -> None:
        if ended:
            os.kill(ended.pop().pid, sent)

    ended = [cluster[-1]]

    assert_all_took_part(await take_part(urls_of(cluster), on_round))


async def test_a_device_is_a_program_of_its_own(cluster: list[Started]) -> None:
    program = (
        "import sys\n"
        "from fl_cluster.sdk import TrainResult, run\n"
        "size = int(sys.argv[1])\n"
        "def train(weights, plan):\n"
        "    for values in weights.values():\n"
        "        values += size // 10\n"
        "    return TrainResult(weights, size)\n"
        "result = run(train, servers=sys.argv[2:], data_size=size, patience_s=20)\n"
        "sys.exit(0 if len(result.rounds) == result.final_round else 1)\n"
    )
    devices = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(10 * index), *urls_of(cluster)
        )
        for index in range(1, DEVICES + 1)
    ]

    async with asyncio.timeout(50):
        codes = [await device.wait() for device in devices]

    assert codes == [0] * DEVICES
