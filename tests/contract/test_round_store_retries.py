"""A call that was carried out and whose answer was lost is sent again, and answered alike.

The link between store and Redis goes through a proxy of the test's own, which can swallow
one answer: Redis has done the work, the connection breaks, the client library asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from fl_cluster.errors import StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason, Reporting, RoundRef, Selecting
from fl_cluster.store.ports import (
    ClaimAnswer,
    ClaimRequest,
    ModelRecord,
    Offer,
    Outcome,
    ReportBatch,
    ReportOutcome,
    RoundStore,
    UpdateRecord,
)
from fl_cluster.store.redis.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import RedisProcess, Stores

pytestmark = pytest.mark.redis

REF = RoundRef("run-1", 1)
LONG = {"select_window_ms": 60_000, "report_window_ms": 60_000, "round_window_ms": 60_000}


class Proxy:
    """Forwards requests and answers; swallows the answers of the next scripts that ran."""

    def __init__(self, upstream_port: int) -> None:
        self.url = ""
        self.to_swallow = 0
        self._upstream_port = upstream_port

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        return server

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        try:
            while request := await reader.read(1 << 20):
                to_redis.write(request)
                answer = await from_redis.read(1 << 20)
                ran = b"EVAL" in request and not answer.startswith(b"-NOSCRIPT")
                if ran and self.to_swallow:
                    self.to_swallow -= 1
                    break
                writer.write(answer)
                await writer.drain()
        finally:
            to_redis.close()
            writer.close()


@pytest.fixture
async def proxy(redis_server: RedisProcess) -> AsyncIterator[Proxy]:
    proxy = Proxy(redis_server.port)
    server = await proxy.serve()
    yield proxy
    server.close()
    await server.wait_closed()


@pytest.fixture
async def far(proxy: Proxy, make_redis_stores: Callable[..., Stores]) -> AsyncIterator[Stores]:
    """The stores, reached through the proxy."""
    connection = Connection(proxy.url, timeout_ms=2_000)
    yield make_redis_stores(connection, "far")
    await connection.close()


def batch(*devices: str, partial: str = "p1") -> ReportBatch:
    return ReportBatch([UpdateRecord(device, "d", 0.0, 0.0) for device in devices], partial)


async def ready(far: Stores, proxy: Proxy, *devices: str, **numbers: int) -> RoundStore:
    """A round with these devices in it, and a proxy that swallows the next answer."""
    rounds = await far.open(**LONG, **numbers)
    await rounds.check_in(REF, [Offer(device, 5, 1) for device in devices])
    proxy.to_swallow = 1
    return rounds


async def test_a_check_in_is_accepted_when_it_is_sent_again(far: Stores, proxy: Proxy) -> None:
    rounds = await ready(far, proxy, "a", cohort_size=4)
    offers = [Offer("b", 7, 1), Offer("a", 5, 1), Offer("b", 7, 1), Offer("c", 9, 1)]

    verdicts = await rounds.check_in(REF, offers)

    assert proxy.to_swallow == 0
    assert verdicts == [
        Verdict.ACCEPTED,
        Verdict.ALREADY_CHECKED_IN,
        Verdict.ALREADY_CHECKED_IN,
        Verdict.ACCEPTED,
    ]
    phase = (await rounds.load()).phase
    assert isinstance(phase, Selecting)
    assert [one.data_size for _, one in sorted(phase.cohort.items())] == [5, 7, 9]


async def test_the_device_that_fills_the_cohort_is_told_so_when_that_is_sent_again(
    far: Stores, proxy: Proxy
) -> None:
    rounds = await ready(far, proxy, "a", "b")

    assert await rounds.check_in(REF, [Offer("c", 7, 1), Offer("d", 7, 1)]) == [
        Verdict.ACCEPTED,
        Verdict.COHORT_FULL,
    ]
    assert isinstance((await rounds.load()).phase, Reporting)


async def test_a_claim_is_accepted_when_it_is_sent_again(far: Stores, proxy: Proxy) -> None:
    """Otherwise the member would wait for itself, and the place would be lost to the round."""
    rounds = await ready(far, proxy, "a", "b")

    first = await rounds.claim(REF, "m1", [ClaimRequest("a", 1), ClaimRequest("a", 1)])
    other = await rounds.claim(REF, "m1", [ClaimRequest("a", 1), ClaimRequest("b", 1)])

    assert proxy.to_swallow == 0
    assert first == [ClaimAnswer(Verdict.ACCEPTED, 5), ClaimAnswer(Verdict.PENDING)]
    assert other == [ClaimAnswer(Verdict.PENDING), ClaimAnswer(Verdict.ACCEPTED, 5)]


async def test_a_report_is_counted_once_when_it_is_sent_again(far: Stores, proxy: Proxy) -> None:
    rounds = await ready(far, proxy, "a", "b", "c")
    proxy.to_swallow = 0
    await rounds.claim(REF, "m1", [ClaimRequest("a", 1), ClaimRequest("b", 1)])
    proxy.to_swallow = 1

    outcome = await rounds.report(REF, "m1", batch("b", "a"))

    assert proxy.to_swallow == 0
    assert outcome == ReportOutcome(Verdict.ACCEPTED, (1, 2))
    assert [one.position for one in await rounds.reported(REF)] == [2, 1]


async def test_publishing_is_accepted_when_it_is_sent_again(far: Stores, proxy: Proxy) -> None:
    """Otherwise the member would take its own model for one that nobody needs."""
    rounds = await ready(far, proxy, "a")
    proxy.to_swallow = 0
    await rounds.abort(REF, Reason.JOB_DISABLED)
    await rounds.take_lease(REF, "m1", 60_000)
    outcome = Outcome(ModelRecord(1, "model-1", 4, "00" * 32, (1,)), finishes_job=False)
    proxy.to_swallow = 1

    assert await rounds.publish(REF, "m1", outcome) is Verdict.ACCEPTED
    assert proxy.to_swallow == 0
    assert await rounds.publish(REF, "m1", outcome) is Verdict.MOVED_ON

    assert (await rounds.load()).phase.ref == REF.next()


async def test_a_job_is_created_by_its_creator_when_that_is_sent_again(
    far: Stores, proxy: Proxy
) -> None:
    """Otherwise its creator would drop the model that the job starts from."""
    proxy.to_swallow = 1

    assert await far.jobs.open(far.job, far.first, far.plan, far.model)
    assert proxy.to_swallow == 0
    assert not await far.jobs.open(far.job, far.first, far.plan, far.model)


async def test_the_rest_may_be_sent_again_too(far: Stores, proxy: Proxy) -> None:
    rounds = await ready(far, proxy, "a", "b")
    proxy.to_swallow = 0
    await rounds.claim(REF, "m1", [ClaimRequest("a", 1)])
    calls = [
        lambda: rounds.release(REF, "m1", ["a"]),
        lambda: rounds.tick(REF),
        lambda: rounds.model_served(REF),
        lambda: rounds.member_lost("m9"),
        lambda: rounds.take_lease(REF, "m1", 60_000),
    ]
    words = []
    for call in calls:
        if call is calls[-1]:
            await rounds.abort(REF, Reason.JOB_DISABLED)
        proxy.to_swallow = 1
        words.append(await call())
        assert proxy.to_swallow == 0

    assert words == [Verdict.ACCEPTED] * len(calls)


async def test_what_an_operator_does_is_accepted_when_it_is_sent_again(
    far: Stores, proxy: Proxy
) -> None:
    rounds = await ready(far, proxy, "a")
    calls = [rounds.disable, rounds.enable, lambda: rounds.restart(far.job), rounds.disable]
    words = []
    for call in calls:
        proxy.to_swallow = 1
        words.append(await call())
        assert proxy.to_swallow == 0

    assert words == [Verdict.ACCEPTED] * len(calls)
    assert await rounds.disable() is Verdict.ALREADY_DISABLED
    snapshot = await rounds.snapshot()
    assert snapshot is not None
    assert (snapshot.is_disabled, snapshot.successor) == (True, far.job.instance)


async def test_an_abort_is_accepted_when_it_is_sent_again(far: Stores, proxy: Proxy) -> None:
    rounds = await ready(far, proxy, "a")

    assert await rounds.abort(REF, Reason.AGGREGATE_FAILED) is Verdict.ACCEPTED
    assert proxy.to_swallow == 0
    assert await rounds.abort(REF, Reason.AGGREGATE_FAILED) is Verdict.NOTHING_TO_FINISH


async def test_a_link_that_breaks_twice_is_a_fault_and_nothing_is_known(
    far: Stores, proxy: Proxy
) -> None:
    rounds = await ready(far, proxy, "a")
    proxy.to_swallow = 2

    with pytest.raises(StoreUnavailable) as caught:
        await rounds.claim(REF, "m1", [ClaimRequest("a", 1)])

    assert caught.value.operation == "claim"
    phase = (await rounds.load()).phase
    assert isinstance(phase, Selecting)
    assert phase.claims == {"a": "m1"}
    assert await rounds.release(REF, "m1", ["a"]) is Verdict.ACCEPTED
