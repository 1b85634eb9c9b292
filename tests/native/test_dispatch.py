"""Which kernel set is chosen, by whom, and what a wrong name says."""

from __future__ import annotations

import gc
import importlib.util
import weakref
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fl_cluster.kernels import native

_native = pytest.importorskip(
    "fl_cluster._native", reason="the extension was not built or not wanted", exc_type=ImportError
)


def load_another_copy() -> ModuleType:
    """The extension once more, with a state of its own: the choice is made anew."""
    path = Path(_native.__file__)
    spec = importlib.util.spec_from_file_location("fl_cluster._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FL_CLUSTER_KERNEL", raising=False)


def test_the_best_set_that_runs_here_is_chosen() -> None:
    module = load_another_copy()

    assert module.available()[0] == module.kernel()


def test_plain_c_runs_everywhere_and_is_the_last_choice() -> None:
    assert _native.available()[-1] == "portable"


@pytest.mark.parametrize("name", _native.available())
def test_every_available_set_can_be_forced(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("FL_CLUSTER_KERNEL", name)

    module = load_another_copy()

    assert name == module.kernel()
    assert name == module.kernel_set(name).name
    assert name == module.fold.__self__.name


@pytest.mark.parametrize("name", ["avx3", "AVX2", "avx", "portable ", "reference", "neon"])
def test_a_name_that_is_no_set_is_an_import_error_naming_those_that_are(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FL_CLUSTER_KERNEL", name)

    with pytest.raises(ImportError) as caught:
        load_another_copy()

    assert f"FL_CLUSTER_KERNEL '{name}'" in str(caught.value)
    for valid in (*_native.available(), "reference"):
        assert repr(valid) in str(caught.value)


def test_an_empty_variable_forces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL_CLUSTER_KERNEL", "")

    assert _native.available()[0] == load_another_copy().kernel()


def test_asking_for_an_unknown_set_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'avx3' is not a kernel set.*'portable'"):
        _native.kernel_set("avx3")
    with pytest.raises(TypeError):
        _native.kernel_set(3)


def test_a_set_cannot_be_made_or_changed() -> None:
    kernels = _native.kernel_set("portable")

    with pytest.raises(TypeError):
        type(kernels)()
    with pytest.raises(AttributeError):
        kernels.name = "other"
    with pytest.raises(TypeError):
        type(kernels).fold = None


def test_a_copy_of_the_module_goes_away_when_nobody_needs_it() -> None:
    module = load_another_copy()
    kernels = module.kernel_set("portable")
    gone = weakref.ref(module)
    del module
    gc.collect()

    acc = np.zeros(1, np.int64)
    kernels.fold(acc, np.ones(1, np.float32), 1.0)

    assert acc.tolist() == [1]
    del kernels
    gc.collect()
    assert gone() is None


def test_both_layers_state_the_same_bound() -> None:
    assert _native.MAX_BOUND == native.MAX_BOUND
