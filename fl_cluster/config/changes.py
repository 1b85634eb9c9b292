"""What an operator may change of the shared settings when a new run begins.

Nine of the settings, under the names that management clients know.  They are judged in a
fixed order and the first sentence is, word for word, the original's; whatever else is asked
is passed over, as there.
The original takes 0 for counts and windows, with which no round can end well; here it is
refused.  Devices are told the largest number of their field for one that does not fit into it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fl_cluster.config.masking import FAILS, MaskNumbers, why_impossible
from fl_cluster.config.rules import INT64_MAX, UINT32_MAX, single
from fl_cluster.config.schema import EncryptType
from fl_cluster.errors import ConfigError, Problem

UINT64_MAX = 2**64 - 1
FLOAT32_MAX = 3.4028234663852886e38

_WHERE = "in hyper param config should be"


@dataclass(frozen=True, slots=True)
class _Whole:
    """A count or a length of time in milliseconds."""

    name: str
    highest: int = UINT32_MAX

    def complaint(self, value: object) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= UINT64_MAX:
            return f"Field {self.name} {_WHERE} unsigned integer number"
        if value == 0:
            return f"Field {self.name} {_WHERE} larger than 0"
        if value > self.highest:
            return f"Field {self.name} {_WHERE} at most {self.highest}"
        return None

    def value(self, given: int) -> int:
        return given


@dataclass(frozen=True, slots=True)
class _Real:
    """A number above 0."""

    name: str

    def complaint(self, value: object) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"Field {self.name} {_WHERE} float or integer number"
        if not value > 0:
            return f"Field {self.name} {_WHERE} larger than 0"
        if value > FLOAT32_MAX:
            return f"Field {self.name} {_WHERE} at most {FLOAT32_MAX:g}"
        return None

    def value(self, given: float) -> float:
        return float(given)


CHANGEABLE = (
    _Whole("global_iteration_time_window"),
    _Whole("start_fl_job_threshold"),
    _Whole("start_fl_job_time_window"),
    _Real("update_model_ratio"),
    _Whole("update_model_time_window"),
    _Whole("client_epoch_num", INT64_MAX),
    _Whole("client_batch_size", INT64_MAX),
    _Real("client_learning_rate"),
    _Whole("fl_iteration_num"),
)
"""In the order in which they are judged."""

NAMES = tuple(field.name for field in CHANGEABLE)


def merge(current: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The shared settings with what was asked laid over them.

    ConfigError lists everything that is wrong, the original's first complaint first.
    """
    problems = [
        Problem(field.name, complaint)
        for field in CHANGEABLE
        if field.name in asked and (complaint := field.complaint(asked[field.name])) is not None
    ]
    if problems:
        raise ConfigError(tuple(problems))
    merged = dict(current)
    merged |= {
        field.name: field.value(asked[field.name]) for field in CHANGEABLE if field.name in asked
    }
    problems = list(_judge_whole(merged))
    if problems:
        raise ConfigError(tuple(problems))
    return merged


def _judge_whole(merged: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the numbers that are used in single precision, or together."""
    ratio, rate = single(merged["update_model_ratio"]), single(merged["client_learning_rate"])
    problems = []
    if not 0 < ratio <= 1:
        name = "update_model_ratio"
        problems.append(Problem(name, f"Field {name} {_WHERE} in range of (0,1.0]"))
    if not 0 < rate < math.inf:
        name = "client_learning_rate"
        problems.append(Problem(name, f"Field {name} {_WHERE} greater than 0"))
    if not problems and (why := _why_masks_stay(merged)) is not None:
        problems.append(Problem("start_fl_job_threshold", f"{FAILS} With these settings {why}"))
    return problems


def _why_masks_stay(merged: Mapping[str, Any]) -> str | None:
    """Why no sum of the new run could be read, in a job whose devices mask their updates."""
    if merged.get("encrypt_type") != EncryptType.PW_ENCRYPT:
        return None
    numbers = MaskNumbers(
        merged["start_fl_job_threshold"],
        merged["update_model_ratio"],
        merged["share_secrets_ratio"],
        merged["reconstruct_secrets_threshold"],
    )
    return why_impossible(numbers)
