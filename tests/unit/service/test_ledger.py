"""One member's sum: what the store holds of it and what the store counts is the same set."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass

import numpy as np
import pytest

from fl_cluster.aggregate.layout import Tensor
from fl_cluster.aggregate.partial import Pointer
from fl_cluster.errors import KernelMismatch, StoreCorrupt, StoreUnavailable
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import Reason
from fl_cluster.service.ledger import Entry, Ledger
from fl_cluster.store.ports import ClaimRequest

LARGE = (Tensor("large", (300_000,)),)
"""Large enough for arithmetic to happen in a thread."""


@dataclass
class Desk:
    """A ledger, and a way to hand it claimed updates."""

    world: object
    member: object
    ledger: Ledger

    async def add(self, device: str) -> asyncio.Future[Entry]:
        """Claim, and add; the future of the outcome."""
        ref = self.ledger.ref
        answers = await self.world.round_store.claim(
            ref, self.ledger.member, [ClaimRequest(device, ref.number)]
        )
        assert answers[0].verdict is Verdict.ACCEPTED
        arrival = self.world.arrival(device)
        return await self.ledger.add(arrival.record, arrival.content, answers[0].data_size)

    async def stored_sum(self) -> tuple[np.ndarray, list[int]]:
        """What the store holds of this member."""
        partials = await self.world.round_store.partials(self.ledger.ref)
        pointer = Pointer.parse(partials[self.ledger.member], len(self.world.layout.summed))
        sums = np.empty(self.world.layout.sum_size, np.int64)
        await self.world.blob_store.get(pointer.blob, sums.data)
        return sums, list(pointer.weights)

    def sum_of(self, *devices: str) -> tuple[np.ndarray, list[int]]:
        """The sum of what these devices sent, by fractions alone."""
        return self.world.exact_sum(*devices)

    async def holds(self, *devices: str) -> bool:
        """Whether the stored sum is that of these devices, to the bit."""
        (sums, weights), (expected, sizes) = await self.stored_sum(), self.sum_of(*devices)
        return weights == sizes and np.array_equal(sums, expected)


@pytest.fixture
async def desk(job) -> Desk:
    await job.admit("d1", "d2", "d3", "d4")
    member = await job.member()
    view = member.view
    ledger = Ledger(job.first, "a", view.layout, view.scaling, member.stores)
    return Desk(job, member, ledger)


async def test_updates_that_come_during_a_commit_share_the_next_one(desk):
    report = desk.member.rounds.hold_before("report")
    first = await desk.add("d1")
    await report.reached.wait()
    later = [await desk.add(device) for device in ("d2", "d3", "d4")]

    report.go.set()

    assert Entry(Verdict.ACCEPTED, 1) == await first
    assert [(await future).position for future in later] == [2, 3, 4]
    assert desk.member.rounds.calls["report"] == 2
    assert await desk.holds("d1", "d2", "d3", "d4")


async def test_a_lost_answer_to_a_commit_is_asked_again_and_the_update_counts_once(desk):
    desk.member.rounds.fail_after("report", times=3)

    entry = await (await desk.add("d1"))

    assert Entry(Verdict.ACCEPTED, 1) == entry
    assert desk.world.reports() == ["d1"]
    assert await desk.holds("d1")


async def test_a_commit_is_repeated_under_the_same_name(desk):
    desk.member.rounds.fail_before("report", times=2)
    desk.member.blobs.fail_after("put", times=2)

    await (await desk.add("d1"))

    assert len({arguments[0] for arguments in desk.member.blobs.arguments["put"]}) == 1
    pointers = {arguments[2].partial for arguments in desk.member.rounds.arguments["report"]}
    assert len(pointers) == 1


async def test_each_commit_drops_the_partial_before_it(desk):
    for device in ("d1", "d2", "d3"):
        await (await desk.add(device))
    await desk.add("d4")
    await asyncio.sleep(1)

    partials = [name for name in desk.world.blob_store.names() if name.startswith("partial")]

    assert len(partials) == 1
    assert partials[0] in next(
        iter((await desk.world.round_store.partials(desk.ledger.ref)).values())
    )


async def test_a_partial_stays_that_a_store_which_went_back_in_time_has_counted(desk):
    await (await desk.add("d1"))
    (first,) = (name for name in desk.world.blob_store.names() if name.startswith("partial"))
    state = desk.world.round_store._round
    looks = desk.member.rounds.hold_before("partials")

    await (await desk.add("d2"))
    await looks.reached.wait()
    desk.world.round_store._round = state
    looks.go.set()
    await asyncio.sleep(1)

    assert first in desk.world.blob_store.names()
    assert await desk.holds("d1")


@pytest.mark.parametrize("fault", [StoreUnavailable("drop", "away"), StoreCorrupt("drop: refused")])
async def test_a_partial_that_cannot_be_dropped_holds_up_nobody(desk, fault):
    await (await desk.add("d1"))
    desk.member.blobs.fail_before("drop", fault=fault)
    report = desk.member.rounds.hold_before("report")
    second = await desk.add("d2")
    await report.reached.wait()
    third = await desk.add("d3")
    report.go.set()

    assert ((await second).position, (await third).position) == (2, 3)
    assert await desk.holds("d1", "d2", "d3")


async def test_a_batch_with_an_unclaimed_update_costs_the_member_its_name(desk):
    """What was added cannot be told apart in the sum, so nothing is added to it any more."""
    await (await desk.add("d1"))
    report = desk.member.rounds.hold_before("report")
    second = await desk.add("d2")
    await report.reached.wait()
    third = await desk.add("d3")
    await desk.world.round_store.release(desk.ledger.ref, "a", ["d2"])
    report.go.set()

    assert Entry(Verdict.FENCED) == await second
    assert Entry(Verdict.FENCED) == await third
    arrival = desk.world.arrival("d4")
    afterwards = await desk.ledger.add(arrival.record, arrival.content, 1)
    assert Entry(Verdict.FENCED) == await afterwards
    assert desk.world.claims() == {}
    assert await desk.holds("d1")


async def test_a_late_copy_of_a_refused_report_is_refused_too(desk):
    """It names a partial that is gone; what it speaks of may be claimed again when it comes."""
    report = desk.member.rounds.hold_before("report")
    first = await desk.add("d1")
    await report.reached.wait()
    await desk.world.round_store.release(desk.ledger.ref, "a", ["d1"])
    report.go.set()
    await first
    ref, member, batch = desk.member.rounds.arguments["report"][0]

    claimed = await desk.world.round_store.claim(ref, member, [ClaimRequest("d1", ref.number)])
    late = await desk.world.round_store.report(ref, member, batch)

    assert (claimed[0].verdict, late.verdict) == (Verdict.FENCED, Verdict.FENCED)
    assert desk.world.reports() == []


async def test_giving_the_name_up_waits_for_a_store_that_is_away(desk):
    await (await desk.add("d1"))
    report = desk.member.rounds.hold_before("report")
    second = await desk.add("d2")
    await report.reached.wait()
    await desk.world.round_store.release(desk.ledger.ref, "a", ["d2"])
    desk.member.rounds.fail_before("member_lost", times=3)
    report.go.set()

    assert Entry(Verdict.FENCED) == await second
    assert await desk.holds("d1")


async def test_a_fault_in_a_commit_reaches_everybody_who_waits_and_ends_the_ledger(desk):
    """What was added and not counted must not be in what is committed next."""
    desk.member.rounds.fail_before("report", fault=StoreCorrupt("no word of ours"))
    first = await desk.add("d1")
    second = await desk.add("d2")

    for future in (first, second):
        with pytest.raises(StoreUnavailable):
            await future
    with pytest.raises(StoreUnavailable):
        await desk.add("d3")
    await asyncio.sleep(10)
    assert desk.world.reports() == []
    assert dict(await desk.world.round_store.partials(desk.ledger.ref)) == {}


@pytest.mark.parametrize("reason", [Verdict.LATE, Verdict.ENOUGH, Verdict.FENCED, Verdict.MOVED_ON])
async def test_a_closed_round_refuses_the_batch_and_all_that_come_later(desk, reason):
    report = desk.member.rounds.hold_before("report")
    first = await desk.add("d1")
    await report.reached.wait()
    later = await desk.add("d2")
    await END_ROUND[reason](desk)
    report.go.set()

    assert Entry(reason) == await first
    assert Entry(reason) == await later
    arrival = desk.world.arrival("d3")
    afterwards = await desk.ledger.add(arrival.record, arrival.content, 1)
    assert Entry(reason) == await afterwards
    assert desk.member.rounds.calls["report"] == 1
    await asyncio.sleep(1)
    assert [n for n in desk.world.blob_store.names() if n.startswith("partial")] == []


async def _late(desk: Desk) -> None:
    await asyncio.sleep(200)


async def _enough(desk: Desk) -> None:
    await desk.world.round_store.abort(desk.ledger.ref, Reason.JOB_DISABLED)


async def _fenced(desk: Desk) -> None:
    await desk.world.round_store.member_lost("a")


async def _moved_on(desk: Desk) -> None:
    await _enough(desk)
    assert await desk.member.finish()


END_ROUND = {
    Verdict.LATE: _late,
    Verdict.ENOUGH: _enough,
    Verdict.FENCED: _fenced,
    Verdict.MOVED_ON: _moved_on,
}


@pytest.mark.parametrize("afterwards", [_fenced, _enough, _late, _moved_on])
async def test_a_counted_batch_whose_answer_was_lost_is_accepted_whatever_came_after(
    desk, afterwards
):
    await (await desk.add("d1"))
    desk.member.rounds.fail_after("report")
    held = desk.member.rounds.hold_before("report")
    desk.member.rounds._before["report"].rotate()
    desk.member.rounds._before["report"].appendleft(None)
    second = await desk.add("d2")
    await held.reached.wait()
    await afterwards(desk)
    held.go.set()

    assert Entry(Verdict.ACCEPTED, 2) == await second


@pytest.mark.parametrize("afterwards", [_fenced, _enough, _late, _moved_on])
async def test_a_batch_is_accepted_when_the_first_copy_of_its_report_was_counted(desk, afterwards):
    """A link that breaks makes the store's client send again; the second answer is a refusal."""
    await (await desk.add("d1"))
    held = desk.member.rounds.hold_after("report")
    second = await desk.add("d2")
    await held.reached.wait()
    await afterwards(desk)
    ref, member, batch = desk.member.rounds.arguments["report"][-1]
    again = await desk.world.round_store.report(ref, member, batch)
    desk.member.rounds.answers["report"].append(again)
    held.go.set()

    assert Entry(Verdict.ACCEPTED, 2) == await second
    await asyncio.sleep(1)
    is_stored = any(name in batch.partial for name in desk.world.blob_store.names())
    assert is_stored or afterwards is _moved_on


async def test_what_is_committed_is_handed_over_once_and_ends_the_ledger(desk):
    await (await desk.add("d1"))
    await asyncio.sleep(1)

    committed = desk.ledger.hand_over()

    assert committed is not None
    sums, weights = desk.sum_of("d1")
    assert np.array_equal(committed.sums, sums)
    assert weights == list(committed.weights)
    assert not np.shares_memory(committed.sums, committed.scratch)
    assert desk.ledger.hand_over() is None
    assert Entry(Verdict.ENOUGH) == await (await desk.add("d2"))


async def test_memory_that_was_handed_over_is_freed_by_whoever_took_it(desk):
    await (await desk.add("d1"))
    await asyncio.sleep(1)
    committed = desk.ledger.hand_over()
    scratch = weakref.ref(committed.scratch)

    del committed

    assert scratch() is None


async def test_nothing_is_handed_over_while_a_commit_is_under_way(desk):
    await (await desk.add("d1"))
    report = desk.member.rounds.hold_before("report")
    second = await desk.add("d2")
    await report.reached.wait()

    assert desk.ledger.hand_over() is None

    report.go.set()
    assert Entry(Verdict.ACCEPTED, 2) == await second


async def test_nothing_is_handed_over_while_an_update_is_being_added(world):
    """Whoever was handed the memory would see the addition, or write into it."""
    await world.open(tensors=LARGE)
    await world.admit("d1", "d2")
    member = await world.member()
    ledger = Ledger(world.first, "a", member.view.layout, member.view.scaling, member.stores)
    desk = Desk(world, member, ledger)
    await (await desk.add("d1"))
    await asyncio.sleep(1)
    claim = [ClaimRequest("d2", 1)]
    await world.round_store.claim(world.first, "a", claim)
    arrival = world.arrival("d2")
    adding = asyncio.create_task(ledger.add(arrival.record, arrival.content, 1))
    await asyncio.sleep(0)

    assert ledger.hand_over() is None

    assert Entry(Verdict.ACCEPTED, 2) == await (await adding)


async def test_an_update_whose_adding_breaks_off_ends_the_ledger(desk):
    """Half of it may be in the sum, and cannot be told apart."""
    await (await desk.add("d1"))
    arrival = desk.world.arrival("d2")
    place, values = arrival.content.arrays[-1]
    arrival.content.arrays[-1] = (place, values[:-1])

    with pytest.raises(KernelMismatch):
        await desk.ledger.add(arrival.record, arrival.content, 1)

    with pytest.raises(StoreUnavailable):
        await desk.add("d3")
    assert await desk.holds("d1")
    assert desk.ledger.hand_over() is None
