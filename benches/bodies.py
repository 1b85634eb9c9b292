"""Device requests as bytes, made once: FlatBuffers bodies with places to fill in per device.

A body is encoded once with marks where device and round number go, and cut at the marks.
Every request is then the same buffers with two small ones in between, so that a thousand
devices with 20 MB each take 20 MB.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from load import Request

from fl_cluster.wire import flat, messages

Floats = npt.NDArray[np.float32]

DATA_SIZE = 32
ID_MARK = "device-@@@@@"
ROUND_MARK = 0x51A7C0DE


class Template:
    """One kind of request for any device and round."""

    def __init__(self, path: str, body: bytes) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: cluster\r\nContent-Length: {len(body)}\r\n\r\n"
        marks = sorted(
            (_only_place(body, mark), mark)
            for mark in (ID_MARK.encode(), struct.pack("<i", ROUND_MARK))
            if mark in body
        )
        view = memoryview(body)
        self._parts: list[bytes | memoryview] = [head.encode()]
        start = 0
        for place, mark in marks:
            self._parts += [view[start:place], mark]
            start = place + len(mark)
        self._parts.append(view[start:])

    def request(
        self,
        round_number: int,
        device: int = 0,
        server: int | None = None,
        *,
        keep: bool = False,
    ) -> Request:
        """The request of this device in this round."""
        values = {
            ID_MARK.encode(): f"device-{device:05}".encode(),
            struct.pack("<i", ROUND_MARK): struct.pack("<i", round_number),
        }
        parts = tuple(
            values.get(bytes(part), part) if len(part) < 64 else part for part in self._parts
        )
        return Request(parts, server, keep)


def _only_place(body: bytes, mark: bytes) -> int:
    place = body.index(mark)
    assert body.find(mark, place + 1) < 0, "a mark must not occur among the weights"
    return place


class Device:
    """The three requests that every device sends in a round, and how to read the answers."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        update = tuple(
            messages.FeatureMap(weight_fullname=name, data=(array * DATA_SIZE).reshape(-1))
            for name, array in weights.items()
        )
        self.check_in = Template(
            "/startFLJob",
            flat.encode(
                messages.RequestFLJob(
                    fl_name="bench",
                    fl_id=ID_MARK,
                    iteration=ROUND_MARK,
                    data_size=DATA_SIZE,
                    timestamp="0",
                )
            ),
        )
        self.update = Template(
            "/updateModel",
            flat.encode(
                messages.RequestUpdateModel(
                    fl_name="bench",
                    fl_id=ID_MARK,
                    iteration=ROUND_MARK,
                    feature_map=update,
                    timestamp="0",
                )
            ),
        )
        self.get_model = Template(
            "/getModel",
            flat.encode(
                messages.RequestGetModel(fl_name="bench", iteration=ROUND_MARK, timestamp="0")
            ),
        )


def weights_of(size: int, seed: int = 1) -> dict[str, Floats]:
    """A model of exactly `size` floats in five tensors of unequal sizes."""
    shares = {"embedding": 0.6, "hidden": 0.3, "output": 0.09, "scale": 0.009}
    sizes = {name: max(1, int(size * share)) for name, share in shares.items()}
    sizes["bias"] = size - sum(sizes.values())
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal(count, dtype=np.float32) * np.float32(0.1)
        for name, count in sizes.items()
    }


def retcode(body: bytes | memoryview) -> int:
    """The outcome in an answer of any kind, 0 when it is plain text: field 0 of the root table."""
    try:
        (table,) = struct.unpack_from("<I", body)
        (back,) = struct.unpack_from("<i", body, table)
        (slot,) = struct.unpack_from("<H", body, table - back + 4)
        return int(struct.unpack_from("<i", body, table + slot)[0]) if slot else 0
    except struct.error:
        return 0
