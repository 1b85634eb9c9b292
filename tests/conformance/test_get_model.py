"""getModel: which model, when there is none yet, and every field."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from blackbox.cluster import Cluster, check_in, get_model, now_ms
from blackbox.wire import Message, pack

SCHEMA = "The schema of RequestGetModel is invalid."
OVER = b"The server's training job is disabled or finished."


def not_ready(number: int) -> str:
    return (
        f"The model is not ready yet for iteration {number}. Maybe this is because\n"
        "1. Client doesn't not send enough update model request.\n"
        "2. Worker has not push weights to server."
    )


def told(cluster: Cluster, number: int, *, server: int = 0, **fields: Any) -> Message:
    return cluster.say("getModel", get_model(number, **fields), server=server)


def assert_without_model(answer: Message, code: int, reason: str, number: int) -> None:
    assert (answer.retcode, answer.reason, answer.iteration) == (code, reason, number)
    assert answer.tensors == {}
    assert (answer.download_compress_type, answer.compress_feature_map) == (0, [])


def run_round(cluster: Cluster, number: int) -> dict[str, list[float]]:
    """A round whose model is its number everywhere."""
    cluster.join("c1", "c2")
    weights = {"w000": [32.0 * number] * 3, "w001": [32.0 * number] * 2}
    cluster.send("c1", number, weights)
    cluster.send("c2", number, weights, server=1)
    for server in (0, 1):
        cluster.model(number, server=server)
    return {"w000": [float(number)] * 3, "w001": [float(number)] * 2}


@pytest.fixture
def after_four(cluster: Cluster) -> dict[int, dict[str, list[float]]]:
    """Four rounds of nine are over; the models that are kept."""
    cluster.fresh(fl_iteration_num=9)
    return {number: run_round(cluster, number) for number in range(1, 5)}


def test_the_current_round_is_not_ready_and_the_time_lies_ahead(cluster: Cluster) -> None:
    for server in (0, 1):
        answer = told(cluster, 1, server=server)
        assert_without_model(answer, 201, not_ready(1), 1)
        assert int(answer.timestamp) > now_ms() + 3_000


@pytest.mark.parametrize("body", [b"\x05" * 64, b"\x05", b"\0" * 12], ids=range(3))
def test_what_is_no_message_is_refused_without_a_time(cluster: Cluster, body: bytes) -> None:
    answer = cluster.say("getModel", body)

    assert_without_model(answer, 400, SCHEMA, 1)
    assert answer.timestamp == ""


def test_a_model_comes_with_every_field(cluster: Cluster) -> None:
    first = run_round(cluster, 1)

    answer = told(cluster, 1)

    assert (answer.retcode, answer.reason, answer.iteration) == (
        200,
        "Get model for iteration 1",
        2,
    )
    assert answer.tensors == first
    assert list(answer.tensors or ()) == ["w000", "w001"]
    assert int(answer.timestamp) > now_ms() + 3_000
    assert (answer.download_compress_type, answer.compress_feature_map) == (0, [])


def test_the_newest_three_are_kept_and_any_other_number_means_the_newest(
    cluster: Cluster, after_four: dict[int, dict[str, list[float]]]
) -> None:
    expected = {number: after_four[number] for number in (2, 3, 4)}
    expected |= dict.fromkeys((0, 1, 6, 99, 2**31 - 1, -1, -3, -(2**31)), after_four[4])

    for server in (0, 1):
        told_of = {number: told(cluster, number, server=server) for number in expected}
        assert {number: each.tensors for number, each in told_of.items()} == expected
        assert {(each.retcode, each.iteration) for each in told_of.values()} == {(200, 5)}
        assert all(each.reason.startswith("Get model for ") for each in told_of.values())
    assert_without_model(told(cluster, 5), 201, not_ready(5), 5)


def test_a_number_is_told_as_64_bits_without_sign(cluster: Cluster) -> None:
    assert told(cluster, -3).reason == "Get model for iteration 18446744073709551613"


OTHERWISE: dict[str, dict[str, Any]] = {
    "another fl_name": {"fl_name": "NotTheJob"},
    "downloads, as Java devices ask": {"download_compress_types": [0, 2]},
    "quantised downloads only": {"download_compress_types": [2]},
    "a timestamp that is a date": {"timestamp": "2020/11/16/19/18"},
}


@pytest.mark.parametrize("fields", OTHERWISE.values(), ids=OTHERWISE)
def test_what_is_not_looked_at_makes_no_difference(
    cluster: Cluster, fields: dict[str, Any]
) -> None:
    assert told(cluster, 0, **fields).tensors == told(cluster, 0).tensors


def test_no_field_is_required(cluster: Cluster) -> None:
    answer = cluster.say("getModel", pack("RequestGetModel"))

    assert (answer.retcode, answer.reason) == (200, "Get model for iteration 0")
    assert answer.tensors


def test_nobody_has_to_check_in_to_ask(cluster: Cluster) -> None:
    run_round(cluster, 1)

    assert told(cluster, 1, server=1).retcode == 200


def test_after_the_last_round_models_are_served_and_the_next_one_never_is(
    cluster: Cluster,
) -> None:
    cluster.fresh(fl_iteration_num=3)
    models = {number: run_round(cluster, number) for number in (1, 2, 3)}

    for server in (0, 1):
        # Once the last model is there nothing but models is served.
        for name, body in (("startFLJob", check_in("c1")), ("updateModel", b"\x05")):
            assert cluster.post(name, body, server=server).body == OVER
        found = {number: told(cluster, number, server=server) for number in (3, 2, 1, 0, 99, -1)}
        assert {number: each.tensors for number, each in found.items()} == {
            **models,
            **dict.fromkeys((0, 99, -1), models[3]),
        }
        assert {(each.retcode, each.iteration) for each in found.values()} == {(200, 4)}
        assert_without_model(told(cluster, 4, server=server), 201, not_ready(4), 4)
    assert b"CLUSTER_FINISH" in cluster.manage("/state").body


@pytest.fixture(scope="module")
def by_default(started: Callable[..., Cluster]) -> Cluster:
    """One server that holds requests as long as it does when nobody says how long."""
    return started(1)


def test_by_default_a_request_that_is_not_ready_is_answered_soon(by_default: Cluster) -> None:
    by_default.fresh()
    began = time.monotonic()

    for _ in range(3):
        assert_without_model(told(by_default, 1), 201, not_ready(1), 1)

    # Shorter than the pause of anybody who polls, and than any client's patience.
    assert time.monotonic() - began < 3 * 0.45


def test_by_default_the_last_device_of_a_round_need_not_ask_twice(by_default: Cluster) -> None:
    by_default.fresh(start_fl_job_threshold=1)
    for number in (1, 2, 3):
        by_default.join("c1")
        by_default.send("c1", number)
        assert told(by_default, number).retcode == 200


def test_the_answer_is_the_same_bytes_for_everybody(cluster: Cluster) -> None:
    run_round(cluster, 1)
    bodies = {cluster.post("getModel", get_model(1)).body for _ in range(5)}

    assert len(bodies) == 1
