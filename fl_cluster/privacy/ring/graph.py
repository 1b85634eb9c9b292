"""Who is whose neighbour: devices in a circle, in an order that nobody chooses.

The order follows from the digest of all offers, so devices and servers find the same graph
without being told it, and a server that wants another has to change who takes part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def neighbours_of(index: int, devices: int, degree: int, seed: bytes) -> tuple[int, ...]:
    """The neighbours of one of so many devices, rising; the degree is even, or everybody."""
    if degree >= devices - 1:
        return tuple(other for other in range(devices) if other != index)
    order = circle(devices, seed)
    place = order.index(index)
    half = degree // 2
    found = {order[(place + step) % devices] for step in range(-half, half + 1) if step}
    return tuple(sorted(found))


def all_neighbours(devices: int, degree: int, seed: bytes) -> tuple[tuple[int, ...], ...]:
    """The neighbours of each device: what `neighbours_of` says, for all of them at once."""
    if degree >= devices - 1:
        return tuple(neighbours_of(index, devices, degree, seed) for index in range(devices))
    order, half = circle(devices, seed), degree // 2
    found: list[tuple[int, ...]] = [()] * devices
    for place, index in enumerate(order):
        around = (order[(place + step) % devices] for step in range(-half, half + 1) if step)
        found[index] = tuple(sorted(around))
    return tuple(found)


def circle(devices: int, seed: bytes) -> Sequence[int]:
    """The devices in the order of the circle."""

    def key(index: int) -> bytes:
        return hashlib.sha256(seed + index.to_bytes(4, "big")).digest()

    return sorted(range(devices), key=key)
