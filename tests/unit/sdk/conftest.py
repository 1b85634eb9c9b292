"""A cluster in one object: the device protocol in memory, over real HTTP and the real codec."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from numpy.typing import NDArray

from fl_cluster.aggregate.model import digest_of_tensors
from fl_cluster.aggregate.scale import exponent_for
from fl_cluster.privacy.ring import packing
from fl_cluster.sdk import RoundPlan, TrainResult
from fl_cluster.sdk.answers import plan_of
from fl_cluster.wire import packed
from fl_cluster.wire.messages import (
    CipherPublicParams,
    FeatureMap,
    FLPlan,
    Receipt,
    RequestFLJob,
    RequestGetModel,
    RequestUpdateModel,
    ResponseFLJob,
    ResponseGetModel,
    ResponseUpdateModel,
    SecureRound,
    SecureTensor,
)

Weights = dict[str, NDArray[np.float32]]
Fault = Callable[
    [web.Request, Callable[[], Awaitable[web.Response]]], Awaitable[web.StreamResponse]
]
Reply = ResponseFLJob | ResponseUpdateModel | ResponseGetModel


def packed_response(
    status: int, message: Reply, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(
        status=status,
        body=packed.encode(message),
        content_type="application/msgpack",
        headers=headers,
    )


@dataclass
class FakeCluster:
    """Averages in float64 and keeps every model; `faults` are met first, one per request."""

    initial: Weights
    cohort_size: int = 1
    report_goal: int = 1
    rounds_total: int = 3
    encryption: str = "NOT_ENCRYPT"
    hold_most_ms: int = 5_000
    number: int = 1
    cohort: dict[str, int] = field(default_factory=dict)
    receipts: dict[tuple[int, str], Receipt] = field(default_factory=dict)
    models: list[Weights] = field(default_factory=list)
    digests: list[str] = field(default_factory=lambda: ["model-0"])
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    model_downloads: int = 0
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.models.append(self.initial)
        self.sums = {name: np.zeros(values.shape) for name, values in self.initial.items()}
        self.published = asyncio.Condition()
        self.asked = asyncio.Condition()

    def secure_round(self, told: ResponseFLJob) -> SecureRound:
        """What an honest server announces of a masked round beside this answer."""
        weights, cohort_size = self.models[-1], 5
        tensors = tuple(
            SecureTensor(name, values.size, exponent_for(values, cohort_size))
            for name, values in weights.items()
        )
        announced = SecureRound("run", 1, 3, 0.05, 0.2, 40, 20, cohort_size, 60_000, tensors)
        assert told.fl_plan_config is not None
        plan = plan_of(told.iteration, told.fl_plan_config)
        start = packing.Start(
            plan.rounds_total,
            plan.epochs,
            plan.batch_size,
            plan.learning_rate,
            plan.server_mode,
            digest_of_tensors(weights.items()),
        )
        return announced._replace(terms=packing.terms_digest(announced, start))

    def application(self, prefix: str = "") -> web.Application:
        application = web.Application(client_max_size=2**28)
        for endpoint, handler in (
            ("startFLJob", self.check_in),
            ("updateModel", self.report),
            ("getModel", self.get_model),
        ):
            application.router.add_post(f"{prefix}/{endpoint}", self.wrapped(endpoint, handler))
        return application

    def wrapped(
        self, endpoint: str, handler: Callable[[bytes], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            assert request.content_type == "application/msgpack"
            body = await request.read()
            self.requests.append((endpoint, body))
            async with self.asked:
                self.asked.notify_all()
            if self.faults[endpoint]:
                return await self.faults[endpoint].popleft()(request, lambda: handler(body))
            return await handler(body)

        return handle

    def bodies(self, endpoint: str) -> list[bytes]:
        return [body for name, body in self.requests if name == endpoint]

    async def was_asked(self, endpoint: str, times: int = 1) -> None:
        """Wait until this endpoint has been asked so often."""
        async with self.asked:
            await self.asked.wait_for(lambda: len(self.bodies(endpoint)) >= times)

    @property
    def is_finished(self) -> bool:
        return self.number > self.rounds_total

    def plan(self) -> FLPlan:
        return FLPlan(
            server_mode="FEDERATED_LEARNING",
            fl_name="digits",
            iterations=self.rounds_total,
            epochs=2,
            mini_batch=32,
            lr=0.5,
            cipher=CipherPublicParams(encrypt_type=self.encryption),
        )

    def features(self, number: int) -> tuple[FeatureMap, ...]:
        self.model_downloads += 1
        return tuple(
            FeatureMap(name, values.reshape(-1), values.shape)
            for name, values in self.models[number].items()
        )

    async def check_in(self, body: bytes) -> web.Response:
        asked = packed.decode(RequestFLJob, body)
        assert asked.fl_id
        assert asked.timestamp
        answer = ResponseFLJob(iteration=self.number, fl_plan_config=self.plan())
        if self.is_finished:
            return packed_response(410, answer._replace(retcode=300, verdict="job_finished"))
        if asked.fl_id not in self.cohort and len(self.cohort) >= self.cohort_size:
            refused = answer._replace(retcode=300, verdict="cohort_full", retry_after_ms=30)
            return packed_response(429, refused, {"Retry-After": "1"})
        self.cohort[asked.fl_id] = asked.data_size
        answer = answer._replace(
            retcode=200,
            verdict="accepted",
            is_selected=True,
            model_round=self.number - 1,
            model_digest=self.digests[-1],
        )
        if asked.model_digest == answer.model_digest:
            return packed_response(200, answer._replace(model_unchanged=True))
        return packed_response(200, answer._replace(feature_map=self.features(self.number - 1)))

    async def report(self, body: bytes) -> web.Response:
        sent = packed.decode(RequestUpdateModel, body)
        assert sent.plain_weights
        assert sent.fl_id is not None
        digest = hashlib.sha256(body).hexdigest()
        receipt = self.receipts.get((sent.iteration, sent.fl_id))
        if receipt is None:
            verdict = self.judge(sent)
            if verdict is not None:
                refused = ResponseUpdateModel(retcode=300, verdict=verdict, retry_after_ms=20)
                return packed_response(429 if verdict == "enough" else 409, refused)
            counted = sum(number == sent.iteration for number, _ in self.receipts)
            receipt = Receipt(sent.iteration, digest, counted + 1)
            self.receipts[sent.iteration, sent.fl_id] = receipt
            await self.add(sent)
        if receipt.digest != digest:
            return packed_response(
                409, ResponseUpdateModel(retcode=300, verdict="duplicate", retry_after_ms=20)
            )
        return packed_response(
            200, ResponseUpdateModel(retcode=200, verdict="accepted", receipt=receipt)
        )

    def judge(self, sent: RequestUpdateModel) -> str | None:
        if sent.iteration != self.number:
            return "stale_round"
        if sent.fl_id not in self.cohort:
            return "not_in_cohort"
        counted = sum(number == self.number for number, _ in self.receipts)
        return "enough" if counted >= self.report_goal else None

    async def add(self, sent: RequestUpdateModel) -> None:
        assert sent.fl_id is not None
        assert sent.feature_map is not None
        size = self.cohort[sent.fl_id]
        self.losses.append(sent.upload_loss)
        self.accuracies.append(sent.upload_accuracy)
        for feature in sent.feature_map:
            assert feature.weight_fullname is not None
            assert feature.data is not None
            total = self.sums[feature.weight_fullname]
            total += feature.data.reshape(total.shape).astype(np.float64) * size
        counted = [device for number, device in self.receipts if number == self.number]
        if len(counted) == self.report_goal:
            await self.publish(sum(self.cohort[device] for device in counted))

    async def publish(self, samples: int) -> None:
        self.models.append(
            {name: (total / samples).astype(np.float32) for name, total in self.sums.items()}
        )
        self.digests.append(f"model-{self.number}")
        for total in self.sums.values():
            total[...] = 0.0
        await self.open_next()

    async def abandon(self) -> None:
        self.models.append(self.models[-1])
        self.digests.append(self.digests[-1])
        for total in self.sums.values():
            total[...] = 0.0
        await self.open_next()

    async def open_next(self) -> None:
        self.cohort.clear()
        self.number += 1
        async with self.published:
            self.published.notify_all()

    def forget_round(self) -> None:
        """What a store that lost its data does: the round begins again, with nobody in it."""
        self.cohort.clear()
        self.receipts.clear()
        for total in self.sums.values():
            total[...] = 0.0

    async def get_model(self, body: bytes) -> web.Response:
        asked = packed.decode(RequestGetModel, body)
        hold_s = min(asked.hold_ms or 0, self.hold_most_ms) / 1000
        try:
            async with asyncio.timeout(hold_s), self.published:
                await self.published.wait_for(lambda: self.number != asked.iteration)
        except TimeoutError:
            return packed_response(
                202, ResponseGetModel(retcode=201, verdict="not_ready", retry_after_ms=20)
            )
        known = 0 <= asked.iteration < self.number
        number = asked.iteration if known else self.number - 1
        return packed_response(
            200,
            ResponseGetModel(
                retcode=200,
                verdict="accepted",
                iteration=self.number,
                feature_map=self.features(number),
                model_round=number,
                model_digest=self.digests[number],
            ),
        )


@asynccontextmanager
async def serving(cluster: FakeCluster, prefix: str = "") -> AsyncIterator[str]:
    """The base URL under which the cluster answers meanwhile."""
    async with TestServer(cluster.application(prefix)) as server:
        yield str(server.make_url("/")).rstrip("/")


@pytest.fixture
def serve() -> Callable[..., object]:
    return serving


@pytest.fixture
def initial_weights() -> Weights:
    rng = np.random.default_rng(1)
    return {
        "layer.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "layer.bias": np.zeros(4, np.float32),
    }


@pytest.fixture
def make_cluster(initial_weights: Weights) -> Callable[..., FakeCluster]:
    def make(**settings: object) -> FakeCluster:
        return FakeCluster(**{"initial": initial_weights, **settings})  # type: ignore[arg-type]

    return make


@dataclass
class Adder:
    """A training function that adds a constant, and remembers what it was asked."""

    amount: float
    plans: list[RoundPlan] = field(default_factory=list)

    def __call__(self, weights: Weights, plan: RoundPlan) -> TrainResult:
        self.plans.append(plan)
        for values in weights.values():
            np.add(values, np.float32(self.amount), out=values)
        return TrainResult(weights, metrics={"loss": math.exp(-plan.round_number)})


@pytest.fixture
def adding() -> type[Adder]:
    return Adder


async def drop(request: web.Request, go_on: Callable[[], Awaitable[web.Response]]) -> web.Response:
    """The connection breaks before the request was heard."""
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError


async def drop_answer(
    request: web.Request, go_on: Callable[[], Awaitable[web.Response]]
) -> web.Response:
    """The request is heard and served, and the connection breaks before the answer is out."""
    await go_on()
    return await drop(request, go_on)


@pytest.fixture
def fault() -> Callable[..., Fault]:
    """A fault by name, or one that answers with the given status, body and headers."""

    def make(name: str = "", *, status: int = 200, **response: object) -> Fault:
        if name:
            return {"drop": drop, "drop_answer": drop_answer}[name]

        async def answer(request: web.Request, go_on: object) -> web.Response:
            return web.Response(status=status, **response)  # type: ignore[arg-type]

        return answer

    return make
