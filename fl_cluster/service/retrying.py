"""Asking a store again until it answers: for calls that may be repeated and must be known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fl_cluster.errors import StoreUnavailable

Answer = TypeVar("Answer")

PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""How long to wait before asking again; the last one for ever after."""


async def until_known(
    ask: Callable[[int], Awaitable[Answer]], note: Callable[[StoreUnavailable], None]
) -> Answer:
    """The answer, however long the store is away.

    `ask` is told how often it was asked before; `note` hears of the first fault, and of none
    that repeats it.  Any fault but `StoreUnavailable` ends it.
    """
    attempt = 0
    while True:
        try:
            return await ask(attempt)
        except StoreUnavailable as exc:
            pause = PAUSES_S[min(attempt, len(PAUSES_S) - 1)]
            attempt += 1
            if attempt == 1:
                note(exc)
            await asyncio.sleep(pause)
