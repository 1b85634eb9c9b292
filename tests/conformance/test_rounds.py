"""What devices see of rounds that fail, of jobs that pause, and of new runs; and what is noted."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from blackbox.cluster import INITIAL, Cluster, check_in, get_model, now_ms, report, until
from blackbox.line import Line, request
from blackbox.wire import Message, read

OVER = b"The server's training job is disabled or finished."
UNKNOWN = "devices_meta for {} is not set. Please retry later."

VISITS = {
    f"{name}{kind}ClientNum"
    for name in ("startFLJob", "updateModel", "getModel")
    for kind in ("Total", "Accept", "Reject")
} | {f"participationTimeLevel{level}" for level in (1, 2, 3)}

LINE = {
    *("clientVisitedInfo", "currentIteration", "endTime", "flIterationNum", "flName"),
    *("instanceName", "instanceStatus", "iterationExecutionTime", "iterationResult"),
    *("metricsAuc", "metricsLoss", "startTime", "unsupervisedEval"),
}


def assert_line(cluster: Cluster, number: int, result: str) -> dict[str, Any]:
    """The newest line of the metrics file is about that round."""
    [*_, text] = (cluster.folder / "metrics.json").read_text().splitlines()
    line: dict[str, Any] = json.loads(text)
    assert line.keys() == LINE
    assert line["clientVisitedInfo"].keys() == VISITS
    assert list(line) == sorted(line)
    shown = ("currentIteration", "iterationResult", "instanceStatus", "flName")
    assert [line[name] for name in shown] == [number, result, "running", "Bench"]
    return line


def models(cluster: Cluster, number: int) -> list[Any]:
    return [cluster.model(number, server=server).tensors for server in range(len(cluster.ports))]


# -- rounds that fail --------------------------------------------------------------------


def assert_failed(cluster: Cluster, number: int, base: Any, began: float, window_s: float) -> None:
    """The round ends without a model of its own, at its window and not before."""
    assert models(cluster, number) == [base, base]
    assert window_s - 0.05 <= time.monotonic() - began < window_s + 2
    assert_line(cluster, number, "fail")
    answer = cluster.say("getModel", get_model(number))
    assert (answer.retcode, answer.iteration) == (200, number + 1)


def test_a_round_that_too_few_devices_join_ends_at_its_window(cluster: Cluster) -> None:
    cluster.fresh(start_fl_job_time_window=1000)
    base, began = cluster.model(0).tensors, time.monotonic()
    cluster.join("c1")

    assert_failed(cluster, 1, base, began, 1.0)

    # The same devices may join the next one, and it ends well.
    assert cluster.join("c1", "c2").iteration == 2
    cluster.send("c1", 2)
    cluster.send("c2", 2, server=1)
    cluster.model(2)
    assert_line(cluster, 2, "success")


def test_a_round_that_too_few_devices_report_to_ends_at_its_window(cluster: Cluster) -> None:
    cluster.fresh(update_model_time_window=1000)
    base = cluster.model(0).tensors
    cluster.join("c1", "c2")
    began = time.monotonic()
    cluster.send("c1", tensors={"w000": [0.0] * 3, "w001": [0.0] * 2})

    assert_failed(cluster, 1, base, began, 1.0)


def test_a_round_to_which_nobody_reports_ends_at_the_window_of_the_whole(
    cluster: Cluster,
) -> None:
    cluster.fresh(global_iteration_time_window=1500)
    base, began = cluster.model(0).tensors, time.monotonic()
    cluster.join("c1", "c2")

    assert_failed(cluster, 1, base, began, 1.5)


def test_a_round_that_nobody_joins_does_not_end(cluster: Cluster) -> None:
    cluster.fresh(start_fl_job_time_window=1000, global_iteration_time_window=1000)
    lines = len(cluster.metrics())
    deadline = time.monotonic() + 1.6
    while time.monotonic() < deadline:
        assert cluster.say("getModel", get_model(1)).retcode == 201
        time.sleep(0.1)

    assert len(cluster.metrics()) == lines
    assert cluster.join("c1").iteration == 1


def test_a_straggler_of_a_failed_round_is_told_so_and_gets_the_old_model(cluster: Cluster) -> None:
    cluster.fresh(update_model_time_window=1000)
    base = cluster.model(0).tensors
    cluster.join("c1", "c2")
    cluster.send("c1")
    models(cluster, 1)

    def late() -> bool:
        answer = cluster.say("updateModel", report("c2", 1))
        return (answer.retcode, answer.reason) == (300, UNKNOWN.format("c2"))

    until(late, "the straggler is told that the round is another")
    assert cluster.say("getModel", get_model(1)).tensors == base


def test_no_line_calls_a_job_disabled_that_a_new_run_begins(
    cluster: Cluster,
) -> None:
    def lines() -> list[tuple[str, str]]:
        new = cluster.metrics()[before:]
        return [(line["iterationResult"], line["instanceStatus"]) for line in new]

    cluster.join("c1")
    before = len(cluster.metrics())

    cluster.grant("/disableFLS")
    until(lambda: lines() == [("fail", "running")], "the round that was cut off has its line")
    cluster.fresh()

    # One more if the next round had been opened already.
    assert lines() in ([("fail", "running")], [("fail", "running")] * 2)


def test_visits_are_counted_as_accepted_and_refused(cluster: Cluster) -> None:
    cluster.say("startFLJob", check_in("c1", data_size=0))
    cluster.join("c1", "c2")
    cluster.say("startFLJob", check_in("c3"), server=1)
    cluster.say("updateModel", report("zz"))
    cluster.send("c1")
    cluster.say("getModel", get_model(1), server=1)
    cluster.say("getModel", get_model(0))
    cluster.send("c2", server=1)
    cluster.model(1)

    visits = assert_line(cluster, 1, "success")["clientVisitedInfo"]

    assert [visits[f"updateModel{kind}ClientNum"] for kind in ("Total", "Accept", "Reject")] == [
        3,
        2,
        1,
    ]
    for name, accepted in (("startFLJob", 2), ("updateModel", 2)):
        assert visits[f"{name}AcceptClientNum"] == accepted
    for name in ("startFLJob", "updateModel", "getModel"):
        total, ok, refused = (visits[f"{name}{x}ClientNum"] for x in ("Total", "Accept", "Reject"))
        assert total == ok + refused
        assert refused >= 1
    assert [visits[f"participationTimeLevel{level}"] for level in (1, 2, 3)] == [2, 2, 2]


# -- pausing -----------------------------------------------------------------------------


def is_over(cluster: Cluster, server: int) -> bool:
    return cluster.post("getModel", get_model(0), server=server).body == OVER


def until_disabled(cluster: Cluster) -> None:
    for server in (0, 1):
        until(lambda s=server: is_over(cluster, s), "the server knows that the job is disabled")


def test_a_disabled_job_refuses_everything_and_goes_on_with_the_next_round(
    cluster: Cluster,
) -> None:
    base = cluster.model(0).tensors
    cluster.join("c1", "c2")
    cluster.send("c1")

    cluster.grant("/disableFLS")
    until_disabled(cluster)
    for server in (0, 1):
        for name, body in (
            ("startFLJob", check_in("c3")),
            ("startFLJob", b"\x05"),
            ("updateModel", report("c2")),
            ("getModel", get_model(1)),
        ):
            assert cluster.post(name, body, server=server).body == OVER
    cluster.grant("/enableFLS")
    for server in (0, 1):
        until(lambda s=server: not is_over(cluster, s), "the server knows that the job goes on")

    answer = cluster.join("c1", "c2")
    assert (answer.iteration, answer.tensors) == (2, base)
    assert models(cluster, 1) == [base, base]
    assert cluster.metrics()[-1]["iterationResult"] == "fail"
    cluster.send("c1", 2)
    cluster.send("c2", 2, server=1)
    expected = {name: [x / 32 for x in values] for name, values in INITIAL.items()}
    assert models(cluster, 2)[0] == expected


# -- new runs ----------------------------------------------------------------------------


def run_round(cluster: Cluster, number: int, *devices: str) -> dict[str, list[float]]:
    """A round of these devices, each at its server, whose model is 100 times its number."""
    for index, device in enumerate(devices):
        assert cluster.join(device, server=index % 2).iteration == number
    value = 3200.0 * number
    for index, device in enumerate(devices):
        weights = {"w000": [value] * 3, "w001": [value] * 2}
        cluster.send(device, number, weights, server=index % 2)
    expected = {"w000": [100.0 * number] * 3, "w001": [100.0 * number] * 2}
    assert models(cluster, number) == [expected, expected]
    assert_line(cluster, number, "success")
    return expected


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2), (2, 1), (1, 3)])
def test_a_run_with_another_threshold_aggregates_at_the_new_one(
    cluster: Cluster, before: int, after: int
) -> None:
    cluster.fresh(start_fl_job_threshold=before)
    last = run_round(cluster, 1, *(f"c{n}" for n in range(before)))
    cluster.join("c0")

    cluster.fresh(start_fl_job_threshold=after)

    # It starts from the newest weights, as model 0, and the same devices may come.
    assert models(cluster, 0) == [last, last]
    for number in (1, 2):
        run_round(cluster, number, *(f"c{n}" for n in range(after)))


@pytest.mark.parametrize(("ratio", "goal"), [(0.5, 2), (0.31, 2), (0.1, 1), (1.0, 4)])
def test_a_run_with_another_ratio_needs_as_many_updates_as_it_says(
    cluster: Cluster, ratio: float, goal: int
) -> None:
    cluster.fresh(start_fl_job_threshold=4, update_model_ratio=ratio)
    cluster.join("c0", "c1", "c2", "c3")
    for n in range(goal - 1):
        cluster.send(f"c{n}")
    assert cluster.say("getModel", get_model(1)).retcode == 201

    cluster.send(f"c{goal - 1}", server=1)

    assert cluster.model(1).retcode == 200
    assert_line(cluster, 1, "success")


def test_a_run_with_other_windows_has_them(cluster: Cluster) -> None:
    for window in (1000, 40_000, 1000):
        cluster.fresh(start_fl_job_time_window=window, update_model_time_window=window)
        before = now_ms()
        cluster.join("c1")
        told = cluster.say("startFLJob", check_in("c1"))
        ahead = max(2 * window, 5000)
        assert before + ahead <= int(told.next_req_time) <= now_ms() + ahead
        began = time.monotonic()
        if window == 1000:
            cluster.model(1)
            assert time.monotonic() - began < 4


def test_a_run_of_more_rounds_goes_on_after_the_last_of_the_one_before(cluster: Cluster) -> None:
    cluster.fresh(fl_iteration_num=1)
    last = run_round(cluster, 1, "c1", "c2")
    assert cluster.post("startFLJob", check_in("c1")).body == OVER

    cluster.fresh(fl_iteration_num=2)

    assert models(cluster, 0) == [last, last]
    assert cluster.say("startFLJob", check_in("x", data_size=0)).fl_plan_config.iterations == 2
    run_round(cluster, 1, "c1", "c2")
    run_round(cluster, 2, "c1", "c2")
    assert cluster.post("startFLJob", check_in("c1")).body == OVER


def test_an_update_of_the_run_before_is_not_counted_in_the_new_one(cluster: Cluster) -> None:
    cluster.join("c1", "c2")
    cluster.fresh()

    answer: Message = cluster.say("updateModel", report("c1", 1))

    assert (answer.retcode, answer.reason) == (300, UNKNOWN.format("c1"))


def test_a_held_connection_lives_through_rounds_and_runs(cluster: Cluster) -> None:
    with Line(cluster.ports[0]) as line:
        for _ in range(3):
            cluster.fresh()
            line.send(request("/getModel", get_model(1)))
            assert read("ResponseGetModel", line.receive().body).retcode == 201
