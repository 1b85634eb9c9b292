"""How the owner of a device requires its updates to be protected, whatever a server announces.

    SECURE_AGGREGATION                     PW_ENCRYPT    (met by SECURE_AGGREGATION as well)
    DP_ENCRYPT,epsilon=1,delta=1e-05       SIGNDS,epsilon=1

The two kinds of masks have an order: what the published one hides, and from whom, the other
hides too.  Noise and signs are in no order with masks or with each other, so none stands in for
another: masks keep servers from an update and leave all of it in the model; noise is in the
model too, and leaves servers an update to look at.  Plain updates are less than all of them.
Light enough for the command line: no arithmetic is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fl_cluster.errors import CallerProtocolError, PeerProtocolError

PLAIN, NOISE, SIGNS = "NOT_ENCRYPT", "DP_ENCRYPT", "SIGNDS"
PAIRS, RING = "PW_ENCRYPT", "SECURE_AGGREGATION"

NUMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    PLAIN: (),
    NOISE: ("epsilon", "delta"),
    SIGNS: ("epsilon",),
    PAIRS: (),
    RING: (),
}
"""Kind -> the numbers that say how much it is worth: the smaller, the more."""

_ROUNDING: Final = 1 + 2.0**-23
"""Servers announce single precision: 0.1 there is a little more than 0.1 here."""


@dataclass(frozen=True, slots=True)
class Protection:
    """What an update leaves a device under: the wire's word for it, and how strong."""

    kind: str
    epsilon: float | None = None
    """Of noise and signs: what one round may cost."""
    delta: float | None = None
    """Of noise: the probability with which one round may cost more."""

    @classmethod
    def parse(cls, text: str) -> Protection:
        """The requirement that a text says; CallerProtocolError when it says none."""
        kind, *pairs = text.strip().split(",")
        numbers: dict[str, float] = {}
        for pair in pairs:
            name, equals, number = pair.partition("=")
            if not equals or name not in ("epsilon", "delta"):
                raise CallerProtocolError(
                    f"protection: expected epsilon=NUMBER or delta=NUMBER, found {pair!r}"
                )
            if name in numbers:
                raise CallerProtocolError(f"protection: {name} is there twice")
            try:
                numbers[name] = float(number)
            except ValueError as exc:
                raise CallerProtocolError(
                    f"protection: expected a number of {name}, found {number!r}"
                ) from exc
        return cls(kind, **numbers).checked()

    def checked(self) -> Protection:
        """This; CallerProtocolError when it is no requirement."""
        if self.kind not in NUMBERS:
            *others, last = NUMBERS
            raise CallerProtocolError(
                f"protection: expected {', '.join(others)} or {last}, found {self.kind!r}"
            )
        asked, given = NUMBERS[self.kind], self._numbers()
        for name in given:
            if name not in asked:
                raise CallerProtocolError(f"protection: {self.kind} has no {name}")
        if len(given) < len(asked):
            raise CallerProtocolError(
                f"protection: {self.kind} without the largest {' and '.join(asked)} that will do"
                " is no promise"
            )
        senseless = self.find_senseless()
        if senseless is not None:
            raise CallerProtocolError(f"protection: {senseless}")
        return self

    def find_senseless(self) -> str | None:
        """What is wrong with the numbers; None when nothing."""
        epsilon, delta = self.epsilon, self.delta
        is_sound = epsilon is None or 0 < epsilon < math.inf
        if is_sound and (delta is None or 0 < delta < 1):
            return None
        wanted = "an epsilon above 0" + ("" if delta is None else ", and a delta between 0 and 1")
        return f"expected {wanted}, found {self.described()}"

    def is_at_least(self, least: Protection, slack: float = 1.0) -> bool:
        """Whether this is no less; numbers may be `slack` times as large."""
        if least.kind == PLAIN:
            return True
        if least.kind == PAIRS:
            return self.kind in (PAIRS, RING)
        if self.kind != least.kind:
            return False
        pairs = ((self.epsilon, least.epsilon), (self.delta, least.delta))
        return all(
            most is None or (found is not None and 0 < found <= most * slack)
            for found, most in pairs
        )

    def described(self, bound: str = "") -> str:
        """As part of a sentence; `bound` stands before each number."""
        known = [f"{name} {bound}{number:g}" for name, number in self._numbers().items()]
        return self.kind + (f" with {' and '.join(known)}" if known else "")

    def text(self) -> str:
        """What `parse` understands, in one word."""
        said = [f"{name}={number!r}" for name, number in self._numbers().items()]
        return ",".join([self.kind, *said])

    def _numbers(self) -> dict[str, float]:
        """Those that are said, by their names."""
        both = {"epsilon": self.epsilon, "delta": self.delta}
        return {name: float(number) for name, number in both.items() if number is not None}


@dataclass(slots=True)
class Insistence:
    """What one device takes part under: what is required of it, and never less than before."""

    required: Protection | None = None
    """None: what the job announces at first."""
    before: Protection | None = None
    """The terms of the last round that the device went into."""

    def check(self, announced: Protection) -> None:
        """Hold these terms to be those of a round; PeerProtocolError when they are too little."""
        found = announced.described()
        required, before = self.required, self.before
        if required is not None and not announced.is_at_least(required, _ROUNDING):
            raise PeerProtocolError(
                f"expected updates in {required.described('at most ')}, which this device"
                f" requires; the job announces {found}"
            )
        if before is not None and not announced.is_at_least(before):
            raise PeerProtocolError(
                f"expected updates in {before.described('at most ')} as before, or better, since"
                f" this device goes back to nothing less; the job announces {found} now"
            )
        self.before = announced
