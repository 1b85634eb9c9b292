"""Times as a device's own clock has them, for devices whose clock is fast.

Existing devices sleep until the time they are told, by their own clock, and end for good when
that lies in its past.  What their clock shows they say in `timestamp`.
Only fast clocks are made up for: to a slow one our time is late, which costs some sleep, and
many programs send a constant of some day in the past.
Not here: decisions.  Nothing is judged by a device's clock.
"""

from __future__ import annotations

import time
from typing import TypeVar

from fl_cluster.wire import messages

Told = TypeVar("Told", messages.ResponseFLJob, messages.ResponseUpdateModel)

MOST_AHEAD_MS = 24 * 3_600_000
"""A timestamp further ahead is no clock that anybody set, but another unit or a constant."""

DIGITS = 15
"""More would not be milliseconds of this age of the world."""


def ahead_ms(timestamp: str | None, now_ms: int) -> int:
    """How far the device's clock is ahead of ours; 0 when it is not, or says nothing."""
    text = timestamp or ""
    if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS):
        return 0
    ahead = int(text) - now_ms
    return ahead if 0 < ahead <= MOST_AHEAD_MS else 0


def by_its_clock(response: Told, timestamp: str | None) -> Told:
    """The same answer with its time as the device's clock has it, in the text too."""
    told = response.next_req_time
    ahead = ahead_ms(timestamp, time.time_ns() // 1_000_000) if told else 0
    if not told or not ahead:
        return response
    later = str(int(told) + ahead)
    reason = (response.reason or "").replace(told, later)
    return response._replace(next_req_time=later, reason=reason)
