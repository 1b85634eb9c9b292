"""A masked round up to a step, for tests of what comes next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from fl_cluster.privacy.ring.device import RingDevice
from fl_cluster.privacy.ring.messages import RingRound, Sharing
from fl_cluster.privacy.ring.server import Roster

RING = RingRound("digits", 3, 1, 5, 3)


@dataclass
class Table:
    """Devices of one round and what they have sent so far."""

    ring: RingRound
    devices: dict[str, RingDevice]
    roster: Roster
    sharings: dict[int, Sharing]
    terms: Any

    def index(self, name: str) -> int:
        return self.roster.index(name)

    def delivery(self, name: str) -> Any:
        return self.roster.deliver(name, self.sharings)

    def report_all(self) -> None:
        for name, device in self.devices.items():
            device.report(self.delivery(name), self.terms)

    def everybody(self) -> frozenset[int]:
        return frozenset(self.sharings)


@pytest.fixture
def table(stream: Callable[[str], Any]) -> Table:
    """Five devices that have shared."""
    devices = {
        name: RingDevice(RING, name, stream(name)) for name in ("ann", "bob", "cleo", "dan", "eve")
    }
    roster = Roster(RING, [device.offer for device in devices.values()])
    sharings = {roster.index(n): d.share(roster.view(n)) for n, d in devices.items()}
    return Table(RING, devices, roster, sharings, np.arange(5))


@pytest.fixture
def offered(stream: Callable[[str], Any]) -> tuple[dict[str, RingDevice], Roster]:
    """Five devices that have only made offers."""
    devices = {
        name: RingDevice(RING, name, stream(name)) for name in ("ann", "bob", "cleo", "dan", "eve")
    }
    return devices, Roster(RING, [device.offer for device in devices.values()])


@pytest.fixture
def changed() -> Callable[..., Any]:
    """A copy of a message with other fields."""
    return replace
