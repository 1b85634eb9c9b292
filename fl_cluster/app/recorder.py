"""What a finished round leaves outside the store: metrics line, failure event, checkpoint.

All of it is written before anybody can see that the round is over, and writing it a second
time, after a member died in between, changes nothing.  A disk that is full or forbidden
costs the files, with an error in the log, never the round.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

from fl_cluster.app.hooks import ServerHooks, call
from fl_cluster.config.schema import Settings
from fl_cluster.config.shared import SharedParameters
from fl_cluster.rounds.plan import Millis
from fl_cluster.service.finish import EndedRound
from fl_cluster.service.spending import Spent
from fl_cluster.service.visits import Visit, accepted, volume
from fl_cluster.store.checkpoints import CheckpointFolder
from fl_cluster.store.ports import Metrics
from fl_cluster.telemetry.evaluation import evaluate
from fl_cluster.telemetry.files import EventFile, MetricsFile
from fl_cluster.telemetry.summary import (
    ParticipationLevels,
    PrivacySpent,
    RoundSummary,
    Visits,
    event_line,
    failure_line,
    metrics_line,
    weighted_mean,
)

logger = logging.getLogger(__name__)

STATE_WORDS = {"running": "running", "finished": "finish"}


class FileRecorder:
    """Writes the files of one server's settings."""

    def __init__(
        self,
        settings: Settings,
        checkpoints: CheckpointFolder,
        tcp_address: str,
        hooks: ServerHooks,
    ) -> None:
        self._hooks = hooks
        self._job = settings.name
        self._tcp_address = tcp_address
        self._checkpoints = checkpoints
        self._levels, complaint = ParticipationLevels.parse(settings.summary.participation_levels)
        if complaint:
            logger.warning(complaint)
        self._metrics = MetricsFile(Path(settings.summary.metrics_file))
        self._events = EventFile(Path(settings.summary.event_file))
        self._last_started_ms: int | None = None
        self._is_ledger_missed = False

    def prepare(self) -> None:
        """Make what has to exist from the start; StartupError when it cannot."""
        self._events.create()
        self._checkpoints.prepare()

    def saw_start(self, opened_at: Millis | None) -> None:
        """Remember when a round began that the store has lost; None when nobody had joined it."""
        if opened_at is not None:
            self._last_started_ms = opened_at

    def record(self, ended: EndedRound) -> None:
        """Write the round's files."""
        summary = self._summarise(ended)
        self._log(summary, ended)
        checkpoint = self._keep(ended)
        self._keep_charges(ended)
        try:
            self._metrics.append_once(metrics_line(summary))
            if ended.is_event:
                now_ms = time.time_ns() // 1_000_000
                self._events.append(
                    failure_line(self._tcp_address, now_ms, ended.failures_in_a_row)
                )
        except OSError as exc:
            logger.error("round %d is not accounted for: %s", ended.ref.number, exc)

        call(lambda: self._hooks.round_ended(ended, checkpoint))

    def note(self, event: str) -> None:
        """Write an event that is not a round's; a disk that is full costs no more than that."""
        try:
            self._events.append(event_line(self._tcp_address, time.time_ns() // 1_000_000, event))
        except OSError as exc:
            logger.error("%s; the event file does not say so: %s", event, exc)

    def _keep(self, ended: EndedRound) -> Path | None:
        number = ended.ref.number
        if not self._checkpoints.is_used:
            return None
        try:
            return self._checkpoints.write(number, ended.model.arrays(), ended.ended_at)
        except OSError as exc:
            logger.error("round %d has no checkpoint: %s", number, exc)
            return None

    def _keep_charges(self, ended: EndedRound) -> None:
        if ended.spent is None:
            return
        ledger = self._checkpoints.charges()
        if not self._checkpoints.is_used:
            if not self._is_ledger_missed:
                logger.warning(
                    "the privacy ledger is in Redis alone, and lost with it: there is no folder %s",
                    ledger.path.parent,
                )
            self._is_ledger_missed = True
            return
        try:
            ledger.keep(ended.spent.charges)
        except OSError as exc:
            logger.error("round %d: the privacy ledger is not in a file: %s", ended.ref.number, exc)

    def _summarise(self, ended: EndedRound) -> RoundSummary:
        self.saw_start(ended.opened_at)
        quality = ended.metrics or Metrics(
            weighted_mean((u.loss, u.data_size) for u in ended.reported),
            weighted_mean((u.accuracy, u.eval_data_size) for u in ended.reported),
        )
        return RoundSummary(
            job=self._job,
            instance=ended.ref.instance,
            instance_state=STATE_WORDS[ended.job_state],
            round_number=ended.ref.number,
            rounds_total=ended.job.rounds_total,
            is_success=ended.is_success,
            started_ms=self._last_started_ms,
            ended_ms=time.time_ns() // 1_000_000,
            loss=quality.loss,
            accuracy=quality.accuracy,
            unsupervised_score=_score(ended),
            check_ins=_visits(ended, Visit.CHECK_IN, ended.cohort_count),
            reports=_visits(ended, Visit.REPORT, len(ended.reported)),
            model_reads=_visits(ended, Visit.GET_MODEL),
            participation=self._levels.count(u.at - u.checked_in_at for u in ended.reported),
            privacy=None if ended.spent is None else _privacy(ended.spent),
        )

    def _log(self, summary: RoundSummary, ended: EndedRound) -> None:
        accuracy = "" if math.isnan(summary.accuracy) else f", accuracy {summary.accuracy:.4f}"
        outcome = f"abandoned ({ended.reason})" if ended.reason else "committed"
        logger.info(
            "round %d of %d %s: %d updates, loss %.6g%s, model %s",
            summary.round_number,
            summary.rounds_total,
            outcome,
            len(ended.reported),
            summary.loss,
            accuracy,
            ended.model.digest[:16],
        )
        if ended.spent is not None:
            logger.info("round %d of %d: %s", ended.ref.number, summary.rounds_total, ended.spent)
        transfer = _transfer(ended)
        if transfer:
            logger.info("round %d of %d: %s", ended.ref.number, summary.rounds_total, transfer)


def _privacy(spent: Spent) -> PrivacySpent:
    budget = spent.terms.budget
    return PrivacySpent(
        spent.epsilon, spent.terms.delta, None if budget is None else budget.epsilon, spent.rounds
    )


def _transfer(ended: EndedRound) -> str:
    """How much went up and down, as far as it was told by now; empty when nobody took part."""
    visits, plain = ended.visits, ended.model.values.nbytes
    parts = []
    for way, per, carriers, whose in (
        ("up", "update", (Visit.REPORT,), Visit.REPORT),
        ("down", "device", (Visit.CHECK_IN, Visit.GET_MODEL), Visit.CHECK_IN),
    ):
        total = sum(visits.get(volume(visit), 0) for visit in carriers)
        count = visits.get(accepted(whose), 0)
        if count:
            share = total / count / plain
            parts.append(f"{way} {total // count} bytes per {per} ({share:.3g} of the model)")
    return ", ".join(parts)


def _score(ended: EndedRound) -> float:
    parameters = SharedParameters.parse(ended.job.hyper_parameters)
    found = evaluate(parameters.eval_type, ended.evaluations, parameters.eval_window)
    if found.complaint:
        logger.warning("round %d, evaluation: %s", ended.ref.number, found.complaint)
    return found.score


def _visits(ended: EndedRound, kind: Visit, known: int | None = None) -> Visits:
    """The counters of one kind; `known` is how many were accepted, where the store knows it.

    The counters alone lag a little: a member tells the store now and then, and an answer that
    ends a round is counted when the next one may be open already.
    """
    counted = ended.visits.get(accepted(kind), 0)
    refused = ended.visits.get(kind, 0) - counted
    taken = counted if known is None else known
    return Visits(taken + refused, taken)
