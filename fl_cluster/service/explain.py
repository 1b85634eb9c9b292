"""Why is my round not moving?  One cause, in a word and in sentences, from what is stored.

Pure: facts in, an explanation out.  The causes are looked at in the order in which they
stand in each other's way, so the one that is named is the one to see to first; what else is
out of the ordinary stands in the notes.
Not here: how the facts are found (service.inquiry), how they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fl_cluster.lifecycle.membership import MemberState, Role
from fl_cluster.rounds.phases import Reason
from fl_cluster.rounds.plan import Millis
from fl_cluster.service.explain_masked import WHY_LATE, WHY_LATE_SECURE, Awaited, find_awaited
from fl_cluster.service.explanation import Cause, Explanation, Facts
from fl_cluster.service.spending import Spent
from fl_cluster.store.ports import Counts, Snapshot

OVERDUE_MS = 2_000
"""How long after a deadline somebody should have noticed it."""

IDLE_MS = 5_000
"""How long after the goal was met somebody should have begun to aggregate."""

LONG_MS = 30_000
"""Longer than the largest model takes to aggregate."""

FAILS_AT_IT = "see the servers' logs: one that failed at it leaves it to the others for a while"


def explain(facts: Facts) -> Explanation:
    """What keeps the job from moving now."""
    snapshot = facts.snapshot
    if snapshot is None:
        return Explanation(
            cause=Cause.NO_JOB,
            sentence=f"No server of job {facts.job_name} was ever started with this Redis, "
            "or Redis has lost all it knew.",
            waiting_for="server",
            then="the first server that starts creates the job, from its newest checkpoint if "
            "there is one; a server that still runs brings back what it holds",
            change="start servers, with the same configuration file as this scheduler",
        )
    found = _explain_job(facts, snapshot)
    return replace(found, notes=(*found.notes, *_notes(facts, snapshot)))


def _explain_job(facts: Facts, snapshot: Snapshot) -> Explanation:
    if snapshot.is_closed and facts.spent is not None and _is_cut_short(facts, snapshot):
        return _explain_budget(facts, snapshot, facts.spent)
    if snapshot.is_closed:
        return Explanation(
            cause=Cause.JOB_FINISHED,
            sentence=f"The job has run all its {facts.rounds_total} rounds.",
            since=snapshot.last_ended_at,
            then="devices are told that the job is finished; they can still fetch the model",
            change="begin a new run from these weights: fl-cluster new-instance",
        )
    if snapshot.is_disabled:
        return Explanation(
            cause=Cause.JOB_DISABLED,
            sentence=f"The job was disabled; round {snapshot.ref.number} admits nobody.",
            waiting_for="operator",
            since=snapshot.ended_at or snapshot.last_ended_at,
            then=f"once it is enabled, {_what_goes_on(snapshot)}",
            change="let it go on: fl-cluster enable",
        )
    absent = _explain_absence(facts, snapshot)
    if absent is not None:
        return absent
    if snapshot.needs_finishing:
        return _explain_ending(facts, snapshot)
    if snapshot.is_retraining:
        return _explain_retraining(facts, snapshot)
    return _explain_collecting(facts, snapshot)


def _is_cut_short(facts: Facts, snapshot: Snapshot) -> bool:
    return snapshot.ref.number <= facts.rounds_total


def _explain_budget(facts: Facts, snapshot: Snapshot, spent: Spent) -> Explanation:
    """The job ended before its last round, because its noise costs what it may."""
    return Explanation(
        cause=Cause.BUDGET_SPENT,
        sentence=f"The job ended after round {snapshot.ref.number - 1} of {facts.rounds_total}: "
        f"another round would exceed its privacy budget; {spent} is spent.",
        since=snapshot.last_ended_at,
        then="devices are told that the job is finished; they can still fetch the model",
        change="nothing, if the promise is to be kept; to spend more is another promise, and "
        "another job: a new fl_name, with this model and a larger privacy.epsilon_budget",
    )


def _what_goes_on(snapshot: Snapshot) -> str:
    if snapshot.successor:
        return f"run {snapshot.successor} begins with round 1"
    if snapshot.needs_finishing:
        return f"round {snapshot.ref.number} is finished and the next one opens"
    return f"round {snapshot.ref.number} opens with the newest weights"


def _explain_absence(facts: Facts, snapshot: Snapshot) -> Explanation | None:
    """Why nobody works on the round; None when some server does."""
    servers = facts.servers
    if any(server.state is MemberState.SERVING for server in servers):
        return None
    number, then = snapshot.ref.number, f"as soon as one serves, {_what_goes_on(snapshot)}"
    if snapshot.opened_at is not None and snapshot.is_collecting:
        then = "as soon as one serves, the round goes on with the updates it has"
    more = "start servers: fl-cluster server"
    if servers:
        return Explanation(
            cause=Cause.SERVERS_DRAINING,
            sentence=f"All {len(servers)} servers are draining; none takes new devices.",
            waiting_for="server",
            have=0,
            need=1,
            then=then,
            change=more,
        )
    if facts.overdue:
        ended = [at for at in facts.overdue.values() if at is not None]
        names = ", ".join(sorted(facts.overdue))
        return Explanation(
            cause=Cause.LEASES_EXPIRED,
            sentence=f"No server is alive: {names} did not renew their leases.",
            waiting_for="server",
            have=0,
            need=1,
            since=Millis(max(ended)) if ended else None,
            then=then,
            change=f"see whether they run and reach Redis; otherwise {more}",
        )
    return Explanation(
        cause=Cause.NO_SERVER,
        sentence=f"No server is running; nobody works on round {number}.",
        waiting_for="server",
        have=0,
        need=1,
        then=then,
        change=more,
    )


def _explain_ending(facts: Facts, snapshot: Snapshot) -> Explanation:
    """The round's time for devices is over; some server has to finish it."""
    work = "aggregate" if snapshot.phase == "aggregating" else "record"
    number = snapshot.ref.number
    if snapshot.lease_member is None or snapshot.lease_until is None:
        return _explain_idle(facts, snapshot, work)
    if facts.at >= snapshot.lease_until:
        found = Explanation(
            cause=Cause.LEASE_EXPIRED,
            sentence=f"Server {snapshot.lease_member} was to {work} round {snapshot.ref.number} "
            "and has not renewed its lease.",
            waiting_for="aggregation",
            then="another server takes over within a second and comes to the same model",
            change="if none does, see the servers' logs",
        )
    elif snapshot.phase == "aggregating":
        goal = snapshot.plan.report_goal
        found = Explanation(
            cause=Cause.AGGREGATING,
            sentence=f"Server {snapshot.lease_member} aggregates the {goal} updates of round "
            f"{snapshot.ref.number}.",
            waiting_for="aggregation",
            have=facts.counts.reports,
            need=goal,
            then=f"{_outcome(snapshot)}; if this server does not renew its lease until "
            "then, another takes over",
            change=FAILS_AT_IT if _takes_long(facts, snapshot, LONG_MS) else "",
        )
    elif snapshot.phase == "concluding":
        found = Explanation(
            cause=Cause.RECORDING,
            sentence=f"The worker is done with round {number}; server {snapshot.lease_member} "
            "records it.",
            waiting_for="aggregation",
            then=_after(snapshot),
        )
    else:
        found = Explanation(
            cause=Cause.RESTARTING if snapshot.successor else Cause.RECORDING,
            sentence=f"Round {snapshot.ref.number} was abandoned ({_why(facts, snapshot.reason)}); "
            f"server {snapshot.lease_member} records it.",
            waiting_for="aggregation",
            then=_after(snapshot),
        )
    return replace(found, since=snapshot.ended_at, until=snapshot.lease_until)


def _outcome(snapshot: Snapshot) -> str:
    if snapshot.plan.is_hybrid:
        return "the mean is handed over to the worker"
    return "the new model is published"


def _explain_idle(facts: Facts, snapshot: Snapshot, work: str) -> Explanation:
    number = snapshot.ref.number
    met = f"The updates of round {number} are complete"
    if snapshot.phase == "abandoning":
        met = f"Round {number} was abandoned ({_why(facts, snapshot.reason)})"
    elif snapshot.phase == "concluding":
        met = f"The worker is done with round {number}"
    cause = Cause.RESTARTING if snapshot.successor else Cause.AGGREGATION_TO_BEGIN
    return Explanation(
        cause=cause,
        sentence=f"{met}; no server has begun to {work} it.",
        waiting_for="aggregation",
        since=snapshot.ended_at,
        then=_after(snapshot),
        change=FAILS_AT_IT if _takes_long(facts, snapshot, IDLE_MS) else "",
    )


def _takes_long(facts: Facts, snapshot: Snapshot, allowed_ms: int) -> bool:
    return snapshot.ended_at is not None and facts.at - snapshot.ended_at > allowed_ms


def _after(snapshot: Snapshot) -> str:
    if snapshot.successor:
        return f"run {snapshot.successor} begins with round 1, from the newest weights"
    if snapshot.phase == "aggregating" and snapshot.plan.is_hybrid:
        return "the mean is handed over to the worker"
    weights = "the old" if snapshot.phase == "abandoning" else "the new"
    return f"the next round opens with {weights} weights"


def _explain_retraining(facts: Facts, snapshot: Snapshot) -> Explanation:
    """The worker has the mean, and time for its part."""
    number, share = snapshot.ref.number, snapshot.share
    assert share is not None
    if snapshot.deadline is not None and facts.at - snapshot.deadline > OVERDUE_MS:
        return _explain_overdue(facts, snapshot, f"Round {number}", Reason.ROUND_WINDOW)
    workers = [member for member in facts.members if member.role is Role.WORKER]
    done = "handed in its weights and not its metrics" if share.pushed else "handed in nothing yet"
    notes = () if workers else ("no worker is registered",)
    return Explanation(
        cause=Cause.WAITING_FOR_WORKER,
        sentence=f"Round {number} of {facts.rounds_total} waits for its worker, which has {done}.",
        waiting_for="worker",
        since=share.since,
        until=snapshot.deadline,
        then=f"the round is abandoned ({_why(facts, Reason.ROUND_WINDOW)}) and the next one opens "
        "with the old weights",
        change="see whether the worker trains; or give it more time: fl-cluster new-instance "
        f"global_iteration_time_window={2 * snapshot.plan.round_window_ms}"
        if workers
        else "start the worker",
        notes=notes,
    )


def _explain_overdue(facts: Facts, snapshot: Snapshot, number: str, reason: Reason) -> Explanation:
    return Explanation(
        cause=Cause.WINDOW_OVER,
        sentence=f"{number} ran out of time ({_why(facts, reason)}), and no server has ended it.",
        waiting_for="server",
        since=snapshot.deadline,
        then="the first server that looks abandons the round",
        change="the servers are overloaded or cannot write to Redis: see their logs",
    )


def _explain_collecting(facts: Facts, snapshot: Snapshot) -> Explanation:
    counts, plan = facts.counts, snapshot.plan
    number = f"Round {snapshot.ref.number} of {facts.rounds_total}"
    if snapshot.phase == "waiting":
        return Explanation(
            cause=Cause.WAITING_FOR_FIRST_DEVICE,
            sentence=f"{number} is open and no device has checked in.",
            waiting_for="devices",
            have=0,
            need=plan.cohort_size,
            since=snapshot.last_ended_at,
            then="the windows begin with the first device; until then nothing is lost by waiting",
            change="start devices, and see that they call a server of this job: "
            + ", ".join(sorted({server.http_address for server in facts.servers})),
        )
    if snapshot.deadline is not None and facts.at - snapshot.deadline > OVERDUE_MS:
        return _explain_overdue(facts, snapshot, number, _next_end(snapshot)[1])
    if (awaited := find_awaited(facts, snapshot)) is not None:
        return _waiting_for_exchange(facts, snapshot, number, awaited)
    if _needs_devices(counts, snapshot):
        return _waiting_for_devices(facts, snapshot, number)
    if counts.reports + counts.claims >= plan.report_goal:
        return Explanation(
            cause=Cause.WAITING_FOR_COMMIT,
            sentence=f"{number} has {counts.reports} of {plan.report_goal} updates; the last "
            f"{counts.claims} are being stored.",
            waiting_for="commit",
            have=counts.reports,
            need=plan.report_goal,
            since=snapshot.first_report_at or snapshot.opened_at,
            until=snapshot.deadline,
            then="the round is aggregated; what a server that dies had not stored is free for "
            "other devices",
        )
    return _waiting_for_updates(facts, snapshot, number)


def _waiting_for_exchange(
    facts: Facts, snapshot: Snapshot, number: str, awaited: Awaited
) -> Explanation:
    return Explanation(
        cause=Cause.WAITING_FOR_EXCHANGE,
        sentence=f"{number} waits for devices to {awaited.words}.",
        waiting_for="devices",
        have=awaited.have,
        need=awaited.need,
        since=snapshot.opened_at,
        until=snapshot.deadline,
        then=_then(facts, snapshot),
        change="see whether the devices are still there: too many have stopped in the middle of "
        "the round",
    )


def _needs_devices(counts: Counts, snapshot: Snapshot) -> bool:
    """Whether the devices that are in cannot meet the goal, or all have done their part."""
    if snapshot.phase != "selecting":
        return False
    is_short = counts.cohort < snapshot.plan.report_goal
    return is_short or counts.cohort == counts.reports + counts.claims


def _waiting_for_devices(facts: Facts, snapshot: Snapshot, number: str) -> Explanation:
    counts, size = facts.counts, snapshot.plan.cohort_size
    return _with_forecast(
        facts,
        Explanation(
            cause=Cause.WAITING_FOR_DEVICES,
            sentence=f"{number} waits for devices: {counts.cohort} of {size} have checked in, "
            f"{counts.reports} of {snapshot.plan.report_goal} updates are counted.",
            waiting_for="devices",
            have=counts.cohort,
            need=size,
            since=snapshot.opened_at,
            until=snapshot.deadline,
            then=_then(facts, snapshot),
            change="start more devices, or begin a run with a smaller cohort: fl-cluster "
            f"new-instance start_fl_job_threshold={counts.cohort}",
        ),
        snapshot.opened_at,
    )


def _waiting_for_updates(facts: Facts, snapshot: Snapshot, number: str) -> Explanation:
    counts, plan = facts.counts, snapshot.plan
    in_flight = f", {counts.claims} more are being stored" if counts.claims else ""
    missing = counts.cohort - counts.reports - counts.claims
    ratio = max(1, counts.reports) / plan.cohort_size
    room = plan.cohort_size - counts.cohort
    note = f"the cohort has room for {room} more; once it is full, its window ends nothing"
    return _with_forecast(
        facts,
        Explanation(
            cause=Cause.WAITING_FOR_UPDATES,
            sentence=f"{number} waits for updates: {counts.reports} of {plan.report_goal} are "
            f"counted{in_flight}; {missing} of {counts.cohort} devices have not reported.",
            waiting_for="updates",
            have=counts.reports,
            need=plan.report_goal,
            since=snapshot.first_report_at or snapshot.opened_at,
            until=snapshot.deadline,
            then=_then(facts, snapshot),
            change="see whether the devices still train; or begin a run that asks for fewer: "
            f"fl-cluster new-instance update_model_ratio={ratio:.3g}",
            notes=(note,) if room else (),
        ),
        snapshot.first_report_at,
    )


def _with_forecast(facts: Facts, found: Explanation, first_at: Millis | None) -> Explanation:
    """With the instant at which it is over when more arrive at the rate since the first."""
    have, need = found.have, found.need
    assert have is not None
    assert need is not None
    if first_at is None or have < 2 or facts.at <= first_at:
        return found
    pause_ms = (facts.at - first_at) / (have - 1)
    eta = Millis(facts.at + round((need - have) * pause_ms))
    if found.until is None or eta < found.until:
        return replace(found, eta=eta)
    short = "at the rate so far, that is after its window has closed"
    return replace(found, eta=eta, notes=(*found.notes, short))


def _then(facts: Facts, snapshot: Snapshot) -> str:
    why = _why(facts, _next_end(snapshot)[1])
    return f"the round is abandoned ({why}) and the next one opens with the old weights"


def _next_end(snapshot: Snapshot) -> tuple[Millis, Reason]:
    """When time ends a collecting round, and by which window."""
    opened_at, plan = snapshot.opened_at, snapshot.plan
    assert opened_at is not None
    ends = [(Millis(opened_at + plan.round_window_ms), Reason.ROUND_WINDOW)]
    if snapshot.first_report_at is not None:
        end = Millis(snapshot.first_report_at + plan.report_window_ms)
        ends.insert(0, (end, Reason.REPORT_WINDOW))
    if snapshot.phase == "selecting":
        ends.insert(0, (Millis(opened_at + plan.select_window_ms), Reason.SELECT_WINDOW))
    first = min(ends, key=lambda end: end[0])
    if snapshot.deadline is not None and snapshot.deadline < first[0]:
        return snapshot.deadline, Reason.EXCHANGE_WINDOW  # it began with the first of a step
    return first


WHY: Mapping[Reason, str] = {
    Reason.SELECT_WINDOW: "start_fl_job_time_window: the cohort did not fill in time",
    Reason.REPORT_WINDOW: "update_model_time_window: too few updates after the first one",
    Reason.ROUND_WINDOW: "global_iteration_time_window: the whole round took too long",
    Reason.EXCHANGE_WINDOW: WHY_LATE,
    Reason.UNMASK_FAILED: "what devices revealed did not take the masks off the sum",
    Reason.AGGREGATE_FAILED: "its updates could not be aggregated",
    Reason.BUDGET_SPENT: "privacy.epsilon_budget: its noise would have cost more than is left",
    Reason.RETRAINED_UNFIT: "the worker handed in NaN or infinity",
    Reason.JOB_DISABLED: "the job was disabled",
    Reason.JOB_RESTARTED: "a new run was asked for",
    Reason.STORE_LOST: "Redis lost what it held of it",
}
"""Why a round is abandoned, with the setting that decides it."""


def _why(facts: Facts, reason: Reason | None) -> str:
    if reason is Reason.EXCHANGE_WINDOW and facts.is_secure:
        return WHY_LATE_SECURE
    return "for no reason that is known" if reason is None else WHY[reason]


def _notes(facts: Facts, snapshot: Snapshot) -> list[str]:
    """What else is out of the ordinary."""
    notes = []
    if snapshot.last_reason is not None and not snapshot.is_closed:
        notes.append(f"the round before was abandoned ({_why(facts, snapshot.last_reason)})")
    if snapshot.failures_in_a_row > 1:
        notes.append(f"{snapshot.failures_in_a_row} rounds in a row were abandoned")
    if snapshot.successor:
        notes.append(f"run {snapshot.successor} begins when this round is over")
    if facts.servers:
        notes += [
            f"server {name} has not renewed its lease and is about to be declared dead"
            for name in sorted(facts.overdue)
        ]
    draining = [m.id for m in facts.servers if m.state is MemberState.DRAINING]
    notes += [f"server {name} is draining" for name in draining]
    notes += [
        f"this scheduler has no link to server {name}: {reason}"
        for name, reason in sorted(facts.unreachable.items())
    ]
    if snapshot.is_disabled and not facts.servers:
        notes.append("no server is running")
    return notes
