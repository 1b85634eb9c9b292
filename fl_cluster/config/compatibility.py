"""What becomes of the keys of a file that was written for the original.

`DIFFERENCES` is the one list of keys that do something else here, with the reason; the
command `fl-cluster migrate check` and the tables of docs/compatibility.md are made from it.
A key that is in no list does here what it does there.
Nothing here decides anything: a file is accepted or refused by `load`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fl_cluster.config.addresses import without_login
from fl_cluster.config.document import Document, Entry, parse, read_text
from fl_cluster.config.keys import KEYS, SECTIONS
from fl_cluster.config.load import load, why_ignored
from fl_cluster.config.overrides import variable_of
from fl_cluster.config.ring import who_refuses
from fl_cluster.config.rules import Value
from fl_cluster.config.schema import EncryptType, Role
from fl_cluster.errors import ConfigError, Problem

MAX_INT32 = 2**31 - 1
IPV4_AND_PORT = re.compile(r"[0-9.]+:[0-9]+")


class Standing(StrEnum):
    """What becomes of one key, the worst last."""

    SUPPORTED = "supported"
    NEW = "new"
    """The original passes it over; here it means something."""
    UNUSED = "unused"
    """Read, checked, and without effect, as in the original."""
    DIFFERENT = "different"
    IGNORED = "ignored"
    """No such key is known, here as there."""
    REFUSED = "refused"


UNUSED: Mapping[str, str] = {
    "distributed_cache.type": "the cache is always Redis",
    "distributed_cache.plugin_lib_path": "there are no cache plug-ins",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """What a key does here that it does not do there."""

    why: str
    when: str = ""
    """For which values, in words; empty for all."""
    concerns: Callable[[Value], bool] = lambda _value: True


def _is_no_whole_second(value: Value) -> bool:
    return isinstance(value, int) and value % 1000 != 0


def _is_long(value: Value) -> bool:
    return isinstance(value, int) and value > MAX_INT32


_WINDOW = Difference(
    "it ends at the millisecond; in the original after whole seconds, the rest cut off",
    "no whole seconds",
    _is_no_whole_second,
)
_INT32 = Difference(
    f"devices are told {MAX_INT32}, the largest number of the field", f"above {MAX_INT32}", _is_long
)

DIFFERENCES: Mapping[str, Difference] = {
    "fl_name": Difference(
        "refused, because the name is part of keys in Redis and of file names",
        "braces, slashes, characters that do not print, more than 160 bytes",
        lambda _value: False,  # a file that is refused says so by itself
    ),
    "fl_iteration_num": _INT32,
    "distributed_cache.address": Difference(
        "understood; the original takes ip:port only",
        "names, IPv6, redis://, rediss://, unix:, sentinel://, embedded",
        lambda value: IPV4_AND_PORT.fullmatch(str(value)) is None,
    ),
    "ssl.crl_path": Difference(
        "certificates that the list names are refused, and so is a list that cannot be read; the "
        "original never looks at the serial numbers",
        "any file",
        lambda value: value != "",
    ),
    "client_verify.equip_crl_path": Difference(
        "devices whose certificates the list names are refused; the original never looks at the "
        "serial numbers",
        "any file",
        lambda value: value != "",
    ),
    "round.start_fl_job_time_window": _WINDOW,
    "round.update_model_time_window": _WINDOW,
    "round.global_iteration_time_window": _WINDOW,
    "summary.metrics_file": Difference(
        "the loss is divided by the samples of exactly those whose losses were added up; the "
        "original divides by another number when a round failed or tensors were left out"
    ),
    "summary.data_rate_dir": Difference(
        "the folder is made when it is missing, and a server that ends does not wait for the "
        "minute to be over",
        "any folder",
        lambda value: value != "",
    ),
    "unsupervised.eval_type": Difference(
        "scores need no number of processors, groups may have any numbers, vectors of another "
        "length than most or of more than 4,096 numbers are left out, and the silhouette of more "
        "vectors than can be compared in about a minute is 0",
        "any score",
        lambda value: value != "NOT_EVAL",
    ),
    "client.client_epoch_num": _INT32,
    "client.client_batch_size": _INT32,
    "client.connection_num": Difference(
        "bounds the connections of devices: the oldest idle one gives way, and who comes while "
        "all are busy gets HTTP 503; in the original it bounds those between servers"
    ),
}
"""Key -> what it does here that it does not do there."""

PASSED_OVER = "the original passes it over"
"""All there is to say of most keys that are new."""

_NEW_SECTIONS = ("cluster.", "privacy.", "encrypt.secure_aggregation.")

NEW = frozenset(
    {"distributed_cache.username", "distributed_cache.password"}
    | {path for path in KEYS if path.startswith(_NEW_SECTIONS)}
)


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


def standing_of(key: str, value: Value | None = None) -> tuple[Standing, str]:
    """What becomes of a known key that has this value, or any, and why."""
    if key in UNUSED:
        return Standing.UNUSED, UNUSED[key]
    if key in NEW:
        return Standing.NEW, PASSED_OVER
    difference = DIFFERENCES.get(key)
    if difference is not None and (value is None or difference.concerns(value)):
        return Standing.DIFFERENT, difference.why
    return Standing.SUPPORTED, ""


def judge(path: str | Path, role: Role) -> Judgement:
    """What becomes of the file at `path`; `ConfigError` when it cannot be read at all."""
    document = parse(read_text(path), str(path))
    problems = _problems_of(path, role)
    mine: dict[str, Problem] = {}
    for problem in problems:
        if problem.path:
            mine.setdefault(problem.path, problem)
    findings = [
        _finding(each, entry, document, role, mine)
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
    others = tuple(problem.message for problem in problems if problem.path not in told)
    return Judgement(document.file, tuple(findings), others)


def _problems_of(path: str | Path, role: Role) -> tuple[Problem, ...]:
    try:
        if role is Role.SERVER:
            load(path, "server", environ={})
        else:
            load(path, "scheduler", environ={})
    except ConfigError as exc:
        return exc.problems
    return ()


def _finding(
    path: str, entry: Entry, document: Document, role: Role, problems: Mapping[str, Problem]
) -> Finding:
    shown = _shown(path, entry)
    if path in problems:
        why = _sentence(problems[path], document)
        return Finding(path, Standing.REFUSED, why, shown, entry.line)
    reason = why_ignored(path, document, role)
    if reason:
        return Finding(path, Standing.IGNORED, reason, shown, entry.line)
    standing, why = standing_of(path, entry.value)
    if _is_secure(document):
        why = who_refuses(path, entry.value) or why
    return Finding(path, standing, why, shown, entry.line)


def _is_secure(document: Document) -> bool:
    kind = document.entries.get("encrypt.encrypt_type")
    return kind is not None and kind.value == EncryptType.SECURE_AGGREGATION


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
