"""getModel: which model for which number, when it is held, and what survives without the store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fl_cluster.wire import flat, messages
from fl_cluster.wire.messages import ResponseCode

SCHEMA = "The schema of RequestGetModel is invalid."
SAFEMODE = "The cluster is in safemode."
OVER = "The server's training job is disabled or finished."

INITIAL = {"w000": [0.25, 0.5, 0.75], "w001": [-1.25, 0.5]}


def not_ready(number: int) -> str:
    return (
        f"The model is not ready yet for iteration {number}. Maybe this is because\n"
        "1. Client doesn't not send enough update model request.\n"
        "2. Worker has not push weights to server."
    )


def model_of(number: int) -> dict[str, list[float]]:
    """What round `number` of `run_rounds` ends with."""
    return {"w000": [float(number)] * 3, "w001": [float(number)] * 2} if number else INITIAL


def empty(code: int, reason: str, current: int, time: str) -> messages.ResponseGetModel:
    """A whole answer without a model."""
    return messages.ResponseGetModel(
        retcode=ResponseCode(code),
        reason=reason,
        iteration=current,
        feature_map=(),
        timestamp=time,
        compress_feature_map=(),
    )


# -- which model -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found"),
    [(1, 1), (2, 2), (3, 3), (0, 3), (5, 3), (99, 3), (-1, 3), (-(2**31), 3), (2**31 - 1, 3)],
)
async def test_a_kept_model_is_handed_out_and_the_newest_for_any_other_number(
    bench: Any, member: Any, asked: int, found: int
) -> None:
    await bench.run_rounds(3)

    reply = await member.flat.get_model(asked)

    answer = reply.message
    assert reply.tensors == model_of(found)
    assert answer._replace(feature_map=()) == empty(
        200, f"Get model for iteration {asked % 2**64}", 4, answer.timestamp
    )


async def test_the_initial_model_is_that_of_round_0_until_three_newer_ones_are_kept(
    bench: Any, member: Any
) -> None:
    for kept in (0, 1, 2):
        assert (await member.flat.get_model(0)).tensors == INITIAL, kept
        await bench.run_rounds(1)

    assert (await member.flat.get_model(0)).tensors == model_of(3)


async def test_no_field_is_required_and_no_name_compared(member: Any) -> None:
    reply = await member.flat.send(messages.RequestGetModel(fl_name=None, timestamp=None))
    wrong = await member.flat.get_model(0, fl_name="Wrong", download_compress_types=(2,))

    assert reply.tensors == wrong.tensors == INITIAL


async def test_only_tensors_that_are_averaged_are_handed_out(member: Any) -> None:
    assert "steps" not in (await member.flat.get_model(0)).tensors


async def test_a_tensor_that_nobody_uploaded_is_left_out_of_that_rounds_model(
    bench: Any, member: Any
) -> None:
    only = {"w001": [10.0, 20.0]}
    for device in ("d1", "d2"):
        await member.flat.check_in(device)
    for device in ("d1", "d2"):
        await member.flat.report(device, tensors=only)
    await bench.finish_round()

    assert (await member.flat.get_model(1)).tensors == {"w001": [1.0, 2.0]}
    whole = {"w000": INITIAL["w000"], "w001": [1.0, 2.0]}
    # Who begins a round needs every tensor, and so does whoever has none.
    assert (await member.packed.get_model(1)).tensors == whole
    assert (await member.flat.check_in("d1")).tensors == whole | {"steps": [7.0]}


async def test_the_model_of_an_abandoned_round_is_the_one_it_started_from(
    bench: Any, member: Any
) -> None:
    await bench.run_rounds(1)
    await member.flat.check_in("d1")
    await bench.give_up_round()

    reply = await member.flat.get_model(2)

    assert reply.message.reason == "Get model for iteration 2"
    assert (reply.tensors, reply.message.iteration) == (model_of(1), 3)


async def test_every_member_hands_out_the_same_model(bench: Any) -> None:
    await bench.open()
    one, other = await bench.member(), await bench.member()
    await bench.run_rounds(2)

    for number in (0, 1, 2):
        assert (await one.flat.get_model(number)).tensors == model_of(number)
        assert (await other.flat.get_model(number)).tensors == model_of(number)


async def test_the_answer_with_a_model_is_the_same_bytes_each_time(bench: Any, member: Any) -> None:
    await bench.run_rounds(1)

    first, again = await member.flat.get_model(1), await member.flat.get_model(1)

    assert first.body == again.body


async def test_what_is_no_message_is_refused_without_a_time(member: Any) -> None:
    reply = await member.flat.send_raw("getModel", b"\x05" * 32)

    assert reply.message == empty(400, SCHEMA, 1, "")


# -- not ready ---------------------------------------------------------------------------


async def test_the_current_round_is_not_ready(member: Any, is_ahead: Any) -> None:
    answer = (await member.flat.get_model(1)).message

    assert answer == empty(201, not_ready(1), 1, answer.timestamp)
    assert is_ahead(answer.timestamp)


async def test_a_round_that_has_met_its_goal_is_not_ready_before_its_model_is_there(
    bench: Any, member: Any
) -> None:
    for device in ("d1", "d2"):
        await member.flat.check_in(device)
    for device in ("d1", "d2"):
        await member.flat.report(device)

    assert (await member.flat.get_model(1)).message.retcode == 201


async def test_a_read_of_the_current_round_is_held_as_long_as_configured(
    bench: Any, until: Any
) -> None:
    await bench.open()
    member = await bench.member(hold_ms=300)
    loop = asyncio.get_running_loop()
    began = loop.time()

    reply = await member.flat.get_model(1)

    assert reply.message.retcode == 201
    assert loop.time() - began >= 0.3


async def test_a_held_read_gets_the_model_as_soon_as_it_is_there(bench: Any, until: Any) -> None:
    await bench.open()
    member = await bench.member(hold_ms=25_000)
    for device in ("d1", "d2"):
        await member.flat.check_in(device)
    readers = [asyncio.create_task(member.flat.get_model(1)) for _ in range(3)]
    native = asyncio.create_task(member.packed.get_model(1, hold_ms=25_000))
    await until(lambda: member.busy == 4)
    for device in ("d1", "d2"):
        await member.flat.report(device, tensors={"w000": [10.0] * 3, "w001": [10.0] * 2})
    assert not any(reader.done() for reader in readers)

    await bench.finish_round()

    for reply in [*(await asyncio.gather(*readers)), await native]:
        assert reply.tensors == model_of(1)


async def test_while_the_model_is_being_made_a_read_is_held_beyond_what_is_configured(
    bench: Any, until: Any
) -> None:
    await bench.open()
    member = await bench.member(hold_ms=1)
    for device in ("d1", "d2"):
        await member.flat.check_in(device)
    for device in ("d1", "d2"):
        await member.flat.report(device, tensors={"w000": [10.0] * 3, "w001": [10.0] * 2})
    reading = asyncio.create_task(member.flat.get_model(1))
    await until(lambda: member.busy)
    await asyncio.wait({reading}, timeout=0.1)
    assert not reading.done()

    await bench.finish_round()

    assert (await reading).tensors == model_of(1)


async def test_a_held_read_of_an_abandoned_round_gets_the_model_as_it_was(
    bench: Any, until: Any
) -> None:
    await bench.open()
    member = await bench.member(hold_ms=25_000)
    await member.flat.check_in("d1")
    reading = asyncio.create_task(member.flat.get_model(1))
    await until(lambda: member.busy)

    await bench.give_up_round()

    assert (await reading).tensors == INITIAL


async def test_a_held_read_is_answered_when_the_member_is_about_to_go(
    bench: Any, until: Any
) -> None:
    await bench.open()
    member = await bench.member(hold_ms=25_000)
    loop = asyncio.get_running_loop()
    began = loop.time()
    reading = asyncio.create_task(member.flat.get_model(1))
    await until(lambda: member.busy)

    member.view.stop_holding()

    assert (await reading).message.retcode == 201
    assert loop.time() - began < 20


async def test_only_the_current_round_is_held(bench: Any) -> None:
    await bench.open()
    member = await bench.member(hold_ms=25_000)

    for number in (0, 2, -1):
        assert (await member.flat.get_model(number)).message.retcode == 200


# -- when nothing goes on ----------------------------------------------------------------


async def test_after_the_last_round_models_are_served_and_the_next_one_never_is(
    bench: Any, is_ahead: Any
) -> None:
    await bench.open(fl_iteration_num=3)
    member = await bench.member(hold_ms=25_000)
    await bench.run_rounds(3)

    for number in (1, 2, 3):
        reply = await member.flat.get_model(number)
        assert (reply.tensors, reply.message.iteration) == (model_of(number), 4)
    for number in (0, 5, 99, -3):
        assert (await member.flat.get_model(number)).tensors == model_of(3)
    answer = (await member.flat.get_model(4)).message
    assert answer == empty(201, not_ready(4), 4, answer.timestamp)
    assert is_ahead(answer.timestamp)


async def test_a_disabled_job_hands_out_nothing(bench: Any, member: Any) -> None:
    await bench.rounds.disable()
    await bench.finish_round()

    assert (await member.flat.get_model(0)).text == OVER
    assert (await member.flat.get_model(2)).text == OVER


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_without_the_store_the_newest_model_is_served_all_the_same(
    bench: Any, member: Any, is_noticed: bool
) -> None:
    await bench.run_rounds(1)
    member.lose_store(is_noticed=is_noticed)

    for number in (1, 99):
        assert (await member.flat.get_model(number)).tensors == model_of(1)
    assert (await member.flat.get_model(2)).message.retcode == 201


async def test_without_the_store_an_older_model_is_served_if_it_was_handed_out_before(
    bench: Any, member: Any
) -> None:
    await bench.run_rounds(2)
    before = await member.flat.get_model(1)
    member.lose_store()

    assert (await member.flat.get_model(1)).body == before.body
    assert (await member.flat.get_model(0)).text == SAFEMODE


async def test_after_the_last_round_the_store_is_not_needed(bench: Any) -> None:
    await bench.open(fl_iteration_num=1)
    member = await bench.member()
    await bench.run_rounds(1)
    member.lose_store()

    assert (await member.flat.get_model(1)).tensors == model_of(1)


# -- msgpack -----------------------------------------------------------------------------


async def test_msgpack_says_which_model_it_is(bench: Any, member: Any) -> None:
    await bench.run_rounds(1)

    reply = await member.packed.get_model(1)

    answer = reply.message
    assert (reply.status, answer.verdict, answer.retcode) == (200, "accepted", 200)
    assert (answer.model_round, answer.iteration) == (1, 2)
    assert answer.model_digest == member.view.base.model.digest
    assert [each.shape for each in answer.feature_map] == [(3,), (2,)]
    other = (await member.packed.get_model(99)).message
    assert (other.model_round, other.model_digest) == (1, answer.model_digest)


async def test_in_msgpack_not_ready_is_202_and_held_only_when_asked(member: Any) -> None:
    loop = asyncio.get_running_loop()
    at_once = await member.packed.get_model(1)
    negative = await member.packed.get_model(1, hold_ms=-5)
    began = loop.time()
    held = await member.packed.get_model(1, hold_ms=200)

    assert loop.time() - began >= 0.2
    for reply in (at_once, negative, held):
        answer = reply.message
        assert (reply.status, answer.verdict, answer.retcode) == (202, "not_ready", 201)
        assert (answer.retry_after_ms, reply.header("Retry-After")) == (200, "1")


async def test_what_existing_devices_are_held_for_does_not_hold_the_others(bench: Any) -> None:
    await bench.open()
    member = await bench.member(hold_ms=25_000)
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert (await member.packed.get_model(1)).status == 202
    assert loop.time() - began < 20


async def test_in_msgpack_what_is_no_message_is_told_what_is_wrong_with_it(member: Any) -> None:
    reply = await member.packed.send_raw("getModel", flat.encode(messages.RequestGetModel()))

    answer = reply.message
    assert (reply.status, answer.verdict, answer.retcode) == (400, "invalid", 400)
    assert answer.reason.startswith(f"{SCHEMA} ")


@pytest.mark.parametrize(
    ("state", "status", "verdict"),
    [("disabled", 503, "job_disabled"), ("away", 503, "unavailable")],
)
async def test_in_msgpack_the_status_says_why_there_is_no_model(
    bench: Any, member: Any, state: str, status: int, verdict: str
) -> None:
    await bench.run_rounds(2)
    if state == "disabled":
        await bench.rounds.disable()
        await bench.look()
    else:
        member.lose_store()

    reply = await member.packed.get_model(1)

    assert (reply.status, reply.message.verdict) == (status, verdict)
    assert reply.header("Retry-After") == "1"
