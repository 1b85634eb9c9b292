"""What the witness calls wrong: a harness that cannot fail would prove nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from itertools import pairwise

import numpy as np
import pytest
from harness import job, memory
from harness.checks import (
    Counted,
    Violation,
    check_model,
    check_positions,
    check_told,
    check_weights,
    counted_set,
    next_of,
    stored_weights,
)
from harness.diary import Diary, DiaryReader, Line, Word
from harness.faults import Kind, plan
from harness.machine import end
from harness.processes import Sample
from harness.reference import expected

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Partial, Pointer, Scaling, Update
from fl_cluster.aggregate.scale import exponents
from fl_cluster.kernels.bounds import term_bound

COHORT = 9
DEVICES = ["sdk-00", "sdk-07", "raw-01", "raw-05", "raw-10"]
BASE = job.initial_weights(3)
REF = "4.1@run-1"


def cluster_model(devices: list[str]) -> job.Floats:
    """What the cluster's own arithmetic makes of these updates, in this order."""
    layout = Layout(Tensor(name, shape) for name, shape in job.SHAPES.items())
    base = Model(layout, BASE)
    total = Partial(layout, Scaling(exponents(base, COHORT), term_bound(COHORT)))
    for device in devices:
        sent = job.trained(device, 4, BASE)
        if job.is_raw(device):
            sent = job.multiplied(device, sent)
        arrays = [
            (place, sent[job.PLACES[place.tensor.name]])
            for place in layout.places
            if job.sends(device, place.tensor.name)
        ]
        total.add(Update(arrays, is_plain=not job.is_raw(device)), job.data_size(device))
    model, _ = total.finalise(base)
    return model.values


def counted(*devices: str) -> dict[str, Counted]:
    return {device: Counted(place, "m", "") for place, device in enumerate(devices, start=1)}


def test_tensors_are_in_the_order_in_which_a_cluster_keeps_them() -> None:
    layout = Layout(Tensor(name, shape) for name, shape in job.SHAPES.items())

    places = {place.tensor.name: slice(place.start, place.stop) for place in layout.places}

    assert places == job.PLACES


@pytest.mark.parametrize("order", [1, -1])
def test_the_reference_is_what_a_sound_cluster_computes(order: int) -> None:
    due = expected(4, BASE, DEVICES, COHORT)

    check_model(REF, cluster_model(DEVICES[::order]), due.values)


@pytest.mark.parametrize(
    "wrong", [DEVICES[1:], [*DEVICES, DEVICES[0]], [*DEVICES, "sdk-01"], ["sdk-00"]]
)
def test_another_set_makes_another_model(wrong: list[str]) -> None:
    due = expected(4, BASE, DEVICES, COHORT)

    with pytest.raises(Violation, match="same bits"):
        check_model(REF, cluster_model(wrong), due.values)


def test_one_bit_is_enough_to_be_wrong() -> None:
    found = BASE.copy()
    found[17] = np.nextafter(found[17], np.float32(1))

    with pytest.raises(Violation, match=r"1 of .* element 17"):
        check_model(REF, found, BASE)


def test_a_sum_that_weighs_more_than_its_set_counts_somebody_twice() -> None:
    due = expected(4, BASE, DEVICES, COHORT)
    twice = expected(4, BASE, [*DEVICES, DEVICES[0]], COHORT)

    with pytest.raises(Violation, match="counted twice"):
        check_weights(REF, twice.weights, due)


def test_a_sum_that_weighs_less_than_its_set_has_lost_somebody() -> None:
    due = expected(4, BASE, DEVICES, COHORT)
    fewer = expected(4, BASE, DEVICES[:-1], COHORT)

    with pytest.raises(Violation, match="counted, but not in the sum"):
        check_weights(REF, fewer.weights, due)


def test_who_was_told_and_is_not_counted_is_lost() -> None:
    line = Line(Word.ACKNOWLEDGED, "sdk-01", 4)

    with pytest.raises(Violation, match=r"lost: .*sdk-01"):
        check_told(REF, line, counted("sdk-00"))
    check_told(REF, line, counted("sdk-01"))


def test_a_receipt_has_to_name_the_place_that_was_given() -> None:
    line = Line(Word.CONCLUDED, "sdk-01", 4, "counted", position=1)

    with pytest.raises(Violation, match="receipt"):
        check_told(REF, line, counted("sdk-00", "sdk-01"))
    check_told(REF, line, counted("sdk-01"))


@pytest.mark.parametrize("positions", [[1, 1], [1, 3], [0, 1], [2]])
def test_positions_are_given_once_and_leave_none_out(positions: list[int]) -> None:
    entries = {f"d{i}": Counted(place, "m", "") for i, place in enumerate(positions)}

    with pytest.raises(Violation, match="counted once"):
        check_positions(REF, entries)


def test_what_redis_keeps_is_read_as_the_cluster_writes_it() -> None:
    record = json.dumps(["127.0.0.1:1::now::2", "ab", 0.5, 0.0])
    weights = [7] * (len(job.SHAPES) - 1)
    partials = {"a": Pointer("x", [3] * len(job.SHAPES)).to_text()}
    partials["b"] = Pointer("y", [1, *weights]).to_text()

    assert counted_set({"d": f"12 1700000000000 {record}"}) == {
        "d": Counted(12, "127.0.0.1:1::now::2", "ab")
    }
    assert stored_weights(partials) == [4, *(3 + weight for weight in weights)]
    assert next_of("9.3@i_2026-01-01") == "10.1@i_2026-01-01"


def test_the_same_seed_gives_the_same_plan() -> None:
    mix = dict.fromkeys(Kind, 1.0)
    first, again, other = plan(5, mix), plan(5, mix), plan(6, mix)

    faults = [next(first) for _ in range(200)]

    assert faults == [next(again) for _ in range(200)]
    assert faults != [next(other) for _ in range(200)]
    assert {fault.kind for fault in faults} == set(Kind)


def test_a_diary_is_read_once_and_whole_lines_only(tmp_path) -> None:
    path = tmp_path / "diary.jsonl"
    diary, reader = Diary(path), DiaryReader(path)
    lines = [Line(Word.ACKNOWLEDGED, f"sdk-{i:02d}", i, at_s=1.0) for i in range(3)]

    assert list(reader.read()) == []
    diary.note(lines[0])
    diary.note(lines[1])
    assert list(reader.read()) == lines[:2]
    with path.open("ab") as file:
        file.write(b'{"word": "ackn')
    assert list(reader.read()) == []


def samples(*megabytes: float) -> list[Sample]:
    """One a second."""
    return [Sample(float(at), int(size * memory.MEGABYTE)) for at, size in enumerate(megabytes)]


def test_memory_that_levels_off_is_flat_and_memory_that_rises_is_not() -> None:
    warm_up = [60.0 + at for at in range(15)]

    flat = memory.growth("a", samples(*warm_up, *[75.0] * 200))
    rising = memory.growth("b", samples(*warm_up, *[75.0 + at / 10 for at in range(200)]))

    assert flat is not None
    assert flat.is_flat
    assert rising is not None
    assert not rising.is_flat


def test_a_short_life_says_nothing_about_memory() -> None:
    assert memory.growth("a", samples(*[60.0] * 20)) is None
    assert memory.growth("a", []) is None


def test_what_devices_send_depends_on_device_round_and_model() -> None:
    sent = [
        job.trained("sdk-00", 1, BASE),
        job.trained("sdk-01", 1, BASE),
        job.trained("sdk-00", 2, BASE),
        job.trained("sdk-00", 1, BASE + np.float32(1)),
    ]

    assert sent[0].tobytes() == job.trained("sdk-00", 1, BASE).tobytes()
    assert all(one.tobytes() != other.tobytes() for one, other in pairwise(sent))
    assert {job.sends(device, job.LEFT_OUT) for device in DEVICES} == {True, False}


async def test_a_watcher_ends_although_its_client_forgot_a_cancellation() -> None:
    forgotten = asyncio.Event()

    async def watch() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        forgotten.set()
        await asyncio.Event().wait()

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0)
    async with asyncio.timeout(10.0):
        await end((watcher,))
    assert forgotten.is_set()
    assert watcher.cancelled()
