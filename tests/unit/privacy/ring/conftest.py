"""A masked round up to a step, for tests of what comes next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from fl_cluster.privacy.ring.device import RingDevice
from fl_cluster.privacy.ring.messages import Confirmation, Report, RingRound, Sharing, Survivors
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
    reports: dict[int, Report] = field(default_factory=dict)

    def index(self, name: str) -> int:
        return self.roster.index(name)

    def delivery(self, name: str) -> Any:
        return self.roster.deliver(name, self.sharings)

    def report(self, name: str, delivery: Any = None) -> Report:
        report = self.devices[name].report(delivery or self.delivery(name), self.terms)
        self.reports[self.index(name)] = report
        return report

    def report_all(self) -> None:
        for name in self.devices:
            self.report(name)

    def survivors(self, name: str, counted: frozenset[int]) -> Survivors:
        index = self.index(name)
        senders = counted.intersection(self.roster.leaves.graph[index], self.reports)
        tags = {other: self.reports[other].tags.get(index, bytes(16)) for other in senders}
        return Survivors(counted, tags)

    def confirm(self, name: str, counted: frozenset[int]) -> Confirmation:
        return self.devices[name].confirm(self.survivors(name, counted))

    def confirm_all(self, counted: frozenset[int]) -> dict[int, Confirmation]:
        """Of everyone whom the list holds."""
        return {
            self.index(name): self.confirm(name, counted)
            for name in self.devices
            if self.index(name) in counted
        }

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
