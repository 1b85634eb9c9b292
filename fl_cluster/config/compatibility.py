"""What becomes of the keys of a file that was written for the original.

Nothing here decides anything: a file is accepted or refused by `load`, whose warnings are told
with the keys that they are about.  What the keys themselves do is in `differences`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fl_cluster.config.addresses import without_login
from fl_cluster.config.check import Checked
from fl_cluster.config.differences import DIFFERENCES, NEW, UNUSED, USES
from fl_cluster.config.document import Document, Entry, parse, read_text
from fl_cluster.config.keys import BLOCKS, KEYS, SECTIONS
from fl_cluster.config.load import examine, is_for_servers, why_ignored
from fl_cluster.config.overrides import gather, variable_of
from fl_cluster.config.problems import Remark
from fl_cluster.config.rules import Value
from fl_cluster.config.schema import Role
from fl_cluster.config.tables import Block, Values
from fl_cluster.errors import Problem

BLOCK_OF: Mapping[str, Block] = {block.path(key): block for block in BLOCKS for key in block.keys}


class Standing(StrEnum):
    """What becomes of one key, the worst last."""

    SUPPORTED = "supported"
    NEW = "new"
    """The original passes it over; here it means something."""
    UNUSED = "unused"
    """Without effect, as in the original: always, or with the file's other settings."""
    NOT_LOOKED_AT = "not looked at"
    """It may hold anything, because of the file's other settings or of who reads it."""
    WARNED = "warned"
    """Supported, and the log says what is to be known of it."""
    DIFFERENT = "different"
    CHANGED = "changed"
    """Another value takes its place, and the log says so."""
    IGNORED = "ignored"
    """No such key is read from the file, here as there."""
    REFUSED = "refused"


Told = tuple[Standing, str]
"""What becomes of a key, and why."""

Watcher = Callable[[Values], Iterable[Remark]]
"""Finds what a process that starts with these values would warn of."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What becomes of one key of a file."""

    key: str
    standing: Standing
    why: str = ""
    value: str = ""
    """As it may be shown; empty when nothing was given."""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a file; `problems` are those that concern no key of their own."""

    file: str
    findings: tuple[Finding, ...]
    problems: tuple[str, ...] = ()

    @property
    def worst(self) -> Standing:
        """The worst standing of any key; problems refuse the file as a whole."""
        if self.problems:
            return Standing.REFUSED
        order = list(Standing)
        found = (finding.standing for finding in self.findings)
        return max(found, key=order.index, default=Standing.SUPPORTED)

    def of(self, standing: Standing) -> tuple[Finding, ...]:
        """The findings with this standing, in the order of the file."""
        return tuple(finding for finding in self.findings if finding.standing is standing)


def standing_of(key: str, value: Value | None = None) -> Told:
    """What becomes of a known key that has this value, or any, and why."""
    if key in UNUSED:
        return Standing.UNUSED, UNUSED[key]
    if key in NEW:
        return Standing.NEW, NEW[key]
    reasons = [
        difference.why
        for difference in DIFFERENCES.get(key, ())
        if value is None or difference.concerns(value)
    ]
    if reasons:
        return Standing.DIFFERENT, "\n".join(reasons)
    return Standing.SUPPORTED, ""


def judge(path: str | Path, role: Role, watchers: Sequence[Watcher] = ()) -> Judgement:
    """What becomes of the file at `path`; `ConfigError` when it cannot be read at all.

    `watchers` add what they would warn of to what the file's own checks warn of.
    """
    text, file = read_text(path), str(path)
    document = parse(text, file)
    # Sections that have lost their indentation are put right in the one that is examined.
    checked = examine(parse(text, file), role, gather({}, {}))
    checked.remarks += [remark for watch in watchers for remark in watch(checked.values)]
    mine: dict[str, Problem] = {}
    for problem in checked.problems:
        if problem.path:
            mine.setdefault(problem.path, problem)
    judge_key = _Judge(document, role, checked, mine)
    findings = [
        judge_key(each, entry)
        for each, entry in document.entries.items()
        if not (entry.kind == "dict" and (each in SECTIONS or each not in KEYS))
    ]
    found = {finding.key for finding in findings}
    findings += [
        Finding(key, Standing.REFUSED, _sentence(problem, document))
        for key, problem in mine.items()
        if key not in found and key in KEYS
    ]
    told = {finding.key for finding in findings}
    others = tuple(problem.message for problem in checked.problems if problem.path not in told)
    return Judgement(document.file, tuple(findings), others)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Says of one key of a file what becomes of it."""

    document: Document
    role: Role
    checked: Checked
    problems: Mapping[str, Problem]

    def __call__(self, path: str, entry: Entry) -> Finding:
        standing, why = self._told(path, entry)
        return Finding(path, standing, why, _shown(path, entry), entry.line)

    def _told(self, path: str, entry: Entry) -> Told:
        if path in self.problems:
            return Standing.REFUSED, _sentence(self.problems[path], self.document)
        reason = why_ignored(path, self.document, self.role)
        if reason:
            is_elsewhere = self.role is Role.SCHEDULER and path in KEYS and is_for_servers(path)
            return Standing.NOT_LOOKED_AT if is_elsewhere else Standing.IGNORED, reason
        block = BLOCK_OF.get(path)
        if block is not None and not block.applies(self.checked.values):
            return Standing.NOT_LOOKED_AT, f"only looked at when {block.applies_when}"
        if entry.is_absent:
            return Standing.UNUSED, f"{entry.kind} counts as not given"
        return _worst_of([self._in_general(path, entry), *self._remarks(path)])

    def _in_general(self, path: str, entry: Entry) -> Told:
        values = self.checked.values
        use = USES.get(path) if self.role is Role.SERVER else None
        if use is not None and not use.is_met(values):
            return Standing.UNUSED, f"only used {use.when}"
        value = values.get(path) if entry.value == "" else entry.value
        return standing_of(path, value)

    def _remarks(self, path: str) -> Iterator[Told]:
        for remark in self.checked.remarks:
            if path in remark.paths:
                yield Standing.CHANGED if remark.is_change else Standing.WARNED, remark.sentence


def _worst_of(told: Sequence[Told]) -> Told:
    """The worst standing, and all reasons from it down; of what is changed, what changes it."""
    order = list(Standing)
    ranked = sorted(told, key=lambda each: -order.index(each[0]))
    worst = ranked[0][0]
    is_all = worst is not Standing.CHANGED
    reasons = (why for standing, why in ranked if why and (is_all or standing is worst))
    return worst, "\n".join(reasons)


def _sentence(problem: Problem, document: Document) -> str:
    return problem.message.replace(f", yaml config file: {document.file}", "")


def _shown(path: str, entry: Entry) -> str:
    if path in KEYS and KEYS[path].is_secret and entry.value:
        return f"(not shown; better given as {variable_of(path)})"
    if entry.value is None:
        return "" if entry.kind == "dict" else entry.kind
    if isinstance(entry.value, bool):
        return str(entry.value).lower()
    if isinstance(entry.value, str):
        text = without_login(entry.value)
        return text if text.isprintable() else repr(text)
    return str(entry.value)
