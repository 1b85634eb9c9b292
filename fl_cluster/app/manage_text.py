"""A scheduler's answers in words, for people at a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

Answer = Mapping[str, Any]


def state(answer: Answer) -> str:
    """Job, round, members and Redis, a line each."""
    detail = answer.get("detail", {})
    lines = [f"cluster  {answer.get('cluster_state', 'CLUSTER_STOP')}"]
    lines += _job_lines(detail)
    lines += _privacy_lines(answer)
    members = detail.get("members", [])
    lines += [_member_line(member) for member in members]
    if not any(member["role"] == "server" for member in members):
        lines.append("server   none is running")
    durability = detail.get("durability")
    if durability:
        lines.append(f"redis    durability {durability['level']}: {durability['meaning']}")
    return "\n".join(lines)


def _job_lines(detail: Answer) -> list[str]:
    lines = []
    job, current = detail.get("job"), detail.get("round")
    if job:
        lines.append(f"job      {job['name']}, {job['state']}, instance {job['instance']}")
    if job and current:
        deadline = current["deadline_ms"]
        until = "" if deadline is None else f", until {_clock(deadline)}"
        lines.append(
            f"round    {current['number']} of {job['rounds_total']}, {current['phase']}; "
            f"{current['cohort']} of {current['cohort_size']} devices, "
            f"{current['reports']} of {current['report_goal']} updates{until}"
        )
    return lines


def _privacy_lines(answer: Answer) -> list[str]:
    spent = answer.get("privacy")
    if not spent:
        return []
    of = "" if spent["epsilon_budget"] is None else f" of {spent['epsilon_budget']:g}"
    epsilon = "beyond any bound" if spent["epsilon"] is None else f"{spent['epsilon']:.4g}"
    end = "; nothing is left for another round" if spent["is_over"] else ""
    line = (
        f"privacy  epsilon {epsilon}{of} at delta {spent['delta']:g} after "
        f"{spent['rounds']} rounds of {spent['noise']} noise{end}"
    )
    return [line]


def _clock(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000).astimezone():%H:%M:%S}"


def _member_line(member: Answer) -> str:
    address = member["http_address"] or member["manage_address"] or member["tcp_address"]
    return (
        f"{member['role']:<8} {address}, {member['state']}, pid {member['pid']} on "
        f"{member['host']}, {member['version']} ({member['kernel']}), {member['id']}"
    )


def nodes(answer: Answer) -> str:
    """Each member with its load, as far as it is known."""
    lines = []
    for member in answer.get("nodes", []):
        lines.append(_member_line(member))
        load, link = member.get("load"), member.get("link")
        if load:
            lines.append(
                f"         {load['requests_per_s']:g} requests/s, {load['uploads_per_s']:g} "
                f"updates/s, {load['open_connections']:g} connections, "
                f"{_megabytes(load['bytes_in_flight'])} in flight, cpu {load['cpu_percent']:g} %, "
                f"memory {_megabytes(load['resident_bytes'])}"
            )
        elif link:
            lines.append(f"         no figures: {link['reason'] or link['state']}")
    return "\n".join(lines) or "no process is running"


def _megabytes(count: float) -> str:
    return f"{count / 2**20:.1f} MiB"


def explanation(answer: Answer) -> str:
    """The cause, its sentence, and what follows."""
    now_ms = time.time() * 1000
    rows = (
        ("since", _instant(answer.get("since"), now_ms)),
        ("until", _instant(answer.get("until"), now_ms)),
        ("then", answer.get("then", "")),
        ("change", answer.get("change", "")),
        ("eta", _instant(answer.get("eta"), now_ms)),
    )
    lines = [f"{answer['cause']}: {answer['message']}"]
    lines += [f"{name:<8} {text}" for name, text in rows if text]
    lines += [f"{'note':<8} {note}" for note in answer.get("notes", [])]
    return "\n".join(lines)


def _instant(at_ms: int | None, now_ms: float) -> str:
    if at_ms is None:
        return ""
    distance_s = (at_ms - now_ms) / 1000
    shown = f"{abs(distance_s):.0f} s"
    return f"{_clock(at_ms)} ({f'in {shown}' if distance_s > 0 else f'{shown} ago'})"


def command_lines(answer: Answer) -> str:
    """What to run, and where."""
    lines = [str(answer["message"])]
    for entry in answer.get("commands", []):
        lines += [f"on {entry['host']}:", f"    {entry['command']}"]
    return "\n".join(lines)


def settings(answer: Answer) -> str:
    """The run's settings, one in a line."""
    result = answer.get("result", {})
    return "\n".join(f"{name:<32} {json.dumps(value)}" for name, value in sorted(result.items()))
