"""Where commands find their token: a file of its own, or the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_cluster.app.token_files import operator_token, read_token
from fl_cluster.errors import StartupError


def file_of(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_token_is_alone_in_its_file(tmp_path: Path) -> None:
    assert read_token(file_of(tmp_path, "  flt_abc\n\n")) == "flt_abc"


@pytest.mark.parametrize("text", ["", "\n", "flt_abc site-a\n"])
def test_a_file_with_more_or_less_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(StartupError, match="expected one word, found") as caught:
        read_token(file_of(tmp_path, text))

    assert "flt_abc" not in str(caught.value)


def test_a_file_that_all_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="every user of this host may read"):
        read_token(file_of(tmp_path, "flt_abc", 0o644))


def test_the_file_wins_over_the_environment(tmp_path: Path) -> None:
    environ = {"FL_CLUSTER_OPERATOR_TOKEN": "from-the-environment\n"}

    assert operator_token(file_of(tmp_path, "from-the-file"), environ) == "from-the-file"
    assert operator_token(None, environ) == "from-the-environment"
    assert operator_token(None, {}) == ""
