"""What workers are answered, in every mode and at every step of a hybrid round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_cluster.wire import messages

NAMES = ("w001", "w000")
MEAN = {"w000": [1.0, 2.0, 3.0], "w001": [4.0, 5.0]}
NOT_YET = "The aggregation for the weights is not done yet."


def pull(number: int = 1, names: tuple[str, ...] | None = NAMES) -> messages.RequestPullWeight:
    return messages.RequestPullWeight(number, names)


def push(number: int = 1, **tensors: list[float]) -> messages.RequestPushWeight:
    entries = tuple(
        messages.FeatureMap(name, np.array(values, np.float32)) for name, values in tensors.items()
    )
    return messages.RequestPushWeight(number, entries)


def metrics(loss: float = 6.9, accuracy: float = 10.1) -> messages.RequestPushMetrics:
    return messages.RequestPushMetrics(loss, accuracy)


def tensors(message: Any) -> list[tuple[str, list[float]]]:
    return [(each.weight_fullname, each.data.tolist()) for each in message.feature_map]


@pytest.fixture
async def hybrid(bench: Any) -> Any:
    """A member of a hybrid job of which two devices have uploaded, each with data size 1."""
    await bench.open(server_mode="HYBRID_TRAINING")
    member = await bench.member()
    for device in ("d1", "d2"):
        await member.flat.check_in(device, data_size=1)
    for device in ("d1", "d2"):
        await member.flat.report(device, tensors=MEAN)
    return member


@pytest.fixture
async def offered(bench: Any, hybrid: Any) -> Any:
    """The same, and the mean is there for the worker."""
    await bench.look()
    await hybrid.finisher.finish()
    await bench.look()
    assert hybrid.view.snapshot.phase == "retraining"
    return hybrid


async def say(member: Any, message: Any) -> tuple[int, str]:
    answer = (await member.flat.send(message)).message
    return answer.retcode, getattr(answer, "reason", "") or ""


async def test_before_there_is_a_mean_a_worker_waits(hybrid: Any) -> None:
    assert await say(hybrid, pull()) == (201, NOT_YET)
    assert await say(hybrid, pull(names=None)) == (201, NOT_YET)
    assert await say(hybrid, push(w000=[1.0])) == (201, NOT_YET)
    assert (await say(hybrid, metrics()))[0] == 201


async def test_the_answers_of_the_worker_routes(offered: Any, bench: Any) -> None:
    schema = "The schema of RequestPushWeight is invalid."
    for name in ("pullWeight", "pushWeight", "pushMetrics"):
        answer = (await offered.flat.send_raw(name, b"no message")).message
        assert answer.retcode == {"pushWeight": 201}.get(name, 400)
        assert name == "pushMetrics" or answer.reason == schema
    other = "PullWeight iteration 7 is invalid. Server current iteration: 1"
    assert await say(offered, pull(7)) == (201, other)
    assert await say(offered, pull(names=None)) == (400, "weights_names_fbs is nullptr.")
    unknown = "Parameter w9 is not registered in server."
    assert await say(offered, pull(names=("w000", "w9"))) == (400, unknown)
    other = "PushWeight iteration number is invalid:7, current iteration:1"
    assert await say(offered, push(7, w000=[1.0])) == (201, other)
    assert await say(offered, push()) == (201, "PushWeight feature map is empty.")
    assert await say(offered, push(w000=[1.0] * 4)) == (201, "Pushing weight failed.")

    pulled = (await offered.flat.send(pull())).message
    assert (pulled.retcode, pulled.iteration) == (200, 1)
    assert pulled.reason == "Pulling weight by weight names for iteration 1 success."
    assert tensors(pulled) == [("w001", [4.0, 5.0]), ("w000", [1.0, 2.0, 3.0])]
    assert await say(offered, push(w000=[9.0, 8.0, 7.0], w9=[1.0])) == (200, "PushWeight succeed.")
    finished = (200, "Model of iteration of 1 has finished")
    assert await say(offered, push(w000=[0.0, 0.0, 0.0])) == finished
    assert (await offered.flat.get_model(1)).message.retcode == 201
    assert (await say(offered, metrics()))[0] == 200

    await bench.finish_round()
    model = (await offered.flat.get_model(1)).message
    assert dict(tensors(model)) == {
        "steps": [7.0],
        "w000": [9.0, 8.0, 7.0],
        "w001": [4.0, 5.0],
    }
    ended = bench.records.ended[-1]
    assert (ended.metrics.loss, ended.metrics.accuracy) == pytest.approx((6.9, 10.1))


async def test_a_tensor_that_no_device_uploaded_is_pulled_with_the_value_it_had(bench: Any) -> None:
    await bench.open(server_mode="HYBRID_TRAINING")
    member = await bench.member()
    for device in ("d1", "d2"):
        await member.flat.check_in(device, data_size=1)
    for device in ("d1", "d2"):
        await member.flat.report(device, tensors={"w000": MEAN["w000"]})
    await bench.look()
    await member.finisher.finish()
    await bench.look()

    pulled = (await member.flat.send(pull(names=("w000", "w001")))).message

    assert tensors(pulled) == [("w000", MEAN["w000"]), ("w001", [-1.25, 0.5])]


async def test_a_tensor_that_nobody_averages_is_pulled_as_it_is_and_cannot_be_pushed(
    offered: Any, bench: Any
) -> None:
    assert tensors((await offered.flat.send(pull(names=("steps",)))).message) == [("steps", [7.0])]
    await say(offered, push(steps=[1.0]))
    await say(offered, metrics())
    await bench.finish_round()

    model = (await offered.flat.get_model(1)).message
    assert dict(tensors(model))["steps"] == [7.0]


async def test_without_weights_the_model_stays_as_it_was(offered: Any, bench: Any) -> None:
    assert (await say(offered, metrics(0.0, 0.5)))[0] == 200
    await bench.finish_round()

    model = (await offered.flat.get_model(1)).message
    assert dict(tensors(model))["w000"] == [0.25, 0.5, 0.75]
    assert bench.records.ended[-1].is_success
    assert (bench.records.ended[-1].metrics.accuracy) == 0.5


async def test_weights_that_are_no_numbers_cost_the_round_and_not_the_model(
    offered: Any, bench: Any
) -> None:
    assert await say(offered, push(w001=[float("nan"), 1.0])) == (200, "PushWeight succeed.")
    assert (await say(offered, metrics()))[0] == 200
    await bench.finish_round()

    assert not bench.records.ended[-1].is_success
    model = (await offered.flat.get_model(1)).message
    assert dict(tensors(model))["w001"] == [-1.25, 0.5]


async def test_metrics_that_are_sent_again_after_the_round_are_taken_again(
    offered: Any, bench: Any
) -> None:
    await say(offered, metrics())
    await bench.finish_round()

    assert (await say(offered, metrics()))[0] == 200
    assert (await say(offered, metrics(1.0, 2.0)))[0] == 201


async def test_in_msgpack_the_status_tells_the_truth(offered: Any) -> None:
    asked = (pull(), pull(7), pull(names=("w9",)), push(w000=[1.0] * 4), push(w000=[1.0]))
    replies = [await offered.packed.send(message) for message in asked]

    assert [reply.status for reply in replies] == [200, 409, 400, 400, 200]
    words = ["accepted", "stale_round", "invalid", "invalid", "accepted"]
    assert [reply.message.verdict for reply in replies] == words


@pytest.mark.parametrize("mode", ["FEDERATED_LEARNING", "CLOUD_TRAINING"])
async def test_in_other_modes_there_is_nothing_to_pull_and_nothing_changes(
    bench: Any, mode: str
) -> None:
    await bench.open(server_mode=mode)
    member = await bench.member()

    assert await say(member, pull()) == (201, NOT_YET)
    assert await say(member, push(w000=[9.0, 9.0, 9.0])) == (200, "PushWeight succeed.")
    assert (await say(member, metrics()))[0] == 200
    assert bench.number == 1
    assert member.view.base.model.tensor("w000").tolist() == [0.25, 0.5, 0.75]
