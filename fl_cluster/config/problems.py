"""What is wrong with a configuration, as data, and as a person reads it on a terminal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from fl_cluster.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class SettingProblem(Problem):
    """A problem with one setting.  `message` alone is a complete sentence.

    As text it ends with where the value was given, behind the sentence that is always the same.
    """

    file: str = ""
    origin: str = ""
    """Where the value was given: a line of the file, a variable, the command line."""
    found: str = ""
    allowed: str = ""
    example: str = ""
    note: str = ""
    """What probably happened, when that can be told."""

    def __str__(self) -> str:
        names_line = self.origin.startswith("line ") and " on line" in self.message
        return f"{self.message} ({self.origin})" if self.origin and not names_line else self.message


@dataclass(frozen=True, slots=True)
class Remark:
    """A warning about settings that can be used."""

    sentence: str
    paths: tuple[str, ...]
    """The keys it is about."""
    is_change: bool = False
    """Whether another value takes the place of what `paths` were given."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return matches[0] if matches else None


def render_problems(error: ConfigError) -> str:
    """All problems of `error` for a terminal: where, what was found, what is allowed."""
    count = len(error.problems)
    files = {p.file for p in error.problems if isinstance(p, SettingProblem) and p.file}
    place = f" in {files.pop()}" if len(files) == 1 else ""
    noun = "one problem" if count == 1 else f"{count} problems"
    blocks = [f"The configuration cannot be used: {noun}{place}."]
    blocks += [_render(problem) for problem in error.problems]
    return "\n\n".join(blocks) + "\n"


def _render(problem: Problem) -> str:
    if not isinstance(problem, SettingProblem):
        return _indented(problem.message)
    heading = " ".join(
        part for part in (problem.path, f"({problem.origin})" if problem.origin else "") if part
    )
    lines = [heading] if heading else []
    lines.append(_indented(problem.message))
    rows = (
        ("found", problem.found),
        ("allowed", problem.allowed),
        ("example", problem.example),
        ("note", problem.note),
    )
    lines += [f"  {name + ':':<9}{text}" for name, text in rows if text]
    return "\n".join(lines)


def _indented(text: str) -> str:
    first, *rest = text.splitlines() or [""]
    return "\n".join([f"  {first}", *(f"  {line}" if line else "" for line in rest)])
