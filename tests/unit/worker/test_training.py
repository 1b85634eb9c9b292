"""Training loops against a cluster of one worker, which adds, divides and answers over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fl_cluster.config.addresses import parse_address
from fl_cluster.config.schema import AggregationType
from fl_cluster.wire import flat
from fl_cluster.wire import messages as m
from fl_cluster.worker.adaptive import AdaptiveFrequency, Tuning
from fl_cluster.worker.answers import entries_of, weights_of
from fl_cluster.worker.cross_silo import CrossSiloJob, CrossSiloWorker
from fl_cluster.worker.hybrid import HybridWorker
from fl_cluster.worker.link import HttpLink
from fl_cluster.worker.methods import make_method
from fl_cluster.worker.parameters import open_network
from fl_cluster.worker.training import CloudTraining, HybridTraining, Rhythm, Step

STEP = Step(lambda: 0.5)


def float32(*values: float) -> Any:
    return np.array(values, np.float32)


@dataclass
class OneWorkerCluster:
    """What a server with a threshold of 1 does with an update, under each method."""

    kind: AggregationType
    model: dict[str, Any]
    delivered: Callable[[str], bool] = lambda _: True
    controls: dict[str, Any] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    round: int = 1

    def answer(self, path: str, body: bytes) -> Any:
        if path == "/startFLJob":
            self.sizes.append(flat.decode(m.RequestFLJob, body).data_size)
            controls = entries_of(self.controls)
            return m.ResponseFLJob(retcode=200, iteration=self.round, feature_map=controls)
        if path == "/updateModel":
            self._take(weights_of(flat.decode(m.RequestUpdateModel, body).feature_map))
            return m.ResponseUpdateModel(retcode=200)
        shown = {n: v for n, v in self.model.items() if self.delivered(n)}
        return m.ResponseGetModel(retcode=200, feature_map=entries_of(shown))

    def _take(self, update: Mapping[str, Any]) -> None:
        self.updates.append({name: values.copy() for name, values in update.items()})
        self.round += 1
        for name, values in update.items():
            if name.startswith("control."):
                self.controls[name] = self.controls.get(name, 0) + values
            elif self.kind is AggregationType.FED_NOVA:
                self.model[name] = self.model[name] + self.sizes[-1] * values
            else:
                self.model[name] = values / self.sizes[-1]


def a_training(
    server: Any, cluster: OneWorkerCluster, arrays: dict[str, Any], frequency: int, **more: Any
) -> CloudTraining:
    server.respond = cluster.answer
    network, initial = open_network(arrays), open_network(arrays).read()
    adaptive = AdaptiveFrequency(initial, 1, Tuning()) if more.pop("adaptive", False) else None
    if adaptive is not None:
        zeros = {f"as_abs_grad.{name}": np.zeros_like(flat) for name, flat in initial.items()}
        cluster.model |= zeros
        initial |= zeros
    method = make_method(cluster.kind, initial, network.names)
    worker = CrossSiloWorker(CrossSiloJob("Job", rest_s=0.001), server.link())
    return CloudTraining(worker, network, method, Rhythm(frequency, 10, adaptive), **more)


def train(training: CloudTraining, arrays: dict[str, Any], steps: int, by: float = 3) -> None:
    for _ in range(steps):
        training.begin_step(STEP)
        arrays["w"] += np.float32(by)
        training.end_step(STEP)


def test_a_worker_exchanges_after_every_so_many_steps(server) -> None:
    cluster = OneWorkerCluster(AggregationType.FED_AVG, {"w": float32(1, 2)})
    arrays = {"w": float32(1, 2)}

    train(a_training(server, cluster, arrays, 2), arrays, 5)

    assert server.paths == ["/startFLJob", "/updateModel", "/getModel"] * 2 + ["/startFLJob"]
    assert cluster.sizes == [10, 10, 10]
    assert [update["w"].tolist() for update in cluster.updates] == [[70, 80], [130, 140]]
    assert cluster.model["w"].tolist() == [13, 14]


def test_fednova_arrives_at_the_weights_of_its_only_worker(server) -> None:
    cluster = OneWorkerCluster(AggregationType.FED_NOVA, {"w": float32(1, 2)})
    arrays = {"w": float32(1, 2)}

    train(a_training(server, cluster, arrays, 2), arrays, 4)

    assert cluster.sizes == [2, 2]
    assert [update["w"].tolist() for update in cluster.updates] == [[3, 3], [3, 3]]
    assert arrays["w"].tolist() == [13, 14]


def test_fednova_counts_the_batches_of_a_sunk_data_set(server) -> None:
    cluster = OneWorkerCluster(AggregationType.FED_NOVA, {"w": float32(1, 2)})
    training = a_training(server, cluster, {"w": float32(1, 2)}, 2)

    training.begin_step(Step(lambda: 0.5, batches=7))

    assert cluster.sizes == [14]


@pytest.mark.parametrize("kind", [AggregationType.FED_AVG, AggregationType.FED_NOVA])
def test_an_adaptive_worker_hands_in_how_far_each_weight_has_come(
    server, kind: AggregationType
) -> None:
    cluster = OneWorkerCluster(kind, {"w": float32(1, 2)})
    arrays = {"w": float32(1, 2)}

    train(a_training(server, cluster, arrays, 2, adaptive=True), arrays, 2)

    assert cluster.model["w"].tolist() == [7, 8]
    assert cluster.model["as_abs_grad.w"].tolist() == [6, 6]
    assert set(arrays) == {"w"}


def test_an_adaptive_worker_exchanges_more_often_once_the_steps_agree_no_better(server) -> None:
    cluster = OneWorkerCluster(AggregationType.FED_AVG, {"w": float32(1, 2)})
    arrays = {"w": float32(1, 2)}
    training = a_training(server, cluster, arrays, 4, adaptive=True)

    train(training, arrays, 4 * 8)

    assert training.sync_frequency == 2
    assert len(cluster.updates) >= 8


def test_scaffold_corrects_every_step_with_the_clusters_controls(server) -> None:
    cluster = OneWorkerCluster(AggregationType.SCAFFOLD, {"w": float32(0, 0)})
    arrays = {"w": float32(0, 0)}
    training = a_training(server, cluster, arrays, 2)

    train(training, arrays, 2)
    # (x0 - param) / (sync_frequency * lr) = -6 / (2 * 0.5)
    assert cluster.controls["control.w"].tolist() == [-6, -6]
    cluster.controls["control.w"] = float32(-4, -2)
    train(training, arrays, 1)

    # 6 + 3 - 0.5 * (c_global - c_local), with c_local = -6
    assert arrays["w"].tolist() == [8, 7]


def test_scaffold_ends_when_the_cluster_has_no_controls(server) -> None:
    cluster = OneWorkerCluster(AggregationType.SCAFFOLD, {"w": float32(0, 0)})
    arrays = {"w": float32(0, 0)}
    training = a_training(server, cluster, arrays, 1)
    train(training, arrays, 1)
    cluster.controls.clear()

    with pytest.raises(ValueError, match="is not in control parameters sent by server"):
        training.begin_step(STEP)


def test_weights_that_are_not_delivered_keep_their_local_values(server) -> None:
    cluster = OneWorkerCluster(
        AggregationType.FED_AVG, {"w": float32(1), "own": float32(0)}, lambda n: n == "w"
    )
    arrays = {"w": float32(1), "own": float32(5)}

    train(a_training(server, cluster, arrays, 1), arrays, 1)

    assert (arrays["w"].tolist(), arrays["own"].tolist()) == ([4], [5])


class Rank:
    """One of several processes; what the first one shares is passed on by hand."""

    def __init__(self, *, is_first: bool, shared: dict[str, Any]) -> None:
        self.is_first = is_first
        self.shared = shared

    def share(self, values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        if self.is_first:
            self.shared.update({name: values[name] for name in names})
        return {name: self.shared[name] for name in names}


def test_only_the_first_of_several_processes_talks_to_the_cluster(server) -> None:
    cluster = OneWorkerCluster(AggregationType.FED_AVG, {"w": float32(1, 2)})
    first, second, shared = {"w": float32(1, 2)}, {"w": float32(1, 2)}, dict[str, Any]()

    ranks = [Rank(is_first=True, shared=shared), Rank(is_first=False, shared=shared)]
    trainings = [
        a_training(server, cluster, arrays, 2, peers=rank)
        for arrays, rank in zip((first, second), ranks, strict=True)
    ]
    train(trainings[0], first, 2, by=3)
    train(trainings[1], second, 2, by=1)

    assert server.paths == ["/startFLJob", "/updateModel", "/getModel"]
    assert second["w"].tolist() == first["w"].tolist() == [7, 8]


def test_processes_that_train_together_correct_their_steps_alike(server) -> None:
    cluster = OneWorkerCluster(AggregationType.SCAFFOLD, {"w": float32(0, 0)})
    both, shared = [{"w": float32(0, 0)}, {"w": float32(0, 0)}], dict[str, Any]()
    trainings = [
        a_training(server, cluster, arrays, 2, peers=Rank(is_first=n == 0, shared=shared))
        for n, arrays in enumerate(both)
    ]

    for steps in (2, 1):
        for training, arrays in zip(trainings, both, strict=True):
            train(training, arrays, steps)
        cluster.controls["control.w"] = float32(-4, -2)

    # 6 + 3 - 0.5 * (c_global - c_local), with c_local = -6, in both.
    assert both[0]["w"].tolist() == both[1]["w"].tolist() == [8, 7]


class NoDirectory:
    """One server."""

    def __init__(self, address: str) -> None:
        self._address = address

    def servers(self) -> Sequence[str]:
        return [self._address]

    def instance(self) -> str:
        return "run"


def a_hybrid(server: Any, arrays: dict[str, Any], frequency: int) -> HybridTraining:
    def reach(address: str) -> HttpLink:
        assert parse_address(address) == server.address
        return server.link()

    network = open_network(arrays)
    worker = HybridWorker(NoDirectory(str(server.address)), reach)
    return HybridTraining(worker, network, network.names, sync_frequency=frequency)


def hybrid_answer(*pulled: float) -> Callable[[str, bytes], Any]:
    def answer(path: str, _: bytes) -> Any:
        if path == "/pullWeight":
            entries = entries_of({"w": float32(*pulled)})
            return m.ResponsePullWeight(retcode=200, iteration=1, feature_map=entries)
        return m.ResponsePushWeight(retcode=200, iteration=1)

    return answer


def test_a_hybrid_worker_pulls_after_the_first_step_and_pushes_after_the_last(server) -> None:
    server.respond = hybrid_answer(100, 200)
    arrays = {"w": float32(1, 2)}
    training = a_hybrid(server, arrays, 3)

    train(training, arrays, 6)  # type: ignore[arg-type]

    assert server.paths == ["/pullWeight", "/pushWeight"] * 2
    # What the first step trained was replaced; two more steps were not.
    pushed = flat.decode(m.RequestPushWeight, server.asked[1][1]).feature_map
    assert [entry.data.tolist() for entry in pushed] == [[106, 206]]


def test_a_hybrid_worker_of_frequency_one_never_pulls(server) -> None:
    server.respond = hybrid_answer(1, 2)
    arrays = {"w": float32(1, 2)}

    train(a_hybrid(server, arrays, 1), arrays, 2)  # type: ignore[arg-type]

    assert server.paths == ["/pushWeight"] * 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_replaced_by_the_initial_model(server, bad: float) -> None:
    server.respond = hybrid_answer(bad, 2)
    arrays = {"w": float32(1, 2), "b": float32(5)}
    training = a_hybrid(server, arrays, 2)

    training.begin_step(STEP)
    arrays["w"] += 3
    arrays["b"] += 3
    training.end_step(STEP)

    assert (arrays["w"].tolist(), arrays["b"].tolist()) == ([1, 2], [5])
