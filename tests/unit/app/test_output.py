"""A reader that leaves early, as `head -1` does, ends no command with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_cluster.app.output import UNREAD, ending_quietly
from fl_cluster.store.model_files import write_model

YAML = Path(__file__).resolve().parents[3] / "yamls" / "lenet.yaml"


@pytest.fixture
def unread() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python with arguments, its standard output a pipe whose reader has left."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            return subprocess.run(
                [sys.executable, *arguments],
                stdout=writing,
                stderr=options.pop("stderr", subprocess.PIPE),
                text=True,
                timeout=60,
                check=False,
                **options,
            )
        finally:
            os.close(writing)

    return run


@pytest.mark.parametrize("is_buffered", [True, False])
@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        (("certs", "show", "--dir={certs}"), {0}),
        (("certs", "show", "--dir={certs}", "--format=json"), {0}),
        (("model", "{model}"), {0}),
        (("--version",), {UNREAD}),
        (("migrate", "check", "{yaml}"), {UNREAD}),
        (("--help",), {0, UNREAD}),
        (("server", "--help"), {0, UNREAD}),
    ],
)
def test_a_command_whose_reader_has_left_says_nothing(
    unread: Callable[..., Any],
    certificates: Any,
    tmp_path: Path,
    arguments: tuple[str, ...],
    codes: set[int],
    is_buffered: bool,
) -> None:
    model = tmp_path / "m.npz"
    write_model(model, {"w": np.zeros(3, np.float32)})
    places = {"certs": certificates.folder, "model": model, "yaml": YAML}
    words = [word.format(**places) for word in arguments]
    environ = {**os.environ, "PYTHONUNBUFFERED": "" if is_buffered else "1"}

    done = unread("-m", "fl_cluster.app.cli", *words, env=environ)

    assert done.stderr == ""
    assert done.returncode in codes


def test_what_was_begun_is_finished_unread(unread: Callable[..., Any], tmp_path: Path) -> None:
    certs = tmp_path / "certs"

    done = unread("-m", "fl_cluster.app.cli", "certs", "init", "--host=h", f"--dir={certs}")

    assert (done.returncode, done.stderr) == (0, "")
    assert {"ca.crt", "server.key", "client.p12"} <= {path.name for path in certs.iterdir()}


def test_nobody_may_read_the_complaints_either(unread: Callable[..., Any], tmp_path: Path) -> None:
    words = ("-m", "fl_cluster.app.cli", "certs", "show", f"--dir={tmp_path / 'absent'}")

    assert unread(*words, stderr=subprocess.STDOUT).returncode == UNREAD


def test_another_broken_pipe_is_none_of_our_readers() -> None:
    def ask() -> int:
        raise BrokenPipeError("a server that hung up")

    with pytest.raises(BrokenPipeError, match="hung up"):
        ending_quietly(ask)
