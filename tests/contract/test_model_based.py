"""The Redis store is the memory store, whatever happens in whatever order.

Hypothesis drives both with the same events at the same explicit instants and compares, after
each, the answer, the round in full, the snapshot, and everything that can be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import (
    Aggregating,
    Collecting,
    Ending,
    Reason,
    Retraining,
    RoundRef,
    Unmasking,
)
from fl_cluster.rounds.plan import ExchangePlan, Millis, RoundPlan
from fl_cluster.store.ports import (
    ClaimRequest,
    JobRecord,
    Metrics,
    ModelRecord,
    Offer,
    Outcome,
    Pushed,
    ReportBatch,
    RoundStore,
    Successor,
    UpdateRecord,
)
from fl_cluster.store.redis.connection import Connection

if TYPE_CHECKING:
    from conftest import Stores

DEVICES = ("", "a", "b c", "{d}", "\udcff\n", "é")
MEMBERS = ("m1", "m2", "m3", "m4", "m5")

devices = st.sampled_from(DEVICES)
members = st.sampled_from(MEMBERS)
several = st.lists(devices, max_size=4)
distinct = st.lists(devices, max_size=3, unique=True)
windows = st.sampled_from([1, 30, 1000, 10_000, 10_000, 2**32 - 1])
exchanges = st.none() | st.builds(
    ExchangePlan,
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from([30, 10_000]),
)
aims = st.sampled_from([None] * 12 + ["number", "attempt", "instance"])


class TwoStores(RuleBasedStateMachine):
    """One job in memory and the same job in Redis."""

    runner: ClassVar[asyncio.Runner]
    connection: ClassVar[Connection]
    make_memory_stores: ClassVar[Callable[[], Stores]]
    make_redis_stores: ClassVar[Callable[..., Stores]]

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_700_000_000_000
        self.serial = 0
        self.restarts = 0
        self.sent: list[tuple[RoundRef, str, ReportBatch]] = []
        self.refs: list[RoundRef] = []

    # Arrange

    @initialize(
        size=st.sampled_from([1, 2, 3, 4, 4]),
        data=st.data(),
        w=st.tuples(windows, windows, windows),
        is_hybrid=st.booleans(),
        exchange=exchanges,
    )
    def open(
        self,
        size: int,
        data: st.DataObject,
        w: tuple[int, int, int],
        is_hybrid: bool,
        exchange: ExchangePlan | None,
    ) -> None:
        self.connection_do("FLUSHALL")
        goal = max(1, size - data.draw(st.sampled_from([0, 0, 1, 3])))
        numbers = {"cohort_size": size, "report_goal": goal, "is_hybrid": is_hybrid}
        numbers["exchange"] = exchange
        numbers |= zip(("select_window_ms", "report_window_ms", "round_window_ms"), w, strict=True)
        self.both = (type(self).make_memory_stores(), type(self).make_redis_stores(self.connection))
        self.rounds = [self.runner.run(stores.open(**numbers)) for stores in self.both]
        self.refs.append(RoundRef("run-1", 1))

    def connection_do(self, *command: str) -> None:
        self.runner.run(self.connection.command(*command))

    @property
    def at(self) -> Millis:
        return Millis(self.now)

    def aimed(self, aim: str | None) -> RoundRef:
        """The current round, or one that differs from it in one field."""
        ref = self.current().phase.ref
        other = {"number": ref.number - 1, "attempt": ref.attempt + 1, "instance": "run-9"}
        return ref if aim is None else replace(ref, **{aim: other[aim]})

    def current(self) -> Any:
        return self.runner.run(self.rounds[0].load())

    # Act, and compare the answers

    def ask(self, question: Callable[[RoundStore], Awaitable[Any]]) -> Any:
        expected, found = (self.runner.run(self._put(question, one)) for one in self.rounds)
        assert found == expected
        return found

    @staticmethod
    async def _put(question: Callable[[RoundStore], Awaitable[Any]], rounds: RoundStore) -> Any:
        answer = await question(rounds)
        return (
            list(answer) if isinstance(answer, Sequence) and not isinstance(answer, str) else answer
        )

    @rule(step=st.sampled_from([0, 1, 1, 5, 29, 30, 200, -3]))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule(which=st.integers(0, 2), offset=st.sampled_from([-1, 0, 0, 1]))
    def a_deadline_comes(self, which: int, offset: int) -> None:
        phase = self.current().phase
        if isinstance(phase, Collecting | Unmasking):
            deadlines = phase.deadlines()
            self.now = deadlines[which % len(deadlines)][0] + offset
        elif isinstance(phase, Retraining):
            self.now = phase.deadline + offset
        elif isinstance(phase, Ending) and phase.lease is not None:
            self.now = phase.lease.until + offset

    @rule(names=several, size=st.integers(1, 65_535), aim=aims)
    def check_in(self, names: list[str], size: int, aim: str | None) -> None:
        ref, at = self.aimed(aim), self.at
        offers = [Offer(name, size, size // 2) for name in names]
        self.ask(lambda rounds: rounds.check_in(ref, offers, at))

    @rule(member=members, names=several, offset=st.sampled_from([0, 0, 0, -1, 1]), aim=aims)
    def claim(self, member: str, names: list[str], offset: int, aim: str | None) -> None:
        ref, at = self.aimed(aim), self.at
        requests = [ClaimRequest(name, ref.number + offset) for name in names]
        self.ask(lambda rounds: rounds.claim(ref, member, requests, at))

    @rule(member=members, names=distinct, aim=aims)
    def release(self, member: str, names: list[str], aim: str | None) -> None:
        ref = self.aimed(aim)
        self.ask(lambda rounds: rounds.release(ref, member, names))

    @rule(member=members, names=distinct, aim=aims)
    def report_anything(self, member: str, names: list[str], aim: str | None) -> None:
        self.report(self.aimed(aim), member, names)

    @rule(steps=st.lists(st.tuples(members, several), min_size=1, max_size=5))
    def the_round_goes_on(self, steps: list[tuple[str, list[str]]]) -> None:
        for member, names in steps:
            self.now += 1
            phase, at = self.current().phase, self.at
            if isinstance(phase, Ending):
                self.go_on_ending(phase, member)
            elif isinstance(phase, Retraining):
                self.go_on_retraining(phase, len(names))
            elif isinstance(phase, Unmasking):
                self.go_on_unmasking(phase, member)
            elif self.current().is_disabled:
                self.an_operator_acts("enable")
            elif not isinstance(phase, Collecting):
                self.check_in(names, 7, None)
            elif phase.overdue(at) is not None:
                self.tick(None)
            else:
                self.go_on_collecting(phase, member, names)
            self.everything_that_can_be_read_agrees()

    def go_on_ending(self, phase: Ending, member: str) -> None:
        if phase.lease is None:
            self.take_lease(member, 30, None)
        elif isinstance(phase, Aggregating) and phase.plan.is_hybrid:
            self.hand_over(phase.lease.member, 1, None)
        else:
            self.publish(phase.ref, phase.lease.member, self.current().successor)

    def go_on_retraining(self, phase: Retraining, choice: int) -> None:
        if phase.overdue(self.at) is not None:
            self.tick(None)
        elif phase.pushed is None and choice != 1:
            self.push(choice, choice != 3, None)
        else:
            self.conclude(choice, None)

    def go_on_unmasking(self, phase: Unmasking, member: str) -> None:
        if phase.overdue(self.at) is not None:
            self.tick(None)
        elif member == "m5":
            self.proceed(None)
        else:
            device = sorted(phase.reports)[int(member[1]) % len(phase.reports)]
            for step in (Step.LIST_READ, Step.SIGNATURES, Step.REVEALS):
                self.tell(step, device, None)

    def go_on_collecting(self, phase: Collecting, member: str, names: list[str]) -> None:
        idle = sorted(set(phase.cohort) - set(phase.claims) - set(phase.reports))
        if phase.plan.exchange is not None and names:
            for step in (Step.KEYS, Step.KEYS_READ, Step.SHARES, Step.SHARES_READ):
                self.tell(step, names[0], None)
            self.replace_keys(names[-1], None, is_seen=True)
        holders = sorted(set(phase.claims.values()))
        if holders and (len(names) % 2 or not idle):
            holder = holders[len(names) % len(holders)]
            self.report(phase.ref, holder, [d for d, m in phase.claims.items() if m == holder])
        elif idle and len(names) % 3:
            self.claim(member, idle[:2], 0, None)
        else:
            self.check_in(names or list(DEVICES), 7, None)

    def report(self, ref: RoundRef, member: str, names: Sequence[str]) -> None:
        self.serial += 1
        updates = [
            UpdateRecord(name, f"{self.serial:064x}", 0.1 * self.serial, 0.5) for name in names
        ]
        self.send(ref, member, ReportBatch(updates, f"partial {self.serial}"))

    def send(self, ref: RoundRef, member: str, batch: ReportBatch) -> None:
        at = self.at
        outcome = self.ask(lambda rounds: rounds.report(ref, member, batch, at))
        if outcome.verdict is Verdict.ACCEPTED and batch.updates:
            self.sent.append((ref, member, batch))

    @precondition(lambda self: bool(self.sent))
    @rule(data=st.data())
    def report_again(self, data: st.DataObject) -> None:
        self.send(*data.draw(st.sampled_from(self.sent[-3:])))

    @rule(device=devices, aim=aims, is_seen=st.sampled_from([True, True, False]))
    def replace_keys(self, device: str, aim: str | None, is_seen: bool) -> None:
        self.serial += 1
        ref, at, message = self.aimed(aim), self.at, f"keys {self.serial}".encode()
        stored = self.ask(lambda rounds: rounds.message(ref, Step.KEYS, device))
        former = bytes(stored) if is_seen and stored is not None else b"others"
        self.ask(lambda rounds: rounds.replace_keys(ref, device, message, former, at))

    @rule(step=st.sampled_from(Step), device=devices, aim=aims)
    def tell(self, step: Step, device: str, aim: str | None) -> None:
        ref, at, message = self.aimed(aim), self.at, f"{step} {DEVICES.index(device)}".encode()
        self.ask(lambda rounds: rounds.tell(ref, step, device, message, at))

    @rule(aim=aims, luck=st.integers(0, 3))
    def proceed(self, aim: str | None, luck: int = 0) -> None:
        ref, at = self.aimed(aim), self.at
        if luck == 0:
            self.ask(lambda rounds: rounds.proceed(ref, at))

    @rule(aim=aims)
    def tick(self, aim: str | None) -> None:
        ref, at = self.aimed(aim), self.at
        self.ask(lambda rounds: rounds.tick(ref, at))

    @rule(reason=st.sampled_from(Reason), aim=aims, luck=st.integers(0, 4))
    def abort(self, reason: Reason, aim: str | None, luck: int) -> None:
        ref, at = self.aimed(aim), self.at
        if luck == 0:
            self.ask(lambda rounds: rounds.abort(ref, reason, at))

    @rule(member=members, lease_ms=st.sampled_from([1, 30, 5000]), aim=aims)
    def take_lease(self, member: str, lease_ms: int, aim: str | None) -> None:
        ref, at = self.aimed(aim), self.at
        self.ask(lambda rounds: rounds.take_lease(ref, member, lease_ms, at))

    @rule(member=members, which=st.sampled_from([1, 1, 1, 2]), aim=aims)
    def hand_over(self, member: str, which: int, aim: str | None) -> None:
        ref, at = self.aimed(aim), self.at
        mean = ModelRecord(ref.number, f"mean {which} of {ref}", 4, "00" * 32, (which,))
        self.ask(lambda rounds: rounds.hand_over(ref, member, mean, at))

    @rule(which=st.integers(0, 2), is_fit=st.sampled_from([True, True, False]), aim=aims)
    def push(self, which: int, is_fit: bool, aim: str | None) -> None:
        ref, at = self.aimed(aim), self.at
        blob = f"{'made' if is_fit else 'unfit'} {which} of {ref}"
        pushed = Pushed(ModelRecord(ref.number, blob, 4, "00" * 32, (which,)), is_fit)
        self.ask(lambda rounds: rounds.push(ref, pushed, at))

    @rule(which=st.integers(0, 2), aim=aims)
    def conclude(self, which: int, aim: str | None) -> None:
        ref, at = self.aimed(aim), self.at
        self.ask(lambda rounds: rounds.conclude(ref, Metrics(0.5 * which, float("inf")), at))

    @rule(member=members, aim=aims, successor=st.sampled_from(["", "", "run-2", "run-3"]))
    def publish_anyhow(self, member: str, aim: str | None, successor: str) -> None:
        self.publish(self.aimed(aim), member, successor)

    def publish(self, ref: RoundRef, member: str, instance: str) -> None:
        self.serial += 1
        model = ModelRecord(ref.number, f"model {self.serial}", 4, "00" * 32, (self.serial,))
        successor = None
        if instance:
            plan = RoundPlan(2, 2, 1000 + self.serial, 500, 2000, self.serial % 2 == 0)
            successor = Successor(instance, plan, replace(model, number=0))
        outcome = Outcome(model, ref.number == 5, self.serial, successor)
        verdict = self.ask(lambda rounds: rounds.publish(ref, member, outcome))
        if verdict is Verdict.ACCEPTED:
            self.refs.append(RoundRef(instance, 1) if instance else ref.next())

    @rule(what=st.sampled_from(["disable", "enable", "restart", "restart again"]))
    def an_operator_acts(self, what: str) -> None:
        at = self.at
        if what == "disable":
            self.ask(lambda rounds: rounds.disable(at))
        elif what == "enable":
            self.ask(lambda rounds: rounds.enable())
        elif self.restarts < 2:
            self.restarts += 1
            job = JobRecord(f"run-{self.restarts + 1}", 9, f"{{{what}}}", "[]")
            self.ask(lambda rounds: rounds.restart(job, at))

    @rule(what=st.sampled_from(["served", "visits", "scripts", "lost"]), member=members, aim=aims)
    def something_aside(self, what: str, member: str, aim: str | None) -> None:
        ref, at = self.aimed(aim), self.at
        if what == "served":
            self.ask(lambda rounds: rounds.model_served(ref))
        elif what == "visits":
            self.ask(lambda rounds: rounds.count_visits(ref, {"one": 1, "two words": at}))
        elif what == "scripts":
            self.connection_do("SCRIPT", "FLUSH")
        else:
            self.ask(lambda rounds: rounds.member_lost(member, at))

    # Assert

    @invariant()
    def everything_that_can_be_read_agrees(self) -> None:
        self.ask(lambda rounds: rounds.load())
        self.ask(lambda rounds: rounds.snapshot())
        expected, found = (self.runner.run(self.records(stores)) for stores in self.both)
        assert found == expected

    @staticmethod
    async def records(stores: Stores) -> tuple[object, ...]:
        jobs = stores.jobs
        return await jobs.job(), await jobs.successor(), await jobs.models()

    @invariant()
    def the_last_rounds_agree(self) -> None:
        for ref in self.refs[-2:]:
            self.ask(lambda rounds, ref=ref: rounds.partials(ref))
            self.ask(lambda rounds, ref=ref: rounds.visits(ref))
            self.ask(lambda rounds, ref=ref: rounds.counts(ref))
            for step in Step:
                self.ask(lambda rounds, ref=ref, step=step: rounds.told(ref, step))
            reported = self.ask(lambda rounds, ref=ref: rounds.reported(ref))
            for update in reported[:2]:
                self.ask(lambda rounds, ref=ref, name=update.device: rounds.receipt(ref, name))

    @invariant()
    def the_round_is_the_one_that_was_opened_last(self) -> None:
        assert self.current().phase.ref == self.refs[-1]


@pytest.mark.redis
@pytest.mark.timeout(600)  # a failure takes minutes to shrink
def test_both_stores_are_one(
    redis_server: Any,
    make_memory_stores: Callable[[], Stores],
    make_redis_stores: Callable[..., Stores],
) -> None:
    with asyncio.Runner() as runner:
        connection = Connection(redis_server.url)
        attributes = {
            "runner": runner,
            "connection": connection,
            "make_memory_stores": staticmethod(make_memory_stores),
            "make_redis_stores": staticmethod(make_redis_stores),
        }
        machine = type("TwoStores", (TwoStores,), attributes)
        try:
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=60,
                    stateful_step_count=60,
                    deadline=None,
                    phases=[Phase.reuse, Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(connection.close())
