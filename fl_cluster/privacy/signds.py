"""SignDS: a device uploads the sign of a few chosen dimensions, and nothing else.

The device's side draws as the published one does, to the bit.  The server adds `sign` times a
learning rate at the chosen elements of the newest model, times the data size; other elements
count as unchanged.  Indices run over all tensors of the update in the order it names them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fl_cluster.kernels.native import Floats
from fl_cluster.privacy.draws import Stream, Streams, next_below, next_bit, next_double
from fl_cluster.wire.limits import MAX_SIGN_DIMENSIONS

Indices = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Selection:
    """The numbers of a job's dimension selection; ratios are float32 on the wire."""

    top_ratio: float
    epsilon: float
    hit_ratio: float
    dimensions_out: int
    """How many dimensions a device sends; 0: as many as keep the ratio."""

    def top_count(self, size: int) -> int:
        """How many of `size` elements are the top ones."""
        return int(np.float32(self.top_ratio) * np.float32(size))


@dataclass(frozen=True, slots=True)
class Signs:
    """What a device uploads: `sign` is +1 or -1, the indices rise."""

    sign: int
    indices: Indices


@dataclass(frozen=True, slots=True)
class UnfitSigns:
    """Why signs are no update, as a sentence for whoever sent them."""

    reason: str


class Binomials:
    """How many ways to choose k of n, in doubles, by the device's product: 0 where none is."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._known = [1.0]

    def ways(self, k: int) -> float:
        """The number for one k; those below it cost nothing afterwards."""
        if k > self._n or k < 0:
            return 0.0
        least = min(k, self._n - k)
        for i in range(len(self._known), least + 1):
            product = self._known[-1] * (self._n + 1 - i)
            self._known.append(product / i)
        return self._known[least]


class _Odds:
    """The odds of how many of h chosen dimensions are top ones, of `top` among `size`."""

    def __init__(self, top: int, size: int, epsilon: float) -> None:
        self._top, self._rest = Binomials(top), Binomials(size - top)
        self.growth = math.exp(epsilon)

    def ways(self, h: int) -> list[float]:
        """In how many ways 0 to h of them can be top ones."""
        return [self._top.ways(v) * self._rest.ways(h - v) for v in range(h + 1)]

    def weights(self, ways: list[float], cut: int) -> list[float]:
        """The weight of each count: those from the cut on weigh e**eps."""
        return [each if v < cut else each * self.growth for v, each in enumerate(ways)]

    def expected(self, ways: list[float], cut: int) -> float:
        """How many are expected to be top ones."""
        weights = self.weights(ways, cut)
        total = 0.0
        for weight in weights:
            total += weight
        if total == 0:
            return 0.0
        mean = 0.0
        for v, weight in enumerate(weights):
            mean += v * (weight / total)
        return mean

    def best_cut(self, h: int) -> tuple[int, float]:
        """The cut up to which the expectation rises, and the expectation there."""
        ways = self.ways(h)
        cut, best = 1, self.expected(ways, 1)
        while (further := self.expected(ways, cut + 1)) > best:
            cut, best = cut + 1, further
        return cut, best


def plan(selection: Selection, size: int) -> tuple[int, int]:
    """How many dimensions a device sends of `size`, and the cut of top ones among them."""
    odds = _Odds(selection.top_count(size), size, selection.epsilon)
    if selection.dimensions_out:
        return selection.dimensions_out, odds.best_cut(selection.dimensions_out)[0]
    h = 1
    # Written so that NaN, which binomials of large models come to, ends the search.
    while odds.best_cut(h)[1] / h >= selection.hit_ratio:
        h += 1
    h = max(1, h - 1)
    return h, odds.best_cut(h)[0]


def select(
    trained: Sequence[Floats], base: Sequence[Floats], selection: Selection, streams: Streams
) -> Signs:
    """The signs that a device uploads.

    ValueError when the settings do not work for a model of this size.
    """
    stream = streams()
    sign = 1 if next_bit(stream) else -1
    differences = np.concatenate([a - b for a, b in zip(trained, base, strict=True)])
    size = differences.size
    top = selection.top_count(size)
    h, cut = plan(selection, size)
    v = _draw_count(_Odds(top, size, selection.epsilon), cut, h, streams())
    if not (0 < h <= size and v <= top and h - v <= size - top):
        raise ValueError(f"{h} dimensions, {v} of them among {top}, of a model of {size}")
    order = np.argsort(-differences if sign > 0 else differences, kind="stable")
    chosen = _pick(order[:top].tolist(), v, stream)
    chosen += _pick(order[top:].tolist(), h - v, stream)
    return Signs(sign, np.array(sorted(chosen), np.int32))


def _draw_count(odds: _Odds, cut: int, h: int, stream: Stream) -> int:
    ways = odds.ways(h)
    weights = odds.weights(ways, cut)
    below = above = 0.0
    for v, each in enumerate(ways):
        if v < cut:
            below += each
        else:
            above += each
    total = below + odds.growth * above
    if not 0 < total < math.inf:
        raise ValueError(f"these settings give no odds for {h} dimensions")
    target = next_double(stream)
    v, reached = 0, weights[0] / total
    while reached < target and v < h:
        v += 1
        reached += weights[v] / total
    return v


def _pick(numbers: list[int], count: int, stream: Stream) -> list[int]:
    for i in range(len(numbers), len(numbers) - count, -1):
        j = next_below(stream, i)
        numbers[j], numbers[i - 1] = numbers[i - 1], numbers[j]
    return numbers[len(numbers) - count :] if count else []


def find_unfit(sign: int, indices: Indices, size: int) -> UnfitSigns | None:
    """Why these signs are no update of `size` elements; None when they are one."""
    most = min(size, MAX_SIGN_DIMENSIONS)
    if sign not in (1, -1):
        return UnfitSigns(f"expected a sign of 1 or -1, found {sign}")
    if not 1 <= indices.size <= most:
        return UnfitSigns(f"expected from 1 to {most} indices, found {indices.size}")
    if indices[0] < 0 or indices[-1] >= size:
        return UnfitSigns(f"expected indices from 0 to {size - 1}, in rising order")
    if not (indices[1:] > indices[:-1]).all():
        return UnfitSigns("expected indices in rising order, each once")
    return None


def products(values: Floats, start: int, signs: Signs, rate: float, data_size: int) -> Floats:
    """What the signs stand for in the tensor that has these values in the newest model.

    `start` is the index of its first element among all of the update.
    """
    first, last = np.searchsorted(signs.indices, [start, start + values.size])
    moved: Floats = values.copy()
    moved[signs.indices[first:last] - start] += np.float32(signs.sign) * np.float32(rate)
    moved *= np.float32(data_size)
    return moved
