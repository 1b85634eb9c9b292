"""Watches the cluster from outside and checks every round that ends.

It reads what Redis holds with commands of its own, the files the servers write, and the diary
of what devices were told.  What it finds wrong is a `Violation`, which ends the run.

1. Who was told that its update is counted is in the counted set of that round, once.
2. The model that ends a round is the reference of exactly that set, byte for byte.
3. Round numbers grow by one; no round lasts longer than its window and 2 s.
4. What Redis keeps does not grow with the rounds.
Not here: the memory of processes (memory.py), which only the end of a run can judge.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import redis.asyncio as redis_asyncio
from redis import exceptions

from fl_cluster.store.model_files import read_model
from harness import job
from harness.checks import (
    Counted,
    Finished,
    Violation,
    again_of,
    attempt_of,
    check_model,
    check_positions,
    check_told,
    check_weights,
    counted_set,
    next_of,
    number_of,
    stored_weights,
)
from harness.diary import DiaryReader, Line, Word
from harness.reference import Expected, expected, scale_of

GRACE_MS = 2_000
GAP_S = 0.5
"""Looks that are further apart than this were kept from Redis by a fault."""

VOID_AFTER_LOSS = 5
"""How many devices may hear late of an attempt that was lost with Redis."""

KEPT_ROUNDS = 50
"""How many rounds back a device may still be told about."""

FINISHED_TTL_MS = 15 * 60 * 1000
PREFIX = "fl:{" + job.NAME + "}:"
AWAY = (exceptions.RedisError, OSError)


@dataclass(slots=True)
class Tally:
    """What a run amounts to."""

    rounds: int = 0
    abandoned: int = 0
    acknowledged: int = 0
    lost: int = 0
    twice: int = 0
    stuck: int = 0
    counted: int = 0
    round_ms: list[int] = field(default_factory=list)
    finish_ms: list[int] = field(default_factory=list)
    words: Counter[str] = field(default_factory=Counter)
    stories: list[str] = field(default_factory=list)
    """One per abandoned round."""

    def slowest(self) -> str:
        """How long rounds took, for a report."""
        if not self.round_ms:
            return "no rounds"
        finish = max(self.finish_ms, default=0)
        return (
            f"rounds took {statistics.median(self.round_ms) / 1000:.1f} s,"
            f" the longest {max(self.round_ms) / 1000:.1f} s;"
            f" from goal to model at most {finish / 1000:.1f} s"
        )


class Witness:
    """Looks at one job; `look` is to be called some times a second."""

    def __init__(self, port: int, folder: Path, dimensions: job.Dimensions, seed: int) -> None:
        self._redis = redis_asyncio.Redis(port=port, socket_timeout=2.0, decode_responses=True)
        self._blobs = redis_asyncio.Redis(port=port, socket_timeout=2.0)
        self._folder = folder
        self._dimensions = dimensions
        self._diary = DiaryReader(folder / "diary.jsonl")
        self._metrics = MetricsTail(folder / "metrics.json")
        self._base = job.initial_weights(seed)
        self._finished: dict[int, Finished] = {}
        self._told: dict[int, list[Line]] = defaultdict(list)
        self._last_look_s: float | None = None
        self._excused_ms = 0
        self._excused_at_ref = 0
        self._first_seen_ms = 0
        self.fields: dict[str, str] = {}
        """The current round as last seen."""
        self.homes: dict[str, str] = {}
        """Device -> digest of the model it went home with."""
        self.claims: dict[str, str] = {}
        self.counts = (0, 0)
        """How many devices are in the current round's cohort, and how many are counted."""
        self.ref = ""
        self.tally = Tally()
        self.loss_is_expected = False
        """Redis may come back empty."""
        self._void_left = 0
        self._forgiven: set[str] = set()

    async def close(self) -> None:
        """Give the connections back."""
        await self._redis.aclose()
        await self._blobs.aclose()

    @property
    def number(self) -> int:
        """The current round; 0 before the first look."""
        return number_of(self.ref)

    @property
    def digest(self) -> str:
        """Of the newest model."""
        return job.digest(self._base)

    def forgive(self, ref: str) -> None:
        """Redis forgets a part of this round: what devices were told of it may be wrong."""
        self._forgiven.add(ref)

    def excuse(self, seconds: float) -> None:
        """A fault kept the whole cluster from working for so long."""
        self._excused_ms += int(seconds * 1000)

    async def look(self, now_s: float) -> bool:
        """See what is new, and check it; False when Redis does not answer."""
        try:
            async with self._redis.pipeline(transaction=True) as together:
                together.hgetall(PREFIX + "round").hgetall(PREFIX + "models").time()
                fields, models, time = await together.execute()
            await self._count(fields.get("ref", ""))
            gap_s = 0.0 if self._last_look_s is None else now_s - self._last_look_s
            self.excuse(gap_s if gap_s > GAP_S else 0.0)
            self._last_look_s = now_s
            if fields:
                await self._see(fields, models, time[0] * 1000 + time[1] // 1000)
            elif self.ref and not self.loss_is_expected:
                raise Violation("nothing is lost", f"the round {self.ref} is gone from Redis")
        except AWAY:
            return False
        self._listen()
        return True

    async def _count(self, ref: str) -> None:
        """How full the round is, for whoever has to find out why it does not move."""
        key = f"{PREFIX}round:{ref}:"
        async with self._redis.pipeline(transaction=True) as together:
            together.hgetall(key + "claims").hlen(key + "cohort").hlen(key + "reports")
            self.claims, *counts = await together.execute()
        self.counts = (counts[0], counts[1])

    def story(self) -> str:
        """The current round in a few words."""
        holders = Counter(text.rpartition(" ")[0] for text in self.claims.values())
        claims = ", ".join(f"{count} by {member}" for member, count in holders.items())
        cohort, reports = self.counts
        return (
            f"round {self.ref} {self.fields.get('phase')}: {cohort} admitted, {reports} counted,"
            f" claims: {claims or 'none'}"
        )

    async def _see(self, fields: dict[str, str], models: dict[str, str], now_ms: int) -> None:
        ref = fields["ref"]
        if not self.ref:
            await self._begin(ref)
        elif self.loss_is_expected:
            seen, known = ((number_of(r), attempt_of(r)) for r in (ref, self.ref))
            if seen <= known:
                return  # what Redis came back with, if anything, is to be replaced
            await self._begin_again(ref, models)
        while number_of(self.ref) < number_of(ref):
            await self._verify(self.ref, models)
            self._note_times(fields, now_ms)
            self.ref = next_of(self.ref)
            self._excused_at_ref, self._first_seen_ms = self._excused_ms, now_ms
        if ref != self.ref:
            raise Violation("rounds grow by one", f"after {self.ref} came {ref}")
        self.fields = fields
        self._check_time(fields, now_ms)

    async def _begin(self, ref: str) -> None:
        if number_of(ref) != 1:
            raise Violation("rounds grow by one", f"the first round seen is {ref}")
        self.ref = ref

    async def _begin_again(self, ref: str, models: Mapping[str, str]) -> None:
        """Redis forgot the round: it is given up in a new attempt, with the model it had."""
        number = number_of(self.ref)
        if number_of(ref) - number not in (0, 1):
            raise Violation("finished rounds survive", f"{self.ref} is followed by {ref}")
        record = json.loads(models[str(number - 1)])
        if record["sha256"] != job.digest(self._base):
            raise Violation("finished rounds survive", f"{ref} starts from another model")
        self._listen()
        void = self._told.pop(number, [])
        self.tally.acknowledged -= sum(line.word is Word.ACKNOWLEDGED for line in void)
        self.ref, self.loss_is_expected = again_of(self.ref), False
        self._void_left = VOID_AFTER_LOSS

    def _note_times(self, fields: Mapping[str, str], now_ms: int) -> None:
        """How long the round took that was current at the last look."""
        before = self.fields
        if before.get("ref") == self.ref and before.get("opened_at"):
            self.tally.round_ms.append(now_ms - int(before["opened_at"]))
        if before.get("ref") == self.ref and before.get("since"):
            self.tally.finish_ms.append(now_ms - int(before["since"]))

    def _check_time(self, fields: Mapping[str, str], now_ms: int) -> None:
        """Invariant 3, second half."""
        window, lease = self._dimensions.round_window_ms, self._dimensions.lease_ms
        if fields["phase"] == "closed":
            return
        until = int(fields["opened_at"] or self._first_seen_ms or now_ms) + window
        if fields["since"]:
            until = max(until, int(fields["since"]) + lease)
        until += GRACE_MS + self._excused_ms - self._excused_at_ref
        if now_ms > until:
            self.tally.stuck += 1
            raise Violation("no round is stuck", f"{now_ms - until} ms late: {self.story()}")

    # -- one finished round --------------------------------------------------------------

    async def _verify(self, ref: str, models: Mapping[str, str]) -> None:
        number = number_of(ref)
        keys = (f"{PREFIX}round:{ref}:{part}" for part in ("reports", "partials", "cohort"))
        async with self._redis.pipeline(transaction=True) as together:
            for key in keys:
                together.hgetall(key)
            reports, partials, cohort = await together.execute()
        text = models.get(str(number))
        if text is None:
            raise Violation("rounds grow by one", f"round {ref} ended and has no model")
        record = json.loads(text)
        counted = counted_set(reports)
        check_positions(ref, counted)
        for device in counted:
            if cohort.get(device, "").split(" ")[0] != str(job.data_size(device)):
                raise Violation("counted once", f"round {ref}: {device} counts, not admitted")
        if len(counted) < int(self.fields["report_goal"]):
            self._mourn(ref, cohort, counted)
        is_committed = len(counted) >= int(self.fields["report_goal"])
        values = self._base
        if is_committed:
            due = expected(number, self._base, counted, self._dimensions.cohort)
            self._check_sums(ref, stored_weights(partials), due)
            values = due.values
        await self._check_stored(ref, record, values)
        self._check_files(ref, values, is_committed=is_committed)
        self._base = values
        self._note(number, Finished(ref, counted, record["sha256"], is_committed))

    def _mourn(self, ref: str, cohort: Mapping[str, str], counted: Mapping[str, Counted]) -> None:
        """Remember how an abandoned round went; legacy devices cannot come back into a round."""
        missing = cohort.keys() - counted.keys()
        raw = sum(map(job.is_raw, missing))
        self.tally.stories.append(
            f"round {ref} abandoned: {len(cohort)} admitted, {len(counted)} counted,"
            f" missing {raw} raw and {len(missing) - raw} of the SDK"
        )

    def _check_sums(self, ref: str, stored: Sequence[int], due: Expected) -> None:
        try:
            check_weights(ref, stored, due)
        except Violation as found:
            self.tally.twice += found.invariant == "counted twice"
            self.tally.lost += found.invariant != "counted twice"
            raise

    async def _check_stored(self, ref: str, record: Mapping[str, Any], due: job.Floats) -> None:
        blob = await self._blobs.get(f"fl:blob:{{{job.NAME}:{record['blob']}}}")
        if blob is None:
            raise Violation("same bits", f"round {ref}: its model's blob {record['blob']} is gone")
        check_model(ref, np.frombuffer(blob, np.float32), due)
        if record["sha256"] != job.digest(due):
            raise Violation("same bits", f"round {ref}: its record has {record['sha256']}")
        if tuple(record["exponents"]) != scale_of(due, self._dimensions.cohort):
            raise Violation("same bits", f"round {ref}: its scale is {record['exponents']}")

    def _check_files(self, ref: str, due: job.Floats, *, is_committed: bool) -> None:
        """The round's metrics line and checkpoint were there before the round was over."""
        number = number_of(ref)
        if self._dimensions.metrics_file == self._metrics.path.name:
            lines = self._metrics.lines()
            results = [
                line["iterationResult"] for line in lines if line["currentIteration"] == number
            ]
            is_retried = attempt_of(ref) > 1 and len(results) == 1
            if results != ["success" if is_committed else "fail"] and not is_retried:
                raise Violation("accounted for once", f"round {ref}: metrics say {results}")
        pattern = f"{job.NAME}_recovery_iteration_{number}_*.ckpt"
        found = sorted((self._folder / "checkpoints").glob(pattern))
        if len(found) != 1 and not (found and attempt_of(ref) > 1):
            names = [path.name for path in found]
            raise Violation("accounted for once", f"round {ref}: checkpoints are {names}")
        check_model(f"{ref}, checkpoint", job.flat(read_model(found[-1])), due)

    def _note(self, number: int, finished: Finished) -> None:
        self.tally.rounds += 1
        self.tally.abandoned += not finished.is_committed
        self.tally.counted += len(finished.counted) if finished.is_committed else 0
        self._finished[number] = finished
        self._finished.pop(number - KEPT_ROUNDS, None)
        for line in self._told.pop(number, []):
            self._check_told(line, finished)

    # -- what devices were told ----------------------------------------------------------

    def _listen(self) -> None:
        for line in self._diary.read():
            self.tally.words[line.word] += 1
            if line.word is Word.FAILED:
                raise Violation("no device fails", f"{line.device}: {line.text}")
            if line.word is Word.WENT_HOME:
                self.homes[line.device] = line.text
            is_told = line.word is Word.ACKNOWLEDGED or (
                line.word is Word.CONCLUDED and line.text == "counted"
            )
            if not is_told:
                continue
            self.tally.acknowledged += line.word is Word.ACKNOWLEDGED
            finished = self._finished.get(line.number)
            if finished is not None:
                self._check_told(line, finished)
            else:
                self._told[line.number].append(line)

    def _check_told(self, line: Line, finished: Finished) -> None:
        try:
            check_told(finished.ref, line, finished.counted)
        except Violation as found:
            is_late = attempt_of(finished.ref) > 1 and self._void_left > 0
            if is_late or finished.ref in self._forgiven:
                # Said of the attempt that was lost, and heard late; or forgotten by Redis.
                self._void_left -= is_late
                self.tally.acknowledged -= line.word is Word.ACKNOWLEDGED
                return
            self.tally.lost += found.invariant == "lost"
            raise

    async def conclude(self) -> None:
        """Check what was told about the round that nobody finished any more."""
        self._listen()
        reports = await self._redis.hgetall(f"{PREFIX}round:{self.ref}:reports")
        counted = counted_set(reports)
        for number, lines in self._told.items():
            for line in lines:
                if number != self.number:
                    raise Violation("lost", f"{line} is about a round that does not exist")
                check_told(self.ref, line, counted)

    async def audit(self) -> None:
        """Invariant 4: what is kept of finished rounds is to go, and models only while kept."""
        records = await self._redis.hgetall(PREFIX + "models")
        kept = {json.loads(text)["blob"] for text in records.values()}
        async for key in self._redis.scan_iter(match=PREFIX + "round:*", count=1000):
            ref = key.removeprefix(PREFIX + "round:").rpartition(":")[0]
            left_ms = await self._redis.pttl(key)
            if ref != self.ref and not 0 <= left_ms <= FINISHED_TTL_MS:
                raise Violation("nothing piles up", f"{key} of {self.ref} stays for {left_ms} ms")
        async for key in self._redis.scan_iter(match=f"fl:blob:{{{job.NAME}:*", count=1000):
            name = key.removeprefix(f"fl:blob:{{{job.NAME}:").rstrip("}")
            if name not in kept and await self._redis.pttl(key) == -1:
                raise Violation("nothing piles up", f"blob {name} is no kept model and stays")


@dataclass
class MetricsTail:
    """The metrics file, parsed once per line."""

    path: Path
    offset: int = 0
    parsed: list[dict[str, Any]] = field(default_factory=list)

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self.offset)
                whole, _, _ = file.read().rpartition(b"\n")
            self.offset += len(whole) + 1 if whole else 0
            self.parsed += [json.loads(text) for text in whole.split(b"\n") if text]
        return self.parsed
