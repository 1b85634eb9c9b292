from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fl_cluster.app.cli import main, script_main
from fl_cluster.app.commands import find_function, find_path
from fl_cluster.errors import StartupError
from fl_cluster.store.model_files import write_model

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: fl-cluster" in capsys.readouterr().out


def test_a_missing_package_is_one_sentence_that_says_where_to_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "fl_cluster.app.commands", raising=False)
    monkeypatch.delitem(sys.modules, "fl_cluster.app", raising=False)
    monkeypatch.setitem(sys.modules, "fl_cluster.app.commands", None)

    assert main(["state"]) == 2

    shown = capsys.readouterr().err
    assert "cannot run: " in shown
    assert "fl-cluster --version" in shown


@pytest.mark.parametrize("words", [["model"], ["model", "show"]])
def test_a_model_file_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    file = tmp_path / "m.npz"
    write_model(file, {"w": np.zeros(3, np.float32)})

    assert main([*words, str(file)]) == 0
    assert "1 tensors, 3 floats" in capsys.readouterr().out


def test_a_script_names_the_arguments_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    code = script_main(
        "finish", str(tmp_path / "finish_cloud.py"), ["--scope=all", "--yaml_config=missing.yaml"]
    )

    shown = capsys.readouterr().err
    assert code == 2
    assert "ignored, because not known: --scope=all\n" in shown
    assert "yaml config file missing.yaml not exist" in shown


def test_a_path_is_looked_for_here_and_then_beside_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, beside = tmp_path / "here", tmp_path / "scripts"
    here.mkdir()
    beside.mkdir()
    (beside / "default.yaml").write_text("")
    monkeypatch.chdir(here)

    assert find_path("default.yaml", beside) == str(beside / "default.yaml")
    (here / "default.yaml").write_text("")
    assert find_path("default.yaml", beside) == "default.yaml"
    assert find_path("nowhere.yaml", beside) == "nowhere.yaml"
    assert find_path("nowhere.yaml", None) == "nowhere.yaml"
    assert find_path("/nowhere.yaml", beside) == "/nowhere.yaml"


def test_a_training_function_is_found_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_training.py").write_text("def train(weights, plan):\n    return weights\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)

    found = find_function("my_training:train")

    assert found(1, 2) == 1
    assert sys.path == before


@pytest.mark.parametrize(
    "name", ["no_such_module:train", "math:no_such_function", "math", "math:pi", ":x"]
)
def test_what_is_no_training_function_is_one_sentence(name: str) -> None:
    with pytest.raises(StartupError, match=f"{name}: expected "):
        find_function(name)


@pytest.mark.parametrize(
    ("script", "argument"),
    [
        ("run_sched.py", "--scheduler_manage_address"),
        ("run_server.py", "--local_server_num"),
        ("finish_cloud.py", "--stop_redis"),
    ],
)
def test_every_script_shows_its_arguments(script: str, argument: str) -> None:
    shown = subprocess.run(
        [sys.executable, str(SCRIPTS / script), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert argument in shown.stdout
