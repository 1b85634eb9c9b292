"""Whatever servers answer, a device behaves: it rests, it repeats, it ends."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_cluster.sdk.participation import (
    NOTHING_HELD,
    Admitted,
    Awaiting,
    Closing,
    Counted,
    Event,
    Fault,
    Finished,
    ModelCame,
    NotReady,
    Objected,
    Offering,
    Preparing,
    Refused,
    Rejected,
    Reporting,
    Rest,
    Revealing,
    Rules,
    State,
    Stepped,
    Trained,
    Training,
    Unreachable,
    begin,
    step,
)
from fl_cluster.sdk.retry import Backoff

RULES = Rules(patience_ms=5_000, trust_ms=1_000)
OVER = (Finished, Unreachable, Rejected)
ASKING = (Offering, Preparing, Reporting, Revealing, Awaiting, Closing)

hints = st.none() | st.integers(0, 100_000)
verdicts = st.sampled_from(
    [
        "cohort_full",
        "already_checked_in",
        "stale_round",
        "not_in_cohort",
        "unprepared",
        "duplicate",
        "enough",
        "late",
        "pending",
        "invalid",
        "out_of_range",
        "job_finished",
        "job_disabled",
        "unavailable",
        "a_word_from_the_future",
    ]
)


@st.composite
def happenings(draw: st.DrawFn, state: State, at_ms: int) -> Event:
    """Anything that can happen to a device in this state at this instant."""
    if isinstance(state, Training):
        return Trained()
    fault = st.builds(Fault, st.just("reset"), st.just(at_ms), hints)
    refused = st.builds(
        Refused, verdicts, hints, st.just("no"), st.just(at_ms), st.sampled_from([0, 3])
    )
    numbers = st.integers(1, 4)
    answered: st.SearchStrategy[Event]
    if isinstance(state, Offering):
        answered = st.builds(
            Admitted, numbers, st.just(3), st.integers(0, 3), st.just(at_ms), st.booleans()
        )
    elif isinstance(state, Preparing | Revealing):
        answered = (
            st.builds(Stepped, st.booleans(), st.just(at_ms))
            | st.builds(Objected, st.just("unsafe"), st.just(at_ms))
            | st.builds(NotReady, st.integers(0, 1_000), st.just(at_ms))
        )
    elif isinstance(state, Reporting):
        answered = st.just(Counted(at_ms))
    else:
        answered = st.builds(ModelCame, st.integers(0, 3), st.just(at_ms)) | st.builds(
            NotReady, st.integers(0, 1_000), st.just(at_ms)
        )
    return draw(fault | refused | answered)


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[State, Event, State]]:
    """The steps of one life of at most 30 events, each up to 3 s after the one before."""
    state: State = begin()
    at_ms = 0
    steps: list[tuple[State, Event, State]] = []
    for _ in range(draw(st.integers(0, 30))):
        if isinstance(state, OVER):
            break
        at_ms += draw(st.integers(0, 3_000))
        event = draw(happenings(state, at_ms))
        after = step(state, event, RULES)
        steps.append((state, event, after))
        state = after
    return steps


def request_of(state: State) -> tuple[object, ...]:
    """What the state asks a server, as far as the server can tell."""
    match state:
        case Offering():
            return ("check in",)
        case Preparing():
            return ("prepare", state.number, state.since_ms)
        case Reporting():
            return ("report", state.kept.number)
        case Revealing():
            return ("reveal", state.kept.number, state.since_ms)
        case Awaiting():
            return ("fetch", state.kept.number)
        case Closing():
            return ("fetch last",)
    return ()


@given(lives())
def test_what_was_asked_in_vain_is_asked_again_only_after_a_rest(
    life: list[tuple[State, Event, State]],
) -> None:
    backoff = Backoff()
    for before, event, after in life:
        in_vain = isinstance(event, Fault | Refused | NotReady)
        if in_vain and isinstance(after, ASKING) and request_of(after) == request_of(before):
            assert after.rest is not None
            assert backoff.delay_ms(after.rest, random.Random(0)) >= backoff.least_ms > 0


@given(lives())
def test_a_request_without_a_rest_follows_something_new(
    life: list[tuple[State, Event, State]],
) -> None:
    for _, event, after in life:
        if isinstance(after, ASKING) and after.rest is None:
            progress = isinstance(
                event, Admitted | Stepped | Objected | Trained | Counted | ModelCame
            )
            over = isinstance(event, Refused) and event.verdict in {
                "job_finished",
                "enough",
                "duplicate",
            }
            assert progress or over


@given(lives())
def test_an_update_is_made_only_when_a_check_in_was_accepted(
    life: list[tuple[State, Event, State]],
) -> None:
    for before, event, after in life:
        if isinstance(after, Training) and not after.is_masked:
            assert isinstance(before, Offering)
            assert isinstance(event, Admitted)
            assert after.number == event.number
        elif isinstance(after, Training):
            assert isinstance(before, Preparing)
            assert event == Stepped(is_last=True, at_ms=event.at_ms)  # type: ignore[union-attr]
            assert after.number == before.number


@given(lives())
def test_a_masked_update_is_reported_only_after_its_steps(
    life: list[tuple[State, Event, State]],
) -> None:
    prepared: set[int] = set()
    for before, event, after in life:
        if isinstance(before, Preparing) and isinstance(event, Stepped) and event.is_last:
            prepared.add(before.number)
        if isinstance(after, Reporting) and after.kept.is_masked:
            assert after.kept.number in prepared
        if isinstance(event, Objected):
            assert not isinstance(after, Preparing | Training | Reporting | Revealing)


@given(lives())
def test_a_report_that_got_no_answer_is_repeated_for_the_same_round(
    life: list[tuple[State, Event, State]],
) -> None:
    for before, event, after in life:
        if isinstance(before, Reporting) and isinstance(event, Fault):
            assert isinstance(after, Unreachable) or (
                isinstance(after, Reporting) and after.kept == before.kept
            )


@given(lives())
def test_a_finished_job_ends_every_life_within_two_answers(
    life: list[tuple[State, Event, State]],
) -> None:
    state = life[-1][2] if life else begin()
    if isinstance(state, OVER):
        return
    if isinstance(state, Training):
        state = step(state, Trained(), RULES)
    told = Refused("job_finished", None, "done", at_ms=10**9, rounds_total=3)

    state = step(state, told, RULES)
    if isinstance(state, Closing):
        state = step(state, told, RULES)

    assert isinstance(state, Finished)


@given(lives(), st.sampled_from(["fault", "unavailable"]))
def test_silence_ends_every_life_when_patience_does(
    life: list[tuple[State, Event, State]], kind: str
) -> None:
    state = life[-1][2] if life else begin()
    if isinstance(state, Training):
        state = step(state, Trained(), RULES)
    if isinstance(state, ASKING):
        state = replace(state, trouble_since_ms=None)
    at_ms, asked = 10**6, 0
    while not isinstance(state, OVER):
        event = Fault("refused", at_ms) if kind == "fault" else Refused("unavailable", 1, "", at_ms)
        state = step(state, event, RULES)
        at_ms += 1_000
        asked += 1

    assert asked in {0, 6}
    assert asked == 0 or state == Unreachable(5_000, "refused" if kind == "fault" else "")


@given(lives())
def test_a_device_claims_only_models_that_it_was_given(
    life: list[tuple[State, Event, State]],
) -> None:
    given_rounds = {NOTHING_HELD}
    for _, event, after in life:
        if isinstance(event, Admitted | ModelCame):
            given_rounds.add(event.held_round)
        if not isinstance(after, Unreachable | Rejected):
            assert after.standing.held_round in given_rounds


@given(lives())
def test_a_refusal_that_names_no_time_is_never_simply_repeated(
    life: list[tuple[State, Event, State]],
) -> None:
    for before, event, after in life:
        if isinstance(event, Refused) and event.retry_after_ms is None:
            repeated = isinstance(after, ASKING) and request_of(after) == request_of(before)
            assert not repeated or event.verdict == "unavailable" or isinstance(before, Closing)


@given(st.integers(1, 40), st.integers(0, 10**9), st.integers(0, 2**32))
@settings(max_examples=200)
def test_a_rest_is_at_least_what_the_server_asked_and_never_endless(
    attempt: int, hint_ms: int, seed: int
) -> None:
    backoff = Backoff()
    delay_ms = backoff.delay_ms(Rest(hint_ms, attempt), random.Random(seed))

    assert delay_ms >= max(backoff.least_ms, min(hint_ms, backoff.most_hint_ms))
    assert delay_ms <= 1.25 * min(hint_ms, backoff.most_hint_ms) + backoff.most_ms


@pytest.mark.parametrize("event", [Trained(), Counted(0), ModelCame(1, 0), NotReady(1, 0)])
def test_an_event_that_cannot_happen_is_a_bug_and_says_so(event: Event) -> None:
    with pytest.raises(AssertionError, match="cannot happen"):
        step(begin(), event, RULES)
