"""Lookups that many ask for and one makes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class OnceEach:
    """The newest lookups by their names; one that failed is made again."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._tasks: OrderedDict[Hashable, asyncio.Task[Any]] = OrderedDict()

    async def get(self, key: Hashable, load: Callable[[], Awaitable[T]]) -> T:
        """What `load` finds, or found when somebody asked before.

        It goes on when whoever asked first gives up.
        """
        task = self._tasks.get(key)
        if task is None or (task.done() and _has_failed(task)):
            task = self._tasks[key] = asyncio.ensure_future(load())
        self._tasks.move_to_end(key)
        while len(self._tasks) > self._kept:
            self._tasks.popitem(last=False)
        found: T = await asyncio.shield(task)
        return found


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None
