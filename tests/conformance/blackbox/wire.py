"""Messages of the device protocol, by the official FlatBuffers compiler's code for Python.

Fields have the schema's names.  A field that is not given is absent; a list that is given is
there, empty or not, and so it is read: None for an absent one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers

GENERATED = Path(__file__).resolve().parents[2] / "data" / "flatc"


def _module(name: str) -> Any:
    sys.path.insert(0, str(GENERATED))
    try:
        return importlib.import_module(f"mindspore.fl.schema.{name}")
    finally:
        sys.path.remove(str(GENERATED))


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def table(name: str, **fields: Any) -> Any:
    """A table of that name; strings may be bytes."""
    made = getattr(_module(name), f"{name}T")()
    for field, value in fields.items():
        assert hasattr(made, _camel(field)), field
        setattr(made, _camel(field), value)
    return made


def pack(name: str, **fields: Any) -> bytes:
    """A whole message."""
    builder = flatbuffers.Builder(256)
    builder.Finish(table(name, **fields).Pack(builder))
    return bytes(builder.Output())


class Message:
    """A table that was received: `message.next_req_time`, texts as str."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def __getattr__(self, name: str) -> Any:
        return _shown(getattr(self._held, _camel(name)))

    def __repr__(self) -> str:
        return f"{type(self._held).__name__}({vars(self._held)})"

    @property
    def fields(self) -> dict[str, Any]:
        """All fields, by the names that the generated code gives them; None for an absent one."""
        return {name: _shown(value) for name, value in vars(self._held).items()}

    @property
    def tensors(self) -> dict[str, list[float]] | None:
        """Name -> values of `feature_map`, in the order in which they came."""
        if self.feature_map is None:
            return None
        return {each.weight_fullname: [float(x) for x in each.data] for each in self.feature_map}


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_shown(each) for each in value]
    return Message(value) if type(value).__module__.startswith("mindspore.") else value


def read(name: str, body: bytes) -> Message:
    """The message in a body."""
    module = _module(name)
    held = getattr(module, name).GetRootAs(bytearray(body), 0)
    return Message(getattr(module, f"{name}T").InitFromObj(held))


def features(tensors: Mapping[str, Sequence[float]]) -> list[Any]:
    """A `feature_map`."""
    return [table("FeatureMap", weight_fullname=name, data=list(v)) for name, v in tensors.items()]
