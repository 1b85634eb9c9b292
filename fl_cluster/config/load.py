"""Defaults, below the file, below the environment, below the command line -> settings.

Everything that is wrong is reported at once, in one `ConfigError`: first what the original
reports, in its order, then what only this cluster minds.  What is merely ignored becomes a
warning in the settings, as does a key that stands outside of its section, unless the section
then lacks something.  Nothing here logs, connects, or looks at another file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, overload

from fl_cluster.config.build import build_job, build_settings
from fl_cluster.config.check import Checked, check
from fl_cluster.config.document import Document, parse, read_text
from fl_cluster.config.exposure import find_exposed
from fl_cluster.config.keys import KEYS, SECTIONS
from fl_cluster.config.layout import has_emptied_section, home_of, restore_sections
from fl_cluster.config.legacy import ELSEWHERE
from fl_cluster.config.overrides import Overrides, gather
from fl_cluster.config.problems import SettingProblem, nearest
from fl_cluster.config.schema import JobSettings, Role, Settings
from fl_cluster.errors import ConfigError

NOTHING: Mapping[str, str] = {}


@overload
def load(
    path: str | Path,
    role: Literal["server", Role.SERVER],
    *,
    overrides: Mapping[str, str] = ...,
    environ: Mapping[str, str] | None = ...,
) -> Settings: ...


@overload
def load(
    path: str | Path,
    role: Literal["scheduler", Role.SCHEDULER],
    *,
    overrides: Mapping[str, str] = ...,
    environ: Mapping[str, str] | None = ...,
) -> JobSettings: ...


def load(
    path: str | Path,
    role: Role | Literal["server", "scheduler"],
    *,
    overrides: Mapping[str, str] = NOTHING,
    environ: Mapping[str, str] | None = None,
) -> JobSettings:
    """The settings of the file at `path`, as `role` sees them, or `ConfigError`.

    `overrides` are the command line's: dotted key -> text.  `environ` is the process's own
    environment unless another is given.
    """
    environ = os.environ if environ is None else environ
    document = parse(read_text(path), str(path))
    return _settings(document, Role(role), gather(environ, overrides))


def _settings(document: Document, role: Role, over: Overrides) -> JobSettings:
    checked = examine(document, role, over)
    if checked.problems:
        raise ConfigError(tuple(checked.problems))
    remarks = (remark.sentence for remark in checked.remarks)
    warnings = (*remarks, *_ignored(document, role))
    if role is Role.SERVER:
        return build_settings(checked.values, document.file, warnings)
    return build_job(checked.values, document.file, warnings)


def examine(document: Document, role: Role, over: Overrides) -> Checked:
    """What the file comes to with what is laid over it.

    `problems` are all there are of any kind, in the order in which they are reported.
    """
    entries = {**document.entries, **over.entries}
    checked = as_it_stands = check(entries, role, document.file)
    misplaced = None
    if as_it_stands.problems or has_emptied_section(document):
        misplaced = restore_sections(document)
    if misplaced:
        entries = {**document.entries, **over.entries}
        checked = check(entries, role, document.file)
    problems = [
        *document.unreadable,
        *(as_it_stands.problems[:1] if misplaced else []),
        *([misplaced] if misplaced else []),
        *checked.problems,
        *document.problems,
        *over.problems,
        *_unknown_in_closed_sections(document),
        *find_exposed(document),
    ]
    checked.problems = list(dict.fromkeys(problems))
    return checked


def _unknown_in_closed_sections(document: Document) -> Iterator[SettingProblem]:
    for name, block in SECTIONS.items():
        if not block.is_closed or name not in document.entries:
            continue
        section = document.entries[name]
        if section.value is not None:
            message = f"The parameter '{name}' is a section, but holds a single value"
            yield _problem(document, name, message)
        inside = [path for path in document.entries if path.startswith(f"{name}.")]
        for path in inside:
            if path not in KEYS and path.rpartition(".")[0] not in KEYS:
                message = f"The parameter '{path}' is not known{_hint(path)}"
                yield _problem(document, path, message)


def _problem(document: Document, path: str, message: str) -> SettingProblem:
    return SettingProblem(
        path,
        f"{message}, yaml config file: {document.file}",
        file=document.file,
        origin=document.entries[path].origin,
    )


def _hint(path: str) -> str:
    suggestion = nearest(path, (*KEYS, *SECTIONS))
    return f"; did you mean '{suggestion}'?" if suggestion else ""


def _why_unknown(path: str) -> str:
    home = home_of(path)
    if home is not None:
        return f"it belongs in the section '{home}'"
    return f"no such key is known{_hint(path)}"


def _ignored(document: Document, role: Role) -> Iterator[str]:
    """A sentence for each entry of the file that has no effect, where `role` looks."""
    reported: set[str] = set()
    for path, entry in document.entries.items():
        if any(path.startswith(f"{name}.") for name in reported):
            continue
        reason = why_ignored(path, document, role)
        if reason and (role is Role.SERVER or not is_for_servers(path)):
            if path not in SECTIONS:
                reported.add(path)
            yield f"{entry.origin}: '{path}' is ignored: {reason}"


def why_ignored(path: str, document: Document, role: Role) -> str:
    """Why what the file has at `path` has no effect for `role`; empty when it has one."""
    if path in SECTIONS:
        is_value = document.entries[path].value is not None
        return "it is a section, but holds a single value" if is_value else ""
    if path not in KEYS:
        return ELSEWHERE.get(path) or _why_unknown(path)
    if role is Role.SCHEDULER and is_for_servers(path):
        return "only servers look at it"
    return ""


def is_for_servers(path: str) -> bool:
    """Whether a scheduler does not look at the key."""
    parts = path.split(".")
    names = {".".join(parts[: n + 1]) for n in range(len(parts))}
    return any(SECTIONS[name].server_only for name in names & SECTIONS.keys())
