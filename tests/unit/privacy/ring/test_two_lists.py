"""Servers that show two parts of the circle different lists of who shared: they read neither.

No device works with them, and each gets one list of everything; what they do differently from
honest servers is only whose shares they hand to whom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import PeerProtocolError
from fl_cluster.privacy.ring.degrees import Assumptions
from fl_cluster.privacy.ring.demands import Demands
from fl_cluster.privacy.ring.device import RingDevice
from fl_cluster.privacy.ring.graph import circle
from fl_cluster.privacy.ring.messages import (
    Confirmation,
    Report,
    Reveal,
    RingRound,
    Sharing,
    Survivors,
)
from fl_cluster.privacy.ring.server import Roster

COUNT = 90
RING = RingRound("digits", 1, 1, 2, 2, Assumptions(0.0, 0.2, safety_bits=40, failure_bits=20))

Lists = Mapping[int, frozenset[int]]


@dataclass
class Servers:
    """They do as the protocol has it, with other lists for each device."""

    devices: dict[int, RingDevice]
    roster: Roster
    sharings: dict[int, Sharing]
    reports: dict[int, Report] = field(default_factory=dict)
    confirmations: dict[int, Confirmation] = field(default_factory=dict)
    reveals: dict[int, Reveal] = field(default_factory=dict)

    @property
    def needed(self) -> int:
        return self.roster.leaves.degree.needed

    @property
    def graph(self) -> tuple[tuple[int, ...], ...]:
        return self.roster.leaves.graph

    def play(self, sharers: Lists, counted: Lists) -> None:
        """Everything with the lists as each device is shown them; who is in none vanishes."""
        for index in counted:
            sharings = {other: self.sharings[other] for other in sharers[index]}
            delivery = self.roster.deliver(self.devices[index].offer.device, sharings)
            self.reports[index] = self.devices[index].report(delivery, np.arange(2))
        for index, device in self.devices.items():
            if index in counted:
                self._confirm(index, device, counted[index])
        for index, confirmation in self.confirmations.items():
            tags = {
                other: self.confirmations[other].tags[index]
                for other in confirmation.tags
                if index in getattr(self.confirmations.get(other), "tags", {})
            }
            try:
                self.reveals[index] = self.devices[index].reveal(tags)
            except PeerProtocolError:
                continue

    def _confirm(self, index: int, device: RingDevice, counted: frozenset[int]) -> None:
        tags = {
            other: self.reports[other].tags.get(index, bytes(16))
            for other in self.graph[index]
            if other in counted
        }
        try:
            self.confirmations[index] = device.confirm(Survivors(counted, tags))
        except PeerProtocolError:
            return

    def rebuilt(self, counted: Lists, *, seeds: bool) -> frozenset[int]:
        """Whose seed, or mask key, has been revealed by as many as are needed."""

        def shares(owner: int) -> int:
            return sum(
                owner in self.reveals[sender].shares and (owner in counted[sender]) == seeds
                for sender in self.graph[owner]
                if sender in self.reveals
            )

        return frozenset(index for index in self.devices if shares(index) >= self.needed)

    def readable(self, sharers: Lists, counted: Lists) -> frozenset[int]:
        """Whose updates are in a sum of which all masks can be taken off."""
        keys = self.rebuilt(counted, seeds=False)
        found = self.rebuilt(counted, seeds=True) & self.reports.keys()
        while True:
            hidden = {i for i in found - keys if self._masks(i, sharers, found) - keys}
            if not hidden:
                return found
            found -= hidden

    def _masks(self, index: int, sharers: Lists, inside: frozenset[int]) -> frozenset[int]:
        """With whom the device has a mask on that no report of these takes away."""
        taken = {other for other in inside if index in sharers[other]}
        return sharers[index].intersection(self.graph[index]) - taken


@pytest.fixture
def servers(stream: Callable[[str], Any]) -> Servers:
    demands = Demands(0.0, 0, 2)
    devices = [RingDevice(RING, f"d{n}", stream(f"d{n}"), demands=demands) for n in range(COUNT)]
    roster = Roster(RING, [device.offer for device in devices])
    by_index = {roster.index(device.offer.device): device for device in devices}
    sharings = {i: d.share(roster.view(d.offer.device)) for i, d in by_index.items()}
    assert roster.leaves.degree.neighbours < COUNT - 1
    return Servers(by_index, roster, sharings)


def test_one_list_for_everybody_gives_one_sum(servers: Servers) -> None:
    everybody = frozenset(range(COUNT))
    lists = dict.fromkeys(everybody, everybody)

    servers.play(lists, lists)

    assert servers.readable(lists, lists) == everybody


def test_a_part_that_was_told_of_fewer_sharers_is_not_read(servers: Servers) -> None:
    """The part has no masks with the others but with a few at its edges, said to have vanished.

    Others, told that all have shared and the part survived, would give its seeds away.
    """
    leaves, everybody = servers.roster.leaves, frozenset(range(COUNT))
    order, degree = circle(COUNT, leaves.seed), leaves.degree
    edge = degree.needed - degree.neighbours // 2
    half = COUNT // 2
    part = frozenset(order[edge : half - edge])
    vanished = frozenset(order[:half]) - part
    rest = everybody - part - vanished
    sharers = {**dict.fromkeys(part, part | vanished), **dict.fromkeys(rest, everybody)}
    counted = {**dict.fromkeys(part, part), **dict.fromkeys(rest, everybody - vanished)}

    servers.play(sharers, counted)

    assert len(servers.reports) == len(part) + len(rest)
    assert servers.reveals
    assert servers.rebuilt(counted, seeds=False) >= vanished
    assert not part <= servers.rebuilt(counted, seeds=True)
    assert servers.readable(sharers, counted) == frozenset()
