"""The process of all devices: those of the SDK and those that speak FlatBuffers.

    python -m harness.devices '{"servers": [["127.0.0.1", 7001], ...], ...}'

Runs until the job is over for every device, or until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import numpy as np

from fl_cluster.sdk import FederatedDevice, JobResult, RoundPlan, TrainResult
from fl_cluster.sdk.retry import Backoff
from fl_cluster.sdk.transport import Limits
from fl_cluster.sdk.work import RoundOutcome
from fl_cluster.wire import packed
from fl_cluster.wire.messages import RequestUpdateModel
from harness import job
from harness.diary import Diary, Line, Word
from harness.raw_device import RawDevice

PATIENCE_S = 60.0
SLOW_SHARE = 0.05
SLOW_S = 2.5
QUICK_S = 0.6


@dataclass(frozen=True, slots=True)
class Orders:
    """What the process is told."""

    servers: list[tuple[str, int]]
    balancer: tuple[str, int]
    sdk_devices: int
    raw_devices: int
    trust_s: float
    diary: str
    seed: int


def training_time(source: random.Random) -> float:
    """How long a device trains: most are quick, a few are slow."""
    return source.uniform(0.0, SLOW_S if source.random() < SLOW_SHARE else QUICK_S)


def tracing(diary: Diary) -> aiohttp.TraceConfig:
    """Notes every update that is answered 200, when the head of the answer is here."""
    config = aiohttp.TraceConfig()

    async def sent(_: object, context: SimpleNamespace, params: object) -> None:
        context.body = getattr(context, "body", b"") + params.chunk  # type: ignore[attr-defined]

    async def answered(
        _: object, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        if params.url.path.endswith("/updateModel") and params.response.status == 200:
            update = packed.decode(RequestUpdateModel, context.body)
            diary.note(Line(Word.ACKNOWLEDGED, str(update.fl_id), update.iteration))

    config.on_request_chunk_sent.append(sent)
    config.on_request_end.append(answered)
    return config


def trainer(device: str, training_s: float) -> Callable[..., TrainResult]:
    """The training function of one device of the SDK."""

    def train(weights: dict[str, job.Floats], plan: RoundPlan) -> TrainResult:
        time.sleep(training_s)
        base = job.flat(weights)
        new = job.trained(device, plan.round_number, base)
        return TrainResult(job.arrays(new), metrics={"loss": 0.5})

    return train


def concluding(device: str, diary: Diary) -> Callable[..., None]:
    """Notes what the device knows of each round it trained for."""

    def on_round(outcome: RoundOutcome, _: object) -> None:
        text = "counted" if outcome.counted else "not counted"
        position = outcome.position or 0
        diary.note(Line(Word.CONCLUDED, device, outcome.round_number, text, position))

    return on_round


async def run_sdk_device(
    device: str, orders: Orders, diary: Diary, session: aiohttp.ClientSession, threads: Executor
) -> None:
    """One device of the SDK, until the job is over or it gives up."""
    source = random.Random(f"{orders.seed} {device}")
    training_s = training_time(source)
    await asyncio.sleep(training_s)
    try:
        result: JobResult = await FederatedDevice(
            [f"http://{host}:{port}" for host, port in orders.servers],
            device_id=device,
            train=trainer(device, training_s),
            data_size=job.data_size(device),
            on_round=concluding(device, diary),
            session=session,
            patience_s=PATIENCE_S,
            trust_s=orders.trust_s,
            executor=threads,
            limits=Limits(connect_s=3.0, read_s=30.0),
            backoff=Backoff(base_ms=100, most_ms=1_000),
            source=source,
        ).run()
    except Exception as exc:  # noqa: BLE001 - whatever it is, no device should see it
        diary.note(Line(Word.FAILED, device, text=repr(exc)))
        return
    weights = {name: np.asarray(values) for name, values in result.weights.items()}
    home = job.digest(job.flat(weights))
    diary.note(Line(Word.WENT_HOME, device, result.final_round, home))


async def run_raw_device(device: str, orders: Orders, diary: Diary) -> None:
    """One FlatBuffers device, until the job is over."""
    source = random.Random(f"{orders.seed} {device}")
    training_s = training_time(source)
    await asyncio.sleep(training_s)
    try:
        await RawDevice(device, orders.balancer, diary, source, training_s).run()
    except Exception as exc:  # noqa: BLE001 - likewise
        diary.note(Line(Word.FAILED, device, text=repr(exc)))


async def run(orders: Orders) -> None:
    """All devices, until they are done or the process is asked to stop."""
    logging.getLogger("fl_cluster.sdk").setLevel(logging.ERROR)
    diary = Diary(Path(orders.diary))
    dimensions = job.Dimensions(sdk_devices=orders.sdk_devices, raw_devices=orders.raw_devices)
    connector = aiohttp.TCPConnector(limit=orders.sdk_devices, keepalive_timeout=15.0)
    threads = ThreadPoolExecutor(orders.sdk_devices)
    async with aiohttp.ClientSession(
        connector=connector, trace_configs=[tracing(diary)]
    ) as session:
        tasks = [
            asyncio.create_task(
                run_raw_device(device, orders, diary)
                if job.is_raw(device)
                else run_sdk_device(device, orders, diary, session, threads)
            )
            for device in dimensions.devices()
        ]
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: [task.cancel() for task in tasks])
        await asyncio.wait(tasks)


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    fields["balancer"] = tuple(fields["balancer"])
    fields["servers"] = [(host, port) for host, port in fields["servers"]]
    asyncio.run(run(Orders(**fields)))
