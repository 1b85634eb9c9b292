"""Checks of what programs pass to a worker, in the words they have always been told.

Types are a matter of TypeError, values of ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl_cluster.worker.adaptive import Tuning

SYNC_TYPES = ["fixed", "adaptive"]


def check_positive_int(value: object) -> int:
    """The value, if it is an int above 0."""
    number = _int(value)
    if number <= 0:
        raise ValueError(_not_above(value, "int", "> 0"))
    return number


def check_non_negative_int(value: object) -> int:
    """The value, if it is an int and not negative."""
    number = _int(value)
    if number < 0:
        raise ValueError(_not_above(value, "int", ">= 0"))
    return number


def check_non_negative_float(value: object) -> float:
    """The value, if it is a float and not negative."""
    number = _float(value)
    if not number >= 0.0:
        raise ValueError(_not_above(value, "float", ">= 0.0"))
    return number


def check_open_unit_interval(value: object) -> float:
    """The value, if it is a float between 0 and 1, neither of them included."""
    number = _float(value)
    if not 0.0 < number < 1.0:
        raise ValueError(
            f"The input value must be in range of (0.0, 1.0), but got {value} with type"
            f" '{type(value).__name__}'."
        )
    return number


def check_sync_type(value: object) -> str:
    """The value, if it is one of the two."""
    if not isinstance(value, str) or value not in SYNC_TYPES:
        raise ValueError(
            f"The 'parameter' must be str and must be in '{SYNC_TYPES}', but got '{value}'."
        )
    return value


def check_tuning(arguments: Mapping[str, Any]) -> Tuning:
    """The constants of the adaptive rule, defaults where an argument is missing."""
    usual = Tuning()
    checks = {
        "min_consistent_rate": check_non_negative_float,
        "min_consistent_rate_at_round": check_non_negative_int,
        "ema_alpha": check_open_unit_interval,
        "observation_window_size": check_positive_int,
        "frequency_increase_ratio": check_positive_int,
        "unchanged_round": check_non_negative_int,
    }
    values: dict[str, Any] = {
        name: check(arguments.get(name, getattr(usual, name))) for name, check in checks.items()
    }
    return Tuning(**values)


def _not_above(value: object, kind: str, bound: str) -> str:
    return (
        f"The input value must be {kind} and must {bound}, but got '{value}' with type"
        f" '{type(value).__name__}'."
    )


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"The input value must be int, but got '{type(value).__name__}'")
    return value


def _float(value: object) -> float:
    if not isinstance(value, float):
        raise TypeError(f"The input value must be float, but got '{type(value).__name__}'")
    return value
