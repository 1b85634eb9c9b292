"""The round in Redis: each event is one script that guards, changes and answers in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fl_cluster.errors import StoreCorrupt
from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.exchange import AFTER_REPORTS, BEFORE, COMPLETED, Step
from fl_cluster.rounds.machine import Round
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import Millis
from fl_cluster.store.ports import (
    KEPT_MODELS,
    ClaimAnswer,
    ClaimRequest,
    Counts,
    JobRecord,
    Metrics,
    ModelRecord,
    Offer,
    Outcome,
    Pushed,
    Receipt,
    ReportBatch,
    ReportedUpdate,
    ReportOutcome,
    Snapshot,
)
from fl_cluster.store.redis import records
from fl_cluster.store.redis.connection import Argument, Connection, call_name
from fl_cluster.store.redis.keys import JobKeys

LIVE_MS = 7 * 24 * 3600 * 1000
"""How long an unfinished round's keys outlast its longest window: a week-end without servers."""

FINISHED_MS = 15 * 60 * 1000
"""How long a finished round's keys are kept, for receipts of repeats that come late."""


ANY = "*"
"""What a script is told when something is not to be compared."""

CALL_BYTES = 12
"""How long the name of a call is: a message is kept with the name of the call that brought it."""

COMMITS: Mapping[bool | None, str] = {True: "1", False: "0", None: ANY}


class RedisRoundStore:
    """`RoundStore` over one job's keys."""

    def __init__(self, connection: Connection, keys: JobKeys) -> None:
        self._connection = connection
        self._keys = keys

    async def snapshot(self) -> Snapshot | None:
        fields = await self._hash(self._keys.round)
        return records.snapshot_of(fields) if fields else None

    async def load(self) -> Round:
        while True:
            raw = await self._connection.command("HGET", self._keys.round, "ref")
            if raw is None:
                raise StoreCorrupt(f"there is no round of job {self._keys.name}")
            ref = raw.decode()
            keys = (
                self._keys.round,
                self._keys.cohort(ref),
                self._keys.claims(ref),
                self._keys.reports(ref),
                self._keys.partials(ref),
            )
            steps = tuple(self._keys.step(ref, step) for step in Step)
            commands: list[tuple[Argument, ...]] = [("HGETALL", key) for key in (*keys, *steps)]
            commands.append(("ZRANGE", self._keys.fenced, 0, -1))
            *hashes, fenced = await self._connection.together(commands)
            fields, cohort, claims, reports, partials = map(_fields, hashes[: len(keys)])
            if fields.get("ref") == ref:
                names = frozenset(name.decode() for name in fenced)
                messages = zip(Step, map(_messages, hashes[len(keys) :]), strict=True)
                told = {step: found for step, found in messages if found}
                known = records.Hashes(cohort, claims, reports, partials, told)
                return records.round_of(fields, known, names)

    async def check_in(
        self, ref: RoundRef, offers: Sequence[Offer], at: Millis | None = None
    ) -> Sequence[Verdict]:
        if not offers:
            return []
        args: list[Argument] = [str(ref), _instant(at), LIVE_MS, self._keys.events, call_name()]
        for offer in offers:
            args += (records.encode_id(offer.device), records.declaration(offer))
        keys = (self._keys.round, self._keys.cohort(str(ref)))
        return [_verdict(word) for word in await self._connection.run("check_in", keys, args)]

    async def claim(
        self,
        ref: RoundRef,
        member: str,
        requests: Sequence[ClaimRequest],
        at: Millis | None = None,
    ) -> Sequence[ClaimAnswer]:
        args: list[Argument] = [str(ref), _instant(at), LIVE_MS, member, call_name()]
        for request in requests:
            args += (records.encode_id(request.device), request.number)
        token = str(ref)
        keys = (
            self._keys.round,
            self._keys.cohort(token),
            self._keys.claims(token),
            self._keys.reports(token),
            self._keys.fenced,
            self._keys.step(token, Step.KEYS_READ),
            self._keys.step(token, Step.SHARES_READ),
        )
        reply = await self._connection.run("claim", keys, args)
        return [
            ClaimAnswer(_verdict(word), int(size))
            for word, size in zip(reply[::2], reply[1::2], strict=True)
        ]

    async def release(self, ref: RoundRef, member: str, devices: Sequence[str]) -> Verdict:
        keys = (self._keys.round, self._keys.claims(str(ref)), self._keys.fenced)
        args: list[Argument] = [str(ref), member]
        args += (records.encode_id(device) for device in devices)
        return _verdict(await self._connection.run("release", keys, args))

    async def report(
        self, ref: RoundRef, member: str, batch: ReportBatch, at: Millis | None = None
    ) -> ReportOutcome:
        token = str(ref)
        keys = (
            self._keys.round,
            self._keys.claims(token),
            self._keys.reports(token),
            self._keys.partials(token),
            self._keys.fenced,
            self._keys.evaluations(ref.instance),
        )
        args: list[Argument] = [
            token,
            _instant(at),
            LIVE_MS,
            member,
            batch.partial,
            self._keys.events,
            ANY if batch.previous is None else batch.previous,
            _evaluations_kept(batch),
        ]
        for update in batch.updates:
            vector = update.evaluation.vector if update.evaluation else b""
            record = records.update_record(update, member)
            args += (records.encode_id(update.device), record, vector)
        word, *positions = await self._connection.run("report", keys, args)
        return ReportOutcome(_verdict(word), tuple(positions))

    async def tell(
        self, ref: RoundRef, step: Step, device: str, message: bytes, at: Millis | None = None
    ) -> Verdict:
        keys, args = self._step_of(ref, step, device, at)
        return _verdict(await self._connection.run("tell", keys, (*args, message)))

    async def replace_keys(
        self, ref: RoundRef, device: str, message: bytes, former: bytes, at: Millis | None = None
    ) -> Verdict:
        keys, args = self._step_of(ref, Step.KEYS, device, at)
        return _verdict(await self._connection.run("tell", keys, (*args, message, former)))

    def _step_of(
        self, ref: RoundRef, step: Step, device: str, at: Millis | None
    ) -> tuple[tuple[str, ...], tuple[Argument, ...]]:
        """The keys of a device's step, and what comes before its message."""
        token, before = str(ref), BEFORE[step]
        if before is not None:
            allowed = self._keys.step(token, before)
        else:
            by_report = step in AFTER_REPORTS
            allowed = self._keys.reports(token) if by_report else self._keys.cohort(token)
        args: tuple[Argument, ...] = (
            token,
            _instant(at),
            LIVE_MS,
            self._keys.events,
            call_name(),
            step,
            "1" if step in AFTER_REPORTS else "0",
            before if before in COMPLETED else "",
            records.encode_id(device),
        )
        return (self._keys.round, self._keys.step(token, step), allowed), args

    async def told(self, ref: RoundRef, step: Step) -> Mapping[str, bytes]:
        key = self._keys.step(str(ref), step)
        return _messages(await self._connection.command("HGETALL", key))

    async def message(self, ref: RoundRef, step: Step, device: str) -> bytes | None:
        key = self._keys.step(str(ref), step)
        found = await self._connection.command("HGET", key, records.encode_id(device))
        return None if found is None else found[CALL_BYTES:]

    async def takers(self, ref: RoundRef, step: Step) -> int:
        return int(await self._connection.command("HLEN", self._keys.step(str(ref), step)))

    async def proceed(self, ref: RoundRef, at: Millis | None = None) -> Verdict:
        args = (str(ref), _instant(at), self._keys.events, call_name())
        return _verdict(await self._connection.run("proceed", (self._keys.round,), args))

    async def tick(self, ref: RoundRef, at: Millis | None = None) -> Verdict:
        args = (str(ref), _instant(at), self._keys.events)
        return _verdict(await self._connection.run("tick", (self._keys.round,), args))

    async def abort(self, ref: RoundRef, reason: Reason, at: Millis | None = None) -> Verdict:
        args = (str(ref), _instant(at), self._keys.events, reason.value, call_name())
        return _verdict(await self._connection.run("abort", (self._keys.round,), args))

    async def take_lease(
        self, ref: RoundRef, member: str, lease_ms: int, at: Millis | None = None
    ) -> Verdict:
        keys = (self._keys.round, self._keys.fenced)
        args = (str(ref), _instant(at), member, lease_ms)
        return _verdict(await self._connection.run("take_lease", keys, args))

    async def hand_over(
        self, ref: RoundRef, member: str, aggregate: ModelRecord, at: Millis | None = None
    ) -> Verdict:
        record = records.model_text(aggregate)
        args = (str(ref), _instant(at), member, record, self._keys.events)
        keys = (self._keys.round, self._keys.fenced)
        return _verdict(await self._connection.run("hand_over", keys, args))

    async def push(self, ref: RoundRef, pushed: Pushed, at: Millis | None = None) -> Verdict:
        record, is_fit = records.model_text(pushed.model), "1" if pushed.is_fit else "0"
        args = (str(ref), _instant(at), record, is_fit)
        return _verdict(await self._connection.run("push", (self._keys.round,), args))

    async def conclude(self, ref: RoundRef, metrics: Metrics, at: Millis | None = None) -> Verdict:
        args = (str(ref), _instant(at), records.metrics_text(metrics), self._keys.events)
        return _verdict(await self._connection.run("conclude", (self._keys.round,), args))

    async def publish(self, ref: RoundRef, member: str, outcome: Outcome) -> Verdict:
        token = str(ref)
        keys = (
            self._keys.round,
            self._keys.models,
            self._keys.instance,
            self._keys.fenced,
            self._keys.successor,
            *self._keys.of_round(token),
        )
        successor = outcome.successor
        args: list[Argument] = [
            token,
            member,
            str(RoundRef(successor.instance, 1) if successor else ref.next()),
            records.model_text(outcome.model),
            ref.number - KEPT_MODELS,
            "1" if outcome.finishes_job else "0",
            FINISHED_MS,
            self._keys.events,
            outcome.failures_in_a_row,
            call_name(),
            successor.instance if successor else "",
            records.model_text(successor.model) if successor else "",
            COMMITS[outcome.commits],
        ]
        if successor is not None:
            for name, value in records.plan_fields(successor.plan).items():
                args += (name, value)
        return _verdict(await self._connection.run("publish", keys, args))

    async def model_served(self, ref: RoundRef) -> Verdict:
        word = await self._connection.run("model_served", (self._keys.round,), (str(ref),))
        return _verdict(word)

    async def member_lost(self, member: str, at: Millis | None = None) -> Verdict:
        while True:
            raw = await self._connection.command("HGET", self._keys.round, "ref")
            token = raw.decode() if raw else ""
            keys = (self._keys.round, self._keys.claims(token), self._keys.fenced)
            args = (token, _instant(at), member, self._keys.events)
            verdict = _verdict(await self._connection.run("member_lost", keys, args))
            if verdict is not Verdict.MOVED_ON or not token:
                return verdict

    async def disable(self, at: Millis | None = None) -> Verdict:
        args = (_instant(at), self._keys.events, call_name())
        return _verdict(await self._connection.run("disable", (self._keys.round,), args))

    async def enable(self) -> Verdict:
        args = (self._keys.events, call_name())
        return _verdict(await self._connection.run("enable", (self._keys.round,), args))

    async def restart(self, job: JobRecord, at: Millis | None = None) -> Verdict:
        args: list[Argument] = [_instant(at), self._keys.events, job.instance]
        for name, value in records.job_fields(job).items():
            args += (name, value)
        keys = (self._keys.round, self._keys.successor)
        return _verdict(await self._connection.run("restart", keys, args))

    async def counts(self, ref: RoundRef) -> Counts:
        token = str(ref)
        keys = (self._keys.cohort(token), self._keys.claims(token), self._keys.reports(token))
        commands: list[tuple[Argument, ...]] = [("HMGET", self._keys.round, "ref", "phase")]
        commands += [("HLEN", key) for key in keys]
        current, cohort, claims, reports = await self._connection.together(commands)
        is_collecting = current in ([token.encode(), b"selecting"], [token.encode(), b"reporting"])
        return Counts(cohort, claims if is_collecting else 0, reports)

    async def note_answered(self, ref: RoundRef, answers: Sequence[str]) -> None:
        keys = (self._keys.answered(str(ref)), self._keys.round)
        args: list[Argument] = [str(ref), LIVE_MS, FINISHED_MS]
        args += (records.encode_id(answer) for answer in answers)
        await self._connection.run("note_answered", keys, args)

    async def was_answered(self, ref: RoundRef, answer: str) -> bool:
        key = self._keys.answered(str(ref))
        found = await self._connection.command("SISMEMBER", key, records.encode_id(answer))
        return bool(found)

    async def partials(self, ref: RoundRef) -> Mapping[str, str]:
        found = await self._hash(self._keys.partials(str(ref)))
        return dict(sorted(found.items()))

    async def reported(self, ref: RoundRef) -> Sequence[ReportedUpdate]:
        reports = await self._hash(self._keys.reports(str(ref)))
        cohort = await self._hash(self._keys.cohort(str(ref)))
        try:
            return [
                records.reported_update(device, text, cohort[device])
                for device, text in sorted(reports.items())
            ]
        except (KeyError, ValueError) as exc:
            raise StoreCorrupt(
                f"round {ref}: a counted update's record is damaged: {exc!r}"
            ) from exc

    async def evaluations(self, instance: str) -> Sequence[bytes]:
        key = self._keys.evaluations(instance)
        found: list[bytes] = await self._connection.command("LRANGE", key, 0, -1)
        return found

    async def receipt(self, ref: RoundRef, device: str) -> Receipt | None:
        key = self._keys.reports(str(ref))
        raw = await self._connection.command("HGET", key, records.encode_id(device))
        return records.receipt_of(raw.decode(), ref.number) if raw else None

    async def count_visits(self, ref: RoundRef, counts: Mapping[str, int]) -> None:
        if counts:
            keys = (self._keys.visits(str(ref)), self._keys.round)
            args: list[Argument] = [str(ref), LIVE_MS, FINISHED_MS]
            for name, count in counts.items():
                args += (name, count)
            await self._connection.run("count_visits", keys, args)

    async def visits(self, ref: RoundRef) -> Mapping[str, int]:
        found = await self._hash(self._keys.visits(str(ref)))
        return {name: int(count) for name, count in found.items()}

    async def _hash(self, key: str) -> dict[str, str]:
        return _fields(await self._connection.command("HGETALL", key))


def _fields(raw: Mapping[bytes, bytes] | list[bytes]) -> dict[str, str]:
    return records.text_fields(records.pairs(raw))


def _messages(raw: Mapping[bytes, bytes] | list[bytes]) -> dict[str, bytes]:
    """What a step's hash holds, without the names of calls, in the order of devices' bytes."""
    return {
        records.decode_id(device): message[CALL_BYTES:]
        for device, message in sorted(records.pairs(raw).items())
    }


def _evaluations_kept(batch: ReportBatch) -> int:
    """How many vectors to keep; 0 when the batch has none.  Lua's numbers are exact up to here."""
    kept = (each.evaluation.kept for each in batch.updates if each.evaluation)
    return min(max(kept, default=0), 2**31)


def _instant(at: Millis | None) -> Argument:
    return "" if at is None else at


def _verdict(word: bytes) -> Verdict:
    try:
        return Verdict(word.decode())
    except ValueError as exc:
        raise StoreCorrupt(f"a script answered {word!r}, which is no verdict") from exc
