"""Unsupervised evaluation on the device plane: who is asked for data, and which of it is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_cluster.wire import messages

ON = {
    "unsupervised__eval_type": "DAVIES_BOULDIN_SCORE",
    "unsupervised__cluster_client_num": 3,
}


def items(*vectors: tuple[float, ...]) -> messages.UnsupervisedEvalItems:
    return messages.UnsupervisedEvalItems(
        tuple(
            messages.UnsupervisedEvalItem("name", np.array(vector, np.float32))
            for vector in vectors
        )
    )


async def kept(bench: Any) -> list[list[float]]:
    found = await bench.rounds.evaluations("run-1")
    return [np.frombuffer(vector, "<f4").tolist() for vector in found]


@pytest.mark.parametrize(("changes", "flag"), [({}, 0), (ON, 1)])
async def test_devices_are_told_whether_to_evaluate(
    bench: Any, changes: dict[str, Any], flag: int
) -> None:
    await bench.open(**changes)
    member = await bench.member()

    for caller in (member.flat, member.packed):
        admitted = await caller.check_in(f"of {caller.codec.__name__}")
        refused = await caller.check_in("x", data_size=0)

        assert admitted.message.unsupervised_eval_flg == flag
        assert refused.message.unsupervised_eval_flg == flag


async def test_all_that_a_device_evaluated_is_one_vector_of_its_counted_update(
    bench: Any,
) -> None:
    await bench.open(**ON)
    member = await bench.member()
    await member.flat.check_in("d1")
    await member.packed.check_in("d2")

    await member.flat.report("d1", unsupervised_eval_items=items((1.5, 2.0), (3.0,)))
    await member.flat.report("d1", unsupervised_eval_items=items((9.0,)))
    await member.flat.report("x", unsupervised_eval_items=items((9.0,)))
    await member.packed.report("d2", unsupervised_eval_items=items((4.0, 5.0, 6.0)))

    assert await kept(bench) == [[4.0, 5.0, 6.0], [1.5, 2.0, 3.0]]


@pytest.mark.parametrize(
    "sent",
    [None, items(), items(()), items((1.0,) * 4_000, (1.0,) * 97)],
    ids=["none", "no items", "empty", "4,097 numbers"],
)
async def test_an_update_without_data_to_score_is_counted_and_keeps_nothing(
    bench: Any, sent: Any
) -> None:
    await bench.open(**ON)
    member = await bench.member()
    await member.flat.check_in("d1")

    await member.flat.report("d1", unsupervised_eval_items=sent)

    assert bench.counted == ["d1"]
    assert await kept(bench) == []


async def test_data_that_nobody_asked_for_is_not_kept(bench: Any, member: Any) -> None:
    await member.flat.check_in("d1")

    await member.flat.report("d1", unsupervised_eval_items=items((1.0,)))

    assert bench.counted == ["d1"]
    assert await kept(bench) == []


async def test_a_round_ends_with_the_newest_vectors_of_the_run(bench: Any) -> None:
    await bench.open(**ON)
    member = await bench.member()
    for number in (1, 2):
        for device in ("d1", "d2"):
            await member.flat.check_in(device)
        for device in ("d1", "d2"):
            data = items((number, float(device[1:])))
            await member.flat.report(device, unsupervised_eval_items=data)
        await bench.finish_round()

    ended = bench.records.ended[-1]

    vectors = [np.frombuffer(vector, "<f4").tolist() for vector in ended.evaluations]
    assert vectors == [[2.0, 2.0], [2.0, 1.0], [1.0, 2.0]]
