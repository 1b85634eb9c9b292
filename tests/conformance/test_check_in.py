"""startFLJob: every outcome, which comes first when there are several, and every field."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from blackbox.cluster import INITIAL, Cluster, check_in, now_ms
from blackbox.wire import Message, read

SCHEMA = "The schema of RequestFLJob is invalid."
FIELDS = b"Verify flatbuffers schema failed for RequestFLJob."
FULL = "Current amount for startFLJob has reached the threshold. Please startFLJob later."
SMALL = "FL job data size is not enough."
LARGE = "FL job data size is too large."
TWICE = "Updating device metadata failed for fl id {}"

GARBAGE = (b"\x05" * 64, b"\x05", b"\x00" * 8, b"FLJ0", check_in("x")[:-6])


def told(cluster: Cluster, *args: Any, server: int = 0, **fields: Any) -> Message:
    return cluster.say("startFLJob", check_in(*args, **fields), server=server)


def assert_refused(answer: Message, code: int, reason: str, *, number: int = 1) -> None:
    """Every field of a refusal, and that its time lies ahead."""
    assert (answer.retcode, answer.reason, answer.iteration) == (code, reason, number)
    assert not answer.is_selected
    assert answer.tensors == {}
    assert_common(answer)
    if code == 400:
        assert answer.next_req_time == ""
    else:
        assert int(answer.next_req_time) > now_ms() + 3_000


def assert_common(answer: Message) -> None:
    """What every answer holds, refusals included: devices end when the plan is not there."""
    assert answer.timestamp is None
    assert answer.compress_feature_map == []
    assert (answer.upload_compress_type, answer.download_compress_type) == (0, 0)
    assert answer.upload_sparse_rate == pytest.approx(0.4)
    assert answer.unsupervised_eval_flg == 0
    plan = answer.fl_plan_config
    assert (plan.server_mode, plan.fl_name) == ("FEDERATED_LEARNING", "Bench")
    assert (plan.iterations, plan.epochs, plan.mini_batch) == (4, 20, 32)
    assert plan.lr > 0
    assert (plan.early_stop, plan.aggregation, plan.metrics, plan.shuffle) == (None,) * 3 + (False,)
    cipher = plan.cipher
    assert cipher.encrypt_type == "NOT_ENCRYPT"
    assert (cipher.pw_params.t, cipher.pw_params.g) == (0, 0)
    assert list(cipher.pw_params.p) == [0] * 32
    assert list(cipher.pw_params.prime) == [0] * 33
    shown = ("dp_eps", "dp_delta", "dp_norm_clip")
    assert [getattr(cipher.dp_params, name) for name in shown] == [0] * 3
    shown = ("sign_k", "sign_eps", "sign_thr_ratio", "sign_global_lr", "sign_dim_out")
    assert [getattr(cipher.ds_params, name) for name in shown] == [0] * 5


def test_an_admitted_device_is_told_everything(cluster: Cluster) -> None:
    base = cluster.model(0).tensors

    answer = told(cluster, "c1")

    assert (answer.retcode, answer.reason, answer.iteration) == (200, "success", 1)
    assert answer.is_selected
    assert answer.tensors == base
    assert list(base or ()) == ["w000", "w001"]
    assert int(answer.next_req_time) > now_ms() + 3_000
    assert_common(answer)


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_no_message_is_refused_with_the_plan_and_without_a_time(
    cluster: Cluster, body: bytes
) -> None:
    assert_refused(cluster.say("startFLJob", body), 400, SCHEMA)


@pytest.mark.parametrize("name", ["fl_id", "fl_name", "timestamp"])
def test_a_missing_field_is_told_in_plain_text(cluster: Cluster, name: str) -> None:
    fields: dict[str, Any] = {name: None} if name != "fl_id" else {}
    device = None if name == "fl_id" else "x"

    assert cluster.post("startFLJob", check_in(device, **fields)).body == FIELDS


@pytest.mark.parametrize(
    ("data_size", "reason"),
    [(0, SMALL), (-1, LARGE), (-(2**31), LARGE), (65_536, LARGE), (2**31 - 1, LARGE)],
)
def test_a_data_size_outside_1_to_65535_is_refused(
    cluster: Cluster, data_size: int, reason: str
) -> None:
    assert_refused(told(cluster, "c1", data_size=data_size), 300, reason)
    assert told(cluster, "c1", data_size=1).retcode == 200


@pytest.mark.parametrize("data_size", [1, 65_535])
def test_the_bounds_of_the_data_size_are_admitted(cluster: Cluster, data_size: int) -> None:
    assert told(cluster, "c1", data_size=data_size).retcode == 200


@pytest.mark.parametrize("server", [0, 1])
def test_a_repeat_is_refused_by_either_server(cluster: Cluster, server: int) -> None:
    cluster.join("c1")

    again = told(cluster, "c1", data_size=7, server=server)

    assert_refused(again, 300, TWICE.format("c1"))


def test_one_more_than_the_threshold_is_refused_by_either_server(cluster: Cluster) -> None:
    cluster.join("c1", "c2")

    for server in (0, 1):
        assert_refused(told(cluster, "c3", server=server), 300, FULL)


# -- which of two faults is told ---------------------------------------------------------


def test_the_form_comes_before_the_threshold(cluster: Cluster) -> None:
    cluster.join("c1", "c2")

    assert_refused(cluster.say("startFLJob", b"\x05" * 64), 400, SCHEMA)
    assert cluster.post("startFLJob", check_in(None)).body == FIELDS


def test_missing_fields_come_before_the_data_size(cluster: Cluster) -> None:
    body = check_in("c1", fl_name=None, data_size=0)

    assert cluster.post("startFLJob", body).body == FIELDS


@pytest.mark.parametrize("data_size", [0, -5, 65_536])
def test_the_threshold_comes_before_the_data_size(cluster: Cluster, data_size: int) -> None:
    cluster.join("c1", "c2")

    assert_refused(told(cluster, "c3", data_size=data_size), 300, FULL)


def test_the_threshold_comes_before_a_repeat(cluster: Cluster) -> None:
    cluster.join("c1")
    assert_refused(told(cluster, "c1"), 300, TWICE.format("c1"))
    cluster.join("c2")

    for server in (0, 1):
        assert_refused(told(cluster, "c1", server=server), 300, FULL)


@pytest.mark.parametrize(("data_size", "reason"), [(0, SMALL), (65_536, LARGE)])
def test_the_data_size_comes_before_a_repeat(cluster: Cluster, data_size: int, reason: str) -> None:
    cluster.join("c1")

    assert_refused(told(cluster, "c1", data_size=data_size), 300, reason)


# -- what makes no difference ------------------------------------------------------------

UNUSUAL = {
    "empty": "",
    "unicode": "设备-🚲",
    "long": "x" * 4096,
    "no UTF-8": b"\xff\xfe\x80",
    "braces": "{device} {0} %s",
    "colon": "a:1",
    "control": "a\n\t\x01b",
    "zero": "a\0b",
}


@pytest.mark.parametrize("device", UNUSUAL.values(), ids=UNUSUAL)
def test_any_fl_id_is_a_device(cluster: Cluster, device: str | bytes) -> None:
    shown = device.decode("utf-8", "surrogateescape") if isinstance(device, bytes) else device

    assert told(cluster, device).retcode == 200
    assert_refused(told(cluster, device, server=1), 300, TWICE.format(shown))


def test_ids_that_look_alike_are_different_devices(cluster: Cluster) -> None:
    cluster.fresh(start_fl_job_threshold=5)

    answers = [told(cluster, each).retcode for each in ("c", "C", "c ", "", "\uff43")]

    assert answers == [200] * 5


OTHERWISE: dict[str, dict[str, Any]] = {
    "another fl_name": {"fl_name": "NotTheJob"},
    "an empty fl_name": {"fl_name": ""},
    "a future iteration": {"iteration": 99},
    "a negative iteration": {"iteration": -1},
    "a timestamp that is a date": {"timestamp": "2020/11/16/19/18"},
    "an empty timestamp": {"timestamp": ""},
    "a timestamp of 1970": {"timestamp": "1"},
    "a timestamp of 2100": {"timestamp": "4102444800000"},
    "evaluation samples": {"eval_data_size": 16},
    "negative evaluation samples": {"eval_data_size": -16},
    "downloads, as Java devices ask": {"download_compress_types": [0, 2]},
    "quantised downloads only": {"download_compress_types": [2]},
    "no kind of download": {"download_compress_types": []},
    "unknown kinds of download": {"download_compress_types": [127, 255, 1]},
    "signatures nobody asked for": {"sign_data": [1, 2], "equip_cert": "x", "root_cert": ""},
}


@pytest.mark.parametrize("fields", OTHERWISE.values(), ids=OTHERWISE)
def test_what_is_not_looked_at_makes_no_difference(
    cluster: Cluster, fields: dict[str, Any]
) -> None:
    answer = told(cluster, "c1", **fields)

    assert (answer.retcode, answer.iteration) == (200, 1)
    assert list(answer.tensors or ()) == list(INITIAL)
    assert_common(answer)


def test_every_device_and_server_tells_the_tensors_in_the_same_order(cluster: Cluster) -> None:
    cluster.fresh(start_fl_job_threshold=6)

    answers = [told(cluster, f"c{n}", server=n % 2).tensors for n in range(6)]

    assert [list(each or ()) for each in answers] == [["w000", "w001"]] * 6
    assert all(each == answers[0] for each in answers)


def test_devices_that_come_together_never_exceed_the_threshold(cluster: Cluster) -> None:
    cluster.fresh(start_fl_job_threshold=7)

    with ThreadPoolExecutor(16) as pool:
        told_all = list(pool.map(lambda n: told(cluster, f"c{n}", server=n % 2), range(32)))

    assert sorted(each.retcode for each in told_all) == [200] * 7 + [300] * 25
    assert {each.reason for each in told_all} == {"success", FULL}


def test_of_one_device_that_comes_many_times_at_once_one_is_admitted(cluster: Cluster) -> None:
    with ThreadPoolExecutor(8) as pool:
        told_all = list(pool.map(lambda n: told(cluster, "c1", server=n % 2), range(8)))

    assert sorted(each.retcode for each in told_all) == [200] + [300] * 7
    assert {each.reason for each in told_all} == {"success", TWICE.format("c1")}


# -- times -------------------------------------------------------------------------------


def test_the_time_is_when_the_round_is_over_at_the_latest(cluster: Cluster) -> None:
    before = now_ms()
    cluster.join("c1")

    refused = told(cluster, "c1")

    windows = 30_000 + 30_000
    assert before + windows <= int(refused.next_req_time) <= now_ms() + windows


def test_a_device_whose_clock_is_fast_is_told_a_time_ahead_by_its_own_clock(
    cluster: Cluster,
) -> None:
    """It ends for good when told to come back in what its clock calls the past."""
    cluster.join("c1", "c2")
    fast = now_ms() + 3 * 3_600_000

    refused = told(cluster, "c3", timestamp=str(fast))

    assert fast + 3_000 < int(refused.next_req_time) < fast + 70_000


@pytest.mark.parametrize("timestamp", ["1", "", "2020/11/16/19/18", "9" * 19, "-5", "४"])
def test_a_timestamp_that_is_no_clock_of_today_does_not_move_the_time(
    cluster: Cluster, timestamp: str
) -> None:
    cluster.join("c1", "c2")

    refused = told(cluster, "c3", timestamp=timestamp)

    assert now_ms() + 3_000 < int(refused.next_req_time) < now_ms() + 70_000


def test_the_plan_follows_the_parameters_of_the_run(cluster: Cluster) -> None:
    cluster.fresh(
        client_epoch_num=3, client_batch_size=8, client_learning_rate=0.25, fl_iteration_num=9
    )

    plan = told(cluster, "c1").fl_plan_config

    assert (plan.epochs, plan.mini_batch, plan.lr, plan.iterations) == (3, 8, 0.25, 9)


def test_an_answer_is_readable_without_file_identifier_or_size_prefix(cluster: Cluster) -> None:
    body = cluster.post("startFLJob", check_in("c1")).body

    assert body[4:8] != b"FLJ0"
    assert read("ResponseFLJob", body).retcode == 200
