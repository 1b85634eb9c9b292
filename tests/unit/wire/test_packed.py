"""A device can import the msgpack codec alone, and its messages take no more than they must."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import packed
from fl_cluster.wire.messages import FeatureMap, RequestUpdateModel, ResponseGetModel

REPORT = """
import sys
import fl_cluster.wire.messages
import fl_cluster.wire.packed
heavy = {"flatbuffers", "redis", "aiohttp", "yaml", "cryptography", "fl_cluster._wire"}
print(sorted(heavy & set(sys.modules)))
"""


def test_a_device_imports_the_codec_without_the_server() -> None:
    command = [sys.executable, "-c", REPORT]

    process = subprocess.run(command, check=True, capture_output=True, text=True)

    assert process.stdout == "[]\n"


def test_a_large_reply_takes_its_size_once() -> None:
    tensors = tuple(FeatureMap(f"w{i}", np.zeros(500_000, np.float32)) for i in range(5))
    answer = ResponseGetModel(200, feature_map=tensors)
    tracemalloc.start()

    body = packed.encode(answer)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(body) > 10_000_000
    assert peak < len(body) + 1_500_000  # the packer of the library reserves up to 1 MiB


def test_a_large_body_is_read_without_a_copy() -> None:
    body = packed.encode(RequestUpdateModel(feature_map=(FeatureMap("w", np.zeros(10**6, "f4")),)))
    tracemalloc.start()

    packed.decode(RequestUpdateModel, body)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000  # of a body of 4 MB


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x81\xa5later" + b"\x91" * 1_000_000,
        b"\x81\xa5later\xdd\x00\x0f\x42\x40" + b"\x80" * 1_000_000,
        b"\x81\xa8name_vec\xdd\xff\xff\xff\xff" + b"\xa1x" * 100_000,
        b"\x81\xabfeature_map\xdc\xff\xff" + b"\x80" * 50_000,
        b"\x81\xabfeature_map\xdc\xff\xff" + b"\x81\xa5shape\xdc\xff\xff" * 100_000,
    ],
    ids=["nesting", "empty maps", "endless texts", "empty tensors", "endless shapes"],
)
def test_a_body_gets_no_more_memory_than_a_few_times_its_size(bomb: bytes) -> None:
    tracemalloc.start()

    with pytest.raises(PeerProtocolError):
        packed.decode(RequestUpdateModel, bomb + b"\xc1")

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The list of a field has at most 65,536 items of some 80 bytes each.
    assert peak < 8 * len(bomb) + 6_000_000
