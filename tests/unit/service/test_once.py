"""Lookups that many ask for are made once."""

from __future__ import annotations

import asyncio

import pytest

from fl_cluster.service.once import OnceEach


async def test_however_many_ask_one_looks_and_also_for_those_who_come_later() -> None:
    once, looks = OnceEach(2), 0

    async def look() -> int:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        return 7

    assert await asyncio.gather(*(once.get("a", look) for _ in range(5))) == [7] * 5
    assert await once.get("a", look) == 7
    assert looks == 1


async def test_a_failure_is_told_and_not_kept() -> None:
    once = OnceEach(2)

    async def fail() -> int:
        raise OSError("away")

    async def look() -> int:
        return 1

    with pytest.raises(OSError, match="away"):
        await once.get("a", fail)
    assert await once.get("a", look) == 1


async def test_a_lookup_goes_on_when_whoever_asked_first_gives_up() -> None:
    once, go = OnceEach(2), asyncio.Event()

    async def look() -> int:
        await go.wait()
        return 3

    first = asyncio.create_task(once.get("a", look))
    second = asyncio.create_task(once.get("a", look))
    await asyncio.sleep(0)
    first.cancel()
    go.set()

    assert await second == 3
    assert first.cancelled() or await asyncio.wait([first])


async def test_only_the_newest_are_kept() -> None:
    once, looks = OnceEach(2), []

    async def look(name: str) -> str:
        looks.append(name)
        return name

    for name in ("a", "b", "a", "c", "a", "b"):
        await once.get(name, lambda name=name: look(name))

    assert looks == ["a", "b", "c", "b"]
