"""Devices with tokens and certificates, in whole jobs against a cluster in memory."""

from __future__ import annotations

import random
from typing import Any

import pytest
from aiohttp import web

from fl_cluster.errors import CallerProtocolError
from fl_cluster.sdk import DeviceIdentity, FederatedDevice
from fl_cluster.sdk.retry import Backoff
from fl_cluster.security.attestation import check_in_text, request_text, verify_signature
from fl_cluster.wire import packed
from fl_cluster.wire.messages import RequestFLJob, RequestUpdateModel, ResponseUpdateModel

TOKEN = "flt_0123456789abcdefghijklmnop"


@pytest.fixture(scope="module")
def chain(device_authority: Any) -> Any:
    return device_authority.device("phone")


def a_device(url: str, train: Any, **settings: Any) -> FederatedDevice:
    quick = Backoff(least_ms=1, base_ms=5, most_ms=20)
    defaults = {"data_size": 10, "backoff": quick, "source": random.Random(0)}
    return FederatedDevice(url, train=train, **{**defaults, **settings})


async def test_every_request_shows_the_token(make_cluster: Any, serve: Any, adding: Any) -> None:
    cluster, seen = make_cluster(rounds_total=1), []
    wrapped = cluster.wrapped

    def noting(endpoint: str, handler: Any) -> Any:
        inner = wrapped(endpoint, handler)

        async def handle(request: web.Request) -> web.StreamResponse:
            seen.append(request.headers.get("Authorization"))
            response: web.StreamResponse = await inner(request)
            return response

        return handle

    cluster.wrapped = noting
    async with serve(cluster) as url:
        await a_device(url, adding(1.0), token=TOKEN, token_over_http=True).run()
        await a_device(url, adding(1.0), device_id="d2").run()

    assert set(seen[:3]) == {f"Bearer {TOKEN}"}
    assert set(seen[3:]) == {None}


async def test_a_refused_token_ends_the_device_before_it_trains(
    make_cluster: Any, serve: Any, adding: Any, fault: Any
) -> None:
    cluster, train = make_cluster(), adding(1.0)
    said = ResponseUpdateModel(
        retcode=400, verdict="token_revoked", reason="The token site-a was revoked."
    )
    answer = fault(status=403, body=packed.encode(said), content_type="application/msgpack")
    cluster.faults["startFLJob"].append(answer)

    async with serve(cluster) as url:
        with pytest.raises(CallerProtocolError, match=r"token_revoked: The token site-a was"):
            await a_device(url, train, token=TOKEN, token_over_http=True).run()

    assert train.plans == []


async def test_a_device_with_certificates_signs_what_it_sends(
    make_cluster: Any, serve: Any, adding: Any, chain: Any
) -> None:
    cluster, identity = make_cluster(rounds_total=1), DeviceIdentity(chain.key, chain.pem)
    attestation = chain.certificates[0]

    async with serve(cluster) as url:
        result = await a_device(url, adding(1.0), identity=identity, device_id="ignored").run()

    assert result.device_id == identity.device_id
    asked = packed.decode(RequestFLJob, cluster.bodies("startFLJob")[0])
    sent = packed.decode(RequestUpdateModel, cluster.bodies("updateModel")[0])
    assert asked.fl_id == sent.fl_id == identity.device_id
    assert asked.equip_cert == chain.pem[1]
    assert asked.sign_data is not None
    assert sent.signature is not None
    assert asked.timestamp is not None
    assert sent.timestamp is not None
    text = check_in_text(identity.device_id, asked.timestamp)
    verify_signature(attestation, asked.sign_data, text)
    verify_signature(attestation, sent.signature, request_text(sent.timestamp, sent.iteration))


async def test_an_update_whose_signature_is_too_old_is_signed_again(
    make_cluster: Any, serve: Any, adding: Any, fault: Any, chain: Any
) -> None:
    cluster, train = make_cluster(rounds_total=1), adding(1.0)
    said = ResponseUpdateModel(retcode=300, verdict="clock_off", retry_after_ms=5)
    answer = fault(status=409, body=packed.encode(said), content_type="application/msgpack")
    cluster.faults["updateModel"].append(answer)

    async with serve(cluster) as url:
        identity = DeviceIdentity(chain.key, chain.pem)
        result = await a_device(url, train, identity=identity).run()

    first, second = (packed.decode(RequestUpdateModel, b) for b in cluster.bodies("updateModel"))
    assert first.signature != second.signature
    assert int(second.timestamp or 0) >= int(first.timestamp or 0)
    assert result.rounds == (1,)
    assert len(train.plans) == 1


async def test_a_device_that_is_not_attested_any_more_checks_in_again(
    make_cluster: Any, serve: Any, adding: Any, fault: Any, chain: Any
) -> None:
    cluster = make_cluster(rounds_total=1)
    said = ResponseUpdateModel(retcode=300, verdict="not_attested", retry_after_ms=5)
    answer = fault(status=409, body=packed.encode(said), content_type="application/msgpack")
    cluster.faults["updateModel"].append(answer)

    async with serve(cluster) as url:
        identity = DeviceIdentity(chain.key, chain.pem)
        result = await a_device(url, adding(1.0), identity=identity).run()

    assert len(cluster.bodies("startFLJob")) == 2
    assert result.rounds == (1,)
