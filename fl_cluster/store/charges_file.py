"""The charges of a job's noise beside its checkpoints: they outlive a store that lost everything.

A job that goes on from a checkpoint goes on with what it had spent.  Counts in the file only
grow; several servers may share it, and each replaces it as a whole.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from fl_cluster.errors import StartupError


class ChargesFile:
    """`{job}_privacy.json` in the folder of checkpoints."""

    def __init__(self, folder: Path, job_name: str) -> None:
        self.path = folder / f"{job_name}_privacy.json"

    def read(self) -> dict[str, int]:
        """What is kept; nothing when there is no file, or no folder that could have one.

        StartupError when it is damaged: a job must not forget what it has spent.
        """
        try:
            text = self.path.read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as exc:
            raise StartupError(f"{self.path}: the privacy ledger cannot be read: {exc}") from exc
        charges = _parse(text)
        if charges is None:
            raise StartupError(
                f"{self.path}: expected a JSON object of releases and how often they were made,"
                f" found {text[:100]!r}; without it the job would forget what privacy it has spent"
            )
        return charges

    def keep(self, charges: Mapping[str, int]) -> None:
        """Raise what is kept to these counts; OSError when that is impossible."""
        try:
            kept = _parse(self.path.read_text("utf-8")) or {}
        except (FileNotFoundError, ValueError):
            kept = {}
        raised = {**kept, **{n: max(count, kept.get(n, 0)) for n, count in charges.items()}}
        if raised == kept:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with new.open("w", encoding="utf-8") as file:
                file.write(f"{json.dumps(raised, sort_keys=True)}\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        finally:
            new.unlink(missing_ok=True)


def _parse(text: str) -> dict[str, int] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    is_count = all(type(count) is int and count >= 0 for count in found.values())
    return found if is_count else None
