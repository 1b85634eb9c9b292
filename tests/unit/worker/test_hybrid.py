from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fl_cluster.config.addresses import parse_address
from fl_cluster.wire import flat
from fl_cluster.wire.messages import (
    FeatureMap,
    RequestPullWeight,
    RequestPushMetrics,
    RequestPushWeight,
    ResponsePullWeight,
    ResponsePushMetrics,
    ResponsePushWeight,
)
from fl_cluster.worker.answers import Closed
from fl_cluster.worker.hybrid import HybridWorker, Persistence, is_finite
from fl_cluster.worker.link import HttpLink

WEIGHTS = {"w": np.array([3, 4], np.float32)}
PUSHED = ResponsePushWeight(retcode=200, iteration=1)


@dataclass
class Listed:
    """The directory as a list."""

    addresses: list[str]
    name: str = "run-1"

    def servers(self) -> Sequence[str]:
        return self.addresses

    def instance(self) -> str:
        return self.name


class Returning(Listed):
    """Lists the server after a while."""

    def servers(self) -> Sequence[str]:
        first, *rest = self.addresses
        self.addresses = rest or [first]
        return [first] if first else []


def pulled(number: int, *values: float) -> ResponsePullWeight:
    tensor = FeatureMap("w", np.array(values, np.float32))
    return ResponsePullWeight(retcode=200, iteration=number, feature_map=(tensor,))


def not_yet(number: int) -> ResponsePullWeight:
    return ResponsePullWeight(retcode=201, iteration=number, feature_map=())


@pytest.fixture
def dead() -> Any:
    """An address at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def make_worker() -> Any:
    made: list[HybridWorker] = []

    def make(directory: Listed, tries: int = 3600, url_prefix: str = "") -> HybridWorker:
        worker = HybridWorker(
            directory,
            lambda address: HttpLink(parse_address(address)),
            url_prefix=url_prefix,
            persistence=Persistence(0.001, 0.001, 0.001, tries),
        )
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.stop()


def test_a_pull_asks_for_the_named_weights_until_they_are_there(
    server, make_worker: Callable[..., HybridWorker]
) -> None:
    server.script(not_yet(1), not_yet(1), pulled(1, 3, 4))
    worker = make_worker(Listed([str(server.address)]))

    received = worker.pull(["w"])

    assert received["w"].tolist() == [3, 4]
    assert server.paths == ["/pullWeight"] * 3
    asked = flat.decode(RequestPullWeight, server.asked[0][1])
    assert (asked.iteration, asked.weight_names) == (1, ("w",))


def rounds_asked(server: Any, kind: type[Any]) -> list[int]:
    return [flat.decode(kind, body).iteration for _, body in server.asked]


def test_a_worker_that_comes_late_adopts_the_clusters_round(
    server, make_worker: Callable[..., HybridWorker]
) -> None:
    server.script(not_yet(7), pulled(7, 1), pulled(8, 1))
    worker = make_worker(Listed([str(server.address)]))

    worker.pull(["w"])
    worker.pull(["w"])

    assert rounds_asked(server, RequestPullWeight) == [1, 7, 8]


def test_a_new_training_run_begins_at_round_one(
    server, make_worker: Callable[..., HybridWorker]
) -> None:
    directory = Listed([str(server.address)])
    server.script(not_yet(7), pulled(7, 1), not_yet(1), pulled(1, 1))
    worker = make_worker(directory)
    worker.pull(["w"])

    directory.name = "run-2"
    worker.pull(["w"])

    assert rounds_asked(server, RequestPullWeight) == [1, 7, 8, 1]


@pytest.mark.parametrize("code", [300, 400, 500])
def test_a_pull_that_is_refused_ends_the_training(
    server, make_worker: Callable[..., HybridWorker], code: int
) -> None:
    server.script(ResponsePullWeight(retcode=code, reason="no such parameter"))

    with pytest.raises(RuntimeError, match=r"^Feature map fbs size is empty\.$"):
        make_worker(Listed([str(server.address)])).pull(["w"])


@pytest.mark.parametrize("text", list(Closed))
def test_a_cluster_that_serves_nobody_is_asked_again(
    server, make_worker: Callable[..., HybridWorker], text: Closed
) -> None:
    server.script(text.value, text.value, pulled(1, 3))

    assert make_worker(Listed([str(server.address)])).pull(["w"])["w"].tolist() == [3]


def test_the_next_server_is_asked_when_one_is_dead(
    server, make_worker: Callable[..., HybridWorker], dead: str
) -> None:
    server.script(pulled(1, 3))

    assert make_worker(Listed([dead, str(server.address)])).pull(["w"])["w"].tolist() == [3]


def test_the_next_server_is_asked_when_one_breaks_off(
    start_server, make_worker: Callable[..., HybridWorker]
) -> None:
    first, second = start_server(), start_server()
    first.script(None)
    second.script(pulled(1, 3))
    worker = make_worker(Listed([str(first.address), str(second.address)]))

    assert worker.pull(["w"])["w"].tolist() == [3]
    assert len(first.asked) == 1


def test_with_no_server_left_the_worker_waits_for_one(
    server, make_worker: Callable[..., HybridWorker]
) -> None:
    server.script(PUSHED)

    directory = Returning(["", "", "", str(server.address)])

    assert make_worker(directory).push(WEIGHTS)


def test_a_push_follows_the_cluster_to_its_round(
    server, make_worker: Callable[..., HybridWorker]
) -> None:
    server.script(ResponsePushWeight(retcode=201, iteration=5), PUSHED)
    worker = make_worker(Listed([str(server.address)]))

    assert worker.push(WEIGHTS)

    assert rounds_asked(server, RequestPushWeight) == [1, 5]
    sent = flat.decode(RequestPushWeight, server.asked[1][1])
    assert [(e.weight_fullname, e.data.tolist()) for e in sent.feature_map] == [("w", [3, 4])]


def test_a_push_that_is_refused_says_so(server, make_worker: Callable[..., HybridWorker]) -> None:
    server.script(ResponsePushWeight(retcode=400, reason="no"))

    assert make_worker(Listed([str(server.address)])).push(WEIGHTS) is False


@pytest.mark.parametrize(("code", "is_taken"), [(200, True), (300, False), (500, False)])
def test_metrics_are_taken_only_with_success(
    server, make_worker: Callable[..., HybridWorker], code: int, is_taken: bool
) -> None:
    server.script(ResponsePushMetrics(retcode=code))

    assert make_worker(Listed([str(server.address)])).push_metrics(6.9, 10.1) is is_taken
    sent = flat.decode(RequestPushMetrics, server.asked[0][1])
    assert (sent.loss, sent.accuracy) == pytest.approx((6.9, 10.1))


def test_metrics_are_given_up_after_many_tries(
    make_worker: Callable[..., HybridWorker], dead: str
) -> None:
    assert make_worker(Listed([dead]), tries=3).push_metrics(1, 1) is False


def test_a_stopped_worker_waits_for_nobody(make_worker: Callable[..., HybridWorker]) -> None:
    worker = make_worker(Listed([]))
    worker.stop()

    assert worker.push_metrics(1, 1) is True
    assert worker.push(WEIGHTS) is False
    with pytest.raises(ValueError, match="Weights from pulling weight is empty!"):
        worker.pull(["w"])


def test_servers_are_asked_below_the_jobs_url_prefix(
    server, make_worker: Callable[..., HybridWorker]
) -> None:
    server.script(PUSHED)

    make_worker(Listed([str(server.address)]), url_prefix="/cluster/").push(WEIGHTS)

    assert server.paths == ["/cluster/pushWeight"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_with_a_nan_or_an_infinity_are_not_finite(bad: float) -> None:
    assert is_finite(WEIGHTS)
    assert not is_finite({**WEIGHTS, "b": np.array([bad], np.float32)})
