"""Passwords in a configuration file that every user of the host may read.

A file with secrets is refused when it is open to all, as files of tokens and keys are.  The
published cluster knows no password of Redis, so none of its files is refused for this.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from fl_cluster.config.addresses import parse_cache_address
from fl_cluster.config.document import Document
from fl_cluster.config.keys import KEYS
from fl_cluster.config.overrides import PASSWORD_VARIABLE
from fl_cluster.config.problems import SettingProblem

ADDRESS = "distributed_cache.address"


def is_secret(key: str, text: str) -> bool:
    """Whether nobody else shall see the value of that key, known or not."""
    if not text:
        return False
    return (key in KEYS and KEYS[key].is_secret) or (key == ADDRESS and _has_password(text))


def _has_password(address: str) -> bool:
    try:
        return bool(parse_cache_address(address).password)
    except ValueError:
        return "@" in address  # it is refused as it is, and may hold one all the same


def find_exposed(document: Document) -> Iterator[SettingProblem]:
    """A problem for each secret of the file, when every user of this host may read it."""
    try:
        mode = stat.S_IMODE(Path(document.file).stat().st_mode)
    except (OSError, ValueError):
        return  # it was removed, or is no file, since it was read: nobody reads it any more
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        return
    for path, entry in document.entries.items():
        if not is_secret(path, "" if entry.value is None else str(entry.value)):
            continue
        message = (
            f"The parameter '{path}' holds a password, and every user of this host may read or"
            f" write yaml config file {document.file} (mode {mode:04o}): chmod 600"
            f" {document.file}, or take the password out and set {PASSWORD_VARIABLE}"
        )
        yield SettingProblem(path, message, file=document.file, origin=entry.origin)
