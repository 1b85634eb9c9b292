"""Which kernels the package uses, and what it says when it has to make do with NumPy."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from fl_cluster.kernels import native, reference

REPORT = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
if sys.argv[1] == "without":
    sys.modules["fl_cluster._native"] = None
import fl_cluster.kernels.native as native
import fl_cluster.kernels.native
print(native.kernel(), *native.available())
"""


def run(extension: str, forced: str | None) -> subprocess.CompletedProcess[str]:
    """What a fresh interpreter says, with or without the extension."""
    environment = {k: v for k, v in os.environ.items() if k != "FL_CLUSTER_KERNEL"}
    if forced is not None:
        environment["FL_CLUSTER_KERNEL"] = forced
    return subprocess.run(
        [sys.executable, "-c", REPORT, extension],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("forced", [None, ""])
def test_without_the_extension_the_reference_is_used_and_says_so_once(
    forced: str | None,
) -> None:
    process = run("without", forced)

    assert process.stdout == "reference reference\n"
    (line,) = process.stderr.splitlines()
    assert line.startswith("WARNING fl_cluster.kernels.native the extension fl_cluster._native")
    assert "results are identical but slower" in line


@pytest.mark.parametrize("extension", ["with", "without"])
def test_the_reference_can_be_forced_and_then_says_nothing(extension: str) -> None:
    process = run(extension, "reference")

    assert process.stdout == "reference reference\n"
    assert process.stderr == ""


@pytest.mark.parametrize("forced", ["portable", "avx2", "avx3"])
def test_a_forced_set_is_never_replaced_by_the_reference(forced: str) -> None:
    process = run("without", forced)

    assert process.returncode != 0
    assert process.stdout == ""
    assert f"ImportError: FL_CLUSTER_KERNEL '{forced}' needs the extension" in process.stderr
    assert "there is only 'reference'" in process.stderr


@pytest.mark.parametrize("name", [n for n in native.available() if n != "reference"])
def test_an_available_set_can_be_forced(name: str) -> None:
    process = run("with", name)

    assert process.stdout.split()[0] == name
    assert process.stderr == ""


def test_the_set_in_use_is_available_and_the_reference_always_is() -> None:
    assert native.kernel() in native.available()
    assert native.available()[-1] == "reference"


def test_the_operations_are_those_of_the_set_in_use() -> None:
    chosen = native.kernel_set(native.kernel())
    acc = np.zeros(3, np.int64)
    x = np.array([0.5, 1.5, -2.5], np.float32)

    native.fold(acc, x, 1.0)

    assert acc.tolist() == [0, 2, -2]
    assert (native.fold, native.find_unfit) == (chosen.fold, chosen.find_unfit)
    assert (native.merge, native.finalise) == (chosen.merge, chosen.finalise)


def test_an_unknown_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'avx3' is not one of .*'reference'"):
        native.kernel_set("avx3")


def test_both_modules_state_the_same_bound() -> None:
    assert native.MAX_BOUND == reference.MAX_BOUND
