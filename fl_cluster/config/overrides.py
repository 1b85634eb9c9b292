"""Values from the environment and the command line, laid over those of the file.

A variable `FL_CLUSTER__ROUND__START_FL_JOB_THRESHOLD` sets `round.start_fl_job_threshold`;
the command line names keys as they are.  A value is read as a YAML scalar, except that a key
that holds text takes the text as it stands, so that no name or password needs quoting twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from fl_cluster.config.document import IMPOSSIBLE, LONGEST_NUMBER, Entry, entry_of
from fl_cluster.config.keys import KEYS
from fl_cluster.config.problems import SettingProblem, nearest
from fl_cluster.config.tables import Kind

PREFIX = "FL_CLUSTER__"
PASSWORD_VARIABLE = "FL_CLUSTER_REDIS_PASSWORD"  # noqa: S105 - a variable's name
PASSWORD_KEY = "distributed_cache.password"  # noqa: S105 - a key's name


def variable_of(key: str) -> str:
    """The environment variable that sets `key`."""
    return PREFIX + key.upper().replace(".", "__")


VARIABLES: Mapping[str, str] = {variable_of(key): key for key in KEYS}


@dataclass(frozen=True, slots=True)
class Overrides:
    """What lies over the file, and what is wrong with it."""

    entries: Mapping[str, Entry]
    problems: tuple[SettingProblem, ...]


def gather(environ: Mapping[str, str], arguments: Mapping[str, str]) -> Overrides:
    """The command line's `arguments` (dotted key -> text) over those of the environment."""
    entries: dict[str, Entry] = {}
    problems: list[SettingProblem] = []
    for found in (*_from_environment(environ), *_from_arguments(arguments)):
        if isinstance(found, SettingProblem):
            problems.append(found)
        else:
            key, entry = found
            entries[key] = entry
    return Overrides(entries, tuple(problems))


Found = SettingProblem | tuple[str, Entry]


def _from_environment(environ: Mapping[str, str]) -> Iterator[Found]:
    if PASSWORD_VARIABLE in environ:
        origin = f"environment variable {PASSWORD_VARIABLE}"
        yield PASSWORD_KEY, Entry("str", environ[PASSWORD_VARIABLE], origin)
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        key = VARIABLES.get(name)
        if key is None:
            yield _unknown(f"environment variable {name}", _nearest_variable(name))
        else:
            yield _read(key, environ[name], f"environment variable {name}")


def _nearest_variable(name: str) -> str | None:
    # The prefix, which all share, would make everything look alike.
    known = [variable.removeprefix(PREFIX) for variable in VARIABLES]
    found = nearest(name.removeprefix(PREFIX), known)
    return PREFIX + found if found else None


def _from_arguments(arguments: Mapping[str, str]) -> Iterator[Found]:
    for key, text in arguments.items():
        if key in KEYS:
            yield _read(key, text, "command line")
        else:
            yield _unknown(f"parameter '{key}' of the command line", nearest(key, KEYS))


def _unknown(what: str, suggestion: str | None) -> SettingProblem:
    hint = f"; did you mean {suggestion}?" if suggestion else ""
    return SettingProblem("", f"The {what} is not known{hint}")


def _read(key: str, text: str, origin: str) -> Found:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    is_text = KEYS[key].kind is Kind.STR
    if not text or (is_text and not quoted) or KEYS[key].is_secret:
        return key, Entry("str", text, origin)
    try:
        value = yaml.safe_load(text) if len(text) <= LONGEST_NUMBER else text
    except (yaml.YAMLError, *IMPOSSIBLE):
        value = text
    if not isinstance(value, bool | int | float | str | None):
        value = text
    return key, entry_of(value, origin)
