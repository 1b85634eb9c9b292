"""One masked round in memory: seconds of processor time and bytes, per device and for the server.

Reports, gates nothing.  No sockets and no store: what is measured is cryptography and masks.
Bytes are those of keys, sealed shares, tags, shares, list and masked terms, without framing.
`--full` makes everybody everybody's neighbour, for comparison with the neighbour graph; with
`--alone` only what one device does is measured, and the others are keys, which a full graph of
a thousand devices needs.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass, field

import numpy as np

from fl_cluster.privacy.draws import SystemStream
from fl_cluster.privacy.key_agreement import new_key_pair, shared_secret
from fl_cluster.privacy.ring import packing
from fl_cluster.privacy.ring.degrees import Assumptions
from fl_cluster.privacy.ring.device import RingDevice
from fl_cluster.privacy.ring.messages import Delivery, Offer, Reveal, RingRound
from fl_cluster.privacy.ring.secrets import (
    LEAF_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    TAG_BYTES,
    derive,
    seal,
)
from fl_cluster.privacy.ring.server import ReportTags, Roster, Unmasking

FULL = Assumptions(dropout=0.9)
"""With it no graph with fewer edges is complete, in a cohort of any size."""


@dataclass
class Meter:
    """Processor seconds by step."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, step: str, since: float) -> None:
        self.seconds[step] = self.seconds.get(step, 0.0) + time.process_time() - since


def play(ring: RingRound, count: int, gone: int) -> None:
    devices, server = Meter(), Meter()
    since = time.process_time()
    members = {f"device-{i}": RingDevice(ring, f"device-{i}", SystemStream()) for i in range(count)}
    devices.add("offer", since)
    since = time.process_time()
    roster = Roster(ring, [member.offer for member in members.values()])
    views = {name: roster.view(name) for name in members}
    server.add("roster", since)
    since = time.process_time()
    sharings = {roster.index(name): member.share(views[name]) for name, member in members.items()}
    devices.add("share", since)
    left = set(random.Random(1).sample(list(members), gone))
    staying = [name for name in members if name not in left]
    terms = np.random.default_rng(1).integers(-(2**40), 2**40, ring.element_count)
    masked = np.zeros(ring.element_count, np.int64)
    sent = {}
    for name in staying:
        delivery = roster.deliver(name, sharings)
        since = time.process_time()
        report = members[name].report(delivery, terms)
        devices.add("report", since)
        masked += report.terms
        sent[roster.index(name)] = packing.pack_report_tags(report.tags).tobytes()
    counted = frozenset(map(roster.index, staying))
    since = time.process_time()
    tags = ReportTags(roster, frozenset(sharings), sent)
    survivors = {name: roster.survivors(name, counted, tags) for name in staying}
    server.add("survivors", since)
    since = time.process_time()
    confirmations = {roster.index(n): members[n].confirm(survivors[n]) for n in staying}
    reveals: dict[int, Reveal] = {}
    for name in staying:
        confirmed = roster.tags_for(name, confirmations)
        reveals[roster.index(name)] = members[name].reveal(confirmed)
    devices.add("confirm and reveal", since)
    since = time.process_time()
    commitments = {index: sharing.commitment for index, sharing in sharings.items()}
    Unmasking(roster, commitments, counted).apply(masked, reveals)
    server.add("unmask", since)
    if masked.tobytes() != (len(staying) * terms).tobytes():
        raise SystemExit("the unmasked sum is not the plain sum")
    tell(roster, devices, server, count)


def play_alone(ring: RingRound, count: int) -> None:
    """What one device does up to its report; its neighbours' shares are sealed for it alone."""
    stream, meter = SystemStream(), Meter()
    pairs = {f"device-{i}": (new_key_pair(stream), new_key_pair(stream)) for i in range(1, count)}
    others = [Offer(name, share.public, mask.public, b"") for name, (share, mask) in pairs.items()]
    since = time.process_time()
    device = RingDevice(ring, "device-0", stream)
    meter.add("offer", since)
    roster = Roster(ring, [device.offer, *others])
    view = roster.view("device-0")
    leaves, own = roster.leaves, device.offer.leaf(ring)
    since = time.process_time()
    sharing = device.share(view)
    meter.add("share", since)
    sealed = {}
    for other, offer in view.offers.items():
        secret = shared_secret(pairs[offer.device][0].private, device.offer.share_key)
        key = derive(secret, b"share", leaves.leaves[other], own)
        sealed[other] = seal(key, leaves.seed, (1, 2), stream)
    terms = np.random.default_rng(1).integers(-(2**40), 2**40, ring.element_count)
    delivery = Delivery(frozenset(range(count)), sealed)
    since = time.process_time()
    device.report(delivery, terms)
    meter.add("report", since)
    assert len(sharing.sealed) == len(sealed)
    tell(roster, Meter({k: v * count for k, v in meter.seconds.items()}), Meter(), count)


def tell(roster: Roster, devices: Meter, server: Meter, count: int) -> None:
    degree = roster.leaves.degree
    print(f"{count} devices, {degree.neighbours} neighbours, {degree.needed} needed")
    for step, seconds in devices.seconds.items():
        print(f"  device: {step:<20} {1e3 * seconds / count:>10.2f} ms")
    for step, seconds in server.seconds.items():
        print(f"  server: {step:<20} {1e3 * seconds:>10.0f} ms")
    up = 64 + degree.neighbours * (SEALED_BYTES + 2 * TAG_BYTES + SHARE_BYTES) + 32
    down = LEAF_BYTES * count + degree.neighbours * (64 + SEALED_BYTES + 2 * TAG_BYTES) + count // 4
    print(f"  bytes beside the terms: {up:,} up, {down:,} down")
    print(f"  masked terms: {8 * roster.leaves.ring.element_count:,} up")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--elements", type=int, default=100_000)
    parser.add_argument("--gone", type=float, default=0.05, help="share that leaves after sharing")
    parser.add_argument("--full", action="store_true", help="no graph: everybody with everybody")
    parser.add_argument("--alone", action="store_true", help="measure what one device does")
    options = parser.parse_args()
    bounds = FULL if options.full else Assumptions()
    ring = RingRound("bench", 1, 1, options.elements, 3, bounds)
    if options.alone:
        play_alone(ring, options.devices)
    else:
        play(ring, options.devices, int(options.devices * options.gone))


if __name__ == "__main__":
    main()
