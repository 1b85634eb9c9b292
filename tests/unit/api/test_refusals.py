"""The tables from verdict to answer: total, truthful about when to come back, and in old words."""

from __future__ import annotations

import string
from typing import Any

import pytest

from fl_cluster.api import refusals
from fl_cluster.api.refusals import Refusal, Retry, Word
from fl_cluster.rounds.events import Verdict
from fl_cluster.wire.messages import ResponseCode

TABLES = {"CHECK_IN": refusals.CHECK_IN, "REPORT": refusals.REPORT}

SINGLE = {name: value for name, value in vars(refusals).items() if isinstance(value, Refusal)}
ALL = {
    **SINGLE,
    **{f"{name}.{word}": each for name, table in TABLES.items() for word, each in table.items()},
}

FOR_WORKERS = [
    value
    for name, value in SINGLE.items()
    if name.startswith(("PULL_", "PUSH_", "METRICS_", "NOT_AGGREGATED"))
]

PHRASES = (
    "The cluster is in safemode.",
    "The server's training job is disabled or finished.",
    "The server's training job is not ready.",
)
"""Existing devices search every answer for these."""


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_but_accepted_has_an_answer(name: str, verdict: Verdict) -> None:
    assert (verdict in TABLES[name]) == (verdict is not Verdict.ACCEPTED)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("verdict", Verdict)
def test_an_answer_has_the_word_of_its_verdict_or_says_only_not_now(
    name: str, verdict: Verdict
) -> None:
    refusal = TABLES[name].get(verdict)

    if refusal is not None and refusal is not refusals.NOT_NOW:
        # A round that is being finished has a full cohort, as far as a device can tell.
        is_full = (name, verdict) == ("CHECK_IN", Verdict.ENOUGH)
        assert refusal.word == (Verdict.COHORT_FULL if is_full else verdict)


@pytest.fixture(params=ALL)
def refusal(request: Any) -> Refusal:
    return ALL[request.param]


def test_a_status_says_the_same_as_the_word(refusal: Refusal) -> None:
    statuses = {
        Verdict.COHORT_FULL: 429,
        Verdict.ENOUGH: 429,
        Verdict.ALREADY_CHECKED_IN: 409,
        Verdict.NOT_IN_COHORT: 409,
        Verdict.STALE_ROUND: 409,
        Verdict.DUPLICATE: 409,
        Verdict.UNPREPARED: 409,
        Word.NOT_READY: 202,
        Verdict.NOT_AGGREGATED: 202,
        Word.INVALID: 400,
        Word.JOB_FINISHED: 410,
        Word.JOB_DISABLED: 503,
        Word.UNAVAILABLE: 503,
    }

    assert refusal.status == statuses[refusal.word]  # type: ignore[index]


def test_whoever_may_come_back_is_told_when_and_nobody_else_is(refusal: Refusal) -> None:
    may_return = refusal.status in (202, 409, 429, 503)

    assert (refusal.retry is not Retry.NEVER) == may_return


def test_a_code_is_one_that_existing_devices_know(refusal: Refusal) -> None:
    """What waits says 201; what is 300 makes a device come back at the time given."""
    if refusal.code is ResponseCode.SucNotReady:
        assert refusal is refusals.MODEL_NOT_READY or refusal in FOR_WORKERS
    assert refusal.code in (
        ResponseCode.SucNotReady,
        ResponseCode.OutOfTime,
        ResponseCode.RequestError,
    )


def test_what_devices_search_for_is_whole_and_only_in_plain_text(refusal: Refusal) -> None:
    if refusal.is_plain and refusal.word != Word.INVALID:
        assert refusal.text in PHRASES
    else:
        assert not any(phrase in refusal.text for phrase in PHRASES)


def test_a_text_is_filled_from_what_every_caller_has(refusal: Refusal) -> None:
    fields = {name for _, name, _, _ in string.Formatter().parse(refusal.text) if name}

    known = {"device", "number", "current", "time"}
    assert fields <= (known | {"name"} if refusal in FOR_WORKERS else known)
