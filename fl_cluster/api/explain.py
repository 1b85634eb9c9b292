"""What operators want to know: why the round is not moving, and how the members are."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp import web

from fl_cluster.api.json_bodies import Refused
from fl_cluster.api.operator_answers import BAD_NODES, member_detail, success
from fl_cluster.errors import StoreCorrupt
from fl_cluster.service.explanation import Explanation
from fl_cluster.service.inquiry import Inquiry
from fl_cluster.service.link_keeper import LinkStatus
from fl_cluster.store.member_port import MemberStore
from fl_cluster.telemetry.load import Load

logger = logging.getLogger(__name__)


class Fleet(Protocol):
    """Knows the servers by the links that are kept to them."""

    def loads(self) -> Mapping[str, Load]:
        """Member id -> load as last heard, of the servers that are linked now."""

    def links(self) -> Mapping[str, LinkStatus]:
        """Member id -> how the link to it stands, of the servers that are listed."""


class ExplainHandlers:
    """Handlers of the calls that explain; they change nothing."""

    def __init__(self, inquiry: Inquiry, members: MemberStore, fleet: Fleet) -> None:
        self._inquiry = inquiry
        self._members = members
        self._fleet = fleet

    async def explain(self, _request: web.BaseRequest) -> web.StreamResponse:
        """What the round waits for, since when, until when, what then, and what to change."""
        found = await self._inquiry.look()
        return success(found.sentence, **_explanation(found))

    async def nodes(self, _request: web.BaseRequest) -> web.StreamResponse:
        """Every live process, with its load and its link where there is one."""
        try:
            members = await self._members.live()
        except StoreCorrupt as exc:
            logger.error("the members cannot be read: %s", exc)
            raise Refused(BAD_NODES) from exc
        loads, links = self._fleet.loads(), self._fleet.links()
        shown = []
        for member in members:
            load, link = loads.get(member.id), links.get(member.id)
            detail: dict[str, Any] = member_detail(member)
            detail["load"] = None if load is None else load.figures()
            detail["link"] = (
                None if link is None else {"reason": link.reason, "state": link.state.value}
            )
            shown.append(detail)
        return success("Get nodes successful.", nodes=shown)


def _explanation(found: Explanation) -> dict[str, Any]:
    """All of it but the sentence; instants are ms since the epoch, by the store's clock."""
    fields = {
        entry.name: getattr(found, entry.name)
        for entry in dataclasses.fields(found)
        if entry.name != "sentence"
    }
    return {**fields, "cause": found.cause.value, "notes": list(found.notes)}
