"""Hash fields in Redis <-> phases and records.  Field names are the store's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from fl_cluster.errors import StoreCorrupt
from fl_cluster.rounds.exchange import TIMED, Exchange, Step, goal_of
from fl_cluster.rounds.machine import Round
from fl_cluster.rounds.phases import (
    Abandoning,
    Admission,
    Aggregating,
    Closed,
    Concluding,
    Counted,
    Lease,
    Phase,
    Reason,
    Reporting,
    Retraining,
    RoundRef,
    Selecting,
    Unmasking,
    Waiting,
)
from fl_cluster.rounds.plan import ExchangePlan, Millis, RoundPlan
from fl_cluster.store.ports import (
    JobRecord,
    Metrics,
    ModelRecord,
    Offer,
    Pushed,
    Receipt,
    ReportedUpdate,
    Snapshot,
    UpdateRecord,
    WorkerShare,
)

Fields = Mapping[str, str]

PLAN_FIELDS = (
    "cohort_size",
    "report_goal",
    "select_window_ms",
    "report_window_ms",
    "round_window_ms",
)

WAITING_PHASES = ("selecting", "reporting", "unmasking", "retraining")
"""The phases that time ends."""

SHARE_FIELDS = ("aggregate", "retraining_since", "pushed", "pushed_is_fit", "metrics")
"""Empty but in a hybrid round whose mean was handed over.  Rounds that older servers opened
have neither these nor `last_metrics` nor `is_hybrid`."""

EXCHANGE_FIELDS = ("complete", *(f"{step}_began" for step in TIMED))
"""Empty but in a masked round."""

GOALS = ("keys", "shares", "signatures", "reveals", "window_ms")
"""The words of the field `exchange`, in which a masked round's plan stands."""


def pairs(raw: Mapping[bytes, bytes] | list[bytes]) -> Mapping[bytes, bytes]:
    """A hash, in whichever of two shapes the client library hands it over."""
    if isinstance(raw, list):
        return dict(zip(raw[::2], raw[1::2], strict=True))
    return raw


def text_fields(raw: Mapping[bytes, bytes]) -> dict[str, str]:
    """A hash as Redis returns it, as text.  Device ids keep their exact bytes."""
    return {_text(key): _text(value) for key, value in raw.items()}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def encode_id(device: str) -> bytes:
    """The exact bytes of a device id that came over the wire."""
    return device.encode("utf-8", "surrogateescape")


def decode_id(raw: bytes) -> str:
    """The inverse of `encode_id`."""
    return _text(raw)


def first_round_fields(
    ref: RoundRef, plan: RoundPlan, *, is_closed: bool, is_disabled: bool
) -> dict[str, str]:
    """The hash of a round that nobody has checked in to; nobody can if it is closed."""
    fields = {
        "ref": str(ref),
        "number": str(ref.number),
        "phase": "closed" if is_closed else "waiting",
        "opened_at": "",
        "first_report_at": "",
        "since": "",
        "reason": "",
        "lease_member": "",
        "lease_until": "",
        "served": "1",
        "failures_in_a_row": "0",
        "is_disabled": "1" if is_disabled else "0",
        "successor": "",
        "last_outcome": "",
        "last_reason": "",
        "last_ended_at": "",
    }
    empty = (*SHARE_FIELDS, *EXCHANGE_FIELDS, "last_metrics")
    return fields | dict.fromkeys(empty, "") | plan_fields(plan)


def plan_of(fields: Fields) -> RoundPlan:
    """The plan that a round's hash carries."""
    cohort_size, goal, select_ms, report_ms, round_ms = (int(fields[n]) for n in PLAN_FIELDS)
    is_hybrid = fields.get("is_hybrid") == "1"
    exchange = _exchange_plan_of(fields.get("exchange", ""))
    return RoundPlan(cohort_size, goal, select_ms, report_ms, round_ms, is_hybrid, exchange)


def _exchange_plan_of(text: str) -> ExchangePlan | None:
    if not text:
        return None
    words = dict(word.split("=") for word in text.split(" "))
    return ExchangePlan(*(int(words[name]) for name in GOALS))


def plan_fields(plan: RoundPlan) -> dict[str, str]:
    """The part of a round's hash that is its plan."""
    numbers = {name: str(getattr(plan, name)) for name in PLAN_FIELDS}
    exchange = ""
    if plan.exchange is not None:
        exchange = " ".join(f"{name}={getattr(plan.exchange, name)}" for name in GOALS)
    return numbers | {"is_hybrid": "1" if plan.is_hybrid else "0", "exchange": exchange}


def snapshot_of(fields: Fields) -> Snapshot:
    """The cached view of a round's hash."""
    try:
        opened_at = _instant(fields["opened_at"])
        return Snapshot(
            ref=RoundRef.parse(fields["ref"]),
            phase=fields["phase"],
            plan=plan_of(fields),
            opened_at=opened_at,
            deadline=_deadline(fields, opened_at),
            ended_at=_instant(fields["since"]),
            reason=Reason(fields["reason"]) if fields["reason"] else None,
            lease_member=fields["lease_member"] or None,
            lease_until=_instant(fields["lease_until"]),
            served=fields["served"] == "1",
            failures_in_a_row=int(fields["failures_in_a_row"]),
            is_disabled=fields["is_disabled"] == "1",
            successor=fields["successor"],
            first_report_at=_first_report_at(fields),
            last_outcome=fields["last_outcome"],
            last_reason=Reason(fields["last_reason"]) if fields["last_reason"] else None,
            last_ended_at=_instant(fields["last_ended_at"]),
            share=_share_of(fields),
            last_metrics=_metrics_of(fields.get("last_metrics", "")),
            complete=_complete(fields),
        )
    except (KeyError, ValueError, AssertionError) as exc:
        raise StoreCorrupt(f"the round's record is not one of ours: {exc!r} in {fields}") from exc


def _complete(fields: Fields) -> frozenset[Step]:
    return frozenset(Step(name) for name in fields.get("complete", "").split())


def _began(fields: Fields) -> dict[Step, Millis]:
    found = {step: _instant(fields.get(f"{step}_began", "")) for step in TIMED}
    return {step: at for step, at in found.items() if at is not None}


def _share_of(fields: Fields) -> WorkerShare | None:
    if not fields.get("aggregate"):
        return None
    number, pushed = fields["number"], None
    if fields["pushed"]:
        pushed = Pushed(model_of(number, fields["pushed"]), fields["pushed_is_fit"] == "1")
    since, metrics = Millis(int(fields["retraining_since"])), _metrics_of(fields["metrics"])
    return WorkerShare(since, model_of(number, fields["aggregate"]), pushed, metrics)


def _metrics_of(text: str) -> Metrics | None:
    if not text:
        return None
    loss, accuracy = text.split(" ")
    return Metrics(float(loss), float(accuracy))


def metrics_text(metrics: Metrics) -> str:
    """What a round's hash keeps of a worker's metrics; NaN and infinity as words."""
    return f"{float(metrics.loss)!r} {float(metrics.accuracy)!r}"


def _instant(text: str) -> Millis | None:
    return Millis(int(text)) if text else None


def _first_report_at(fields: Fields) -> Millis | None:
    is_collecting = fields["phase"] in ("selecting", "reporting")
    return _instant(fields["first_report_at"]) if is_collecting else None


def _deadline(fields: Fields, opened_at: Millis | None) -> Millis | None:
    if opened_at is None or fields["phase"] not in WAITING_PHASES:
        return None
    deadlines = [opened_at + int(fields["round_window_ms"])]
    if fields["phase"] == "selecting":
        deadlines.append(opened_at + int(fields["select_window_ms"]))
    first_report_at = _first_report_at(fields)
    if first_report_at is not None:
        deadlines.append(first_report_at + int(fields["report_window_ms"]))
    if fields["phase"] != "retraining" and fields.get("exchange"):
        plan, complete = _exchange_plan_of(fields["exchange"]), _complete(fields)
        assert plan is not None, fields
        for step, at in _began(fields).items():
            if step not in complete and goal_of(plan, step) != 0:
                deadlines.append(at + plan.window_ms)
    return Millis(min(deadlines))


@dataclass(frozen=True, slots=True)
class Hashes:
    """What the store holds of a round beside its own hash."""

    cohort: Fields
    claims: Fields
    reports: Fields
    partials: Fields
    told: Mapping[Step, Mapping[str, bytes]]
    """What devices of a masked round have told, by step; only steps that somebody took."""


def phase_of(fields: Fields, hashes: Hashes) -> Phase:
    """The phase that the stored hashes are in."""
    cohort, claims, reports = hashes.cohort, hashes.claims, hashes.reports
    partials, exchange = hashes.partials, Exchange(hashes.told, _began(fields))
    ref, plan = RoundRef.parse(fields["ref"]), plan_of(fields)
    admitted = {device: admission_of(text) for device, text in cohort.items()}
    holders = {device: text.rpartition(" ")[0] for device, text in claims.items()}
    counted = {device: _counted(text) for device, text in reports.items()}
    name = fields["phase"]
    if name == "waiting":
        return Waiting(ref, plan)
    if name == "closed":
        return Closed(ref, plan)
    if name in ("selecting", "reporting"):
        kind = Selecting if name == "selecting" else Reporting
        return kind(
            ref,
            plan,
            Millis(int(fields["opened_at"])),
            admitted,
            holders,
            counted,
            dict(partials),
            _instant(fields["first_report_at"]),
            exchange,
        )
    if name == "unmasking":
        opened_at = Millis(int(fields["opened_at"]))
        return Unmasking(ref, plan, opened_at, admitted, counted, dict(partials), exchange)
    share = _share_of(fields)
    if name == "retraining" and share is not None:
        return Retraining(
            ref,
            plan,
            Millis(int(fields["opened_at"])),
            admitted,
            counted,
            dict(partials),
            share.since,
            share.aggregate.blob,
            share.pushed.model.blob if share.pushed else None,
            share.pushed.is_fit if share.pushed else True,
        )
    lease = None
    if fields["lease_member"]:
        lease = Lease(fields["lease_member"], Millis(int(fields["lease_until"])))
    began_at, since = _instant(fields["opened_at"]), Millis(int(fields["since"]))
    known = (ref, plan, began_at, admitted, counted, dict(partials), since, lease)
    if name == "aggregating":
        return Aggregating(*known)
    if name == "concluding" and share is not None:
        return Concluding(
            *known, share.aggregate.blob, share.pushed.model.blob if share.pushed else None
        )
    if name == "abandoning":
        return Abandoning(*known, Reason(fields["reason"]))
    raise StoreCorrupt(f"the round is in phase {name!r}, which does not exist")


def round_of(fields: Fields, hashes: Hashes, fenced: frozenset[str]) -> Round:
    """The round that the stored hashes are."""
    try:
        return Round(
            phase_of(fields, hashes),
            fenced,
            served=fields["served"] == "1",
            is_disabled=fields["is_disabled"] == "1",
            successor=fields["successor"],
        )
    except (KeyError, ValueError, TypeError, AssertionError) as exc:
        raise StoreCorrupt(f"the round's records are not ours: {exc!r} in {fields}") from exc


def declaration(offer: Offer) -> str:
    """What a cohort's hash keeps of a check-in; the script adds the instant and its call."""
    return f"{offer.data_size} {offer.eval_data_size}"


def admission_of(text: str) -> Admission:
    """The inverse of `declaration` and the script's additions."""
    data_size, eval_data_size, at, _call = text.split(" ")
    return Admission(int(data_size), int(eval_data_size), Millis(int(at)))


def update_record(update: UpdateRecord, member: str) -> str:
    """What a report's hash keeps of an update; the script puts position and instant before it."""
    return json.dumps(
        [member, update.digest, float(update.loss), float(update.accuracy)], separators=(",", ":")
    )


def _split_report(text: str) -> tuple[int, Millis, str, str, float, float]:
    position, at, rest = text.split(" ", 2)
    member, digest, loss, accuracy = json.loads(rest)
    return int(position), Millis(int(at)), member, digest, float(loss), float(accuracy)


def _counted(text: str) -> Counted:
    position, at, member, *_ = _split_report(text)
    return Counted(member, position, at)


def receipt_of(text: str, number: int) -> Receipt:
    """The receipt that a report's record proves."""
    try:
        position, _, _, digest, *_ = _split_report(text)
    except (ValueError, TypeError) as exc:
        raise StoreCorrupt(f"a counted update's record is damaged: {exc!r} in {text!r}") from exc
    return Receipt(number, digest, position)


def reported_update(device: str, report: str, admission: str) -> ReportedUpdate:
    """One counted update with what its device declared."""
    position, at, member, digest, loss, accuracy = _split_report(report)
    declared = admission_of(admission)
    return ReportedUpdate(
        device=device,
        member=member,
        position=position,
        at=at,
        digest=digest,
        loss=loss,
        accuracy=accuracy,
        data_size=declared.data_size,
        eval_data_size=declared.eval_data_size,
        checked_in_at=declared.at,
    )


def model_text(model: ModelRecord) -> str:
    """A model's record as the models' hash keeps it."""
    return json.dumps(
        {
            "blob": model.blob,
            "bytes": model.byte_count,
            "sha256": model.digest,
            "exponents": list(model.exponents),
            "left_out": list(model.left_out),
        },
        separators=(",", ":"),
    )


def model_of(number: str, text: str) -> ModelRecord:
    """The inverse of `model_text`."""
    try:
        fields = json.loads(text)
        return ModelRecord(
            int(number),
            fields["blob"],
            fields["bytes"],
            fields["sha256"],
            tuple(fields["exponents"]),
            tuple(fields["left_out"]),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise StoreCorrupt(f"the record of model {number} is not one of ours: {exc!r}") from exc


def job_fields(job: JobRecord) -> dict[str, str]:
    """The hash of a job's run."""
    return {
        "name": job.instance,
        "rounds_total": str(job.rounds_total),
        "hyper_parameters": job.hyper_parameters,
        "layout": job.layout,
    }


def job_of(fields: Fields) -> JobRecord:
    """The inverse of `job_fields`."""
    try:
        return JobRecord(
            fields["name"],
            int(fields["rounds_total"]),
            fields["hyper_parameters"],
            fields["layout"],
        )
    except (KeyError, ValueError) as exc:
        raise StoreCorrupt(f"the job's record is not one of ours: {exc!r}") from exc
