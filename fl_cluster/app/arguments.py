"""What commands take from their arguments, with a word about secrets among them.

Every user of a host can read the arguments of its processes.  A secret that was given there is
used all the same, and is handed to background processes by their environment.
"""

from __future__ import annotations

import argparse
import sys

from fl_cluster.config.exposure import is_secret
from fl_cluster.config.overrides import PASSWORD_KEY, PASSWORD_VARIABLE, variable_of


def overrides_of(options: argparse.Namespace) -> dict[str, str]:
    """What `--set` says; each secret among it is warned of on standard error."""
    overrides: dict[str, str] = dict(options.set)
    for key, text in overrides.items():
        if is_secret(key, text):
            variable = PASSWORD_VARIABLE if key == PASSWORD_KEY else variable_of(key)
            warn_of_secret(f"--set {key}", variable)
    return overrides


def warn_of_secret(argument: str, variable: str) -> None:
    """Say where the value of that argument should come from."""
    sys.stderr.write(
        f"{argument} holds a password, and every user of this host can read the arguments of a"
        f" command: set the environment variable {variable} instead\n"
    )
