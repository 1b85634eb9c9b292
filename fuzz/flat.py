"""Invariant: any bytes are a message or a PeerProtocolError, and both decoders say the same.

Memory stays within a hundred times the input, and nothing else ever comes out.  An input is
the name of a class, a zero byte, and the body; a capital V before it stands for a body that
does not begin at a multiple of 4 bytes in memory.  `engine.campaign` has the command line.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from engine.campaign import main
from engine.target import GOLDEN, Broken, Target, are_same, within

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import flat, flat_reference
from fl_cluster.wire.messages import SCHEMA

CLASSES = {
    cls.__name__: cls
    for cls, fields in SCHEMA.items()
    if any(field.slot is not None for field in fields)
}
NAMES = sorted(CLASSES)
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
EDGES = (2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1)
SHIFTED = b"V"
MEMORY_TIMES, MEMORY_MORE = 100, 50_000

Decode = Callable[[type[Any], bytes | memoryview], object]
REFERENCE: Decode = flat.make_decoder(flat_reference.Decoder).decode


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


def seeds() -> Iterator[bytes]:
    """Every captured message as what it is, and a full message of each class."""
    for path in sorted(GOLDEN.glob("*.bin")):
        yield captured_class(path.stem).encode() + b"\0" + path.read_bytes()
    for name, cls in CLASSES.items():
        yield name.encode() + b"\0" + flat.encode(a_full(cls))
        yield SHIFTED + name.encode() + b"\0" + flat.encode(a_full(cls))


ENDPOINTS = {
    "startFLJob": ("RequestFLJob", "ResponseFLJob"),
    "updateModel": ("RequestUpdateModel", "ResponseUpdateModel"),
    "getModel": ("RequestGetModel", "ResponseGetModel"),
    "exchangeKeys": ("RequestExchangeKeys", "ResponseExchangeKeys"),
    "getKeys": ("GetExchangeKeys", "ReturnExchangeKeys"),
    "shareSecrets": ("RequestShareSecrets", "ResponseShareSecrets"),
    "getSecrets": ("GetShareSecrets", "ReturnShareSecrets"),
    "getClientList": ("GetClientList", "ReturnClientList"),
    "pushListSign": ("SendClientListSign", "ResponseClientListSign"),
    "getListSign": ("RequestAllClientListSign", "ReturnAllClientListSign"),
    "reconstructSecrets": ("SendReconstructSecret", "ReconstructSecret"),
}


def captured_class(stem: str) -> str:
    """The class of a captured message, by the name of its file."""
    endpoint, direction = stem.split("_")[-2:]
    return CLASSES[ENDPOINTS[endpoint][direction == "res"]].__name__


def outcome(decode: Decode, cls: type[Any], body: bytes | memoryview) -> object:
    """The message, or the refusal as a sentence."""
    try:
        return decode(cls, body)
    except PeerProtocolError as fault:
        return str(fault)


def check(data: bytes) -> None:
    is_shifted = data.startswith(SHIFTED)
    name, _, sent = data.removeprefix(SHIFTED).partition(b"\0")
    cls = CLASSES.get(name.decode("latin-1"))
    if cls is None:
        cls = CLASSES[NAMES[zlib.crc32(name) % len(NAMES)]]
    body = memoryview(b"\0" + sent)[1:] if is_shifted else sent
    found = within(MEMORY_TIMES * len(sent) + MEMORY_MORE, lambda: outcome(flat.decode, cls, body))
    expected = outcome(REFERENCE, cls, body)
    if not are_same(expected, found):
        raise Broken(f"one says {found!r}, the other {expected!r}")


TARGET = Target(
    name="flat",
    check=check,
    seeds=seeds,
    dictionary=(
        *(f"{name}\0".encode() for name in NAMES),
        *(edge.to_bytes(4, "little") for edge in EDGES),
    ),
    is_native=True,
)

if __name__ == "__main__":
    sys.exit(main(TARGET))
