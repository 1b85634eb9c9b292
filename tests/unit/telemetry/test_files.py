"""Files that only grow: complete lines, each of them once, whoever writes them."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from fl_cluster.errors import StartupError
from fl_cluster.telemetry.files import TAIL_BYTES, EventFile, LineFile, MetricsFile


def a_line(number: int, instance: str = "i_1", **more) -> str:
    return json.dumps({"instanceName": instance, "currentIteration": number, **more})


def test_a_line_is_appended_with_its_newline(tmp_path):
    file = LineFile(tmp_path / "a.txt")

    file.append("one")
    file.append("zwei ü")

    assert file.path.read_text("utf-8") == "one\nzwei ü\n"


def test_missing_folders_are_made_for_the_group_too(tmp_path):
    old = os.umask(0)
    try:
        LineFile(tmp_path / "a" / "b" / "c.txt").append("x")
    finally:
        os.umask(old)

    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o775


def test_a_relative_path_without_a_folder_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    LineFile("metrics.json").append("x")

    assert (tmp_path / "metrics.json").read_text("utf-8") == "x\n"


def test_what_is_in_the_file_already_stays(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before\n", "utf-8")

    LineFile(path).append("after")

    assert path.read_text("utf-8") == "before\nafter\n"


def test_a_line_that_was_cut_short_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("cut sho", "utf-8")

    LineFile(path).append("after")

    assert path.read_text("utf-8") == "cut sho\nafter\n"


def test_a_file_that_was_moved_away_is_made_again(tmp_path):
    file = LineFile(tmp_path / "a.txt")
    file.append("one")
    file.path.rename(tmp_path / "a.txt.1")

    file.append("two")

    assert file.path.read_text("utf-8") == "two\n"


def test_a_path_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    (tmp_path / "taken").write_text("", "utf-8")

    with pytest.raises(OSError, match="taken"):
        LineFile(tmp_path / "taken" / "a.txt").append("x")
    with pytest.raises(IsADirectoryError):
        LineFile(tmp_path).append("x")


def test_no_descriptor_is_left_open(tmp_path):
    file = MetricsFile(tmp_path / "m.json")
    before = len(list(Path("/proc/self/fd").iterdir()))

    for number in range(20):
        file.append_once(a_line(number))
        file.append_once(a_line(number))

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_rounds_line_is_written_once(tmp_path):
    file = MetricsFile(tmp_path / "m.json")

    assert file.append_once(a_line(1, loss=0.5)) is True
    assert file.append_once(a_line(1, loss=0.7)) is False
    assert file.append_once(a_line(2)) is True
    assert file.append_once(a_line(1)) is False
    assert file.append_once(a_line(1, instance="i_2")) is True

    lines = [json.loads(line) for line in file.path.read_text("utf-8").splitlines()]
    assert [(line["instanceName"], line["currentIteration"]) for line in lines] == [
        ("i_1", 1),
        ("i_1", 2),
        ("i_2", 1),
    ]
    assert lines[0]["loss"] == 0.5


def test_lines_that_are_no_json_are_passed_over(tmp_path):
    path = tmp_path / "m.json"
    path.write_bytes(b"\xff\xfe nonsense\n{\n\n" + a_line(1).encode() + b"\n[1]\n")
    file = MetricsFile(path)

    assert file.append_once(a_line(1)) is False
    assert file.append_once(a_line(2)) is True


def test_a_line_that_was_cut_short_is_written_again(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(a_line(1)[:20], "utf-8")

    assert MetricsFile(path).append_once(a_line(1)) is True
    assert path.read_text("utf-8").splitlines()[-1] == a_line(1)


def test_only_the_end_of_a_long_file_is_searched(tmp_path):
    path = tmp_path / "m.json"
    long = a_line(1) + "\n" + (a_line(2, filling="x" * 1000) + "\n") * (TAIL_BYTES // 1000 + 5)
    path.write_text(long, "utf-8")
    file = MetricsFile(path)

    assert file.append_once(a_line(2)) is False
    assert file.append_once(a_line(1)) is True


def _write_all(path: str, count: int) -> None:
    file = MetricsFile(path)
    for number in range(count):
        file.append_once(a_line(number))


def test_many_processes_write_each_line_once(tmp_path):
    path = tmp_path / "m.json"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_all, args=(str(path), 30)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(40)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    numbers = [
        json.loads(line)["currentIteration"] for line in path.read_text("utf-8").splitlines()
    ]
    assert sorted(numbers) == list(range(30))


def test_the_event_file_exists_from_the_start(tmp_path):
    file = EventFile(tmp_path / "events" / "e.txt")

    file.create()
    file.create()

    assert file.path.read_bytes() == b""


def test_an_event_file_that_cannot_be_is_told_in_the_originals_words(tmp_path):
    (tmp_path / "taken").write_text("", "utf-8")
    inside = tmp_path / "taken" / "below" / "e.txt"

    with pytest.raises(StartupError, match=f"Failed to create directory for event file {inside}"):
        EventFile(inside).create()
    with pytest.raises(StartupError, match=f"Failed to open event txt file {tmp_path}"):
        EventFile(tmp_path).create()
