"""Invariant: any bytes are a message or a PeerProtocolError, and both decoders say the same.

Memory stays within a hundred times the input, and nothing else ever comes out.  Usage:
python fuzz/flat.py [--seconds N] [--seed N].  Mutates captured messages and messages of every
class; a finding is kept beside this file and ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import flat, flat_reference
from fl_cluster.wire.messages import SCHEMA

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "data" / "golden"
CLASSES = [cls for cls, fields in SCHEMA.items() if any(f.slot is not None for f in fields)]
SAMPLES: dict[str, Any] = {
    "bool": True,
    "enum": 1,
    "int": 7,
    "float": 0.5,
    "string": "text",
    "[float]": np.ones(3, np.float32),
    "[int]": (1, 2, 3),
    "[ubyte]": b"bytes",
    "[byte]": np.ones(3, np.int8),
    "[enum]": (0, 1),
    "[string]": ("a", "bc"),
}
EDGES = (0, 1, 2, 3, 4, 8, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1)
MEMORY_TIMES, MEMORY_MORE = 100, 50_000

Decode = Callable[[type[Any], bytes], object]


def a_full(cls: type[Any]) -> Any:
    """A message of the class with something in every field."""
    held: list[Any] = []
    for field in SCHEMA[cls]:
        if field.slot is None:
            held.append(field.default)
        elif field.table is None:
            held.append(SAMPLES[field.kind])
        else:
            nested = a_full(field.table)
            held.append(nested if field.kind == "table" else (nested, nested))
    return cls(*held)


def mutated(rng: random.Random, corpus: list[bytes]) -> bytes:
    """One of the corpus with a few changes: bits, words, references, cuts, copies."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(data)) if data else 0
        word = at // 4 * 4
        match rng.randrange(7):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[word : word + 4] = struct.pack("<I", rng.choice(EDGES))
            case 2:
                data[word : word + 4] = struct.pack("<I", rng.randint(0, len(data)))
            case 3:
                data[word : word + 4] = struct.pack("<i", -rng.randint(0, len(data)))
            case 4:
                data[at // 2 * 2 : at // 2 * 2 + 2] = struct.pack("<H", rng.randint(0, 64))
            case 5:
                del data[at : at + rng.choice((1, 4, 64, len(data)))]
            case _:
                data[word:word] = data[word : word + rng.choice((4, 8, 64))] * rng.randint(1, 50)
    return bytes(data)


def are_same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.tobytes() == right.tobytes()
    if isinstance(left, tuple):
        return type(left) is type(right) and all(map(are_same, left, right))
    return bool(left == right) or (left != left and right != right)  # noqa: PLR0124 - NaN


def outcome(decode: Decode, cls: type[Any], data: bytes) -> object:
    """The message, or the refusal as a sentence."""
    try:
        return decode(cls, data)
    except PeerProtocolError as fault:
        return str(fault)


def complaint(cls: type[Any], data: bytes, reference: Decode) -> str | None:
    """What broke the invariant; None when it holds."""
    allowed = MEMORY_TIMES * len(data) + MEMORY_MORE
    tracemalloc.clear_traces()
    try:
        found = outcome(flat.decode, cls, data)
        peak = tracemalloc.get_traced_memory()[1]
        expected = outcome(reference, cls, data)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
        return f"{type(exc).__name__}: {exc}"
    if not are_same(expected, found):
        return f"one says {found!r}, the other {expected!r}"
    return f"took {peak} bytes of memory for {len(data)}" if peak > allowed else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    corpus = [path.read_bytes() for path in sorted(GOLDEN.glob("*.bin"))]
    corpus += [flat.encode(a_full(cls)) for cls in CLASSES]
    reference = flat.make_decoder(flat_reference.Decoder).decode
    runs = 0
    tracemalloc.start()
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        cls, data = rng.choice(CLASSES), mutated(rng, corpus)
        runs += 1
        if found := complaint(cls, data, reference):
            kept = Path(__file__).with_name(f"finding-{options.seed}.{cls.__name__}")
            kept.write_bytes(data)
            print(f"seed {options.seed}, run {runs}, as {cls.__name__}: {found}\nkept as {kept}")
            return 1
    print(f"flat: {runs:,} inputs, seed {options.seed}: the invariant held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
