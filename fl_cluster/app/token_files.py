"""Where commands find the token they show: in a file of its own, or in the environment.

Never among the arguments, which every user of the host can see.
"""

from __future__ import annotations

from collections.abc import Mapping

from fl_cluster.errors import StartupError
from fl_cluster.security.watched_files import read_whole, refuse_when_readable_by_all

OPERATOR_VARIABLE = "FL_CLUSTER_OPERATOR_TOKEN"
DEVICE_VARIABLE = "FL_CLUSTER_TOKEN"

WHAT = "the file of the token"


def read_token(path: str) -> str:
    """The token, or join line, that is alone in its file; StartupError when it cannot be used."""
    refuse_when_readable_by_all(path, WHAT)
    words = read_whole(path, WHAT).decode("ascii", "replace").split()
    if len(words) != 1:
        raise StartupError(f"{WHAT} {path}: expected one word, found {len(words)}")
    return words[0]


def operator_token(path: str | None, environ: Mapping[str, str]) -> str:
    """The token an operator's command shows: of the file, else of the environment, else none."""
    return read_token(path) if path else environ.get(OPERATOR_VARIABLE, "").strip()
