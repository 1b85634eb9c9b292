"""`fl-cluster state`: ask a scheduler, and show its answer to people or to programs."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fl_cluster.config.addresses import parse_address
from fl_cluster.errors import PeerProtocolError, StartupError, StoreUnavailable

TIMEOUT_S = 10.0
ANSWER_BYTES = 4 * 1024 * 1024


def fetch(manage_address: str) -> Mapping[str, Any]:
    """The scheduler's full answer; a fault says why there is none."""
    try:
        address = parse_address(manage_address)
    except ValueError as exc:
        raise StartupError(f"--manage {manage_address}: {exc}") from exc
    url = f"http://{address}/state?detail=1"
    # A proxy that the environment names is for the world outside, not for the cluster.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            body = answer.read(ANSWER_BYTES)
    except urllib.error.HTTPError as exc:
        with exc:
            body = exc.read(ANSWER_BYTES)
    except OSError as exc:
        reason = getattr(exc, "reason", exc)
        raise StoreUnavailable(f"no scheduler answers at {address}", str(reason)) from exc
    try:
        decoded = json.loads(body)
    except ValueError as exc:
        raise PeerProtocolError(f"{url}: the answer is not JSON: {body[:80]!r}") from exc
    if not isinstance(decoded, dict):
        raise PeerProtocolError(f"{url}: expected a JSON object, found {body[:80]!r}")
    return decoded


def state(manage_address: str, output: str) -> tuple[str, int]:
    """What to print and the exit code: 0 when the scheduler could tell, 3 when it could not."""
    answer = fetch(manage_address)
    code = 0 if answer.get("code") == "0" else 3
    if output == "json":
        return json.dumps(answer, indent=2, sort_keys=True, ensure_ascii=False), code
    return describe(answer), code


def describe(answer: Mapping[str, Any]) -> str:
    """The answer in words."""
    if answer.get("code") != "0":
        return str(answer.get("error_message", "the scheduler gave no reason"))
    detail = answer.get("detail", {})
    lines = [f"cluster  {answer.get('cluster_state', 'CLUSTER_STOP')}"]
    lines += _job_lines(detail)
    members = detail.get("members", [])
    lines += [_member_line(member) for member in members]
    if not any(member["role"] == "server" for member in members):
        lines.append("server   none is running")
    durability = detail.get("durability")
    if durability:
        lines.append(f"redis    durability {durability['level']}: {durability['meaning']}")
    return "\n".join(lines)


def _job_lines(detail: Mapping[str, Any]) -> list[str]:
    lines = []
    job, current = detail.get("job"), detail.get("round")
    if job:
        lines.append(f"job      {job['name']}, {job['state']}, instance {job['instance']}")
    if job and current:
        lines.append(
            f"round    {current['number']} of {job['rounds_total']}, {current['phase']}; "
            f"cohort {current['cohort_size']}, goal {current['report_goal']} updates"
            f"{_until(current['deadline_ms'])}"
        )
    return lines


def _until(deadline_ms: int | None) -> str:
    if deadline_ms is None:
        return ""
    at = datetime.fromtimestamp(deadline_ms / 1000).astimezone()
    return f", until {at:%H:%M:%S}"


def _member_line(member: Mapping[str, Any]) -> str:
    address = member["http_address"] or member["manage_address"] or member["tcp_address"]
    return (
        f"{member['role']:<8} {address}, {member['state']}, pid {member['pid']} on "
        f"{member['host']}, {member['version']} ({member['kernel']}), {member['id']}"
    )
