"""What a worker makes of the bytes that come back: a message, or a text devices know.

Servers answer FlatBuffers, except where they say in plain text that they cannot serve now.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import flat
from fl_cluster.wire.messages import FeatureMap
from fl_cluster.wire.schema import AnyMessage
from fl_cluster.worker.faults import NoAnswer
from fl_cluster.worker.link import Reply
from fl_cluster.worker.parameters import Floats, Weights

Message = TypeVar("Message", bound=AnyMessage)


class Closed(StrEnum):
    """Plain texts by which a server says that it serves nobody now."""

    SAFEMODE = "The cluster is in safemode."
    DISABLED_OR_FINISHED = "The server's training job is disabled or finished."


_TEXTS = {text.value.encode(): text for text in Closed}


def read(kind: type[Message], reply: Reply) -> Message | Closed:
    """The message, or the text; NoAnswer when it is neither."""
    if reply.status != 200:
        raise NoAnswer(f"HTTP status {reply.status}: {_shown(reply.body)}")
    text = _TEXTS.get(reply.body)
    if text is not None:
        return text
    try:
        return flat.decode(kind, reply.body)
    except PeerProtocolError as exc:
        raise NoAnswer(f"expected {kind.__name__}, got {_shown(reply.body)} ({exc})") from exc


def _shown(body: bytes) -> str:
    return repr(body[:120].decode("utf-8", "replace"))


def weights_of(entries: tuple[FeatureMap, ...] | None) -> dict[str, Floats]:
    """Tensors by name; an entry without a name or data is left out."""
    return {
        entry.weight_fullname: entry.data
        for entry in entries or ()
        if entry.weight_fullname is not None and entry.data is not None
    }


def entries_of(weights: Weights) -> tuple[FeatureMap, ...]:
    """The same as a message has them."""
    return tuple(FeatureMap(name, values) for name, values in weights.items())
