"""What a finished round leaves behind in the files operators keep: lines of text.

The lines are, key by key and digit by digit, those of the original, so that programs which
read its files read ours.  Numbers that are single precision are printed with the fewest
digits that give the same single back.  Nothing here opens a file or reads a clock.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEGATIVE_TIME = 2**64 - 1
"""What the original's unsigned subtraction makes of a round that ends before it began."""

LONGEST_MINUTES = 2_880
"""The greatest limit of participation: two days."""

SINGLE_DIGITS = 9
"""Decimal digits that tell any two single-precision numbers apart."""


@dataclass(frozen=True, slots=True)
class Visits:
    """How often devices came with one kind of request, and how often they were accepted."""

    total: int = 0
    accepted: int = 0

    @property
    def rejected(self) -> int:
        """The rest."""
        return self.total - self.accepted


@dataclass(frozen=True, slots=True)
class PrivacySpent:
    """What the noise of a job has cost so far."""

    epsilon: float
    delta: float
    budget: float | None
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSummary:
    """One round as it is accounted for; times are milliseconds since the epoch."""

    job: str
    instance: str
    instance_state: str
    """running | disable | finish: the state before this round ended."""
    round_number: int
    rounds_total: int
    is_success: bool
    started_ms: int | None
    """When the first device checked in, of the last round that had one; None when none did."""
    ended_ms: int
    loss: float
    accuracy: float
    unsupervised_score: float = 0.0
    check_ins: Visits
    reports: Visits
    model_reads: Visits
    participation: tuple[int, int, int]
    """Devices by how long they took, cumulative, as `ParticipationLevels.count` gives them."""
    privacy: PrivacySpent | None = None
    """None without noise: the line is then, key by key, the original's."""


def local_time(at_ms: int, zone: tzinfo | None = None) -> str:
    """`YYYY-mm-dd HH:MM:SS.mmm` in `zone`, or where this machine is."""
    moment = (EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{at_ms % 1000:03d}"


def shortest_single(number: float) -> float | None:
    """The double that prints as the single nearest to `number`; None when that is no number.

    Printed, 6.9 stays 6.9 and does not become 6.900000095367432.
    """
    single = _single(number)
    if not math.isfinite(single):
        return None
    for digits in range(1, SINGLE_DIGITS):
        candidate = float(f"{single:.{digits}g}")
        if _single(candidate) == single:
            return candidate
    return float(f"{single:.{SINGLE_DIGITS}g}")


def _single(number: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        return math.copysign(math.inf, number)


def metrics_line(summary: RoundSummary, zone: tzinfo | None = None) -> str:
    """The line of the metrics file for one round, without its newline."""
    started = summary.started_ms
    took_ms = summary.ended_ms - (started or 0)
    record = {
        "clientVisitedInfo": _visited(summary),
        "currentIteration": summary.round_number,
        "endTime": local_time(summary.ended_ms, zone),
        "flIterationNum": summary.rounds_total,
        "flName": summary.job,
        "instanceName": summary.instance,
        "instanceStatus": summary.instance_state,
        "iterationExecutionTime": took_ms if took_ms >= 0 else NEGATIVE_TIME,
        "iterationResult": "success" if summary.is_success else "fail",
        "metricsAuc": shortest_single(summary.accuracy),
        "metricsLoss": shortest_single(summary.loss),
        "startTime": "" if started is None else local_time(started, zone),
        "unsupervisedEval": shortest_single(summary.unsupervised_score),
    }
    if summary.privacy is not None:
        record |= _privacy(summary.privacy)
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _privacy(spent: PrivacySpent) -> dict[str, float | None]:
    return {
        "privacyDelta": spent.delta,
        "privacyEpsilon": spent.epsilon if math.isfinite(spent.epsilon) else None,
        "privacyEpsilonBudget": spent.budget,
        "privacyRounds": spent.rounds,
    }


def _visited(summary: RoundSummary) -> dict[str, int]:
    counters = {}
    for name, visits in (
        ("startFLJob", summary.check_ins),
        ("updateModel", summary.reports),
        ("getModel", summary.model_reads),
    ):
        counters[f"{name}TotalClientNum"] = visits.total
        counters[f"{name}AcceptClientNum"] = visits.accepted
        counters[f"{name}RejectClientNum"] = visits.rejected
    for level, count in enumerate(summary.participation, start=1):
        counters[f"participationTimeLevel{level}"] = count
    return counters


def line_identity(line: str) -> tuple[str, int] | None:
    """(instance, round number) of a metrics line; None when it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    instance, number = record.get("instanceName"), record.get("currentIteration")
    if isinstance(instance, str) and isinstance(number, int):
        return instance, number
    return None


def failure_line(tcp_address: str, at_ms: int, failures: int, zone: tzinfo | None = None) -> str:
    """The line of the event file for `failures` failed rounds in a row, without its newline."""
    event = f"Iteration failed {failures} times continuously"
    return event_line(tcp_address, at_ms, event, zone)


def event_line(tcp_address: str, at_ms: int, event: str, zone: tzinfo | None = None) -> str:
    """A line of the event file, without its newline; `event` says what happened, and no `;`."""
    return (
        f"nodeRole:SERVER,{tcp_address},currentTime:{local_time(at_ms, zone)},"
        f"event:{event.replace(';', ',')};"
    )


def weighted_mean(values: Iterable[tuple[float, float]]) -> float:
    """The mean of (value, weight) pairs, whatever their order; 0 when nothing has weight."""
    pairs = [(value, weight) for value, weight in values if weight > 0]
    if not pairs:
        return 0.0
    products = [value * weight for value, weight in pairs]
    if not all(math.isfinite(product) for product in products):
        return math.nan
    return math.fsum(products) / math.fsum(weight for _, weight in pairs)


@dataclass(frozen=True, slots=True)
class ParticipationLevels:
    """Two limits by which devices are sorted into those that were quick, slower, and all."""

    first_minutes: int = 5
    second_minutes: int = 15

    @classmethod
    def parse(cls, text: str) -> tuple[ParticipationLevels, str | None]:
        """The levels in `text`, or the default ones and a sentence about what is wrong."""
        parts = [part.strip() for part in text.split(",")]
        if len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts):
            first, second = (int(part[:5]) for part in parts)
            if 1 <= first < second <= LONGEST_MINUTES:
                return cls(first, second), None
        default = cls()
        return default, (
            f"summary.participation_time_level is {text!r}; expected two rising numbers of "
            f"minutes between 1 and {LONGEST_MINUTES}, such as '5,15', which is used instead"
        )

    def count(self, times_ms: Iterable[int]) -> tuple[int, int, int]:
        """How many of `times_ms` are within the first limit, the second, and any.

        A time that is not positive comes from a wrong clock and is not counted at all.
        """
        limits = (self.first_minutes * 60_000, self.second_minutes * 60_000)
        counted = [time for time in times_ms if time > 0]
        within = [sum(time < limit for time in counted) for limit in limits]
        return within[0], within[1], len(counted)
