"""The job that is run under faults: its dimensions, its configuration, and what devices send.

An update is a function of device, round and base model alone, so whoever knows the set of
counted devices can compute the model that a round must end with, to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

NAME = "Chaos"
SHAPES: dict[str, tuple[int, ...]] = {
    "embedding": (40, 24),
    "head.weight": (16, 48),
    "hidden.bias": (48,),
    "hidden.weight": (48, 32),
    "norm.scale": (1,),
}
"""By name, in the order in which the cluster stores tensors."""

PLACES: dict[str, slice] = {}
for _name, _shape in SHAPES.items():
    _start = max((place.stop for place in PLACES.values()), default=0)
    PLACES[_name] = slice(_start, _start + math.prod(_shape))
SIZE = max(place.stop for place in PLACES.values())

LEFT_OUT = "hidden.bias"
"""Some devices do not send this tensor."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """How large the cluster is, and how patient."""

    servers: int = 3
    sdk_devices: int = 60
    raw_devices: int = 60
    cohort: int = 75
    """Less than two thirds of the devices: rounds go on while one server of three is gone."""
    ratio: float = 0.6
    """Some may be lost on the way: a FlatBuffers device whose check-in was admitted and not
    answered cannot come back into that round."""
    select_window_ms: int = 20_000
    report_window_ms: int = 20_000
    round_window_ms: int = 25_000
    rounds_total: int = 1_000_000
    lease_ms: int = 2_000
    redis_timeout_ms: int = 1_500
    metrics_file: str = "metrics.json"
    trust_s: float = 5.0
    """How long devices of the SDK believe that their update is still known."""

    def with_(self, **changes: object) -> Dimensions:
        """The same with some changes."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def devices(self) -> list[str]:
        """All device ids."""
        sdk = [f"sdk-{index:02d}" for index in range(self.sdk_devices)]
        return sdk + [f"raw-{index:02d}" for index in range(self.raw_devices)]

    def configuration(self, redis_address: str) -> str:
        """The job's file: JSON, which is YAML."""
        return json.dumps(
            {
                "fl_name": NAME,
                "fl_iteration_num": self.rounds_total,
                "server_mode": "FEDERATED_LEARNING",
                "enable_ssl": False,
                "distributed_cache": {"type": "redis", "address": redis_address},
                "round": {
                    "start_fl_job_threshold": self.cohort,
                    "start_fl_job_time_window": self.select_window_ms,
                    "update_model_ratio": self.ratio,
                    "update_model_time_window": self.report_window_ms,
                    "global_iteration_time_window": self.round_window_ms,
                },
                "summary": {
                    "metrics_file": self.metrics_file,
                    "failure_event_file": "event.txt",
                },
                "client": {"client_epoch_num": 1, "client_batch_size": 1},
                "cluster": {
                    "lease_ms": self.lease_ms,
                    "redis_timeout_ms": self.redis_timeout_ms,
                },
            },
            indent=2,
        )

    def write_configuration(self, path: Path, redis_address: str) -> None:
        """Write the job's file."""
        path.write_text(self.configuration(redis_address))


def digest(values: Floats) -> str:
    """SHA-256 of a model's bytes, hex."""
    return hashlib.sha256(values.tobytes()).hexdigest()


def initial_weights(seed: int) -> Floats:
    """The model that the job starts from."""
    source = np.random.default_rng(seed)
    return source.normal(0.0, 0.5, SIZE).astype(np.float32)


def arrays(values: Floats) -> dict[str, Floats]:
    """A flat model by name, in shapes."""
    return {name: values[place].reshape(SHAPES[name]) for name, place in PLACES.items()}


def flat(weights: Mapping[str, Floats]) -> Floats:
    """The inverse of `arrays`."""
    return np.concatenate([weights[name].reshape(-1) for name in PLACES]).astype(np.float32)


def data_size(device: str) -> int:
    """How many samples the device declares, 1 to 400."""
    return 1 + int.from_bytes(hashlib.sha256(device.encode()).digest()[:4]) % 400


def is_raw(device: str) -> bool:
    """Whether it speaks FlatBuffers and multiplies by its data size itself."""
    return device.startswith("raw-")


def sends(device: str, tensor: str) -> bool:
    """Whether the device's updates have this tensor."""
    return tensor != LEFT_OUT or not is_raw(device) or int(device[4:]) % 5 != 0


def trained(device: str, number: int, base: Floats) -> Floats:
    """The weights that the device has after its training in that round."""
    text = f"{device} {number} {digest(base)}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    step = np.random.default_rng(seed).normal(0.0, 0.01, SIZE).astype(np.float32)
    return base + step


def multiplied(device: str, weights: Floats) -> Floats:
    """What a device that multiplies by itself sends: single precision, as devices do it."""
    return weights * np.float32(data_size(device))
