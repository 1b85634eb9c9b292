"""updateModel: every outcome, which comes first when there are several, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from blackbox.cluster import INITIAL, Cluster, check_in, get_model, now_ms, report, until
from blackbox.wire import Message, features, read, table

SCHEMA = "The schema of RequestUpdateModel is invalid."
FIELDS = "Verify flatbuffers schema failed for RequestUpdateModel."
ENOUGH = "Current amount for updateModel is enough. Please retry later."
UNKNOWN = "devices_meta for {} is not set. Please retry later."
TWICE = "Updating metadata of UpdateModelClientList failed for fl id {}"

NAN, INF = float("nan"), float("inf")
BAD = {**INITIAL, "w000": [NAN, 0.0, 0.0]}


def told(cluster: Cluster, *args: Any, server: int = 0, **fields: Any) -> Message:
    return cluster.say("updateModel", report(*args, **fields), server=server)


def assert_refused(answer: Message, code: int, reason: str) -> None:
    assert (answer.retcode, answer.reason) == (code, reason)
    assert (answer.feature_map, answer.timestamp) == (None, None)
    if reason in (SCHEMA, FIELDS):
        assert answer.next_req_time == ""
    else:
        assert int(answer.next_req_time) > now_ms() + 3_000


def assert_unfit(answer: Message) -> None:
    time = answer.next_req_time
    assert_refused(answer, 400, f"Verify model feature map failed, retry later at time: {time}")


def assert_stale(answer: Message, device: str, number: int, current: int) -> None:
    reason = (
        f"UpdateModel iteration number is invalid:{number}, current iteration:{current},"
        f" Retry later at time: {answer.next_req_time}, fl id is {device}"
    )
    assert_refused(answer, 300, reason)


@pytest.fixture
def joined(cluster: Cluster) -> Cluster:
    """c1 and c2 are in the round."""
    cluster.join("c1", "c2")
    return cluster


def test_a_counted_update_is_told_so_with_a_time(joined: Cluster) -> None:
    answer = joined.send("c1")

    assert (answer.feature_map, answer.timestamp) == (None, None)
    assert int(answer.next_req_time) > now_ms() + 3_000


@pytest.mark.parametrize(
    "body", [b"\x05" * 64, b"\x05", b"\0" * 16, report("c1")[:-6]], ids=range(4)
)
def test_what_is_no_message_is_refused_without_a_time(joined: Cluster, body: bytes) -> None:
    assert_refused(joined.say("updateModel", body), 400, SCHEMA)


NAMELESS = [table("FeatureMap", data=[1.0, 2.0, 3.0])]
EMPTY_HANDED = [table("FeatureMap", weight_fullname="w000")]
ITEM = table("UnsupervisedEvalItem", eval_name="x", eval_data=[0.5])
COMPRESSED = [
    table("CompressFeatureMap", weight_fullname="w000", compress_data=[1], min_val=0, max_val=1)
]


def evaluated(items: Any) -> dict[str, Any]:
    return {"unsupervised_eval_items": table("UnsupervisedEvalItems", eval_items=items)}


INCOMPLETE: dict[str, dict[str, Any]] = {
    "no timestamp": {"timestamp": None},
    "no feature_map": {"feature_map": None},
    "a tensor without a name": {"feature_map": NAMELESS},
    "a tensor without data": {"feature_map": EMPTY_HANDED},
    "a second tensor without data": {"feature_map": [*features(INITIAL), *EMPTY_HANDED]},
    "loss is NaN": {"upload_loss": NAN},
    "loss is infinite": {"upload_loss": INF},
    "loss is minus infinity": {"upload_loss": -INF},
    "accuracy is NaN": {"upload_accuracy": NAN},
    "accuracy is infinite": {"upload_accuracy": INF},
    "evaluation without items": evaluated(None),
    "an evaluation item without data": evaluated([table("UnsupervisedEvalItem", eval_name="x")]),
    "evaluation data with NaN": evaluated([table("UnsupervisedEvalItem", eval_data=[1.0, NAN])]),
    "compressed, without the compressed": {"upload_compress_type": 1},
    "compressed, a tensor without a name": {
        "upload_compress_type": 1,
        "compress_feature_map": [table("CompressFeatureMap", compress_data=[1])],
    },
    "compressed, a tensor without data": {
        "upload_compress_type": 1,
        "compress_feature_map": [table("CompressFeatureMap", weight_fullname="w000")],
    },
}


@pytest.mark.parametrize("fields", INCOMPLETE.values(), ids=INCOMPLETE)
def test_a_missing_or_impossible_field_is_told_in_a_message(
    joined: Cluster, fields: dict[str, Any]
) -> None:
    assert_refused(told(joined, "c1", **fields), 400, FIELDS)
    joined.send("c1")


def test_no_fl_id_is_told_in_a_message_too(joined: Cluster) -> None:
    assert_refused(told(joined, None), 400, FIELDS)


UNFIT: dict[str, dict[str, Any]] = {
    "no tensor at all": {"tensors": {}},
    "too short": {"tensors": {**INITIAL, "w000": [1.0, 2.0]}},
    "too long": {"tensors": {**INITIAL, "w000": [1.0, 2.0, 3.0, 4.0]}},
    "no element": {"tensors": {**INITIAL, "w000": []}},
    "an unknown tensor": {"tensors": {"w999": [1.0]}},
    "an unknown tensor beside the others": {"tensors": {**INITIAL, "w999": [1.0]}},
    "a tensor of another method": {"tensors": {"w000": [0.0] * 3, "control.w000": [0.0] * 3}},
    "NaN": {"tensors": BAD},
    "infinity": {"tensors": {**INITIAL, "w001": [0.0, INF]}},
    "minus infinity": {"tensors": {**INITIAL, "w001": [-INF, 0.0]}},
    "an empty name": {"tensors": {"": [1.0]}},
    "the same tensor twice": {"feature_map": [*features(INITIAL), *features(INITIAL)]},
    "compressed": {"upload_compress_type": 1, "compress_feature_map": COMPRESSED},
    "compressed beside the plain": {
        "upload_compress_type": 2,
        "compress_feature_map": COMPRESSED,
        "feature_map": features(INITIAL),
    },
}


@pytest.mark.parametrize("fields", UNFIT.values(), ids=UNFIT)
def test_content_that_does_not_fit_is_refused_and_nothing_of_it_is_counted(
    joined: Cluster, fields: dict[str, Any]
) -> None:
    assert_unfit(told(joined, "c1", **fields))

    joined.send("c1", tensors={"w000": [32.0] * 3, "w001": [32.0] * 2})
    joined.send("c2", tensors={"w000": [96.0] * 3, "w001": [96.0] * 2})
    assert joined.model(1).tensors == {"w000": [2.0] * 3, "w001": [2.0] * 2}


@pytest.mark.parametrize("number", [0, 2, 7, -1, 2**31 - 1, -(2**31)])
def test_the_number_of_another_round_is_told_with_the_time_in_the_text(
    joined: Cluster, number: int
) -> None:
    assert_stale(told(joined, "c1", number), "c1", number, 1)


def test_a_device_that_did_not_check_in_is_told_so(joined: Cluster) -> None:
    for server in (0, 1):
        assert_refused(told(joined, "zz", server=server), 300, UNKNOWN.format("zz"))


def test_before_anybody_checked_in_nobody_has(cluster: Cluster) -> None:
    assert_refused(told(cluster, "c1"), 300, UNKNOWN.format("c1"))


@pytest.mark.parametrize("server", [0, 1])
def test_a_repeat_is_refused_by_either_server_and_counted_once(
    joined: Cluster, server: int
) -> None:
    joined.send("c1", tensors={"w000": [32.0] * 3, "w001": [32.0] * 2})

    assert_refused(told(joined, "c1", server=server), 300, TWICE.format("c1"))

    joined.send("c2", tensors={"w000": [96.0] * 3, "w001": [96.0] * 2})
    assert joined.model(1).tensors == {"w000": [2.0] * 3, "w001": [2.0] * 2}


def test_enough_is_told_by_either_server_until_the_model_was_handed_out(joined: Cluster) -> None:
    joined.send("c1")
    joined.send("c2", server=1)

    for server in (0, 1):
        for device in ("c1", "c2", "zz"):
            assert_refused(told(joined, device, server=server), 300, ENOUGH)


# -- which of two faults is told ---------------------------------------------------------

Assert = Callable[[Message], None]


@pytest.mark.parametrize("fields", [{"timestamp": None}, {"upload_loss": NAN}])
def test_the_form_comes_before_enough(joined: Cluster, fields: dict[str, Any]) -> None:
    joined.send("c1")
    joined.send("c2")

    assert_refused(told(joined, "c1", **fields), 400, FIELDS)
    assert_refused(joined.say("updateModel", b"\x05" * 64), 400, SCHEMA)


def test_the_form_comes_before_everything_about_the_device(joined: Cluster) -> None:
    assert_refused(told(joined, "zz", 9, BAD, timestamp=None), 400, FIELDS)


@pytest.mark.parametrize("args", [("zz", 1), ("c1", 7), ("c1", 1, BAD), ("c1", 1)])
def test_enough_comes_before_device_round_content_and_repeat(
    joined: Cluster, args: tuple[Any, ...]
) -> None:
    joined.send("c1")
    joined.send("c2")

    assert_refused(told(joined, *args), 300, ENOUGH)


def test_the_device_comes_before_its_round_and_its_content(joined: Cluster) -> None:
    assert_refused(told(joined, "zz", 7), 300, UNKNOWN.format("zz"))
    assert_refused(told(joined, "zz", 1, BAD), 300, UNKNOWN.format("zz"))


def test_the_round_comes_before_content_and_repeat(joined: Cluster) -> None:
    assert_stale(told(joined, "c1", 2, BAD), "c1", 2, 1)
    joined.send("c1")
    assert_stale(told(joined, "c1", 2), "c1", 2, 1)


def test_the_content_comes_before_a_repeat(joined: Cluster) -> None:
    joined.send("c1")

    for server in (0, 1):
        assert_unfit(told(joined, "c1", 1, BAD, server=server))
    assert_unfit(told(joined, "c1", 1, {**INITIAL, "w000": [1.0]}))


# -- what is accepted, and what it does --------------------------------------------------

OTHERWISE: dict[str, dict[str, Any]] = {
    "another fl_name": {"fl_name": "NotTheJob"},
    "no fl_name": {"fl_name": None},
    "a timestamp that is a date": {"timestamp": "2020/11/16/19/18"},
    "an empty timestamp": {"timestamp": ""},
    "a signature nobody asked for": {"signature": [1, 2, 3]},
    "a sign and indices": {"sign": 1, "index_array": [3, -1]},
    "names of tensors": {"name_vec": ["w001", "nothing"]},
    "a sparse rate": {"upload_sparse_rate": NAN},
    "evaluation data nobody asked for": evaluated([ITEM, ITEM]),
    "an evaluation without anything": evaluated([]),
    "a compressed list beside the plain": {"compress_feature_map": COMPRESSED},
    "no loss": {"upload_loss": 0.0},
    "a negative loss": {"upload_loss": -3e38},
}


@pytest.mark.parametrize("fields", OTHERWISE.values(), ids=OTHERWISE)
def test_what_is_not_looked_at_makes_no_difference(joined: Cluster, fields: dict[str, Any]) -> None:
    joined.send("c1", **fields)


def test_the_model_is_the_mean_by_data_size_over_both_servers(cluster: Cluster) -> None:
    cluster.say("startFLJob", check_in("c1", data_size=10))
    cluster.say("startFLJob", check_in("c2", data_size=30), server=1)
    one, three = {"w000": [1.0, 2.0, 3.0], "w001": [4.0, 5.0]}, [5.0, 1.0]

    cluster.send("c1", tensors={name: [10 * x for x in xs] for name, xs in one.items()})
    cluster.send("c2", tensors={"w001": [30 * x for x in three], "w000": [30.0] * 3}, server=1)

    for server in (0, 1):
        model = cluster.model(1, server=server)
        assert model.tensors == {"w000": [1.0, 1.25, 1.5], "w001": [4.75, 2.0]}
        assert list(model.tensors or ()) == ["w000", "w001"]


def test_a_tensor_left_out_is_averaged_over_those_who_sent_it(cluster: Cluster) -> None:
    cluster.say("startFLJob", check_in("c1", data_size=10))
    cluster.say("startFLJob", check_in("c2", data_size=30))

    cluster.send("c1", tensors={"w000": [10.0, 20.0, 30.0], "w001": [80.0, 40.0]})
    cluster.send("c2", tensors={"w001": [0.0, 0.0]})

    assert cluster.model(1).tensors == {"w000": [1.0, 2.0, 3.0], "w001": [2.0, 1.0]}


def test_a_tensor_that_nobody_sent_keeps_its_value_and_is_left_out_of_that_model(
    joined: Cluster,
) -> None:
    base = joined.model(0).tensors or {}

    joined.send("c1", tensors={"w001": [32.0, 32.0]})
    joined.send("c2", tensors={"w001": [32.0, 32.0]}, server=1)

    for server in (0, 1):
        assert joined.model(1, server=server).tensors == {"w001": [1.0, 1.0]}
    assert joined.join("c1").tensors == {"w000": base["w000"], "w001": [1.0, 1.0]}


def test_repeats_that_come_together_at_both_servers_are_counted_once(joined: Cluster) -> None:
    body = report("c1", tensors={"w000": [32.0] * 3, "w001": [32.0] * 2})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: joined.say("updateModel", body, server=n % 2), range(8)))

    assert sorted(each.retcode for each in answers) == [200] + [300] * 7
    joined.send("c2", tensors={"w000": [96.0] * 3, "w001": [96.0] * 2})
    assert joined.model(1).tensors == {"w000": [2.0] * 3, "w001": [2.0] * 2}


def test_no_more_than_the_goal_is_counted(cluster: Cluster) -> None:
    cluster.fresh(start_fl_job_threshold=12, update_model_ratio=0.5)
    cluster.join(*(f"c{n}" for n in range(12)))

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: told(cluster, f"c{n}", server=n % 2), range(12)))

    assert [each.retcode for each in answers].count(200) == 6
    assert {each.reason for each in answers} == {"success not ready", ENOUGH}


def test_losses_and_accuracies_are_averaged_by_their_data_sizes(cluster: Cluster) -> None:
    cluster.say("startFLJob", check_in("c1", data_size=10, eval_data_size=4))
    cluster.say("startFLJob", check_in("c2", data_size=30, eval_data_size=1))
    cluster.send("c1", upload_loss=1.0, upload_accuracy=0.5)
    cluster.send("c2", upload_loss=3.0, upload_accuracy=1.0, server=1)
    cluster.model(1)

    line = cluster.metrics()[-1]

    assert line["metricsLoss"] == pytest.approx(2.5)
    assert line["metricsAuc"] == pytest.approx(0.6)
    assert (line["currentIteration"], line["iterationResult"]) == (1, "success")


# -- stragglers --------------------------------------------------------------------------


def until_handed_out(cluster: Cluster, number: int, device: str) -> None:
    """Return when the servers know that a device has the model of the round before."""
    cluster.model(number)
    reason = UNKNOWN.format(device)
    for server in range(len(cluster.ports)):
        until(
            lambda s=server: told(cluster, device, number, server=s).reason == reason,
            "the model was handed out",
        )


def test_a_straggler_of_the_round_before_is_judged_against_the_new_one(cluster: Cluster) -> None:
    cluster.fresh(update_model_ratio=0.5)
    cluster.join("c1", "c2")
    cluster.send("c1")
    until_handed_out(cluster, 1, "c2")

    assert_refused(told(cluster, "c2", 1), 300, UNKNOWN.format("c2"))
    cluster.join("c2")
    assert_stale(told(cluster, "c2", 1), "c2", 1, 2)
    cluster.send("c2", 2)
    assert cluster.model(2).retcode == 200


def test_a_straggler_gets_the_model_of_its_round(joined: Cluster) -> None:
    joined.send("c1")
    joined.send("c2")
    first = joined.model(1).tensors
    joined.join("c1", "c2")
    joined.send("c1", 2, {"w000": [0.0] * 3, "w001": [0.0] * 2})
    joined.send("c2", 2, {"w000": [0.0] * 3, "w001": [0.0] * 2})
    joined.model(2)

    late = read("ResponseGetModel", joined.post("getModel", get_model(1)).body)

    assert (late.retcode, late.tensors) == (200, first)


# -- times -------------------------------------------------------------------------------


def test_a_device_whose_clock_is_fast_is_told_a_time_ahead_by_its_own_clock(
    joined: Cluster,
) -> None:
    fast = now_ms() + 3 * 3_600_000

    unknown = told(joined, "zz", timestamp=str(fast))
    stale = told(joined, "c1", 5, timestamp=str(fast))
    unfit = told(joined, "c1", 1, BAD, timestamp=str(fast))

    assert_stale(stale, "c1", 5, 1)
    assert_unfit(unfit)
    for answer in (unknown, stale, unfit):
        assert fast + 3_000 < int(answer.next_req_time) < fast + 70_000
