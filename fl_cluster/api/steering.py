"""What operators do to a job: enable, disable, begin a new run, send servers away or add some.

The first three answer word for word as the original does, in its order of checks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from fl_cluster.api.json_bodies import EMPTY, Refused, read_json
from fl_cluster.api.operator_answers import BAD_NODES, inner_error, no_job, success
from fl_cluster.config.changes import merge
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import ConfigError, FlClusterError, StoreCorrupt
from fl_cluster.lifecycle.membership import Member, Role
from fl_cluster.rounds.events import Verdict
from fl_cluster.service.methods import why_impossible
from fl_cluster.service.steering import Steering
from fl_cluster.store.member_port import MemberStore
from fl_cluster.store.ports import JobRecord

logger = logging.getLogger(__name__)

NOTHING_LEFT = "another round would exceed the privacy budget of the job; spent"

MAX_MORE = 1_000
"""Most servers to add at once, as on the command line."""

CommandLines = Callable[[Sequence[Member], int], Sequence[Mapping[str, str]]]
"""Live members and how many more servers are wanted -> host and command line, one per host."""

ENABLE = {
    Verdict.JOB_FINISHED: "The instance is completed and cannot be enabled.",
    Verdict.ALREADY_ENABLED: "The instance has already been enabled.",
}
DISABLE = {
    Verdict.JOB_FINISHED: "The instance is completed and cannot be disabled.",
    Verdict.ALREADY_DISABLED: "The instance has already been disabled.",
}


class SteeringHandlers:
    """Handlers of the calls that change something."""

    def __init__(
        self,
        job_name: str,
        steering: Steering,
        members: MemberStore,
        command_lines: CommandLines,
    ) -> None:
        self._job_name = job_name
        self._steering = steering
        self._members = members
        self._command_lines = command_lines

    async def enable(self, _request: web.BaseRequest) -> web.StreamResponse:
        """Let a disabled job go on."""
        try:
            verdict = await self._steering.enable()
        except StoreCorrupt as exc:
            raise _damaged("enable cluster", exc) from exc
        self._refuse(verdict, ENABLE)
        return success("start enabling FL-Server successful.")

    async def disable(self, _request: web.BaseRequest) -> web.StreamResponse:
        """Stop the job until it is enabled."""
        try:
            verdict = await self._steering.disable()
        except StoreCorrupt as exc:
            raise _damaged("disable cluster", exc) from exc
        self._refuse(verdict, DISABLE)
        return success("start disabling FL-Server successful.")

    def _refuse(self, verdict: Verdict, sentences: Mapping[Verdict, str]) -> None:
        if verdict is not Verdict.ACCEPTED:
            raise Refused(sentences.get(verdict, no_job(self._job_name)))

    async def new_instance(self, request: web.BaseRequest) -> web.StreamResponse:
        """Begin a new run, with some settings changed, from the newest weights."""
        asked = await read_json(request)
        async with self._steering.one_restart():
            base = await self._find_base()
            parameters = _merge(base, asked)
            if (why := why_impossible(parameters)) is not None:
                raise Refused(f"New instance failed: no round could end well: {why}")
            try:
                if (spent := await self._steering.overspent(parameters)) is not None:
                    raise Refused(f"New instance failed: {NOTHING_LEFT}: {spent}")
                verdict = await self._steering.restart(base, parameters)
            except StoreCorrupt as exc:
                raise _damaged("new instance", exc) from exc
        self._refuse(verdict, {})
        return success("Start new instance successful.")

    async def _find_base(self) -> JobRecord:
        try:
            base = await self._steering.job()
        except StoreCorrupt as exc:
            logger.error("the job's record cannot be read: %s", exc)
            sentence = "New instance failed: Failed to get current hyper params config"
            raise Refused(sentence) from exc
        except FlClusterError as exc:
            # As in the original, a store that does not answer looks like one without the job.
            logger.warning("the job's record cannot be read: %s", exc)
            base = None
        if base is None:
            raise Refused(f"New instance failed: {no_job(self._job_name)}")
        return base

    async def scale_in(self, request: web.BaseRequest) -> web.StreamResponse:
        """Let servers end once they have finished what they hold."""
        names = _names(await read_json(request))
        try:
            members = await self._members.live()
        except StoreCorrupt as exc:
            logger.error("the members cannot be read: %s", exc)
            raise Refused(BAD_NODES) from exc
        known = {member.id for member in members if member.role is Role.SERVER}
        unknown = [name for name in names if name not in known]
        if unknown:
            running = ", ".join(sorted(known)) or "none"
            raise Refused(
                f"No server was told to drain. Unknown node_ids: {', '.join(unknown)}; "
                f"the servers that run are: {running}"
            )
        answers = await self._steering.drain(names)
        failed = [f"{name}: {error}" for name, error in answers.items() if error is not None]
        told = [name for name, error in answers.items() if error is None]
        if failed:
            also = f" These were: {', '.join(told)}." if told else ""
            raise Refused(f"Not every server was told to drain. {'; '.join(failed)}.{also}")
        return success("The servers finish what they hold and end.", node_ids=told)

    async def scale_out(self, request: web.BaseRequest) -> web.StreamResponse:
        """The command lines that start more servers."""
        count = await _read_count(request)
        lines = self._command_lines(await self._members.live(), count)
        message = (
            "Run one of the commands on its host; the server that it starts takes part at once."
        )
        if count > 1:
            message = "Run one of the commands on its host; the servers take part at once."
        return success(message, commands=list(lines))


def _damaged(what: str, fault: FlClusterError) -> Refused:
    logger.error("failed to %s: %s", what, fault)
    return Refused(inner_error(what))


def _merge(base: JobRecord, asked: Any) -> SharedParameters:
    try:
        current = json.loads(base.hyper_parameters)
        SharedParameters.parse(base.hyper_parameters)
    except (ValueError, KeyError, TypeError) as exc:
        logger.error("the job's settings cannot be read: %r", exc)
        sentence = "New instance failed: Failed to parse current hyper params config"
        raise Refused(sentence) from exc
    if not isinstance(asked, dict):
        raise Refused("New instance failed: Expect hyper param config to be json object")
    try:
        merged = merge(current, asked)
    except ConfigError as exc:
        raise Refused(f"New instance failed: {exc.problems[0]}") from exc
    return SharedParameters.parse(json.dumps(merged, sort_keys=True, separators=(",", ":")))


def _names(asked: Any) -> list[str]:
    """The ids to drain, each once."""
    wrong = "node_ids should be a list of the ids of servers, as in /state"
    names = asked.get("node_ids") if isinstance(asked, dict) else None
    if not isinstance(names, list) or not names:
        raise Refused(wrong)
    if not all(isinstance(name, str) and name for name in names):
        raise Refused(wrong)
    return list(dict.fromkeys(names))


async def _read_count(request: web.BaseRequest) -> int:
    """How many servers are wanted: `server_num` of the body, or `n` of the query, else 1."""
    query = request.rel_url.query.get("n", "1")
    is_number = query.isascii() and query.isdecimal() and len(query) <= len(str(MAX_MORE))
    count: object = int(query) if is_number else query
    try:
        asked = await read_json(request)
        count = asked.get("server_num", count) if isinstance(asked, dict) else None
    except Refused as exc:
        if str(exc) != EMPTY:
            raise
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_MORE:
        raise Refused(f"server_num should be a number from 1 to {MAX_MORE}")
    return count
