"""The turns that a device takes, one by one; the laws are in tests/property."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fl_cluster.sdk.participation import (
    Admitted,
    Awaiting,
    Closing,
    Counted,
    Event,
    Fault,
    Finished,
    Kept,
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
    Standing,
    State,
    Stepped,
    Trained,
    Training,
    Unreachable,
    begin,
    step,
)

RULES = Rules(patience_ms=1_000, trust_ms=100)
IN_ROUND_2 = Standing(held_round=1, rounds_total=3)
KEPT = Kept(2, 100)
OFFERING = Offering(standing=IN_ROUND_2)
REPORTING = Reporting(standing=IN_ROUND_2, kept=KEPT)
AWAITING = Awaiting(standing=IN_ROUND_2, kept=KEPT, since_ms=0)

MASKED = Kept(2, 100, is_masked=True)
PREPARING = Preparing(standing=IN_ROUND_2, number=2, since_ms=0)
REVEALING = Revealing(standing=IN_ROUND_2, kept=MASKED, since_ms=0)


def live(state: State, *events: Event) -> State:
    for event in events:
        state = step(state, event, RULES)
    return state


def refused(verdict: str, retry_after_ms: int | None = 50) -> Refused:
    return Refused(verdict, retry_after_ms, "because", at_ms=10)


def test_a_job_of_one_round_is_five_steps() -> None:
    end = live(begin(), Admitted(1, 1, 0, 0), Trained(), Counted(1), ModelCame(1, 2))

    assert end == Finished(Standing(1, 1))


def test_a_masked_round_has_steps_before_and_after_the_report() -> None:
    on, last = Stepped(is_last=False, at_ms=1), Stepped(is_last=True, at_ms=2)
    training = live(begin(), Admitted(1, 1, 0, 0, is_masked=True), on, on, last)

    revealing = live(training, Trained(), Counted(3))
    end = live(revealing, on, last, ModelCame(1, 4))

    assert training == Training(Standing(0, 1), 1, is_masked=True)
    assert isinstance(revealing, Revealing)
    assert end == Finished(Standing(1, 1))


@pytest.mark.parametrize("verdict", ["stale_round", "unprepared", "enough", "invalid"])
def test_a_device_without_a_place_among_the_masked_waits_for_another_round(verdict: str) -> None:
    assert live(PREPARING, refused(verdict)) == Offering(standing=IN_ROUND_2, rest=Rest(50, 1))


@pytest.mark.parametrize("verdict", ["stale_round", "unprepared", "enough", "duplicate"])
def test_a_counted_device_whose_shares_are_not_needed_waits_for_the_model(verdict: str) -> None:
    awaiting = live(REVEALING, refused(verdict))

    assert awaiting == Awaiting(standing=IN_ROUND_2, kept=MASKED, since_ms=10)


def test_a_step_without_an_answer_is_taken_again() -> None:
    fault = Fault("reset", 5)

    assert live(PREPARING, fault, fault) == Preparing(
        standing=IN_ROUND_2, number=2, since_ms=0, rest=Rest(0, 2), trouble_since_ms=5
    )
    assert live(REVEALING, fault, NotReady(20, 9)) == Revealing(
        standing=IN_ROUND_2, kept=MASKED, since_ms=0, rest=Rest(20, 1)
    )


def test_a_device_that_objects_says_nothing_more_in_the_round() -> None:
    unsafe = Objected("the list of counted devices is empty", 7)

    assert live(PREPARING, unsafe) == Offering(standing=IN_ROUND_2, rest=Rest(5_000, 1))
    assert live(REVEALING, unsafe) == Awaiting(standing=IN_ROUND_2, kept=MASKED, since_ms=7)


def test_others_that_take_long_make_the_device_check_that_it_is_still_known() -> None:
    rest = Rest(20, 1)

    unsure = live(PREPARING, NotReady(20, 99), NotReady(20, 100))
    assert unsure == replace(PREPARING, rest=rest, is_doubting=True)
    assert live(unsure, Stepped(is_last=False, at_ms=120)) == replace(PREPARING, since_ms=120)
    assert live(unsure, refused("unprepared")) == Offering(standing=IN_ROUND_2, rest=Rest(50, 1))
    doubting = live(REVEALING, NotReady(20, 100))
    assert doubting == Offering(standing=IN_ROUND_2, rest=rest, kept=Kept(2, 200, is_masked=True))
    again = live(doubting, Admitted(2, 3, 1, 120, is_masked=True))
    assert live(again, refused("unprepared")) == Offering(standing=IN_ROUND_2, rest=Rest(50, 1))


def test_the_next_round_begins_with_a_new_check_in_at_once() -> None:
    assert live(AWAITING, ModelCame(2, 5)) == Offering(standing=Standing(2, 3))


def test_the_last_round_may_end_with_an_older_model() -> None:
    last = Awaiting(standing=Standing(2, 3), kept=Kept(3, 100), since_ms=0)

    assert live(last, ModelCame(2, 5)) == Finished(Standing(2, 3))


def test_a_full_cohort_is_asked_again_in_the_rhythm_of_the_server() -> None:
    after = live(OFFERING, *[refused("cohort_full", 700)] * 9)

    assert after == Offering(standing=IN_ROUND_2, rest=Rest(700, 1))


def test_a_disabled_job_is_asked_ever_less_often() -> None:
    after = live(OFFERING, *[refused("job_disabled", 200)] * 9)

    assert after == Offering(standing=IN_ROUND_2, rest=Rest(200, 9))


def test_a_report_without_an_answer_is_repeated() -> None:
    after = live(REPORTING, Fault("reset", 5), Fault("reset", 7, retry_after_ms=30))

    assert after == Reporting(standing=IN_ROUND_2, kept=KEPT, rest=Rest(30, 2), trouble_since_ms=5)


@pytest.mark.parametrize("verdict", ["stale_round", "not_in_cohort"])
def test_a_report_to_a_round_that_is_over_leads_to_a_new_check_in(verdict: str) -> None:
    assert live(REPORTING, refused(verdict)) == Offering(standing=IN_ROUND_2, rest=Rest(50, 1))


@pytest.mark.parametrize("verdict", ["enough", "duplicate"])
def test_a_report_that_is_not_needed_leads_to_the_model_of_the_round(verdict: str) -> None:
    assert live(REPORTING, refused(verdict)) == Awaiting(
        standing=IN_ROUND_2, kept=KEPT, since_ms=10
    )


@pytest.mark.parametrize("verdict", ["invalid", "out_of_range", "too_large", "http_404"])
@pytest.mark.parametrize("state", [OFFERING, PREPARING, REPORTING, REVEALING, AWAITING])
def test_a_refusal_for_good_ends_the_participation(state: State, verdict: str) -> None:
    after = live(state, refused(verdict, None))

    assert isinstance(after, Rejected)
    assert (after.verdict, after.reason) == (verdict, "because")


@pytest.mark.parametrize("state", [OFFERING, PREPARING, REPORTING, REVEALING, AWAITING])
def test_a_finished_job_gives_its_last_model_first(state: State) -> None:
    closing = live(state, refused("job_finished", None))

    assert closing == Closing(standing=IN_ROUND_2)
    assert live(closing, ModelCame(3, 20)) == Finished(Standing(3, 3))


def test_a_finished_job_has_nothing_more_for_who_holds_its_last_model() -> None:
    holder = Offering(standing=Standing(3, 3))

    assert live(holder, refused("job_finished", None)) == Finished(Standing(3, 3))


def test_a_newcomer_to_a_finished_job_learns_how_many_rounds_it_had() -> None:
    told = Refused("job_finished", None, "", at_ms=0, rounds_total=3)

    assert live(begin(), told) == Closing(standing=Standing(-1, 3))


def test_a_model_that_is_not_ready_is_waited_for() -> None:
    assert live(AWAITING, NotReady(20, 99)) == Awaiting(
        standing=IN_ROUND_2, kept=KEPT, since_ms=0, rest=Rest(20, 1)
    )


def test_a_model_that_takes_long_makes_the_device_check_that_it_is_still_known() -> None:
    doubting = live(AWAITING, NotReady(20, 100))

    assert doubting == Offering(standing=IN_ROUND_2, rest=Rest(20, 1), kept=Kept(2, 200))


def test_a_round_begun_again_gets_the_same_update_again() -> None:
    doubting = live(AWAITING, NotReady(20, 100))

    again = live(doubting, Admitted(2, 3, 1, 120))

    assert again == Reporting(standing=IN_ROUND_2, kept=Kept(2, 200))
    assert live(again, Counted(130)) == Awaiting(
        standing=IN_ROUND_2, kept=Kept(2, 200), since_ms=130
    )


@pytest.mark.parametrize("admitted", [Admitted(3, 3, 2, 120), Admitted(2, 3, 0, 120)])
def test_another_round_or_another_model_needs_another_update(admitted: Admitted) -> None:
    doubting = live(AWAITING, NotReady(20, 100))

    assert live(doubting, admitted) == Training(Standing(admitted.held_round, 3), admitted.number)


def test_an_answer_of_any_kind_renews_patience() -> None:
    after = live(
        OFFERING, Fault("reset", 0), Fault("reset", 999), refused("cohort_full"), Fault("x", 1_500)
    )

    assert isinstance(after, Offering)
    assert after.trouble_since_ms == 1_500


def test_silence_for_as_long_as_patience_ends_it() -> None:
    after = live(OFFERING, Fault("reset", 0), Fault("refused", 1_000))

    assert after == Unreachable(1_000, "refused")


def test_a_cluster_that_cannot_work_is_as_good_as_silent() -> None:
    after = live(OFFERING, Fault("reset", 0), Refused("unavailable", 10, "no Redis", at_ms=1_000))

    assert after == Unreachable(1_000, "no Redis")


def test_nothing_happens_after_the_end() -> None:
    with pytest.raises(AssertionError, match="cannot happen"):
        live(Finished(IN_ROUND_2), Trained())
