"""What makes a member look and act: events at once, time each second, whatever breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fl_cluster.errors import JobLost, StoreCorrupt, StoreUnavailable
from fl_cluster.rounds.phases import Reason
from fl_cluster.service.clock import Clock


class Words:
    """Events that a test says, and a link that it breaks."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.subscriptions = 0

    def say(self, word: str | Exception) -> None:
        self._said.put_nowait(word)

    async def listen(self) -> AsyncIterator[str]:
        self.subscriptions += 1
        yield "subscribed"
        while True:
            word = await self._said.get()
            if isinstance(word, Exception):
                raise word
            yield word


class Running:
    """A member with a clock that runs."""

    def __init__(self, member) -> None:
        self.member = member
        self.view = member.view
        self.words = Words()
        self.rebuilt = 0
        self.clock = Clock(
            member.view, member.stores.rounds, self.words, member.finisher, self.rebuild
        )

    async def rebuild(self) -> None:
        self.rebuilt += 1

    async def __aenter__(self):
        self.task = asyncio.create_task(self.clock.run())
        await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


async def test_an_event_is_seen_at_once(job):
    async with Running(await job.member()) as running:
        await job.round_store.abort(job.first, Reason.JOB_DISABLED)
        running.words.say("abandoning")
        await asyncio.sleep(0.1)

        assert running.view.snapshot.ref.number == 2


async def test_a_change_without_an_event_is_seen_within_a_second(job):
    async with Running(await job.member()) as running:
        await job.round_store.abort(job.first, Reason.JOB_DISABLED)
        await asyncio.sleep(1.1)

        assert running.view.snapshot.ref.number == 2


async def test_a_window_that_closes_ends_the_round_although_nobody_comes(job):
    async with Running(await job.member()) as running:
        await job.round_store.check_in(job.first, [])
        await job.admit("d1")
        await asyncio.sleep(62)

        assert running.view.snapshot.ref.number == 2
        assert running.member.recorder.ended[0].reason is Reason.SELECT_WINDOW


async def test_a_round_that_nobody_joined_waits_for_ever_and_asks_for_no_tick(job):
    async with Running(await job.member()) as running:
        await asyncio.sleep(1000)

        assert running.view.snapshot.ref == job.first
        assert running.member.rounds.calls["tick"] == 0


async def test_a_goal_that_is_met_is_aggregated_without_waiting_for_a_tick(world):
    await world.open(report_goal=1)
    loop = asyncio.get_running_loop()
    async with Running(await world.member()) as running:
        await world.admit("d1")
        started = loop.time()
        await running.member.collector.collect(world.arrival("d1"))
        await running.view.wait_for(lambda seen: seen.ref.number == 2, 10_000)

        assert loop.time() - started < 0.1
        assert running.view.base.model.values.tobytes() == world.expected("d1")


async def test_of_two_members_one_finishes_and_the_other_goes_on_with_it(world):
    await world.open(report_goal=1)
    async with Running(await world.member()) as one, Running(await world.member("b")) as two:
        await world.admit("d1")
        await one.member.collector.collect(world.arrival("d1"))
        two.words.say("aggregating")
        await asyncio.sleep(2.5)

        digests = {running.view.base.model.digest for running in (one, two)}
        assert len(digests) == 1
        assert one.view.snapshot.ref == two.view.snapshot.ref
        assert len(one.member.recorder.ended) + len(two.member.recorder.ended) == 1


async def test_a_member_takes_over_when_the_one_at_work_is_gone(world):
    await world.open(report_goal=1)
    dead = await world.member("dead")
    await world.admit("d1")
    await dead.collector.collect(world.arrival("d1"))
    await world.round_store.take_lease(world.first, "dead", 3_000)
    async with Running(await world.member("b")) as running:
        await asyncio.sleep(5)

        assert running.view.snapshot.ref.number == 2
        assert running.view.base.model.values.tobytes() == world.expected("d1")


async def test_duties_are_done_each_second(job):
    running = Running(await job.member())
    done = []

    async def duty() -> None:
        done.append(asyncio.get_running_loop().time())

    running.clock.each_second(duty)
    async with running:
        await asyncio.sleep(10)

    assert len(done) in (10, 11)


class TestAStoreThatIsAway:
    async def test_the_member_says_so_and_goes_back_to_work_by_itself(self, world, caplog):
        await world.open(report_goal=1)
        member = await world.member()
        async with Running(member) as running:
            assert running.view.is_available
            member.rounds.is_away = True
            await asyncio.sleep(30)
            assert not running.view.is_available

            member.rounds.is_away = False
            await asyncio.sleep(2.1)
            assert running.view.is_available
            await world.admit("d1")
            await member.collector.collect(world.arrival("d1"))
            await asyncio.sleep(2.1)
            assert running.view.snapshot.ref.number == 2

        told = [r.getMessage() for r in caplog.records if r.name.endswith("store_watch")]
        assert [text.partition(" (")[0].partition(",")[0] for text in told] == [
            "Redis does not answer",
            "Redis serves this process again",
        ]

    async def test_a_round_that_met_its_goal_is_finished_when_it_is_back(self, world):
        await world.open(report_goal=1)
        member = await world.member()
        async with Running(member) as running:
            await world.admit("d1")
            held = member.rounds.hold_before("publish")
            await member.collector.collect(world.arrival("d1"))
            await held.reached.wait()
            member.rounds.fail_before("reported")
            member.rounds.is_away = True
            held.go.set()
            await asyncio.sleep(20)
            member.rounds.is_away = False
            await asyncio.sleep(5)

            assert running.view.snapshot.ref.number == 2

    async def test_a_link_for_events_that_breaks_is_made_again(self, job):
        async with Running(await job.member()) as running:
            running.words.say(StoreUnavailable("SUBSCRIBE", "the link broke"))
            await asyncio.sleep(2)
            assert running.words.subscriptions == 2

            await job.round_store.abort(job.first, Reason.JOB_DISABLED)
            running.words.say("abandoning")
            await asyncio.sleep(0.1)
            assert running.view.snapshot.ref.number == 2

    async def test_without_events_the_store_is_available_all_the_same(self, job, caplog):
        """A user that may not subscribe can do all the rest; hearing is never needed."""
        running = Running(await job.member())
        seen = []

        async def forbidden() -> AsyncIterator[str]:
            raise StoreUnavailable("SUBSCRIBE", "NOPERM")
            yield

        running.words.listen = forbidden
        async with running:
            for _ in range(50):
                seen.append(running.view.is_available)
                await asyncio.sleep(0.13)

        assert all(seen)
        assert len([r for r in caplog.records if "SUBSCRIBE" in r.getMessage()]) == 1

    async def test_a_duty_that_fails_is_done_again_and_keeps_nobody(self, job):
        running = Running(await job.member())
        done = []

        async def duty() -> None:
            done.append(1)
            if len(done) < 3:
                raise StoreUnavailable("count_visits", "away")

        running.clock.each_second(duty)
        async with running:
            await asyncio.sleep(10)

        assert len(done) >= 8
        assert running.view.is_available


class TestWhatElseBreaks:
    async def test_a_job_that_is_lost_is_built_again(self, job):
        member = await job.member()
        async with Running(member) as running:
            member.rounds.fail_before("snapshot", times=2, fault=JobLost("no round"))
            await asyncio.sleep(2.1)

            assert running.rebuilt == 1
            assert running.view.is_available

    async def test_a_job_that_is_lost_is_built_by_one_loop_and_said_so_once(self, job, caplog):
        member = await job.member()
        async with Running(member) as running:
            member.rounds.fail_before("snapshot", times=3, fault=JobLost("no round"))
            running.words.say("waiting")
            await asyncio.sleep(3.1)

            assert running.rebuilt == 1
            assert running.view.is_available
        [lost, *_] = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
        assert lost.startswith("Redis has lost what it held of this job (no round)")
        assert caplog.text.count("Redis has lost") == 1
        assert "Traceback" not in caplog.text

    async def test_a_record_that_stays_damaged_is_told_once_and_closes_the_gate(self, job, caplog):
        member = await job.member()
        async with Running(member) as running:
            fault = StoreCorrupt("the round's record is not one of ours")
            member.rounds.fail_before("snapshot", times=20, fault=fault)
            await asyncio.sleep(5)
            assert not running.view.is_available
            await asyncio.sleep(30)
            assert running.view.is_available

        told = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
        assert len(told) == 1
        assert told[0].startswith("What Redis holds of this job cannot be read: the round's record")

    @pytest.mark.parametrize("fault", [StoreCorrupt("no word of ours"), RuntimeError("a bug")])
    async def test_a_fault_or_a_bug_in_one_look_does_not_end_the_looking(self, job, fault):
        member = await job.member()
        async with Running(member) as running:
            for _ in range(3):
                member.rounds.fail_before("snapshot", fault=fault)
                await asyncio.sleep(3)
            await job.round_store.abort(job.first, Reason.JOB_DISABLED)
            await asyncio.sleep(3)

            assert running.view.snapshot.ref.number == 2

    async def test_a_bug_in_finishing_does_not_end_the_ticking(self, world):
        await world.open(report_goal=1)
        member = await world.member()
        member.recorder.faults = [RuntimeError("a bug")] * 3
        async with Running(member) as running:
            await world.admit("d1")
            await member.collector.collect(world.arrival("d1"))
            await asyncio.sleep(40)

            assert running.view.snapshot.ref.number == 2

    async def test_being_cancelled_ends_all_loops(self, job):
        async with Running(await job.member()):
            pass
        await asyncio.sleep(0)

        assert len(asyncio.all_tasks()) == 1
