"""A device in masked rounds of a server that misbehaves: it says no more than is safe."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.privacy.shamir import ANNOUNCED_PRIME, minimal_bytes
from fl_cluster.sdk import Demands, DeviceIdentity, FederatedDevice
from fl_cluster.sdk.retry import Backoff
from fl_cluster.wire import packed
from fl_cluster.wire.messages import (
    CipherPublicParams,
    PWParams,
    RequestExchangeKeys,
    RequestFLJob,
    RequestSecureOffer,
    ResponseExchangeKeys,
    ResponseFLJob,
    ResponseSecureStep,
    ReturnExchangeKeys,
    SecureTensor,
)

PRIME = minimal_bytes(ANNOUNCED_PRIME)


def packed_answer(message: Any, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=packed.encode(message), content_type="application/msgpack"
    )


def masked(cluster: Any, answers: dict[str, Callable[[], web.Response]], needed: int = 2) -> Any:
    """The cluster with these routes beside its own, and a plan that asks for masks."""
    plan = cluster.plan
    params = PWParams(t=needed, prime=PRIME)

    def masked_plan() -> Any:
        return plan()._replace(cipher=CipherPublicParams("PW_ENCRYPT", params))

    cluster.plan = masked_plan
    return routed(cluster, answers)


def routed(cluster: Any, answers: dict[str, Callable[[], web.Response]]) -> Any:
    """The cluster with these routes beside its own."""
    application = cluster.application

    def with_routes(prefix: str = "") -> web.Application:
        made: web.Application = application(prefix)
        for endpoint, answer in answers.items():

            async def handle(body: bytes, answer: Callable[[], web.Response] = answer) -> Any:
                return answer()

            made.router.add_post(f"{prefix}/{endpoint}", cluster.wrapped(endpoint, handle))
        return made

    cluster.application = with_routes
    return cluster


def a_device(url: str, train: Any, **settings: Any) -> FederatedDevice:
    quick = Backoff(least_ms=1, base_ms=5, most_ms=20, most_hint_ms=20)
    defaults = {"data_size": 10, "backoff": quick, "source": random.Random(0)}
    return FederatedDevice(url, train=train, **{**defaults, **settings})


def accepted(kind: type[Any], **fields: Any) -> Callable[[], web.Response]:
    return lambda: packed_answer(kind(retcode=200, verdict="accepted", **fields))


async def test_a_device_stays_out_of_a_round_whose_list_does_not_have_its_keys(
    make_cluster: Any, serve: Any, adding: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answers = {
        "exchangeKeys": accepted(ResponseExchangeKeys),
        "getKeys": accepted(ReturnExchangeKeys, remote_publickeys=()),
    }
    cluster, train = masked(make_cluster(rounds_total=1), answers), adding(1.0)

    async def give_up() -> None:
        await cluster.was_asked("getKeys", 3)
        await cluster.abandon()

    async with serve(cluster) as url:
        result, _ = await asyncio.gather(a_device(url, train).run(), give_up())

    assert result.rounds == ()
    assert train.plans == []
    assert cluster.bodies("updateModel") == []
    said = [packed.decode(RequestExchangeKeys, body) for body in cluster.bodies("exchangeKeys")]
    assert len({each.c_pk for each in said}) == len(said) >= 3
    warned = [line for line in caplog.messages if "stays out of round 1" in line]
    assert len(warned) == 1
    assert "does not have the keys that this device offered" in warned[0]


async def test_a_step_whose_signature_was_too_old_is_taken_again_with_the_same_keys(
    make_cluster: Any, serve: Any, adding: Any, device_authority: Any
) -> None:
    chain = device_authority.device("phone")
    refusals = [
        packed_answer(
            ResponseExchangeKeys(retcode=300, verdict="clock_off", retry_after_ms=5), 409
        ),
        packed_answer(
            ResponseExchangeKeys(retcode=400, verdict="attestation_failed", reason="no"), 403
        ),
    ]
    cluster = masked(make_cluster(), {"exchangeKeys": lambda: refusals.pop(0)})

    async with serve(cluster) as url:
        with pytest.raises(CallerProtocolError, match="agree on masks for round 1: attestation_fa"):
            await a_device(url, adding(1.0), identity=DeviceIdentity(chain.key, chain.pem)).run()

    first, second = (
        packed.decode(RequestExchangeKeys, body) for body in cluster.bodies("exchangeKeys")
    )
    assert first.signature != second.signature
    assert (first.c_pk, first.s_pk, first.pw_iv) == (second.c_pk, second.s_pk, second.pw_iv)


async def test_a_job_on_unsafe_terms_is_left_before_anything_is_said(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    cluster = masked(make_cluster(), {}, needed=0)

    async with serve(cluster) as url:
        with pytest.raises(PeerProtocolError, match="expected 1 share or more"):
            await a_device(url, adding(1.0)).run()

    assert {endpoint for endpoint, _ in cluster.requests} == {"startFLJob"}


async def test_a_device_that_waits_long_for_others_keeps_its_keys_and_its_place(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    waiting = ReturnExchangeKeys(retcode=201, verdict="not_ready", retry_after_ms=5)
    answers = {
        "exchangeKeys": accepted(ResponseExchangeKeys),
        "getKeys": lambda: packed_answer(waiting, 202),
    }
    cluster = masked(make_cluster(rounds_total=1), answers)

    async with serve(cluster) as url:
        running = asyncio.create_task(a_device(url, adding(1.0), trust_s=0.0).run())
        await cluster.was_asked("exchangeKeys", 3)
        running.cancel()

    assert len(set(cluster.bodies("exchangeKeys"))) == 1
    assert len(cluster.bodies("startFLJob")) == 1


def announcing(cluster: Any, **changes: Any) -> Any:
    """The cluster, whose first answer to a check-in announces a round with these changes."""

    async def announce(_: Any, answer: Callable[[], Any]) -> web.Response:
        told = packed.decode(ResponseFLJob, (await answer()).body)
        announced = cluster.secure_round(told)._replace(**changes)
        return packed_answer(told._replace(secure=announced))

    cluster.encryption = "SECURE_AGGREGATION"
    cluster.faults["startFLJob"].append(announce)
    return cluster


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"corrupt": 0.0}, "safety against 0.05 corrupt devices"),
        ({"corrupt": math.nan}, "together below 1, found nan"),
        ({"failure_bits": -5_000}, "found 40 and -5000"),
        ({"tensors": (SecureTensor("w", -1, 20),)}, "expected at least 0 elements"),
        ({"tensors": (SecureTensor("w", 2**31 - 1, 20),)}, "which its model does not have"),
    ],
)
async def test_a_round_that_promises_too_little_is_refused_before_anything_is_said(
    make_cluster: Any,
    serve: Any,
    adding: Any,
    initial_weights: Any,
    changes: dict[str, Any],
    told: str,
) -> None:
    cluster, train = announcing(make_cluster(), **changes), adding(1.0)

    async with serve(cluster) as url:
        with pytest.raises(PeerProtocolError, match=told):
            await a_device(url, train).run()

    assert {endpoint for endpoint, _ in cluster.requests} == {"startFLJob"}
    assert train.plans == []


async def test_a_device_that_is_told_other_terms_comes_again_and_asks_for_the_whole_model(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    """Its tensors may be old ones: that is no reason to end its life."""

    def refuse() -> web.Response:
        return packed_answer(ResponseSecureStep(retcode=300, verdict="bad_request"), 400)

    cluster = routed(make_cluster(), {"secure/offer": refuse})
    announcing(cluster, terms=bytes(32))
    announcing(cluster)

    async with serve(cluster) as url:
        with pytest.raises(CallerProtocolError):  # by the offer, of which there is one
            await a_device(url, adding(1.0)).run()

    asked = [packed.decode(RequestFLJob, body) for body in cluster.bodies("startFLJob")]
    assert len(asked) == 2
    assert asked[1].model_digest is None
    assert len(cluster.bodies("secure/offer")) == 1


async def test_what_the_owner_of_a_device_demands_decides(
    make_cluster: Any, serve: Any, adding: Any, initial_weights: Any
) -> None:
    usual = announcing(make_cluster())
    async with serve(usual) as url:
        with pytest.raises(PeerProtocolError, match="at least 50 reports in a sum, found 3"):
            await a_device(url, adding(1.0), demands=Demands(least_devices=50)).run()

    def refuse() -> web.Response:
        return packed_answer(ResponseSecureStep(retcode=300, verdict="bad_request"), 400)

    lax = routed(make_cluster(), {"secure/offer": refuse})
    announcing(lax, corrupt=0.0)
    async with serve(lax) as url:
        with pytest.raises(CallerProtocolError):
            await a_device(url, adding(1.0), demands=Demands(corrupt=0.0)).run()
    said = [packed.decode(RequestSecureOffer, body) for body in lax.bodies("secure/offer")]
    assert len(said) == 1
