from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fl_cluster.app import install_check
from fl_cluster.kernels import native
from fl_cluster.version import VERSION


def test_a_complete_installation_shows_versions_and_the_kernel_in_use() -> None:
    text, is_complete = install_check.check()

    assert is_complete
    assert text.splitlines()[0] == f"fl_cluster {VERSION}"
    assert f"kernel set {native.kernel()} (" in text
    assert "redis-server" in text


def test_what_is_missing_is_named_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.setitem(sys.modules, "yaml", None)

    text, is_complete = install_check.check()

    assert not is_complete
    assert "missing: aiohttp, PyYAML; pip install aiohttp PyYAML" in text


def test_a_missing_extension_is_said_and_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fl_cluster._native", None)
    monkeypatch.setitem(sys.modules, "fl_cluster._wire", None)

    text, is_complete = install_check.check()

    assert is_complete
    assert "native extension missing: slower" in text
    assert "wire extension missing: requests are decoded in Python" in text


def run_version(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fl_cluster", "--version"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_shows_it_and_a_forced_kernel_set_too() -> None:
    shown = run_version(FL_CLUSTER_KERNEL="reference")

    assert shown.returncode == 0
    assert "kernel set reference (" in shown.stdout


def test_a_kernel_set_that_does_not_exist_is_one_sentence() -> None:
    shown = run_version(FL_CLUSTER_KERNEL="abacus")

    assert shown.returncode == 2
    assert "abacus" in shown.stderr
    assert "Traceback" not in shown.stderr
