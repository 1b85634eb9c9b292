"""Which of the bodies that are being read must go, so that others come in.

Two things are watched, and neither while nobody waits and there is room:

- what *dawdles*: it holds a share of the budget, keeps others waiting, and comes many times more
  slowly than bodies came lately, or begin to come.  Paces are compared with each other, so where
  all are slow nobody goes but who has stopped; whoever is fast by any measure, or will be whole
  soon, stays.
- what is *surplus*: more than there is room for of bodies that have no share yet, the slowest
  first.  They hold no budget, but bytes all the same.

Pure: times come from the caller, in seconds of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

START_BYTES = 64 * 1024
"""A body that is longer waits for its share; one that is not is there before it could wait."""

PATIENCE_S = 1.0
LEAST_PATIENCE_S = 0.25
CROWD = 16
"""A pace is taken over this long: the shorter, the more wait, down to the least at some fifty."""

TIMES_SLOWER = 4
FAST_BYTES_PER_S = 2**20
"""Whoever comes as fast as this never dawdles."""

SOON_S = 1.0
"""Whoever will be whole within this does not either."""

REMEMBERED_S = 30.0
"""How long the best pace of a whole body is what others are held against."""

ENOUGH_STARTED_BYTES = 32 * 2**20
"""What bodies without a share may hold together before the slowest go, that are not `YOUNG_S`."""

YOUNG_S = 1.0
MOST_STARTED_BYTES = 64 * 2**20
"""What they may hold together at all."""


class Reading:
    """A body on its way."""

    __slots__ = ("_before", "_held", "_since", "began_at", "length", "received")

    def __init__(self, length: int, now: float) -> None:
        self.length = length
        self.received = 0
        """Whoever reads it counts here."""
        self.began_at = self._since = now
        self._before = 0
        self._held = (now, 0)

    def hold(self, now: float) -> None:
        """It has its share from here on."""
        self._held = (now, self.received)
        self.begin_window(now)

    def begin_window(self, now: float) -> None:
        """Its pace counts from here."""
        self._since, self._before = now, self.received

    def window_s(self, now: float) -> float:
        """How long its pace has been taken."""
        return now - self._since

    def pace(self, now: float) -> float:
        """Bytes per second since its window began."""
        return _per_second(self.received - self._before, now - self._since)

    def first_pace(self, now: float) -> float:
        """Bytes per second since it began."""
        return _per_second(self.received, now - self.began_at)

    def held_pace(self, now: float) -> float:
        """Bytes per second since it has its share."""
        since, before = self._held
        return _per_second(self.received - before, now - since)

    def is_whole_soon(self, now: float) -> bool:
        """Whether the rest takes no longer than `SOON_S` at its pace."""
        return self.length - self.received <= self.pace(now) * SOON_S


def _per_second(count: int, seconds: float) -> float:
    return count / max(seconds, 1e-3)


class Paces:
    """All bodies of one reader that are not whole yet."""

    def __init__(self) -> None:
        self._starting: set[Reading] = set()
        """Of which the first bytes are there, and not enough of them."""
        self.started_bytes = 0
        """What those hold."""
        self._waiting: dict[Reading, float] = {}
        """Those that wait for a share, with the pace at which they began to come."""
        self._holding: set[Reading] = set()
        self._best: tuple[float, float] | None = None
        """The best pace of a whole body, and when that was."""

    @property
    def is_crowded(self) -> bool:
        """Whether anybody might have to go."""
        return bool(self._waiting) or self.started_bytes > ENOUGH_STARTED_BYTES

    def start(self, reading: Reading) -> None:
        """Its first bytes are there, and not enough of them."""
        self._starting.add(reading)
        self.started_bytes += reading.received

    def start_on(self, reading: Reading, count: int) -> bool:
        """So many more are there; False when there is no room for them."""
        reading.received += count
        self.started_bytes += count
        return self.started_bytes <= MOST_STARTED_BYTES

    def start_no_more(self, reading: Reading) -> None:
        """Enough of it is there, or it has given up."""
        self._starting.discard(reading)
        self.started_bytes -= reading.received

    def wait(self, reading: Reading, now: float) -> None:
        """It has begun, and waits for its share."""
        self._waiting[reading] = reading.first_pace(now)

    def wait_no_more(self, reading: Reading) -> None:
        """It has its share, or has given up."""
        del self._waiting[reading]

    def hold(self, reading: Reading, now: float) -> None:
        """It has its share from here on."""
        reading.hold(now)
        self._holding.add(reading)

    def hold_no_more(self, reading: Reading) -> None:
        """It is not read any more."""
        self._holding.discard(reading)

    def complete(self, reading: Reading, now: float) -> None:
        """It is whole: others have to be about as fast for a while."""
        pace = reading.held_pace(now)
        if pace >= self._best_pace(now):
            self._best = (pace, now)

    def resume(self, now: float) -> None:
        """Nothing was read for a while, which was nobody's fault."""
        for reading in self._holding:
            reading.begin_window(now)

    def dawdling(self, now: float) -> list[Reading]:
        """Holders that are much slower than others, the slowest first, one for each that waits."""
        if not self._waiting:
            return []
        least = self._least_pace(now)
        patience_s = max(LEAST_PATIENCE_S, PATIENCE_S / (1 + len(self._waiting) / CROWD))
        found = []
        for reading in self._holding:
            if reading.window_s(now) < patience_s:
                continue
            if reading.pace(now) < least and not reading.is_whole_soon(now):
                found.append(reading)
            else:
                reading.begin_window(now)
        found.sort(key=lambda each: each.pace(now))
        return found[: len(self._waiting)]

    def surplus(self, now: float) -> Iterator[Reading]:
        """Bodies without a share for which there is no room, the slowest first."""
        excess = self.started_bytes - ENOUGH_STARTED_BYTES
        if excess <= 0:
            return
        old = [each for each in self._starting if now - each.began_at > YOUNG_S]
        for reading in sorted(old, key=lambda each: each.first_pace(now)):
            if excess <= 0:
                return
            excess -= reading.received
            yield reading

    def _best_pace(self, now: float) -> float:
        if self._best is None or now - self._best[1] > REMEMBERED_S:
            return 0.0
        return self._best[0]

    def _least_pace(self, now: float) -> float:
        """How fast a holder has to be; never 0, so that who has stopped is always too slow.

        A beginning tells less than a whole body: what comes first has waited in buffers.
        """
        beginning = median(self._waiting.values())
        whole = self._best_pace(now) or beginning / TIMES_SLOWER
        return min(min(beginning, whole) / TIMES_SLOWER, FAST_BYTES_PER_S)
