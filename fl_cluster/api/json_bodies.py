"""Bodies that operators send: read within bounds, and understood or refused with a sentence.

A body of any length up to the original's limit is read to its end, so that its sender hears
the answer; of a long one only the length is kept, because no legal request is long.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from aiohttp import web

from fl_cluster.api.json_complaint import complain

LONGEST_BYTES = 104_857_600
"""The original's limit, and the one that its sentence names."""

KEPT_BYTES = 1024 * 1024
"""Longer than any request that means something."""

EXPLAINED_BYTES = 64 * 1024
READ_S = 60.0

EMPTY = "The post message size is invalid."
TOO_LONG = "The post message is bigger than 100mb."
LONG = "The post message is bigger than 1mb, and no request needs as much."
NOT_JSON = "Illegal JSON format:"


class Refused(Exception):
    """A request cannot be carried out; the text says why, in the words operators know."""


async def read_json(request: web.BaseRequest) -> Any:
    """The value that the body holds; `Refused` when it holds none."""
    body = await _read(request)
    if not body:
        raise Refused(EMPTY)
    return parse(body)


async def _read(request: web.BaseRequest) -> bytes:
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(READ_S):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size <= KEPT_BYTES:
                    body += chunk
                if size > LONGEST_BYTES:
                    raise Refused(TOO_LONG)
    except TimeoutError as exc:
        raise ConnectionResetError("the body did not come in time") from exc
    if size > KEPT_BYTES:
        raise Refused(LONG)
    return bytes(body)


def parse(body: bytes) -> Any:
    """The value that a JSON text holds; `Refused` says in the original's words why it is none."""
    try:
        return json.loads(
            body.removeprefix(b"\xef\xbb\xbf").decode(),
            parse_float=_finite,
            parse_constant=_constant,
        )
    except (ValueError, RecursionError) as exc:
        detail = complain(body) if len(body) <= EXPLAINED_BYTES else None
        raise Refused(NOT_JSON + (detail or str(exc))) from exc


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"[json.exception.out_of_range.406] number overflow parsing '{text}'")
    return number


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
