"""The command line: the short list, one scenario, or everything at once for so many minutes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import memory
from harness.checks import Violation
from harness.diary import Word
from harness.machine import end
from harness.scenarios import LIMIT_S, SHORT_LIST, Scenario, everything_at_once
from harness.world import World, opened

PROGRESS_S = 10.0


@dataclass(slots=True)
class Sum:
    """What several scenarios come to together."""

    faults: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    abandoned: int = 0
    acknowledged: int = 0
    lost: int = 0
    twice: int = 0
    stuck: int = 0

    def add(self, world: World) -> None:
        """Take in what one world has seen."""
        tally = world.witness.tally
        self.faults.update(world.faults)
        self.troubles.update(world.troubles)
        self.rounds += tally.rounds
        self.abandoned += tally.abandoned
        self.acknowledged += tally.acknowledged
        self.lost += tally.lost
        self.twice += tally.twice
        self.stuck += tally.stuck

    def line(self, seed: str) -> str:
        """The last line."""
        faults = self.faults.total() + self.troubles.total()
        return (
            f"chaos: {faults} faults injected, {self.rounds} rounds finished,"
            f" {self.acknowledged} updates acknowledged, lost {self.lost},"
            f" counted twice {self.twice}, stuck {self.stuck} (seed {seed})"
        )


def tell(text: str) -> None:
    """Show a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def progress(world: World, name: str) -> None:
    """A line now and then, for ever."""
    while True:
        await asyncio.sleep(PROGRESS_S)
        await world.order(())
        tally, seconds = world.witness.tally, time.monotonic() - world.began_s
        tell(
            f"{name}: {seconds:.0f} s, {world.witness.story()}; {tally.acknowledged} acknowledged,"
            f" {tally.abandoned} abandoned, faults: {world.faults.total()} to processes,"
            f" {world.troubles.total()} to connections"
        )


async def _play(world: World, scenario: Scenario) -> None:
    """The scenario with everybody who watches; the first Violation ends it."""
    await world.start()
    body = asyncio.create_task(scenario.body(world))
    watchers = [
        asyncio.create_task(each)
        for each in (world.watch(), world.revive(), progress(world, scenario.name))
    ]
    try:
        await asyncio.wait([body, *watchers], return_when=asyncio.FIRST_COMPLETED)
        for task in (*watchers, body):
            if task.done():
                task.result()
    finally:
        await end((body, *watchers))
    await world.conclude()


async def _in_time(playing: Coroutine[Any, Any, None], limit_s: float) -> None:
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            await playing
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise Violation("in time", f"not over after {limit_s:.0f} s") from exc


def _report(world: World, scenario: Scenario) -> None:
    tally = world.witness.tally
    faults = ", ".join(f"{name} {count}" for name, count in sorted(world.faults.items()))
    troubles = ", ".join(f"{name} {count}" for name, count in sorted(world.troubles.items()))
    tell(f"{scenario.name}: {tally.rounds} rounds, {tally.abandoned} of them abandoned,")
    tell(f"  {tally.acknowledged} acknowledged, {tally.counted} in a model; {tally.slowest()}")
    tell(f"  to processes: {faults or 'nothing'}")
    tell(f"  to connections: {troubles or 'nothing'}")
    tell(
        f"  FlatBuffers repeats refused: {tally.words[Word.REPEAT_REFUSED]},"
        f" devices that began again: {tally.words[Word.STUMBLED]}"
    )
    for story in tally.stories:
        tell(f"  {story}")
    growths = memory.growths(world.everyone)
    if growths:
        tell(f"  memory: {'; '.join(str(each) for each in growths)}")


async def run(scenario: Scenario, total: Sum, logs: Path | None) -> bool:
    """Run one scenario; whether every invariant held."""
    tell(f"{scenario.name}: {scenario.summary} (seed {scenario.seed})")
    async with opened(scenario.dimensions, scenario.seed, has_disk=scenario.has_disk) as world:
        try:
            await _in_time(_play(world, scenario), scenario.limit_s)
        except Violation as violation:
            for process in world.everyone:
                tell(process.last_lines())
            tell(f"VIOLATED in {scenario.name}, seed {scenario.seed}: {violation}")
            return False
        finally:
            total.add(world)
            if logs is not None:
                shutil.copytree(world.folder, logs / scenario.name, dirs_exist_ok=True)
        _report(world, scenario)
    return True


def chosen(options: argparse.Namespace) -> list[Scenario]:
    """The scenarios that the command line asks for."""
    if options.minutes:
        body = partial(everything_at_once, seconds=60.0 * options.minutes)
        summary = f"all kinds of faults at once for {options.minutes:g} minutes"
        limit_s = 60.0 * options.minutes + LIMIT_S
        return [Scenario("long", summary, options.seed or int(time.time()), body, limit_s=limit_s)]
    scenarios = [each for each in SHORT_LIST if options.scenario in (each.name, None)]
    if options.seed:
        scenarios = [replace(each, seed=options.seed) for each in scenarios]
    return scenarios


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Faults on purpose; every round is checked.")
    names = [each.name for each in SHORT_LIST]
    made.add_argument("--scenario", choices=names, help="only this one of the short list")
    made.add_argument("--minutes", type=float, default=0.0, help="everything at once, for so long")
    made.add_argument("--logs", type=Path, help="folder to keep all files of the run in")
    made.add_argument("--seed", type=int, default=0, help="of the plan; each scenario has its own")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when every invariant held."""
    options = parser().parse_args(arguments)
    scenarios, total = chosen(options), Sum()

    async def all_of_them() -> bool:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        return all([await run(scenario, total, options.logs) for scenario in scenarios])

    with contextlib.suppress(asyncio.CancelledError):
        is_right = asyncio.run(all_of_them())
        seeds = ", ".join(str(scenario.seed) for scenario in scenarios)
        tell(total.line(seeds))
        return 0 if is_right else 1
    tell("stopped")
    return 130
