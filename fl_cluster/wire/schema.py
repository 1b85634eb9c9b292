"""The words in which `messages.py` describes its messages to the codecs.

A message is a NamedTuple; `messages.SCHEMA` says for each of its fields, in the order of the
tuple, what goes over the wire.  Whoever adds a kind adds it to both codecs: they look kinds
up in tables that a test holds to be complete.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Int8s = npt.NDArray[np.int8]
Buffer = bytes | bytearray | memoryview
AnyMessage = tuple[object, ...]


class Kind(StrEnum):
    """What a field holds; spelt as in the schema, where the schema has a word for it."""

    BOOL = "bool"
    ENUM = "enum"
    INT = "int"
    FLOAT = "float"
    STRING = "string"
    TABLE = "table"
    FLOATS = "[float]"
    INTS = "[int]"
    BYTES = "[ubyte]"
    INT8S = "[byte]"
    ENUMS = "[enum]"
    STRINGS = "[string]"
    TABLES = "[table]"


class Field(NamedTuple):
    """One field of a message.

    `slot` is its place in the FlatBuffers table; None: it exists in msgpack only.
    `default` is its value when it is absent.
    `table` is the class of the nested message or messages.
    """

    name: str
    kind: Kind
    slot: int | None
    default: bool | int | float | None = None
    table: type[AnyMessage] | None = None
