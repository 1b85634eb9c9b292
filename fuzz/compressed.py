"""Invariant: a compressed update is refused with a reason, or adds exactly what it decodes to.

An input is the body of an updateModel request in FlatBuffers.  Whatever its numbers say, what
was found in range stays within the bound of the sums, every kernel set adds the same, and that
is what the array that it decodes to would have added.  `engine.campaign` has the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from engine.campaign import main
from engine.target import GOLDEN, Broken, Target

from fl_cluster.compression.diff_sparse_quant import (
    decode,
    encode,
    find_unreadable,
    find_unusable,
    fold,
    is_in_range,
)
from fl_cluster.compression.quant import Chunk, dequantise
from fl_cluster.compression.sparse import Kept, choose
from fl_cluster.errors import PeerProtocolError
from fl_cluster.kernels import native, reference
from fl_cluster.kernels.native import Floats
from fl_cluster.wire import flat
from fl_cluster.wire.limits import MAX_DATA_SIZE
from fl_cluster.wire.messages import CompressFeatureMap, RequestUpdateModel

SIZES = (67, 1, 300)
NUMBERS = np.random.default_rng(1)
BASE = [NUMBERS.standard_normal(size).astype(np.float32) for size in SIZES]
RATES = (0.05, 0.4, 1.0)
BOUND = 2**51
MULTIPLIERS = (2.0**-20, 1.0, 2.0**30)
LARGEST = float(np.finfo(np.float32).max)
EXTREMES = (LARGEST, -LARGEST, 1e-40, float("inf"), float("-inf"), float("nan"))


def honest(rate: float) -> RequestUpdateModel:
    """What a device uploads at this rate."""
    products = [17 * (tensor + np.float32(0.01)) for tensor in BASE]
    chunks = encode(products, BASE, 17, choose(3, rate, SIZES))
    entries = tuple(
        CompressFeatureMap(f"w{at}", chunk.quants, chunk.minimum, chunk.maximum)
        for at, chunk in enumerate(chunks)
    )
    return flat.decode(RequestUpdateModel, captured())._replace(
        iteration=3, compress_feature_map=entries, upload_sparse_rate=rate
    )


def captured() -> bytes:
    return (GOLDEN / "dsq__c1__01_updateModel_req.bin").read_bytes()


def seeds() -> Iterator[bytes]:
    """What a published device uploaded, what one would of this model, and extreme limits."""
    yield captured()
    for rate in RATES:
        message = honest(rate)
        yield flat.encode(message)
        for minimum in EXTREMES:
            entries = [
                each._replace(min_val=minimum, max_val=max(minimum, each.max_val))
                for each in message.compress_feature_map or ()
            ]
            yield flat.encode(message._replace(compress_feature_map=tuple(entries)))


def check(data: bytes) -> None:
    try:
        sent = flat.decode(RequestUpdateModel, data)
    except PeerProtocolError:
        return
    entries = sent.compress_feature_map or ()
    if any(each.compress_data is None for each in entries):
        return
    chunks = [Chunk(each.compress_data, each.min_val, each.max_val) for each in entries]
    rate = min(RATES, key=lambda each: abs(each - sent.upload_sparse_rate))
    kept = choose(sent.iteration, rate, SIZES)
    unreadable = find_unusable(chunks, SIZES, rate) or find_unreadable(chunks, kept)
    if unreadable is not None:
        if not unreadable.reason:
            raise Broken("refused without a reason")
        return
    data_size = len(data) % MAX_DATA_SIZE + 1 if len(data) % 2 else MAX_DATA_SIZE
    for multiplier in MULTIPLIERS:
        add(chunks, kept, (data_size, multiplier))


def add(chunks: Sequence[Chunk], kept: Sequence[Kept], factors: tuple[int, float]) -> None:
    """Add what is in range to empty sums, in every way that there is, and compare."""
    for base, chunk, choice in zip(BASE, chunks, kept, strict=True):
        if chunk.quants.size:
            dequantise(chunk)
        if not is_in_range(chunk, float(np.abs(base).max()), factors, BOUND):
            continue
        sums = np.zeros(base.size, np.int64)
        fold(sums, base, chunk, choice, factors)
        largest = int(np.abs(sums).max())
        if largest > BOUND:
            raise Broken(f"{largest} was in range, the bound is {BOUND}")
        expected = np.zeros(base.size, np.int64)
        reference.fold(expected, decode(base, chunk, choice, factors[0]), factors[1])
        if expected.tobytes() != sums.tobytes():
            raise Broken("adds something else than it decodes to")
        compare_kernels(expected.tobytes(), base, chunk, (choice, *factors))


def compare_kernels(
    expected: bytes, base: Floats, chunk: Chunk, terms: tuple[Kept, int, float]
) -> None:
    choice, data_size, multiplier = terms
    has_values = chunk.quants.size > 0
    numbers = (
        chunk.minimum if has_values else 0.0,
        chunk.scale if has_values else 0.0,
        float(data_size),
        multiplier,
    )
    for name in native.available():
        sums = np.zeros(base.size, np.int64)
        native.kernel_set(name).fold_quantised(sums, base, choice.bits, chunk.quants, numbers)
        if sums.tobytes() != expected:
            raise Broken(f"the kernels of {name} add something else")


TARGET = Target(
    name="compressed",
    check=check,
    seeds=seeds,
    dictionary=tuple(np.float32(value).tobytes() for value in EXTREMES),
    is_native=True,
)

if __name__ == "__main__":
    sys.exit(main(TARGET))
