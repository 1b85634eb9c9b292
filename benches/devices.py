"""SDK devices under the clock: as processes of their own, or many in one.

    python benches/devices.py SERVER[,SERVER...] FIRST COUNT

takes part with COUNT devices, and prints when each round's model came to the last of them.
A device of the benchmark trains by adding a constant, so that what is measured is the cluster
and the SDK.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from bodies import Floats

from fl_cluster.sdk.client import FederatedDevice
from fl_cluster.sdk.training import RoundPlan, TrainResult, Weights
from fl_cluster.sdk.transport import open_session
from fl_cluster.sdk.work import RoundOutcome

SAMPLES = 32
WAIT_SECONDS = 300.0


def train(weights: Weights, _: RoundPlan) -> TrainResult:
    """Change every weight a little."""
    for values in weights.values():
        np.add(values, 0.001, out=values)
    return TrainResult(weights, SAMPLES, {"loss": 1.0, "accuracy": 0.5})


async def take_part(servers: Sequence[str], first: int, count: int) -> dict[int, float]:
    """Round -> the wall-clock instant at which its model had come to all these devices."""
    came: dict[int, float] = defaultdict(float)

    def on_round(outcome: RoundOutcome, _: Mapping[str, Floats]) -> None:
        came[outcome.round_number] = time.time()

    async with open_session(count) as session, asyncio.TaskGroup() as tasks:
        for i in range(first, first + count):
            device = FederatedDevice(
                [servers[i % len(servers)]],
                train=train,
                data_size=SAMPLES,
                device_id=f"sdk-{i:05}",
                on_round=on_round,
                session=session,
                inline=True,
            )
            tasks.create_task(device.run())
    return came


def seconds_per_round(servers: Sequence[str], processes: int, devices: int) -> list[float]:
    """Run a job to its end with devices spread over processes; the time between rounds.

    The first round, in which the processes start, only sets the clock.
    """
    share = devices // processes
    running = [
        subprocess.Popen(
            [sys.executable, __file__, ",".join(servers), str(i * share), str(share)],
            stdout=subprocess.PIPE,
        )
        for i in range(processes)
    ]
    last: dict[int, float] = defaultdict(float)
    for popen in running:
        output, _ = popen.communicate(timeout=WAIT_SECONDS)
        if popen.returncode != 0:
            raise SystemExit(f"a device process ended with {popen.returncode}")
        for number, instant in json.loads(output).items():
            last[int(number)] = max(last[int(number)], instant)
    ends = [last[number] for number in sorted(last)]
    return [after - before for before, after in itertools.pairwise(ends)]


if __name__ == "__main__":
    found = asyncio.run(take_part(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])))
    json.dump(found, sys.stdout)
