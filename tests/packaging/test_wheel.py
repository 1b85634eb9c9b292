"""The wheel carries all that the package needs at run time, and only that."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD_INPUTS = ["fl_cluster", "native", "setup.py", "pyproject.toml", "MANIFEST.in"]
# Every extension has its types beside the modules.
EXTENSIONS = sorted(path.stem for path in (ROOT / "fl_cluster").glob("_*.pyi"))
OPTIONAL_INPUTS = ["README.md", "CHANGELOG.md", "LICENSE"]

missing_tools = [
    name for name in ("pip", "setuptools", "wheel") if importlib.util.find_spec(name) is None
]

pytestmark = [
    pytest.mark.skipif(bool(missing_tools), reason=f"needs {missing_tools} to build a wheel"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
    pytest.mark.timeout(180),
]


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Builds a wheel into `folder`, offline and from a copy: nothing is left in the tree."""
    source = folder / "source"
    source.mkdir()
    built = shutil.ignore_patterns("*.so", "__pycache__")
    for name in (*BUILD_INPUTS, *OPTIONAL_INPUTS):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=built)
        elif path.exists():
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-build-isolation"]
    command += ["--no-deps", "--no-index", "--wheel-dir", str(folder), str(source)]
    return subprocess.run(
        command, env={**os.environ, **environment}, check=False, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    process = build(folder)
    assert process.returncode == 0, process.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_the_wheel_contains_the_extension_and_its_types(names: set[str], extension: str) -> None:
    assert f"fl_cluster/{extension}{sysconfig.get_config_var('EXT_SUFFIX')}" in names
    assert f"fl_cluster/{extension}.pyi" in names


@pytest.mark.parametrize("pattern", ["py.typed", "*.pyi", "**/*.py", "**/*.lua", "**/*.fbs"])
def test_the_wheel_contains_every_file_that_is_used_at_run_time(
    names: set[str], pattern: str
) -> None:
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fl_cluster").glob(pattern)}

    assert expected
    assert expected <= names


def test_the_wheel_contains_nothing_but_the_package(names: set[str]) -> None:
    outside = {name for name in names if not name.startswith("fl_cluster")}

    assert outside == set()
    assert not any(name.endswith((".c", ".h")) for name in names)


def run_installed(wheel: Path, folder: Path, script: str) -> str:
    """What the script prints with the wheel's package, from a folder without the sources.

    Without `site`, so that an editable install cannot lend its extension.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    dependencies = Path(np.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=folder,
        env={"PYTHONPATH": os.pathsep.join([str(folder), str(dependencies)])},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_the_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    script = "import fl_cluster._native as native; print(native.__file__, native.kernel())"

    printed = run_installed(wheel, tmp_path, script)

    assert printed.startswith(str(tmp_path))


def test_without_a_compiler_the_package_still_installs(tmp_path: Path) -> None:
    process = build(tmp_path, CC=str(tmp_path / "no-such-compiler"), FL_CLUSTER_WERROR="")
    assert process.returncode == 0, process.stderr
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    installed.mkdir()

    printed = run_installed(
        wheel, installed, "import fl_cluster.kernels.native as native; print(native.kernel())"
    )

    assert printed == "reference\n"


def test_where_warnings_are_errors_a_failing_build_is_one(tmp_path: Path) -> None:
    process = build(tmp_path, CC=str(tmp_path / "no-such-compiler"), FL_CLUSTER_WERROR="1")

    assert process.returncode != 0
    assert list(tmp_path.glob("*.whl")) == []
