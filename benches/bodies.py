"""Device requests as bytes, made once: FlatBuffers bodies with places to fill in per device.

A body is encoded for two devices, and cut where they differ: at the device's id and the round.
Every request is then the same buffers with two small ones in between, so that a thousand
devices with 20 MB each take 20 MB.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from load import Request

from fl_cluster.wire import flat, messages

Floats = npt.NDArray[np.float32]

DATA_SIZE = 32
ID_BYTES = 12


class Template:
    """One kind of request for any device and round.

    `make` encodes the body for a device and a round; where two bodies that agree in neither
    differ is where these stand.
    """

    def __init__(self, path: str, make: Callable[[str, int], bytes]) -> None:
        body = make("device-00000", 0x01010101)
        other = make("DEVICE_11111", 0x02020202)
        places = np.flatnonzero(np.frombuffer(body, "u1") != np.frombuffer(other, "u1"))
        gaps = np.flatnonzero(np.diff(places) > 1) + 1
        view = memoryview(body)
        head = f"POST {path} HTTP/1.1\r\nHost: cluster\r\nContent-Length: {len(body)}\r\n\r\n"
        self._parts: list[bytes | memoryview | None] = [head.encode()]
        """None where a device or a round number stands."""
        self._holes: list[int] = []
        start = 0
        for run in np.split(places, gaps):
            first, size = int(run[0]), len(run)
            assert size in (4, ID_BYTES), "two bodies differ in more than device and round"
            self._parts += [view[start:first], None]
            self._holes.append(size)
            start = first + size
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
            ID_BYTES: f"device-{device:05}".encode(),
            4: struct.pack("<i", round_number),
        }
        holes = iter(self._holes)
        parts = tuple(values[next(holes)] if part is None else part for part in self._parts)
        return Request(parts, server, keep)


class Device:
    """The three requests that every device sends in a round."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self._weights = tuple(
            messages.FeatureMap(weight_fullname=name, data=(array * DATA_SIZE).reshape(-1))
            for name, array in weights.items()
        )
        self.check_in = Template("/startFLJob", self._check_in)
        self.update = Template("/updateModel", self._update)
        self.get_model = Template("/getModel", self._get_model)

    def _check_in(self, device: str, round_number: int) -> bytes:
        return flat.encode(
            messages.RequestFLJob(
                fl_name="bench",
                fl_id=device,
                iteration=round_number,
                data_size=DATA_SIZE,
                timestamp="0",
            )
        )

    def _update(self, device: str, round_number: int) -> bytes:
        return flat.encode(
            messages.RequestUpdateModel(
                fl_name="bench",
                fl_id=device,
                iteration=round_number,
                feature_map=self._weights,
                timestamp="0",
            )
        )

    def _get_model(self, _: str, round_number: int) -> bytes:
        return flat.encode(
            messages.RequestGetModel(fl_name="bench", iteration=round_number, timestamp="0")
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
