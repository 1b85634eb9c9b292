"""startFLJob: every check in its order, and what stands in every answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fl_cluster.wire import flat, messages
from fl_cluster.wire.messages import ResponseCode

FULL = "Current amount for startFLJob has reached the threshold. Please startFLJob later."
SCHEMA = "The schema of RequestFLJob is invalid."
LACKING = "Verify flatbuffers schema failed for RequestFLJob."
TOO_SMALL = "FL job data size is not enough."
TOO_LARGE = "FL job data size is too large."
SAFEMODE = "The cluster is in safemode."
OVER = "The server's training job is disabled or finished."

MODEL = {"steps": [7.0], "w000": [0.25, 0.5, 0.75], "w001": [-1.25, 0.5]}

INT32_MAX = 2**31 - 1


def already(device: str) -> str:
    return f"Updating device metadata failed for fl id {device}"


def outcome(reply: Any) -> tuple[int, str]:
    return reply.message.retcode, reply.message.reason


PLAN = messages.FLPlan(
    server_mode="FEDERATED_LEARNING",
    fl_name="Bench",
    iterations=4,
    epochs=20,
    mini_batch=32,
    lr=0.009999999776482582,
    cipher=messages.CipherPublicParams(
        encrypt_type="NOT_ENCRYPT",
        pw_params=messages.PWParams(p=bytes(32), prime=bytes(33)),
        dp_params=messages.DPParams(),
        ds_params=messages.DSParams(),
    ),
)

COMMON = messages.ResponseFLJob(
    iteration=1,
    fl_plan_config=PLAN,
    feature_map=(),
    compress_feature_map=(),
    upload_sparse_rate=0.4000000059604645,
)
"""What stands in every answer of round 1, whatever the outcome."""


# -- what an admitted device is told -----------------------------------------------------


async def test_an_admitted_device_is_told_the_round_and_the_plan(
    member: Any, is_ahead: Any
) -> None:
    answer = (await member.flat.check_in("d1")).message

    assert is_ahead(answer.next_req_time)
    assert answer._replace(feature_map=(), next_req_time=None) == COMMON._replace(
        retcode=ResponseCode.SUCCEED, reason="success", is_selected=True
    )


async def test_an_admitted_device_gets_every_tensor_in_byte_order_of_the_names(
    bench: Any,
) -> None:
    bench.weights = {"b": [1.0], "\u00e4": [2.0], "B": [3.0], "steps": [7.0], "a_": [4.0, 4.5]}
    await bench.open()
    member = await bench.member()

    reply = await member.flat.check_in("d1")

    expected = {"B": [3.0], "a_": [4.0, 4.5], "b": [1.0], "steps": [7.0], "\u00e4": [2.0]}
    assert list(reply.tensors.items()) == list(expected.items())


async def test_every_admitted_device_gets_the_same_bytes(member: Any) -> None:
    first, second = await member.flat.check_in("d1"), await member.flat.check_in("d2")

    assert first.body == second.body


@pytest.mark.parametrize("data_size", [1, 65_535])
async def test_the_smallest_and_the_largest_data_size_are_admitted(
    bench: Any, member: Any, data_size: int
) -> None:
    reply = await member.flat.check_in("d1", data_size=data_size)

    assert outcome(reply) == (200, "success")
    assert bench.cohort == {"d1": data_size}


async def test_what_is_not_looked_at_makes_no_difference(member: Any) -> None:
    """Existing devices send their class name, any text as time, and the round they remember."""
    odd = {
        "fl_name": "jc.StubClient",
        "timestamp": "2020/11/16/19/18",
        "iteration": -7,
        "eval_data_size": -1,
        "download_compress_types": (0, 2, 77),
    }

    reply = await member.flat.check_in("d1", **odd)

    assert outcome(reply) == (200, "success")
    assert reply.message.fl_plan_config.fl_name == "Bench"


async def test_an_empty_id_and_name_are_there_and_no_reason_to_refuse(
    bench: Any, member: Any
) -> None:
    reply = await member.flat.check_in("", fl_name="", timestamp="")

    assert outcome(reply) == (200, "success")
    assert list(bench.cohort) == [""]


async def test_numbers_beyond_int32_are_told_as_the_largest_there_is(bench: Any) -> None:
    """The configuration takes 32 bits without a sign, the protocol has 32 with one."""
    await bench.open(
        fl_iteration_num=2**32 - 1,
        client__client_epoch_num=2**32 - 1,
        client__client_batch_size=2**31,
    )
    member = await bench.member()

    plan = (await member.flat.check_in("d1")).message.fl_plan_config

    assert (plan.iterations, plan.epochs, plan.mini_batch) == (INT32_MAX,) * 3


# -- refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"\x05" * 64, b"x"], ids=["64 bytes", "one byte"])
async def test_what_is_no_message_is_refused_without_a_time(member: Any, body: bytes) -> None:
    answer = (await member.flat.send_raw("startFLJob", body)).message

    assert answer == COMMON._replace(
        retcode=ResponseCode.RequestError, reason=SCHEMA, next_req_time=""
    )


async def test_a_truncated_message_is_refused_as_no_message(member: Any) -> None:
    body = flat.encode(member.flat.check_in_message("d1"))

    reply = await member.flat.send_raw("startFLJob", body[:-6])

    assert outcome(reply) == (400, SCHEMA)


async def test_bytes_behind_a_message_do_no_harm(member: Any) -> None:
    body = flat.encode(member.flat.check_in_message("d1"))

    reply = await member.flat.send_raw("startFLJob", body + bytes(100))

    assert outcome(reply) == (200, "success")


@pytest.mark.parametrize("field", ["fl_id", "fl_name", "timestamp"])
async def test_a_missing_field_is_answered_in_plain_text(
    bench: Any, member: Any, field: str
) -> None:
    message = member.flat.check_in_message("d1")._replace(**{field: None})

    assert (await member.flat.send(message)).text == LACKING
    assert bench.cohort == {}


@pytest.mark.parametrize(
    ("data_size", "reason"),
    [(0, TOO_SMALL), (-5, TOO_LARGE), (65_536, TOO_LARGE), (INT32_MAX, TOO_LARGE)],
)
async def test_a_data_size_out_of_bounds_is_refused(
    bench: Any, member: Any, is_ahead: Any, data_size: int, reason: str
) -> None:
    answer = (await member.flat.check_in("d1", data_size=data_size)).message

    assert is_ahead(answer.next_req_time)
    assert answer._replace(next_req_time=None) == COMMON._replace(
        retcode=ResponseCode.OutOfTime, reason=reason
    )
    assert bench.cohort == {}


async def test_a_device_of_the_cohort_is_refused_by_every_member(bench: Any, is_ahead: Any) -> None:
    await bench.open()
    one, other = await bench.member(), await bench.member()
    await one.flat.check_in("d1", data_size=10)

    answers = [(await member.flat.check_in("d1", data_size=32)).message for member in (one, other)]

    for answer in answers:
        assert is_ahead(answer.next_req_time)
        assert answer._replace(next_req_time=None) == COMMON._replace(
            retcode=ResponseCode.OutOfTime, reason=already("d1")
        )
    assert bench.cohort == {"d1": 10}


async def test_an_id_that_is_no_text_comes_back_byte_for_byte(member: Any) -> None:
    device = b"\xff\xfe:\x80".decode("utf-8", "surrogateescape")
    await member.flat.check_in(device)

    reply = await member.flat.check_in(device)

    assert outcome(reply) == (300, already(device))
    assert b"fl id \xff\xfe:\x80\0" in reply.body


@pytest.mark.parametrize(
    "fields",
    [
        {"device": "d3"},
        {"device": "d1"},
        {"device": "d3", "data_size": 0},
        {"device": "d3", "data_size": 65_536},
        {"device": "d1", "data_size": -1},
    ],
    ids=["a new device", "a repeat", "no data", "too much data", "a repeat with less than none"],
)
async def test_a_full_cohort_comes_before_data_size_and_before_a_repeat(
    member: Any, is_ahead: Any, fields: dict[str, Any]
) -> None:
    for device in ("d1", "d2"):
        await member.flat.check_in(device)

    answer = (await member.flat.check_in(**fields)).message

    assert is_ahead(answer.next_req_time)
    assert answer._replace(next_req_time=None) == COMMON._replace(
        retcode=ResponseCode.OutOfTime, reason=FULL
    )


async def test_a_cohort_that_another_member_has_filled_is_full_here_too(bench: Any) -> None:
    await bench.open()
    one, other = await bench.member(), await bench.member()
    for device in ("d1", "d2"):
        await one.flat.check_in(device)

    assert outcome(await other.flat.check_in("d3", data_size=0)) == (300, FULL)
    assert outcome(await other.flat.check_in("d3")) == (300, FULL)


async def test_devices_that_come_at_once_to_two_members_never_overfill_the_cohort(
    bench: Any,
) -> None:
    await bench.open(round__start_fl_job_threshold=5)
    members = [await bench.member(), await bench.member()]

    replies = await asyncio.gather(*(members[n % 2].flat.check_in(f"d{n}") for n in range(12)))

    outcomes = [outcome(reply) for reply in replies]
    assert (outcomes.count((200, "success")), outcomes.count((300, FULL))) == (5, 7)
    assert len(bench.cohort) == 5


async def test_missing_fields_come_before_a_full_cohort(member: Any) -> None:
    for device in ("d1", "d2"):
        await member.flat.check_in(device)

    assert (await member.flat.check_in(None)).text == LACKING
    assert outcome(await member.flat.send_raw("startFLJob", b"\x05" * 64)) == (400, SCHEMA)


# -- repeats -----------------------------------------------------------------------------


async def check_in_and_vanish(vanish: Any, until: Any, member: Any, device: str) -> None:
    """Check in a device that is gone before it can be answered."""
    held = await vanish(member, member.flat.check_in_message(device), "check_in")
    held.go.set()
    await until(lambda: not member.busy)


async def test_a_repeat_of_a_check_in_whose_answer_could_not_leave_gets_that_answer(
    bench: Any, member: Any, vanish: Any, until: Any
) -> None:
    """Existing devices' HTTP clients repeat by themselves; a refusal would cost the round."""
    await check_in_and_vanish(vanish, until, member, "d1")
    assert list(bench.cohort) == ["d1"]

    again = await member.flat.check_in("d1")

    assert outcome(again) == (200, "success")
    assert again.tensors == MODEL
    assert outcome(await member.flat.check_in("d1")) == (300, already("d1"))
    assert list(bench.cohort) == ["d1"]


async def test_the_last_of_a_full_cohort_gets_its_lost_answer_from_any_member(
    bench: Any, vanish: Any, until: Any
) -> None:
    await bench.open()
    one, other = await bench.member(), await bench.member()
    await one.flat.check_in("d1")
    await check_in_and_vanish(vanish, until, one, "d2")

    assert outcome(await other.flat.check_in("d2")) == (200, "success")
    await other.deliveries.flush()
    for member in (one, other):
        assert outcome(await member.flat.check_in("d2")) == (300, FULL)
    assert sorted(bench.cohort) == ["d1", "d2"]


async def test_to_have_been_admitted_is_not_to_have_been_counted(
    member: Any, vanish: Any, until: Any
) -> None:
    """An answer to the one request is no answer to the other."""
    await member.flat.check_in("d1")
    held = await vanish(member, member.flat.report_message("d1"), "report")
    held.go.set()
    await until(lambda: not member.busy)

    assert (await member.flat.report("d1")).message.retcode == 200


# -- when to come back -------------------------------------------------------------------


async def test_the_time_given_is_when_the_windows_of_the_round_will_have_passed(
    bench: Any, member: Any
) -> None:
    before = bench.now_ms()
    admitted = int((await member.flat.check_in("d1")).message.next_req_time)
    after = bench.now_ms()
    await member.flat.check_in("d2")
    await bench.look()

    refused = int((await member.flat.check_in("d3")).message.next_req_time)

    assert before + 60_000 <= admitted <= after + 60_000
    # From now on it is counted from when the first device came, to the same instant.
    assert refused == bench.rounds._round.phase.opened_at + 60_000


async def test_the_time_given_lies_ahead_when_the_windows_have_passed(
    bench: Any, is_ahead: Any
) -> None:
    await bench.open(round__start_fl_job_time_window=2_000, round__update_model_time_window=1)
    member = await bench.member()
    for device in ("d1", "d2"):
        await member.flat.check_in(device)

    reply = await member.flat.check_in("d3")

    assert is_ahead(reply.message.next_req_time)
    assert outcome(reply) == (300, FULL)


# -- between rounds, and when nothing goes on --------------------------------------------


async def test_a_device_that_comes_while_the_round_is_finished_is_in_the_next(
    bench: Any, member: Any, until: Any
) -> None:
    for device in ("d1", "d2"):
        await member.flat.check_in(device)
    for device in ("d1", "d2"):
        await member.flat.report(device)
    joining = asyncio.create_task(member.flat.check_in("d3"))
    await until(lambda: member.busy)

    await bench.finish_round()
    reply = await joining

    assert outcome(reply) == (200, "success")
    assert (reply.message.iteration, bench.number) == (2, 2)


async def test_a_round_whose_time_is_up_is_not_joined(bench: Any, member: Any, until: Any) -> None:
    await member.flat.check_in("d1")
    bench.ahead_ms = 30_000
    joining = asyncio.create_task(member.flat.check_in("d2"))
    await until(lambda: member.view.snapshot.needs_finishing)

    await bench.finish_round()

    assert (await joining).message.iteration == 2


async def test_a_disabled_job_is_told_in_plain_text_and_an_enabled_one_goes_on(
    bench: Any, member: Any
) -> None:
    await bench.rounds.disable()
    await bench.finish_round()
    disabled = await member.flat.check_in("d1")
    await bench.rounds.enable()
    await bench.look()

    assert disabled.text == OVER
    assert outcome(await member.flat.check_in("d1")) == (200, "success")


async def test_a_member_that_has_not_heard_that_the_job_is_disabled_says_so_all_the_same(
    bench: Any, member: Any
) -> None:
    await bench.rounds.disable()

    assert (await member.flat.check_in("d1")).text == OVER


async def test_a_finished_job_is_told_in_plain_text(bench: Any) -> None:
    await bench.open(fl_iteration_num=1)
    member = await bench.member()
    await bench.run_rounds(1)

    assert (await member.flat.check_in("d1")).text == OVER
    assert (await member.flat.check_in("d1", data_size=0)).text == OVER


async def test_a_member_that_has_not_heard_that_the_job_is_finished_says_so_all_the_same(
    bench: Any,
) -> None:
    await bench.open(fl_iteration_num=1)
    one, other = await bench.member(), await bench.member()
    for device in ("d1", "d2"):
        await one.flat.check_in(device)
    for device in ("d1", "d2"):
        await one.flat.report(device)
    await one.view.refresh()
    assert await one.finisher.finish()

    assert (await other.flat.check_in("d3", data_size=0)).text == OVER


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_without_the_store_a_device_is_told_to_wait(member: Any, is_noticed: bool) -> None:
    member.lose_store(is_noticed=is_noticed)

    assert (await member.flat.check_in("d1")).text == SAFEMODE
    assert (await member.flat.check_in("d1", data_size=0)).text == SAFEMODE


# -- msgpack -----------------------------------------------------------------------------


async def test_msgpack_says_which_model_it_is(member: Any) -> None:
    reply = await member.packed.check_in("d1", fl_name=None, timestamp=None)

    answer = reply.message
    assert (reply.status, answer.verdict, answer.is_selected) == (200, "accepted", True)
    assert reply.tensors == MODEL
    assert [each.shape for each in answer.feature_map] == [(1,), (3,), (2,)]
    assert (answer.model_round, answer.iteration, answer.model_unchanged) == (0, 1, False)
    assert answer.model_digest == member.view.base.model.digest
    assert answer.fl_plan_config.iterations == 4
    assert answer.retry_after_ms is None


async def test_msgpack_leaves_out_the_model_that_the_device_holds(member: Any) -> None:
    digest = member.view.base.model.digest

    held = (await member.packed.check_in("d1", model_digest=digest)).message
    other = (await member.packed.check_in("d2", model_digest="0" * 64)).message

    assert (held.model_unchanged, held.model_digest) == (True, digest)
    assert not held.feature_map
    assert (other.model_unchanged, len(other.feature_map)) == (False, 3)


async def test_in_msgpack_a_repeat_is_admitted_again_and_counted_once(
    bench: Any, member: Any
) -> None:
    first, again = await member.packed.check_in("d1"), await member.packed.check_in("d1")

    assert (again.status, again.message.verdict) == (200, "accepted")
    assert again.body == first.body
    assert list(bench.cohort) == ["d1"]


async def test_in_msgpack_a_repeat_is_admitted_again_by_a_full_cohort_too(bench: Any) -> None:
    """Otherwise a device whose answer was lost would be missing, and the round wait for it."""
    await bench.open()
    one, other = await bench.member(), await bench.member()
    for device in ("d1", "d2"):
        await one.packed.check_in(device)

    again = await other.packed.check_in("d2")
    stranger = await other.packed.check_in("d3")

    assert (again.status, again.message.verdict) == (200, "accepted")
    assert (stranger.status, stranger.message.verdict) == (429, "cohort_full")
    assert sorted(bench.cohort) == ["d1", "d2"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"data_size": 0}, TOO_SMALL),
        ({"data_size": -1}, TOO_LARGE),
        ({"data_size": 65_536}, TOO_LARGE),
    ],
)
async def test_in_msgpack_a_wrong_data_size_is_invalid_for_good(
    member: Any, fields: dict[str, int], reason: str
) -> None:
    reply = await member.packed.check_in("d1", **fields)

    answer = reply.message
    assert (reply.status, answer.verdict, answer.retcode) == (400, "invalid", 300)
    assert (answer.reason, answer.retry_after_ms) == (reason, None)
    assert reply.header("Retry-After") is None


async def test_in_msgpack_a_full_cohort_is_429_and_says_when_to_come_back(member: Any) -> None:
    for device in ("d1", "d2"):
        await member.packed.check_in(device)

    reply = await member.packed.check_in("d3")

    answer = reply.message
    assert (reply.status, answer.verdict, answer.retcode) == (429, "cohort_full", 300)
    assert answer.retry_after_ms == 1_000
    assert reply.header("Retry-After") == "1"
    assert answer.fl_plan_config.iterations == 4


async def test_in_msgpack_what_is_no_message_is_told_what_is_wrong_with_it(member: Any) -> None:
    garbage = await member.packed.send_raw("startFLJob", b"\xc1")
    nameless = await member.packed.check_in(None)

    for reply in (garbage, nameless):
        answer = reply.message
        assert (reply.status, answer.verdict, answer.retcode) == (400, "invalid", 400)
        assert answer.retry_after_ms is None
    assert garbage.message.reason.startswith(f"{SCHEMA} ")
    assert len(garbage.message.reason) > len(SCHEMA) + 10
    assert nameless.message.reason == LACKING


@pytest.mark.parametrize(
    ("state", "status", "verdict", "retry_after_ms"),
    [
        ("finished", 410, "job_finished", None),
        ("disabled", 503, "job_disabled", 200),
        ("away", 503, "unavailable", 200),
    ],
)
async def test_in_msgpack_the_status_says_why_nothing_goes_on(
    bench: Any, state: str, status: int, verdict: str, retry_after_ms: int | None
) -> None:
    await bench.open(fl_iteration_num=1)
    member = await bench.member()
    if state == "finished":
        await bench.run_rounds(1)
    elif state == "disabled":
        await bench.rounds.disable()
        await bench.look()
    else:
        member.lose_store()

    reply = await member.packed.check_in("d1")

    answer = reply.message
    assert (reply.status, answer.verdict, answer.retry_after_ms) == (
        status,
        verdict,
        retry_after_ms,
    )
    assert (reply.header("Retry-After") is None) == (retry_after_ms is None)
    assert answer.fl_plan_config.fl_name == "Bench"
