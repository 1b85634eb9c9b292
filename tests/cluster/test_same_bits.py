"""The same updates make the same model, to the bit, in any cluster of real processes.

From the same initial weights two hundred devices upload in random order, spread over the
servers, some of them to two servers at once.  SHA-256 of the model is that of the exact mean
in NumPy, whatever the order, however many servers, and whichever kernels they use.

    FL_CLUSTER_REPETITIONS=20 pytest tests/cluster/test_same_bits.py

repeats the random order as often; the default is less, to keep the suite short.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import time
from typing import Any, NamedTuple, TypeVar

import aiohttp
import numpy as np
import numpy.typing as npt
import pytest

from fl_cluster.kernels import native
from fl_cluster.wire import flat, messages
from fl_cluster.wire.messages import ResponseCode

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

REPETITIONS = int(os.environ.get("FL_CLUSTER_REPETITIONS", "3"))
DEVICES = 200
AT_A_TIME = 16
TURNOVER_S = 20.0

SHAPES = {
    "conv1.weight": (6, 1, 5, 5),
    "conv2.weight": (16, 6, 5, 5),
    "fc.bias": (10,),
    "fc.weight": (10, 256),
}

Arrays = dict[str, npt.NDArray[np.float32]]
Answer = TypeVar("Answer", bound=tuple[Any, ...])


class Device(NamedTuple):
    """Who it is, how much it has trained on, and its weights times that."""

    name: str
    data_size: int
    arrays: Arrays


def draw(seed: int) -> tuple[Arrays, list[Device]]:
    """Initial weights and what every device sends; the same for the same seed."""
    rng = np.random.default_rng(seed)

    def weights(factor: float) -> Arrays:
        return {
            name: (factor * rng.normal(scale=0.2, size=shape)).astype(np.float32)
            for name, shape in SHAPES.items()
        }

    initial = weights(1)
    sizes = rng.integers(1, 3_000, DEVICES)
    return initial, [Device(f"device-{n:03}", int(s), weights(s)) for n, s in enumerate(sizes)]


INITIAL, FLEET = draw(seed=2)


def reference_digest() -> str:
    """SHA-256 of the exact mean, by NumPy and the definition alone."""
    bound = min(2**51, (2**63 - 1) // DEVICES)
    weight = sum(device.data_size for device in FLEET)
    digest = hashlib.sha256()
    for name in sorted(SHAPES):
        largest = max(float(np.abs(INITIAL[name]).max()), 2.0**-3)
        s = math.floor(math.log2(bound / (largest * 2.0**24)))
        terms = [np.rint(d.arrays[name].astype(np.float64) * 2.0**s) for d in FLEET]
        sums = np.sum([term.astype(np.int64) for term in terms], axis=0, dtype=np.int64)
        mean = (sums.astype(np.float64) / (float(weight) * 2.0**s)).astype(np.float32)
        digest.update(mean.tobytes())
    return digest.hexdigest()


class Round:
    """One round of all devices against the servers at these addresses."""

    def __init__(self, job_name: str, ports: list[int], rng: random.Random) -> None:
        self._name = job_name
        self._urls = [f"http://127.0.0.1:{port}" for port in ports]
        self._rng = rng
        self._free = asyncio.Semaphore(AT_A_TIME)

    async def run(self) -> str:
        """Check in, upload, fetch; SHA-256 of the model that every server hands out."""
        async with aiohttp.ClientSession() as session:
            self._session = session
            await asyncio.gather(*map(self._check_in, FLEET))
            order = FLEET + FLEET[::10]
            self._rng.shuffle(order)
            codes = await asyncio.gather(*map(self._upload, order))
            assert codes.count(ResponseCode.SUCCEED) == DEVICES
            digests = {await self._model_digest(url) for url in self._urls}
        assert len(digests) == 1
        return digests.pop()

    async def _ask(self, url: str, request: Any, answer: type[Answer]) -> Answer:
        async with self._free, self._session.post(url, data=flat.encode(request)) as reply:
            return flat.decode(answer, await reply.read())

    def _now(self) -> str:
        return str(time.time_ns() // 1_000_000)

    async def _check_in(self, device: Device) -> None:
        request = messages.RequestFLJob(
            fl_name=self._name,
            fl_id=device.name,
            data_size=device.data_size,
            timestamp=self._now(),
        )
        url = f"{self._rng.choice(self._urls)}/startFLJob"
        answer = await self._ask(url, request, messages.ResponseFLJob)
        assert answer.retcode == ResponseCode.SUCCEED, answer.reason

    async def _upload(self, device: Device) -> int:
        request = messages.RequestUpdateModel(
            fl_name=self._name,
            fl_id=device.name,
            iteration=1,
            feature_map=tuple(
                messages.FeatureMap(weight_fullname=name, data=array.ravel())
                for name, array in device.arrays.items()
            ),
            timestamp=self._now(),
            upload_loss=0.5,
            upload_accuracy=0.75,
        )
        url = f"{self._rng.choice(self._urls)}/updateModel"
        answer = await self._ask(url, request, messages.ResponseUpdateModel)
        return answer.retcode

    async def _model_digest(self, url: str) -> str:
        request = messages.RequestGetModel(fl_name=self._name, iteration=1, timestamp=self._now())
        deadline = time.monotonic() + TURNOVER_S
        answer = await self._ask(f"{url}/getModel", request, messages.ResponseGetModel)
        while answer.retcode == ResponseCode.SucNotReady and time.monotonic() < deadline:
            answer = await self._ask(f"{url}/getModel", request, messages.ResponseGetModel)
        assert answer.retcode == ResponseCode.SUCCEED, answer.reason
        assert answer.feature_map is not None
        found = {entry.weight_fullname: entry.data for entry in answer.feature_map}
        assert sorted(found) == sorted(SHAPES)
        digest = hashlib.sha256()
        for name in sorted(SHAPES):
            digest.update(np.asarray(found[name], "<f4").tobytes())
        return digest.hexdigest()


@pytest.fixture
def prepared(job: Any) -> Any:
    """A job whose initial weights and cohort are those of this file, with its scheduler."""
    np.savez(job.folder / "initial.npz", **INITIAL)
    started = job.run("run_sched.py", *OPTIONS)
    assert started.returncode == 0, started.stderr
    return job


OPTIONS = (
    f"--set=round.start_fl_job_threshold={DEVICES}",
    "--set=cluster.lease_ms=10000",
)


def start_servers(job: Any, count: int) -> None:
    """Start so many servers; further ones take the ports above."""
    options = (*OPTIONS, "--model=initial.npz", f"--local_server_num={count}")
    started = job.run("run_server.py", *options)
    assert started.returncode == 0, started.stderr


def kernels_in_use(job: Any) -> list[str]:
    """What the servers say of themselves to an operator."""
    command = [sys.executable, "-m", "fl_cluster.app.cli", "state", "--manage", job.manage]
    shown = subprocess.run([*command, "--format=json"], capture_output=True, check=True, timeout=30)
    members = json.loads(shown.stdout)["detail"]["members"]
    return sorted(member["kernel"] for member in members if member["role"] == "server")


def train(job: Any, servers: int, seed: int) -> str:
    """The digest of the model after one round in a random order."""
    ports = [job.http_port + n for n in range(servers)]
    try:
        return asyncio.run(Round(job.name, ports, random.Random(seed)).run())
    except aiohttp.ClientError as exc:
        logs = "\n".join(job.log(f"server_{port}/server.log")[-2_000:] for port in ports)
        pytest.fail(f"a server broke a connection: {exc!r}\n{logs}")


@pytest.mark.parametrize("repetition", range(REPETITIONS))
def test_two_servers_make_the_exact_mean_in_any_order(prepared: Any, repetition: int) -> None:
    start_servers(prepared, 2)

    assert train(prepared, 2, seed=repetition) == reference_digest()


def test_one_server_makes_the_same_bits(prepared: Any) -> None:
    start_servers(prepared, 1)

    assert train(prepared, 1, seed=100) == reference_digest()


@pytest.mark.parametrize("kernel", native.available())
def test_every_kernel_makes_the_same_bits(
    prepared: Any, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FL_CLUSTER_KERNEL", kernel)
    start_servers(prepared, 2)

    assert train(prepared, 2, seed=200) == reference_digest()
    assert kernels_in_use(prepared) == [kernel, kernel]


def test_servers_with_different_kernels_make_the_same_bits(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kernel in (native.available()[0], "reference"):
        monkeypatch.setenv("FL_CLUSTER_KERNEL", kernel)
        start_servers(prepared, 1)

    assert train(prepared, 2, seed=300) == reference_digest()
    assert kernels_in_use(prepared) == sorted([native.available()[0], "reference"])
