from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fl_cluster.compat", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


PROGRAM = """
import sys, beside
from mindspore_federated import FeatureMap
print(__name__, sys.argv, beside.x, FeatureMap.__name__)
raise SystemExit(3)
"""


def test_a_program_is_main_with_its_arguments_its_folder_and_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "program.py").write_text(PROGRAM)
    (tmp_path / "sub" / "beside.py").write_text("x = 1")

    done = run("sub/program.py", "--help", "-m", folder=tmp_path)

    assert done.stdout == "__main__ ['sub/program.py', '--help', '-m'] 1 FeatureMap\n"
    assert (done.returncode, done.stderr) == (3, "")


def test_a_module_is_run_too(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "beside.py").write_text("x = 1")

    done = run("-m", "program", "--x", folder=tmp_path)

    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("__main__ ['")
    assert done.stdout.endswith("program.py', '--x'] 1 FeatureMap\n")


def test_a_folder_is_run_too(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(PROGRAM)
    (tmp_path / "app" / "beside.py").write_text("x = 1")

    done = run("app", folder=tmp_path)

    assert (done.returncode, done.stdout) == (3, "__main__ ['app'] 1 FeatureMap\n"), done.stderr


def test_what_a_program_raises_is_seen(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("raise RuntimeError('no')")

    done = run("program.py", folder=tmp_path)

    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: no\n")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--help"], 0, "usage: python -m fl_cluster.compat PROGRAM.py"),
        ([], 2, "usage: python -m fl_cluster.compat PROGRAM.py"),
        (["nowhere.py"], 2, "nowhere.py: no such program\n"),
        (["-m"], 2, "-m is followed by the name of a module"),
        (["--fast"], 2, "--fast is not known"),
        (["-m", "nomod"], 1, "No module named nomod\n"),
        (["-m", "nomod.sub"], 1, "No module named nomod.sub\n"),
        (["-m", ".sub"], 1, "Relative module names not supported\n"),
        (["-m", "concurrent"], 1, "No module named concurrent.__main__; 'concurrent' is a pack"),
        (["."], 1, "can't find '__main__' module in '.'\n"),
    ],
)
def test_without_a_program_it_says_how_it_is_used(
    arguments: list[str], exit_code: int, words: str
) -> None:
    done = run(*arguments)

    assert done.returncode == exit_code
    assert (done.stdout + done.stderr).startswith(words)
