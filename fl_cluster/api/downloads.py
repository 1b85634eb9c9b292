"""GET /model/{round}: the model of a round as a file that proxies can carry.

It holds every tensor, as what a round starts from does, in the `.npz` that checkpoints are
written in: equal models are equal files, on every server and after every restart, so that
parts of one may come from several servers.
A round's model never changes, but a new run counts its rounds anew.  An address that names the
model by its SHA-256 is good for ever; one that does not is asked about again after a minute.
Not here: anything that counts, admits or waits.  Existing devices do not know this path.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from aiohttp import web

from fl_cluster.api.gatekeeper import Gatekeeper
from fl_cluster.api.paths import ways_to_write
from fl_cluster.api.plain_http import Answer, Handler
from fl_cluster.api.refusals import Refusal
from fl_cluster.api.replies import ReadyBytes
from fl_cluster.errors import StoreCorrupt, StoreUnavailable
from fl_cluster.service.view import JobView
from fl_cluster.store.model_files import npz_bytes
from fl_cluster.store.ports import ModelRecord

FILE_TYPE = "application/octet-stream"
TEXT_TYPE = "text/plain; charset=utf-8"
FOR_EVER_S = 31_536_000
FOR_NOW_S = 60

READY_FILES = 2
"""The newest, and the one before it while devices still ask for it."""

_NUMBER = re.compile(r"0|[1-9]\d{0,9}")
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.IGNORECASE)

logger = logging.getLogger(__name__)


class FileAnswer(Answer):
    """An answer to HEAD is its head, as everybody but old devices expects."""

    has_body_for_head = False


class Downloads:
    """Hands out models as files; made once per member."""

    def __init__(self, view: JobView, gatekeeper: Gatekeeper) -> None:
        self._view = view
        self._gatekeeper = gatekeeper
        self._files = ReadyBytes(READY_FILES)

    def folders(self, url_prefix: str) -> dict[str, Handler]:
        """Path without its last part -> handler."""
        return dict.fromkeys(ways_to_write(url_prefix, "model"), self.get)

    async def get(self, request: web.BaseRequest) -> web.StreamResponse:
        """The file, a part of it, or one sentence that says why not."""
        barred = self._gatekeeper.judge(request)
        if barred is not None:
            return _barred(barred)
        if request.method not in ("GET", "HEAD"):
            sentence = f"A model can be read, and {request.method} is no way to."
            return _refuse(405, sentence, {"Allow": "GET, HEAD"})
        name = request.rel_url.path.rpartition("/")[2]
        if not _NUMBER.fullmatch(name):
            return _refuse(404, f"Expected the number of a round in /model/NUMBER, found {name!r}.")
        try:
            record = await self._find(int(name))
            if record is None:
                return _refuse(404, self._not_kept(name))
            digest = request.rel_url.query.get("sha256")
            if digest not in (None, record.digest):
                return _refuse(404, f"The model of round {name} has SHA-256 {record.digest}.")
            return await self._hand_out(request, record, is_named=digest is not None)
        except (StoreUnavailable, StoreCorrupt) as exc:
            logger.debug("%s is refused for now: %s", request.path, exc)
            return _refuse(503, "The model cannot be read now.", {"Retry-After": "1"})

    async def _find(self, number: int) -> ModelRecord | None:
        """The record of a round's model; another member may have made it a moment ago."""
        if number > self._view.base.record.number:
            await self._view.refresh()
        return self._view.record_of(number)

    def _not_kept(self, name: str) -> str:
        *others, last = map(str, self._view.kept)
        kept = f"those of rounds {', '.join(others)} and {last} are" if others else f"{last} is"
        return f"The model of round {name} is not kept; {kept}."

    async def _hand_out(
        self, request: web.BaseRequest, record: ModelRecord, *, is_named: bool
    ) -> Answer:
        tag = f'"{record.digest}"'
        headers = {
            "ETag": tag,
            "Cache-Control": self._caching(is_named=is_named),
            "Accept-Ranges": "bytes",
        }
        if _is_known(request.headers.get("If-None-Match"), tag):
            return FileAnswer(b"", status=304, headers=headers)
        headers["Content-Disposition"] = f'attachment; filename="round-{record.number}.npz"'
        body = await self._file(record)
        span = _span(request.headers, tag, len(body))
        if span is None:
            return FileAnswer(body, headers=headers, content_type=FILE_TYPE)
        if not span:
            end = {"Content-Range": f"bytes */{len(body)}"}
            return _refuse(416, f"The file has {len(body)} bytes.", end)
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{len(body)}"
        part = memoryview(body)[span.start : span.stop]
        return FileAnswer(part, status=206, headers=headers, content_type=FILE_TYPE)

    def _caching(self, *, is_named: bool) -> str:
        whose = "private" if self._gatekeeper.is_guarded else "public"
        return f"{whose}, max-age={FOR_EVER_S if is_named else FOR_NOW_S}, immutable"

    async def _file(self, record: ModelRecord) -> bytes:
        body = self._files.peek((record.digest,))
        if body is not None:
            return body
        stored = await self._view.model(record.number)
        if stored is None or stored.record.digest != record.digest:
            raise StoreCorrupt(f"model {record.number} is gone")
        model = stored.model
        size = model.layout.size
        return await self._files.get((record.digest,), size, lambda: npz_bytes(model.arrays()))


def _refuse(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Answer:
    told = {"Cache-Control": "no-store", **(headers or {})}
    return FileAnswer(f"{sentence}\n".encode(), status=status, headers=told, content_type=TEXT_TYPE)


def _barred(refusal: Refusal) -> Answer:
    headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
    return _refuse(refusal.status, refusal.text, headers)


def _is_known(listed: str | None, tag: str) -> bool:
    """Whether `If-None-Match` has the tag; a weak one is as good for this."""
    if listed is None:
        return False
    tags = {each.strip().removeprefix("W/") for each in listed.split(",")}
    return tag in tags or "*" in tags


def _span(headers: Mapping[str, str], tag: str, size: int) -> range | None:
    """Which bytes are asked for: None for all, an empty range for none that there are.

    Several ranges, other units and what is no range are passed over, as the standard allows.
    """
    asked = _RANGE.fullmatch(headers.get("Range", "").replace(" ", ""))
    if asked is None or headers.get("If-Range", tag) != tag:
        return None
    first, last = asked.groups()
    if not first:
        if not last:
            return None
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return range(min(int(first), size), min(int(last) + 1, size) if last else size)
