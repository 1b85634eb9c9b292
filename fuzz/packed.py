"""Invariant: any bytes are a message that encodes and decodes to itself, or a PeerProtocolError.

Memory stays within a hundred times the input, and nothing else ever comes out.  Usage:
python fuzz/packed.py [--seconds N] [--seed N].  Mutates messages of every class and captured
ones; a finding is kept beside this file and ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import packed
from fl_cluster.wire.messages import SCHEMA

CLASSES = list(SCHEMA)
SAMPLES: dict[str, Any] = {
    "bool": True,
    "enum": 1,
    "int": 70_000,
    "float": 0.5,
    "string": "text",
    "[float]": np.ones(3, np.float32),
    "[int]": (1, -2, 300),
    "[ubyte]": b"bytes",
    "[byte]": np.ones(3, np.int8),
    "[enum]": (0, 1),
    "[string]": ("a", "b" * 40),
}
# First bytes of every family, and lengths that promise more than there is.
PIECES = [bytes([first]) for first in (*range(0x7F, 0xA2), *range(0xBF, 0x100))]
PIECES += [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdc\xff\xff",
]
PIECES += [b"\xa4data", b"\xabfeature_map", b"\xa5shape", b"\x91" * 600, b"\x80" * 100]
MEMORY_TIMES, MEMORY_MORE = 100, 50_000


def a_full(cls: type[Any]) -> Any:
    """A message of the class with something in every field."""
    held: list[Any] = []
    for field in SCHEMA[cls]:
        if field.table is None:
            held.append(SAMPLES[field.kind])
        else:
            nested = a_full(field.table)
            held.append(nested if field.kind == "table" else (nested, nested))
    return cls(*held)


def mutated(rng: random.Random, data: bytearray, others: list[bytes]) -> bytes:
    """The body with a few changes: bits, bytes, pieces, cuts, copies."""
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(data)) if data else 0
        length = rng.choice((0, 1, 1, 2, 5, 40))
        match rng.randrange(6):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + length] = rng.randbytes(length)
            case 2 | 3:
                data[at : at + length] = rng.choice(PIECES)
            case 4:
                data[at:at] = data[at : at + length] * rng.randint(1, 50)
            case _:
                other = rng.choice(others)
                data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)


def are_same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.tobytes() == right.tobytes()
    if isinstance(left, tuple):
        return type(left) is type(right) and all(map(are_same, left, right))
    return bool(left == right) or (left != left and right != right)  # noqa: PLR0124 - NaN


def complaint(cls: type[Any], data: bytes) -> str | None:
    """What broke the invariant; None when it holds."""
    tracemalloc.clear_traces()
    try:
        message = packed.decode(cls, data)
    except PeerProtocolError:
        message = None
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
        return f"{type(exc).__name__}: {exc}"
    peak = tracemalloc.get_traced_memory()[1]
    if peak > MEMORY_TIMES * len(data) + MEMORY_MORE:
        return f"took {peak} bytes of memory for {len(data)}"
    if message is not None and not are_same(message, packed.decode(cls, packed.encode(message))):
        return f"does not come back as it went: {message!r}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    corpus = {cls: packed.encode(a_full(cls)) for cls in CLASSES}
    others = list(corpus.values())
    runs = 0
    tracemalloc.start()
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        cls = rng.choice(CLASSES)
        data = mutated(rng, bytearray(corpus[cls]), others)
        runs += 1
        if found := complaint(cls, data):
            kept = Path(__file__).with_name(f"finding-{options.seed}.{cls.__name__}")
            kept.write_bytes(data)
            print(f"seed {options.seed}, run {runs}, as {cls.__name__}: {found}\nkept as {kept}")
            return 1
    print(f"packed: {runs:,} inputs, seed {options.seed}: the invariant held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
