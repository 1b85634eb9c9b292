"""Invariant: any bytes are a message that encodes and decodes to itself, or a PeerProtocolError.

Memory stays within a hundred times the input, and nothing else ever comes out.  An input is
the name of a class, a zero byte, and the body.  `engine.campaign` has the command line.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from engine.campaign import main
from engine.target import GOLDEN, Broken, Target, are_same, within
from flat import captured_class

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import flat, packed
from fl_cluster.wire.messages import SCHEMA

CLASSES = {cls.__name__: cls for cls in SCHEMA}
NAMES = sorted(CLASSES)
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
    b"\x91" * 40,
    b"\x80" * 40,
]
FIELDS = sorted({field.name for fields in SCHEMA.values() for field in fields})
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


def seeds() -> Iterator[bytes]:
    """Every captured message in this encoding, and a full message of each class."""
    for path in sorted(GOLDEN.glob("*.bin")):
        name = captured_class(path.stem)
        yield name.encode() + b"\0" + packed.encode(flat.decode(CLASSES[name], path.read_bytes()))
    for name, cls in CLASSES.items():
        yield name.encode() + b"\0" + packed.encode(a_full(cls))


def decoded(cls: type[Any], body: bytes) -> Any:
    """The message; None when it is refused."""
    try:
        return packed.decode(cls, body)
    except PeerProtocolError:
        return None


def check(data: bytes) -> None:
    name, _, body = data.partition(b"\0")
    cls = CLASSES.get(name.decode("latin-1"))
    if cls is None:
        cls = CLASSES[NAMES[zlib.crc32(name) % len(NAMES)]]
    message = within(MEMORY_TIMES * len(body) + MEMORY_MORE, lambda: decoded(cls, body))
    if message is not None and not are_same(message, packed.decode(cls, packed.encode(message))):
        raise Broken(f"does not come back as it went: {message!r}")


TARGET = Target(
    name="packed",
    check=check,
    seeds=seeds,
    dictionary=(
        *(f"{name}\0".encode() for name in NAMES),
        *(bytes([0xA0 + len(name)]) + name.encode() for name in FIELDS if len(name) < 32),
        *PIECES,
    ),
)

if __name__ == "__main__":
    sys.exit(main(TARGET))
