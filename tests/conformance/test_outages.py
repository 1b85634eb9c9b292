"""Redis away and back, and servers that die or start anew, as devices and operators see it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from blackbox.cluster import Cluster, check_in, get_model, report, until
from blackbox.line import Line, request
from blackbox.wire import read

SAFEMODE = b"The cluster is in safemode."
OVER = b"The server's training job is disabled or finished."
NO_REDIS = "Failed to access the cache server. Please retry later."

NOTICED_S = 3.0
"""By then every server refuses."""

RESUMED_S = 5.0
"""By then devices are served again."""


@pytest.fixture
def lonely(started: Callable[..., Cluster]) -> Cluster:
    """One server with a Redis of its own that keeps its data."""
    return started(1, "cluster.hold_ms=0", "cluster.redis_timeout_ms=300")


def complaint(cluster: Cluster, path: str, body: bytes = b"") -> str:
    reply = cluster.manage(path, body)
    assert reply.status == "HTTP/1.1 400 Client"
    return str(json.loads(reply.body)["error_message"])


def test_without_redis_models_are_served_and_the_rest_waits(lonely: Cluster) -> None:
    lonely.fresh()
    base = lonely.model(0).tensors
    lonely.join("c1")

    lonely.redis.kill()
    died = time.monotonic()

    while time.monotonic() < died + NOTICED_S:
        # Whatever they are told meanwhile, it is not that they were heard.
        for name, body in (("startFLJob", check_in("c2")), ("updateModel", report("c1"))):
            assert lonely.post(name, body).body in (SAFEMODE, OVER)
    for name, body in (
        ("startFLJob", check_in("c2")),
        ("startFLJob", check_in("c2", data_size=0)),
        ("startFLJob", b"\x05"),
        ("updateModel", report("c1")),
        ("updateModel", b"\x05"),
    ):
        assert lonely.post(name, body).body == SAFEMODE
    assert lonely.say("getModel", get_model(0)).tensors == base
    assert lonely.say("getModel", get_model(1)).retcode == 201
    assert lonely.say("getModel", b"\x05").retcode == 400
    for path in ("/state", "/queryInstance", "/enableFLS", "/disableFLS"):
        assert complaint(lonely, path) == NO_REDIS
    text = complaint(lonely, "/newInstance", b"{}")
    assert text == "New instance failed: Cannot find cluster info for Bench"

    lonely.redis.start()  # empty

    def admitted() -> bool:
        reply = lonely.post("startFLJob", check_in("c1"))
        if reply.body in (SAFEMODE, OVER):
            return False
        answer = read("ResponseFLJob", reply.body)
        assert answer.retcode == 200, answer
        assert (answer.iteration, answer.tensors) == (2, base)
        return True

    back = time.monotonic()
    until(admitted, "the job is rebuilt, and the same device may join", timeout_s=RESUMED_S)
    assert time.monotonic() - back < RESUMED_S
    # Whoever waits for the round that was lost need not wait in vain.
    lost = lonely.say("getModel", get_model(1))
    assert (lost.retcode, lost.tensors) == (200, base)
    assert lonely.metrics()[-1]["iterationResult"] == "fail"
    until(lambda: lonely.manage("/state").status == "HTTP/1.1 200 Client", "operators are heard")


def test_a_server_that_dies_and_comes_back_goes_on_with_the_round(
    started: Callable[..., Cluster],
) -> None:
    cluster = started(1, "cluster.hold_ms=0", "cluster.lease_ms=1000")
    cluster.fresh()
    cluster.join("c1", "c2")
    cluster.send("c1", tensors={"w000": [32.0] * 3, "w001": [32.0] * 2})

    cluster.kill("fl_cluster.app.cli server")
    cluster.start_servers()

    # Who was admitted still is, and what was acknowledged is counted.  A device whose answer
    # the dead server may have kept to itself is told again.
    again = cluster.say("startFLJob", check_in("c1"))
    assert again.reason in (
        "success",
        "Current amount for startFLJob has reached the threshold. Please startFLJob later.",
    )
    cluster.send("c2", tensors={"w000": [96.0] * 3, "w001": [96.0] * 2})
    assert cluster.model(1).tensors == {"w000": [2.0] * 3, "w001": [2.0] * 2}

    cluster.kill("fl_cluster.app.cli server")
    cluster.start_servers()

    assert cluster.say("getModel", get_model(1)).tensors == {"w000": [2.0] * 3, "w001": [2.0] * 2}
    assert cluster.join("c1").iteration == 2


def test_without_servers_operators_are_answered_as_ever(
    started: Callable[..., Cluster],
) -> None:
    cluster = started(1, "cluster.lease_ms=1000")
    [port] = cluster.ports
    with Line(port) as line:
        line.send(request("/getModel", get_model(0)))
        assert line.receive().status == "HTTP/1.1 200 OK"
        cluster.kill("fl_cluster.app.cli server")
        assert line.is_over()

    def without_nodes() -> bool:
        return "nodes" not in cluster.grant("/state")

    until(without_nodes, "the scheduler sees that no server is left")

    told = '{"cluster_state":"CLUSTER_READY","code":"0","message":"Get cluster state successful."}'
    assert cluster.manage("/state").body.decode() == told
    assert "nodes" not in cluster.grant("/queryInstance")
    cluster.grant("/newInstance", {"start_fl_job_threshold": 1})
    cluster.grant("/disableFLS")
    assert cluster.grant("/state")["cluster_state"] == "CLUSTER_DISABLE"


def test_before_any_server_was_there_operators_are_told_so(
    started: Callable[..., Cluster],
) -> None:
    cluster = started(0)
    text = "Cannot find cluster info for Bench"

    for path in ("/state", "/queryInstance", "/enableFLS", "/disableFLS"):
        assert complaint(cluster, path) == text
    assert complaint(cluster, "/newInstance", b"{}") == f"New instance failed: {text}"
