"""`fl-cluster model`: the table it prints, the files it writes, the mistakes it names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fl_cluster.aggregate.model import Model
from fl_cluster.app.model_command import main
from fl_cluster.store.model_files import read_model, write_model

ARRAYS = {
    "b": np.array([[1, 2], [3, 6]], np.float32),
    "a": np.array(-0.5, np.float32),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_model(tmp_path / "m.npz", ARRAYS)
    return tmp_path / "m.npz"


def test_every_tensor_is_described_in_the_order_of_a_model(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file)]) == 0

    lines = capsys.readouterr().out.splitlines()
    sha = hashlib.sha256(ARRAYS["b"].tobytes()).hexdigest()
    assert lines[0].split() == ["name", "shape", "min", "mean", "max", "sha256"]
    assert lines[1].split()[:5] == ["a", "scalar", "-0.5", "-0.5", "-0.5"]
    assert lines[2].split() == ["b", "2x2", "1", "3", "6", sha]
    assert lines[4] == "2 tensors, 5 floats, 20 bytes"


def test_the_last_digest_is_the_one_the_cluster_reports(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(file)])

    assert f"sha256 {Model.from_arrays(ARRAYS).digest}" in capsys.readouterr().out


def test_numbers_that_no_cluster_takes_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "m.ckpt", {"w": np.array([np.nan, np.inf, -np.inf, 0], np.float32)})

    assert main([str(tmp_path / "m.ckpt")]) == 0

    assert "3 values are NaN or infinite" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["npz", "ckpt"])
def test_the_model_is_converted(file: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out.{suffix}"

    assert main([str(file), f"--{suffix}", str(target)]) == 0

    back = read_model(target)
    assert {name: array.tolist() for name, array in ARRAYS.items()} == {
        name: array.tolist() for name, array in back.items()
    }


def test_a_file_that_is_no_model_is_one_sentence_and_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.ckpt").write_bytes(b"rubbish")

    assert main([str(tmp_path / "m.ckpt")]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{tmp_path}/m.ckpt: no MindSpore checkpoint: at byte ")
    assert captured.err.count("\n") == 1


def test_a_target_that_cannot_be_written_is_said(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), "--npz", str(tmp_path / "none" / "out.npz")]) == 2

    assert "No such file or directory" in capsys.readouterr().err


def test_a_target_of_another_kind_is_refused_before_anything_is_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["m.npz", "--npz", "out.ckpt"])

    assert exit_.value.code == 2
    assert "expected a name ending in .npz, found 'out.ckpt'" in capsys.readouterr().err
