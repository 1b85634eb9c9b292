"""What the protocol tests share: captured messages, a second opinion, and how to compare.

A message is captured bytes together with the class that they are of.  The second opinion is
code that the official compiler generated from the published schema.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import flat, flat_reference, messages

DATA = Path(__file__).resolve().parents[1] / "data"

# Path of the request -> class of the request, class of the answer.
CLASSES = {
    "startFLJob": (messages.RequestFLJob, messages.ResponseFLJob),
    "updateModel": (messages.RequestUpdateModel, messages.ResponseUpdateModel),
    "getModel": (messages.RequestGetModel, messages.ResponseGetModel),
    "exchangeKeys": (messages.RequestExchangeKeys, messages.ResponseExchangeKeys),
    "getKeys": (messages.GetExchangeKeys, messages.ReturnExchangeKeys),
    "shareSecrets": (messages.RequestShareSecrets, messages.ResponseShareSecrets),
    "getSecrets": (messages.GetShareSecrets, messages.ReturnShareSecrets),
    "getClientList": (messages.GetClientList, messages.ReturnClientList),
    "pushListSign": (messages.SendClientListSign, messages.ResponseClientListSign),
    "getListSign": (messages.RequestAllClientListSign, messages.ReturnAllClientListSign),
    "reconstructSecrets": (messages.SendReconstructSecret, messages.ReconstructSecret),
}


@dataclass(frozen=True)
class Captured:
    name: str
    cls: type[Any]
    body: bytes


def load_captured() -> list[Captured]:
    found = []
    for path in sorted((DATA / "golden").glob("*.bin")):
        _, call, direction = path.stem.rpartition("__")[2].split("_")
        cls = CLASSES[call][direction == "res"]
        found.append(Captured(path.stem, cls, path.read_bytes()))
    return found


CAPTURED = load_captured()
REFERENCE = flat.make_decoder(flat_reference.Decoder)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "captured" in metafunc.fixturenames:
        metafunc.parametrize("captured", CAPTURED, ids=[each.name for each in CAPTURED])
    if "any_decode" in metafunc.fixturenames:
        decoders = {"in_use": flat.decode, "reference": REFERENCE.decode}
        metafunc.parametrize("any_decode", decoders.values(), ids=decoders)


@pytest.fixture(scope="session")
def capture() -> Callable[[str], Captured]:
    """A captured message by the name of its file."""
    return {each.name: each for each in CAPTURED}.__getitem__


@pytest.fixture(scope="session")
def reference() -> Any:
    """The decoder in plain Python."""
    return REFERENCE


def are_same(left: Any, right: Any) -> bool:
    """Equal in type and value, arrays to the byte; NaN is the same as NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return bool(left.dtype == right.dtype) and left.tobytes() == right.tobytes()
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(are_same, left, right))
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return bool(left == right)


@pytest.fixture(scope="session")
def same() -> Callable[[object, object], bool]:
    return are_same


Outcome = tuple[object, str]


@pytest.fixture(scope="session")
def outcome() -> Callable[..., Outcome]:
    """Calls a decoder: (message, "") or (None, the sentence of the refusal)."""

    def call(decode: Callable[..., object], cls: type[Any], body: bytes) -> Outcome:
        try:
            return decode(cls, body), ""
        except PeerProtocolError as fault:
            return None, str(fault)

    return call


class Oracle:
    """The compiler's code: reads and writes messages by its own lights."""

    def __init__(self) -> None:
        sys.path.insert(0, str(DATA / "flatc"))
        self._modules = {
            cls.__name__: importlib.import_module(f"mindspore.fl.schema.{cls.__name__}")
            for cls, fields in messages.SCHEMA.items()
            if any(field.slot is not None for field in fields)
        }
        sys.path.pop(0)

    @property
    def names(self) -> set[str]:
        return set(self._modules)

    @staticmethod
    def attribute(name: str) -> str:
        first, *rest = name.split("_")
        return first + "".join(word[:1].upper() + word[1:] for word in rest)

    def empty(self, cls: type[Any]) -> Any:
        """A table of the compiler's object API with nothing in it."""
        return getattr(self._modules[cls.__name__], f"{cls.__name__}T")()

    def read(self, cls: type[Any], body: bytes) -> Any:
        """The table in `body`, as an object of the compiler's object API."""
        module = self._modules[cls.__name__]
        table = getattr(module, cls.__name__).GetRootAs(bytearray(body), 0)
        return getattr(module, f"{cls.__name__}T").InitFromObj(table)

    def write(self, message: Any) -> bytes:
        """One of our messages, written by the compiler's code and the official builder."""
        builder = flatbuffers.Builder(64)
        builder.Finish(self._unpacked(message).Pack(builder))
        return bytes(builder.Output())

    def _unpacked(self, value: Any) -> Any:
        if type(value) not in messages.SCHEMA:
            return [self._unpacked(item) for item in value] if isinstance(value, tuple) else value
        table = self.empty(type(value))
        for field, held in zip(messages.SCHEMA[type(value)], value, strict=True):
            if field.slot is not None:
                setattr(table, self.attribute(field.name), self._unpacked(held))
        return table

    def packed(self, cls: type[Any], table: Any) -> Any:
        """One of our messages from a table of the object API."""
        held = []
        for field in messages.SCHEMA[cls]:
            value = None if field.slot is None else getattr(table, self.attribute(field.name))
            held.append(field.default if field.slot is None else self._converted(field, value))
        return cls(*held)

    def _converted(self, field: Any, value: Any) -> Any:
        if value is None or field.kind in {"int", "enum", "bool", "float"}:
            return value
        if field.kind == "table":
            return self.packed(field.table, value)
        if field.kind == "[table]":
            return tuple(self.packed(field.table, item) for item in value)
        converters: dict[str, Callable[[Any], Any]] = {
            "string": lambda text: text.decode("utf-8", "surrogateescape"),
            "[string]": lambda texts: tuple(t.decode("utf-8", "surrogateescape") for t in texts),
            "[float]": lambda numbers: np.array(numbers, np.float32),
            "[byte]": lambda numbers: np.array(numbers, np.int8),
            "[ubyte]": lambda numbers: bytes(bytearray(numbers)),
            "[int]": lambda numbers: tuple(int(number) for number in numbers),
            "[enum]": lambda numbers: tuple(int(number) for number in numbers),
        }
        return converters[field.kind](value)


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return Oracle()
