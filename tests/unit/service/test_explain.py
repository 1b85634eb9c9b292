"""Every stall that a job can be in, staged, and explained by its cause.

The rounds are real ones of the memory store, brought there by the events that bring them
there; nothing is set by hand but the instant at which somebody asks.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from fl_cluster.config.protection import Protection
from fl_cluster.lifecycle.membership import Member, MemberState, Role
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import ExchangePlan, Millis, RoundPlan
from fl_cluster.service.explain import IDLE_MS, LONG_MS, OVERDUE_MS, WHY, explain
from fl_cluster.service.explanation import Cause, Explanation, Facts
from fl_cluster.service.spending import Terms, spent_of
from fl_cluster.store.memory import MemoryJobStore, MemoryRoundStore
from fl_cluster.store.ports import (
    ClaimRequest,
    JobRecord,
    Metrics,
    ModelRecord,
    Offer,
    Outcome,
    Pushed,
    ReportBatch,
    Successor,
    UpdateRecord,
)

T0 = 1_000_000
PLAN = RoundPlan(
    cohort_size=4,
    report_goal=3,
    select_window_ms=30_000,
    report_window_ms=20_000,
    round_window_ms=60_000,
)
MODEL = ModelRecord(0, "model-0", 4, "00" * 32, (1,))
JOB = JobRecord("run-1", 25, "{}", "[]")


def a_server(number: int = 1, state: MemberState = MemberState.SERVING) -> Member:
    return Member(
        id=f"server-{number}",
        role=Role.SERVER,
        tcp_address=f"127.0.0.1:3500{number}",
        http_address=f"127.0.0.1:666{number}",
        manage_address="",
        pid=number,
        host="host-a",
        process_started_s=1.0,
        version="0.1.0",
        kernel="avx2",
        started_ms=0,
        state=state,
    )


SCHEDULER = replace(a_server(9), id="scheduler", role=Role.SCHEDULER, http_address="")


class Stage:
    """A job on which stalls are staged; instants count from its first check-in."""

    def __init__(self) -> None:
        self.jobs = MemoryJobStore()
        self.facts = Facts(at=Millis(0), job_name="Lenet", snapshot=None)
        self.facts = replace(
            self.facts, rounds_total=JOB.rounds_total, members=[a_server(), SCHEDULER]
        )
        self.partials = 0

    @property
    def rounds(self) -> MemoryRoundStore:
        assert self.jobs.rounds is not None
        return self.jobs.rounds

    async def ref(self) -> RoundRef:
        return (await self.rounds.load()).phase.ref

    async def open(self, number: int = 7, plan: RoundPlan = PLAN) -> Stage:
        assert await self.jobs.open(JOB, RoundRef("run-1", number), plan, MODEL)
        return self

    async def join(self, *devices: str, at: int = 0) -> Stage:
        offers = [Offer(device, 1, 1) for device in devices]
        verdicts = await self.rounds.check_in(await self.ref(), offers, Millis(T0 + at))
        assert set(verdicts) == {Verdict.ACCEPTED}
        return self

    async def claim(self, *devices: str, at: int = 0, member: str = "server-1") -> Stage:
        ref = await self.ref()
        requests = [ClaimRequest(device, ref.number) for device in devices]
        answers = await self.rounds.claim(ref, member, requests, Millis(T0 + at))
        assert {answer.verdict for answer in answers} == {Verdict.ACCEPTED}
        return self

    async def report(self, *devices: str, at: int = 0) -> Stage:
        await self.claim(*devices, at=at)
        self.partials += 1
        updates = [UpdateRecord(device, "d", 0.0, 0.0) for device in devices]
        batch = ReportBatch(updates, f"p{self.partials}")
        outcome = await self.rounds.report(await self.ref(), "server-1", batch, Millis(T0 + at))
        assert outcome.verdict is Verdict.ACCEPTED
        return self

    async def lease(self, *, at: int, lease_ms: int = 3_000) -> Stage:
        ref = await self.ref()
        verdict = await self.rounds.take_lease(ref, "server-1", lease_ms, Millis(T0 + at))
        assert verdict is Verdict.ACCEPTED
        return self

    async def publish(self, *, closes: bool = False, failures: int = 0) -> Stage:
        run = self.jobs.next
        successor = Successor(run.instance, PLAN, MODEL) if run is not None else None
        model = replace(MODEL, number=(await self.ref()).number)
        outcome = Outcome(model, closes, failures, successor)
        verdict = await self.rounds.publish(await self.ref(), "server-1", outcome)
        assert verdict is Verdict.ACCEPTED
        return self

    async def ask(self, at: int = 0, **facts: object) -> Explanation:
        ref = await self.ref()
        return explain(
            replace(
                self.facts,
                at=Millis(T0 + at),
                snapshot=await self.rounds.snapshot(),
                counts=await self.rounds.counts(ref),
                **facts,
            )
        )


@pytest.fixture
async def stage() -> Stage:
    """Round 7, for four devices, of which three have to report."""
    return await Stage().open()


async def aggregating(stage: Stage) -> Stage:
    await stage.join("a", "b", "c", "d")
    return await stage.report("a", "b", "c", at=5_000)


NOISE = {
    "privacy.noise": "central",
    "privacy.noise_multiplier": 1.0,
    "privacy.clip_norm": 1.0,
    "privacy.epsilon_budget": 9.5,
    "privacy.delta": 1e-5,
}


class TestJob:
    async def test_a_job_that_ended_early_has_spent_its_privacy_budget(self, stage):
        await aggregating(stage)
        await (await stage.lease(at=6_000)).publish(closes=True)
        terms = Terms.of(Protection.parse({}, NOISE))
        spent = spent_of(terms, {terms.name: 3})

        found = await stage.ask(at=7_000, spent=spent)

        assert found.cause is Cause.BUDGET_SPENT
        assert found.sentence == (
            "The job ended after round 7 of 25: another round would exceed its privacy budget;"
            f" {spent} is spent."
        )
        assert str(spent).startswith("epsilon 9.01 of 9.5 ")
        assert str(spent).endswith(" at delta 1e-05 after 3 rounds")

    async def test_a_store_without_the_job(self):
        found = explain(Facts(at=Millis(T0), job_name="Lenet", snapshot=None))

        assert found.cause is Cause.NO_JOB
        assert "job Lenet" in found.sentence
        assert found.waiting_for == "server"

    async def test_a_finished_job(self, stage):
        await aggregating(stage)
        await stage.lease(at=5_000)
        await stage.publish(closes=True)

        found = await stage.ask(at=9_000)

        assert found.cause is Cause.JOB_FINISHED
        assert found.sentence == "The job has run all its 25 rounds."
        assert (found.since, found.until) == (T0 + 5_000, None)
        assert "fl-cluster new-instance" in found.change

    async def test_a_disabled_job(self, stage):
        await stage.join("a")
        await stage.rounds.disable(Millis(T0 + 1_000))
        await stage.lease(at=1_000)
        await stage.publish()

        found = await stage.ask(at=2_000)

        assert found.cause is Cause.JOB_DISABLED
        assert found.waiting_for == "operator"
        assert found.since == T0 + 1_000
        assert found.then == "once it is enabled, round 8 opens with the newest weights"
        assert "fl-cluster enable" in found.change

    async def test_a_job_that_was_disabled_while_a_round_is_aggregated(self, stage):
        await aggregating(stage)
        await stage.rounds.disable(Millis(T0 + 6_000))

        found = await stage.ask(at=7_000)

        assert found.cause is Cause.JOB_DISABLED
        assert "round 7 is finished and the next one opens" in found.then

    async def test_a_disabled_job_that_is_to_begin_anew(self, stage):
        await stage.rounds.restart(replace(JOB, instance="run-2"), Millis(T0))
        await stage.rounds.disable(Millis(T0))

        found = await stage.ask(members=[])

        assert found.cause is Cause.JOB_DISABLED
        assert "run run-2 begins with round 1" in found.then
        assert "no server is running" in found.notes

    async def test_a_new_run_that_waits_for_the_old_round_to_be_recorded(self, stage):
        await stage.join("a")
        await stage.rounds.restart(replace(JOB, instance="run-2"), Millis(T0 + 1_000))
        idle = await stage.ask(at=2_000)
        await stage.lease(at=2_000)
        at_work = await stage.ask(at=3_000)

        assert idle.cause is at_work.cause is Cause.RESTARTING
        assert idle.then == "run run-2 begins with round 1, from the newest weights"
        assert "a new run was asked for" in idle.sentence
        assert (at_work.since, at_work.until) == (T0 + 1_000, T0 + 5_000)


class TestServers:
    @pytest.mark.parametrize("members", [[], [SCHEDULER]])
    async def test_no_server(self, stage, members):
        found = await stage.ask(members=members)

        assert found.cause is Cause.NO_SERVER
        assert (found.waiting_for, found.have, found.need) == ("server", 0, 1)
        assert found.then == "as soon as one serves, round 7 opens with the newest weights"
        assert "fl-cluster server" in found.change

    async def test_no_server_in_the_middle_of_a_round(self, stage):
        await stage.join("a")

        found = await stage.ask(members=[])

        assert found.then == ("as soon as one serves, the round goes on with the updates it has")

    async def test_no_server_to_finish_a_round(self, stage):
        await aggregating(stage)

        found = await stage.ask(members=[])

        assert found.cause is Cause.NO_SERVER
        assert "round 7 is finished" in found.then

    async def test_servers_whose_leases_ended(self, stage):
        overdue = {"server-2": Millis(T0 - 500), "server-1": Millis(T0 - 900), "server-3": None}

        found = await stage.ask(members=[], overdue=overdue)

        assert found.cause is Cause.LEASES_EXPIRED
        assert "server-1, server-2, server-3" in found.sentence
        assert found.since == T0 - 500

    async def test_servers_that_all_drain(self, stage):
        draining = [a_server(n, MemberState.DRAINING) for n in (1, 2)]

        found = await stage.ask(members=draining)

        assert found.cause is Cause.SERVERS_DRAINING
        assert "All 2 servers are draining" in found.sentence
        assert "server server-1 is draining" in found.notes

    async def test_one_server_is_enough(self, stage):
        members = [a_server(1, MemberState.DRAINING), a_server(2)]

        found = await stage.ask(members=members, overdue={"server-3": Millis(T0)})

        assert found.cause is Cause.WAITING_FOR_FIRST_DEVICE
        assert found.notes == (
            "server server-3 has not renewed its lease and is about to be declared dead",
            "server server-1 is draining",
        )

    async def test_a_server_without_a_link_is_noted(self, stage):
        found = await stage.ask(unreachable={"server-1": "127.0.0.1:35001 does not answer"})

        assert found.notes == (
            "this scheduler has no link to server server-1: 127.0.0.1:35001 does not answer",
        )


class TestDevices:
    async def test_nobody_has_come(self, stage):
        found = await stage.ask()

        assert found.cause is Cause.WAITING_FOR_FIRST_DEVICE
        assert (found.have, found.need) == (0, 4)
        assert (found.since, found.until, found.eta) == (None, None, None)
        assert "127.0.0.1:6661" in found.change

    async def test_nobody_has_come_since_the_round_before(self, stage):
        await stage.join("a")
        await stage.rounds.tick(await stage.ref(), Millis(T0 + 30_000))
        await stage.lease(at=30_500)
        await stage.publish(failures=2)

        found = await stage.ask(at=90_000)

        assert found.since == T0 + 30_000
        assert found.notes == (
            f"the round before was abandoned ({WHY[Reason.SELECT_WINDOW]})",
            "2 rounds in a row were abandoned",
        )

    async def test_the_cohort_has_room(self, stage):
        await stage.join("a", "b")

        found = await stage.ask(at=10_000)

        assert found.cause is Cause.WAITING_FOR_DEVICES
        assert (found.have, found.need) == (2, 4)
        assert (found.since, found.until) == (T0, T0 + 30_000)
        assert "start_fl_job_time_window" in found.then
        assert "start_fl_job_threshold=2" in found.change

    async def test_enough_devices_came_and_not_all_have_reported(self, stage):
        await stage.join("a", "b", "c")
        await stage.report("a", at=1_000)
        await stage.claim("b", at=2_000)

        waits_for_updates = await stage.ask(at=3_000)
        await stage.rounds.release(await stage.ref(), "server-1", ["b"])
        await stage.report("b", at=4_000)
        still = await stage.ask(at=5_000)

        assert waits_for_updates.cause is still.cause is Cause.WAITING_FOR_UPDATES
        assert still.notes == (
            "the cohort has room for 1 more; once it is full, its window ends nothing",
        )

    async def test_all_who_came_have_reported_and_more_are_needed(self):
        stage = await Stage().open()
        await stage.join("a", "b")
        await stage.report("a", "b", at=1_000)

        found = await stage.ask(at=2_000)

        assert found.cause is Cause.WAITING_FOR_DEVICES
        assert "2 of 4 have checked in, 2 of 3 updates are counted" in found.sentence
        assert found.until == T0 + 21_000
        assert "update_model_time_window" in found.then

    async def test_devices_train(self, stage):
        await stage.join("a", "b", "c", "d")

        found = await stage.ask(at=10_000)

        assert found.cause is Cause.WAITING_FOR_UPDATES
        assert (found.have, found.need) == (0, 3)
        assert found.sentence == (
            "Round 7 of 25 waits for updates: 0 of 3 are counted; 4 of 4 devices have not reported."
        )
        assert (found.since, found.until) == (T0, T0 + 60_000)
        assert "global_iteration_time_window" in found.then

    async def test_some_devices_have_reported(self, stage):
        await stage.join("a", "b", "c", "d")
        await stage.report("a", at=5_000)
        await stage.claim("b", at=6_000)

        found = await stage.ask(at=7_000)

        assert found.cause is Cause.WAITING_FOR_UPDATES
        assert "1 of 3 are counted, 1 more are being stored; 2 of 4 devices" in found.sentence
        assert (found.since, found.until) == (T0 + 5_000, T0 + 25_000)
        assert "update_model_time_window" in found.then
        assert "update_model_ratio=0.25" in found.change

    async def test_the_last_updates_are_being_stored(self, stage):
        await stage.join("a", "b", "c", "d")
        await stage.report("a", at=5_000)
        await stage.claim("b", "c", at=6_000)

        found = await stage.ask(at=6_500)

        assert found.cause is Cause.WAITING_FOR_COMMIT
        assert (found.waiting_for, found.have, found.need) == ("commit", 1, 3)
        assert "the last 2 are being stored" in found.sentence

    async def test_a_window_that_is_over_and_nobody_has_noticed(self, stage):
        await stage.join("a")
        just = await stage.ask(at=30_000 + OVERDUE_MS)
        late = await stage.ask(at=30_001 + OVERDUE_MS)

        assert just.cause is Cause.WAITING_FOR_DEVICES
        assert late.cause is Cause.WINDOW_OVER
        assert late.since == T0 + 30_000
        assert WHY[Reason.SELECT_WINDOW] in late.sentence


class TestForecast:
    async def test_devices_go_on_to_come_as_they_have(self, stage):
        await stage.join("a")
        await stage.join("b", at=4_000)

        found = await stage.ask(at=4_000)

        assert found.eta == T0 + 4_000 + 2 * 4_000
        assert found.notes == ()

    async def test_one_device_is_no_rate(self, stage):
        await stage.join("a")

        assert (await stage.ask(at=4_000)).eta is None

    async def test_updates_go_on_to_come_as_they_have(self, stage):
        await stage.join("a", "b", "c", "d")
        await stage.report("a", at=5_000)
        await stage.report("b", at=6_000)

        assert (await stage.ask(at=6_000)).eta == T0 + 7_000

    async def test_devices_that_come_too_slowly_are_noted(self, stage):
        await stage.join("a")
        await stage.join("b", at=20_000)

        found = await stage.ask(at=20_000)

        assert found.eta == T0 + 60_000
        assert found.notes == ("at the rate so far, that is after its window has closed",)

    async def test_all_in_the_same_instant_is_no_rate(self, stage):
        await stage.join("a", "b")

        assert (await stage.ask(at=0)).eta is None


class TestEnding:
    async def test_nobody_has_begun_to_aggregate(self, stage):
        await aggregating(stage)
        soon = await stage.ask(at=5_000 + IDLE_MS)
        late = await stage.ask(at=5_001 + IDLE_MS)

        assert soon.cause is late.cause is Cause.AGGREGATION_TO_BEGIN
        assert soon.since == T0 + 5_000
        assert soon.then == "the next round opens with the new weights"
        assert soon.change == ""
        assert "logs" in late.change

    async def test_a_server_aggregates(self, stage):
        await aggregating(stage)
        await stage.lease(at=5_500)

        found = await stage.ask(at=6_000)

        assert found.cause is Cause.AGGREGATING
        assert found.sentence == "Server server-1 aggregates the 3 updates of round 7."
        assert (found.since, found.until) == (T0 + 5_000, T0 + 8_500)
        assert found.change == ""

    async def test_an_aggregation_that_takes_too_long_has_gone_wrong_again_and_again(self, stage):
        await aggregating(stage)
        await stage.lease(at=5_500, lease_ms=60_000)

        found = await stage.ask(at=5_001 + LONG_MS)

        assert found.cause is Cause.AGGREGATING
        assert "logs" in found.change

    async def test_a_server_that_took_over_is_silent(self, stage):
        await aggregating(stage)
        await stage.lease(at=5_500)

        found = await stage.ask(at=8_500)

        assert found.cause is Cause.LEASE_EXPIRED
        assert "Server server-1 was to aggregate round 7" in found.sentence
        assert "another server takes over" in found.then

    @pytest.mark.parametrize(
        ("reason", "words"), [(reason, WHY[reason]) for reason in Reason], ids=str
    )
    async def test_an_abandoned_round_is_recorded(self, stage, reason, words):
        await stage.join("a")
        await stage.rounds.abort(await stage.ref(), reason, Millis(T0 + 1_000))
        idle = await stage.ask(at=1_500)
        await stage.lease(at=1_500)

        found = await stage.ask(at=2_000)

        assert idle.cause is Cause.AGGREGATION_TO_BEGIN
        assert words in idle.sentence
        assert found.cause is Cause.RECORDING
        assert words in found.sentence
        assert found.then == "the next round opens with the old weights"


WORKER = replace(a_server(8), id="worker", role=Role.WORKER, http_address="")


class TestRetraining:
    @pytest.fixture
    async def stage(self) -> Stage:
        """The mean of round 7 was handed over to the worker after 6 s."""
        stage = await Stage().open(plan=replace(PLAN, is_hybrid=True))
        await aggregating(stage)
        await stage.lease(at=5_500)
        verdict = await stage.rounds.hand_over(
            await stage.ref(), "server-1", replace(MODEL, blob="mean"), Millis(T0 + 6_000)
        )
        assert verdict is Verdict.ACCEPTED
        return stage

    async def test_a_mean_that_is_formed_is_for_the_worker(self):
        stage = await Stage().open(plan=replace(PLAN, is_hybrid=True))
        await aggregating(stage)
        await stage.lease(at=5_500)

        found = await stage.ask(at=6_000)

        assert found.cause is Cause.AGGREGATING
        assert found.then.startswith("the mean is handed over to the worker")

    async def test_a_worker_has_time_until_the_round_s_window_ends(self, stage):
        members = [a_server(), WORKER]
        found = await stage.ask(at=7_000, members=members)

        assert found.cause is Cause.WAITING_FOR_WORKER
        assert found.sentence == (
            "Round 7 of 25 waits for its worker, which has handed in nothing yet."
        )
        assert (found.since, found.until) == (T0 + 6_000, T0 + 60_000)
        assert found.then.startswith("the round is abandoned (global_iteration_time_window")
        assert found.change.endswith("global_iteration_time_window=120000")
        assert found.notes == ()

    async def test_a_worker_that_is_not_there_is_to_be_started(self, stage):
        found = await stage.ask(at=7_000)

        assert (found.change, found.notes) == ("start the worker", ("no worker is registered",))

    async def test_a_worker_may_owe_its_metrics_only(self, stage):
        pushed = Pushed(replace(MODEL, blob="pushed"), is_fit=True)
        await stage.rounds.push(await stage.ref(), pushed, Millis(T0 + 7_000))

        found = await stage.ask(at=8_000)

        assert "handed in its weights and not its metrics" in found.sentence

    async def test_a_worker_that_is_too_late_is_noticed(self, stage):
        found = await stage.ask(at=60_001 + OVERDUE_MS)

        assert found.cause is Cause.WINDOW_OVER

    async def test_what_a_worker_is_done_with_is_recorded(self, stage):
        await stage.rounds.conclude(await stage.ref(), Metrics(0.5, 0.9), Millis(T0 + 9_000))
        idle = await stage.ask(at=9_500)
        await stage.lease(at=9_500)

        found = await stage.ask(at=9_600)

        assert idle.cause is Cause.AGGREGATION_TO_BEGIN
        assert idle.sentence == (
            "The worker is done with round 7; no server has begun to record it."
        )
        assert found.cause is Cause.RECORDING
        assert found.sentence == "The worker is done with round 7; server server-1 records it."
        assert found.then == "the next round opens with the new weights"


MASKED = replace(PLAN, exchange=ExchangePlan(3, 3, 2, 2, window_ms=5_000))


class TestMaskedRounds:
    @pytest.fixture
    async def stage(self):
        return await (await Stage().open(plan=MASKED)).join("d1", "d2", "d3")

    async def tell(self, stage, step, *devices, at=1_000):
        for device in devices:
            told = stage.rounds.tell(await stage.ref(), step, device, b"", Millis(T0 + at))
            assert await told is Verdict.ACCEPTED
        told = {each: len(await stage.rounds.told(await stage.ref(), each)) for each in Step}
        stage.facts = replace(stage.facts, told=told)

    async def unmasking(self, stage):
        everybody = ("d1", "d2", "d3")
        for step in (Step.KEYS, Step.KEYS_READ, Step.SHARES, Step.SHARES_READ):
            await self.tell(stage, step, *everybody)
        await stage.report(*everybody, at=2_000)
        await self.tell(stage, Step.LIST_READ, *everybody, at=3_000)

    async def test_a_step_that_too_few_have_taken_is_named_with_its_window(self, stage):
        await self.tell(stage, Step.KEYS, "d1", "d2")

        found = await stage.ask(at=2_000)

        assert found.cause is Cause.WAITING_FOR_EXCHANGE
        assert found.sentence == (
            "Round 7 of 25 waits for devices to offer keys for masks: 2 of 3 have."
        )
        assert (found.have, found.need, found.until) == (2, 3, T0 + 6_000)
        assert found.then.startswith("the round is abandoned (cipher_time_window")

    async def test_before_enough_devices_are_in_it_waits_for_devices(self):
        stage = await (await Stage().open(plan=MASKED)).join("d1", "d2")

        assert (await stage.ask(at=2_000)).cause is Cause.WAITING_FOR_DEVICES

    async def test_once_secrets_are_shared_it_waits_for_updates(self, stage):
        for step in (Step.KEYS, Step.KEYS_READ):
            await self.tell(stage, step, "d1", "d2", "d3")
        sharing = await stage.ask(at=2_000)
        await self.tell(stage, Step.SHARES, "d1", "d2", "d3")

        assert "share the secrets behind their masks: 0 of 3" in sharing.sentence
        assert (await stage.ask(at=2_000)).cause is Cause.WAITING_FOR_UPDATES

    async def test_the_steps_after_the_updates_are_named_one_after_the_other(self, stage):
        await self.unmasking(stage)
        signing = await stage.ask(at=4_000)
        await self.tell(stage, Step.SIGNATURES, "d1", "d2", at=4_500)
        await self.tell(stage, Step.REVEALS, "d1", at=5_000)

        revealing = await stage.ask(at=6_000)

        assert "sign the list of those whose updates are in the sum: 0 of 2" in signing.sentence
        assert "reveal what takes the masks off the sum: 1 of 2 have" in revealing.sentence
        assert revealing.until == T0 + 8_000

    async def test_in_secure_aggregation_a_late_step_is_explained_with_its_own_setting(self, stage):
        await self.tell(stage, Step.KEYS, "d1", "d2")

        waiting = await stage.ask(at=2_000, is_secure=True)
        overdue = await stage.ask(at=6_001 + OVERDUE_MS, is_secure=True)

        key = "encrypt.secure_aggregation.step_window_ms"
        assert waiting.then.startswith(f"the round is abandoned ({key}: too few devices")
        assert overdue.cause is Cause.WINDOW_OVER
        assert key in overdue.sentence
        assert "cipher_time_window" not in waiting.then + overdue.sentence

    async def test_in_secure_aggregation_the_list_is_confirmed_and_no_number_is_waited_for(
        self, stage
    ):
        await self.unmasking(stage)
        begun = await stage.ask(at=4_000, is_secure=True)
        await self.tell(stage, Step.SIGNATURES, "d1", "d2", at=4_500)
        await self.tell(stage, Step.REVEALS, "d1", at=5_000)

        going_on = await stage.ask(at=6_000, is_secure=True)

        assert begun.cause is Cause.WAITING_FOR_EXCHANGE
        assert begun.sentence == (
            "Round 7 of 25 waits for devices to confirm the list of those whose updates are in "
            "the sum, and to reveal what takes the masks off it: 0 have confirmed, 0 have "
            "revealed; it goes on as soon as what was revealed suffices."
        )
        assert "2 have confirmed, 1 have revealed" in going_on.sentence
        assert (going_on.have, going_on.need) == (1, None)


def test_every_cause_that_is_not_the_store_s_is_staged_here():
    """What the store's own trouble is called is tested against the store."""
    staged = {
        Cause.NO_JOB,
        Cause.JOB_FINISHED,
        Cause.BUDGET_SPENT,
        Cause.JOB_DISABLED,
        Cause.NO_SERVER,
        Cause.LEASES_EXPIRED,
        Cause.SERVERS_DRAINING,
        Cause.WAITING_FOR_FIRST_DEVICE,
        Cause.WAITING_FOR_DEVICES,
        Cause.WAITING_FOR_UPDATES,
        Cause.WAITING_FOR_EXCHANGE,
        Cause.WAITING_FOR_COMMIT,
        Cause.WAITING_FOR_WORKER,
        Cause.WINDOW_OVER,
        Cause.AGGREGATION_TO_BEGIN,
        Cause.AGGREGATING,
        Cause.RECORDING,
        Cause.RESTARTING,
        Cause.LEASE_EXPIRED,
    }

    assert staged == {cause for cause in Cause if not cause.startswith("store_")}


def test_every_reason_of_an_end_has_its_words():
    assert set(WHY) == set(Reason)
