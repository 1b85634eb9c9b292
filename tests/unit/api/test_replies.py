"""Answers as messages: times, the plan, which tensors, and bytes that are built once."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.api import refusals
from fl_cluster.api.dialects import FLAT, PACKED
from fl_cluster.api.replies import CLOCK_MARGIN_MS, COME_BACK_PER_S, ReadyBytes, Replies, features
from fl_cluster.config.schema import EncryptType
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.rounds.plan import RoundPlan
from fl_cluster.service.ledger import INLINE_ELEMENTS
from fl_cluster.store.ports import Receipt
from fl_cluster.wire import flat, messages, packed


@pytest.fixture
def replies(bench: Any, member: Any) -> Replies:
    return Replies(bench.settings, member.view)


@pytest.fixture
def snapshot(member: Any) -> Any:
    """The first round before anybody came, with windows of 30 seconds each."""
    return member.view.snapshot


def ask(number: int) -> messages.RequestGetModel:
    return messages.RequestGetModel(iteration=number)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_devices_that_are_turned_away_together_do_not_come_back_together(
    replies: Replies,
) -> None:
    full = refusals.CHECK_IN[Verdict.COHORT_FULL]
    told = [replies.refuse_check_in(PACKED, full).retry_after_ms or 0 for _ in range(5_000)]
    times = [int(replies.refuse_check_in(FLAT, full).next_req_time or 0) for _ in range(500)]

    assert told == sorted(told)
    assert told[-1] - told[0] == 4_999 * 1_000 // COME_BACK_PER_S
    assert times[-1] - times[0] >= 499 * 1_000 // COME_BACK_PER_S


# -- times -------------------------------------------------------------------------------


def test_before_a_round_has_begun_it_may_take_its_windows_from_now(
    replies: Replies, snapshot: Any
) -> None:
    before = now_ms()

    told = int(replies.come_back_at(snapshot))

    assert before + 60_000 <= told <= now_ms() + 60_000


def test_a_round_that_has_begun_is_over_when_its_windows_are(
    replies: Replies, snapshot: Any
) -> None:
    opened = now_ms() - 20_000

    assert replies.come_back_at(replace(snapshot, opened_at=opened)) == str(opened + 60_000)


@pytest.mark.parametrize("age_ms", [54_000, 55_100, 60_000, 10**9])
def test_the_time_is_never_nearer_than_clocks_may_differ(
    replies: Replies, snapshot: Any, age_ms: int
) -> None:
    told = int(replies.come_back_at(replace(snapshot, opened_at=now_ms() - age_ms)))

    assert told - now_ms() > CLOCK_MARGIN_MS - 500


def test_the_longest_windows_are_told_as_they_are(replies: Replies, snapshot: Any) -> None:
    longest, opened = RoundPlan(2, 2, 2**32 - 1, 2**32 - 1, 2**32 - 1), now_ms()

    told = replies.come_back_at(replace(snapshot, opened_at=opened, plan=longest))

    assert told == str(opened + 2 * (2**32 - 1))


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.ACCEPTED])
def test_every_answer_that_lets_a_device_come_back_says_when(
    replies: Replies, snapshot: Any, verdict: Verdict
) -> None:
    """A FlatBuffers device ends for good on a 300 without a time, or with one in the past."""
    told = (
        replies.refuse_check_in(FLAT, refusals.CHECK_IN[verdict]).next_req_time,
        replies.refuse_report(FLAT, refusals.REPORT[verdict], snapshot).next_req_time,
    )

    for text in told:
        assert text is not None
        assert int(text) > now_ms() + CLOCK_MARGIN_MS - 500


def test_an_answer_about_the_form_of_a_request_has_no_time(replies: Replies, snapshot: Any) -> None:
    for refusal in (refusals.REPORT_SCHEMA, refusals.REPORT_FIELDS):
        assert replies.refuse_report(FLAT, refusal, snapshot).next_req_time == ""
    unfit = replies.refuse_report(FLAT, refusals.UNFIT, snapshot)
    assert unfit.reason is not None
    assert unfit.reason.endswith(f": {unfit.next_req_time}")


def test_a_refusal_in_msgpack_says_after_how_long(replies: Replies, snapshot: Any) -> None:
    soon = replies.refuse_model(PACKED, refusals.MODEL_NOT_READY, 1)
    later = replies.refuse_report(PACKED, refusals.REPORT[Verdict.ENOUGH], snapshot)
    never = replies.refuse_report(PACKED, refusals.UNFIT, snapshot)

    assert (soon.retry_after_ms, later.retry_after_ms, never.retry_after_ms) == (200, 1_000, None)


def test_only_msgpack_gets_the_sentence_that_says_what_is_wrong(
    replies: Replies, snapshot: Any
) -> None:
    why = "tensor 'w000' came twice"

    native = replies.refuse_report(PACKED, refusals.UNFIT, snapshot, reason=why)
    other = replies.refuse_report(FLAT, refusals.UNFIT, snapshot, reason=why)

    assert native.reason == why
    assert other.reason is not None
    assert other.reason.startswith("Verify model feature map failed, retry later at time: ")


# -- the plan ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [
        refusals.JOB_FINISHED,
        refusals.UNAVAILABLE,
        refusals.CHECK_IN_SCHEMA,
        refusals.CHECK_IN_FIELDS,
        refusals.DATA_SIZE_LARGE,
        refusals.CHECK_IN[Verdict.COHORT_FULL],
    ],
    ids=lambda refusal: refusal.text,
)
def test_a_refused_check_in_carries_all_parts_of_the_plan(replies: Replies, refusal: Any) -> None:
    body = flat.encode(replies.refuse_check_in(FLAT, refusal, "d1"))

    answer = flat.decode(messages.ResponseFLJob, body)

    plan = answer.fl_plan_config
    assert plan is not None
    assert plan.cipher is not None
    assert plan.cipher.pw_params == messages.PWParams(p=bytes(32), prime=bytes(33))
    assert plan.cipher.dp_params == messages.DPParams()
    assert plan.cipher.ds_params == messages.DSParams()
    assert (plan.server_mode, plan.fl_name, plan.iterations) == ("FEDERATED_LEARNING", "Bench", 4)
    assert (answer.feature_map, answer.compress_feature_map) == ((), ())
    assert answer.timestamp is None
    assert not answer.is_selected


def test_the_plan_says_which_protection_devices_have_to_use(bench: Any, member: Any) -> None:
    encrypt = replace(bench.settings.encrypt, kind=EncryptType.DP_ENCRYPT)
    replies = Replies(replace(bench.settings, encrypt=encrypt), member.view)

    plan = replies.refuse_check_in(FLAT, refusals.UNAVAILABLE).fl_plan_config

    assert plan is not None
    assert plan.cipher is not None
    assert plan.cipher.encrypt_type == "DP_ENCRYPT"


async def test_the_plan_is_that_of_the_job_not_of_the_members_own_file(
    bench: Any, member: Any
) -> None:
    """The member that created the job decides for all."""
    own = replace(bench.settings, rounds_total=99)

    plan = Replies(own, member.view).refuse_check_in(FLAT, refusals.UNAVAILABLE).fl_plan_config

    assert plan is not None
    assert plan.iterations == 4


# -- tensors -----------------------------------------------------------------------------

LAYOUT = Layout(
    [
        Tensor("b", (2,)),
        Tensor("B", (1, 2)),
        Tensor("step", (), is_aggregated=False),
        Tensor("a", ()),
    ]
)
MODEL = Model(LAYOUT, np.arange(LAYOUT.size, dtype=np.float32))


def test_features_are_in_byte_order_of_the_names_with_their_shapes() -> None:
    found = features(MODEL, lambda _: True)

    assert [(each.weight_fullname, each.shape) for each in found] == [
        ("B", (1, 2)),
        ("a", ()),
        ("b", (2,)),
        ("step", ()),
    ]
    assert [each.data.tolist() for each in found if each.data is not None] == [
        [0.0, 1.0],
        [2.0],
        [3.0, 4.0],
        [5.0],
    ]


def test_only_chosen_tensors_are_handed_out() -> None:
    found = features(MODEL, lambda tensor: tensor.is_aggregated and tensor.name != "a")

    assert [each.weight_fullname for each in found] == ["B", "b"]


# -- counted -----------------------------------------------------------------------------


def test_a_counted_update_is_proved_in_msgpack_and_told_in_flatbuffers(
    replies: Replies, snapshot: Any
) -> None:
    receipt = Receipt(3, "ab" * 32, 5)

    native = packed.decode(messages.ResponseUpdateModel, replies.count(PACKED, snapshot, receipt))
    other = flat.decode(messages.ResponseUpdateModel, replies.count(FLAT, snapshot, receipt))

    assert native.receipt == messages.Receipt(round=3, digest="ab" * 32, position=5)
    assert (other.receipt, other.feature_map, other.timestamp) == (None, None, None)
    assert native.reason == other.reason == "success not ready"


async def test_a_models_answer_says_the_number_that_was_asked_for(
    member: Any, replies: Replies
) -> None:
    async def load() -> Any:
        return member.view.base

    negative = flat.decode(
        messages.ResponseGetModel, await replies.hand_out(FLAT, ask(-3), 0, load)
    )

    assert negative.reason == f"Get model for iteration {2**64 - 3}"


async def test_a_models_answer_is_built_once_for_a_round_and_again_for_the_next(
    bench: Any, member: Any, replies: Replies
) -> None:
    loads: list[RoundRef] = []

    async def load() -> Any:
        loads.append(member.view.snapshot.ref)
        return member.view.base

    first = await replies.hand_out(FLAT, ask(0), 0, load)
    assert await replies.hand_out(FLAT, ask(0), 0, load) is first
    await replies.hand_out(PACKED, ask(0), 0, load)
    await member.flat.check_in("d1")
    await bench.give_up_round()
    later = await replies.hand_out(FLAT, ask(0), 0, load)

    assert [ref.number for ref in loads] == [1, 1, 2]
    assert flat.decode(messages.ResponseGetModel, later).iteration == 2


# -- ready bytes -------------------------------------------------------------------------


async def test_those_who_ask_at_the_same_time_get_one_body() -> None:
    ready, built = ReadyBytes(slots=2), []

    def build() -> bytes:
        built.append(threading.current_thread())
        return b"body"

    bodies = await asyncio.gather(*(ready.get("key", 10, build) for _ in range(5)))

    assert len(built) == 1
    assert all(body is bodies[0] for body in bodies)
    assert built[0] is threading.main_thread()


async def test_a_large_body_is_built_beside_the_loop() -> None:
    ready, built = ReadyBytes(slots=2), []

    def build() -> bytes:
        built.append(threading.current_thread())
        return b"body"

    await ready.get("key", INLINE_ELEMENTS + 1, build)

    assert built[0] is not threading.main_thread()


async def test_the_body_that_was_longest_not_asked_for_goes_first() -> None:
    ready = ReadyBytes(slots=2)
    for key in "ab":
        await ready.get(key, 1, key.encode)
    assert ready.peek("a") == b"a"

    await ready.get("c", 1, lambda: b"c")

    assert [ready.peek(key) for key in "abc"] == [b"a", None, b"c"]


async def test_a_build_that_fails_is_tried_again() -> None:
    ready = ReadyBytes(slots=2)

    def fail() -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ready.get("key", 1, fail)

    assert await ready.get("key", 1, lambda: b"body") == b"body"


async def test_one_who_gives_up_does_not_keep_the_others_from_their_body() -> None:
    ready, go = ReadyBytes(slots=2), threading.Event()

    def build() -> bytes:
        go.wait()
        return b"body"

    impatient = asyncio.create_task(ready.get("key", INLINE_ELEMENTS + 1, build))
    patient = asyncio.create_task(ready.get("key", INLINE_ELEMENTS + 1, build))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    go.set()

    assert await patient == b"body"


async def test_answers_of_a_round_that_is_over_make_room_for_the_next_ones() -> None:
    ready = ReadyBytes(slots=3)
    ready.keep_only("round 1")
    await ready.get("a", 1, lambda: b"old")

    ready.keep_only("round 1")
    kept = ready.peek("a")
    ready.keep_only("round 2")

    assert (kept, ready.peek("a")) == (b"old", None)
