"""How long to rest before asking again, and whom to ask.

Exponential back-off with full jitter: devices that failed together must not return together.
A server that names a time is believed, up to a bound, and never asked earlier.
Randomness is passed in; nothing here sleeps or reads a clock.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from fl_cluster.errors import CallerProtocolError
from fl_cluster.sdk.participation import Rest


@dataclass(frozen=True, slots=True)
class Backoff:
    """The bounds of a rest, in milliseconds."""

    least_ms: int = 20
    """No rest is shorter: the bound on how busily a device can wait."""
    base_ms: int = 200
    """The longest first rest; it doubles with every attempt."""
    most_ms: int = 10_000
    """What doubling ends at."""
    most_hint_ms: int = 1_800_000
    """The longest time that a server may send a device away for."""

    def __post_init__(self) -> None:
        assert 0 < self.least_ms <= self.base_ms <= self.most_ms, self
        assert self.least_ms <= self.most_hint_ms, self

    def delay_ms(self, rest: Rest, source: random.Random) -> float:
        """How long this rest lasts: what the server asked for, and jitter on top.

        The jitter is anything up to the doubled base, or up to a quarter of what was asked
        for if that is more.
        """
        hint_ms = min(rest.at_least_ms, self.most_hint_ms)
        doubled_ms = min(self.most_ms, self.base_ms * 2 ** min(rest.attempt - 1, 30))
        return max(self.least_ms, hint_ms + source.uniform(0, max(doubled_ms, hint_ms / 4)))


class Servers:
    """The servers of a cluster, any of which can answer; asks one for as long as it works."""

    def __init__(self, urls: str | Sequence[str], url_prefix: str, source: random.Random) -> None:
        """Start at a random one, so that many devices spread; CallerProtocolError for a bad URL."""
        listed = [urls] if isinstance(urls, str) else list(urls)
        if not listed:
            raise CallerProtocolError("expected the URL of at least one server, found none")
        prefix = url_prefix.strip("/")
        self._bases = tuple(_base_url(url) + (f"/{prefix}" if prefix else "") for url in listed)
        self._current = source.randrange(len(self._bases))

    def __str__(self) -> str:
        return ", ".join(self._bases)

    @property
    def current(self) -> str:
        """Base URL of the server to ask, without a slash at the end."""
        return self._bases[self._current]

    def move_on(self) -> None:
        """The current server is of no use now: ask the next one."""
        self._current = (self._current + 1) % len(self._bases)


def _base_url(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise CallerProtocolError(
            f"expected the URL of a server, such as http://127.0.0.1:6666, found {url!r}"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
