"""Masked rounds in memory: the unmasked sum has the plain sum's bytes, whoever drops out when."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fl_cluster.privacy.ring.degrees import Assumptions
from fl_cluster.privacy.ring.demands import Demands
from fl_cluster.privacy.ring.device import RingDevice
from fl_cluster.privacy.ring.messages import RingRound, bitmap, indices_in
from fl_cluster.privacy.ring.packing import pack_report_tags
from fl_cluster.privacy.ring.server import CannotUnmask, ReportTags, Roster, Unmasking

ELEMENTS = 257


@dataclass
class Play:
    """One round: a device named in a set is silent from that step on."""

    ring: RingRound
    devices: dict[str, RingDevice]
    terms: dict[str, Any]
    gone: dict[str, set[str]] = field(default_factory=dict)

    def alive(self, step: str) -> list[str]:
        steps = ["offer", "share", "report", "confirm", "reveal"]
        gone = set().union(*(self.gone.get(each, set()) for each in steps[: steps.index(step) + 1]))
        return [name for name in self.devices if name not in gone]

    def run(self) -> tuple[Any, Any]:
        """The unmasked sum, and the plain sum over the same devices."""
        roster = Roster(self.ring, [self.devices[name].offer for name in self.alive("offer")])
        sharings = {
            roster.index(name): self.devices[name].share(roster.view(name))
            for name in self.alive("share")
        }
        for sharing in sharings.values():
            roster.check_sharing(sharing)
        masked = np.zeros(ELEMENTS, np.int64)
        reporters = self.alive("report")
        sent = {}
        for name in reporters:
            report = self.devices[name].report(roster.deliver(name, sharings), self.terms[name])
            masked += report.terms
            sent[roster.index(name)] = pack_report_tags(report.tags).tobytes()
        counted = frozenset(roster.index(name) for name in reporters)
        sharers = frozenset(sharings)
        tags = ReportTags(roster, sharers, sent)
        confirmations = {}
        for name in self.alive("confirm"):
            survivors = roster.survivors(name, counted, tags)
            confirmation = self.devices[name].confirm(survivors)
            roster.check_confirmation(confirmation, sharers, counted)
            confirmations[roster.index(name)] = confirmation
        reveals = {}
        for name in self.alive("reveal"):
            reveal = self.devices[name].reveal(roster.tags_for(name, confirmations))
            roster.check_reveal(reveal, sharers)
            reveals[roster.index(name)] = reveal
        commitments = {index: sharing.commitment for index, sharing in sharings.items()}
        unmasking = Unmasking(roster, commitments, counted)
        assert unmasking.can_finish(reveals)
        unmasking.apply(masked, reveals)
        plain = np.zeros(ELEMENTS, np.int64)
        for name in reporters:
            plain += self.terms[name]
        return masked, plain


@pytest.fixture
def play(stream: Callable[[str], Any]) -> Callable[..., Play]:
    def build(count: int, seed: int = 0, assumptions: Assumptions | None = None) -> Play:
        ring = RingRound("digits", 3, 1, ELEMENTS, 2, assumptions or Assumptions())
        names = [f"device-{number}" for number in range(count)]
        numbers = np.random.default_rng(seed)
        return Play(
            ring,
            {
                name: RingDevice(ring, name, stream(f"{seed} {name}"), demands=Demands(0.0, 0, 2))
                for name in names
            },
            {name: numbers.integers(-(2**51), 2**51, ELEMENTS) for name in names},
        )

    return build


@pytest.mark.parametrize("seed", range(24))
def test_the_unmasked_sum_is_the_plain_sum_whoever_drops_out(
    play: Callable[..., Play], seed: int
) -> None:
    choice = random.Random(seed)
    round_ = play(choice.randint(8, 24), seed)
    names = list(round_.devices)
    # At every step somebody may go, all in all fewer than a quarter.
    for name in choice.sample(names, len(names) // 4):
        step = choice.choice(["offer", "share", "report", "confirm", "reveal"])
        round_.gone.setdefault(step, set()).add(name)

    unmasked, plain = round_.run()

    assert plain.tobytes() == unmasked.tobytes()


@pytest.mark.parametrize("step", ["offer", "share", "report", "confirm", "reveal"])
def test_a_device_that_goes_at_any_step_does_not_spoil_the_sum(
    play: Callable[..., Play], step: str
) -> None:
    round_ = play(8, 1)
    round_.gone = {step: {"device-3"}}

    unmasked, plain = round_.run()

    assert plain.tobytes() == unmasked.tobytes()


def test_neighbours_suffice_in_a_cohort_that_has_a_graph(play: Callable[..., Play]) -> None:
    assumptions = Assumptions(corrupt=0.0, dropout=0.1, safety_bits=10, failure_bits=10)
    round_ = play(80, 5, assumptions)
    round_.gone = {"report": {"device-7", "device-40"}, "reveal": {"device-9"}}
    roster = Roster(round_.ring, [device.offer for device in round_.devices.values()])

    unmasked, plain = round_.run()

    assert roster.leaves.degree.neighbours < 79
    assert plain.tobytes() == unmasked.tobytes()


def test_two_devices_make_a_round(play: Callable[..., Play]) -> None:
    unmasked, plain = play(2).run()

    assert plain.tobytes() == unmasked.tobytes()


def test_a_single_masked_report_says_nothing_about_its_terms(play: Callable[..., Play]) -> None:
    """Zero terms come out as uniform words: every byte position takes all its values alike."""
    round_ = play(4)
    roster = Roster(round_.ring, [device.offer for device in round_.devices.values()])
    sharings = {
        roster.index(name): device.share(roster.view(name))
        for name, device in round_.devices.items()
    }
    name = "device-0"

    delivery = roster.deliver(name, sharings)
    masked = round_.devices[name].report(delivery, np.zeros(ELEMENTS, np.int64)).terms

    bits = np.unpackbits(masked.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 0.02
    assert len(set(masked.tolist())) == ELEMENTS


def test_too_few_shares_leave_the_masks_on(play: Callable[..., Play]) -> None:
    round_ = play(6)
    roster = Roster(round_.ring, [device.offer for device in round_.devices.values()])
    sharings = {roster.index(n): d.share(roster.view(n)) for n, d in round_.devices.items()}
    commitments = {index: sharing.commitment for index, sharing in sharings.items()}
    unmasking = Unmasking(roster, commitments, frozenset(sharings))

    assert not unmasking.can_finish({})
    with pytest.raises(CannotUnmask, match=r"device 'device-\d': expected \d shares, found 0"):
        unmasking.apply(np.zeros(ELEMENTS, np.int64), {})


def test_bitmaps_come_back() -> None:
    assert indices_in(bitmap({0, 8, 9}, 10), 10) == {0, 8, 9}
    with pytest.raises(ValueError, match="expected a bitmap of 10 devices"):
        indices_in(b"\xff\xff", 10)
