"""The cluster's time on this host: our own clock, set right by the store's.

What devices sign and when tokens end are judged by it, so that members whose clocks are apart
judge alike.  A member whose own clock is off says so, because its certificates, its log and
its answers' `Date` still go by that one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

PERIOD_S = 30.0
TOLERATED_MS = 2_000
"""Below this nobody needs to know: no certificate and no window is so exact."""

SLOWEST_MS = 1_000
"""A store that takes longer to tell the time tells too little of it."""


def local_ms() -> int:
    """This host's clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class ClusterTime:
    """One member's idea of the cluster's time; `read_ms` asks the store's clock."""

    def __init__(
        self, read_ms: Callable[[], Awaitable[int]], local: Callable[[], int] = local_ms
    ) -> None:
        self._read_ms = read_ms
        self._local_ms = local
        self._measured_s: float | None = None
        self._is_warned = False
        self.offset_ms = 0
        """What to add to our own clock."""

    def now_ms(self) -> int:
        """Now, as every member sees it."""
        return self._local_ms() + self.offset_ms

    async def look(self) -> None:
        """Measure, if it is time to; called each second."""
        now_s = time.monotonic()
        if self._measured_s is None or now_s - self._measured_s >= PERIOD_S:
            await self.measure()

    async def measure(self) -> None:
        """Compare the clocks now, and warn when they are apart, once until they are not."""
        began_s, before_ms = time.monotonic(), self._local_ms()
        store_ms = await self._read_ms()
        took_ms = int((time.monotonic() - began_s) * 1000)
        if took_ms > SLOWEST_MS:
            return
        self._measured_s = began_s
        self.offset_ms = store_ms - (before_ms + took_ms // 2)
        is_off = abs(self.offset_ms) > TOLERATED_MS
        if is_off and not self._is_warned:
            direction = "behind" if self.offset_ms > 0 else "ahead of"
            logger.warning(
                "the clock of this host is %.1f s %s that of the store, by which the cluster goes:"
                " set both by NTP",
                abs(self.offset_ms) / 1000,
                direction,
            )
        elif self._is_warned and not is_off:
            logger.info("the clock of this host agrees with that of the store again")
        self._is_warned = is_off
