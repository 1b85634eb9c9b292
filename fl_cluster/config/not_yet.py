"""Features whose keys are known and checked, but which this version does not have.

A value that would switch one on is refused, never ignored: a job that believes it is
encrypted must not run in the clear.
Whoever builds a feature deletes its rows here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fl_cluster.config.rules import Value
from fl_cluster.config.tables import Values


@dataclass(frozen=True, slots=True)
class Missing:
    """One value of one key, and the feature it asks for."""

    key: str
    value: str
    """The value as it is written."""
    feature: str
    instead: str
    """What to write until the feature is there."""

    def asks(self, value: Value | None) -> bool:
        """Whether `value` is the one that asks for the feature."""
        return _shown(value) == self.value


def _shown(value: Value | None) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


ENCRYPT = "encrypt.encrypt_type"

MISSING = (
    Missing(ENCRYPT, "PW_ENCRYPT", "secure aggregation", "NOT_ENCRYPT"),
    Missing(ENCRYPT, "STABLE_PW_ENCRYPT", "secure aggregation", "NOT_ENCRYPT"),
)


def missing_feature(key: str, value: Value | None) -> Missing | None:
    """The feature that this value of the key asks for and that is not there yet."""
    return next((row for row in MISSING if row.key == key and row.asks(value)), None)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is said about one value that asks for a missing feature."""

    key: str
    sentence: str


def missing_features(values: Values) -> Iterator[Refusal]:
    """A refusal for each value that asks for what is not there yet."""
    for row in MISSING:
        value = values.get(row.key)
        if value is None or not row.asks(value):
            continue
        shown = _shown(value)
        sentence = (
            f"The value {shown} of parameter '{row.key}' asks for {row.feature}, "
            f"which this version does not have yet; set it to {row.instead}"
        )
        yield Refusal(row.key, sentence)
