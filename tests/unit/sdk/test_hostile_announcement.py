"""A server that announces less protection than a device requires, or than it had before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.privacy.shamir import ANNOUNCED_PRIME, minimal_bytes
from fl_cluster.sdk import Demands, FederatedDevice, Protection
from fl_cluster.sdk.join_line import JoinLine
from fl_cluster.sdk.retry import Backoff
from fl_cluster.wire import packed
from fl_cluster.wire.messages import (
    CipherPublicParams,
    DPParams,
    DSParams,
    PWParams,
    RequestUpdateModel,
    ResponseFLJob,
    ResponseSecureStep,
    ResponseUpdateModel,
)

RING = CipherPublicParams("SECURE_AGGREGATION")
PAIRS = CipherPublicParams("PW_ENCRYPT", PWParams(t=2, prime=minimal_bytes(ANNOUNCED_PRIME)))
PLAIN = CipherPublicParams("NOT_ENCRYPT")
LOUD = CipherPublicParams("DP_ENCRYPT", dp_params=DPParams(0.5, 1e-6, 1.0))
FAINT = CipherPublicParams("DP_ENCRYPT", dp_params=DPParams(1e6, 0.99, 1e9))
SIGNS = CipherPublicParams("SIGNDS", ds_params=DSParams(0.2, 100.0, 0.6, 1.0, 1))

SOME_NOISE = Protection("DP_ENCRYPT", epsilon=1.0, delta=1e-5)


def packed_answer(message: Any, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=packed.encode(message), content_type="application/msgpack"
    )


class Liar:
    """A cluster whose n-th answer to a check-in announces the n-th of these; the last goes on."""

    def __init__(
        self, cluster: Any, *announced: CipherPublicParams | None, has_secure: bool | None = None
    ) -> None:
        self.cluster = cluster
        self.announced = list(announced)
        self.has_secure = has_secure
        cluster.faults["startFLJob"].extend([self.announce] * 20)
        cluster.faults["updateModel"].extend([self.count] * 20)
        application = cluster.application

        def with_offers(prefix: str = "") -> web.Application:
            made: web.Application = application(prefix)
            made.router.add_post(f"{prefix}/secure/offer", cluster.wrapped("secure/offer", late))
            return made

        cluster.application = with_offers

    async def announce(self, _: Any, answer: Callable[[], Any]) -> web.Response:
        told = packed.decode(ResponseFLJob, (await answer()).body)
        cipher = self.announced[0]
        if len(self.announced) > 1:
            del self.announced[0]
        plan = told.fl_plan_config._replace(cipher=cipher)
        has_secure = cipher == RING if self.has_secure is None else self.has_secure
        told = told._replace(fl_plan_config=plan)
        secure = self.cluster.secure_round(told) if has_secure else None
        return packed_answer(told._replace(secure=secure))

    async def count(self, _: Any, answer: Callable[[], Any]) -> web.Response:
        """Take the update, and end the round."""
        await self.cluster.abandon()
        return packed_answer(ResponseUpdateModel(retcode=200, verdict="accepted"))

    @property
    def endpoints(self) -> list[str]:
        return [endpoint for endpoint, _ in self.cluster.requests]


async def late(_: bytes) -> web.Response:
    """The round goes on without this device, which comes for the next."""
    refusal = ResponseSecureStep(retcode=300, verdict="invalid", retry_after_ms=5)
    return packed_answer(refusal, 409)


@pytest.fixture
def liar(make_cluster: Any) -> Callable[..., Liar]:
    def make(*announced: CipherPublicParams | None, **more: Any) -> Liar:
        return Liar(make_cluster(rounds_total=5), *announced, **more)

    return make


def a_device(url: str, train: Any, **settings: Any) -> FederatedDevice:
    quick = Backoff(least_ms=1, base_ms=5, most_ms=20, most_hint_ms=20)
    defaults = {"data_size": 10, "backoff": quick, "source": random.Random(0)}
    return FederatedDevice(url, train=train, **{**defaults, **settings})


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        ((None, False), "announces NOT_ENCRYPT"),
        ((None, True), "announces NOT_ENCRYPT"),
        ((CipherPublicParams(""), True), "announces NOT_ENCRYPT"),
        ((PLAIN, False), "announces NOT_ENCRYPT"),
        ((PAIRS, True), "announces PW_ENCRYPT"),
        ((FAINT, False), r"announces DP_ENCRYPT with epsilon 1e\+06 and delta 0.99"),
        ((LOUD, False), r"announces DP_ENCRYPT with epsilon 0.5 and delta 1e-06"),
        ((SIGNS, False), "announces SIGNDS with epsilon 100"),
        ((RING, False), "asks for secure aggregation without saying of what"),
    ],
)
@pytest.mark.parametrize(
    "required",
    [
        {"protection": "SECURE_AGGREGATION"},
        {"protection": Protection("SECURE_AGGREGATION")},
        {"demands": Demands()},
        {"demands": Demands(0.1, 60, 10)},
    ],
    ids=["text", "object", "demands", "other demands"],
)
async def test_a_device_that_requires_secure_aggregation_gives_nothing_for_less(
    lie: tuple[CipherPublicParams | None, bool],
    found: str,
    required: dict[str, Any],
    liar: Any,
    serve: Any,
    adding: Any,
) -> None:
    announced, has_secure = lie
    server, train = liar(announced, has_secure=has_secure), adding(1.0)

    async with serve(server.cluster) as url:
        with pytest.raises(PeerProtocolError, match=found) as caught:
            await a_device(url, train, **required).run()

    assert server.endpoints == ["startFLJob"]
    assert train.plans == []
    if announced != RING:
        assert "expected updates in SECURE_AGGREGATION, which this device requires" in str(
            caught.value
        )


@pytest.mark.parametrize(
    ("announced", "found"),
    [
        (PLAIN, "announces NOT_ENCRYPT"),
        (FAINT, r"announces DP_ENCRYPT with epsilon 1e\+06 and delta 0.99"),
        (CipherPublicParams("DP_ENCRYPT", dp_params=DPParams(1.0, 0.01, 1.0)), "delta 0.01"),
        (SIGNS, "announces SIGNDS with epsilon 100"),
        (RING, "announces SECURE_AGGREGATION"),
    ],
)
async def test_a_device_that_requires_noise_gives_nothing_for_less_or_for_masks_alone(
    announced: CipherPublicParams, found: str, liar: Any, serve: Any, adding: Any
) -> None:
    server, train = liar(announced), adding(1.0)

    async with serve(server.cluster) as url:
        with pytest.raises(PeerProtocolError, match=found) as caught:
            await a_device(url, train, protection=SOME_NOISE).run()

    said = "expected updates in DP_ENCRYPT with epsilon at most 1 and delta at most 1e-05, which"
    assert said in str(caught.value)
    assert server.endpoints == ["startFLJob"]
    assert train.plans == []


async def test_enough_noise_is_taken_part_in_with_and_nothing_goes_plain(
    liar: Any, serve: Any, adding: Any
) -> None:
    server, train = liar(LOUD), adding(1.0)
    server.cluster.rounds_total = 2

    async with serve(server.cluster) as url:
        await a_device(url, train, protection="DP_ENCRYPT,epsilon=0.5,delta=1e-6").run()

    bodies = server.cluster.bodies("updateModel")
    sent = [packed.decode(RequestUpdateModel, body) for body in bodies]
    assert len(sent) == len(train.plans) == 2
    assert not any(update.plain_weights for update in sent)


@pytest.mark.parametrize("numbers", [(0.0, 0.1), (-1.0, 0.1), (float("nan"), 0.1), (1.0, 1.0)])
async def test_noise_of_numbers_that_make_no_sense_is_refused_by_every_device(
    numbers: tuple[float, float], liar: Any, serve: Any, adding: Any
) -> None:
    senseless = CipherPublicParams("DP_ENCRYPT", dp_params=DPParams(*numbers, 1.0))
    server, train = liar(senseless), adding(1.0)

    async with serve(server.cluster) as url:
        with pytest.raises(PeerProtocolError, match="expected an epsilon above 0"):
            await a_device(url, train).run()

    assert server.endpoints == ["startFLJob"]
    assert train.plans == []


async def test_without_a_requirement_the_job_decides(liar: Any, serve: Any, adding: Any) -> None:
    server = liar(PLAIN)
    server.cluster.rounds_total = 1

    async with serve(server.cluster) as url:
        result = await a_device(url, adding(1.0)).run()

    assert result.final_round == 1
    [body] = server.cluster.bodies("updateModel")
    assert packed.decode(RequestUpdateModel, body).plain_weights


@pytest.mark.parametrize(
    ("less", "found"),
    [
        (None, "announces NOT_ENCRYPT now"),
        (PLAIN, "announces NOT_ENCRYPT now"),
        (PAIRS, "announces PW_ENCRYPT now"),
        (FAINT, r"announces DP_ENCRYPT with epsilon 1e\+06 and delta 0.99 now"),
        (SIGNS, "announces SIGNDS with epsilon 100 now"),
    ],
)
async def test_once_under_masks_a_device_never_goes_back_to_less(
    less: CipherPublicParams | None, found: str, liar: Any, serve: Any, adding: Any
) -> None:
    server, train = liar(RING, less), adding(1.0)

    async with serve(server.cluster) as url:
        with pytest.raises(PeerProtocolError, match=found) as caught:
            await a_device(url, train).run()

    assert "expected updates in SECURE_AGGREGATION as before, or better" in str(caught.value)
    assert server.endpoints == ["startFLJob", "secure/offer", "startFLJob"]
    assert train.plans == []


async def test_a_life_that_is_begun_again_remembers_what_it_had(
    liar: Any, serve: Any, adding: Any
) -> None:
    server, train = liar(RING, PLAIN), adding(1.0)

    async with serve(server.cluster) as url:
        device = a_device(url, train)
        running = asyncio.create_task(device.run())
        await server.cluster.was_asked("secure/offer")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        server.announced = [PLAIN]
        for _ in range(2):
            with pytest.raises(PeerProtocolError, match="announces NOT_ENCRYPT now"):
                await device.run()

    assert server.endpoints.count("updateModel") == 0
    assert server.endpoints[-2:] == ["startFLJob", "startFLJob"]
    assert train.plans == []


@pytest.mark.parametrize(
    ("less", "found"),
    [
        (PLAIN, "announces NOT_ENCRYPT now"),
        (FAINT, r"announces DP_ENCRYPT with epsilon 1e\+06 and delta 0.99 now"),
    ],
)
async def test_noise_that_becomes_less_between_two_rounds_ends_the_device(
    less: CipherPublicParams, found: str, liar: Any, serve: Any, adding: Any
) -> None:
    server, train = liar(LOUD, less), adding(1.0)

    async with serve(server.cluster) as url:
        with pytest.raises(PeerProtocolError, match=found):
            await a_device(url, train).run()

    [body] = server.cluster.bodies("updateModel")
    assert not packed.decode(RequestUpdateModel, body).plain_weights
    assert [plan.round_number for plan in train.plans] == [1]


async def test_a_job_may_announce_more_than_before(liar: Any, serve: Any, adding: Any) -> None:
    server = liar(PLAIN, RING)

    async with serve(server.cluster) as url:
        running = asyncio.create_task(a_device(url, adding(1.0)).run())
        await server.cluster.was_asked("secure/offer")
        running.cancel()

    assert server.endpoints.count("updateModel") == 1


async def test_the_requirement_of_a_join_line_holds(liar: Any, serve: Any, adding: Any) -> None:
    server, train = liar(PLAIN), adding(1.0)

    async with serve(server.cluster) as url:
        line = JoinLine(
            servers=(url.removeprefix("http://"),),
            job="digits",
            is_tls=False,
            protection="SECURE_AGGREGATION",
        ).text()
        device = FederatedDevice.join(line, train=train, data_size=10)
        with pytest.raises(PeerProtocolError, match="announces NOT_ENCRYPT"):
            await device.run()

    assert server.endpoints == ["startFLJob"]


def test_demands_and_a_requirement_of_something_else_contradict_each_other() -> None:
    with pytest.raises(CallerProtocolError, match="demands: they are about SECURE_AGGREGATION, bu"):
        a_device("http://h", None, demands=Demands(), protection="PW_ENCRYPT")

    device = a_device("http://h", None, demands=Demands(), protection="SECURE_AGGREGATION")
    assert device.protection == Protection("SECURE_AGGREGATION")


def test_a_requirement_that_says_nothing_is_refused_at_once() -> None:
    with pytest.raises(CallerProtocolError, match="no promise"):
        a_device("http://h", None, protection="DP_ENCRYPT")
    with pytest.raises(CallerProtocolError, match="no promise"):
        a_device("http://h", None, protection=Protection("DP_ENCRYPT"))
