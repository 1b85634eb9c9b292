"""The privacy ledger beside the checkpoints: counts that only grow, whatever dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_cluster.errors import StartupError
from fl_cluster.store.charges_file import ChargesFile
from fl_cluster.store.checkpoints import CheckpointFolder


@pytest.fixture
def file(tmp_path: Path) -> ChargesFile:
    return CheckpointFolder(tmp_path / "ckpt", "Lenet").charges()


def test_without_a_file_nothing_was_charged(file: ChargesFile) -> None:
    assert file.read() == {}


def test_a_folder_that_is_a_file_has_no_ledger_and_takes_none(tmp_path: Path) -> None:
    (tmp_path / "ckpt").write_text("no folder")
    charges = CheckpointFolder(tmp_path / "ckpt", "Lenet", is_made=False).charges()

    assert charges.read() == {}
    with pytest.raises(NotADirectoryError):
        charges.keep({"central 1.1": 3})


def test_what_is_kept_is_read_and_only_grows(file: ChargesFile) -> None:
    file.keep({"central 1.1": 3})
    file.keep({"central 1.1": 2, "local 0.5": 1})

    assert file.path.name == "Lenet_privacy.json"
    assert file.read() == {"central 1.1": 3, "local 0.5": 1}
    assert [path.name for path in file.path.parent.iterdir()] == ["Lenet_privacy.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"central 1.1": -1}', '{"central 1.1": "3"}'])
def test_a_damaged_file_keeps_a_server_from_starting(file: ChargesFile, text: str) -> None:
    file.keep({"central 1.1": 3})
    file.path.write_text(text)

    with pytest.raises(StartupError, match="would forget what privacy it has spent"):
        file.read()
