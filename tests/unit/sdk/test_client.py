"""Devices in whole jobs, against a cluster in memory over real HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import sys
import threading
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.sdk import (
    FederatedDevice,
    RoundOutcome,
    RoundPlan,
    ServersUnreachable,
    TrainResult,
    open_session,
    run,
)
from fl_cluster.sdk.retry import Backoff
from fl_cluster.wire import packed
from fl_cluster.wire.messages import (
    RequestFLJob,
    ResponseFLJob,
    ResponseGetModel,
    ResponseUpdateModel,
)

QUICK = Backoff(least_ms=1, base_ms=5, most_ms=20)


def a_device(url: str | list[str], train: Any, **settings: Any) -> FederatedDevice:
    defaults: dict[str, Any] = {
        "data_size": 10,
        "device_id": "d1",
        "backoff": QUICK,
        "source": random.Random(0),
    }
    return FederatedDevice(url, train=train, **{**defaults, **settings})


async def test_a_device_alone_takes_part_until_the_job_is_finished(
    make_cluster: Any, serve: Any, adding: Any, initial_weights: Any
) -> None:
    cluster, train = make_cluster(), adding(1.0)

    async with serve(cluster) as url:
        result = await a_device(url, train).run()

    assert result.rounds == (1, 2, 3)
    assert result.final_round == 3
    assert [outcome.position for outcome in result.history] == [1, 1, 1]
    for name, values in initial_weights.items():
        np.testing.assert_allclose(result.weights[name], values + 3, rtol=1e-6)
    assert cluster.losses == pytest.approx([0.3679, 0.1353, 0.0498], abs=1e-4)


async def test_the_training_function_gets_the_plan_of_the_cluster(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    cluster, train = make_cluster(rounds_total=1), adding(1.0)

    async with serve(cluster) as url:
        await a_device(url, train).run()

    assert train.plans == [
        RoundPlan(
            round_number=1,
            rounds_total=1,
            epochs=2,
            batch_size=32,
            learning_rate=0.5,
            server_mode="FEDERATED_LEARNING",
            job_name="digits",
        )
    ]


async def test_devices_of_one_process_share_a_session_and_are_weighed_by_their_samples(
    make_cluster: Any, serve: Any, adding: Any, initial_weights: Any
) -> None:
    cluster = make_cluster(cohort_size=3, report_goal=3, rounds_total=2)
    sizes = {1.0: 10, 2.0: 20, 4.0: 70}

    async with serve(cluster) as url, open_session(devices=3) as session:
        results = await asyncio.gather(
            *(
                a_device(
                    url, adding(amount), data_size=size, device_id=str(size), session=session
                ).run()
                for amount, size in sizes.items()
            )
        )
        assert not session.closed

    grown = 2 * (1.0 * 10 + 2.0 * 20 + 4.0 * 70) / 100
    for result in results:
        for name, values in initial_weights.items():
            np.testing.assert_allclose(result.weights[name], values + grown, rtol=1e-5)


async def test_a_model_that_is_held_is_not_downloaded_again(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    cluster = make_cluster(rounds_total=3)

    async with serve(cluster) as url:
        await a_device(url, adding(1.0)).run()

    assert cluster.model_downloads == 1 + 3
    held = [packed.decode(RequestFLJob, body).model_digest for body in cluster.bodies("startFLJob")]
    assert held == [None, "model-1", "model-2"]


async def test_a_report_whose_answer_was_lost_is_repeated_in_the_same_bytes_and_counted_once(
    make_cluster: Any, serve: Any, adding: Any, fault: Any, initial_weights: Any
) -> None:
    cluster, train = make_cluster(cohort_size=2, report_goal=2, rounds_total=1), adding(1.0)
    cluster.faults["updateModel"].extend([fault("drop_answer"), fault("drop")])

    async with serve(cluster) as url:
        result, _ = await asyncio.gather(
            a_device(url, train).run(), a_device(url, adding(3.0), device_id="d2").run()
        )

    reports = cluster.bodies("updateModel")
    assert len(reports) == 4
    assert len(set(reports)) == 2
    assert len(train.plans) == 1
    for name, values in initial_weights.items():
        np.testing.assert_allclose(result.weights[name], values + 2.0, rtol=1e-5)


@pytest.mark.parametrize("endpoint", ["startFLJob", "updateModel", "getModel"])
@pytest.mark.parametrize("name", ["drop", "drop_answer"])
async def test_a_broken_connection_anywhere_changes_nothing(
    endpoint: str, name: str, make_cluster: Any, serve: Any, adding: Any, fault: Any
) -> None:
    cluster, train = make_cluster(rounds_total=2), adding(1.0)
    cluster.faults[endpoint].extend([fault(name), fault(name)])

    async with serve(cluster) as url:
        result = await a_device(url, train).run()

    assert result.rounds == (1, 2)
    assert len(train.plans) == 2


async def test_nonsense_from_something_in_between_is_waited_out(
    make_cluster: Any, serve: Any, adding: Any, fault: Any
) -> None:
    cluster = make_cluster(rounds_total=1)
    proxy = fault(status=502, text="<html>Bad Gateway</html>", content_type="text/html")
    garbage = fault(body=b"\xc1garbage", content_type="application/msgpack")
    empty_map = fault(body=b"\x80", content_type="application/msgpack")
    for endpoint in ("startFLJob", "getModel"):
        cluster.faults[endpoint].extend([proxy, garbage, empty_map])
    cluster.faults["updateModel"].extend([proxy, garbage, empty_map])

    async with serve(cluster) as url:
        result = await a_device(url, adding(1.0)).run()

    assert result.rounds == (1,)


@pytest.mark.parametrize("seed", range(4))
async def test_a_server_that_is_gone_is_replaced_by_another(
    seed: int, make_cluster: Any, serve: Any, adding: Any, unused_tcp_port: int
) -> None:
    gone = f"http://127.0.0.1:{unused_tcp_port}"

    async with serve(make_cluster(rounds_total=2)) as url:
        device = a_device([gone, url], adding(1.0), source=random.Random(seed))
        result = await device.run()

    assert result.rounds == (1, 2)


async def test_a_server_that_cannot_work_is_replaced_by_another(
    make_cluster: Any, serve: Any, adding: Any, fault: Any
) -> None:
    drained, working = make_cluster(), make_cluster(rounds_total=2)
    refusal = ResponseFLJob(verdict="unavailable", retry_after_ms=5)
    drained.faults["startFLJob"].extend(
        fault(status=503, body=packed.encode(refusal), content_type="application/msgpack")
        for _ in range(100)
    )

    async with serve(drained) as first, serve(working) as second:
        result = await a_device([first, second], adding(1.0)).run()

    assert result.rounds == (1, 2)
    assert len(drained.requests) <= 1


async def test_a_cluster_that_stays_away_is_given_up_with_one_clear_sentence(
    adding: Any, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    device = a_device(f"http://127.0.0.1:{unused_tcp_port}", adding(1.0), patience_s=0.1)

    with caplog.at_level(logging.INFO), pytest.raises(ServersUnreachable) as caught:
        await device.run()

    assert "no server has answered for 0 s: http://127.0.0.1" in str(caught.value)
    [warning] = [record for record in caplog.records if record.name == "fl_cluster.sdk"]
    assert warning.getMessage().startswith("device d1: no answer for 0 s, giving up after 0 s")


async def test_a_device_that_finds_the_cohort_full_comes_again_and_does_not_hammer(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    cluster = make_cluster(cohort_size=1, rounds_total=2)
    cluster.cohort["somebody else"] = 10
    refusals = []

    async def after_three_refusals() -> None:
        await cluster.was_asked("startFLJob", times=3)
        refusals.append(len(cluster.bodies("startFLJob")))
        await cluster.abandon()

    async with serve(cluster) as url:
        began = asyncio.get_running_loop().time()
        result, _ = await asyncio.gather(a_device(url, adding(1.0)).run(), after_three_refusals())
        took_s = asyncio.get_running_loop().time() - began

    assert result.rounds == (2,)
    assert refusals == [3]
    assert took_s > 2 * 0.030


async def test_a_round_that_has_enough_without_a_device_goes_on_with_it_in_the_next(
    make_cluster: Any, serve: Any, adding: Any, fault: Any
) -> None:
    cluster = make_cluster(rounds_total=2)
    enough = fault(
        status=429,
        body=packed.encode(ResponseUpdateModel(verdict="enough", retry_after_ms=5_000)),
        content_type="application/msgpack",
    )
    cluster.faults["updateModel"].append(enough)

    async def end_round() -> None:
        await cluster.was_asked("getModel")
        await cluster.abandon()

    async with serve(cluster) as url:
        result, _ = await asyncio.gather(a_device(url, adding(1.0)).run(), end_round())

    assert [(outcome.round_number, outcome.counted) for outcome in result.history] == [
        (1, False),
        (2, True),
    ]
    assert result.rounds == (2,)


async def test_a_round_that_is_abandoned_with_an_acknowledged_update_does_not_count(
    make_cluster: Any, serve: Any, adding: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make_cluster(rounds_total=2, cohort_size=2, report_goal=2)

    async def end_both() -> None:
        await cluster.was_asked("getModel")
        await cluster.abandon()
        await cluster.was_asked("getModel", times=2)
        await cluster.publish(10)

    async with serve(cluster) as url:
        with caplog.at_level(logging.INFO, logger="fl_cluster.sdk"):
            result, _ = await asyncio.gather(a_device(url, adding(1.0)).run(), end_both())

    ended = [(each.round_number, each.counted, each.position) for each in result.history]
    assert ended == [(1, False, 1), (2, True, 1)]
    assert result.rounds == (2,)
    assert any("round 1 of 2: not counted" in line for line in caplog.messages)


@pytest.mark.parametrize("is_abandoned", [True, False])
async def test_what_became_of_a_round_is_seen_at_the_next_check_in_too(
    make_cluster: Any, serve: Any, adding: Any, is_abandoned: bool
) -> None:
    cluster = make_cluster(rounds_total=2, cohort_size=2, report_goal=2, hold_most_ms=0)

    async def end_first(request: Any, go_on: Any) -> Any:
        await (cluster.abandon() if is_abandoned else cluster.publish(10))
        return await go_on()

    async def join(request: Any, go_on: Any) -> Any:
        return await go_on()

    async def end_second() -> None:
        await cluster.was_asked("updateModel", times=2)
        await cluster.was_asked("startFLJob", times=3)
        await cluster.publish(10)

    cluster.faults["startFLJob"].extend((join, end_first))
    async with serve(cluster) as url:
        device = a_device(url, adding(1.0), trust_s=0.0)
        result, _ = await asyncio.gather(device.run(), end_second())

    assert result.rounds == ((2,) if is_abandoned else (1, 2))
    assert [each.round_number for each in result.history] == [1, 2]


async def test_an_update_whose_round_s_model_nobody_keeps_any_more_is_not_said_to_be_in_it(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    cluster = make_cluster(rounds_total=3, cohort_size=2, report_goal=2, hold_most_ms=0)

    async def end_three(request: Any, go_on: Any) -> Any:
        for _ in range(3):
            await cluster.publish(10)
        return await go_on()

    async def join(request: Any, go_on: Any) -> Any:
        return await go_on()

    cluster.faults["startFLJob"].extend((join, end_three))
    async with serve(cluster) as url:
        result = await a_device(url, adding(1.0), trust_s=0.0).run()

    assert [(each.round_number, each.counted) for each in result.history] == [(1, False)]
    assert result.final_round == 3


async def test_a_round_that_ends_while_a_device_trains_is_let_go(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    cluster = make_cluster(rounds_total=2)
    train = adding(1.0)
    loop = asyncio.get_running_loop()

    def slow(weights: Any, plan: RoundPlan) -> TrainResult:
        if plan.round_number == 1:
            asyncio.run_coroutine_threadsafe(cluster.abandon(), loop).result()
        result: TrainResult = train(weights, plan)
        return result

    async with serve(cluster) as url:
        result = await a_device(url, slow).run()

    assert result.rounds == (2,)
    assert [plan.round_number for plan in train.plans] == [1, 2]


async def test_a_device_that_comes_too_late_takes_the_last_model_home(
    make_cluster: Any, serve: Any, adding: Any, initial_weights: Any
) -> None:
    cluster, train = make_cluster(rounds_total=0), adding(1.0)

    async with serve(cluster) as url:
        result = await a_device(url, train).run()

    assert (result.final_round, result.rounds, train.plans) == (0, (), [])
    assert result.weights["layer.weight"].tobytes() == initial_weights["layer.weight"].tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layer.bias"), "missing 'layer.bias'"),
        (lambda w: w.update(extra=w["layer.bias"]), "unknown 'extra'"),
        (lambda w: w.update({"layer.bias": np.zeros(5, np.float32)}), "expected shape (4,)"),
        (lambda w: w.update({"layer.bias": np.zeros(4)}), "found float64"),
        (lambda w: w["layer.weight"].fill(np.nan), "found nan at [0, 0]"),
    ],
)
async def test_an_unfit_result_is_refused_before_anything_is_sent(
    change: Any, message: str, make_cluster: Any, serve: Any
) -> None:
    cluster = make_cluster()

    def train(weights: Any, plan: RoundPlan) -> TrainResult:
        change(weights)
        return TrainResult(weights)

    async with serve(cluster) as url:
        with pytest.raises(CallerProtocolError) as caught:
            await a_device(url, train).run()

    assert message in str(caught.value)
    assert cluster.bodies("updateModel") == []


async def test_what_the_training_function_raises_comes_out_unchanged(
    make_cluster: Any, serve: Any
) -> None:
    def train(weights: Any, plan: RoundPlan) -> TrainResult:
        raise ZeroDivisionError("my own bug")

    async with serve(make_cluster()) as url:
        with pytest.raises(ZeroDivisionError, match="my own bug"):
            await a_device(url, train).run()


async def test_a_refusal_for_good_says_what_was_refused_and_why(
    make_cluster: Any, serve: Any, adding: Any, fault: Any
) -> None:
    cluster = make_cluster()
    refusal = ResponseUpdateModel(
        retcode=400, verdict="out_of_range", reason="layer.weight[0] is 1e30"
    )
    cluster.faults["updateModel"].append(
        fault(status=400, body=packed.encode(refusal), content_type="application/msgpack")
    )

    async with serve(cluster) as url:
        with pytest.raises(CallerProtocolError) as caught:
            await a_device(url, adding(1.0)).run()

    assert str(caught.value) == (
        "the server refused the device's attempt to report for round 1:"
        " out_of_range: layer.weight[0] is 1e30"
    )


async def test_a_wrong_path_is_told_at_once(make_cluster: Any, serve: Any, adding: Any) -> None:
    async with serve(make_cluster(), prefix="/fl") as url:
        with pytest.raises(CallerProtocolError) as caught:
            await a_device(url, adding(1.0)).run()
        assert f"HTTP 404 Not Found from {url}/startFLJob" in str(caught.value)

        assert (await a_device(url, adding(1.0), url_prefix="/fl/").run()).final_round == 3


async def test_a_job_with_masked_updates_never_gets_a_plain_one(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    cluster = make_cluster(encryption="PW_ENCRYPT")

    async with serve(cluster) as url:
        with pytest.raises(PeerProtocolError, match="masked updates without saying on what"):
            await a_device(url, adding(1.0)).run()

    assert cluster.bodies("updateModel") == []


async def test_a_round_that_the_cluster_began_again_gets_the_same_update_again(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    cluster, train = make_cluster(cohort_size=2, report_goal=2, rounds_total=1), adding(1.0)
    other = adding(3.0)

    async def lose_the_store() -> None:
        await cluster.was_asked("getModel")
        cluster.forget_round()

    async with serve(cluster) as url:
        cluster.hold_most_ms = 20
        device = a_device(url, train, trust_s=0.05)
        first = asyncio.create_task(device.run())
        await lose_the_store()
        result, _ = await asyncio.gather(first, a_device(url, other, device_id="d2").run())

    assert result.rounds == (1,)
    assert len(train.plans) == 1


async def test_a_round_that_ended_unnoticed_is_told_when_the_device_finds_out(
    make_cluster: Any, serve: Any, adding: Any, fault: Any
) -> None:
    cluster = make_cluster(rounds_total=2)
    not_ready = fault(
        status=202,
        body=packed.encode(ResponseGetModel(verdict="not_ready", retry_after_ms=5)),
        content_type="application/msgpack",
    )
    cluster.faults["getModel"].extend([not_ready] * 30)

    async with serve(cluster) as url:
        result = await a_device(url, adding(1.0), trust_s=0.02).run()

    assert result.rounds == (1, 2)
    assert result.final_round == 2
    assert len(cluster.bodies("updateModel")) == 2


async def test_each_round_is_told_with_a_model_that_cannot_be_changed(
    make_cluster: Any, serve: Any, adding: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make_cluster(rounds_total=2)
    told: list[tuple[RoundOutcome, bytes, bool]] = []

    def on_round(outcome: RoundOutcome, weights: Any) -> None:
        bias = weights["layer.bias"]
        told.append((outcome, bias.tobytes(), bias.flags.writeable))

    async with serve(cluster) as url:
        with caplog.at_level(logging.INFO, "fl_cluster.sdk"):
            result = await a_device(url, adding(1.0), on_round=on_round).run()

    assert [outcome for outcome, _, _ in told] == list(result.history)
    assert told[-1][1] == result.weights["layer.bias"].tobytes()
    assert not any(writeable for _, _, writeable in told)
    assert result.weights["layer.bias"].flags.writeable
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[1].startswith("device d1: round 2 of 2: counted, loss 0.1353")


async def test_the_starting_model_of_each_round_is_evaluated_before_training(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    cluster = make_cluster(rounds_total=2)

    def evaluate(weights: Any) -> float:
        return float(weights["layer.bias"][0] / 4)

    async with serve(cluster) as url:
        await a_device(url, adding(1.0), evaluate=evaluate, eval_data_size=7).run()

    assert cluster.accuracies == [0.0, 0.25]
    asked = packed.decode(RequestFLJob, cluster.bodies("startFLJob")[0])
    assert asked.eval_data_size == 7


async def test_training_runs_in_a_thread_or_inline(make_cluster: Any, serve: Any) -> None:
    threads: list[threading.Thread] = []

    def train(weights: Any, plan: RoundPlan) -> tuple[Any, int, dict[str, float]]:
        threads.append(threading.current_thread())
        return weights, 10, {}

    for inline in (False, True):
        async with serve(make_cluster(rounds_total=1)) as url:
            await a_device(url, train, inline=inline).run()

    assert threads[0] is not threading.main_thread()
    assert threads[1] is threading.main_thread()


async def test_a_large_update_travels_in_slices(make_cluster: Any, serve: Any, adding: Any) -> None:
    large = {"w": np.ones(500_001, np.float32)}
    cluster = make_cluster(initial=large, rounds_total=1)

    async with serve(cluster) as url:
        result = await a_device(url, adding(1.0)).run()

    assert result.weights["w"].tobytes() == (large["w"] + 1).tobytes()


async def test_cancelling_a_device_that_waits_ends_it_at_once(
    make_cluster: Any, serve: Any, adding: Any
) -> None:
    cluster = make_cluster(cohort_size=2, report_goal=2)

    async with serve(cluster) as url:
        task = asyncio.create_task(a_device(url, adding(1.0)).run())
        await cluster.was_asked("getModel")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_cancelling_a_device_that_trains_does_not_wait_for_the_training(
    make_cluster: Any, serve: Any
) -> None:
    began, release = threading.Event(), threading.Event()

    def train(weights: Any, plan: RoundPlan) -> TrainResult:
        began.set()
        release.wait()
        return TrainResult(weights)

    async with serve(make_cluster()) as url:
        task = asyncio.create_task(a_device(url, train).run())
        await asyncio.to_thread(began.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()


async def test_the_sync_face_does_the_same(make_cluster: Any, serve: Any, adding: Any) -> None:
    cluster = make_cluster(rounds_total=2)

    async with serve(cluster) as url:
        result = await asyncio.to_thread(
            run, adding(1.0), servers=url, data_size=10, device_id="d9", job="digits"
        )

    assert (result.device_id, result.rounds) == ("d9", (1, 2))
    assert packed.decode(RequestFLJob, cluster.bodies("startFLJob")[0]).fl_name == "digits"


async def test_a_check_in_that_contradicts_itself_is_no_answer(
    make_cluster: Any, serve: Any, adding: Any, fault: Any
) -> None:
    cluster = make_cluster(rounds_total=1)
    without_model = ResponseFLJob(
        retcode=200,
        verdict="accepted",
        iteration=1,
        fl_plan_config=cluster.plan(),
        model_unchanged=True,
    )
    without_plan = ResponseFLJob(retcode=200, verdict="accepted", iteration=1)
    for message in (without_model, without_plan):
        cluster.faults["startFLJob"].append(
            fault(body=packed.encode(message), content_type="application/msgpack")
        )

    async with serve(cluster) as url:
        result = await a_device(url, adding(1.0)).run()

    assert result.rounds == (1,)
    assert len(cluster.bodies("startFLJob")) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data_size": 0}, "data_size: expected 1 to 65535, found 0"),
        ({"data_size": 65_536}, "data_size: expected 1 to 65535, found 65536"),
        ({"evaluate": len}, "eval_data_size"),
        ({"device_id": ""}, "device_id"),
        ({"patience_s": -1}, "patience_s"),
    ],
)
def test_wrong_settings_are_refused_at_once(
    settings: dict[str, Any], message: str, adding: Any
) -> None:
    with pytest.raises(CallerProtocolError, match=message):
        a_device("http://127.0.0.1:1", adding(1.0), **settings)


def test_devices_are_different_unless_told_who_they_are(adding: Any) -> None:
    first, second = (
        FederatedDevice("http://127.0.0.1:1", train=adding(1.0), data_size=1) for _ in range(2)
    )

    assert first.device_id != second.device_id
    assert json.dumps(first.device_id)


async def test_ctrl_c_does_not_wait_for_a_training_that_takes_long(
    make_cluster: Any, serve: Any
) -> None:
    program = (
        "import sys, time\n"
        "from fl_cluster.sdk import run\n"
        "def train(weights, plan):\n"
        "    print('training', flush=True)\n"
        "    time.sleep(50)\n"
        "try:\n"
        "    run(train, servers=sys.argv[1], data_size=10)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    async with serve(make_cluster()) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, url, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"training\n"
        process.send_signal(signal.SIGINT)

        assert await asyncio.wait_for(process.wait(), 10) == 130
