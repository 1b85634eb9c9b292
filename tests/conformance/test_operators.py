"""The scheduler's calls: every answer byte for byte, every refusal, and what a call does."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from blackbox.cluster import RUN, Cluster
from blackbox.line import Line, Reply, ask, request

REFUSED_TYPE = "text/html; charset=ISO-8859-1"
CALLS = ("/state", "/queryInstance", "/enableFLS", "/disableFLS", "/newInstance")

PARAMETERS = {
    "aggregation_type": "FedAvg",
    "cipher_time_window": int,
    "client_batch_size": 32,
    "client_epoch_num": 20,
    "client_learning_rate": float,
    "download_compress_type": "NO_COMPRESS",
    "dp_delta": 0.009999999776482582,
    "dp_eps": 50.0,
    "dp_norm_clip": 1.0,
    "enable_ssl": False,
    "encrypt_type": "NOT_ENCRYPT",
    "fl_iteration_num": 4,
    "global_iteration_time_window": 60000,
    "iid_rate": 0.0,
    "pki_verify": False,
    "reconstruct_secrets_threshold": int,
    "secure_aggregation": False,
    "share_secrets_ratio": 1.0,
    "sign_dim_out": 0,
    "sign_eps": 100.0,
    "sign_global_lr": 0.10000000149011612,
    "sign_k": 0.009999999776482582,
    "sign_thr_ratio": 0.6000000238418579,
    "start_fl_job_threshold": 2,
    "start_fl_job_time_window": 30000,
    "total_client_num": 1,
    "update_model_ratio": 1.0,
    "update_model_time_window": 30000,
    "upload_compress_type": "NO_COMPRESS",
    "upload_sparse_rate": 0.4000000059604645,
}
"""What queryInstance shows; a type where the job decides."""


def assert_success(reply: Reply) -> dict[str, Any]:
    assert reply.status == "HTTP/1.1 200 Client"
    assert reply.names == ["Content-Type", "Date", "Content-Length"]
    assert reply.header("Content-Type") == "application/json"
    answer: dict[str, Any] = json.loads(reply.body)
    assert answer["code"] == "0"
    # Compact, and the keys in order.
    assert reply.body.decode() == json.dumps(answer, sort_keys=True, separators=(",", ":"))
    return answer


def assert_refused(reply: Reply, text: str) -> None:
    assert reply.status == "HTTP/1.1 400 Client"
    assert reply.names == ["Date", "Content-Length", "Content-Type"]
    assert reply.header("Content-Type") == REFUSED_TYPE
    assert reply.body.decode() == '{"code":"1","error_message":' + json.dumps(text) + "}"


def new_instance(cluster: Cluster, body: object) -> Reply:
    return cluster.manage("/newInstance", json.dumps(body).encode())


def assert_nodes(cluster: Cluster, nodes: list[dict[str, str]]) -> None:
    assert len(nodes) == len(cluster.ports)
    assert nodes == sorted(nodes, key=lambda each: each["node_id"])
    for node in nodes:
        assert list(node) == ["node_id", "role", "tcp_address"]
        assert node["role"] == "SERVER"
        assert re.fullmatch(r"127\.0\.0\.1:\d+", node["tcp_address"])
        pattern = r"{}::\d{{4}}-\d\d-\d\d-\d\d:\d\d:\d\d\.\d{{3}}\.\d{{3}}::\d+"
        assert re.fullmatch(pattern.format(re.escape(node["tcp_address"])), node["node_id"])


# -- state and queryInstance -------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE"])
@pytest.mark.parametrize("body", [None, b"", b"x"], ids=["no length", "empty", "some"])
def test_state_is_told_whatever_the_method_and_the_body(
    cluster: Cluster, method: str, body: bytes | None
) -> None:
    answer = assert_success(cluster.manage("/state", body, method=method))

    assert answer.keys() == {"cluster_state", "code", "message", "nodes"}
    assert answer["cluster_state"] == "CLUSTER_READY"
    assert answer["message"] == "Get cluster state successful."
    assert_nodes(cluster, answer["nodes"])


def test_the_parameters_of_the_run_are_told_with_their_types(cluster: Cluster) -> None:
    answer = assert_success(cluster.manage("/queryInstance"))

    assert answer.keys() == {"code", "message", "nodes", "result"}
    assert answer["message"] == "Query Instance successful."
    assert_nodes(cluster, answer["nodes"])
    assert answer["result"].keys() == PARAMETERS.keys()
    for name, value in answer["result"].items():
        expected = PARAMETERS[name]
        if isinstance(expected, type):
            assert type(value) is expected, name
        else:
            assert (value, type(value)) == (expected, type(expected)), name


@pytest.mark.parametrize("path", ["/state?x=1", "/queryInstance?"])
def test_a_query_is_ignored(cluster: Cluster, path: str) -> None:
    assert_success(cluster.manage(path))


# -- disableFLS and enableFLS ------------------------------------------------------------


def test_disabling_and_enabling_are_told_once_and_show_in_the_state(cluster: Cluster) -> None:
    def state() -> str:
        return str(assert_success(cluster.manage("/state"))["cluster_state"])

    assert_refused(cluster.manage("/enableFLS"), "The instance has already been enabled.")
    disabled = cluster.manage("/disableFLS")
    assert state() == "CLUSTER_DISABLE"
    assert_refused(cluster.manage("/disableFLS"), "The instance has already been disabled.")
    enabled = cluster.manage("/enableFLS")
    assert state() == "CLUSTER_READY"
    assert_refused(cluster.manage("/enableFLS"), "The instance has already been enabled.")

    told = {"code": "0", "message": "start disabling FL-Server successful."}
    assert assert_success(disabled) == told
    told = {"code": "0", "message": "start enabling FL-Server successful."}
    assert assert_success(enabled) == told


def test_a_finished_run_is_neither_disabled_nor_enabled_but_can_be_followed(
    cluster: Cluster,
) -> None:
    cluster.fresh(fl_iteration_num=1, start_fl_job_threshold=1)
    cluster.join("c1")
    cluster.send("c1")
    cluster.model(1)

    assert assert_success(cluster.manage("/state"))["cluster_state"] == "CLUSTER_FINISH"
    text = "The instance is completed and cannot be {}."
    assert_refused(cluster.manage("/disableFLS"), text.format("disabled"))
    assert_refused(cluster.manage("/enableFLS"), text.format("enabled"))
    result = assert_success(cluster.manage("/queryInstance"))["result"]
    assert result["fl_iteration_num"] == 1
    cluster.fresh()
    assert assert_success(cluster.manage("/state"))["cluster_state"] == "CLUSTER_READY"


# -- newInstance -------------------------------------------------------------------------

WHOLE = "New instance failed: Field {} in hyper param config should be unsigned integer number"
REAL = "New instance failed: Field {} in hyper param config should be float or integer number"
POSITIVE = "New instance failed: Field {} in hyper param config should be larger than 0"

WHOLES = (
    *("global_iteration_time_window", "start_fl_job_threshold", "start_fl_job_time_window"),
    *("update_model_time_window", "client_epoch_num", "client_batch_size", "fl_iteration_num"),
)
REALS = ("update_model_ratio", "client_learning_rate")

ORDER = (
    "global_iteration_time_window",
    "start_fl_job_threshold",
    "start_fl_job_time_window",
    "update_model_ratio",
    "update_model_time_window",
    "client_epoch_num",
    "client_batch_size",
    "client_learning_rate",
    "fl_iteration_num",
)


def test_a_new_instance_is_told_and_queried_at_once(cluster: Cluster) -> None:
    reply = new_instance(cluster, {**RUN, "start_fl_job_threshold": 5})

    told = {"code": "0", "message": "Start new instance successful."}
    assert assert_success(reply) == told
    result = assert_success(cluster.manage("/queryInstance"))["result"]
    assert result["start_fl_job_threshold"] == 5


@pytest.mark.parametrize("body", [{}, {"no_such_key": 1}, {"aggregation_type": "FedNova"}])
def test_nothing_that_is_known_is_a_new_instance_with_the_same_parameters(
    cluster: Cluster, body: dict[str, Any]
) -> None:
    before = assert_success(cluster.manage("/queryInstance"))["result"]

    assert_success(new_instance(cluster, body))

    assert assert_success(cluster.manage("/queryInstance"))["result"] == before


def test_what_is_not_named_stays_from_one_new_instance_to_the_next(cluster: Cluster) -> None:
    assert_success(new_instance(cluster, {"start_fl_job_threshold": 7}))
    assert_success(new_instance(cluster, {"client_epoch_num": 3}))

    result = assert_success(cluster.manage("/queryInstance"))["result"]

    assert (result["start_fl_job_threshold"], result["client_epoch_num"]) == (7, 3)


@pytest.mark.parametrize("body", [None, b""], ids=["no length", "empty"])
def test_no_body_is_told_so(cluster: Cluster, body: bytes | None) -> None:
    assert_refused(cluster.manage("/newInstance", body), "The post message size is invalid.")


def test_what_is_not_json_is_told_in_the_words_of_the_original(cluster: Cluster) -> None:
    text = (
        "Illegal JSON format:[json.exception.parse_error.101] parse error at line 1, column 2:"
        " syntax error while parsing value - invalid literal; last read: 'no'"
    )
    assert_refused(cluster.manage("/newInstance", b"not json"), text)
    for body in (b"{", b'{"a":}', b"{'a': 1}", b"\xff", b"[1,]", b"nan"):
        reply = cluster.manage("/newInstance", body)
        assert json.loads(reply.body)["error_message"].startswith("Illegal JSON format:"), reply


@pytest.mark.parametrize("body", [[], 1, "x", None, True])
def test_json_that_is_no_object_is_told_so(cluster: Cluster, body: object) -> None:
    text = "New instance failed: Expect hyper param config to be json object"
    assert_refused(new_instance(cluster, body), text)


@pytest.mark.parametrize("name", WHOLES)
@pytest.mark.parametrize("value", ["2", -1, 1.0, True, False, None, [], {}, 1e3])
def test_a_count_or_window_is_an_unsigned_integer(
    cluster: Cluster, name: str, value: object
) -> None:
    assert_refused(new_instance(cluster, {name: value}), WHOLE.format(name))


@pytest.mark.parametrize("name", WHOLES)
def test_a_count_or_window_of_nothing_is_refused(cluster: Cluster, name: str) -> None:
    """The original takes 0, and no round of that run can end well."""
    assert_refused(new_instance(cluster, {name: 0}), POSITIVE.format(name))


@pytest.mark.parametrize("name", REALS)
@pytest.mark.parametrize("value", ["0.5", True, None, [], {}])
def test_a_ratio_or_rate_is_a_number(cluster: Cluster, name: str, value: object) -> None:
    assert_refused(new_instance(cluster, {name: value}), REAL.format(name))


@pytest.mark.parametrize("name", REALS)
@pytest.mark.parametrize("value", [0, 0.0, -1, -0.5])
def test_a_ratio_or_rate_is_larger_than_0(cluster: Cluster, name: str, value: float) -> None:
    assert_refused(new_instance(cluster, {name: value}), POSITIVE.format(name))


@pytest.mark.parametrize("value", [1.01, 2, 1e9])
def test_a_ratio_is_at_most_1(cluster: Cluster, value: float) -> None:
    text = (
        "New instance failed: Field update_model_ratio in hyper param config should be in range"
        " of (0,1.0]"
    )
    assert_refused(new_instance(cluster, {"update_model_ratio": value}), text)


@pytest.mark.parametrize("at", range(len(ORDER) - 1))
def test_of_two_faults_the_first_in_the_order_is_told(cluster: Cluster, at: int) -> None:
    first, second = ORDER[at : at + 2]
    kind = REAL if first in REALS else WHOLE

    assert_refused(new_instance(cluster, {second: "x", first: "x"}), kind.format(first))


def test_a_refused_new_instance_changes_nothing(cluster: Cluster) -> None:
    before = assert_success(cluster.manage("/queryInstance"))["result"]
    cluster.join("c1")

    new_instance(cluster, {"client_epoch_num": 3, "fl_iteration_num": "x"})

    assert assert_success(cluster.manage("/queryInstance"))["result"] == before
    cluster.join("c2")
    cluster.send("c1")


def test_a_body_over_100_mb_is_told_so(cluster: Cluster) -> None:
    size = 104_857_601
    with Line(cluster.manage_port) as line:
        line.send(request("/newInstance", None, f"Content-Length: {size}"))
        piece = b" " * (1 << 20)
        for _ in range(size // len(piece)):
            line.send(piece)
        line.send(b" " * (size % len(piece)))
        assert_refused(line.receive(), "The post message is bigger than 100mb.")


# -- transport ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/nosuch", "/state/", "/STATE", "/startFLJob", "/getModel"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_get_the_page_and_the_connection_ends(
    cluster: Cluster, path: str, method: str
) -> None:
    with Line(cluster.manage_port) as line:
        line.send(request(path, b"", method=method))
        reply = line.receive()
        assert line.is_over()

    assert reply.status == "HTTP/1.1 404 Not Found"
    assert reply.names == ["Content-Type", "Connection", "Date", "Content-Length"]
    assert reply.body.decode() == (
        "<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1>"
        f"<p>The requested URL {path} was not found on this server.</p></body></html>\n"
    )


@pytest.mark.parametrize("path", CALLS)
def test_options_is_not_implemented(cluster: Cluster, path: str) -> None:
    reply = cluster.manage(path, method="OPTIONS")

    assert reply.status == "HTTP/1.1 501 Not Implemented"
    assert reply.names == ["Content-Type", "Connection", "Date", "Content-Length"]


def test_head_gets_the_body_without_a_length(cluster: Cluster) -> None:
    with Line(cluster.manage_port) as line:
        line.send(request("/state", None, method="HEAD"))
        reply = line.receive()

    assert reply.status == "HTTP/1.1 200 Client"
    assert "Content-Length" not in reply.names
    assert json.loads(reply.body)["cluster_state"] == "CLUSTER_READY"


def test_http_1_0_gets_neither_date_nor_length(cluster: Cluster) -> None:
    reply = ask(cluster.manage_port, request("/state", b"", version="1.0"))

    assert reply.status == "HTTP/1.0 200 Client"
    assert reply.names == ["Content-Type"]
    assert json.loads(reply.body)["code"] == "0"


def test_one_connection_carries_many_calls_without_a_pause(cluster: Cluster) -> None:
    with Line(cluster.manage_port) as line:
        began = time.monotonic()
        for _ in range(50):
            line.send(request("/state", b""))
            assert_success(line.receive())
        # A pause of 40 ms each would add up to two seconds.
        assert time.monotonic() - began < 1.5


def test_a_program_without_a_host_header_is_answered_as_ever(cluster: Cluster) -> None:
    assert_success(ask(cluster.manage_port, b"GET /state HTTP/1.1\r\n\r\n"))
