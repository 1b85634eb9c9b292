"""What the user sees while a job runs."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np

from fl_cluster.app.demo_board import ERASE_LINE, RoundBoard
from fl_cluster.sdk import RoundOutcome

MODEL = {"w": np.zeros(1, np.float32)}
OUTCOME = RoundOutcome(
    round_number=1,
    rounds_total=2,
    counted=True,
    position=1,
    samples=10,
    loss=1.0,
    accuracy=0.0,
    metrics={},
    seconds=0.5,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(board_out: io.StringIO) -> list[list[str]]:
    return [line.split() for line in board_out.getvalue().splitlines()[1:]]


def test_a_round_is_one_line_once_all_devices_have_told() -> None:
    out = io.StringIO()
    board = RoundBoard(out, 2, devices=2, judge=lambda _: 0.75)

    board.note(OUTCOME, MODEL)
    before = lines_of(out)
    board.note(replace(OUTCOME, samples=30, loss=2.0, seconds=0.25), MODEL)

    assert before == []
    assert lines_of(out) == [["1/2", "2", "1.7500", "0.7500", "0.50"]]


def test_a_device_that_was_not_counted_is_not_counted() -> None:
    out = io.StringIO()
    board = RoundBoard(out, 2, devices=2, judge=lambda _: 0.75)

    board.note(OUTCOME, MODEL)
    board.note(replace(OUTCOME, counted=False), MODEL)

    assert lines_of(out)[0][1] == "1"


def test_a_round_that_a_device_missed_is_shown_when_the_next_one_ends() -> None:
    out = io.StringIO()
    board = RoundBoard(out, 2, devices=2, judge=lambda _: 0.75)

    board.note(OUTCOME, MODEL)
    board.note(replace(OUTCOME, round_number=2), MODEL)
    board.note(OUTCOME, MODEL)
    board.close()

    assert [line[:2] for line in lines_of(out)] == [["1/2", "1"], ["2/2", "1"]]


def test_the_model_is_judged_once_per_round() -> None:
    judged: list[object] = []
    board = RoundBoard(
        io.StringIO(), 2, devices=2, judge=lambda model: len(judged.append(model) or [])
    )

    for number in (1, 1, 2, 2):
        board.note(replace(OUTCOME, round_number=number), MODEL)

    assert judged == [MODEL, MODEL]


def test_a_file_gets_no_control_characters() -> None:
    out = io.StringIO()
    board = RoundBoard(out, 1, devices=1, judge=lambda _: 0.75)

    board.note(OUTCOME, MODEL)
    board.close()

    assert out.getvalue().isascii()
    assert all(character.isprintable() or character == "\n" for character in out.getvalue())


def test_a_terminal_gets_a_bar_below_the_lines_that_goes_away_at_the_end() -> None:
    out = Terminal()
    board = RoundBoard(out, 2, devices=1, judge=lambda _: 0.75)
    board.note(OUTCOME, MODEL)

    assert out.getvalue().endswith(f"{ERASE_LINE}  [{'#' * 15}{'.' * 15}] 1 of 2 rounds")

    board.close()

    assert out.getvalue().endswith(ERASE_LINE)
