"""What each way to protect or shrink updates costs: bytes per device, seconds, and accuracy.

Bytes are those of whole messages for a model of 420,000 floats, and of masked rounds those of
all steps together; accuracy and seconds are those of the digits example, whose job is the same
in every mode.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import masked_bytes
import numpy as np
from bodies import weights_of
from report import Row

from fl_cluster.compression.quant import quantise
from fl_cluster.sdk.protection import NOISE, PLAIN, SIGNS, Demand, Protector
from fl_cluster.wire import flat
from fl_cluster.wire.messages import (
    CompressFeatureMap,
    DPParams,
    DSParams,
    FeatureMap,
    RequestUpdateModel,
    ResponseGetModel,
)

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "digits" / "run.py"
FLOATS = 420_000
RESULT = re.compile(r"accuracy on held-out data: ([0-9.]+), trained in ([0-9.]+) s")
ROUNDS = 15
DEVICES = 20
STATED = {
    "plain": 0.95,
    "compressed": 0.95,
    "dp": 0.9,
    "signds": 0.93,
    "central_dp": 0.85,
    "pw": 0.95,
    "secure": 0.95,
}
"""What the example has to reach, also in the tests."""

NOISE_NUMBERS = DPParams(50.0, 0.01, 1.0)
SIGN_NUMBERS = DSParams(0.01, 100.0, 0.6, 0.1, 0)
DEMANDS: Mapping[str, Demand] = {
    "plain": Demand(PLAIN, DPParams(), DSParams(), None),
    "compressed": Demand(PLAIN, DPParams(), DSParams(), float(np.float32(0.4))),
    "dp": Demand(NOISE, NOISE_NUMBERS, DSParams(), None),
    "signds": Demand(SIGNS, DPParams(), SIGN_NUMBERS, None),
    "central_dp": Demand(PLAIN, DPParams(), DSParams(), None),
}


def rows(*, with_accuracy: bool = True) -> list[Row]:
    """One row per mode."""
    found = [_row(mode, demand, with_accuracy=with_accuracy) for mode, demand in DEMANDS.items()]
    return [*found, *_masked_rows(with_accuracy=with_accuracy)]


def _masked_rows(*, with_accuracy: bool) -> list[Row]:
    weights, count = weights_of(FLOATS), DEVICES if with_accuracy else 4
    model = tuple(FeatureMap(name, values) for name, values in weights.items())
    down = len(flat.encode(ResponseGetModel(feature_map=model)))
    found = []
    for mode, measure in (("pw", masked_bytes.pairs), ("secure", masked_bytes.ring)):
        traffic = measure(weights, count)
        found.append(_result(mode, traffic.up, down + traffic.down, with_accuracy=with_accuracy))
    return found


def _row(mode: str, demand: Demand, *, with_accuracy: bool) -> Row:
    base = weights_of(FLOATS)
    trained = {name: values + np.float32(0.01) * values for name, values in base.items()}
    fields = Protector().fields(demand, trained, base, data_size=32, number=1)
    fields.pop("plain_weights", None)
    up = len(flat.encode(RequestUpdateModel(fl_id="device", timestamp="0", **fields)))
    plain_down = tuple(FeatureMap(name, values) for name, values in base.items())
    down = len(flat.encode(ResponseGetModel(feature_map=plain_down)))
    if mode == "compressed":
        chunks = {name: quantise(values) for name, values in base.items()}
        small = tuple(
            CompressFeatureMap(name, chunk.quants, chunk.minimum, chunk.maximum)
            for name, chunk in chunks.items()
        )
        down = len(flat.encode(ResponseGetModel(compress_feature_map=small)))
    return _result(mode, up, down, with_accuracy=with_accuracy)


def _result(mode: str, up: int, down: int, *, with_accuracy: bool) -> Row:
    whole = 4 * FLOATS
    notes = (
        f"up {up:,} bytes (1/{whole / up:.1f}), down {down:,} (1/{whole / down:.1f}) for"
        f" {FLOATS:,} floats"
    )
    if not with_accuracy:
        return Row(f"an upload of the digits job, --mode {mode}", "bytes", [up], notes=notes)
    value, seconds = _accuracy(mode)
    notes += f"; {seconds / ROUNDS:.2f} s a round of {DEVICES} devices"
    return Row(f"accuracy of the digits job, --mode {mode}", "", [value], notes=notes)


def _accuracy(mode: str) -> tuple[float, float]:
    """The accuracy, and how long all rounds took."""
    with tempfile.TemporaryDirectory(prefix="fl-bench-") as folder:
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), "--mode", mode, "--folder", folder],
            capture_output=True,
            text=True,
            check=True,
        )
    found = RESULT.search(done.stdout)
    if found is None:
        raise SystemExit(f"the example said no accuracy:\n{done.stdout}")
    return float(found[1]), float(found[2])
