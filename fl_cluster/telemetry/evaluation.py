"""Unsupervised evaluation: how well the groups that devices assign tell their data apart.

A device that evaluates sends one vector with its update, such as probabilities of clusters; its
group is where the vector has its first maximum.  A score is computed from the newest vectors of
the run, with the original's rules for its edges: too few vectors, or fewer than two or nearly
as many groups as vectors, are worth 0.
Memory is bounded whatever the number of vectors, and so is the time.
Not here: where the vectors come from, and how many of them count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BLOCK_ELEMENTS = 64 * 1024
"""Distances held at a time: half a megabyte, which stays in the cache of a core."""

MOST_DIFFERENCES = 2 * 10**10
"""Differences of two numbers that one score may take: about a minute."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A score in single precision, and what was not as it should be, as a sentence."""

    score: float = 0.0
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class Groups:
    """Vectors sorted by their group, so that a group is a range of rows."""

    vectors: Floats
    starts: npt.NDArray[np.intp]
    sizes: npt.NDArray[np.intp]

    @classmethod
    def of(cls, vectors: Floats) -> Groups:
        """Each vector in the group that its first maximum names."""
        labels = np.argmax(vectors, axis=1)
        order = np.argsort(labels, kind="stable")
        _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
        return cls(vectors[order], starts, sizes)

    @property
    def owners(self) -> npt.NDArray[np.intp]:
        """The number of its group, for every vector."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def sums(self, values: Floats, axis: int = 0) -> Floats:
        """The sums of what belongs to each group along an axis."""
        total: Floats = np.add.reduceat(values, self.starts, axis=axis)
        return total

    @property
    def centres(self) -> Floats:
        """The mean of every group."""
        return self.sums(self.vectors) / self.sizes[:, None]


def evaluate(method: str, newest: Sequence[bytes], size: int) -> Evaluation:
    """The score by `method` of the `size` newest vectors, each float32 as bytes.

    0 while there are fewer; those that are not as long as most are left out.
    """
    method_of = METHODS.get(method)
    if method_of is None or size < 1 or len(newest) < size:
        return Evaluation()
    length, _ = Counter(map(len, newest[:size])).most_common(1)[0]
    fitting = [each for each in newest[:size] if len(each) == length]
    left_out = size - len(fitting)
    complaint = f"{left_out} vectors are not {length // 4} numbers long" if left_out else ""
    if not length:
        return Evaluation(complaint="the vectors are empty")
    vectors = np.frombuffer(b"".join(fitting), "<f4").reshape(len(fitting), -1)
    if len(fitting) ** 2 * vectors.shape[1] > MOST_DIFFERENCES and method == "SILHOUETTE_SCORE":
        return Evaluation(complaint=f"{len(fitting)} vectors are too many to compare each with all")
    groups = Groups.of(vectors.astype(np.float64))
    if not 2 <= len(groups.sizes) <= len(fitting) - 1:
        return Evaluation(complaint=complaint)
    with np.errstate(all="ignore"):
        return Evaluation(float(np.float32(method_of(groups))), complaint)


def _silhouette(groups: Groups) -> float:
    """The mean of how much closer vectors are to their own group than to the next one."""
    owners, total = groups.owners, 0.0
    for rows, distances in _distances(groups.vectors, groups.vectors):
        own, each = owners[rows], np.arange(len(distances))
        to_groups = groups.sums(distances, axis=1)
        others = np.maximum(groups.sizes[own] - 1, 1)
        inside = to_groups[each, own] / others
        to_groups /= groups.sizes
        to_groups[each, own] = np.inf
        outside = to_groups.min(axis=1)
        total += float(
            np.divide(
                outside - inside,
                np.maximum(inside, outside),
                out=np.zeros_like(inside),
                where=inside != 0,
            ).sum()
        )
    return total / len(groups.vectors)


def _calinski_harabasz(groups: Groups) -> float:
    """How far groups lie apart, by how far they reach themselves."""
    centres, vectors = groups.centres, groups.vectors
    apart = ((centres - vectors.mean(axis=0)) ** 2).sum(axis=1) @ groups.sizes
    within = ((vectors - np.repeat(centres, groups.sizes, axis=0)) ** 2).sum()
    if within == 0:
        return 1.0
    count, kinds = len(vectors), len(groups.sizes)
    return float(apart * (count - kinds) / (within * (kinds - 1)))


def _davies_bouldin(groups: Groups) -> float:
    """The mean of how much every group overlaps with the one it overlaps most with."""
    centres = groups.centres
    reach = np.repeat(centres, groups.sizes, axis=0)
    reach = groups.sums(np.sqrt(((groups.vectors - reach) ** 2).sum(axis=1))) / groups.sizes
    total = 0.0
    for rows, distances in _distances(centres, centres):
        overlap = (reach[rows, None] + reach) / distances
        own = np.arange(rows.start, rows.stop)
        overlap[np.arange(len(overlap)), own] = -np.inf
        total += float(overlap.max(axis=1).sum())
    return total / len(centres)


METHODS: Mapping[str, Callable[[Groups], float]] = {
    "SILHOUETTE_SCORE": _silhouette,
    "CALINSKI_HARABASZ_SCORE": _calinski_harabasz,
    "DAVIES_BOULDIN_SCORE": _davies_bouldin,
}


def _distances(some: Floats, others: Floats) -> Iterator[tuple[slice, Floats]]:
    """A few rows of `some` at a time, and their Euclidean distances to all `others`.

    Differences are taken one by one: equal vectors are at distance 0, not nearly so.
    """
    step = max(1, BLOCK_ELEMENTS // len(others))
    for start in range(0, len(some), step):
        rows = slice(start, min(start + step, len(some)))
        squares = np.zeros((rows.stop - rows.start, len(others)))
        for column in range(some.shape[1]):
            difference = some[rows, column, None] - others[None, :, column]
            difference *= difference
            squares += difference
        yield rows, np.sqrt(squares, out=squares)
