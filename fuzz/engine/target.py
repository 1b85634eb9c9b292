"""One parser to fuzz: its invariant as a function, and what to begin with.

Nothing here needs atheris, so that corpora and findings can be run again anywhere.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden"
CORPORA = ROOT / "fuzz" / "corpus"

Result = TypeVar("Result")


class Broken(AssertionError):
    """An invariant does not hold; the text says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parser, by the name of its file; `check` returns when the invariant holds for an input.

    Whatever it raises is a finding.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    dictionary: tuple[bytes, ...] = ()
    """Pieces of inputs that chance would take long to find."""
    is_native: bool = False
    """Whether code of the C extensions runs: then they are built with a sanitizer."""
    longest: int = 4096
    """Bytes of an input."""

    def kept(self) -> list[Path]:
        """The inputs in the repository: interesting ones, and those that were findings once."""
        return sorted(path for path in (CORPORA / self.name).glob("*") if path.is_file())


def within(allowed: int, work: Callable[[], Result]) -> Result:
    """What `work` returns; Broken when it takes more than so many bytes of memory each time.

    It is done up to three times: the interpreter's own tables grow now and then, but not
    twice in a row.
    """
    if not tracemalloc.is_tracing():
        tracemalloc.start()  # once: each start and stop leaves memory behind
    for _ in range(3):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = work()
        peak = tracemalloc.get_traced_memory()[1] - before
        if peak <= allowed:
            return result
        del result
    raise Broken(f"took {peak} bytes of memory, {allowed} are allowed")


def are_same(left: Any, right: Any) -> bool:
    """Whether two messages are equal to the last bit; NaN equals NaN."""
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.tobytes() == right.tobytes()
    if isinstance(left, tuple):
        return (
            type(left) is type(right)
            and len(left) == len(right)
            and all(map(are_same, left, right))
        )
    return bool(left == right) or (left != left and right != right)  # noqa: PLR0124 - NaN
