from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fl_cluster.compat.finder import NAME, OVERLAY, PATH_VARIABLE, OverlayFinder, install

pytestmark = pytest.mark.usefixtures("clean")


def test_the_name_is_ours_whatever_else_is_on_the_path(
    clean: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / f"{NAME}.py").write_text("is_another = True")
    install()
    clean.syspath_prepend(str(tmp_path))

    found = importlib.import_module(NAME)

    assert str(found.__file__).startswith(OVERLAY)
    assert not hasattr(found, "is_another")


def test_other_names_are_not_ours() -> None:
    assert OverlayFinder().find_spec("json") is None
    assert OverlayFinder().find_spec(f"{NAME}.log") is None


def test_new_processes_find_it_too_and_what_they_had_stays(clean: pytest.MonkeyPatch) -> None:
    clean.setenv(PATH_VARIABLE, os.pathsep.join(["/one", "/two"]))
    first = sys.path[0]
    install()

    assert os.environ[PATH_VARIABLE].split(os.pathsep) == [OVERLAY, "/one", "/two"]
    assert sys.path[:2] == [first, OVERLAY]


def test_a_second_time_changes_nothing() -> None:
    install()
    before = (list(sys.meta_path), list(sys.path), os.environ[PATH_VARIABLE])
    importlib.import_module(NAME)
    install()

    assert (sys.meta_path, sys.path, os.environ[PATH_VARIABLE]) == before


def test_another_package_in_use_is_not_replaced_under_its_users(
    clean: pytest.MonkeyPatch,
) -> None:
    other = ModuleType(NAME)
    other.__file__ = "/somewhere/mindspore_federated/__init__.py"
    clean.setitem(sys.modules, NAME, other)

    with pytest.raises(ImportError, match="was imported from /somewhere/mindspore_federated"):
        install()


def test_the_folder_on_the_path_hides_nothing_but_the_one_package() -> None:
    names = {path.stem for path in Path(OVERLAY).iterdir()} - {"__init__", "__pycache__"}

    assert names == {NAME}
