"""`fl-cluster migrate check FILE`: what a file written for the original means here, key by key.

Only the file counts: neither the environment nor the command line is laid over it, and no
other file is looked at.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fl_cluster.api import paths
from fl_cluster.app import clear_text
from fl_cluster.config.addresses import parse_cache_address
from fl_cluster.config.compatibility import Finding, Judgement, Standing, judge
from fl_cluster.config.differences import PASSED_OVER
from fl_cluster.config.problems import Remark, render_problems
from fl_cluster.config.schema import Role
from fl_cluster.config.tables import Values
from fl_cluster.errors import ConfigError, ExitCode
from fl_cluster.telemetry.summary import ParticipationLevels

HEADINGS = {
    Standing.REFUSED: "refused, as nothing can be run like this",
    Standing.IGNORED: "ignored, as no such key is read from the file, here or there",
    Standing.CHANGED: "changed: another value takes its place",
    Standing.DIFFERENT: "supported, and different",
    Standing.WARNED: "supported, with a warning in the log",
    Standing.NOT_LOOKED_AT: "not looked at",
    Standing.UNUSED: "without effect",
    Standing.NEW: "new: the original passes it over",
    Standing.SUPPORTED: "supported",
}
"""In the order in which they are shown."""


def check(file: str, role: str, form: str) -> int:
    """Say what becomes of the file.

    0 when a job can run with it, 2 when it is refused.
    """
    try:
        judgement = judge(file, Role(role), (_levels, _prefix, _way_to_redis))
    except ConfigError as exc:
        sys.stderr.write(render_problems(exc))
        return ExitCode.CONFIGURATION
    shown = json.dumps(_as_data(judgement), indent=2) if form == "json" else _as_text(judgement)
    sys.stdout.write(f"{shown}\n")
    return _exit_code(judgement)


def _levels(values: Values) -> Iterator[Remark]:
    path = "summary.participation_time_level"
    if path in values:
        _, wrong = ParticipationLevels.parse(str(values[path]))
        if wrong is not None:
            yield Remark(wrong, (path,), is_change=True)


def _prefix(values: Values) -> Iterator[Remark]:
    path = "client.http_url_prefix"
    useless = paths.complaint(str(values.get(path, "")))
    if useless is not None:
        yield Remark(useless, (path,))


def _way_to_redis(values: Values) -> Iterator[Remark]:
    path = "distributed_cache.address"
    is_tls = values["enable_ssl"] is True
    if not (is_tls and values[path]):
        return
    address = parse_cache_address(str(values[path])).encrypted()
    clear = clear_text.complaint(address, is_tls=is_tls)
    if clear is not None:
        yield Remark(clear, (path,))


def _exit_code(judgement: Judgement) -> ExitCode:
    is_refused = judgement.worst is Standing.REFUSED
    return ExitCode.CONFIGURATION if is_refused else ExitCode.DONE


def _as_data(judgement: Judgement) -> dict[str, Any]:
    return {
        "file": judgement.file,
        "runs": _exit_code(judgement) is ExitCode.DONE,
        "problems": list(judgement.problems),
        "keys": [
            {
                "key": each.key,
                "line": each.line,
                "value": each.value,
                "standing": each.standing.value,
                "why": each.why,
            }
            for each in judgement.findings
        ],
    }


def _as_text(judgement: Judgement) -> str:
    lines = [_summary(judgement)]
    for problem in judgement.problems:
        lines += ["", problem]
    for standing, heading in HEADINGS.items():
        findings = judgement.of(standing)
        if findings:
            lines += ["", f"{heading}:"]
            lines += _rows(findings)
    return "\n".join(lines)


def _summary(judgement: Judgement) -> str:
    counts = Counter(each.standing for each in judgement.findings)
    verdict = {
        ExitCode.DONE: "a job can run with this file as it is",
        ExitCode.CONFIGURATION: "this file is refused",
    }[_exit_code(judgement)]
    parts = [f"{counts[each]} {each}" for each in HEADINGS if counts[each]]
    return f"{judgement.file}: {verdict} ({', '.join(parts)})"


def _rows(findings: tuple[Finding, ...]) -> Iterator[str]:
    width = max(len(str(each.line)) for each in findings)
    for each in findings:
        line = str(each.line or "").rjust(width)
        value = f": {each.value}" if each.value else ""
        yield f"  {line}  {each.key}{value}"
        if each.why != PASSED_OVER:
            for sentence in each.why.splitlines():
                yield f"  {'':{width}}    {sentence}"
