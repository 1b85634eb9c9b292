"""pullWeight, pushWeight and pushMetrics of a job that is not hybrid: there, and without effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from blackbox.cluster import INITIAL, Cluster, check_in, report
from blackbox.wire import features, pack, read, table

NOT_DONE = "The aggregation for the weights is not done yet."
NO_MESSAGE = b"\x05" * 32
LONG = {**INITIAL, "w000": [0.0] * 4}


def push(number: int, tensors: Any) -> bytes:
    given = {} if tensors is None else {"feature_map": tensors}
    return pack("RequestPushWeight", iteration=number, **given)


PULLS = {
    "a right one": pack("RequestPullWeight", iteration=1, weight_names=["w000"]),
    "another round": pack("RequestPullWeight", iteration=7, weight_names=["w000"]),
    "no names": pack("RequestPullWeight", iteration=1),
    "an unknown name": pack("RequestPullWeight", iteration=1, weight_names=["w999"]),
    "no message": NO_MESSAGE,
}


@pytest.mark.parametrize("body", PULLS.values(), ids=PULLS)
def test_there_is_never_a_mean_to_pull(cluster: Cluster, body: bytes) -> None:
    for server in (0, 1):
        answer = cluster.say("pullWeight", body, server=server)

        assert (answer.retcode, answer.reason, answer.iteration) == (201, NOT_DONE, 1)
        assert answer.tensors == {}


SCHEMA = "The schema of RequestPushWeight is invalid."
OTHER = "PushWeight iteration number is invalid:{}, current iteration:1"
EMPTY = "PushWeight feature map is empty."
MISFIT = "Pushing weight failed."
DONE = "PushWeight succeed."

PUSHES: dict[str, tuple[bytes, int, str]] = {
    "no message": (NO_MESSAGE, 201, SCHEMA),
    "round 0": (push(0, features(INITIAL)), 201, OTHER.format(0)),
    "a future round": (push(7, features(INITIAL)), 201, OTHER.format(7)),
    "a negative round": (push(-1, features(INITIAL)), 201, OTHER.format(-1)),
    "another round and no tensors": (push(7, None), 201, OTHER.format(7)),
    "no tensors": (push(1, None), 201, EMPTY),
    "an empty list of tensors": (push(1, []), 201, EMPTY),
    "a tensor without data": (
        push(1, [table("FeatureMap", weight_fullname="w000")]),
        201,
        EMPTY,
    ),
    "a tensor that is too long": (push(1, features(LONG)), 201, MISFIT),
    "everything": (push(1, features(INITIAL)), 200, DONE),
    "a tensor that is too short": (push(1, features({"w000": [1.0]})), 200, DONE),
    "an unknown tensor": (push(1, features({"w999": [1.0]})), 200, DONE),
}


@pytest.mark.parametrize("name", PUSHES)
def test_what_is_pushed_is_looked_at_and_forgotten(cluster: Cluster, name: str) -> None:
    body, code, reason = PUSHES[name]
    base = cluster.join("c1").tensors

    answer = cluster.say("pushWeight", body)

    assert (answer.retcode, answer.reason, answer.iteration) == (code, reason, 1)
    assert cluster.join("c2", server=1).tensors == base
    cluster.send("c1", tensors={"w000": [32.0] * 3, "w001": [32.0] * 2})
    cluster.send("c2", tensors={"w000": [96.0] * 3, "w001": [96.0] * 2})
    assert cluster.model(1).tensors == {"w000": [2.0] * 3, "w001": [2.0] * 2}


def test_metrics_are_taken_and_do_not_end_the_round(cluster: Cluster) -> None:
    cluster.join("c1", "c2")
    cluster.send("c1")

    assert cluster.say("pushMetrics", NO_MESSAGE).retcode == 400
    body = pack("RequestPushMetrics", loss=7.25, accuracy=0.5)
    assert [cluster.say("pushMetrics", body, server=n).retcode for n in (0, 1)] == [200, 200]

    again = cluster.say("updateModel", report("c1"))
    assert again.reason == "Updating metadata of UpdateModelClientList failed for fl id c1"
    cluster.send("c2")
    cluster.model(1)
    # The loss is that of the devices.
    assert cluster.metrics()[-1]["metricsLoss"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["pullWeight", "pushWeight", "pushMetrics"])
def test_a_request_without_a_body_is_told_so(cluster: Cluster, name: str) -> None:
    reply = cluster.post(name, b"")

    assert reply.status == "HTTP/1.1 400 Client"
    assert reply.body == b'{"code":"1","error_message":"Get post message failed"}'


def test_the_answers_are_the_bytes_of_a_table_of_their_kind(cluster: Cluster) -> None:
    reply = cluster.post("pushMetrics", NO_MESSAGE)

    assert reply.names == ["Date", "Content-Length", "Content-Type"]
    assert read("ResponsePushMetrics", reply.body).retcode == 400


def test_whoever_asks_a_job_of_silos_for_compression_gets_it(
    started: Callable[..., Cluster],
) -> None:
    """All tensors in 8 bits, although workers, who do not ask, are handed none at the check-in."""
    silos = started(
        1,
        "server_mode=CLOUD_TRAINING",
        "compression.upload_compress_type=DIFF_SPARSE_QUANT",
        "compression.download_compress_type=QUANT",
    )

    worker = silos.say("startFLJob", check_in("worker"))
    device = silos.say("startFLJob", check_in("device", download_compress_types=[0, 2]))

    assert (worker.download_compress_type, worker.upload_compress_type) == (0, 1)
    assert (worker.tensors, worker.compress_feature_map) == ({}, [])
    assert (device.download_compress_type, device.upload_compress_type) == (2, 1)
    assert device.tensors == {}
    assert [each.weight_fullname for each in device.compress_feature_map] == sorted(INITIAL)
