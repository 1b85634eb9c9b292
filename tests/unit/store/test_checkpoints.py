"""The checkpoint folder: names, order, what is kept, and what is recovered."""

from __future__ import annotations

import logging
import os
import stat
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from fl_cluster.errors import StartupError
from fl_cluster.rounds.plan import Millis
from fl_cluster.store.checkpoints import CheckpointFolder

START = Millis(int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1000))


def weights(number: float) -> dict[str, np.ndarray]:
    return {"w": np.full(3, number, np.float32)}


def after(seconds: float) -> Millis:
    return Millis(START + int(seconds * 1000))


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "fl_ckpt", "lenet", UTC)


def names(folder: CheckpointFolder) -> list[str]:
    return [info.path.name for info in folder.files()]


def test_a_checkpoint_has_the_name_of_job_round_and_time(folder: CheckpointFolder) -> None:
    path = folder.write(7, weights(7), after(61.9))

    assert path.name == "lenet_recovery_iteration_7_20260301_120101.ckpt"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_the_time_in_the_name_is_that_of_the_zone(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "lenet", timezone(timedelta(hours=8)))

    assert folder.write(1, weights(1), START).name.endswith("_20260301_200000.ckpt")


def test_without_a_zone_the_time_is_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "XST-03")
    time.tzset()
    try:
        name = CheckpointFolder(tmp_path, "lenet").write(1, weights(1), START).name
    finally:
        monkeypatch.undo()
        time.tzset()

    assert name.endswith("_20260301_150000.ckpt")


def test_a_missing_folder_has_no_checkpoints_and_is_made_for_the_first(
    folder: CheckpointFolder, tmp_path: Path
) -> None:
    assert folder.files() == []
    assert folder.newest() is None
    assert not (tmp_path / "fl_ckpt").exists()

    folder.write(1, weights(1), START)

    assert len(folder.files()) == 1


def test_the_newest_is_the_latest_not_the_highest_round(folder: CheckpointFolder) -> None:
    folder.write(900, weights(900), START)
    folder.write(2, weights(2), after(60))
    folder.write(3, weights(3), after(60))

    found = folder.newest()

    assert [info.number for info in folder.files()] == [3, 2, 900]
    assert found is not None
    assert (found[0].number, found[1]["w"].tolist()) == (3, [3.0, 3.0, 3.0])


def test_three_are_kept(folder: CheckpointFolder) -> None:
    for number in range(1, 7):
        folder.write(number, weights(number), after(number))

    assert [info.number for info in folder.files()] == [6, 5, 4]


def test_two_members_that_finish_one_round_write_one_file(
    folder: CheckpointFolder, tmp_path: Path
) -> None:
    first = folder.write(4, weights(4), after(4.2))
    second = CheckpointFolder(tmp_path / "fl_ckpt", "lenet", UTC).write(4, weights(4), after(4.2))

    assert first == second
    assert [first] == list((tmp_path / "fl_ckpt").iterdir())


def test_a_file_just_written_is_kept_even_when_its_name_is_older_than_three_others(
    folder: CheckpointFolder,
) -> None:
    for number in (1, 2, 3):
        folder.write(number, weights(number), after(3600 + number))

    folder.write(4, weights(4), START)
    folder.write(5, weights(5), after(1))

    assert [info.number for info in folder.files()] == [3, 2, 1, 5]


def test_unreadable_ones_are_skipped_with_one_warning_each(
    folder: CheckpointFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = folder.write(1, weights(1), START)
    for stamp, content in (("130000", b""), ("140000", b"rubbish")):
        (good.parent / f"lenet_recovery_iteration_2_20260301_{stamp}.ckpt").write_bytes(content)
    (good.parent / "lenet_recovery_iteration_3_20260301_150000.ckpt").mkdir()
    caplog.set_level(logging.WARNING)

    found = folder.newest()

    assert found is not None
    assert found[0].path == good
    assert len(caplog.records) == 3
    assert all("checkpoint skipped: " in record.getMessage() for record in caplog.records)


def test_only_files_of_this_job_count_and_are_deleted(
    folder: CheckpointFolder, tmp_path: Path
) -> None:
    path = tmp_path / "fl_ckpt"
    path.mkdir()
    others = [
        "lenet2_recovery_iteration_1_20200101_000000.ckpt",
        "lenet_recovery_iteration_x_recovery_iteration_1_20200101_000000.ckpt",
        "lenet_recovery_iteration_1_20200101.ckpt",
        "lenet_recovery_iteration_one_20200101_000000.ckpt",
        "lenet_recovery_iteration_-1_20200101_000000.ckpt",
        "lenet_recovery_iteration_٣_20200101_000000.ckpt",
        "lenet_recovery_iteration_1_20200101_000000.ckpt.bak",
        "notes.txt",
    ]
    for name in others:
        (path / name).write_bytes(b"mine")

    for number in range(1, 6):
        folder.write(number, weights(number), after(number))

    assert sorted([*others, *names(folder)]) == sorted(entry.name for entry in path.iterdir())
    assert len(folder.files()) == 3


def test_a_job_name_with_signs_of_patterns_means_itself(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "a.b*(c)", UTC)
    (tmp_path / "aXb_recovery_iteration_1_20200101_000000.ckpt").write_bytes(b"other")

    path = folder.write(1, weights(1), START)

    assert [path] == [info.path for info in folder.files()]


def test_a_job_name_that_cannot_be_part_of_a_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="fl_name 'a/b' cannot be part of a file name"):
        CheckpointFolder(tmp_path, "a/b")


def test_prepare_makes_the_folder(folder: CheckpointFolder, tmp_path: Path) -> None:
    folder.prepare()
    folder.prepare()

    assert (tmp_path / "fl_ckpt").is_dir()


def test_prepare_says_why_nothing_can_be_written_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StartupError, match=r"file cannot be made: File exists"):
        CheckpointFolder(tmp_path / "file", "lenet").prepare()
    with pytest.raises(StartupError, match=r"inner cannot be made: Not a directory"):
        CheckpointFolder(tmp_path / "file" / "inner", "lenet").prepare()
    assert CheckpointFolder(tmp_path / "file", "lenet").newest() is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_prepare_refuses_a_folder_of_others(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)

    with pytest.raises(StartupError, match="may read and write"):
        CheckpointFolder(locked, "lenet").prepare()


def test_what_a_dead_writer_left_is_removed_after_an_hour(
    folder: CheckpointFolder, tmp_path: Path
) -> None:
    folder.prepare()
    name = "lenet_recovery_iteration_1_20260301_120000.ckpt"
    old = tmp_path / "fl_ckpt" / f".{name}.0123456789ab.tmp"
    fresh = tmp_path / "fl_ckpt" / f".{name}.ba9876543210.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)

    folder.write(2, weights(2), after(2))

    assert not old.exists()
    assert fresh.exists()


def test_a_file_that_cannot_be_deleted_costs_a_warning_not_the_round(
    folder: CheckpointFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.prepare()
    stuck = tmp_path / "fl_ckpt" / "lenet_recovery_iteration_1_20200101_000000.ckpt"
    stuck.mkdir()

    for number in (2, 3, 4):
        folder.write(number, weights(number), after(number))

    assert [info.number for info in folder.files()] == [4, 3, 2, 1]
    assert "cannot be deleted" in caplog.text


def test_nothing_is_lost_when_a_checkpoint_cannot_be_written(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        folder.write(number, weights(number), after(number))
    before = names(folder)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write(4, weights(4), after(4))

    assert before == names(folder)


def test_a_folder_that_is_not_to_be_made_is_used_as_soon_as_it_is_there(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "fl_ckpt", "lenet", UTC, is_made=False)

    folder.prepare()

    assert not folder.is_used
    assert not (tmp_path / "fl_ckpt").exists()
    (tmp_path / "fl_ckpt").mkdir()
    assert folder.is_used
    folder.write(2, weights(2), START)
    assert [info.number for info in folder.files()] == [2]


def test_a_file_in_the_place_of_a_folder_that_is_not_to_be_made_is_no_folder(
    tmp_path: Path,
) -> None:
    (tmp_path / "fl_ckpt").write_text("mine", "utf-8")
    folder = CheckpointFolder(tmp_path / "fl_ckpt", "lenet", UTC, is_made=False)

    folder.prepare()

    assert folder.newest() is None
    assert not folder.is_used
