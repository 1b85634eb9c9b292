"""updateModel: every check in its order, what is counted, and what a repeat is told."""

from __future__ import annotations

import asyncio
import hashlib
import math
from typing import Any

import numpy as np
import pytest

from fl_cluster.wire import flat, messages, packed
from fl_cluster.wire.messages import ResponseCode

SCHEMA = "The schema of RequestUpdateModel is invalid."
LACKING = "Verify flatbuffers schema failed for RequestUpdateModel."
ENOUGH = "Current amount for updateModel is enough. Please retry later."
COUNTED = "success not ready"
SAFEMODE = "The cluster is in safemode."
OVER = "The server's training job is disabled or finished."

WHOLE = {"w000": [1.0, 2.0, 3.0], "w001": [4.0, 5.0]}

NAN, INF = math.nan, math.inf


def not_in_cohort(device: str) -> str:
    return f"devices_meta for {device} is not set. Please retry later."


def duplicate(device: str) -> str:
    return f"Updating metadata of UpdateModelClientList failed for fl id {device}"


def outcome(reply: Any) -> tuple[int, str]:
    return reply.message.retcode, reply.message.reason


def unfit(reply: Any) -> bool:
    """Whether the answer says that the content cannot be used, and when to come back."""
    answer = reply.message
    time = answer.next_req_time
    text = f"Verify model feature map failed, retry later at time: {time}"
    return bool(answer == refused(400, text, time))


def refused(code: int, reason: str, time: str) -> messages.ResponseUpdateModel:
    """The whole answer: there is nothing else in it."""
    return messages.ResponseUpdateModel(
        retcode=ResponseCode(code), reason=reason, next_req_time=time
    )


@pytest.fixture
async def full(bench: Any, member: Any) -> Any:
    """A round whose cohort is d1 with 10 samples and d2 with 30."""
    await member.flat.check_in("d1", data_size=10)
    await member.flat.check_in("d2", data_size=30)
    return member


# -- the checks, in their order ----------------------------------------------------------


async def test_a_counted_update_is_told_so_with_a_time(
    bench: Any, full: Any, is_ahead: Any
) -> None:
    answer = (await full.flat.report("d1")).message

    assert answer == refused(200, COUNTED, answer.next_req_time)
    assert is_ahead(answer.next_req_time)
    assert bench.counted == ["d1"]


@pytest.mark.parametrize("body", [b"\x05" * 64, b"x", bytes(2_000)])
async def test_what_is_no_message_is_refused_without_a_time(member: Any, body: bytes) -> None:
    reply = await member.flat.send_raw("updateModel", body)

    assert reply.message == refused(400, SCHEMA, "")


LACKING_SOMETHING: dict[str, dict[str, Any]] = {
    "no fl_id": {"fl_id": None},
    "no timestamp": {"timestamp": None},
    "no feature_map": {"feature_map": None},
    "a tensor without a name": {
        "feature_map": (messages.FeatureMap(None, np.zeros(3, np.float32)),)
    },
    "a tensor without data": {"feature_map": (messages.FeatureMap("w000", None),)},
    "compressed without compress_feature_map": {"upload_compress_type": 1},
    "compressed without a name": {
        "upload_compress_type": 1,
        "compress_feature_map": (messages.CompressFeatureMap(None, np.zeros(3, np.int8)),),
    },
    "compressed without data": {
        "upload_compress_type": 1,
        "compress_feature_map": (messages.CompressFeatureMap("w000", None),),
    },
    "loss NaN": {"upload_loss": NAN},
    "loss infinite": {"upload_loss": INF},
    "accuracy NaN": {"upload_accuracy": NAN},
    "accuracy infinite": {"upload_accuracy": -INF},
    "no eval_items": {"unsupervised_eval_items": messages.UnsupervisedEvalItems()},
    "no eval_data": {
        "unsupervised_eval_items": messages.UnsupervisedEvalItems(
            (messages.UnsupervisedEvalItem("x"),)
        )
    },
    "eval_data NaN": {
        "unsupervised_eval_items": messages.UnsupervisedEvalItems(
            (messages.UnsupervisedEvalItem("x", np.array([1, NAN], np.float32)),)
        )
    },
}


@pytest.mark.parametrize("lacking", LACKING_SOMETHING)
async def test_a_missing_or_impossible_field_comes_before_everything_else(
    member: Any, lacking: str
) -> None:
    """Not even the cohort is looked at, and there is nothing to come back for."""
    message = member.flat.report_message("stranger")._replace(**LACKING_SOMETHING[lacking])

    reply = await member.flat.send(message)

    assert reply.message == refused(400, LACKING, "")


async def test_evaluation_data_that_nobody_asked_for_is_no_reason_to_refuse(full: Any) -> None:
    items = messages.UnsupervisedEvalItems(
        (messages.UnsupervisedEvalItem(None, np.array([1, 2], np.float32)),)
    )

    assert outcome(await full.flat.report("d1", unsupervised_eval_items=items)) == (200, COUNTED)


@pytest.mark.parametrize("number", [0, 1, 7])
async def test_a_device_that_is_not_in_the_cohort_hears_of_that_before_its_round(
    full: Any, is_ahead: Any, number: int
) -> None:
    answer = (await full.flat.report("zz", number, tensors={"w000": [NAN]})).message

    assert answer == refused(300, not_in_cohort("zz"), answer.next_req_time)
    assert is_ahead(answer.next_req_time)


async def test_in_a_round_that_nobody_has_joined_nobody_is_in_the_cohort(member: Any) -> None:
    assert outcome(await member.flat.report("d1")) == (300, not_in_cohort("d1"))


@pytest.mark.parametrize("number", [0, 2, 7, -1, 2**31 - 1, -(2**31)])
async def test_the_number_of_another_round_comes_before_the_content(
    bench: Any, full: Any, is_ahead: Any, number: int
) -> None:
    answer = (await full.flat.report("d1", number, tensors={"w000": [NAN]})).message

    time = answer.next_req_time
    reason = (
        f"UpdateModel iteration number is invalid:{number}, current iteration:1,"
        f" Retry later at time: {time}, fl id is d1"
    )
    assert answer == refused(300, reason, time)
    assert is_ahead(time)
    assert bench.counted == []


UNFIT: dict[str, dict[str, list[float]]] = {
    "no tensor": {},
    "too short": {"w000": [1.0, 2.0]},
    "too long": {"w000": [1.0, 2.0, 3.0, 4.0]},
    "no values": {"w000": []},
    "the other's size": {"w000": [1.0, 2.0], "w001": [1.0, 2.0, 3.0]},
    "an unknown tensor": {**WHOLE, "w002": [1.0]},
    "NaN": {**WHOLE, "w001": [1.0, NAN]},
    "infinity": {**WHOLE, "w001": [1.0, INF]},
    "minus infinity": {**WHOLE, "w000": [-INF, 1.0, 1.0]},
    "NaN in what is not averaged": {**WHOLE, "steps": [NAN]},
    "wrong size of what is not averaged": {**WHOLE, "steps": [1.0, 2.0]},
    "a weight beyond what can be added": {**WHOLE, "w000": [3e38, 1.0, 1.0]},
}


@pytest.mark.parametrize("kind", UNFIT)
async def test_content_that_does_not_fit_is_refused_and_nothing_of_it_is_added(
    bench: Any, full: Any, is_ahead: Any, kind: str
) -> None:
    reply = await full.flat.report("d1", tensors=UNFIT[kind])
    assert unfit(reply)
    assert is_ahead(reply.message.next_req_time)
    assert bench.counted == []

    # The device may still send what fits, and only that is in the model.
    assert outcome(await full.flat.report("d1", tensors=WHOLE)) == (200, COUNTED)
    assert outcome(await full.flat.report("d2", tensors=WHOLE)) == (200, COUNTED)
    await bench.finish_round()
    expected = {name: [x / 20 for x in values] for name, values in WHOLE.items()}
    assert (await full.packed.get_model(1)).tensors == {
        name: np.array(values, np.float32).tolist() for name, values in expected.items()
    }


async def test_a_tensor_that_comes_twice_does_not_fit(full: Any) -> None:
    twice = (messages.FeatureMap("w000", np.ones(3, np.float32)),) * 2

    assert unfit(await full.flat.report("d1", feature_map=twice))


async def test_more_tensors_than_the_model_has_do_not_fit(full: Any) -> None:
    many = {**WHOLE, "steps": [7.0], **{f"extra{n}": [1.0] for n in range(100)}}

    assert unfit(await full.flat.report("d1", tensors=many))


@pytest.mark.parametrize("kind", [1, 2, 77])
async def test_a_compressed_update_does_not_fit_a_job_without_compression(
    full: Any, kind: int
) -> None:
    compressed = (messages.CompressFeatureMap("w000", np.zeros(3, np.int8), -1.0, 1.0),)
    message = full.flat.report_message(
        "d1", upload_compress_type=kind, compress_feature_map=compressed
    )

    assert unfit(await full.flat.send(message._replace(feature_map=None)))
    # The plain tensors beside them are not taken for the update.
    assert unfit(await full.flat.send(message))


async def test_content_that_does_not_fit_comes_before_a_repeat(full: Any) -> None:
    await full.flat.report("d1")

    assert unfit(await full.flat.report("d1", tensors={"w000": [1.0]}))
    assert outcome(await full.flat.report("d1")) == (300, duplicate("d1"))


async def test_a_repeat_is_refused_by_every_member_and_counted_once(
    bench: Any, is_ahead: Any
) -> None:
    await bench.open()
    one, other = await bench.member(), await bench.member()
    for device in ("d1", "d2"):
        await one.flat.check_in(device)
    await one.flat.report("d1")
    await one.deliveries.flush()

    for member in (one, other):
        answer = (await member.flat.report("d1")).message
        assert answer == refused(300, duplicate("d1"), answer.next_req_time)
        assert is_ahead(answer.next_req_time)
    assert bench.counted == ["d1"]


async def test_a_name_of_the_job_is_not_compared(full: Any) -> None:
    assert outcome(await full.flat.report("d1", fl_name="Wrong")) == (200, COUNTED)
    assert outcome(await full.flat.report("d2", fl_name=None)) == (200, COUNTED)


# -- what is counted ---------------------------------------------------------------------


async def test_the_model_is_the_mean_by_data_size(bench: Any, full: Any) -> None:
    await full.flat.report("d1", tensors={"w000": [10.0, 20.0, 30.0], "w001": [10.0, 0.0]})
    await full.flat.report("d2", tensors={"w000": [30.0, 90.0, 0.0], "w001": [-50.0, 4.0]})

    await bench.finish_round()

    reply = await full.flat.get_model(1)
    assert reply.tensors == {"w000": [1.0, 2.75, 0.75], "w001": [-1.0, np.float32(0.1)]}


async def test_a_tensor_that_was_left_out_is_averaged_over_those_who_sent_it(
    bench: Any, full: Any
) -> None:
    only = {"w001": [60.0, 90.0]}
    assert outcome(await full.flat.report("d1", tensors=WHOLE)) == (200, COUNTED)
    assert outcome(await full.flat.report("d2", tensors=only)) == (200, COUNTED)

    await bench.finish_round()

    reply = await full.packed.get_model(1)
    expected = {"w000": [0.1, 0.2, 0.3], "w001": [64 / 40, 95 / 40]}
    assert reply.tensors == {
        name: np.array(values, np.float32).tolist() for name, values in expected.items()
    }


async def test_what_is_not_averaged_may_be_sent_and_changes_nothing(bench: Any, full: Any) -> None:
    for device in ("d1", "d2"):
        reply = await full.flat.report(device, tensors={**WHOLE, "steps": [99.0]})
        assert outcome(reply) == (200, COUNTED)

    await bench.finish_round()

    assert (await full.flat.check_in("d1")).tensors["steps"] == [7.0]


async def test_plain_weights_are_multiplied_by_the_data_size_of_the_check_in(
    bench: Any, full: Any
) -> None:
    one = {"w000": [1.0, 2.0, 3.0], "w001": [0.0, 0.0]}
    other = {"w000": [5.0, 6.0, 7.0], "w001": [4.0, 8.0]}
    await full.packed.report("d1", tensors=one, plain_weights=True)
    await full.packed.report("d2", tensors=other, plain_weights=True)

    await bench.finish_round()

    # 10 samples and 30.
    reply = await full.packed.get_model(1)
    assert reply.tensors == {"w000": [4.0, 5.0, 6.0], "w001": [3.0, 6.0]}


async def test_devices_of_both_encodings_share_a_round(bench: Any, full: Any) -> None:
    await full.flat.report("d1", tensors={"w000": [10.0] * 3, "w001": [10.0] * 2})
    await full.packed.report(
        "d2", tensors={"w000": [5.0] * 3, "w001": [5.0] * 2}, plain_weights=True
    )

    await bench.finish_round()

    expected = {"w000": [4.0] * 3, "w001": [4.0] * 2}
    assert (await full.flat.get_model(1)).tensors == expected
    assert (await full.packed.get_model(1)).tensors == expected


# -- once the goal is met ----------------------------------------------------------------


@pytest.fixture
async def met(bench: Any) -> Any:
    """A member of a job in which 2 of 3 have to report, and two have."""
    await bench.open(round__start_fl_job_threshold=3, round__update_model_ratio=0.5)
    member = await bench.member()
    for device in ("d1", "d2", "d3"):
        await member.flat.check_in(device)
    for device in ("d1", "d2"):
        assert outcome(await member.flat.report(device)) == (200, COUNTED)
    return member


CASES = {
    "the third of the cohort": ("d3", 1, WHOLE),
    "a repeat": ("d1", 1, WHOLE),
    "a stranger": ("zz", 1, WHOLE),
    "another round": ("d3", 9, WHOLE),
    "content that does not fit": ("d3", 1, {"w000": [NAN]}),
}


@pytest.mark.parametrize("case", CASES)
async def test_enough_comes_before_everything_but_the_form(
    met: Any, is_ahead: Any, case: str
) -> None:
    device, number, tensors = CASES[case]

    answer = (await met.flat.report(device, number, tensors=tensors)).message

    assert answer == refused(300, ENOUGH, answer.next_req_time)
    assert is_ahead(answer.next_req_time)
    lacking = await met.flat.report(device, number, timestamp=None)
    assert lacking.message == refused(400, LACKING, "")


async def test_enough_lasts_until_the_model_was_handed_out_then_the_new_round_counts(
    bench: Any, met: Any, until: Any
) -> None:
    await bench.finish_round()
    assert outcome(await met.flat.report("d3", 1)) == (300, ENOUGH)
    assert outcome(await met.flat.report("d3", 2)) == (300, not_in_cohort("d3"))

    assert (await met.flat.get_model(1)).message.retcode == 200
    await until(lambda: bench.rounds._round.served)

    assert outcome(await met.flat.report("d3", 1)) == (300, not_in_cohort("d3"))
    await met.flat.check_in("d3")
    code, reason = outcome(await met.flat.report("d3", 1))
    assert (code, reason[:54]) == (300, "UpdateModel iteration number is invalid:1, current ite")


async def test_checking_in_to_the_next_round_hands_the_model_out_too(
    bench: Any, met: Any, until: Any
) -> None:
    await bench.finish_round()
    await met.flat.check_in("d1")
    await until(lambda: bench.rounds._round.served)

    assert outcome(await met.flat.report("d3", 1)) == (300, not_in_cohort("d3"))


async def test_a_failed_note_that_the_model_was_handed_out_is_made_up_for(
    bench: Any, met: Any, until: Any
) -> None:
    await bench.finish_round()
    met.lose_store(is_noticed=False)
    await met.flat.get_model(1)
    await until(lambda: met.links[0].calls["model_served"] == 1)
    met.find_store()

    await met.flat.get_model(1)

    await until(lambda: bench.rounds._round.served)


async def test_an_older_model_is_not_the_one_the_round_waits_to_have_handed_out(
    bench: Any, met: Any
) -> None:
    await bench.finish_round()
    await met.flat.get_model(0)
    await met.deliveries.flush()

    assert outcome(await met.flat.report("d3", 1)) == (300, ENOUGH)


async def test_after_an_abandoned_round_a_straggler_is_judged_the_same_way(
    bench: Any, member: Any, until: Any
) -> None:
    for device in ("d1", "d2"):
        await member.flat.check_in(device)
    await member.flat.report("d1")
    await bench.give_up_round()
    await member.flat.get_model(1)
    await until(lambda: bench.rounds._round.served)

    assert outcome(await member.flat.report("d2", 1)) == (300, not_in_cohort("d2"))
    assert bench.counted == []


async def test_an_update_that_comes_after_its_window_ends_the_round_and_is_not_counted(
    bench: Any, full: Any, until: Any
) -> None:
    await full.flat.report("d1")
    bench.ahead_ms = 30_000

    reply = await full.flat.report("d2")

    assert outcome(reply) == (300, ENOUGH)
    assert full.view.snapshot.phase == "abandoning"


# -- nothing goes on ---------------------------------------------------------------------


async def test_a_disabled_job_is_told_in_plain_text(bench: Any, full: Any) -> None:
    await bench.rounds.disable()
    await bench.finish_round()

    assert (await full.flat.report("d1")).text == OVER


async def test_a_finished_job_is_told_in_plain_text(bench: Any) -> None:
    await bench.open(fl_iteration_num=1)
    member = await bench.member()
    await bench.run_rounds(1)

    assert (await member.flat.report("d1", 1)).text == OVER
    assert (await member.flat.report("d1", 2)).text == OVER


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_without_the_store_an_update_is_not_acknowledged_and_can_come_again(
    bench: Any, full: Any, is_noticed: bool
) -> None:
    full.lose_store(is_noticed=is_noticed)
    assert (await full.flat.report("d1")).text == SAFEMODE
    full.find_store()

    assert outcome(await full.flat.report("d1")) == (200, COUNTED)
    assert bench.counted == ["d1"]


# -- repeats -----------------------------------------------------------------------------


@pytest.fixture
def report_and_vanish(vanish: Any, until: Any) -> Any:
    """Sends an update that is counted and whose answer cannot leave."""

    async def run(member: Any, device: str) -> None:
        held = await vanish(member, member.flat.report_message(device), "report")
        held.go.set()
        await until(lambda: not member.busy)

    return run


async def test_a_repeat_of_an_update_whose_answer_could_not_leave_gets_that_answer(
    bench: Any, full: Any, report_and_vanish: Any
) -> None:
    await report_and_vanish(full, "d1")
    assert bench.counted == ["d1"]

    again = await full.flat.report("d1")

    assert outcome(again) == (200, COUNTED)
    assert outcome(await full.flat.report("d1")) == (300, duplicate("d1"))
    assert bench.counted == ["d1"]


async def test_another_member_gives_the_answer_that_could_not_leave_too(
    bench: Any, report_and_vanish: Any
) -> None:
    await bench.open()
    one, other = await bench.member(), await bench.member()
    for device in ("d1", "d2"):
        await one.flat.check_in(device)
    await report_and_vanish(one, "d1")

    assert outcome(await other.flat.report("d1")) == (200, COUNTED)
    await other.deliveries.flush()
    for member in (one, other):
        assert outcome(await member.flat.report("d1")) == (300, duplicate("d1"))
    assert bench.counted == ["d1"]


async def test_a_repeat_that_comes_before_the_lost_answer_was_ready_gets_it(
    bench: Any, full: Any, vanish: Any, until: Any
) -> None:
    """Existing devices' HTTP clients do this by themselves when a connection breaks."""
    held = await vanish(full, full.flat.report_message("d1"), "report")
    again = asyncio.create_task(full.flat.report("d1"))
    await until(lambda: full.busy == 2)

    held.go.set()

    assert outcome(await again) == (200, COUNTED)
    assert bench.counted == ["d1"]


async def test_the_answer_that_could_not_leave_is_given_after_the_round_too(
    bench: Any, full: Any, report_and_vanish: Any
) -> None:
    await full.flat.report("d2")
    await report_and_vanish(full, "d1")
    await bench.finish_round()

    assert outcome(await full.flat.report("d1", 1)) == (200, COUNTED)


async def test_a_delivered_update_is_enough_once_the_goal_is_met(
    bench: Any, full: Any, until: Any
) -> None:
    for device in ("d1", "d2"):
        await full.flat.report(device)
    await full.deliveries.flush()

    assert outcome(await full.flat.report("d1", 1)) == (300, ENOUGH)
    await bench.finish_round()
    assert outcome(await full.flat.report("d1", 1)) == (300, ENOUGH)
    await full.flat.get_model(1)
    await until(lambda: bench.rounds._round.served)
    assert outcome(await full.flat.report("d1", 1)) == (300, not_in_cohort("d1"))


async def test_a_repeat_waits_for_the_outcome_of_the_first(
    bench: Any, full: Any, until: Any
) -> None:
    held = full.links[0].hold("report")
    first = asyncio.create_task(full.flat.report("d1"))
    await held.reached.wait()
    second = asyncio.create_task(full.flat.report("d1"))
    await until(lambda: full.busy == 2)
    assert not second.done()

    held.go.set()

    assert outcome(await first) == (200, COUNTED)
    assert outcome(await second) == (300, duplicate("d1"))
    assert bench.counted == ["d1"]


async def test_the_same_update_at_two_members_at_once_counts_once(bench: Any, until: Any) -> None:
    await bench.open()
    members = [await bench.member(), await bench.member()]
    for device in ("d1", "d2"):
        await members[0].flat.check_in(device)
    await bench.look()

    replies = await asyncio.gather(*(member.packed.report("d1") for member in members))

    assert [reply.status for reply in replies] == [200, 200]
    receipts = [reply.message.receipt for reply in replies]
    assert receipts[0] == receipts[1]
    assert bench.counted == ["d1"]
    await members[1].flat.report("d2", tensors={"w000": [10.0] * 3, "w001": [10.0] * 2})
    await bench.finish_round()
    tensors = (await members[0].flat.get_model(1)).tensors
    assert tensors["w000"] == np.array([11 / 20, 12 / 20, 13 / 20], np.float32).tolist()


# -- msgpack -----------------------------------------------------------------------------


async def test_in_msgpack_a_counted_update_gets_a_receipt(full: Any) -> None:
    message = full.packed.report_message("d1", timestamp=None, fl_name=None)
    digest = hashlib.sha256(packed.encode(message)).hexdigest()

    reply = await full.packed.send(message)
    other = await full.packed.report("d2")

    answer = reply.message
    assert (reply.status, answer.retcode, answer.verdict) == (200, 200, "accepted")
    assert answer.receipt == messages.Receipt(round=1, digest=digest, position=1)
    assert other.message.receipt.position == 2
    assert answer.retry_after_ms is None


async def test_in_msgpack_the_same_bytes_get_the_same_receipt_and_others_are_a_duplicate(
    bench: Any,
) -> None:
    await bench.open()
    one, other = await bench.member(), await bench.member()
    for device in ("d1", "d2"):
        await one.packed.check_in(device)
    first = await one.packed.report("d1")

    for member in (one, other):
        again = await member.packed.report("d1")
        assert (again.status, again.message) == (
            200,
            first.message._replace(next_req_time=again.message.next_req_time),
        )
        changed = await member.packed.report("d1", upload_loss=0.25)
        assert (changed.status, changed.message.verdict) == (409, "duplicate")
        assert changed.message.receipt is None
        assert changed.header("Retry-After") == "1"
    assert bench.counted == ["d1"]


async def test_in_msgpack_the_receipt_is_given_after_the_round_and_in_the_next_one(
    bench: Any, full: Any, until: Any
) -> None:
    first = await full.packed.report("d1")
    await full.packed.report("d2")
    aggregating = await full.packed.report("d1", 1)
    await bench.finish_round()
    unserved = await full.packed.report("d1", 1)
    await full.packed.get_model(1)
    await until(lambda: bench.rounds._round.served)
    outside = await full.packed.report("d1", 1)
    await full.packed.check_in("d1")
    inside = await full.packed.report("d1", 1)

    for again in (aggregating, unserved, outside, inside):
        assert again.status == 200
        assert again.message.receipt == first.message.receipt


async def test_an_update_in_one_encoding_is_no_repeat_of_the_other(full: Any) -> None:
    await full.flat.report("d1")

    reply = await full.packed.report("d1")

    assert (reply.status, reply.message.verdict) == (409, "duplicate")


NATIVE_REFUSALS = {
    "no message": (None, 400, "invalid", 400),
    "no fl_id": ({"device": None}, 400, "invalid", 400),
    "loss NaN": ({"device": "d1", "upload_loss": NAN}, 400, "invalid", 400),
    "no tensors": ({"device": "d1", "feature_map": None}, 400, "invalid", 400),
    "an unknown tensor": ({"device": "d1", "tensors": {"x": [1.0]}}, 400, "invalid", 400),
    "NaN": ({"device": "d1", "tensors": {"w001": [NAN, 1.0]}}, 400, "invalid", 400),
    "infinity": ({"device": "d1", "tensors": {"w001": [INF, 1.0]}}, 400, "invalid", 400),
    "too large": ({"device": "d1", "tensors": {"w001": [3e38, 1.0]}}, 400, "out_of_range", 400),
    "too large times data size": (
        {"device": "d1", "tensors": {"w001": [1e30, 1.0]}, "plain_weights": True},
        400,
        "out_of_range",
        400,
    ),
    "not in the cohort": ({"device": "zz"}, 409, "not_in_cohort", 300),
    "another round": ({"device": "d1", "number": 7}, 409, "stale_round", 300),
}


@pytest.mark.parametrize("case", NATIVE_REFUSALS)
async def test_in_msgpack_the_status_tells_the_truth(bench: Any, full: Any, case: str) -> None:
    fields, status, verdict, code = NATIVE_REFUSALS[case]

    if fields is None:
        reply = await full.packed.send_raw("updateModel", b"\xc1")
    else:
        reply = await full.packed.report(**fields)

    answer = reply.message
    assert (reply.status, answer.verdict, answer.retcode) == (status, verdict, code)
    may_return = status == 409
    assert (answer.retry_after_ms, reply.header("Retry-After")) == (
        (1_000, "1") if may_return else (None, None)
    )
    assert answer.receipt is None
    assert bench.counted == []


async def test_in_msgpack_the_reason_names_tensor_and_element(full: Any) -> None:
    reply = await full.packed.report("d1", tensors={"w000": [1.0, 2.0, NAN]})

    assert reply.message.reason.startswith("tensor 'w000', element 2: expected a finite value")


async def test_in_msgpack_enough_is_429(met: Any) -> None:
    reply = await met.packed.report("d3")

    answer = reply.message
    assert (reply.status, answer.verdict, answer.retry_after_ms) == (429, "enough", 1_000)
    assert reply.header("Retry-After") == "1"


async def test_in_msgpack_a_store_that_is_away_is_503(full: Any) -> None:
    full.lose_store()

    reply = await full.packed.report("d1")

    answer = reply.message
    assert (reply.status, answer.verdict, answer.retry_after_ms) == (503, "unavailable", 200)
    assert reply.header("Retry-After") == "1"


async def test_the_codecs_agree_on_what_an_update_is(full: Any) -> None:
    """The same message, in either encoding, ends in the same place."""
    message = full.flat.report_message("d1")
    assert packed.decode(type(message), packed.encode(message)).iteration == (
        flat.decode(type(message), flat.encode(message)).iteration
    )
