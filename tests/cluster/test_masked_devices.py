"""Devices of the SDK in masked rounds, in a cluster of real processes: who drops out, and when."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
)
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.serialization import Encoding
from numpy.typing import NDArray

from fl_cluster.app.launch import Started
from fl_cluster.errors import PeerProtocolError
from fl_cluster.sdk import (
    DeviceIdentity,
    FederatedDevice,
    JobResult,
    RoundPlan,
    TrainResult,
    open_session,
)
from fl_cluster.sdk.retry import Backoff
from fl_cluster.wire import packed
from fl_cluster.wire.messages import RequestUpdateModel, ResponseFLJob

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

Weights = dict[str, NDArray[np.float32]]
INITIAL: Weights = {
    "layer.bias": np.zeros(4, np.float32),
    "layer.weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 8,
}
DEVICES = 6
NAMES = [f"device-{index}" for index in range(1, DEVICES + 1)]

SETTINGS = {
    "round.start_fl_job_threshold": str(DEVICES),
    "round.update_model_ratio": "0.8",
    "encrypt.encrypt_type": "PW_ENCRYPT",
    "encrypt.pw_encrypt.share_secrets_ratio": "1.0",
    "encrypt.pw_encrypt.cipher_time_window": "20000",
    "encrypt.pw_encrypt.reconstruct_secrets_threshold": "3",
}
FEWER = {"round.update_model_ratio": "0.6", "encrypt.pw_encrypt.share_secrets_ratio": "0.8"}
"""Five of six offer keys, four of them share, and four updates are the round's."""


class Gone(Exception):
    """The device is switched off."""


class Line:
    """A device's connection: it dies at an endpoint, or loses the first answer of each."""

    def __init__(self, session: aiohttp.ClientSession, dies_at: str, *, is_bad: bool) -> None:
        self.session = session
        self.dies_at = dies_at
        self.is_bad = is_bad
        self.lost: set[str] = set()

    def post(self, url: str, **request: Any) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        endpoint = url.rpartition("/")[2]
        if endpoint == self.dies_at:
            raise Gone(endpoint)
        sent = self.session.post(url, **request)
        if not self.is_bad or endpoint in self.lost:
            return sent
        self.lost.add(endpoint)
        return _without_answer(sent)


@asynccontextmanager
async def _without_answer(
    sent: AbstractAsyncContextManager[aiohttp.ClientResponse],
) -> AsyncIterator[aiohttp.ClientResponse]:
    async with sent as response:
        await response.read()
        raise aiohttp.ServerDisconnectedError
        yield response


Running = Callable[[int, Mapping[str, str]], AbstractContextManager[list[Started]]]


@pytest.fixture
def running(run_digits: Callable[..., AbstractContextManager[list[Started]]]) -> Running:
    """A scheduler and two servers for as long as the block lasts; the servers come last."""

    def run(rounds: int, settings: Mapping[str, str]) -> AbstractContextManager[list[Started]]:
        return run_digits(INITIAL, {**SETTINGS, "fl_iteration_num": str(rounds), **settings})

    return run


def size_of(name: str) -> int:
    return 10 * (NAMES.index(name) + 1)


def trained_by(name: str, weights: Weights) -> Weights:
    """What a device makes of a model: something else in every element."""
    rng = np.random.default_rng(NAMES.index(name))
    return {
        tensor: values + rng.standard_normal(values.shape).astype(np.float32)
        for tensor, values in weights.items()
    }


def trainer(name: str, *, dies: bool, on_train: Callable[[str], None]) -> Any:
    def train(weights: Weights, plan: RoundPlan) -> TrainResult:
        if dies:
            raise Gone("train")
        on_train(name)
        return TrainResult(trained_by(name, weights))

    return train


async def take_part(
    cluster: list[Started],
    deaths: Mapping[str, str],
    *,
    is_bad: bool = False,
    on_train: Callable[[str], None] = lambda name: None,
) -> dict[str, JobResult | BaseException]:
    """What became of each device; `deaths` says at which endpoint, or in training, it dies."""
    urls = [f"http://{server.address}" for server in cluster[1:]]
    async with open_session(devices=DEVICES) as session:
        devices = [
            FederatedDevice(
                urls,
                device_id=name,
                train=trainer(name, dies=deaths.get(name) == "train", on_train=on_train),
                data_size=size_of(name),
                session=Line(session, deaths.get(name, ""), is_bad=is_bad),  # type: ignore[arg-type]
                patience_s=20.0,
                backoff=Backoff(base_ms=50, most_ms=500),
                source=random.Random(name),
            )
            for name in NAMES
        ]
        async with asyncio.timeout(50):
            found = await asyncio.gather(
                *(device.run() for device in devices), return_exceptions=True
            )
    return dict(zip(NAMES, found, strict=True))


def alive(found: Mapping[str, JobResult | BaseException]) -> dict[str, JobResult]:
    return {name: result for name, result in found.items() if isinstance(result, JobResult)}


def counted_of(found: Mapping[str, JobResult | BaseException]) -> list[str]:
    return [name for name, result in alive(found).items() if result.rounds == (1,)]


def mean_of(counted: list[str], start: Weights) -> Weights:
    sizes = [size_of(name) for name in counted]
    updates = [trained_by(name, start) for name in counted]
    return {
        tensor: np.average([update[tensor] for update in updates], axis=0, weights=sizes)
        for tensor in start
    }


def assert_plain_mean(
    found: Mapping[str, JobResult | BaseException], counted: list[str], deaths: Mapping[str, str]
) -> None:
    """Everybody alive holds the mean of these devices' updates, and only the dead are missing.

    One that is to die at a step lives when enough others took an earlier one before it.
    """
    missing = {name for name in NAMES if name not in alive(found)}
    assert missing <= set(deaths)
    assert all(isinstance(found[name], Gone) for name in missing), found
    expected = mean_of(counted, INITIAL)
    for result in alive(found).values():
        assert result.final_round == 1
        for tensor, values in expected.items():
            # A mask of up to 5 pairs of float32, each at most 1, on sums of up to 1,000.
            np.testing.assert_allclose(result.weights[tensor], values, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "deaths",
    [{}, {"device-6": "exchangeKeys"}, {"device-2": "getKeys"}, {NAMES[4]: "shareSecrets"}],
)
async def test_who_drops_out_before_sharing_is_not_missed(
    running: Running, deaths: dict[str, str]
) -> None:
    with running(1, FEWER) as cluster:
        found = await take_part(cluster, deaths)

    counted = counted_of(found)
    assert len(counted) == 4
    assert_plain_mean(found, counted, deaths)


@pytest.mark.parametrize(
    "deaths",
    [
        {"device-3": "getSecrets"},
        {"device-6": "train"},
        {"device-1": "updateModel"},
    ],
)
async def test_the_masks_of_who_drops_out_after_sharing_are_undone(
    running: Running, deaths: dict[str, str]
) -> None:
    with running(1, {}) as cluster:
        found = await take_part(cluster, deaths)

    counted = [name for name in NAMES if name not in deaths]
    assert counted_of(found) == counted
    assert_plain_mean(found, counted, deaths)


@pytest.mark.parametrize("endpoint", ["getClientList", "reconstructSecrets"])
async def test_who_drops_out_after_its_update_is_counted(running: Running, endpoint: str) -> None:
    deaths = {"device-6": "train", "device-5": endpoint}

    with running(1, {}) as cluster:
        found = await take_part(cluster, deaths)

    assert counted_of(found) == NAMES[:4]
    assert_plain_mean(found, NAMES[:5], deaths)


async def test_every_step_is_taken_once_however_many_answers_are_lost(running: Running) -> None:
    everybody = {"round.update_model_ratio": "1.0"}

    with running(1, everybody) as cluster:
        found = await take_part(cluster, {}, is_bad=True)

    assert counted_of(found) == NAMES
    assert_plain_mean(found, NAMES, {})


async def test_a_server_that_dies_in_a_masked_round_costs_nobody_the_round(
    running: Running,
) -> None:
    everybody = {"round.update_model_ratio": "1.0"}

    with running(1, everybody) as cluster:
        doomed = [cluster[-1]]

        def on_train(name: str) -> None:
            if doomed:
                os.kill(doomed.pop().pid, signal.SIGKILL)

        found = await take_part(cluster, {}, on_train=on_train)

    assert counted_of(found) == NAMES
    assert_plain_mean(found, NAMES, {})


async def test_rounds_follow_each_other_with_fresh_keys(running: Running) -> None:
    everybody = {"round.update_model_ratio": "1.0"}

    with running(3, everybody) as cluster:
        found = await take_part(cluster, {})

    weights = INITIAL
    for _ in range(3):
        weights = mean_of(NAMES, weights)
    for result in alive(found).values():
        assert result.rounds == (1, 2, 3)
        for tensor, values in weights.items():
            np.testing.assert_allclose(result.weights[tensor], values, rtol=0, atol=1e-4)


SECURE = {"encrypt.encrypt_type": "SECURE_AGGREGATION"}


@pytest.mark.parametrize(
    ("ratio", "deaths"),
    [
        ("0.6", {"device-2": "share"}),
        ("0.6", {"device-3": "delivery"}),
        ("0.8", {"device-6": "train"}),
        ("0.8", {"device-6": "updateModel", "device-5": "survivors"}),
        ("0.8", {"device-6": "train", "device-1": "confirm"}),
        ("0.8", {"device-6": "train", "device-4": "reveal"}),
    ],
)
async def test_secure_aggregation_bears_drop_outs_at_any_step(
    running: Running, ratio: str, deaths: dict[str, str]
) -> None:
    with running(1, {**SECURE, "round.update_model_ratio": ratio}) as cluster:
        found = await take_part(cluster, deaths)

    silent = {name for name, at in deaths.items() if at in {"survivors", "confirm", "reveal"}}
    counted = sorted({*counted_of(found), *silent})
    assert len(counted) >= 4
    assert_plain_mean(found, counted, deaths)


@pytest.mark.parametrize("kills", [False, True], ids=["lost answers", "a dead server"])
async def test_secure_aggregation_bears_servers_that_fail(running: Running, kills: bool) -> None:
    everybody = {**SECURE, "round.update_model_ratio": "1.0"}

    with running(1, everybody) as cluster:
        doomed = [cluster[-1]] if kills else []

        def on_train(name: str) -> None:
            if doomed:
                os.kill(doomed.pop().pid, signal.SIGKILL)

        found = await take_part(cluster, {}, is_bad=not kills, on_train=on_train)

    assert counted_of(found) == NAMES
    assert_plain_mean(found, NAMES, {})


@pytest.mark.parametrize("kind", ["PW_ENCRYPT", "SECURE_AGGREGATION"])
async def test_devices_with_certificates_prove_themselves_to_each_other(
    running: Running, tmp_path: Path, device_authority: Any, kind: str
) -> None:
    (tmp_path / "root.pem").write_bytes(device_authority.root.public_bytes(Encoding.PEM))
    (tmp_path / "revoked.crl").write_bytes(device_authority.revocations())
    proving = {
        "round.start_fl_job_threshold": "3",
        "round.update_model_ratio": "1.0",
        "encrypt.encrypt_type": kind,
        "encrypt.pw_encrypt.reconstruct_secrets_threshold": "2",
        "client_verify.pki_verify": "true",
        "client_verify.root_first_ca_path": str(tmp_path / "root.pem"),
        "client_verify.root_second_ca_path": str(tmp_path / "root.pem"),
        "client_verify.equip_crl_path": str(tmp_path / "revoked.crl"),
        "client_verify.replay_attack_time_diff": "60000",
    }
    chains = [device_authority.device(f"phone-{number}") for number in range(3)]

    with running(2, proving) as cluster:
        devices = [
            FederatedDevice(
                [f"http://{server.address}" for server in cluster[1:]],
                identity=DeviceIdentity(chain.key, chain.pem),
                train=trainer(name, dies=False, on_train=lambda name: None),
                data_size=size_of(name),
                patience_s=20.0,
            )
            for name, chain in zip(NAMES, chains, strict=False)
        ]
        async with asyncio.timeout(50):
            found = await asyncio.gather(*(device.run() for device in devices))

    expected = mean_of(NAMES[:3], mean_of(NAMES[:3], INITIAL))
    for result in found:
        assert result.rounds == (1, 2)
        for tensor, values in expected.items():
            np.testing.assert_allclose(result.weights[tensor], values, rtol=0, atol=1e-4)


@asynccontextmanager
async def in_between(server: str, change: Callable[[ResponseFLJob], ResponseFLJob]) -> Any:
    """A way to the server that changes what it answers to check-ins; the address and what came."""
    asked: list[tuple[str, bytes]] = []
    application = web.Application(client_max_size=2**24)
    async with aiohttp.ClientSession() as session:

        async def forward(request: web.Request) -> web.Response:
            endpoint, body = request.match_info["endpoint"], await request.read()
            asked.append((endpoint, body))
            kind = {"Content-Type": "application/msgpack"}
            async with session.post(f"{server}/{endpoint}", data=body, headers=kind) as answer:
                told = await answer.read()
            if endpoint == "startFLJob" and answer.status == 200:
                told = packed.encode(change(packed.decode(ResponseFLJob, told)))
            return web.Response(status=answer.status, body=told, headers=kind)

        application.router.add_post("/{endpoint:.*}", forward)
        async with TestServer(application) as door:
            yield str(door.make_url("")).rstrip("/"), asked


def without_masks(answer: ResponseFLJob) -> ResponseFLJob:
    """From the third round on: no word of any protection."""
    plan = answer.fl_plan_config
    if plan is None or answer.iteration < 3:
        return answer
    return answer._replace(fl_plan_config=plan._replace(cipher=None), secure=None)


@pytest.mark.parametrize("kind", ["PW_ENCRYPT", "SECURE_AGGREGATION"])
async def test_a_server_that_drops_the_masks_between_two_rounds_gets_no_plain_update(
    running: Running, kind: str
) -> None:
    with running(5, {"encrypt.encrypt_type": kind}) as cluster:
        urls = [f"http://{server.address}" for server in cluster[1:]]
        async with in_between(urls[0], without_masks) as (lying, asked), asyncio.timeout(50):
            devices = {
                name: FederatedDevice(
                    lying if name == NAMES[0] else urls,
                    device_id=name,
                    train=trainer(name, dies=False, on_train=lambda name: None),
                    data_size=size_of(name),
                )
                for name in NAMES
            }
            others = [asyncio.create_task(devices[name].run()) for name in NAMES[1:]]
            with pytest.raises(PeerProtocolError, match=f"in {kind} as before, or better.*NOT_ENC"):
                await devices[NAMES[0]].run()
            for other in others:
                other.cancel()

    bodies = [body for endpoint, body in asked if endpoint == "updateModel"]
    sent = [packed.decode(RequestUpdateModel, body) for body in bodies]
    assert {update.iteration for update in sent} <= {1, 2}
    assert sent
    assert not any(update.plain_weights for update in sent)
    assert asked[-1][0] == "startFLJob"
